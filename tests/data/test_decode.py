import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

from emotion.data import decode
from emotion.data.decode import FORMATS, MAX_PIXELS, BadImageError, open_image, upright


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_every_mode_becomes_eight_bits(mode: str, wanted: str) -> None:
    pixels = upright(Image.new(mode, (5, 3)), wanted)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((3, 5) if wanted == "L" else (3, 5, 3))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32_896, 65_405, 65_535]], np.uint16))
    assert np.asarray(upright(deep, "L")).tolist() == [[0, 1, 128, 254, 255]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_tones_of_fewer_bits_than_their_file_has(bits: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "TILE", 3)  # all tiles of an image are scaled alike
    tones = np.linspace(0, 2**bits - 1, 12).round().reshape(3, 4)
    file = io.BytesIO()
    Image.fromarray(tones.astype(kind)).save(file, "TIFF")
    expected = np.round(tones * 255 / (2**bits - 1))
    assert upright(Image.open(file), "L").tolist() == expected.tolist()
    assert upright(Image.open(file), "RGB")[..., 1].tolist() == expected.tolist()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_sixteen_bits_of_every_kind(mode: str) -> None:
    deep = Image.new(mode, (2, 1), 40_000)
    assert np.asarray(upright(deep, "L")).tolist() == [[156, 156]]
    assert np.asarray(upright(deep, "RGB")).tolist() == [[[156] * 3] * 2]


def test_ink_bits_and_transparency() -> None:
    assert np.asarray(upright(Image.new("1", (1, 1), 1), "L")).item() == 255
    ink = upright(Image.new("CMYK", (1, 1), (51, 102, 153, 0)), "RGB")
    assert np.asarray(ink)[0, 0].tolist() == [204, 153, 102]
    assert np.asarray(upright(Image.new("LA", (1, 1), (70, 0)), "L")).item() == 70
    assert np.asarray(upright(Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "RGB"))[0, 0].tolist() == [9, 8, 7]


def palette_image() -> tuple[np.ndarray, np.ndarray, Image.Image]:
    random = np.random.default_rng(0)
    colours, pixels = random.integers(0, 256, (256, 3), np.uint8), random.integers(0, 256, (20, 30), np.uint8)
    paletted = Image.fromarray(pixels, "L")
    paletted.putpalette(colours.tobytes())
    return colours, pixels, paletted


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255])])
def test_colours_of_a_palette_without_warnings(transparency) -> None:
    colours, pixels, paletted = palette_image()
    file = io.BytesIO()
    paletted.save(file, "PNG", **({} if transparency is None else {"transparency": transparency}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for opened in (Image.open(file), paletted):
            assert np.array_equal(np.asarray(upright(opened, "RGB")), colours[pixels])
        grey = np.asarray(upright(Image.open(file), "L")).astype(float)
    assert np.abs(grey - colours[pixels] @ [0.299, 0.587, 0.114]).max() <= 0.51


@pytest.mark.parametrize("tones", [[0, 65_536], [-1, 5]])
def test_integers_of_unknown_range_are_refused(tones: list[int]) -> None:
    with pytest.raises(BadImageError, match=f"pixels from {tones[0]} to {tones[1]} are of unknown range"):
        upright(Image.fromarray(np.array([tones], np.int32)), "L")


def test_floating_point_tones_are_refused() -> None:
    with pytest.raises(BadImageError, match="floating-point"):
        upright(Image.new("F", (2, 2)), "L")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])  # PIL itself turns a TIFF upright when it decodes it
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(orientation: int, kind: str) -> None:
    upright_pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # The pixels that a camera stores for this image under each orientation.
    stored = {
        1: upright_pixels,
        2: np.fliplr(upright_pixels),
        3: np.rot90(upright_pixels, 2),
        4: np.flipud(upright_pixels),
        5: upright_pixels.T,
        6: np.rot90(upright_pixels),
        7: np.rot90(upright_pixels, 2).T,
        8: np.rot90(upright_pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(file, kind, exif=exif)
    assert np.asarray(upright(Image.open(file), "L")).tolist() == upright_pixels.tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_in_xmp_is_not_followed(kind: str) -> None:
    """Tools that turn a photograph upright and remove its EXIF leave XMP as it was; browsers do not follow it."""
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    file = io.BytesIO()
    Image.new("L", (64, 32)).save(file, kind, **({"pnginfo": texts} if kind == "PNG" else {"xmp": xmp.encode()}))
    image = Image.open(file)
    assert image.getexif().get(0x0112) == 6  # what PIL says
    assert upright(Image.open(file), "L").shape == (32, 64)


def with_exif(content: bytes) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(file, "PNG", exif=content)
    return Image.open(file)


def exif() -> bytes:
    exif_data = Image.Exif()
    exif_data[0x0112] = 6
    exif_data[0x010F] = "maker"
    exif_data[0x8769] = {0x9000: b"0230", 0x829A: (1, 30)}
    return exif_data.tobytes()


def test_damaged_exif_does_not_reject_an_image() -> None:
    random, good = np.random.default_rng(0), exif()
    sizes = set()
    for _ in range(1500):
        damaged = bytearray(good)
        for position in random.integers(6, len(good), 2):
            damaged[position] = random.integers(0, 256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about damaged EXIF
            sizes.add(upright(with_exif(bytes(damaged)), "L").shape)
    assert sizes == {(3, 2), (2, 3)}


def test_exif_that_is_no_hexadecimal_text() -> None:
    texts = PngInfo()
    texts.add_text("Raw profile type exif", "\nexif\n 9\nno digits")
    file = io.BytesIO()
    Image.new("L", (3, 2)).save(file, "PNG", pnginfo=texts)
    assert upright(Image.open(file), "L").shape == (2, 3)


def test_orientation_is_read_although_other_entries_are_damaged() -> None:
    damaged = exif().replace(bytes.fromhex("010f0002"), bytes.fromhex("010f000b"))  # the maker as a number
    assert damaged != exif()
    assert upright(with_exif(damaged), "L").shape == (3, 2)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_orientations_that_do_not_exist_are_left_alone(orientation: int) -> None:
    exif_data = Image.Exif()
    exif_data[0x0112] = orientation
    assert upright(with_exif(exif_data.tobytes()), "L").shape == (2, 3)


def test_input_is_not_changed() -> None:
    stored = with_exif(exif())
    turned = upright(stored, "L")
    turned[0, 0] = 99
    assert np.asarray(stored).tolist() == [[0, 1, 2], [3, 4, 5]]
    grey = Image.new("L", (2, 2))
    upright(grey, "L")[0, 0] = 99
    assert grey.getpixel((0, 0)) == 0


def test_truncated_image_is_damaged_with_any_exif() -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG", exif=exif())
    with pytest.raises(OSError, match="truncated"):
        upright(Image.open(io.BytesIO(file.getvalue()[:5000])), "L")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels_are_refused(size) -> None:
    with pytest.raises(BadImageError, match="no pixels"):
        upright(Image.new("RGB", size), "L")


class Claims(Image.Image):
    """An image whose size changes when it is decoded."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self._size = size

    def load(self):
        self._size = (MAX_PIXELS, 2)


def test_too_many_pixels_are_refused_before_they_are_decoded_and_after() -> None:
    for size in ((MAX_PIXELS // 1000, 1001), (MAX_PIXELS // 1000, 1000)):
        claims = Claims(size)
        with pytest.raises(BadImageError, match=r"^\d+ x \d+ pixels are more than 51,000,000 \(the limit\)$") as error:
            upright(claims, "L")
        decoded = size[1] == 1000
        assert str(error.value).startswith("51000000 x 2 " if decoded else "51000 x 1001 ")


@pytest.mark.parametrize("size", [(1_000_001, 1), (1, 1_000_001)])
def test_images_of_a_very_long_side_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadImageError, match=r"^\d+ x \d+ pixels: a side of more than 1,000,000$"):
        upright(Image.new("L", size), "L")


def jpeg(scans: int, side: int = 64) -> bytes:
    """Returns a grey JPEG file whose last scan, of a few bytes, is there as often as it takes."""
    file = io.BytesIO()
    Image.new("L", (side, side), 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    first, last = content.count(b"\xff\xda"), content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * (scans - first + 1) + content[-2:]


def test_jpeg_files_of_many_scans_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.jpg"
    path.write_bytes(jpeg(400, 2000))
    for file in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(BadImageError, match=r"^400 scans of 2000 x 2000 pixels are more than 255$"):
            upright(open_image(file), "L")


def test_small_jpeg_files_may_have_many_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    film = b"\xff\xda\0\4ab" * 500  # behind the photograph, as of an iPhone
    assert upright(open_image(io.BytesIO(jpeg(300) + film)), "L").mean() == 90
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 64)
    assert upright(open_image(io.BytesIO(jpeg(20) + film)), "L").mean() == 90
    with pytest.raises(BadImageError, match="21 scans"):
        upright(open_image(io.BytesIO(jpeg(21))), "L")


@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("wanted", ["L", "RGB"])
def test_images_larger_than_a_tile(orientation: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    exif_data = Image.Exif()
    exif_data[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif_data)
    monkeypatch.setattr(decode, "TILE", 8)
    read = upright(Image.open(file), wanted)
    assert read.flags.c_contiguous
    assert np.array_equal(read, np.asarray(ImageOps.exif_transpose(Image.open(file)).convert(wanted)))


def test_postscript_is_not_passed_to_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{tmp_path}/called'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as before PIL has searched for it
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with pytest.raises(UnidentifiedImageError):
        upright(open_image(path), "L")
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_opened(kind: str, tmp_path: Path) -> None:
    if not features.check({"JPEG2000": "jpg_2000", "AVIF": "avif"}.get(kind, "pil")):
        pytest.skip(f"this PIL reads no {kind}")
    path = tmp_path / "image"
    Image.new("RGB", (20, 10), (0, 0, 255)).save(path, kind)
    for file in (path, io.BytesIO(path.read_bytes())):
        with open_image(file) as image:
            assert upright(image, "RGB").mean((0, 1)) == pytest.approx([0, 0, 255], abs=5)


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", Path(os.devnull)):
        with pytest.raises(BadImageError, match="not an image but a folder, pipe or device"):
            open_image(path)


def test_a_side_that_is_too_long_decides_on_shrinking() -> None:
    """A line of black and white pixels becomes grey; bicubic sampling of every fourth pixel would not average it."""
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 96))  # [8, 192]
    square = np.asarray(decode.resized_square(Image.fromarray(stripes), 48))
    assert square.shape == (48, 48)
    assert set(np.unique(square)) <= {127, 128}
