"""Audits a set of images: duplicates, duplicates with different labels, constant images, rare classes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import ceil, isqrt
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from emotion.data.labelled import Part
from emotion.data.packed import PackedImages
from emotion.errors import UserError

MIN_CONTRAST = 1.0
"""Standard deviation of the pixels (0..255) below which an image counts as constant."""
MAX_BLOCK_VALUES = 2**22
"""Largest number of values in a block of images or in the correlations of two blocks: 16 MiB in float32."""

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
BlockPair = tuple[Rows, Rows]
Track = Callable[[Sequence[BlockPair]], Iterable[BlockPair]]


@dataclass(frozen=True)
class Group:
    """A group of similar images.

    Attributes:
        rows: rows of the images, int64 [n] with n >= 2, ascending.
        crosses: whether the images belong to different parts.
        conflicts: whether the images have different labels.
    """

    rows: Rows
    crosses: bool
    conflicts: bool


@dataclass(frozen=True)
class Duplicates:
    """Counts the images of one part that have a duplicate, always another image, in the same or another part.

    Attributes:
        part: the part whose images are counted.
        within: the part that is searched for duplicates.
        exact: number of images with identical pixels in `within`.
        same_label: number of images with identical pixels and the same label in `within`.
        near: number of images whose correlation with an image in `within` reaches the threshold, identical included.
    """

    part: str
    within: str
    exact: int
    same_label: int
    near: int


@dataclass(frozen=True)
class Neighbours:
    """The most similar other image of each of N images, in each of P parts.

    Attributes:
        correlation: float32 [P, N], the largest Pearson correlation of an image's pixels with those of another image
            of the part, accurate to 1e-5; 0 if no correlation is positive or the image is constant.
        row: int64 [P, N], row of that other image, or -1 if there is none.
        group: int64 [N], group number; images that a chain of near pairs joins share it, although the ends of a chain
            may be less similar than the threshold.
    """

    correlation: NDArray[np.float32]
    row: Rows
    group: Rows


@dataclass(frozen=True)
class Audit:
    """The result of an audit of N images.

    Attributes:
        threshold: the correlation from which two images are near duplicates.
        class_counts: number of images of each class, for each part.
        redundant: number of images that repeat an earlier image of their part exactly, for each part.
        exact: groups of identical images.
        near: groups joined by chains of near pairs, without those in which all images are identical.
        duplicates: counts for every ordered pair of parts, a part with itself included.
        constant: int64 [n], rows of the images without contrast.
        correlation: float32 [N], largest correlation of each image with any other image.
        nearest: int64 [N], row of that other image, or -1 if there is none.
    """

    threshold: float
    class_counts: dict[str, list[int]]
    redundant: dict[str, int]
    exact: list[Group]
    near: list[Group]
    duplicates: list[Duplicates]
    constant: Rows
    correlation: NDArray[np.float32]
    nearest: Rows


def audit_images(packed: PackedImages, threshold: float, track: Track = iter) -> Audit:
    """Finds duplicates, duplicates with different labels and constant images among all images of a source.

    Args:
        packed: the images.
        threshold: the Pearson correlation of pixels from which two images are near duplicates, between 0 and 1.
            Brightness and contrast do not change it. In FER2013, pairs just above 0.95 show the same photograph; the
            share of different photographs grows from 0.9 down.
        track: wraps the sequence of steps, to show the progress.

    Raises:
        UserError: the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold={threshold}: a number between 0 and 1 is needed")
    masks = {part: packed.parts == part for part in get_args(Part) if part in packed.parts}
    _, pixel_ids = np.unique(packed.hashes, return_inverse=True)  # [N], equal for identical images
    constant = contrast(packed.images) < MIN_CONTRAST
    neighbours = find_neighbours(packed.images, list(masks.values()), constant, threshold, track)
    best_part, rows = neighbours.correlation.argmax(0), np.arange(len(packed))  # [N], [N]
    return Audit(
        threshold,
        class_counts={
            part: np.bincount(packed.labels[mask], minlength=len(packed.classes)).tolist()
            for part, mask in masks.items()
        },
        redundant={part: int(mask.sum()) - len(np.unique(pixel_ids[mask])) for part, mask in masks.items()},
        exact=_groups(pixel_ids, packed),
        near=[group for group in _groups(neighbours.group, packed) if len(np.unique(pixel_ids[group.rows])) > 1],
        duplicates=list(_count_duplicates(masks, pixel_ids, packed, neighbours, threshold)),
        constant=np.flatnonzero(constant),
        correlation=neighbours.correlation[best_part, rows],
        nearest=neighbours.row[best_part, rows],
    )


def contrast(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the standard deviation of each image's pixels, float64 [N] in 0..127.5, for images uint8 [N, C, S, S]."""
    blocks = _blocks([np.ones(len(images), bool)], images)
    return np.concatenate([images[rows].std(axis=(1, 2, 3)) for rows in blocks])


def find_neighbours(
    images: NDArray[np.uint8], masks: Sequence[Mask], constant: Mask, threshold: float, track: Track
) -> Neighbours:
    """Compares every image with every other image.

    Besides the result, memory is needed for a few blocks of images only.

    Args:
        images: uint8 [N, C, S, S].
        masks: bool [N] for each of P parts, the images of the part; each image belongs to exactly one part.
        constant: bool [N], images that are left out of the comparison.
        threshold: the correlation from which pairs are joined to groups.
        track: wraps the sequence of pairs of blocks, to show the progress.
    """
    part_of = np.stack(masks).argmax(0)  # [N]
    shape = len(masks), len(images)
    neighbours = Neighbours(np.zeros(shape, np.float32), np.full(shape, -1), np.arange(len(images)))
    blocks = _blocks([mask & ~constant for mask in masks], images)
    for first, second in track(list(combinations_with_replacement(blocks, 2))):
        correlation = _standardised(images[first]) @ _standardised(images[second]).T  # [n, m]
        if first is second:
            correlation.fill_diagonal_(0)
        else:
            _update_nearest(neighbours, part_of[first[0]], second, first, correlation.T)
        _update_nearest(neighbours, part_of[second[0]], first, second, correlation)
        _merge_groups(neighbours.group, first, second, correlation >= threshold)
    return neighbours


def _blocks(masks: Iterable[Mask], images: NDArray[np.uint8]) -> list[Rows]:
    """Splits the rows of each part into blocks that respect `MAX_BLOCK_VALUES`, alone and as a pair."""
    size = max(1, min(isqrt(MAX_BLOCK_VALUES), MAX_BLOCK_VALUES // images[0].size))
    parts = [np.flatnonzero(mask) for mask in masks]
    return [block for rows in parts if len(rows) for block in np.array_split(rows, ceil(len(rows) / size))]


def _standardised(images: NDArray[np.uint8]) -> Tensor:
    """Returns pixels with mean 0 and norm 1, float32 [n, C * S * S]; their dot products are correlations."""
    values = torch.from_numpy(images).flatten(1).float()  # [n, C * S * S]
    values -= values.mean(1, keepdim=True)
    return torch.nn.functional.normalize(values)


def _update_nearest(neighbours: Neighbours, part: int, rows: Rows, candidates: Rows, correlation: Tensor) -> None:
    """Replaces the nearest images in a part where `correlation`, [rows, candidates], exceeds the largest so far."""
    values, columns = (tensor.numpy() for tensor in correlation.max(1))  # [n], [n]
    better = values > neighbours.correlation[part, rows]
    neighbours.correlation[part, rows[better]] = values[better]
    neighbours.row[part, rows[better]] = candidates[columns[better]]


def _merge_groups(group: Rows, first: Rows, second: Rows, near: Tensor) -> None:
    """Gives one number to all groups that a pair in `near`, bool [first, second], connects."""
    left, right = (indices.numpy() for indices in near.nonzero(as_tuple=True))
    links = (group[first[left]], group[second[right]])
    graph = coo_array((np.ones(len(left), bool), links), shape=(len(group), len(group)))
    group[:] = connected_components(graph, directed=False)[1][group]


def _groups(numbers: Rows, packed: PackedImages) -> list[Group]:
    """Groups the images that share a number with another image, sorted by the first row of each group."""
    _, counts = np.unique(numbers, return_counts=True)
    runs = np.split(np.argsort(numbers, kind="stable"), counts.cumsum()[:-1])
    return [
        Group(rows, len(np.unique(packed.parts[rows])) > 1, len(np.unique(packed.labels[rows])) > 1)
        for rows in sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))
    ]


def _count_duplicates(
    masks: dict[str, Mask], pixel_ids: Rows, packed: PackedImages, neighbours: Neighbours, threshold: float
) -> Iterator[Duplicates]:
    # Equal for identical images of the same label.
    pixel_label_ids = pixel_ids * len(packed.classes) + packed.labels  # [N]
    for part, mask in masks.items():
        for (within, within_mask), correlation in zip(masks.items(), neighbours.correlation, strict=True):
            yield Duplicates(
                part,
                within,
                exact=_count_repeated(pixel_ids, mask, within_mask),
                same_label=_count_repeated(pixel_label_ids, mask, within_mask),
                near=int((correlation[mask] >= threshold).sum()),
            )


def _count_repeated(numbers: Rows, mask: Mask, within: Mask) -> int:
    """Counts the images of `mask` whose number another image of `within` shares."""
    occurrences = np.bincount(numbers[within], minlength=numbers.max() + 1)[numbers]
    return int((occurrences - within > 0)[mask].sum())  # an image of `within` does not count itself
