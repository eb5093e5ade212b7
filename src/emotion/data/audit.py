"""What is wrong with a set of images: copies, copies with different labels, constant images, rare classes."""

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

from emotion.data.classes import CLASSES
from emotion.data.packed import PackedImages
from emotion.data.sources import Part
from emotion.errors import UserError

MIN_CONTRAST = 1.0
"""Images whose pixels have a smaller standard deviation than this, of 255, count as constant."""
BLOCK_VALUES = 2**22
"""Most values that a block of images, or the correlations of two blocks, may have: 16 MiB in float32."""

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
BlockPair = tuple[Rows, Rows]
Track = Callable[[Sequence[BlockPair]], Iterable[BlockPair]]


@dataclass(frozen=True)
class Group:
    """Images that are alike.

    Attributes:
        rows: int64 [n] with n >= 2, ascending.
        crosses: they belong to different parts.
        conflicts: they have different labels.
    """

    rows: Rows
    crosses: bool
    conflicts: bool


@dataclass(frozen=True)
class Duplicates:
    """How many images of one part have a copy in a part; in their own part another image must be the copy.

    Attributes:
        part: whose images are counted.
        within: where the copies are.
        exact: images with identical pixels there.
        same_label: images with identical pixels and the same label there.
        near: images that correlate with one there by the threshold or more, as identical ones do.
    """

    part: str
    within: str
    exact: int
    same_label: int
    near: int


@dataclass(frozen=True)
class Neighbours:
    """The most similar other image of every image, in each of P parts.

    Attributes:
        correlation: float32 [P, N], the greatest Pearson correlation of an image's pixels with those of another image
            of that part, right to 1e-5; 0 where none is positive. Constant images correlate with nothing.
        row: int64 [P, N], which image that is, or -1.
        group: int64 [N], the same for images that a chain of near pairs joins; the ends of a chain may be less alike.
    """

    correlation: NDArray[np.float32]
    row: Rows
    group: Rows


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        threshold: the correlation from which images are near copies.
        class_counts: for each part, how many images of each class it has.
        redundant: for each part, how many images repeat an earlier one of the part exactly.
        exact: groups of identical images.
        near: groups that chains of near pairs join, if not all of their images are identical.
        duplicates: for every part and every part.
        constant: int64 [n], rows of the images that have hardly any contrast.
        correlation: float32 [N], the greatest with any other image.
        nearest: int64 [N], the row of that image, or -1.
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
    """Looks for copies, wrong labels of copies and constant images among all images of a source.

    Args:
        packed: the images.
        threshold: the Pearson correlation of pixels from which two images are near copies, between 0 and 1. It does
            not depend on brightness and contrast. In FER2013, pairs just above 0.95 show the same photograph; from
            0.9 down, more and more do not.
        track: wraps the steps of the search, to show its progress.

    Raises:
        UserError: the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold={threshold}: a number between 0 and 1 is needed")
    own = {part: packed.parts == part for part in get_args(Part) if part in packed.parts}
    _, identical = np.unique(packed.hashes, return_inverse=True)
    constant = contrast(packed.images) < MIN_CONTRAST
    found = find_neighbours(packed.images, list(own.values()), constant, threshold, track)
    closest, every = found.correlation.argmax(0), np.arange(len(packed))
    return Audit(
        threshold,
        class_counts={
            part: np.bincount(packed.labels[mask], minlength=len(CLASSES)).tolist() for part, mask in own.items()
        },
        redundant={part: int(mask.sum()) - len(np.unique(identical[mask])) for part, mask in own.items()},
        exact=_groups(identical, packed),
        near=[group for group in _groups(found.group, packed) if len(np.unique(identical[group.rows])) > 1],
        duplicates=list(_copies(own, identical, identical * len(CLASSES) + packed.labels, found, threshold)),
        constant=np.flatnonzero(constant),
        correlation=found.correlation[closest, every],
        nearest=found.row[closest, every],
    )


def contrast(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the standard deviation of each image's pixels, float64 [N] in 0..127.5, for images uint8 [N, C, S, S]."""
    blocks = _blocks([np.ones(len(images), bool)], images)
    return np.concatenate([images[rows].std(axis=(1, 2, 3)) for rows in blocks])


def find_neighbours(
    images: NDArray[np.uint8], own: Sequence[Mask], constant: Mask, threshold: float, track: Track
) -> Neighbours:
    """Compares every image with every other.

    Memory is needed for a few blocks of images only, in addition to the result.

    Args:
        images: uint8 [N, C, S, S].
        own: bool [N] for each of P parts, the images of the part; each image belongs to one.
        constant: bool [N], images that are compared with none.
        threshold: the correlation from which pairs are joined to groups.
        track: wraps the sequence of pairs of blocks.
    """
    part_of = np.stack(own).argmax(0)
    found = Neighbours(
        np.zeros((len(own), len(images)), np.float32), np.full((len(own), len(images)), -1), np.arange(len(images))
    )
    blocks = _blocks([mask & ~constant for mask in own], images)
    for one, other in track(list(combinations_with_replacement(blocks, 2))):
        correlation = _standardised(images[one]) @ _standardised(images[other]).T
        if one is other:
            correlation.fill_diagonal_(0)
        else:
            _keep_nearest(found, part_of[one[0]], other, one, correlation.T)
        _keep_nearest(found, part_of[other[0]], one, other, correlation)
        _join(found.group, one, other, correlation >= threshold)
    return found


def _blocks(own: Iterable[Mask], images: NDArray[np.uint8]) -> list[Rows]:
    """Cuts the rows of each part into blocks that, like the correlations of two blocks, have few values."""
    size = max(1, min(isqrt(BLOCK_VALUES), BLOCK_VALUES // images[0].size))
    parts = [np.flatnonzero(mask) for mask in own]
    return [block for rows in parts if len(rows) for block in np.array_split(rows, ceil(len(rows) / size))]


def _standardised(images: NDArray[np.uint8]) -> Tensor:
    """Returns pixels with mean 0 and norm 1, float32 [n, C * S * S], whose products are correlations."""
    values = torch.from_numpy(images).flatten(1).float()
    values -= values.mean(1, keepdim=True)
    return torch.nn.functional.normalize(values)


def _keep_nearest(found: Neighbours, part: int, rows: Rows, candidates: Rows, correlation: Tensor) -> None:
    """Takes over from correlation [rows, candidates] what is greater than anything so far."""
    values, places = (tensor.numpy() for tensor in correlation.max(1))
    better = values > found.correlation[part, rows]
    found.correlation[part, rows[better]] = values[better]
    found.row[part, rows[better]] = candidates[places[better]]


def _join(group: Rows, one: Rows, other: Rows, near: Tensor) -> None:
    """Gives one number to all groups between which near, bool [one, other], has a pair."""
    left, right = (places.numpy() for places in near.nonzero(as_tuple=True))
    links = (group[one[left]], group[other[right]])
    graph = coo_array((np.ones(len(left), bool), links), shape=(len(group), len(group)))
    group[:] = connected_components(graph, directed=False)[1][group]


def _groups(numbers: Rows, packed: PackedImages) -> list[Group]:
    """Returns the images of every number that occurs more than once, in the order of their first images."""
    _, counts = np.unique(numbers, return_counts=True)
    runs = np.split(np.argsort(numbers, kind="stable"), counts.cumsum()[:-1])
    return [
        Group(rows, len(np.unique(packed.parts[rows])) > 1, len(np.unique(packed.labels[rows])) > 1)
        for rows in sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))
    ]


def _copies(
    own: dict[str, Mask], identical: Rows, labelled: Rows, found: Neighbours, threshold: float
) -> Iterator[Duplicates]:
    for part, mask in own.items():
        for (within, other), correlation in zip(own.items(), found.correlation, strict=True):
            yield Duplicates(
                part,
                within,
                exact=_occurring(identical, mask, other),
                same_label=_occurring(labelled, mask, other),
                near=int((correlation[mask] >= threshold).sum()),
            )


def _occurring(numbers: Rows, mask: Mask, other: Mask) -> int:
    """Counts the images of a mask whose number another image of a second mask has."""
    occurrences = np.bincount(numbers[other], minlength=numbers.max() + 1)[numbers]
    return int((occurrences - other > 0)[mask].sum())
