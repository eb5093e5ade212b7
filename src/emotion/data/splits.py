"""Which images train, validate and test."""

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
    """Row numbers int64 [n] into the packed images, disjoint."""

    train: Indices
    val: Indices
    test: Indices


def make_split(
    packed: PackedImages, split: SplitName, *, val_fraction: float, seed: int, group_duplicates: bool
) -> Split:
    """Divides the images of a source; those of part `extra` train, if they are not pixel for pixel among the others.

    Args:
        packed: the images.
        split: `report`: a shuffled share of the training images validates (those of a `val` folder are shuffled in),
            all test images test; where there are none, the same share is set aside first;
            `official`: Training trains, PublicTest validates, PrivateTest tests (or train / val / test folders);
            `clean`: `official` without the training images whose pixels also occur in validation or test (44 images
            that PrivateTest shares with PublicTest stay in both);
            `test_only`: everything tests, for evaluating a checkpoint on images of one's own.
        val_fraction: the share that validates in `report`, in (0, 1).
        seed: of the shuffle in `report`.
        group_duplicates: keep pixel-identical images on one side of the cut that `report` makes.

    Raises:
        UserError: the source lacks the parts that the split needs.
    """
    own = _divide(packed, split, val_fraction=val_fraction, seed=seed, group_duplicates=group_duplicates)
    extra = np.flatnonzero(packed.parts == "extra")
    if split == "test_only" or not len(extra):
        return own
    return _without_leaks(Split(np.concatenate([own.train, extra]), own.val, own.test), packed.hashes, extra)


def _divide(packed: PackedImages, split: SplitName, *, val_fraction: float, seed: int, group_duplicates: bool) -> Split:
    rows = {part: np.flatnonzero(packed.parts == part) for part in ("train", "val", "test", "public", "private")}
    everything = np.flatnonzero(packed.parts != "extra")
    if split == "test_only":
        return Split(everything[:0], everything[:0], everything)
    if split == "report":
        pool = np.union1d(rows["train"], rows["val"])
        held_out = np.setdiff1d(everything, pool)
        if not len(held_out):
            pool, held_out = _cut(pool, packed.hashes, val_fraction, seed, group_duplicates)
        train, val = _cut(pool, packed.hashes, val_fraction, seed, group_duplicates)
        return Split(train, val, held_out)
    if group_duplicates:
        raise UserError(
            "group_duplicates=true needs split=report, the only one that cuts; split=clean drops duplicates"
        )
    official = Split(rows["train"], np.union1d(rows["val"], rows["public"]), np.union1d(rows["test"], rows["private"]))
    _require_parts(official, split)
    return official if split == "official" else _without_leaks(official, packed.hashes, official.train)


def _cut(
    pool: Indices, hashes: NDArray[np.uint64], fraction: float, seed: int, group_duplicates: bool
) -> tuple[Indices, Indices]:
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit

    splitter = GroupShuffleSplit if group_duplicates else ShuffleSplit
    groups = hashes[pool] if group_duplicates else None
    try:
        kept, held_out = next(splitter(1, test_size=fraction, random_state=seed).split(pool, groups=groups))
    except ValueError:
        raise UserError(
            f"split=report: {len(pool)} different training images are too few to cut; split=test_only tests on all"
        ) from None
    return pool[np.sort(kept)], pool[np.sort(held_out)]


def _require_parts(split: Split, name: SplitName) -> None:
    empty = [part for part in ("train", "val", "test") if not len(getattr(split, part))]
    if empty:
        raise UserError(
            f"split={name}: the data has no {' and no '.join(empty)} images (FER2013's PublicTest and PrivateTest are "
            "known by file name or Usage; other data needs folders train, val and test); split=report makes its own cut"
        )


def _without_leaks(split: Split, hashes: NDArray[np.uint64], suspects: Indices) -> Split:
    """Leaves out those of some training images whose pixels also occur in validation or test."""
    held_out = np.concatenate([hashes[split.val], hashes[split.test]])
    leaks = suspects[np.isin(hashes[suspects], held_out)]
    return Split(split.train[~np.isin(split.train, leaks)], split.val, split.test)
