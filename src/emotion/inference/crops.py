"""Crops faces from images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import resized_square
from emotion.models.onnx import face_shape

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the upright image; a box may reach over the edges of the image."""

LEVELLED_FROM = 10
"""Degrees of tilt from which on a face is turned upright."""


def crop_faces(
    picture: NDArray[np.uint8], boxes: Sequence[Box], side: int, tilts: Sequence[float] | None = None, channels: int = 1
) -> NDArray[np.uint8]:
    """Crops faces from an image for a network.

    Args:
        picture: RGB uint8 [H, W, 3].
        boxes: N squares to crop. Beyond the image its edge is repeated; a square that lies wholly outside is black.
        side: height and width of the crops, pixels.
        tilts: N angles in degrees, see `crop_square`; None crops upright squares.
        channels: 1 for grey faces, 3 for RGB.

    Returns:
        uint8 [N, side, side] with 1 channel, [N, side, side, 3] with 3.
    """
    faces = np.empty((len(boxes), *face_shape(side, channels)), np.uint8)
    mode = "L" if channels == 1 else "RGB"
    for face, box, tilt in zip(faces, boxes, tilts or [0.0] * len(boxes), strict=True):
        face[:] = np.asarray(_crop(picture, box, side, tilt, mode))
    return faces


def crop_square(picture: NDArray[np.uint8], box: Box, side: int, tilt: float = 0.0) -> NDArray[np.uint8]:
    """Crops a square from an image and resizes it.

    Args:
        picture: RGB uint8 [H, W, 3].
        box: the square.
        side: height and width of the crop, pixels.
        tilt: angle in degrees by which a face leans to the right; from `LEVELLED_FROM` degrees on, the crop is turned
            upright.

    Returns:
        RGB uint8 [side, side, 3].
    """
    return np.asarray(_crop(picture, box, side, tilt, "RGB"))


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Returns the indices of boxes row by row from the top, and from left to right in each row.

    A row goes on while the next lower box is centred at most half a height below the one before.
    """
    centres = [top + height / 2 for _, top, _, height in boxes]
    rows: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda index: (centres[index], boxes[index])):
        if rows and centres[index] - centres[rows[-1][-1]] <= boxes[rows[-1][-1]][3] / 2:
            rows[-1].append(index)
        else:
            rows.append([index])
    return [index for row in rows for index in sorted(row, key=lambda index: boxes[index])]


def center_square(picture: NDArray[np.uint8]) -> Box:
    """Returns the largest central square of an image that shows one face and nothing else."""
    height, width = picture.shape[:2]
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def _crop(picture: NDArray[np.uint8], box: Box, side: int, tilt: float, mode: str) -> Image.Image:
    if abs(tilt) < LEVELLED_FROM:
        return resized_square(_cut(picture, box).convert(mode), side)
    # The turned square lies within an upright one of 1.5 times its side. Twice the pixels keep the turned crop sharp.
    left, top, width, height = box
    around = left - width // 4, top - height // 4, width + 2 * (width // 4), height + 2 * (height // 4)
    larger = resized_square(_cut(picture, around).convert(mode), round(2 * side * around[2] / width))
    turned = larger.rotate(tilt, Image.Resampling.BICUBIC)
    margin = (turned.width - 2 * side) / 2
    return turned.resize((side, side), Image.Resampling.BOX, (margin, margin, margin + 2 * side, margin + 2 * side))


def _cut(picture: NDArray[np.uint8], box: Box) -> Image.Image:
    """Cuts a box from an image, [H, W, 3], and repeats the edge of the image where the box reaches over it."""
    left, top, width, height = box
    rows, columns = picture.shape[:2]
    inside = picture[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if not inside.size:
        return Image.new("RGB", (width, height))
    beyond = (max(0, -top), max(0, top + height - rows)), (max(0, -left), max(0, left + width - columns)), (0, 0)
    return Image.fromarray(np.pad(inside, beyond, "edge") if np.any(beyond) else np.ascontiguousarray(inside))
