"""Detects the faces in images and classifies their expressions."""

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
from emotion.inference.images import ImageInput, read_image
from emotion.inference.networks import FaceNetwork, load_networks

BATCH_SIZE, READ_AHEAD = 64, 8
"""Most faces in one call of a network, and most images whose faces are classified together."""


@dataclass(frozen=True)
class Face:
    """A classified face of an image.

    Attributes:
        box: left, top, width and height of the classified square, in pixels of the upright image; it may reach over the
            edges of the image.
        label: the most probable class.
        probabilities: probability of each class, in the order of `emotion.data.classes.CLASSES`; they sum to 1.
        confidence: the detector's confidence that this is a face, 0 to 1; None if no detector ran.
    """

    box: Box
    label: str
    probabilities: dict[str, float]
    confidence: float | None = None


@dataclass(frozen=True)
class DetectedFaces:
    """The cropped faces of an image; the rest of the image is not needed to classify them.

    Attributes:
        detections: boxes and confidences of the N faces, from left to right.
        faces: the crops, grey uint8 [N, S, S], by the input side S of the networks.
        omitted: number of further detected faces, which are smaller and not cropped.
    """

    detections: list[Detection]
    faces: dict[int, NDArray[np.uint8]]
    omitted: int = 0

    def __len__(self) -> int:
        return len(self.detections)


class Recognizer:
    """Detects the faces in images and classifies the expression of each.

    Args:
        networks: one network, or several whose probabilities are averaged.
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
        """Pickles the networks' paths; the process that unpickles them loads networks and detector again."""
        return Recognizer, (self.networks, self._min_face)

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector, created on first use."""
        return FaceDetector(self._min_face)

    def predict(self, image: ImageInput, detect: bool = True) -> list[Face]:
        """Returns the classified faces of an image, from left to right.

        Args:
            image: a path, the content of a file, an open file, a PIL image, or an array uint8 [H, W] (grey),
                [H, W, 3] (RGB) or [H, W, 4] (RGBA); of an animation the first frame is read.
            detect: True detects faces; False takes the central square of the image as one face.

        Raises:
            UserError: the image cannot be read.
        """
        return self.classify([self.detect(read_image(image), detect)])[0]

    def predict_many(self, images: Iterable[ImageInput], detect: bool = True) -> Iterator[list[Face]]:
        """Yields the classified faces of each image; the faces of `READ_AHEAD` images are classified together.

        Args:
            images: an iterable of images, each as for `predict`.
            detect: as for `predict`.

        Raises:
            UserError: the argument is a single image, or an image cannot be read.
        """
        if _is_single_image(images):
            kind = type(images).__name__
            raise UserError(f"{kind}: several images are needed; pass a single image to predict, or as [image]")
        detected = (self.detect(read_image(image), detect) for image in images)
        return chain.from_iterable(map(self.classify, iter(lambda: list(islice(detected, READ_AHEAD)), [])))

    def detect(self, image: NDArray[np.uint8], detect: bool = True, max_faces: int | None = None) -> DetectedFaces:
        """Detects and crops the faces of an image, RGB uint8 [H, W, 3], or the `max_faces` largest of them."""
        detections = self.detector(image) if detect else [Detection(center_square(image), None)]
        largest = sorted(detections, key=lambda detection: -detection.box[2])[:max_faces]
        kept = sorted(largest, key=lambda detection: detection.box)
        boxes = [detection.box for detection in kept]
        faces = {network.side: crop_faces(image, boxes, network.side) for network in self.networks}
        return DetectedFaces(kept, faces, len(detections) - len(kept))

    def classify(self, images: Sequence[DetectedFaces]) -> list[list[Face]]:
        """Classifies the expressions of the faces of several images together; returns the faces of each image."""
        probabilities = iter(np.mean([_probabilities(network, images) for network in self.networks], axis=0))  # [N, K]
        return [[_face(detection, next(probabilities)) for detection in image.detections] for image in images]

    def heatmaps(self, detected: DetectedFaces, labels: Sequence[str]) -> NDArray[np.float32]:
        """Returns heatmaps of the regions that raise the score of a class, by the first network.

        Args:
            detected: the N faces of an image.
            labels: N class names, one for each face.

        Returns:
            float32 [N, S, S], from 0 to 1, the strongest pixel of each face.

        Raises:
            UserError: the network gives no heatmaps.
        """
        network = self.networks[0]
        classes = np.array([CLASSES.index(label) for label in labels], np.int64)  # [N]
        return network.heatmaps(detected.faces[network.side], classes)


def load(
    name: str | Path | Sequence[str | Path] = "small",
    *,
    tta: str | None = None,
    device: str = "cpu",
    min_face: float | None = None,
) -> Recognizer:
    """Loads a trained network, or several whose probabilities are averaged.

    Published files hold a temperature that calibrates the probabilities of one network with the test-time augmentation
    of that file. It is not fitted again for another augmentation or an average of networks; a `.ckpt` holds none.

    Args:
        name: the name of a network that ships with the package (`small`), the path of an `.onnx`, `.safetensors` or
            `.ckpt` file, `hf://<owner>/<repository>`, or a list of these.
        tta: test-time augmentation: none, flip, shifts or ten_crop; None takes that of the file.
        device: `cpu`, `cuda`, or `cuda:1` for the second GPU ...
        min_face: size of the smallest face to detect, as a share of the image's longer side; None detects faces of an
            eighth, and down to a fortieth if no face or a small one is detected.

    Raises:
        UserError: a network, file, device or test-time augmentation does not exist.
    """
    names = [name] if isinstance(name, str | Path) else name
    return Recognizer(load_networks(names, tta, device), min_face)


def _is_single_image(images: object) -> bool:
    """Checks whether an argument is one image or none; paths, bytes, files and arrays are iterable, too."""
    if isinstance(images, np.ndarray):
        return images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    return isinstance(images, str | bytes | bytearray) or hasattr(images, "read") or not isinstance(images, Iterable)


def _probabilities(network: FaceNetwork, images: Sequence[DetectedFaces]) -> NDArray[np.float32]:
    """Returns the probabilities, float32 [N, K], of the N faces of all images, in batches of `BATCH_SIZE`."""
    faces = np.concatenate([image.faces[network.side] for image in images])  # [N, S, S]
    batches = [network(faces[start : start + BATCH_SIZE]) for start in range(0, len(faces), BATCH_SIZE)]
    return np.concatenate([np.empty((0, len(CLASSES)), np.float32), *batches])


def _face(detection: Detection, probabilities: NDArray[np.float32]) -> Face:
    """Joins a face's box with its probabilities, float32 [K]."""
    named = dict(zip(CLASSES, map(float, probabilities), strict=True))
    return Face(detection.box, max(named, key=named.__getitem__), named, detection.confidence)
