"""Decoded image files to upright pictures of eight bits, whatever the camera or scanner wrote."""

import numpy as np
from PIL import ExifTags, Image

from emotion.errors import UserError

MAX_PIXELS = 100_000_000
"""More than a camera's; a file of a few kilobytes can claim to hold billions."""

_Turn = Image.Transpose
TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
"""What undoes each EXIF orientation."""


class BadImageError(UserError):
    """One image that cannot be used."""


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Turns an opened image as its EXIF orientation says and converts it; transparency is dropped.

    Args:
        image: freshly opened: its size is checked before its pixels are decoded.
        mode: `L` (grey) or `RGB`.

    Raises:
        BadImageError: no pixels, more than `MAX_PIXELS`, or floating-point tones, whose range is not known.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    if not width * height:
        raise BadImageError(f"{width} x {height}: no pixels")
    image.load()  # before EXIF is read, since PIL itself turns a TIFF when it decodes it
    return _eight_bits(_turned(image)).convert(mode)


def _turned(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # The reader raises nearly anything for damaged EXIF, which is no reason to refuse the picture.
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit tones, which conversion would clip."""
    if image.mode == "P":
        return image.convert("RGBA")  # to RGB at once, PIL warns of the transparency
    if image.mode == "F":
        raise BadImageError("pixels are floating-point numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
