"""Splits of the images into training, validation and test."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotion.data.packed import PackedImages
from emotion.errors import UserError

SplitName = Literal["report", "official", "clean", "test_only"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Disjoint rows of the packed images, int64 [n] for each stage."""

    train: Indices
    val: Indices
    test: Indices


def make_split(
    packed: PackedImages, split: SplitName, *, val_fraction: float, seed: int, group_duplicates: bool
) -> Split:
    """Splits the images; those of part `extra` train, except for duplicates of validation and test images.

    Args:
        packed: the images.
        split: `report`, the protocol of the paper: a random share of the training images (with those of a `val` folder)
            validates and all test images test; without test images, an equal random share is set aside for test first.
            `official`: Training trains, PublicTest validates, PrivateTest tests (or the train, val and test folders).
            `clean`: `official` without the training images whose pixels also occur in validation or test (44 images
            that PrivateTest shares with PublicTest stay in both).
            `test_only`: all images test, to evaluate a checkpoint on other images.
        val_fraction: share of the validation images in `report`, in (0, 1).
        seed: seed of the random choice in `report`.
        group_duplicates: whether `report` keeps images with identical pixels together.

    Raises:
        UserError: the source lacks a part that the split needs, or has too few images.
    """
    base = _split_source(packed, split, val_fraction=val_fraction, seed=seed, group_duplicates=group_duplicates)
    extra = np.flatnonzero(packed.parts == "extra")
    if split == "test_only" or not len(extra):
        return base
    return _without_leaks(Split(np.concatenate([base.train, extra]), base.val, base.test), packed.hashes, extra)


def _split_source(
    packed: PackedImages, split: SplitName, *, val_fraction: float, seed: int, group_duplicates: bool
) -> Split:
    rows = {part: np.flatnonzero(packed.parts == part) for part in ("train", "val", "test", "public", "private")}
    all_rows = np.flatnonzero(packed.parts != "extra")
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
            f"group_duplicates=true: split={split} is not random; split=report is, split=clean drops duplicates"
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


def _require_parts(split: Split, name: SplitName) -> None:
    empty = [part for part in ("train", "val", "test") if not len(getattr(split, part))]
    if empty:
        raise UserError(
            f"split={name}: the data has no {' and no '.join(empty)} images (FER2013's PublicTest and PrivateTest are "
            "recognised by file name or Usage, other data by folders train, val and test); split=report needs no parts"
        )


def _without_leaks(split: Split, hashes: NDArray[np.uint64], suspects: Indices) -> Split:
    """Removes from training those `suspects` whose pixels also occur in validation or test."""
    held_out = np.concatenate([hashes[split.val], hashes[split.test]])
    leaks = suspects[np.isin(hashes[suspects], held_out)]
    return Split(split.train[~np.isin(split.train, leaks)], split.val, split.test)
