import hashlib
from dataclasses import astuple

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit, StratifiedGroupKFold, StratifiedKFold

from emotion.data.packed import PackedImages
from emotion.data.splits import Split, make_split
from emotion.errors import UserError

FER2013 = {"train": 28709, "public": 3589, "private": 3589}
SMALL = {"train": 80, "public": 10, "private": 10}
FOLDERS = {"train": 80, "val": 10, "test": 10}


def fake(parts: dict[str, int], hashes=None, shuffled: bool = True, labels=None) -> PackedImages:
    """Returns black images with these parts, hashes and labels, shuffled so that the parts mix."""
    names = np.repeat(list(parts), list(parts.values()))
    if shuffled:
        names = np.random.default_rng(0).permutation(names)
    count = len(names)
    hashes = np.arange(count) if hashes is None else hashes
    return PackedImages(
        images=np.zeros((count, 1, 1, 1), np.uint8),
        labels=np.zeros(count, np.int64) if labels is None else np.asarray(labels, np.int64),
        parts=names,
        names=np.array([f"image {row}" for row in range(count)]),
        hashes=np.asarray(hashes, np.uint64),
        skipped=(),
    )


def split(packed: PackedImages, name: str, *, val_fraction=0.2, seed=0, group_duplicates=False, **settings) -> Split:
    return make_split(packed, name, val_fraction=val_fraction, seed=seed, group_duplicates=group_duplicates, **settings)


def rows_of(divided: Split) -> list[list[int]]:
    return [rows.tolist() for rows in astuple(divided)]


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


def test_unused_images_are_in_no_split():
    for name in ("report", "official", "clean", "random", "test_only"):
        packed = fake({"train": 60, "val": 15, "test": 15, "unused": 10})
        packed.labels[packed.parts == "unused"] = -1
        used = set(range(100)) - set(of_part(packed, "unused"))
        assert_disjoint_and_complete(split(packed, name), sorted(used))


@pytest.mark.parametrize(
    ("name", "group_duplicates", "digest"),
    [
        ("report", False, "ad0b417fdf6c3dec"),
        ("report", True, "a10a324edddc50db"),
        ("official", False, "1e3e72d79e4a224c"),
        ("clean", False, "b661efc47b8d1b7b"),
        ("test_only", False, "828e8810dcffd846"),
        ("random", False, "91a2db9bfb681346"),
        ("random folds", False, "524717ac0ba03bbf"),
    ],
)
def test_the_rows_of_a_seed_are_those_of_earlier_versions(name, group_duplicates, digest):
    packed = fake(SMALL, np.random.default_rng(0).integers(150, size=100))
    name, _, folds = name.partition(" ")
    own = {"folds": 5, "fold": 2} if folds else {}
    rows = repr(rows_of(split(packed, name, seed=3, group_duplicates=group_duplicates, **own)))
    assert hashlib.blake2b(rows.encode(), digest_size=8).hexdigest() == digest


# split=random

RARE = np.repeat(np.arange(7), [40, 4, 41, 72, 50, 48, 32])
"""Labels of 287 images with FER2013's imbalance."""


def labelled(labels=RARE, hashes=None) -> PackedImages:
    return fake({"train": len(labels) - 20, "public": 10, "private": 10}, hashes, labels=labels)


@pytest.mark.parametrize(("val_fraction", "test_fraction"), [(0.2, 0.2), (0.1, 0.35), (0.5, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_random_divides_every_class_alike_whatever_the_parts(val_fraction, test_fraction, seed):
    packed = labelled()
    division = split(packed, "random", val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert_disjoint_and_complete(division, list(range(287)))
    assert [len(division.val), len(division.test)] == [round(287 * val_fraction), round(287 * test_fraction)]
    sizes = np.bincount(RARE)
    for rows, fraction in ((division.val, val_fraction), (division.test, test_fraction)):
        # An image more or less, and for validation another, since it is drawn from what the test leaves.
        assert (np.abs(np.bincount(packed.labels[rows], minlength=7) - sizes * fraction) <= 2).all()
    assert {"train", "public", "private"} == set(packed.parts[division.train].tolist())


def test_random_tests_a_fifth_by_default():
    division = make_split(labelled(), "random", val_fraction=0.1, seed=0, group_duplicates=False)
    assert [len(rows) for rows in astuple(division)] == [287 - 29 - 57, 29, 57]


def test_random_depends_on_the_seed_alone():
    first, again, other = (split(labelled(), "random", seed=seed) for seed in (3, 3, 4))
    assert rows_of(first) == rows_of(again)
    assert rows_of(first)[1] != rows_of(other)[1]
    assert rows_of(first)[2] != rows_of(other)[2]


def test_random_draws_each_image_equally_often():
    # Also the first and the last of a class, so that nothing of the order of files stays.
    counts = np.zeros(287)
    for seed in range(400):
        counts[split(labelled(), "random", seed=seed).test] += 1
    # 400 draws with probability 0.2: mean 80, standard deviation 8; rare classes differ by rounding.
    frequent = counts[packed_class_sizes() > 30]
    assert 80 - 5 * 8 < frequent.min() <= frequent.max() < 80 + 5 * 8


def packed_class_sizes() -> np.ndarray:
    return np.bincount(RARE)[RARE]


def persons(seed: int, number: int = 60) -> tuple[PackedImages, np.ndarray]:
    """Returns images of persons with one to thirty images each, and the person of each image."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 31, number)
    owners = np.repeat(np.arange(number), sizes)
    labels = rng.choice(7, len(owners), p=np.bincount(RARE) / len(RARE))
    return fake({"train": len(owners)}, labels=labels), np.array([f"S{owner}" for owner in owners])


@pytest.mark.parametrize("seed", range(5))
def test_random_keeps_groups_together_and_classes_in_proportion(seed):
    packed, owners = persons(seed)
    division = split(packed, "random", seed=seed, groups=owners, val_fraction=0.1, test_fraction=0.2)
    assert_disjoint_and_complete(division, list(range(len(packed))))
    train, val, test = (set(owners[rows].tolist()) for rows in astuple(division))
    assert not train & val
    assert not (train | val) & test
    for rows, fraction in ((division.val, 0.1), (division.test, 0.2)):
        assert len(rows) / len(packed) == pytest.approx(fraction, abs=0.01)
        counts = np.bincount(packed.labels[rows], minlength=7)
        expected = np.bincount(packed.labels, minlength=7) * fraction
        assert (np.abs(counts - expected) <= 8).all()  # of persons with up to 30 images


def test_persons_of_many_images_are_held_out_as_often_as_others():
    packed, owners = persons(0)
    held_out = np.zeros(2)  # of the persons with the most and with the fewest images
    names, counts = np.unique(owners, return_counts=True)
    extremes = [set(names[np.argsort(counts)[part]].tolist()) for part in (slice(-15, None), slice(15))]
    for seed in range(40):
        division = split(packed, "random", seed=seed, groups=owners)
        others = {*owners[division.val].tolist(), *owners[division.test].tolist()}
        held_out += [len(others & members) for members in extremes]
    assert (held_out / (40 * 15)).tolist() == pytest.approx([0.4, 0.4], abs=0.1)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("rare", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_every_class_trains(place, rare, seed):
    sizes = [40, 40, 40]
    sizes[place] = rare
    packed = labelled(np.repeat(np.arange(3), sizes))
    division = split(packed, "random", seed=seed)
    assert_disjoint_and_complete(division, list(range(len(packed))))
    assert set(packed.labels[division.train].tolist()) == {0, 1, 2}
    assert len(division.val) == len(division.test) == round(0.2 * sum(sizes))


def test_group_duplicates_keeps_identical_images_together_in_random():
    hashes = np.random.default_rng(1).integers(200, size=287)
    packed = labelled(hashes=hashes)
    sides = [set(hashes[rows].tolist()) for rows in astuple(split(packed, "random", group_duplicates=True))]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    plain = [set(hashes[rows].tolist()) for rows in astuple(split(packed, "random"))]
    assert plain[0] & plain[1]
    assert plain[0] & plain[2]


@pytest.mark.parametrize("seed", range(5))
def test_chains_of_groups_and_duplicates_stay_together(seed):
    # Persons a and b share an image, b and c another; d to m stand alone.
    owners = np.array([*"aabbcc", *"ddeeffgghhiijjkkllmm"])
    hashes = np.arange(26)
    hashes[1], hashes[3] = hashes[2], hashes[4]
    packed = fake({"train": 26}, hashes)
    division = split(packed, "random", seed=seed, groups=owners, group_duplicates=True)
    side = np.empty(26, int)
    for number, rows in enumerate(astuple(division)):
        side[rows] = number
    assert len(set(side[:6].tolist())) == 1
    assert all(side[row] == side[row + 1] for row in range(6, 26, 2))
    assert set(side.tolist()) == {0, 1, 2}


def test_every_part_gets_a_group():
    # The first person has nearly all images.
    owners = np.array(["a"] * 98 + ["b", "c"])
    sides = rows_of(split(fake({"train": 100}), "random", groups=owners))
    assert sides[0] == list(range(98))
    assert sorted(sides[1] + sides[2]) == [98, 99]
    assert sides[1]
    assert sides[2]


def test_groups_of_extra_images_do_not_count():
    packed = fake({"train": 90, "extra": 10}, shuffled=False)
    owners = np.array([f"S{row % 9}" for row in range(100)])
    division = split(packed, "random", groups=owners)
    assert set(range(90, 100)) <= set(division.train.tolist())
    own = division.train[division.train < 90]
    assert not set(owners[own].tolist()) & set(owners[division.test].tolist())


def test_extra_images_train_beside_random_except_for_duplicates():
    packed = fake(SMALL | {"extra": 6})
    own = rows_of(split(fake_without_extra(packed), "random"))
    rows = np.flatnonzero(packed.parts != "extra")
    extra = of_part(packed, "extra")
    packed.hashes[extra[0]] = packed.hashes[rows[own[2][3]]]
    packed.hashes[extra[1]] = packed.hashes[rows[own[1][2]]]
    packed.hashes[extra[2]] = packed.hashes[rows[own[0][1]]]
    train, val, test = rows_of(split(packed, "random"))
    assert train == [*rows[own[0]].tolist(), *extra[2:]]
    assert [val, test] == [rows[own[1]].tolist(), rows[own[2]].tolist()]


# Cross-validation


@pytest.mark.parametrize("grouped", [False, True])
def test_every_image_is_tested_in_exactly_one_fold(grouped):
    packed, owners = persons(0)
    settings = {"groups": owners} if grouped else {}
    divisions = [split(packed, "random", folds=5, fold=fold, val_fraction=0.1, seed=7, **settings) for fold in range(5)]
    count = len(packed)
    assert sorted(np.concatenate([division.test for division in divisions]).tolist()) == list(range(count))
    sizes = np.bincount(packed.labels, minlength=7)
    for division in divisions:
        assert_disjoint_and_complete(division, list(range(count)))
        tested = np.bincount(packed.labels[division.test], minlength=7)
        if grouped:
            parts = [set(owners[rows].tolist()) for rows in astuple(division)]
            assert not parts[0] & parts[1]
            assert not (parts[0] | parts[1]) & parts[2]
            assert len(division.test) / count == pytest.approx(0.2, abs=0.01)
            assert len(division.val) / count == pytest.approx(0.1, abs=0.01)
            assert (np.abs(tested - sizes / 5) <= 6).all()
        else:
            assert len(division.test) in (count // 5, count // 5 + 1)
            assert len(division.val) == round(0.1 * count)
            assert (np.abs(tested - sizes / 5) < 1).all()


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_are_as_even_as_those_of_scikit_learn():
    packed = labelled()
    theirs = [
        np.bincount(packed.labels[test], minlength=7).tolist()
        for _, test in StratifiedKFold(5, shuffle=True, random_state=0).split(packed.labels, packed.labels)
    ]
    ours = [
        np.bincount(packed.labels[split(packed, "random", folds=5, fold=fold).test], minlength=7).tolist()
        for fold in range(5)
    ]
    assert np.sort(ours, 0).tolist() == np.sort(theirs, 0).tolist()
    assert np.ptp(np.sum(ours, 1)) <= 1


def test_folds_of_groups_are_more_even_than_those_of_scikit_learn():
    ours, theirs = [], []
    for seed in range(8):
        packed, owners = persons(seed)
        expected = np.bincount(packed.labels, minlength=7) / 5
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(packed.labels, packed.labels, owners)
        for fold, (_, test) in enumerate(folds):
            own = split(packed, "random", folds=5, fold=fold, groups=owners, seed=seed).test
            for differences, rows in ((ours, own), (theirs, test)):
                differences.append(np.bincount(packed.labels[rows], minlength=7) - expected)
    assert np.abs(ours).sum() < np.abs(theirs).sum()
    assert np.abs(ours).max() < np.abs(theirs).max()
    assert np.abs(np.sum(ours, 1)).max() < np.abs(np.sum(theirs, 1)).max()


def test_folds_depend_on_the_seed():
    tests = [rows_of(split(labelled(), "random", folds=4, fold=1, seed=seed))[2] for seed in (1, 1, 2)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_a_class_with_fewer_images_than_folds_is_named_in_the_log(caplog):
    split(labelled(), "random", folds=5)
    assert caplog.messages == ["folds=5: not every fold tests images of class disgust (4)"]
    split(labelled(), "random", folds=4)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5, "fold": 5}, "folds=5 fold=5: folds is 2 or more, and fold from 0 to folds - 1"),
        ({"folds": 5, "fold": -1}, "folds=5 fold=-1: folds is 2 or more"),
        ({"folds": 1}, "folds=1 fold=0: folds is 2 or more"),
        (
            {"folds": 2, "val_fraction": 0.5},
            "split=random: val_fraction=0.5 and 1 / folds=0.5 leave nothing to train on",
        ),
        (
            {"val_fraction": 0.6, "test_fraction": 0.4},
            "split=random: val_fraction=0.6 and test_fraction=0.4 leave nothing",
        ),
        ({"test_fraction": -0.1}, "split=random: val_fraction=0.2 and test_fraction=-0.1 leave nothing"),
        ({"val_fraction": 0.0}, "split=random: val_fraction=0 and test_fraction=0.2 leave nothing"),
        ({"groups": np.array(["a", "b"] * 50)}, "split=random: 2 groups are too few for 3 parts; give finer groups"),
        ({"groups": np.array(["a"] * 50 + ["b"] * 50), "folds": 3}, "split=random: 2 groups are too few for 3 parts"),
        ({"groups": np.array(["a"] * 50 + ["b"] * 50), "folds": 2}, "split=random: 1 group is too few for 2 parts"),
    ],
)
def test_random_refuses_what_cannot_be_divided(settings, message):
    with pytest.raises(UserError) as caught:
        split(fake(SMALL), "random", **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "settings"), [(2, {}), (0, {}), (2, {"folds": 2}), (4, {"folds": 5})])
def test_random_refuses_too_few_images(count, settings):
    with pytest.raises(UserError, match=r"^(split=random: \d+ images are too few|folds=5: 4 images are fewer)"):
        split(fake({"train": count}), "random", **settings)
    assert [len(rows) for rows in astuple(split(fake({"train": 3}), "random"))] == [1, 1, 1]


@pytest.mark.parametrize("name", ["report", "official", "clean", "test_only"])
@pytest.mark.parametrize("settings", [{"groups": np.array(["a"] * 100)}, {"folds": 2}])
def test_groups_and_folds_belong_to_random(name, settings):
    with pytest.raises(UserError, match=f"^split={name}: group_by and folds belong to split=random$"):
        split(fake(SMALL), name, **settings)


@pytest.mark.parametrize("fold", [0, 1])
def test_folds_of_two_persons_leave_no_group_to_validate_on(fold):
    packed = fake({"train": 20})
    with pytest.raises(UserError, match=r"^split=random: 1 group is too few for 2 parts"):
        split(packed, "random", groups=np.repeat(["a", "b"], 10), folds=2, fold=fold)


def test_every_fold_of_unequal_groups_has_all_parts():
    for fold in range(2):
        divided = split(
            fake({"train": 43}), "random", groups=np.repeat(["a", "b", "c", "d"], (14, 12, 7, 10)), folds=2, fold=fold
        )
        assert all(len(rows) for rows in rows_of(divided))
