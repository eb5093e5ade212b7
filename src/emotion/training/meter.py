"""What is counted over an epoch, on the device, and read once at its end."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emotion.analysis.metrics import matrix_metrics
from emotion.data.classes import CLASSES


class EpochMeter:
    """Keeps the losses and logits of an epoch on the device, and counts once at its end.

    A step does not wait for the device; the logits of FER2013 take less than 1 MiB.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def empty(self) -> bool:
        """Whether nothing was kept since the last `finish`."""
        return not self._losses

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keeps a batch: its mean loss (scalar), logits [B, K] and labels, int64 [B] or float [B, K].

        Of images that are mixed, the class with the greatest share counts as the label.
        """
        self._losses.append(loss.detach())
        self._logits.append(logits.detach())
        self._labels.append(labels.argmax(1) if labels.is_floating_point() else labels)

    def finish(self, add_up: Callable[[Tensor], Tensor] = torch.clone) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Returns `loss` and `matrix_metrics` over all processes, and the confusion matrix; starts anew.

        Args:
            add_up: adds a tensor to those of the other processes.
        """
        sizes = torch.tensor([len(labels) for labels in self._labels])
        losses = torch.stack(self._losses).float()
        # A loss that is no number must not look like an improvement.
        total = (losses.nan_to_num(nan=math.inf) * sizes.to(losses.device)).sum()
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        counts = multiclass_confusion_matrix(logits, labels, len(CLASSES), validate_args=False)
        matrix = add_up(counts).cpu().numpy()
        metrics = {"loss": float(add_up(total)) / matrix.sum(), **matrix_metrics(matrix, CLASSES)}
        self._losses, self._logits, self._labels = [], [], []
        return metrics, matrix
