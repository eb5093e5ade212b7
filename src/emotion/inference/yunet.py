"""YuNet, a network that detects faces and the eyes, nose and corners of the mouth in each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emotion.privacy import import_onnxruntime

FILE = Path(__file__).with_name("yunet.onnx")
"""The network of W. Wu, H. Peng, S. Yu: "YuNet: A Tiny Millisecond-level Face Detector", 2023; see yunet.md."""
STRIDES = (8, 16, 32)
"""The network divides an image into cells of 8 x 8, 16 x 16 and 32 x 32 pixels, and predicts a face for each cell."""
MAX_OVERLAP = 0.3
"""Of two boxes that overlap more (intersection over union), the less confident one is the same face again."""


class Candidates(NamedTuple):
    """Boxes that may be faces, the most confident first.

    Attributes:
        boxes: left, top, width and height in pixels, float32 [N, 4].
        landmarks: x and y of the person's right and left eye, the tip of the nose, and the right and left corner of the
            mouth, pixels, float32 [N, 5, 2].
        confidences: float32 [N], 0 to 1.
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    confidences: NDArray[np.float32]


class YuNet:
    """Runs the network in onnxruntime; several threads may call it at the same time."""

    def __init__(self) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # at 640 pixels a second thread gains nothing
        options.enable_mem_pattern = False  # it would keep memory for every size of image
        self._session = onnxruntime.InferenceSession(FILE.read_bytes(), options, providers=["CPUExecutionProvider"])

    def __call__(self, image: NDArray[np.uint8], confidence: float) -> Candidates:
        """Detects the faces of at least some 10 pixels in an image.

        Args:
            image: RGB uint8 [H, W, 3].
            confidence: candidates of a lower confidence are dropped, 0 to 1.
        """
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, -height % STRIDES[-1]), (0, -width % STRIDES[-1]), (0, 0)))  # [H', W', 3]
        outputs = [output[0] for output in self._session.run(None, {"images": padded[np.newaxis]})]
        cells = [
            _decode(outputs[size::3], stride, padded.shape[1] // stride, confidence)
            for size, stride in enumerate(STRIDES)
        ]
        return _without_overlaps(*(np.concatenate(parts) for parts in zip(*cells, strict=True)))


def _decode(
    outputs: Sequence[NDArray[np.float32]], stride: int, columns: int, confidence: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Turns the outputs for the C cells of one size into boxes, landmarks and confidences in pixels of the image."""
    classes, objects, boxes, landmarks = outputs  # [C, 1], [C, 1], [C, 4], [C, 10]
    confidences = np.sqrt(classes[:, 0] * objects[:, 0])  # [C]
    kept = np.flatnonzero(confidences >= confidence)  # [N]
    corners = np.stack([kept % columns, kept // columns], axis=1)  # [N, 2]
    centres = (corners + boxes[kept, :2]) * stride  # [N, 2]
    sizes = np.exp(boxes[kept, 2:]) * stride  # [N, 2]
    points = (corners[:, None] + landmarks[kept].reshape(-1, 5, 2)) * stride  # [N, 5, 2]
    return np.concatenate([centres - sizes / 2, sizes], axis=1), points, confidences[kept]


def _without_overlaps(
    boxes: NDArray[np.float32], landmarks: NDArray[np.float32], confidences: NDArray[np.float32]
) -> Candidates:
    """Keeps the most confident of the boxes that overlap."""
    order = np.argsort(-confidences, kind="stable")
    kept: list[int] = []
    while order.size:
        kept.append(int(order[0]))
        order = order[_overlaps(boxes[order[0]], boxes[order]) <= MAX_OVERLAP]
    return Candidates(boxes[kept], landmarks[kept], confidences[kept])


def _overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the intersection over union, float32 [N], of a box [4] with others [N, 4]."""
    starts = np.maximum(box[:2], others[:, :2])  # [N, 2]
    ends = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])  # [N, 2]
    shared = np.clip(ends - starts, 0, None).prod(axis=1)  # [N]
    return np.asarray(shared / (box[2:].prod() + others[:, 2:].prod(axis=1) - shared))
