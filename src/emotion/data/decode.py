"""Decoded image files to upright pictures of eight bits, whatever the camera or scanner wrote."""

import io
import stat
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from emotion.errors import UserError
from emotion.extras import MissingExtraError, require_extra

MAX_PIXELS = 51_000_000
"""As many as a camera of 50 megapixels (8192 x 6144) takes; a file of a few kilobytes can claim to hold billions."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What PIL may take a file for: not all that it knows, since it hands some (EPS) to other programs, and the headers of
others (ICO) do not tell how large they are."""
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
"""What follows the first `ftyp` of photographs of iPhones, which PIL takes with the package pillow-heif."""
TILE = 1024
"""Height and width of the parts that are converted at a time, pixels; PIL would hold a picture several times."""

Pixels = NDArray[np.uint8]
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda seen: np.rot90(seen, 2),
    4: np.flipud,
    5: lambda seen: seen.swapaxes(0, 1),
    6: np.rot90,
    7: lambda seen: np.rot90(seen, 2).swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, -1),
}
"""How a camera stores an upright picture, [H, W] or [H, W, 3], under each EXIF orientation: views of the same."""


class BadImageError(UserError):
    """One image that cannot be used."""


def open_image(file: str | Path | io.BytesIO) -> Image.Image:
    """Opens an image of one of the `FORMATS`, or of HEIF, without decoding its pixels; of several, the first.

    Raises:
        BadImageError: a folder, a device, a pipe, which would be waited for, or HEIF that cannot be read here.
        FileNotFoundError: no such file.
        Exception: of nearly any kind, for a file that is damaged or no image.
    """
    if not isinstance(file, io.BytesIO) and not stat.S_ISREG(Path(file).stat().st_mode):
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


def _is_heif(file: str | Path | io.BytesIO) -> bool:
    start = file.getvalue()[:12] if isinstance(file, io.BytesIO) else _start(Path(file))
    return start[4:8] == b"ftyp" and start[8:] in HEIF


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def upright(image: Image.Image, mode: Literal["L", "RGB"]) -> Pixels:
    """Turns an opened image as its EXIF orientation says and converts it; transparency is dropped.

    Args:
        image: freshly opened: its size is checked before its pixels are decoded.
        mode: `L` (grey) or `RGB`.

    Returns:
        uint8 [H, W] or [H, W, 3], contiguous.

    Raises:
        BadImageError: no pixels, more than `MAX_PIXELS`, or floating-point tones, whose range is not known.
    """
    _check_size(image)
    image.load()  # before EXIF is read, since PIL itself turns a TIFF when it decodes it
    _check_size(image)  # some headers do not tell the truth
    if image.mode == "F":
        raise BadImageError("pixels are floating-point numbers, whose range is not known")
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    seen = np.empty((height, width) if mode == "L" else (height, width, 3), np.uint8)
    stored = STORED[orientation](seen) if orientation in STORED else seen
    brightest = _brightest(image)
    for top, left, tile in _tiles(image):
        stored[top : top + TILE, left : left + TILE] = np.asarray(_eight_bits(tile, brightest).convert(mode))
    return seen


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    for top, left in product(range(0, image.height, TILE), range(0, image.width, TILE)):
        yield top, left, image.crop((left, top, min(left + TILE, image.width), min(top + TILE, image.height)))


def _brightest(image: Image.Image) -> int:
    """Returns the greatest tone that an image can hold: files of 16 bits may hold tones of fewer, and do not say so."""
    if not image.mode.startswith("I"):
        return 255
    most = max(int(np.asarray(tile).max()) for _, _, tile in _tiles(image))
    return next((2**bits - 1 for bits in (8, 10, 12, 14) if most < 2**bits), 65_535)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if not width * height:
        raise BadImageError(f"{width} x {height}: no pixels")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # The reader raises nearly anything for damaged EXIF, which is no reason to refuse the picture.
        return 1
    return orientation if orientation in STORED else 1


def _eight_bits(tile: Image.Image, brightest: int) -> Image.Image:
    """Scales tones of more bits, which conversion would clip."""
    if tile.mode == "P":
        return tile.convert("RGBA")  # to RGB at once, PIL warns of the transparency
    if not tile.mode.startswith("I"):
        return tile
    tones = np.asarray(tile).clip(0, brightest).astype(np.uint32)
    return Image.fromarray(((255 * tones + brightest // 2) // brightest).astype(np.uint8))
