"""Detects faces in images, and frames them as FER2013 does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.errors import UserError
from emotion.inference.crops import Box, reading_order
from emotion.inference.yunet import YuNet

CONFIDENCE = 0.7
"""Default of the lowest confidence of a face. This and the next two were chosen on the photographs that
`benchmarks/photographs.py` names `tune`."""
SURE = 0.88
"""Confidence of a face that is sure; if none is, the image may be turned."""
PASSES = ((320, 0.12), (640, 0.06), (1280, 0.0))
"""The passes over an image: pixels of its longer side, and the size, as a share of that side, from which on a face is
large. If all faces are large and one is sure, no further pass follows."""
MOST_SHARED = 0.6
"""Two detections are the same face if more than this share of the smaller one lies in the other one."""
WELL_SEEN = 20
"""Pixels of a face that no pass misses for its size."""
FACE_SHARE = 0.876
SHIFT = (0.003, 0.021)
"""How FER2013 crops a face: `FACE_SHARE` is the geometric mean of width and height of the detector's box, as a share of
the image's side; `SHIFT` is the offset of the image's centre from the box's centre, right and down, as shares of that
side. Medians over the 2,835 of 3,000 random training images in which the detector finds the face; 3,000 others
(`benchmarks/detector.py`) give 0.876 and (0.001, 0.019)."""


@dataclass(frozen=True)
class Detection:
    """A detected face.

    Attributes:
        box: the square that FER2013 would crop.
        confidence: the detector's confidence that this is a face, 0 to 1; None if no detector ran.
        tilt: angle of the line through the eyes, degrees from -180 to 180; positive if the head leans to the right of
            the image.
    """

    box: Box
    confidence: float | None
    tilt: float = 0.0


@dataclass(frozen=True)
class DetectionLimits:
    """Which faces count as detected.

    Attributes:
        min_face: size of the smallest face, as a share of the image's longer side; 0 for faces of any size.
        confidence: lowest confidence of the detector that a face is one.

    Raises:
        UserError: `min_face` is neither 0 nor from 0.01 to 1, or `confidence` is not from 0.1 to 1.
    """

    min_face: float = 0.0
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if self.min_face != 0 and not 0.01 <= self.min_face <= 1:
            raise UserError(f"min_face={self.min_face}: a share of the image's longer side, from 0.01 to 1, is needed")
        if not 0.1 <= self.confidence <= 1:
            raise UserError(f"confidence={self.confidence}: a number from 0.1 to 1 is needed")


ANY_FACE = DetectionLimits()


class FaceDetector:
    """Detects faces with `emotion.inference.yunet.YuNet`, from coarse to fine; several threads may call it.

    The first pass searches a small copy of the image. Larger copies follow as long as no face is sure or one is not
    large, and their faces are added. If no face is sure, the image is turned by 90, 180 and 270 degrees, too, and the
    turn with the highest sum of confidences counts.
    """

    def __init__(self) -> None:
        self._network = YuNet()

    def __call__(
        self, picture: NDArray[np.uint8], limits: DetectionLimits = ANY_FACE, turn: int = 0
    ) -> list[Detection]:
        """Returns the faces in an image, row by row from left to right, see `reading_order`.

        Args:
            picture: RGB uint8 [H, W, 3].
            limits: which faces count.
            turn: quarter turns against the clock by which the image is expected to stand upright.
        """
        faces = self.search(picture, limits, turn)
        if all((face.confidence or 0) < SURE for face in faces):
            others = ((turn + further) % 4 for further in (1, 2, 3))
            searches = [faces, *(self.search(picture, limits, other, PASSES[1:2]) for other in others)]
            faces = max(searches, key=lambda found: sum(face.confidence or 0 for face in found))
        return [faces[index] for index in reading_order([face.box for face in faces])]

    def search(
        self,
        picture: NDArray[np.uint8],
        limits: DetectionLimits = ANY_FACE,
        turn: int = 0,
        passes: Sequence[tuple[int, float]] = PASSES,
    ) -> list[Detection]:
        """Returns the faces that stand upright after `turn` quarter turns, from coarse to fine; see `__call__`."""
        longer = max(picture.shape[:2])
        faces: list[Detection] = []
        for side, large in passes:
            found = self.look(picture, side, limits.confidence, turn)
            large_enough = [face for face in found if face.box[2] >= limits.min_face * longer]
            faces = without_repetitions([*faces, *large_enough])  # a larger copy may be too large for the largest faces
            sure = any((face.confidence or 0) >= SURE for face in faces)
            all_large = sure and min(face.box[2] for face in faces) >= large * longer
            if all_large or side >= longer or side * limits.min_face >= WELL_SEEN:
                break
        return faces

    def look(
        self, picture: NDArray[np.uint8], side: int, confidence: float = CONFIDENCE, turn: int = 0
    ) -> list[Detection]:
        """Detects faces in a single pass.

        Args:
            picture: RGB uint8 [H, W, 3].
            side: pixels of the longer side of the copy that is searched; the image is never enlarged.
            confidence: lowest confidence of a face.
            turn: quarter turns of the copy against the clock.
        """
        height, width = picture.shape[:2]
        scale = min(1.0, side / max(height, width))
        size = round(width * scale), round(height * scale)
        if min(size) < 8:
            return []  # resizing a line of millions of pixels would take gigabytes
        copy = picture if scale == 1 else _shrunken(picture, size)
        faces = []
        for box, points, score in zip(*self._network(np.rot90(copy, turn), confidence), strict=True):
            x, y = _turned_back(box[:2] + box[2:] / 2, turn, size)
            across, down = points[1] - points[0]  # between the eyes
            tilt = math.degrees(math.atan2(down, across)) + 90 * turn
            framed = _framed(x / scale, y / scale, math.sqrt(box[2] * box[3]) / scale, tilt)
            faces.append(Detection(framed, float(score), (tilt + 180) % 360 - 180))
        return faces


def without_repetitions(faces: Sequence[Detection], first: Sequence[Detection] = ()) -> list[Detection]:
    """Keeps all of `first`, and of detections that lie in each other, which are the same face, the most confident."""
    kept = list(first)
    for face in sorted(faces, key=lambda face: -(face.confidence or 0)):
        if all(_shared(face.box, other.box) <= MOST_SHARED for other in kept):
            kept.append(face)
    return kept


def _shared(box: Box, other: Box) -> float:
    """Returns the share of the smaller of two squares that lies in the other one."""
    across, down = (
        max(0, min(box[axis] + box[2], other[axis] + other[2]) - max(box[axis], other[axis])) for axis in (0, 1)
    )
    return across * down / min(box[2], other[2]) ** 2


def _shrunken(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrinks an image to a width and height.

    Only every nth row and column is averaged, where more than twice the wanted ones remain: to average all pixels of a
    large photograph takes longer than to search its copy.
    """
    step = max(1, picture.shape[1] // (2 * size[0]))
    thinned = Image.fromarray(np.ascontiguousarray(picture[::step, ::step]))
    return np.asarray(thinned.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))


def _turned_back(point: NDArray[np.float32], turn: int, size: tuple[int, int]) -> tuple[float, float]:
    """Returns where a point [2] of a turned image, of this width and height before its turns, lay before them."""
    (x, y), (width, height) = map(float, point), size
    return ((x, y), (width - y, x), (width - x, height - y), (y, height - x))[turn]


def _framed(x: float, y: float, size: float, tilt: float) -> Box:
    """Returns the square that FER2013 would crop around a face, by the centre and the size of the detector's box."""
    side, angle = size / FACE_SHARE, math.radians(tilt)
    x += side * (SHIFT[0] * math.cos(angle) - SHIFT[1] * math.sin(angle))
    y += side * (SHIFT[0] * math.sin(angle) + SHIFT[1] * math.cos(angle))
    return round(x - side / 2), round(y - side / 2), max(1, round(side)), max(1, round(side))
