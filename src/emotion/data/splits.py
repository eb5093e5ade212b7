"""Splits of the images into training, validation and test."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion.data.packed import PackedImages
from emotion.errors import UserError
from emotion.settings import SplitName

Indices = NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Disjoint rows of the packed images, int64 [n] for each stage."""

    train: Indices
    val: Indices
    test: Indices


def make_split(
    packed: PackedImages,
    split: SplitName,
    *,
    val_fraction: float,
    seed: int,
    group_duplicates: bool,
    test_fraction: float = 0.2,
    groups: NDArray[np.str_] | None = None,
    folds: int | None = None,
    fold: int = 0,
) -> Split:
    """Splits the images; those of part `extra` train, except for duplicates of validation and test images.

    Images of part `unused` are in no split.

    Args:
        packed: the images.
        split: `report`, the protocol of the paper: a random share of the training images (with those of a `val` folder)
            validates and all test images test; without test images, an equal random share is set aside for test first.
            `official`: Training trains, PublicTest validates, PrivateTest tests (or the train, val and test folders).
            `clean`: `official` without the training images whose pixels also occur in validation or test (44 images
            that PrivateTest shares with PublicTest stay in both).
            `random`: all images of the source are divided at random, whatever their part, and every class in the same
            proportions. With groups the proportions of classes and images are as close to that as a single pass over
            the groups, from the largest to the smallest, brings them.
            `test_only`: all images test, to evaluate a checkpoint on other images.
        val_fraction: share of the validation images, in (0, 1): of the training images in `report`, of all images in
            `random`.
        seed: seed of the random choice in `report` and `random`.
        group_duplicates: whether `report` and `random` keep images with identical pixels together.
        test_fraction: share of the test images in `random` without folds, in [0, 1).
        groups: str [N], a group of each image, such as the person that it shows; `random` keeps groups together. With
            `group_duplicates`, a chain of groups and duplicates stays together. Groups of part `extra` do not count.
        folds: number of equal parts for cross-validation in `random`: one part tests, so that each image is tested in
            exactly one fold. None: no cross-validation.
        fold: number of the part that tests, from 0.

    Raises:
        UserError: the source lacks a part that the split needs, has too few images or groups, or a number is not legal.
    """
    if split == "random":
        together = _together(packed, groups, group_duplicates)
        base = _random(packed, together, val_fraction, test_fraction, seed, folds, fold)
    elif groups is not None or folds is not None:
        raise UserError(f"split={split}: group_by and folds belong to split=random")
    else:
        base = _split_source(packed, split, val_fraction=val_fraction, seed=seed, group_duplicates=group_duplicates)
    extra = np.flatnonzero(packed.parts == "extra")
    if split == "test_only" or not len(extra):
        return base
    return _without_leaks(Split(np.concatenate([base.train, extra]), base.val, base.test), packed.hashes, extra)


def _own_rows(packed: PackedImages) -> Indices:
    return np.flatnonzero(~np.isin(packed.parts, ("extra", "unused")))


def _split_source(
    packed: PackedImages, split: SplitName, *, val_fraction: float, seed: int, group_duplicates: bool
) -> Split:
    rows = {part: np.flatnonzero(packed.parts == part) for part in ("train", "val", "test", "public", "private")}
    all_rows = _own_rows(packed)
    if split == "test_only":
        return Split(all_rows[:0], all_rows[:0], all_rows)
    if split == "report":
        pool = np.union1d(rows["train"], rows["val"])
        test = np.setdiff1d(all_rows, pool)
        if not len(test):
            pool, test = _random_split(pool, packed.hashes, val_fraction, seed, group_duplicates)
        train, val = _random_split(pool, packed.hashes, val_fraction, seed, group_duplicates)
        return Split(train, val, test)
    if group_duplicates:
        raise UserError(
            f"group_duplicates=true: split={split} is not random; split=report is, and split=random; "
            "split=clean drops duplicates"
        )
    official = Split(rows["train"], np.union1d(rows["val"], rows["public"]), np.union1d(rows["test"], rows["private"]))
    _require_parts(official, split)
    return official if split == "official" else _without_leaks(official, packed.hashes, official.train)


def _random_split(
    pool: Indices, hashes: NDArray[np.uint64], fraction: float, seed: int, group_duplicates: bool
) -> tuple[Indices, Indices]:
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit

    splitter = GroupShuffleSplit if group_duplicates else ShuffleSplit
    groups = hashes[pool] if group_duplicates else None
    try:
        kept, held_out = next(splitter(1, test_size=fraction, random_state=seed).split(pool, groups=groups))
    except ValueError:
        raise UserError(
            f"split=report: {len(pool)} different training images are too few to split; split=test_only tests on all"
        ) from None
    return pool[np.sort(kept)], pool[np.sort(held_out)]


def _random(
    packed: PackedImages,
    groups: Indices | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    folds: int | None,
    fold: int,
) -> Split:
    """Splits at random by class; `groups` int64 [n] are the groups of the n own images."""
    rows = _own_rows(packed)
    labels = packed.labels[rows]
    if folds is None:
        sizes = _sizes(len(rows), val_fraction, test_fraction, "test_fraction")
        sides = _deal(labels, groups, sizes, np.random.default_rng(seed))  # [n]: 0 trains, 1 validates, 2 tests
        return Split(*(rows[sides == side] for side in range(3)))
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"folds={folds} fold={fold}: folds is 2 or more, and fold from 0 to folds - 1")
    _, val_size, _ = _sizes(len(rows), val_fraction, 1 / folds, "1 / folds")
    test = _folds(packed, rows, groups, folds, seed) == fold  # [n]
    rest = np.flatnonzero(~test)
    own = None if groups is None else np.unique(groups[rest], return_inverse=True)[1]
    val_size = min(val_size, len(rest) - 1)
    sides = _deal(labels[rest], own, (len(rest) - val_size, val_size), np.random.default_rng([seed, fold]))
    return Split(rows[rest[sides == 0]], rows[rest[sides == 1]], rows[test])


def _sizes(count: int, val_fraction: float, test_fraction: float, name: str) -> tuple[int, int, int]:
    """Returns the numbers of training, validation and test images."""
    if val_fraction <= 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"split=random: val_fraction={val_fraction:g} and {name}={test_fraction:g} leave nothing to train on; "
            "both are positive, with a sum below 1 (test_fraction may be 0)"
        )
    val, test = (max(1, round(fraction * count)) if fraction else 0 for fraction in (val_fraction, test_fraction))
    if count - val - test < 1:
        raise UserError(f"split=random: {count} images are too few to split; split=test_only tests on all")
    return count - val - test, val, test


def _together(packed: PackedImages, groups: NDArray[np.str_] | None, group_duplicates: bool) -> Indices | None:
    """Returns the number of the group of each own image, int64 [n], where groups that share pixels are one."""
    keys = [packed.hashes] * group_duplicates + ([groups] if groups is not None else [])
    if not keys:
        return None
    numbers = [np.unique(key[_own_rows(packed)], return_inverse=True)[1] for key in keys]
    if len(numbers) == 1:
        return numbers[0]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Hashes and groups are the nodes of a graph, and each image joins its hash to its group.
    hashes, own = numbers[0], numbers[1] + numbers[0].max(initial=0) + 1
    nodes = own.max(initial=0) + 1
    _, components = connected_components(coo_array((np.ones(len(own)), (hashes, own)), shape=(nodes, nodes)), False)
    return np.unique(components[own], return_inverse=True)[1]


def _folds(packed: PackedImages, rows: Indices, groups: Indices | None, folds: int, seed: int) -> Indices:
    """Returns the fold of each of n rows, int64 [n]; the folds have every class in the same proportions."""
    labels, rng = packed.labels[rows], np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=len(packed.classes)).tolist()
    rare = [f"{name} ({count})" for name, count in zip(packed.classes, counts, strict=True) if 0 < count < folds]
    if rare:
        log.warning("folds=%d: not every fold tests images of class %s", folds, ", ".join(rare))
    if groups is not None:
        return _deal_groups(labels, groups, [len(rows) / folds] * folds, rng)
    if len(rows) < folds:
        raise UserError(f"folds={folds}: {len(rows)} images are fewer than folds")
    numbers = np.empty(len(rows), np.int64)
    numbers[_by_class(labels, rng)] = np.arange(len(rows)) % folds
    return numbers


def _by_class(labels: NDArray[np.int64], rng: np.random.Generator) -> Indices:
    """Returns positions, int64 [n], sorted by class and shuffled within each."""
    return np.lexsort((rng.random(len(labels)), labels))


def _deal(labels: NDArray[np.int64], groups: Indices | None, sizes: Sequence[int], rng: np.random.Generator) -> Indices:
    """Returns the side of each of n images, int64 [n], for sides of given sizes with sum n.

    Without groups the sizes are exact, and a class is off its proportion by at most one image in each side. If it had
    no image in side 0, which trains, one of its images, drawn at random, goes there in exchange for one of another
    class.
    """
    if groups is not None:
        return _deal_groups(labels, groups, sizes, rng)
    sides = np.zeros(len(labels), np.int64)
    for side in range(1, len(sizes)):
        rest = np.flatnonzero(sides == 0)
        order = rest[_by_class(labels[rest], rng)]
        # Evenly spaced images of this order are as many of each class as its proportion asks for.
        steps = np.arange(len(order) + 1) * sizes[side] // len(order)
        sides[order[np.diff(steps) > 0]] = side
    for label in np.setdiff1d(labels, labels[sides == 0]):
        own = rng.choice(np.flatnonzero(labels == label))
        most = np.bincount(labels[sides == 0]).argmax()
        other = rng.choice(np.flatnonzero((labels == most) & (sides == 0)))
        sides[other], sides[own] = sides[own], 0
    return sides


def _deal_groups(
    labels: NDArray[np.int64], groups: Indices, sizes: Sequence[float], rng: np.random.Generator
) -> Indices:
    """Returns the side of each of n images, int64 [n]; whole groups go to one side.

    Each group, from the largest to the smallest, goes to the side that lacks the largest share of what the group has
    and the side should have: images of its classes, and images at all. So each side gets groups of every size.
    """
    number = int(groups.max(initial=-1)) + 1
    used = [side for side, size in enumerate(sizes) if size > 0]
    if number < len(used):
        groups_left = "1 group is" if number == 1 else f"{number} groups are"
        raise UserError(f"split=random: {groups_left} too few for {len(used)} parts; give finer groups or fewer folds")
    counts = np.zeros((number, int(labels.max()) + 2))  # [G, K + 1], the last column for all images
    np.add.at(counts, (groups, labels), 1)
    counts[:, -1] = counts.sum(1)
    portions = counts / np.maximum(counts.sum(0), 1)  # [G, K + 1], of all images of the class
    targets = np.array(sizes)[:, np.newaxis] / len(labels)  # [sides, 1]
    lacking = np.repeat(targets, counts.shape[1], 1)  # [sides, K + 1]
    sides = np.empty(number, np.int64)
    order = np.lexsort((rng.random(number), -counts[:, -1]))
    empty = set(used)
    for done, group in enumerate(order):
        # The last groups go to sides that have none.
        candidates = list(empty) if number - done <= len(empty) else used
        side = candidates[int(np.argmax(lacking[candidates] / targets[candidates] @ counts[group]))]
        sides[group] = side
        lacking[side] -= portions[group]
        empty.discard(side)
    return sides[groups]


def _require_parts(split: Split, name: SplitName) -> None:
    empty = [part for part in ("train", "val", "test") if not len(getattr(split, part))]
    if empty:
        raise UserError(
            f"split={name}: the data has no {' and no '.join(empty)} images (FER2013's PublicTest and PrivateTest are "
            "recognised by file name or Usage, other data by folders train, val and test, or by split_column= of a "
            "table); split=report and split=random need no parts, and split=test_only tests all images"
        )


def _without_leaks(split: Split, hashes: NDArray[np.uint64], suspects: Indices) -> Split:
    """Removes from training those `suspects` whose pixels also occur in validation or test."""
    held_out = np.concatenate([hashes[split.val], hashes[split.test]])
    leaks = suspects[np.isin(hashes[suspects], held_out)]
    return Split(split.train[~np.isin(split.train, leaks)], split.val, split.test)
