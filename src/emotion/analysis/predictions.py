"""What a network said about each image, and the figures counted from it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.metrics import confusion_matrix, matrix_metrics
from emotion.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """Probabilities for a set of images.

    Attributes:
        ids: str [N], names of the images in their source.
        labels: int64 [N], true class ids.
        probabilities: float32 [N, K], rows sum to 1.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def stored(self) -> NDArray[np.float16]:
        """The probabilities in half precision, as they are kept in files and decided from."""
        return self.probabilities.astype(np.float16)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 [N], decided in half precision as a reader of the file would."""
        return np.asarray(self.stored.argmax(1), np.int64)

    def matrix(self) -> NDArray[np.int64]:
        """Returns the confusion matrix, int64 [K, K], rows are true classes."""
        return confusion_matrix(self.labels, self.predicted, self.probabilities.shape[1])

    def metrics(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns `loss` and `matrix_metrics`.

        The loss is the mean negative natural logarithm of the true class's probability, at most 87.3 for an image (the
        smallest float32), and None without images.
        """
        true = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        losses = -np.log(np.maximum(true, np.finfo(np.float32).tiny))
        loss = float(losses.mean()) if len(losses) else None
        return {"loss": loss, **matrix_metrics(self.matrix(), class_names)}


def mean_predictions(members: Sequence[Predictions]) -> Predictions:
    """Averages the probabilities of several networks for the same images.

    Raises:
        UserError: they speak of different images.
    """
    first = members[0]
    for member in members:
        if not (np.array_equal(first.ids, member.ids) and np.array_equal(first.labels, member.labels)):
            raise UserError("ckpt: the checkpoints are of different data or splits; name data= and split= for all")
    return Predictions(first.ids, first.labels, np.mean([member.probabilities for member in members], axis=0))


def save_predictions(path: Path, stages: Mapping[str, Predictions], class_names: Sequence[str]) -> None:
    """Writes `<stage>_ids`, `<stage>_labels`, `<stage>_probabilities` (float16) and `classes`, then renames."""
    arrays: dict[str, Any] = {"classes": np.array(class_names)}
    for stage, predictions in stages.items():
        arrays[f"{stage}_ids"] = predictions.ids
        arrays[f"{stage}_labels"] = predictions.labels.astype(np.uint8)
        arrays[f"{stage}_probabilities"] = predictions.stored
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)
