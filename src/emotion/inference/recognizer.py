"""From pictures to faces with probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.inference.faces import Box, Detection, FaceDetector, center_square, crop_faces
from emotion.inference.images import Picture, read_image
from emotion.inference.networks import FaceNetwork, load_networks

BATCH = 64


@dataclass(frozen=True)
class Face:
    """One face of a picture.

    Attributes:
        box: left, top, width and height of the square that was judged, pixels of the upright picture; it may reach over
            the picture's edges.
        label: the most probable class.
        probabilities: of each class, in the order of `emotion.data.classes.CLASSES`; they sum to 1.
        confidence: of the detector that this is a face, 0..1; None where none was asked.
    """

    box: Box
    label: str
    probabilities: dict[str, float]
    confidence: float | None = None


@dataclass(frozen=True)
class DetectedFaces:
    """The faces in a picture, cut out, which is all of it that is needed from there on.

    Attributes:
        detections: where the N faces are, from left to right.
        faces: grey uint8 [N, S, S], for each side S that a network takes.
        smaller: how many more there are in the picture, which were left out.
    """

    detections: list[Detection]
    faces: dict[int, NDArray[np.uint8]]
    smaller: int = 0

    def __len__(self) -> int:
        return len(self.detections)


class Recognizer:
    """Tells the expressions of the faces in pictures.

    Args:
        networks: one, or several whose mean probability counts.
        min_face: see `emotion.inference.faces.FaceDetector`.

    Examples:
        >>> import emotion, numpy
        >>> recognizer = emotion.load()
        >>> (face,) = recognizer.predict(numpy.zeros((48, 48), numpy.uint8), detect=False)
        >>> sorted(face.probabilities) == sorted(recognizer.classes)
        True
    """

    classes = CLASSES

    def __init__(self, networks: Sequence[FaceNetwork], min_face: float | None = None) -> None:
        self.networks, self._min_face = tuple(networks), min_face

    def __reduce__(self) -> tuple[type["Recognizer"], tuple[Sequence[FaceNetwork], float | None]]:
        """Lets it be sent to other processes, which load the networks from their files, and a detector, anew."""
        return Recognizer, (self.networks, self._min_face)

    @cached_property
    def detector(self) -> FaceDetector:
        """Finds the faces; made when it is first needed."""
        return FaceDetector(self._min_face)

    def predict(self, image: Picture, detect: bool = True) -> list[Face]:
        """Returns the faces in a picture, from left to right.

        Args:
            image: a path, the content of a file, an open file, a PIL image, or an array uint8 [H, W] (grey),
                [H, W, 3] (RGB) or [H, W, 4] (RGBA); of an animation the first frame counts.
            detect: False where the central square of the picture is one face already.

        Raises:
            UserError: not a picture.
        """
        return self.classify([self.detect(read_image(image), detect)])[0]

    def predict_many(self, pictures: Iterable[Picture], detect: bool = True) -> Iterator[list[Face]]:
        """Yields the faces of each picture, judging those of several pictures at a time.

        Args:
            pictures: each as for `predict`.
            detect: as for `predict`.

        Raises:
            UserError: one picture rather than several, or something that is no picture.
        """
        if _is_one(pictures):
            kind = type(pictures).__name__
            raise UserError(f"{kind}: several pictures are needed here; one goes to predict, or is given as [picture]")
        found = (self.detect(read_image(picture), detect) for picture in pictures)
        return chain.from_iterable(map(self.classify, iter(lambda: list(islice(found, 8)), [])))

    def detect(self, picture: NDArray[np.uint8], detect: bool = True, max_faces: int | None = None) -> DetectedFaces:
        """Finds the faces in a picture, RGB uint8 [H, W, 3], and of more than `max_faces` the largest."""
        detections = self.detector(picture) if detect else [Detection(center_square(picture), None)]
        largest = sorted(detections, key=lambda detection: -detection.box[2])[:max_faces]
        kept = sorted(largest, key=lambda detection: detection.box)
        boxes = [detection.box for detection in kept]
        faces = {network.side: crop_faces(picture, boxes, network.side) for network in self.networks}
        return DetectedFaces(kept, faces, len(detections) - len(kept))

    def classify(self, found: Sequence[DetectedFaces]) -> list[list[Face]]:
        """Tells the expressions of the faces of several pictures at once."""
        each = [_in_batches(network, [own.faces[network.side] for own in found]) for network in self.networks]
        probabilities = iter(np.mean(each, axis=0))
        return [[_face(detection, next(probabilities)) for detection in own.detections] for own in found]

    def heatmaps(self, found: DetectedFaces, labels: Sequence[str]) -> NDArray[np.float32]:
        """Returns where each of N faces speaks for its label, to the first network that counts.

        Returns:
            float32 [N, S, S], from 0 to 1 at the strongest place of the box.

        Raises:
            UserError: the network cannot tell.
        """
        network = self.networks[0]
        classes = np.array([CLASSES.index(label) for label in labels], np.int64)
        return network.heatmaps(found.faces[network.side], classes)


def load(
    name: str | Path | Sequence[str | Path] = "small",
    *,
    tta: str | None = None,
    device: str = "cpu",
    min_face: float | None = None,
) -> Recognizer:
    """Loads a trained network, or several whose mean probability counts.

    Probabilities are calibrated by the temperature in a published file, which was fitted for one network with the views
    of that file; a `.ckpt` has none, and neither other views nor a mean of several are calibrated anew.

    Args:
        name: of a network that ships with the package (`small`), the path of an `.onnx`, `.safetensors` or `.ckpt`
            file, `hf://<owner>/<repository>`, or a list of these.
        tta: the views of each face whose mean counts: none, flip, shifts or ten_crop; None leaves it to the file.
        device: `cpu` or `cuda`.
        min_face: the smallest face to find, as a share of the picture's longer side; None: an eighth, and a fortieth
            where there is none or a small one.

    Raises:
        UserError: no such network or file.
    """
    names = [name] if isinstance(name, str | Path) else name
    return Recognizer(load_networks(names, tta, device), min_face)


def _is_one(pictures: object) -> bool:
    """Whether something is one picture, or none, rather than several, whatever iteration would make of it."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim < 3 or (pictures.ndim == 3 and pictures.shape[2] in (1, 3, 4))
    return (
        isinstance(pictures, str | bytes | bytearray) or hasattr(pictures, "read") or not isinstance(pictures, Iterable)
    )


def _in_batches(network: FaceNetwork, faces: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    joined = np.concatenate(faces)
    parts = [network(joined[start : start + BATCH]) for start in range(0, len(joined), BATCH)]
    return np.concatenate([np.empty((0, len(CLASSES)), np.float32), *parts])


def _face(detection: Detection, probabilities: NDArray[np.float32]) -> Face:
    """Joins where a face is with its probabilities [K]."""
    named = dict(zip(CLASSES, map(float, probabilities), strict=True))
    return Face(detection.box, max(named, key=named.__getitem__), named, detection.confidence)
