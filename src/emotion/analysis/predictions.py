"""Predictions of a network for a set of images: their metrics, their selection, and the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.metrics import confusion_matrix, matrix_metrics
from emotion.data.classes import CLASSES, require_classes
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, check_unpacked_size

_KINDS = {"ids": "U", "labels": "iu", "probabilities": "f", "parts": "U", "copied": "b"}
"""NumPy's codes of the kinds of dtype that each field may have in a file."""
_TTA = "_tta"
"""Suffix of a stage whose predictions are those of test-time augmentation."""
_ROUNDING = 0.01
"""Largest accepted distance of a sum of probabilities from 1; rounding to half precision causes less."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities that a network predicts for N images and K classes.

    Attributes:
        ids: str [N], names of the images in their source.
        labels: int64 [N], true class ids.
        probabilities: float32 [N, K], rows sum to 1.
        parts: str [N], part of the source that each image comes from: train, val, test, public or private.
        copied: bool [N], whether each is a duplicate (see `emotion.data.datamodule.EmotionDataModule.origin`).
        classes: names of the K classes, in the order of the class ids.

    Raises:
        ValueError: the probabilities are for another number of classes.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    parts: NDArray[np.str_]
    copied: NDArray[np.bool_]
    classes: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        if self.probabilities.shape[1:] != (len(self.classes),):
            raise ValueError(f"probabilities {self.probabilities.shape} for {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Predictions:
        """Returns the predictions for some of the images, chosen by a mask bool [N] or by row numbers int64 [n]."""
        arrays: dict[str, Any] = {name: getattr(self, name)[kept] for name in _KINDS}
        return replace(self, **arrays)

    def same_images(self, other: Predictions) -> bool:
        """Returns whether other predictions are for the same images in the same order, with equal labels and parts."""
        same = (np.array_equal(getattr(self, name), getattr(other, name)) for name in ("ids", "labels", "parts"))
        return self.classes == other.classes and all(same)

    def joined(self, other: Predictions) -> Predictions:
        """Returns these predictions followed by predictions for other images.

        Raises:
            ValueError: the predictions are for other classes.
        """
        if self.classes != other.classes:
            raise ValueError(f"predictions for {self.classes} and {other.classes} cannot be joined")
        arrays: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _KINDS}
        return replace(self, **arrays)

    @property
    def stored(self) -> NDArray[np.float16]:
        """The probabilities in half precision, as files keep them, float16 [N, K]."""
        return self.probabilities.astype(np.float16)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 [N], in half precision, so that the file gives the same."""
        return np.asarray(self.stored.argmax(1), np.int64)

    def matrix(self) -> NDArray[np.int64]:
        """Returns the confusion matrix, int64 [K, K]; rows are true classes."""
        return confusion_matrix(self.labels, self.predicted, len(self.classes))

    def metrics(self) -> dict[str, Any]:
        """Returns `loss` and the metrics of `matrix_metrics`.

        The loss is the mean negative natural logarithm of the true class's probability, None without images. One image
        adds at most 87.3, the negative logarithm of the smallest normal float32.
        """
        true = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        losses = -np.log(np.maximum(true, np.finfo(np.float32).tiny))
        loss = float(losses.mean()) if len(losses) else None
        return {"loss": loss, **matrix_metrics(self.matrix(), self.classes)}


def examples_per_class(predictions: Predictions) -> NDArray[np.int64]:
    """Returns the rows, int64 [n], of the most confident correct prediction of each class, in the order of the classes.

    A class without a correct prediction has no row. Of equally confident predictions the first counts.
    """
    correct = _by_confidence(predictions, predictions.predicted == predictions.labels)
    _, first = np.unique(predictions.labels[correct], return_index=True)
    return correct[first]


def confident_mistakes(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Returns the rows, int64 [n], of at most `count` wrong predictions, the most confident first."""
    return _by_confidence(predictions, predictions.predicted != predictions.labels)[:count]


def _by_confidence(predictions: Predictions, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    confidence = predictions.stored.max(1)  # in half precision, so that a report from the file shows the same images
    rows = np.flatnonzero(kept)
    return rows[np.argsort(-confidence[rows], kind="stable")]


def mean_predictions(members: Sequence[Predictions]) -> Predictions:
    """Averages the probabilities of several networks for the same images.

    Raises:
        UserError: the predictions are for different images.
    """
    first = members[0]
    if not all(map(first.same_images, members)):
        raise UserError(
            "ckpt: the checkpoints use different data, splits or classes: give data= and split= for all of them"
        )
    return replace(first, probabilities=np.mean([member.probabilities for member in members], axis=0))


def save_predictions(path: Path, stages: Mapping[str, Predictions]) -> None:
    """Writes the array `classes` and, as `<stage>_<field>`, the other fields of `Predictions`.

    Probabilities are written as float16, labels in one byte (two from 257 classes on). Of the stage `<stage>_tta`, only
    the probabilities are written if its images are those of `<stage>`.

    Raises:
        ValueError: there are no stages, or they have different classes.
    """
    (classes,) = {predictions.classes for predictions in stages.values()}
    arrays: dict[str, Any] = {"classes": np.array(classes)}
    for stage, predictions in stages.items():
        arrays[f"{stage}_probabilities"] = predictions.stored
        base = stages.get(stage.removesuffix(_TTA), predictions)
        if base is not predictions and base.same_images(predictions):
            continue
        labels = predictions.labels.astype(np.min_scalar_type(len(classes) - 1))
        fields = {name: getattr(predictions, name) for name in _KINDS if name != "probabilities"}
        arrays |= {f"{stage}_{name}": values for name, values in fields.items()} | {f"{stage}_labels": labels}
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_predictions(path: Path) -> dict[str, Predictions]:
    """Returns the predictions of each stage in a file, and runs no code from the file.

    Raises:
        UserError: the file does not exist, or was not written by `save_predictions`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of predictions")
    try:
        check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        classes = _read_classes(arrays["classes"])
        fields = ("_ids", "_probabilities")
        stages = dict.fromkeys(key.rpartition("_")[0] for key in arrays if key.endswith(fields))
        return {stage: _read_stage(arrays, stage, classes) for stage in stages}
    except UserError:
        raise
    except Exception as error:
        # A damaged or malicious file can make NumPy raise any exception.
        raise UserError(f"{path}: not a file of predictions ({first_line(error)})") from None


def _read_classes(names: NDArray[Any]) -> tuple[str, ...]:
    """Returns the names of the classes; files of other people can hold names that would spoil a page."""
    if names.dtype.kind != "U" or names.ndim != 1:
        raise ValueError(f"classes: {names.dtype} {list(names.shape)}, must be names")
    try:
        return require_classes(names.tolist())
    except UserError as error:
        raise ValueError(str(error)) from None


def _read_stage(arrays: Mapping[str, NDArray[Any]], stage: str, classes: tuple[str, ...]) -> Predictions:
    base = stage if f"{stage}_ids" in arrays else stage.removesuffix(_TTA)
    stored = {name: arrays[f"{stage if name == 'probabilities' else base}_{name}"] for name in _KINDS}
    images = len(stored["labels"])
    for name, values in stored.items():
        shape = (images, len(classes)) if name == "probabilities" else (images,)
        if values.dtype.kind not in _KINDS[name] or values.shape != shape:
            raise ValueError(f"{stage}_{name}: {values.dtype} {list(values.shape)}, must be {list(shape)}")
    labels, probabilities = stored["labels"].astype(np.int64), stored["probabilities"].astype(np.float32)
    if not np.isin(labels, np.arange(len(classes))).all():
        raise ValueError(f"{stage}_labels: must be from 0 to {len(classes) - 1}")
    # NaN is refused too, since it is not >= 0.
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(1), 1, atol=_ROUNDING)):
        raise ValueError(f"{stage}_probabilities: must be from 0 to 1 and sum to 1")
    return Predictions(**stored | {"labels": labels, "probabilities": probabilities}, classes=classes)
