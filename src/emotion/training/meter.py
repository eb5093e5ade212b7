"""Collects losses and logits of an epoch on the device, and computes metrics at its end."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emotion.analysis.metrics import matrix_metrics

MERGE_EVERY = 64
"""Number of batches whose tensors are joined: many small tensors would fragment the memory that steps reuse."""


class _Outputs(NamedTuple):
    """The summed loss (scalar) of N images, their logits [N, K] and labels int64 [N]."""

    loss: Tensor
    logits: Tensor
    labels: Tensor


class EpochMeter:
    """Collects losses and logits of an epoch on the device, and computes the metrics once at its end.

    Steps thus never wait for the device. The logits of FER2013 take less than 1 MiB.

    Args:
        classes: names of the K classes, in the order of the logits.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._batches: list[_Outputs] = []
        self._joined: list[_Outputs] = []

    @property
    def empty(self) -> bool:
        """Whether no batch was added since the last `finish`."""
        return not self._batches and not self._joined

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss (scalar), logits [B, K] and labels, int64 [B] or float [B, K].

        The label of a mixed image is the class with the largest share.
        """
        labels = labels.argmax(1) if labels.is_floating_point() else labels  # [B]
        self._batches.append(_Outputs(loss.detach() * len(labels), logits.detach(), labels))
        if len(self._batches) == MERGE_EVERY:
            self._join()

    def finish(self, add_up: Callable[[Tensor], Tensor] = torch.clone) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Returns `loss` and `matrix_metrics` over all processes, and the confusion matrix [K, K]; clears the meter.

        Args:
            add_up: returns the sum of a tensor over all processes.
        """
        self._batches, self._joined = [*self._joined, *self._batches], []
        self._join()
        ((total, logits, labels),) = self._joined
        counts = multiclass_confusion_matrix(logits, labels, len(self.classes), validate_args=False)
        matrix = add_up(counts).cpu().numpy()
        metrics = {"loss": float(add_up(total)) / matrix.sum(), **matrix_metrics(matrix, self.classes)}
        self._joined = []
        return metrics, matrix

    def _join(self) -> None:
        totals, logits, labels = zip(*self._batches, strict=True)
        # A loss of NaN must never count as an improvement, so it becomes infinite.
        total = torch.stack(totals).float().nan_to_num(nan=math.inf).sum()
        self._joined.append(_Outputs(total, torch.cat(logits), torch.cat(labels)))  # [N, K], [N]
        self._batches = []
