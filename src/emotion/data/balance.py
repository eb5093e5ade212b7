"""What is done about classes of unequal size."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from emotion.data.augment import RandomAffine

BalanceName = Literal["none", "class_weights", "weighted_sampler", "offline"]


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the "balanced" weight n / (k n_c) of each class, float32 [k], for labels int64 [n]."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts)


def oversample(
    images: Tensor, labels: Tensor, num_classes: int, affine: RandomAffine, seed: int, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Makes augmented copies of the smaller classes until each has as many images as the largest.

    Every image of a class is copied equally often, but for a random remainder.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        num_classes: k; each class has at least one image.
        affine: the transform of the copies.
        seed: same seed, same copies.
        chunk: images transformed at a time, which bounds the memory.

    Returns:
        Rows int64 [m] that say which image each copy comes from, and the copies, uint8 [m, C, H, W].
    """
    rows = _rows_to_copy(labels, num_classes, seed)
    if not len(rows):
        return rows, images[:0]
    generator = torch.Generator().manual_seed(seed)
    copies = [affine(images[part].float(), generator).round().byte() for part in torch.split(rows, chunk)]
    return rows, torch.cat(copies)


def _rows_to_copy(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    counts = torch.bincount(labels, minlength=num_classes)
    rows = []
    for label, missing in enumerate((counts.max() - counts).tolist()):
        own = np.flatnonzero(labels.numpy() == label)
        rounds = [random.permutation(own) for _ in range(-(-missing // len(own)))]
        rows.append(np.concatenate([*rounds, own[:0]])[:missing])
    return torch.from_numpy(np.concatenate(rows))
