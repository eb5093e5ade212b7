"""Boxes and labels drawn on pictures."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emotion.inference.recognizer import Face
from emotion.palette import EXPRESSIONS, INK


def draw_faces(picture: NDArray[np.uint8], faces: Sequence[Face]) -> Image.Image:
    """Returns a copy of a picture, RGB uint8 [H, W, 3], with each face's box, label and probability."""
    drawn = Image.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(drawn.size) / 400))
    for face in faces:
        left, top, width, height = face.box
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=EXPRESSIONS[face.label], width=line)
        _write(pen, face, max(11, min(round(width / 7), 8 * line)), drawn.size)
    return drawn


def _write(pen: ImageDraw.ImageDraw, face: Face, size: int, picture: tuple[int, int]) -> None:
    """Writes above the box, or inside where there is no room above; no probability where the picture is too narrow."""
    font, margin = ImageFont.load_default(size), size // 4
    text = f"{face.label} {face.probabilities[face.label]:.0%}"
    if pen.textlength(text, font) + 2 * margin > picture[0]:
        text = face.label
    left, top, right, bottom = pen.textbbox((0, 0), text, font)
    width, height = math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin
    x = max(0, min(face.box[0], picture[0] - width))
    y = max(0, min(face.box[1] - height if face.box[1] >= height else face.box[1], picture[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=EXPRESSIONS[face.label])
    pen.text((x + margin - left, y + margin - top), text, INK, font)
