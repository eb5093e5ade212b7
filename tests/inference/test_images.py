import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference import images
from emotion.inference.images import find_media, is_video, read_image
from emotion.inference.video import VideoFile


@pytest.fixture
def small() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_a_picture_is_the_same_however_it_is_given(small: NDArray[np.uint8], tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(small).save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    transparent = np.dstack([small, np.zeros((4, 6), np.uint8)])
    content = path.read_bytes()
    files = (content, bytearray(content), memoryview(content), io.BytesIO(content), path.open("rb"))
    for given in (path, str(path), "~/picture.png", *files, Image.open(path), small, transparent):
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
def test_arrays_however_they_lie_in_memory(view: str, small: NDArray[np.uint8]) -> None:
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


# The quarter of a picture that is white, clockwise from the upper left: where a camera stores it, by orientation.
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
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array) -> None:
    with pytest.raises(BadImageError, match="array"):
        read_image(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_refused_in_a_sentence(kind: str, small: NDArray[np.uint8], tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (40, 40, 1))).save(file, kind)
    path = tmp_path / "half"
    for size in (0, 10, 100, len(file.getvalue()) // 2):
        path.write_bytes(file.getvalue()[:size])
        with pytest.raises(BadImageError) as error:
            read_image(path)
        assert str(error.value) == f"{path}: not an image that can be read"


def test_damaged_pil_images_too(small: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (40, 40, 1))).save(file, "PNG")
    half, closed = Image.open(io.BytesIO(file.getvalue()[:200])), Image.open(file)
    closed.close()
    for image in (half, closed):
        with pytest.raises(BadImageError, match=r"^image: not an image that can be read$"):
            read_image(image)
    with pytest.raises(BadImageError, match=r"^image: 0 x 5: no pixels$"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(BadImageError, match=r"^image: pixels are floating-point"):
        read_image(Image.new("F", (2, 2)))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header promises a picture of this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 50_000])
def test_small_files_that_claim_to_be_huge_are_not_decoded(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claiming(side, side))
    for given, name in ((path, path), (path.read_bytes(), "image")):
        # Decoded first, it would be found damaged.
        with pytest.raises(BadImageError, match="more than 51,000,000") as error:
            read_image(given)
        assert str(error.value).startswith(f"{name}: ")


def test_texts_are_no_pictures(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    for content in ("a shopping list\n" * 9, "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"):
        path.write_text(content)
        for given, name in ((path, path), (str(path), path), (path.read_bytes(), "image")):
            with pytest.raises(BadImageError) as error:
                read_image(given)
            assert str(error.value) == f"{name}: not an image that can be read"


def test_what_is_not_there_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(BadImageError, match="not an image"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImageError, match=r"pipe\.png: not an image but a folder, pipe or device"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: no files, only folders, pipes or devices"):
        find_media([tmp_path / "pipe.png"])
    for odd in ("~nobody-of-this-name/x.png", "x" * 300, "x\0y"):
        with pytest.raises(BadImageError):
            read_image(odd)


def test_files_folders_and_patterns_name_files_once_and_in_order(tmp_path: Path) -> None:
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
    assert find_media([tmp_path / "deep/notes.txt"]) == [tmp_path / "deep/notes.txt"]  # named, so it is tried
    assert is_video(Path("x.MP4"))
    assert not is_video(Path("x.jpg"))


def test_words_that_name_nothing(tmp_path: Path) -> None:
    for word, part in (("nothing.png", "no such file"), ("*.none", "no such file"), (tmp_path, "no images or videos")):
        with pytest.raises(UserError, match=part):
            find_media([word])


@pytest.mark.parametrize("word", ["~nobody-of-this-name/x.png", "x" * 300, "x\0y"])
def test_words_that_the_system_does_not_like(word: str) -> None:
    with pytest.raises(UserError) as error:
        find_media([word])
    assert "\n" not in str(error.value)
    assert word[:20] in str(error.value)


def test_the_home_folder_and_the_order_of_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.png", "folder/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["~/folder", "~/b.png", "~/[ab].png"]
    assert find_media(words) == [tmp_path / name for name in ("folder/c.png", "b.png", "a.png")]
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
    """Of a library that this one does not know."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "NoneType is not a picture: a path, "),
        (3.5, "float is not a picture"),
        ([np.zeros((4, 4), np.uint8)], r"list is not a picture: .*; several go to predict_many$"),
        (Frame(), r"test_images\.Frame is not a picture"),
        (io.StringIO("text"), "a file opened as text; open it with mode 'rb'"),
    ],
)
def test_what_is_no_picture_is_told_by_its_type(given, told: str) -> None:
    with pytest.raises(BadImageError, match=f"^image: {told}"):
        read_image(given)


def test_what_keeps_a_file_from_being_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoFile(tmp_path / "film.mp4", 10) as file:
        file.write(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(BadImageError, match=r"film\.mp4: a video, not an image$"):
        read_image(tmp_path / "film.mp4")
    with pytest.raises(BadImageError, match="File name too long"):
        read_image("x" * 300)

    def refuse(*given, **options) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # for the administrator all files are open
    with pytest.raises(BadImageError, match=r"film\.mp4: Permission denied$"):
        read_image(tmp_path / "film.mp4")


def heic(orientation: int = 1) -> bytes:
    """A photograph that is red above and blue below, once upright."""
    heif = pytest.importorskip("pillow_heif", reason="HEIC is read with it")
    heif.register_heif_opener()
    picture = Image.new("RGB", (64, 96), "red")
    picture.paste("blue", (0, 48, 64, 96))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (picture.rotate(90, expand=True) if orientation == 6 else picture).save(file, "HEIF", exif=exif.tobytes())
    return file.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_photographs_of_iphones(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "a.HEIC").write_bytes(heic(orientation))
    for given in (tmp_path / "a.HEIC", heic(orientation)):
        read = read_image(given)
        assert read.shape == (96, 64, 3)
        assert read[:40].mean((0, 1)) == pytest.approx([254, 0, 0], abs=8)
        assert read[56:].mean((0, 1)) == pytest.approx([0, 0, 254], abs=8)
    assert find_media([tmp_path]) == [tmp_path / "a.HEIC"]


def test_without_their_reader_photographs_of_iphones_say_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(images, "IMAGES", images.IMAGES - {*images.HEIF})
    path = tmp_path / "b.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(
        BadImageError, match=r"b\.HEIC: an image in HEIC needs the package pillow_heif: pip install 'emotion\[heic\]'$"
    ):
        read_image(path)
    with pytest.raises(
        UserError, match=r"no images or videos in this folder, but 1 file of kinds .*: b\.HEIC; HEIC needs pip inst"
    ):
        find_media([tmp_path])


HIDDEN = [".Trashes/a.jpg", "._a.jpg", ".thumbnails/a.png", "@eaDir/a.jpg/THUMB_M.jpg", "__MACOSX/a.jpg", "Thumbs.db"]
HIDDEN += ["$RECYCLE.BIN/a.jpg", "deep/.ipynb_checkpoints/a.png", "System Volume Information/a.mp4", "desktop.ini"]


def test_what_systems_put_into_folders_is_no_media(tmp_path: Path) -> None:
    for name in (*HIDDEN, "deep/b.png", "__mine.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    told: list[str] = []
    expected = [tmp_path / "__mine.png", tmp_path / "deep/b.png"]
    assert find_media([tmp_path], tell=told.append) == expected
    assert find_media([f"{tmp_path}/**/*"]) == expected
    assert told == []
    named = [tmp_path / ".Trashes", tmp_path / "._a.jpg", f"{tmp_path}/@eaDir/*/*.jpg"]
    assert find_media(named) == [tmp_path / HIDDEN[0], tmp_path / HIDDEN[1], tmp_path / HIDDEN[3]]


def test_files_of_other_kinds_are_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.raw", "c.json", "d.json", "README", "app.ts"):
        (tmp_path / name).write_text("const x = 1;\n" * 100)
    told: list[str] = []
    assert find_media([tmp_path], tell=told.append) == [tmp_path / "a.jpg"]
    kinds = "README, app.ts, b.raw, 2 .json (such as c.json)"
    assert told == [f"{tmp_path}: left out 5 files of kinds that cannot be read: {kinds}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="for the administrator all folders are open")
def test_folders_that_are_closed_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "closed").mkdir(mode=0)
    told: list[str] = []
    find_media([tmp_path], tell=told.append)
    assert told == [f"{tmp_path / 'closed'}: Permission denied, so what is in it is left out"]
