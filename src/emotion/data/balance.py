"""Corrections for class imbalance: loss weights and oversampling."""

import numpy as np
import torch
from torch import Tensor

from emotion.data.augment import RandomAffine

MANY = 100_000
"""Number of images up to which sums of their weights in float32 are exact enough."""


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Returns scikit-learn's "balanced" weight n / (k n_c) of each class, float32 [k], for labels int64 [n]."""
    counts = torch.bincount(labels, minlength=num_classes)  # [k]
    return len(labels) / (num_classes * counts)


def sampling_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the weight of each image with which all classes are drawn equally often, float [n], for int64 [n].

    Of many images float64, since sums of float32 would lose the smallest weights.
    """
    weights = class_weights(labels, num_classes)[labels]
    return weights.double() if len(labels) > MANY else weights


def oversample(
    images: Tensor, labels: Tensor, num_classes: int, affine: RandomAffine, seed: int, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Adds transformed images to the smaller classes until every class is as large as the largest.

    All images of a class are used equally often, except for a random remainder.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        num_classes: number of classes k, each with at least one image.
        affine: the random transform of the added images.
        seed: seed of the choice of images and of their transforms.
        chunk: number of images transformed at a time, which bounds the memory.

    Returns:
        Rows of the source images, int64 [m], and the added images, uint8 [m, C, H, W].
    """
    rows = _rows_to_add(labels, num_classes, seed)
    if not len(rows):
        return rows, images[:0]
    generator = torch.Generator().manual_seed(seed)
    added = [affine(images[part].float(), generator).round().byte() for part in torch.split(rows, chunk)]
    return rows, torch.cat(added)  # [m], [m, C, H, W]


def _rows_to_add(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    counts = torch.bincount(labels, minlength=num_classes)
    rows = []
    for label, missing in enumerate((counts.max() - counts).tolist()):
        class_rows = np.flatnonzero(labels.numpy() == label)
        rounds = [random.permutation(class_rows) for _ in range(-(-missing // len(class_rows)))]
        rows.append(np.concatenate([*rounds, class_rows[:0]])[:missing])  # the empty array keeps int64 without rounds
    return torch.from_numpy(np.concatenate(rows))
