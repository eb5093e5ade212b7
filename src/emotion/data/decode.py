"""Decoded image files to upright pictures of eight bits, whatever the camera or scanner wrote."""

import numpy as np
from PIL import Image, ImageOps

from emotion.errors import UserError

MAX_PIXELS = 100_000_000
"""More than a camera's; a file of a few kilobytes can claim to hold billions."""


class BadImageError(UserError):
    """One image that cannot be used."""


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Turns an opened image as its EXIF orientation says and converts it; transparency is dropped.

    Args:
        image: freshly opened: its size is checked before its pixels are decoded.
        mode: `L` (grey) or `RGB`.

    Raises:
        BadImageError: more than `MAX_PIXELS`, or floating-point tones, whose range is not known.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
    return _eight_bits(ImageOps.exif_transpose(image)).convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit tones, which conversion would clip."""
    if image.mode == "F":
        raise BadImageError("pixels are floating-point numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
