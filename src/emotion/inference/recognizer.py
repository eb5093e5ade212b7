"""Detects the faces in images and classifies their expressions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import require_same_classes
from emotion.errors import UserError
from emotion.inference.crops import Box, center_square, crop_faces, reading_order
from emotion.inference.faces import ANY_FACE, CONFIDENCE, Detection, DetectionLimits, FaceDetector
from emotion.inference.images import ImageInput, read_image
from emotion.inference.networks import FaceNetwork, load_networks

UNSURE, UNSURE_OF_TWO = 0.5, 2 / 3
"""A label of a lower probability gets a question mark: it is rather wrong than right. Of two classes one always reaches
the first value, so that the label has to be twice as probable as the other class."""
BATCH_SIZE, READ_AHEAD = 64, 8
"""Most faces in one call of a network, and most images whose faces are classified together."""


@dataclass(frozen=True, repr=False)
class Face:
    """A classified face of an image or of a frame of a film.

    Attributes:
        box: left, top, width and height of the classified square, in pixels of the upright image; it may reach over the
            edges of the image.
        label: the most probable class.
        probabilities: probability of each class, in the order of `Recognizer.classes`; they sum to 1.
        confidence: the detector's confidence that this is a face, 0 to 1; None if no detector ran.
        tilt: angle by which the head leans to the right of the image, degrees from -180 to 180.
        person: number of the person in a film, from 1; None in an image.
        raw: in a film, the probabilities of this frame alone; `probabilities` are averaged over time.
    """

    box: Box
    label: str
    probabilities: dict[str, float]
    confidence: float | None = None
    tilt: float = 0.0
    person: int | None = None
    raw: dict[str, float] | None = None

    @property
    def score(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.label]

    @property
    def is_unsure(self) -> bool:
        """Whether the probability of the label is below `UNSURE`, or `UNSURE_OF_TWO` if there are two classes."""
        return self.score < (UNSURE_OF_TWO if len(self.probabilities) == 2 else UNSURE)

    @property
    def title(self) -> str:
        """The label, with a question mark if it is unsure."""
        return f"{self.label}?" if self.is_unsure else self.label

    def as_dict(self) -> dict[str, Any]:
        """Returns the attributes and the score, ready for JSON; numbers are rounded to four digits.

        `person` and `raw` are left out for images.
        """
        values: dict[str, Any] = rounded(asdict(self))
        if self.person is None:
            del values["person"], values["raw"]
        return {"box": values.pop("box"), "label": values.pop("label"), "score": rounded(self.score)} | values

    def __repr__(self) -> str:
        """Names the label, its probability and the place."""
        details = {"box": self.box, "confidence": rounded(self.confidence), "person": self.person}
        shown = ", ".join(f"{name}={value}" for name, value in details.items() if value is not None)
        return f"Face({self.label} {self.score:.0%}, {shown})"


@dataclass(frozen=True)
class DetectedFaces:
    """The cropped faces of an image; the rest of the image is not needed to classify them.

    Attributes:
        detections: the N faces, row by row from left to right.
        faces: the crops, by the input side and the channels of the networks: grey uint8 [N, side, side] for 1 channel,
            RGB [N, side, side, 3] for 3.
        omitted: number of further detected faces, which are smaller and not cropped.
    """

    detections: list[Detection]
    faces: dict[tuple[int, int], NDArray[np.uint8]]
    omitted: int = 0

    def __len__(self) -> int:
        return len(self.detections)


class Recognizer:
    """Detects the faces in images and classifies the expression of each.

    Attributes:
        classes: names of the K classes, in the order of the probabilities.

    Args:
        networks: one network, or several of the same classes, whose probabilities are averaged.
        limits: which faces count as detected.

    Raises:
        UserError: the networks have different classes.

    Examples:
        >>> import emotion, numpy
        >>> recognizer = emotion.load()
        >>> (face,) = recognizer.predict(numpy.zeros((48, 48), numpy.uint8), detect=False)
        >>> tuple(face.probabilities) == recognizer.classes
        True
    """

    def __init__(self, networks: Sequence[FaceNetwork], limits: DetectionLimits = ANY_FACE) -> None:
        self.networks, self.limits = tuple(networks), limits
        require_same_classes([network.name for network in networks], [network.classes for network in networks])
        self.classes: tuple[str, ...] = networks[0].classes if networks else ()

    def __reduce__(self) -> tuple[type["Recognizer"], tuple[Sequence[FaceNetwork], DetectionLimits]]:
        """Pickles the networks' paths; the process that unpickles them loads networks and detector again."""
        return Recognizer, (self.networks, self.limits)

    def __repr__(self) -> str:
        """Names the networks and the limits of the detection."""
        names = ", ".join(network.name for network in self.networks)
        return f"Recognizer({names}; min_face={self.limits.min_face:g}, confidence={self.limits.confidence:g})"

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector, created on first use."""
        return FaceDetector()

    @overload
    def predict(self, image: ImageInput, detect: bool = ..., *, bgr: bool = ...) -> list[Face]: ...
    @overload
    def predict(self, image: list[ImageInput], detect: bool = ..., *, bgr: bool = ...) -> list[list[Face]]: ...
    def predict(
        self, image: ImageInput | list[ImageInput], detect: bool = True, *, bgr: bool = False
    ) -> list[Face] | list[list[Face]]:
        """Returns the classified faces of an image, row by row from left to right; of a list, a list for each.

        Args:
            image: an image (see `emotion.inference.images.ImageInput`), or a list of images. Of an animation the first
                frame is read.
            detect: True detects faces; False takes the central square of the image as one face.
            bgr: True if the channels of arrays are blue, green, red, as from OpenCV.

        Raises:
            UserError: an image cannot be read.
        """
        if isinstance(image, list | tuple):
            return list(self.predict_many(image, detect, bgr=bgr))
        return self.classify([self.detect(read_image(image, bgr), detect)])[0]

    def predict_many(
        self, images: Iterable[ImageInput], detect: bool = True, *, bgr: bool = False
    ) -> Iterator[list[Face]]:
        """Yields the classified faces of each image; the faces of `READ_AHEAD` images are classified together.

        Args:
            images: an iterable of images, each as for `predict`; it may be endless.
            detect: as for `predict`.
            bgr: as for `predict`.

        Raises:
            UserError: the argument is a single image, or an image cannot be read.
        """
        if _is_single_image(images):
            kind = type(images).__name__
            raise UserError(f"{kind}: several images are needed; pass a single image to predict, or as [image]")
        detected = (self.detect(read_image(image, bgr), detect) for image in images)
        return chain.from_iterable(map(self.classify, iter(lambda: list(islice(detected, READ_AHEAD)), [])))

    def detect(
        self,
        image: NDArray[np.uint8],
        detect: bool = True,
        max_faces: int | None = None,
        limits: DetectionLimits | None = None,
    ) -> DetectedFaces:
        """Detects and crops the faces of an image.

        Args:
            image: RGB uint8 [H, W, 3].
            detect: False takes the central square as one face.
            max_faces: largest number of faces; the largest faces are kept.
            limits: which faces count; None takes those of the recogniser.
        """
        faces = self.detector(image, limits or self.limits) if detect else [Detection(center_square(image), None)]
        largest = sorted(faces, key=lambda face: -face.box[2])[:max_faces]
        shown = [largest[index] for index in reading_order([face.box for face in largest])]
        return self.crop(image, shown, len(faces) - len(largest))

    def crop(self, image: NDArray[np.uint8], faces: list[Detection], omitted: int = 0) -> DetectedFaces:
        """Crops faces from an image, RGB uint8 [H, W, 3], for each kind of input of the networks."""
        boxes, tilts = [face.box for face in faces], [face.tilt for face in faces]
        inputs = {(network.side, network.channels) for network in self.networks}
        crops = {(side, channels): crop_faces(image, boxes, side, tilts, channels) for side, channels in inputs}
        return DetectedFaces(faces, crops, omitted)

    def classify(self, images: Sequence[DetectedFaces]) -> list[list[Face]]:
        """Classifies the expressions of the faces of several images together; returns the faces of each image."""
        probabilities = iter(np.mean([_probabilities(network, images) for network in self.networks], axis=0))  # [N, K]
        return [[self._face(detection, next(probabilities)) for detection in image.detections] for image in images]

    def _face(self, detection: Detection, probabilities: NDArray[np.float32]) -> Face:
        """Joins a face's place with its probabilities, float32 [K]."""
        named = dict(zip(self.classes, map(float, probabilities), strict=True))
        return Face(detection.box, most_probable(named), named, detection.confidence, detection.tilt)

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
        classes = np.array([self.classes.index(label) for label in labels], np.int64)  # [N]
        return network.heatmaps(detected.faces[network.side, network.channels], classes)


def load(
    name: str | Path | Sequence[str | Path] = "small",
    *,
    tta: str | None = None,
    device: str = "cpu",
    min_face: float | None = None,
    confidence: float = CONFIDENCE,
) -> Recognizer:
    """Loads a trained network, or several whose probabilities are averaged.

    Published files hold a temperature that calibrates the probabilities of one network with the test-time augmentation
    of that file. It is not fitted again for another augmentation or an average of networks; a `.ckpt` holds none.

    Args:
        name: the name of a network that ships with the package (`small`), the path of an `.onnx`, `.safetensors` or
            `.ckpt` file, `hf://<owner>/<repository>`, or a list of these.
        tta: test-time augmentation: none, flip, shifts or ten_crop; None takes that of the file.
        device: `cpu`, `cuda`, or `cuda:1` for the second GPU ...
        min_face: size of the smallest face to detect, as a share of the image's longer side, from 0.01 to 1; None
            detects faces of any size.
        confidence: lowest confidence of the detector that a face is one, 0.1 to 1.

    Raises:
        UserError: a network, file, device or test-time augmentation does not exist, the networks have different
            classes, or a number is out of range.
    """
    names = [name] if isinstance(name, str | Path) else name
    limits = DetectionLimits(0.0 if min_face is None else min_face, confidence)
    return Recognizer(load_networks(names, tta, device), limits)


def _is_single_image(images: object) -> bool:
    """Checks whether an argument is one image or none; paths, bytes, files and arrays are iterable, too."""
    if isinstance(images, np.ndarray):
        return images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    return isinstance(images, str | bytes | bytearray) or hasattr(images, "read") or not isinstance(images, Iterable)


def _probabilities(network: FaceNetwork, images: Sequence[DetectedFaces]) -> NDArray[np.float32]:
    """Returns the probabilities, float32 [N, K], of the N faces of all images, in batches of `BATCH_SIZE`."""
    # [N, side, side] or [N, side, side, 3]
    faces = np.concatenate([image.faces[network.side, network.channels] for image in images])
    batches = [network(faces[start : start + BATCH_SIZE]) for start in range(0, len(faces), BATCH_SIZE)]
    return np.concatenate([np.empty((0, len(network.classes)), np.float32), *batches])


def most_probable(probabilities: Mapping[str, float]) -> str:
    """Returns the class of the highest probability."""
    return max(probabilities, key=probabilities.__getitem__)


def rounded(value: Any, digits: int = 4) -> Any:
    """Rounds a float, or the floats in a dictionary; other values stay as they are."""
    if isinstance(value, dict):
        return {name: rounded(content, digits) for name, content in value.items()}
    return round(value, digits) if isinstance(value, float) else value
