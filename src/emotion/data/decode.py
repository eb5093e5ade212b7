"""Decodes image files of cameras and scanners to upright images of eight bits."""

import re
import stat
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from emotion.errors import UserError
from emotion.extras import MissingExtraError, require_extra

MAX_PIXELS = 51_000_000
"""Largest number of pixels, that of a 50 megapixel camera (8192 x 6144); a file of a few kB can claim billions."""
MAX_SIDE = 1_000_000
"""Largest height and width. PIL holds a pointer to each row, and a row of tiles takes time however low it is."""
MAX_SCANS = 20
"""Largest number of scans of a JPEG file of `MAX_PIXELS`; each scan decodes all pixels anew, and may take 36 bytes.
Photographs have about ten. Smaller images may have more."""
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""The begin of a segment of a JPEG file. Restart markers and bytes of 255 within a scan do not match."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The accepted formats of PIL. Formats that PIL passes to other programs (EPS) are left out, and those whose header
lacks the size (ICO)."""
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
"""Brands after the first `ftyp` of HEIC files, such as photographs of iPhones; the package pillow-heif decodes them."""
TILE = 256
"""Height and width of the tiles that are converted one by one, pixels; PIL would hold a whole image several times. Each
tile finds the memory of the one before it in the cache; tiles of 1024 take twice the time."""

Pixels = NDArray[np.uint8]
EXIF_TRANSFORMS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: np.rot90,
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}
"""Maps an EXIF orientation to the transform of an upright image, [H, W] or [H, W, 3], to the stored one; all of them
return numpy views, so writing to the result writes to the upright image."""


class BadImageError(UserError):
    """An image cannot be used."""


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Opens an image in one of the `FORMATS` or in HEIF without decoding its pixels; of several frames, the first.

    Raises:
        BadImageError: the path is a folder, a device or a pipe (reading a pipe could block forever), or the file is
            HEIF and pillow-heif is missing.
        FileNotFoundError: the file does not exist.
        Exception: PIL raises nearly any kind for a file that is damaged or not an image.
    """
    if isinstance(file, str | Path) and not stat.S_ISREG(Path(file).stat().st_mode):
        raise BadImageError("not an image but a folder, pipe or device")
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        if not _is_heif(file):
            raise
    try:
        require_extra("heic", "an image in HEIC")
    except MissingExtraError as error:
        raise BadImageError(str(error)) from None
    import pillow_heif

    pillow_heif.register_heif_opener()
    return Image.open(file, formats=("HEIF",))


def _is_heif(file: str | Path | BinaryIO) -> bool:
    if isinstance(file, str | Path):
        header = _read_header(Path(file))
    else:
        file.seek(0)
        header = file.read(12)
    return header[4:8] == b"ftyp" and header[8:] in HEIF


def _read_header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def upright(image: Image.Image, mode: Literal["L", "RGB"]) -> Pixels:
    """Decodes an opened image, turns it upright by its EXIF orientation and converts it; transparency is dropped.

    Args:
        image: an image as PIL opens it, not decoded yet: its size is checked before its pixels are decoded.
        mode: `L` (grey) or `RGB`.

    Returns:
        uint8 [H, W] or [H, W, 3], contiguous.

    Raises:
        BadImageError: the image has no pixels, more than `MAX_PIXELS`, a side of more than `MAX_SIDE`, too many scans,
            or pixels of unknown range: floating-point numbers, or integers outside 0..65535.
    """
    _check_size(image)
    _check_scans(image)
    image.load()  # before EXIF is read, since PIL itself turns a TIFF upright when it decodes it
    _check_size(image)  # the header may have claimed another size
    if image.mode == "F":
        raise BadImageError("pixels are floating-point numbers of unknown range; convert the image to 8 or 16 bits")
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size  # 5 to 8 exchange rows and columns
    pixels = np.empty((height, width) if mode == "L" else (height, width, 3), np.uint8)
    stored = EXIF_TRANSFORMS[orientation](pixels) if orientation in EXIF_TRANSFORMS else pixels
    max_tone = _max_tone(image)
    for top, left, tile in _tiles(image):
        stored[top : top + TILE, left : left + TILE] = np.asarray(_eight_bits(tile, max_tone).convert(mode))
    return pixels


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    for top, left in product(range(0, image.height, TILE), range(0, image.width, TILE)):
        yield top, left, image.crop((left, top, min(left + TILE, image.width), min(top + TILE, image.height)))


def _max_tone(image: Image.Image) -> int:
    """Returns the largest tone of the image's bit depth, which is guessed: 16-bit files may hold 10- or 12-bit data."""
    if not image.mode.startswith("I"):
        return 255
    extremes = [(int(tones.min()), int(tones.max())) for _, _, tile in _tiles(image) for tones in [np.asarray(tile)]]
    darkest, brightest = min(low for low, _ in extremes), max(high for _, high in extremes)
    if darkest < 0 or brightest > 65_535:
        raise BadImageError(f"pixels from {darkest} to {brightest} are of unknown range; convert the image to 16 bits")
    return next((2**bits - 1 for bits in (8, 10, 12, 14) if brightest < 2**bits), 65_535)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,} (the limit)")
    if max(width, height) > MAX_SIDE:
        raise BadImageError(f"{width} x {height} pixels: a side of more than {MAX_SIDE:,}")
    if not width * height:
        raise BadImageError(f"{width} x {height}: no pixels")


def _check_scans(image: Image.Image) -> None:
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    width, height = image.size
    most = MAX_SCANS * MAX_PIXELS // max(1, width * height)
    if content.count(b"\xff\xda") > most and (scans := _count_scans(content)) > most:
        raise BadImageError(f"{scans:,} scans of {width} x {height} pixels are more than {most:,}")


def _count_scans(content: bytes) -> int:
    """Counts the scans of a JPEG file. What follows its end, such as the film of a live photograph, does not count."""
    scans, offset = 0, 2
    while (marker := _MARKER.search(content, offset)) is not None and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        offset = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8."""
    exif = Image.Exif()  # PIL's `getexif` also takes the orientation in XMP, which browsers and cameras do not follow
    try:
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ExifTags.Base.Orientation)
    except Exception:
        # PIL raises nearly any exception for damaged EXIF, which must not reject the image.
        return 1
    return orientation if orientation in EXIF_TRANSFORMS else 1


def _eight_bits(tile: Image.Image, max_tone: int) -> Image.Image:
    """Scales tones of more than eight bits to 0..255; PIL's own conversion would clip them."""
    if tile.mode == "P":
        return tile.convert("RGBA")  # a direct conversion to RGB makes PIL warn about the transparency
    if not tile.mode.startswith("I"):
        return tile
    tones = np.asarray(tile).clip(0, max_tone).astype(np.uint32)
    return Image.fromarray(((255 * tones + max_tone // 2) // max_tone).astype(np.uint8))


def resized_square(image: Image.Image, side: int) -> Image.Image:
    """Resizes an image to a square: shrinking averages areas, enlarging is bicubic."""
    shrinks = max(image.size) > side
    return image.resize((side, side), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
