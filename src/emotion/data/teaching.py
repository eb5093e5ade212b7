"""The judgement of trained networks, the teachers, on fixed views of the training images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Teaching:
    """The logits of teachers for V views of n training images, of which each epoch takes one.

    A network learns most from a teacher that judged the very image that it sees (Beyer et al., "Knowledge distillation:
    A good teacher is patient and consistent", CVPR 2022). Fixed views let each teacher judge once for all runs.

    Attributes:
        logits: of each teacher, float16 [V, n, K].
        views: number of augmented views; 0 without augmentation. A view after them is the unchanged image.
        temperature: divisor of the logits, above 0.
        seed: seed of the augmentation of the views.
    """

    logits: Sequence[NDArray[np.float16]]
    views: int
    temperature: float
    seed: int

    def targets(self, view: int, positions: Tensor) -> Tensor:
        """Returns the probabilities of the teachers at the temperature, float32 [m, K].

        Args:
            view: number of the view, from 0.
            positions: the images, int64 [m] in 0..n - 1.
        """
        return (mean_logits([each[view] for each in self.logits])[positions] / self.temperature).softmax(1)


def mean_logits(logits: Sequence[NDArray[np.float16]]) -> Tensor:
    """Returns the logarithms of the mean probabilities of T teachers, of each [n, K], as float32 [n, K]."""
    each = torch.stack([torch.from_numpy(values).float() for values in logits])  # [T, n, K]
    return each.log_softmax(2).logsumexp(0) - math.log(len(logits))
