"""Draws boxes and labels on images."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emotion.errors import UserError
from emotion.inference.images import ImageInput, read_image
from emotion.inference.recognizer import Face
from emotion.palette import INK, class_colours

FONT = Path(__file__).with_name("fonts") / "DejaVuSansCondensed.ttf"
"""PIL's own font has the letters of ASCII only."""


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font of pictures, DejaVu Sans Condensed: Latin, Greek, Cyrillic, Arabic and others, but no Chinese.

    Args:
        size: height of a line in pixels.
    """
    return ImageFont.truetype(FONT, size)


def draw(image: ImageInput, faces: Sequence[Face], *, bgr: bool = False) -> Image.Image:
    """Returns a copy of an image with the box, label and probability of each face, as a PIL image.

    Args:
        image: the image, see `emotion.inference.images.ImageInput`.
        faces: its faces, as `Recognizer.predict` returns them.
        bgr: True if the channels of an array are blue, green, red, as from OpenCV.

    Raises:
        UserError: the image cannot be read, or `faces` are not those of one image.
    """
    if isinstance(faces, Face) or not all(isinstance(face, Face) for face in faces):
        raise UserError("faces: a list of faces of one image is needed, as recognizer.predict(image) returns it")
    return draw_faces(read_image(image, bgr), faces)


def draw_faces(image: NDArray[np.uint8], faces: Sequence[Face]) -> Image.Image:
    """Returns a copy of an image, RGB uint8 [H, W, 3], with the box, label and probability of each face.

    Faces of a film also get the number of their person.
    """
    annotated = Image.fromarray(image)
    pen = ImageDraw.Draw(annotated)
    line = max(2, round(max(annotated.size) / 400))
    for face in faces:
        left, top, width, height = face.box
        colour = class_colours(tuple(face.probabilities))[face.label]
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=line)
        _draw_label(pen, face, colour, max(11, min(round(width / 7), 8 * line)), annotated.size)
    return annotated


def _draw_label(pen: ImageDraw.ImageDraw, face: Face, colour: str, font_size: int, image_size: tuple[int, int]) -> None:
    """Writes the label above the box, or inside it if there is no room.

    Narrow images get no probability, and only the beginning of a label that is wider than the image.
    """
    letters, margin = font(font_size), font_size // 4
    label = face.title if face.person is None else f"{face.person}: {face.title}"
    text = f"{label} {face.score:.0%}"
    if pen.textlength(text, letters) + 2 * margin > image_size[0]:
        text = label
    while pen.textlength(text, letters) + 2 * margin > image_size[0] and len(label) > 1:
        label = label[:-1]
        text = f"{label}..."
    left, top, right, bottom = pen.textbbox((0, 0), text, letters)
    width, height = math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin
    x = max(0, min(face.box[0], image_size[0] - width))
    y = max(0, min(face.box[1] - height if face.box[1] >= height else face.box[1], image_size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + margin - left, y + margin - top), text, INK, letters)
