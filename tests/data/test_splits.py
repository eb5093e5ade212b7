from dataclasses import astuple

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit

from emotion.data.packed import PackedImages
from emotion.data.splits import Split, make_split
from emotion.errors import UserError

FER2013 = {"train": 28709, "public": 3589, "private": 3589}
SMALL = {"train": 80, "public": 10, "private": 10}
FOLDERS = {"train": 80, "val": 10, "test": 10}


def fake(parts: dict[str, int], hashes=None, shuffled: bool = True) -> PackedImages:
    """Returns black images with these parts and hashes, shuffled so that the parts mix."""
    names = np.repeat(list(parts), list(parts.values()))
    if shuffled:
        names = np.random.default_rng(0).permutation(names)
    count = len(names)
    hashes = np.arange(count) if hashes is None else hashes
    return PackedImages(
        images=np.zeros((count, 1, 1, 1), np.uint8),
        labels=np.zeros(count, np.int64),
        parts=names,
        names=np.array([f"image {row}" for row in range(count)]),
        hashes=np.asarray(hashes, np.uint64),
        skipped=(),
    )


def split(packed: PackedImages, name: str, *, val_fraction=0.2, seed=0, group_duplicates=False) -> Split:
    return make_split(packed, name, val_fraction=val_fraction, seed=seed, group_duplicates=group_duplicates)


def of_part(packed: PackedImages, *parts: str) -> list[int]:
    return np.flatnonzero(np.isin(packed.parts, parts)).tolist()


def assert_disjoint_and_complete(division: Split, rows: list[int]):
    assert sorted(np.concatenate(astuple(division)).tolist()) == sorted(rows)


def test_report_has_the_sizes_of_a_shuffle_split():
    packed = fake(FER2013)
    report = split(packed, "report")
    assert [len(part) for part in astuple(report)] == [22967, 5742, 7178]
    kept, held_out = next(ShuffleSplit(1, test_size=0.2, random_state=0).split(np.empty(28709)))
    assert [len(kept), len(held_out)] == [22967, 5742]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.333])
def test_val_fraction_sets_the_share_that_validates(fraction):
    report = split(fake(SMALL), "report", val_fraction=fraction)
    assert len(report.val) == np.ceil(80 * fraction)
    assert len(report.train) + len(report.val) == 80


@pytest.mark.parametrize("group_duplicates", [False, True])
def test_report_splits_the_training_part_by_seed_and_tests_all_test_images(group_duplicates):
    packed = fake(SMALL)
    divisions = [split(packed, "report", seed=seed, group_duplicates=group_duplicates) for seed in (3, 3, 4)]
    for division in divisions:
        assert_disjoint_and_complete(division, list(range(100)))
        assert division.test.tolist() == of_part(packed, "public", "private")
    same, again, other = divisions
    assert same.val.tolist() == again.val.tolist()
    assert same.train.tolist() == again.train.tolist()
    assert set(same.val.tolist()) != set(other.val.tolist())


def test_report_shuffles_before_it_splits():
    validating = split(fake(SMALL, shuffled=False), "report").val
    assert validating.min() < 20
    assert validating.max() >= 60
    assert (np.diff(validating) > 1).any()


def test_report_pools_train_and_val_folders():
    packed = fake(FOLDERS)
    report = split(packed, "report")
    assert [len(part) for part in astuple(report)] == [72, 18, 10]
    assert report.test.tolist() == of_part(packed, "test")
    assert_disjoint_and_complete(report, list(range(100)))


def test_report_sets_a_test_part_aside_where_there_is_none():
    report = split(fake({"train": 100}), "report")
    assert_disjoint_and_complete(report, list(range(100)))
    assert [len(part) for part in astuple(report)] == [64, 16, 20]


def test_group_duplicates_applies_to_a_test_part_that_is_set_aside():
    packed = fake({"train": 100}, hashes=np.arange(100) // 2)
    report = split(packed, "report", group_duplicates=True)
    assert_disjoint_and_complete(report, list(range(100)))
    assert [len(part) for part in astuple(report)] == [64, 16, 20]
    train, val, test = (set(packed.hashes[part].tolist()) for part in astuple(report))
    assert train.isdisjoint(val)
    assert (train | val).isdisjoint(test)


@pytest.mark.parametrize("seed", range(5))
def test_group_duplicates_keeps_identical_images_together(seed):
    hashes = np.random.default_rng(seed).integers(40, size=100)
    packed = fake(SMALL, hashes)
    grouped = split(packed, "report", seed=seed, group_duplicates=True)
    assert not set(hashes[grouped.train]) & set(hashes[grouped.val])
    assert 8 <= len(grouped.val) <= 32
    plain = split(packed, "report", seed=seed)
    assert set(hashes[plain.train]) & set(hashes[plain.val])


@pytest.mark.parametrize(
    ("parts", "val", "test"), [(SMALL, "public", "private"), (FOLDERS, "val", "test")], ids=["fer2013", "folders"]
)
def test_official_takes_the_parts_as_they_are(parts, val, test):
    packed = fake(parts)
    first, second = (split(packed, "official", seed=seed) for seed in (0, 1))
    assert first.train.tolist() == second.train.tolist() == of_part(packed, "train")
    assert first.val.tolist() == second.val.tolist() == of_part(packed, val)
    assert first.test.tolist() == second.test.tolist() == of_part(packed, test)


@pytest.mark.parametrize("parts", [SMALL, FOLDERS], ids=["fer2013", "folders"])
@pytest.mark.parametrize("seed", range(3))
def test_clean_drops_exactly_the_training_images_that_occur_in_validation_or_test(parts, seed):
    hashes = np.random.default_rng(seed).integers(150, size=100)
    packed = fake(parts, hashes)
    official, clean = split(packed, "official"), split(packed, "clean")
    assert clean.val.tolist() == official.val.tolist()
    assert clean.test.tolist() == official.test.tolist()
    held_out = {hashes[row] for row in range(100) if packed.parts[row] != "train"}
    expected = [row for row in range(100) if packed.parts[row] == "train" and hashes[row] not in held_out]
    assert clean.train.tolist() == expected
    assert 0 < len(expected) < len(official.train)


def test_clean_keeps_duplicates_among_training_images():
    packed = fake(SMALL, hashes=[7 if part == "train" else 8 for part in fake(SMALL).parts])
    assert len(split(packed, "clean").train) == 80


@pytest.mark.parametrize("parts", [{"train": 3}, {"test": 3}, SMALL])
def test_test_only_tests_everything(parts):
    packed = fake(parts)
    division = split(packed, "test_only")
    assert division.test.tolist() == list(range(len(packed)))
    assert len(division.train) == len(division.val) == 0


@pytest.mark.parametrize("name", ["official", "clean"])
@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"train": 9}, "no val and no test images"),
        ({"train": 9, "test": 9}, "no val images"),
        ({"train": 9, "public": 9}, "no test images"),
        ({"public": 9, "private": 9}, "no train images"),
    ],
)
def test_splits_by_part_name_the_missing_part(name, parts, missing):
    with pytest.raises(UserError, match=rf"^split={name}: the data has {missing} .*split=report") as caught:
        split(fake(parts), name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["official", "clean"])
def test_group_duplicates_belongs_to_report(name):
    with pytest.raises(UserError, match=f"^group_duplicates=true: split={name} is not random; split=report is"):
        split(fake(SMALL), name, group_duplicates=True)


@pytest.mark.parametrize(
    ("parts", "group_duplicates"),
    [({"test": 9}, False), ({"train": 1}, False), ({"train": 2}, False), ({"train": 9, "test": 9}, True)],
    ids=["only test", "one image", "two images", "one group"],
)
def test_report_refuses_too_few_images(parts, group_duplicates):
    hashes = np.zeros(sum(parts.values())) if group_duplicates else None
    with pytest.raises(UserError, match=r"split=report"):
        split(fake(parts, hashes), "report", group_duplicates=group_duplicates)


@pytest.mark.real
def test_clean_split_of_real_fer2013(real_packed):
    clean = split(real_packed, "clean")
    assert [len(part) for part in astuple(clean)] == [28006, 3589, 3589]
    # 703 training images, compared by pixels, not by hashes.
    held_out = {real_packed.images[row].tobytes() for row in [*clean.val, *clean.test]}
    dropped = np.setdiff1d(np.flatnonzero(real_packed.parts == "train"), clean.train)
    assert len(dropped) == 28709 - 28006
    assert all(real_packed.images[row].tobytes() in held_out for row in dropped)
    assert not any(real_packed.images[row].tobytes() in held_out for row in clean.train)


@pytest.mark.parametrize("name", ["report", "official", "clean"])
def test_extra_images_train_except_for_duplicates_of_held_out_images(name):
    packed = fake(SMALL | {"extra": 6})
    extra, public, private = (of_part(packed, part) for part in ("extra", "public", "private"))
    packed.hashes[extra[0]] = packed.hashes[private[3]]
    packed.hashes[extra[1]] = packed.hashes[public[2]]
    division = split(packed, name)
    assert set(extra[2:]) <= set(division.train)
    assert not set(extra[:2]) & set(np.concatenate(astuple(division)))
    assert not set(extra) & {*division.val, *division.test}
    alone = split(fake_without_extra(packed), name)
    assert [len(part) for part in (division.val, division.test)] == [len(alone.val), len(alone.test)]
    assert len(division.train) == len(alone.train) + 4


def test_extra_images_do_not_test():
    packed = fake(SMALL | {"extra": 6})
    assert sorted(split(packed, "test_only").test) == of_part(packed, "train", "public", "private")


def fake_without_extra(packed: PackedImages) -> PackedImages:
    kept = packed.parts != "extra"
    arrays = {name: getattr(packed, name)[kept] for name in ("images", "labels", "parts", "names", "hashes")}
    return PackedImages(**arrays, skipped=())
