import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawn_films import draw_film
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference import images
from emotion.inference.images import find_media, is_video, read_image


@pytest.fixture
def small() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_every_input_type_gives_the_same_pixels(small: NDArray[np.uint8], tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(small).save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    transparent = np.dstack([small, np.zeros((4, 6), np.uint8)])
    content = path.read_bytes()
    files = (content, bytearray(content), memoryview(content), io.BytesIO(content), path.open("rb"))
    for given in (path, str(path), "~/image.png", *files, Image.open(path), small, transparent):
        assert np.array_equal(read_image(given), small)


def test_grey_is_repeated(small: NDArray[np.uint8]) -> None:
    grey = small[..., 0]
    for given in (grey, grey[..., np.newaxis], Image.fromarray(grey)):
        read = read_image(given)
        assert read.flags.c_contiguous
        assert np.array_equal(read, np.dstack([grey] * 3))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16"]
)
def test_pil_images_of_every_mode(mode: str, small: NDArray[np.uint8]) -> None:
    tones = Image.fromarray(small)
    images = {
        "I;16": Image.fromarray(small[..., 0].astype(np.uint16) * 257),
        "LAB": Image.frombytes("LAB", tones.size, tones.tobytes()),
        "PA": Image.frombytes("PA", tones.size, small[..., :2].tobytes()),
    }
    image = images[mode] if mode in images else tones.convert(mode)
    expected = Image.fromarray(small[..., 0]) if mode == "I;16" else image
    assert np.array_equal(read_image(image), np.asarray(expected.convert("RGB")))
    assert image.mode == mode


@pytest.mark.parametrize("view", ["mirrored", "every second", "Fortran", "not writable", "planes last"])
def test_arrays_of_every_memory_layout(view: str, small: NDArray[np.uint8]) -> None:
    given = {
        "mirrored": small[:, ::-1],
        "every second": small[::2, ::2],
        "Fortran": np.asfortranarray(small),
        "not writable": np.broadcast_to(small[:1], small.shape),
        "planes last": np.ascontiguousarray(small.transpose(2, 0, 1)).transpose(1, 2, 0),
    }[view]
    read = read_image(given)
    assert read.flags.c_contiguous
    assert read.tolist() == given.tolist()


# The quarter of the stored image that is white, clockwise from the upper left, by EXIF orientation.
STORED = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 3, 7: 2, 8: 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    stored = np.zeros((32, 64) if orientation < 5 else (64, 32), np.uint8)
    rows, columns = (length // 2 for length in stored.shape)
    top, left = {0: (0, 0), 1: (0, columns), 2: (rows, columns), 3: (rows, 0)}[STORED[orientation]]
    stored[top : top + rows, left : left + columns] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photograph.jpg"
    Image.fromarray(stored).save(path, quality=95, exif=exif)
    for given in (path, path.read_bytes(), Image.open(path)):
        read = read_image(given)
        assert read.shape == (32, 64, 3)
        assert read[:16, :32].min() > 240
        assert max(read[16:].max(), read[:, 32:].max()) < 15


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4), 1.01),
        np.full((4, 4), -0.01, np.float32),
        np.full((4, 4), np.nan),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array) -> None:
    with pytest.raises(BadImageError, match=rf"^array {array.dtype} \[{array.shape[0]}.*: .*"):
        read_image(array)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_tones(kind) -> None:
    tones = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_image((tones / 255).astype(kind))[..., 1], tones)


def test_arrays_of_opencv_are_turned_to_rgb() -> None:
    blue = np.zeros((2, 2, 4), np.uint8)
    blue[..., 0], blue[..., 3] = 200, 9
    assert read_image(blue, bgr=True)[0, 0].tolist() == [0, 0, 200]
    assert read_image(blue[..., :3], bgr=True)[0, 0].tolist() == [0, 0, 200]
    assert read_image(blue[..., 0], bgr=True)[0, 0].tolist() == [200, 200, 200]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_refused_with_a_message(kind: str, small: NDArray[np.uint8], tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (40, 40, 1))).save(file, kind)
    path = tmp_path / "half"
    half = "not an image that can be read" if kind == "WEBP" else "cut off: the end of the file is missing"
    unknown = "not an image that can be read"
    reasons = {0: "an empty file", 10: unknown, 100: half if kind == "PNG" else unknown}
    for size, reason in (reasons | {len(file.getvalue()) // 2: half}).items():
        path.write_bytes(file.getvalue()[:size])
        with pytest.raises(BadImageError) as error:
            read_image(path)
        assert str(error.value) == f"{path}: {reason}"


def test_damaged_pil_images_are_refused(small: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (40, 40, 1))).save(file, "PNG")
    half, closed = Image.open(io.BytesIO(file.getvalue()[:200])), Image.open(file)
    closed.close()
    for image, reason in ((half, "cut off: the end of the file is missing"), (closed, "not an image that can be read")):
        with pytest.raises(BadImageError, match=f"^image: {reason}$"):
            read_image(image)
    with pytest.raises(BadImageError, match=r"^image: 0 x 5: no pixels$"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(BadImageError, match=r"^image: pixels are floating-point"):
        read_image(Image.new("F", (2, 2)))


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG of about a hundred bytes whose header states this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 50_000])
def test_small_files_that_state_a_huge_size_are_not_decoded(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    for given, name in ((path, path), (path.read_bytes(), "image")):
        # A decoder would call the file damaged instead.
        with pytest.raises(BadImageError, match=r"more than 51,000,000 .*the limit\)$") as error:
            read_image(given)
        assert str(error.value).startswith(f"{name}: ")


def test_texts_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    for content in ("a shopping list\n" * 9, "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"):
        path.write_text(content)
        for given, name in ((path, path), (str(path), path), (path.read_bytes(), "image")):
            with pytest.raises(BadImageError) as error:
                read_image(given)
            assert str(error.value) == f"{name}: not an image that can be read"


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(BadImageError, match="not an image"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImageError, match=r"pipe\.png: not an image but a folder, pipe or device"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: no files, only folders, pipes or devices"):
        find_media([tmp_path / "pipe.png"])
    for path in ("~nobody-of-this-name/x.png", "x" * 300, "x\0y"):
        with pytest.raises(BadImageError):
            read_image(path)


def test_files_folders_and_patterns_give_each_file_once_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/film.mp4", "deep/notes.txt", "odd[1] name.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.JPG", "b.png", "deep/er/c.webp", "deep/film.mp4", "odd[1] name.png"]
    assert find_media([tmp_path]) == [tmp_path / name for name in names]
    assert find_media([tmp_path / "b.png", tmp_path, tmp_path / "b.png"])[0] == tmp_path / "b.png"
    assert len(find_media([tmp_path / "b.png", tmp_path])) == 5
    assert find_media([tmp_path / "odd[1] name.png"]) == [tmp_path / "odd[1] name.png"]
    assert find_media([f"{tmp_path}/*.png"]) == [tmp_path / "b.png", tmp_path / "odd[1] name.png"]
    assert find_media([f"{tmp_path}/**/*.webp"]) == [tmp_path / "deep/er/c.webp"]
    assert find_media([tmp_path / "deep/notes.txt"]) == [tmp_path / "deep/notes.txt"]  # not from a folder
    assert is_video(Path("x.MP4"))
    assert not is_video(Path("x.jpg"))


def test_arguments_that_match_no_file(tmp_path: Path) -> None:
    for argument, part in (
        ("nothing.png", "no such file"),
        ("*.none", "no file matches this pattern"),
        (tmp_path, "no images or videos"),
    ):
        with pytest.raises(UserError, match=part):
            find_media([argument])


@pytest.mark.parametrize("argument", ["~nobody-of-this-name/x.png", "x" * 300, "x\0y"])
def test_invalid_paths_get_one_line(argument: str) -> None:
    with pytest.raises(UserError) as error:
        find_media([argument])
    assert "\n" not in str(error.value)
    assert argument[:20] in str(error.value)


@pytest.mark.parametrize("argument", ["", " "])
def test_an_empty_path_is_not_the_current_folder(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^an empty path; name images, videos or folders$"):
        find_media([argument])


def test_the_home_folder_and_the_order_of_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.png", "folder/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["~/folder", "~/b.png", "~/[ab].png"]
    assert find_media(arguments) == [tmp_path / name for name in ("folder/c.png", "b.png", "a.png")]
    assert find_media([]) == []


def test_folders_are_not_files(tmp_path: Path) -> None:
    (tmp_path / "album.png" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\*\.png: no files, only folders"):
        find_media([f"{tmp_path}/*.png"])
    with pytest.raises(UserError, match="no images or videos in this folder"):
        find_media([tmp_path])
    (tmp_path / "one.png").touch()
    assert find_media([f"{tmp_path}/*.png"]) == [tmp_path / "one.png"]


class Frame:
    """A type of another library."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType is not an image: a path, .*; cv2.imread returns None for a file that it cannot read$"),
        (3.5, "float is not an image"),
        ([np.zeros((4, 4), np.uint8)], "list is not an image: a path, "),
        (Frame(), r"test_images\.Frame is not an image"),
        (io.StringIO("text"), "a file opened as text; open it with mode 'rb'"),
    ],
)
def test_other_types_are_refused_by_name(given, message: str) -> None:
    with pytest.raises(BadImageError, match=f"^image: {message}"):
        read_image(given)


def test_an_open_file_can_be_read_again(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert read_image(file).shape == read_image(file).shape == (2, 3, 3)
    with (tmp_path / "a.png").open() as text, pytest.raises(BadImageError, match="open it with mode 'rb'"):
        read_image(text)


def test_the_message_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_film(tmp_path / "film.mp4", 1)
    with pytest.raises(BadImageError, match=r"film\.mp4: a video, not an image$"):
        read_image(tmp_path / "film.mp4")
    with pytest.raises(BadImageError, match="File name too long"):
        read_image("x" * 300)

    def refuse(*given, **options) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # patched, since root can open every file
    with pytest.raises(BadImageError, match=r"film\.mp4: Permission denied$"):
        read_image(tmp_path / "film.mp4")


def heic(orientation: int = 1) -> bytes:
    """Returns a HEIC photograph that is red above and blue below when upright."""
    heif = pytest.importorskip("pillow_heif", reason="HEIC is read with it")
    heif.register_heif_opener()
    image = Image.new("RGB", (64, 96), "red")
    image.paste("blue", (0, 48, 64, 96))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (image.rotate(90, expand=True) if orientation == 6 else image).save(file, "HEIF", exif=exif.tobytes())
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_photographs(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(heic(orientation))
    for given in (tmp_path / "a.HEIC", heic(orientation)):
        read = read_image(given)
        assert read.shape == (96, 64, 3)
        assert read[:40].mean((0, 1)) == pytest.approx([254, 0, 0], abs=8)
        assert read[56:].mean((0, 1)) == pytest.approx([0, 0, 254], abs=8)
    assert find_media([tmp_path]) == [tmp_path / "a.HEIC"]


def test_heic_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(images, "IMAGES", images.IMAGES - {*images.HEIF})
    path = tmp_path / "b.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(
        BadImageError, match=r"b\.HEIC: an image in HEIC needs the package pillow_heif: pip install 'emotion\[heic\]'$"
    ):
        read_image(path)
    with pytest.raises(
        UserError,
        match=r"no images or videos in this folder, but 1 file of unreadable formats: b\.HEIC; HEIC needs pip",
    ):
        find_media([tmp_path])


HIDDEN = [".Trashes/a.jpg", "._a.jpg", ".thumbnails/a.png", "@eaDir/a.jpg/THUMB_M.jpg", "__MACOSX/a.jpg", "Thumbs.db"]
HIDDEN += ["$RECYCLE.BIN/a.jpg", "deep/.ipynb_checkpoints/a.png", "System Volume Information/a.mp4", "desktop.ini"]


def test_hidden_and_system_files_are_skipped(tmp_path: Path) -> None:
    for name in (*HIDDEN, "deep/b.png", "__mine.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    notes: list[str] = []
    expected = [tmp_path / "__mine.png", tmp_path / "deep/b.png"]
    assert find_media([tmp_path], on_note=notes.append) == expected
    assert find_media([f"{tmp_path}/**/*"]) == expected
    assert notes == []
    named = [tmp_path / ".Trashes", tmp_path / "._a.jpg", f"{tmp_path}/@eaDir/*/*.jpg"]
    assert find_media(named) == [tmp_path / HIDDEN[0], tmp_path / HIDDEN[1], tmp_path / HIDDEN[3]]


def test_files_of_other_formats_are_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.raw", "c.json", "d.json", "README", "app.ts"):
        (tmp_path / name).write_text("const x = 1;\n" * 100)
    notes: list[str] = []
    assert find_media([tmp_path], on_note=notes.append) == [tmp_path / "a.jpg"]
    names = "README, app.ts, b.raw, 2 .json (such as c.json)"
    assert notes == [f"{tmp_path}: skipped 5 files of unreadable formats: {names}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_unreadable_folders_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "closed").mkdir(mode=0)
    notes: list[str] = []
    find_media([tmp_path], on_note=notes.append)
    assert notes == [f"{tmp_path / 'closed'}: Permission denied; the files in this folder are skipped"]
