"""What is counted over an epoch, on the device, and read once at its end."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emotion.analysis.metrics import matrix_metrics
from emotion.data.classes import CLASSES

MERGE_EVERY = 64
"""Batches whose values are joined: many small ones that stay would break up the memory that steps use again."""


class _Kept(NamedTuple):
    """The summed loss (scalar) of some images, their logits [N, K] and labels int64 [N]."""

    loss: Tensor
    logits: Tensor
    labels: Tensor


class EpochMeter:
    """Keeps the losses and logits of an epoch on the device, and counts once at its end.

    A step does not wait for the device; the logits of FER2013 take less than 1 MiB.
    """

    def __init__(self) -> None:
        self._batches: list[_Kept] = []
        self._joined: list[_Kept] = []

    @property
    def empty(self) -> bool:
        """Whether nothing was kept since the last `finish`."""
        return not self._batches and not self._joined

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keeps a batch: its mean loss (scalar), logits [B, K] and labels, int64 [B] or float [B, K].

        Of images that are mixed, the class with the greatest share counts as the label.
        """
        labels = labels.argmax(1) if labels.is_floating_point() else labels
        self._batches.append(_Kept(loss.detach() * len(labels), logits.detach(), labels))
        if len(self._batches) == MERGE_EVERY:
            self._join()

    def finish(self, add_up: Callable[[Tensor], Tensor] = torch.clone) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Returns `loss` and `matrix_metrics` over all processes, and the confusion matrix; starts anew.

        Args:
            add_up: adds a tensor to those of the other processes.
        """
        self._batches, self._joined = [*self._joined, *self._batches], []
        self._join()
        ((total, logits, labels),) = self._joined
        counts = multiclass_confusion_matrix(logits, labels, len(CLASSES), validate_args=False)
        matrix = add_up(counts).cpu().numpy()
        metrics = {"loss": float(add_up(total)) / matrix.sum(), **matrix_metrics(matrix, CLASSES)}
        self._joined = []
        return metrics, matrix

    def _join(self) -> None:
        totals, logits, labels = zip(*self._batches, strict=True)
        # A loss that is no number must not look like an improvement.
        total = torch.stack(totals).float().nan_to_num(nan=math.inf).sum()
        self._joined.append(_Kept(total, torch.cat(logits), torch.cat(labels)))
        self._batches = []
