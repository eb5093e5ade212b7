import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import data_module, make_augmentation, make_mix
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from emotion.data.augment import Augmentation, RandomAffine
from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError
from emotion.settings import AugmentationSettings, BatchSettings, DataSettings

BALANCES = ["none", "class_weights", "weighted_sampler", "offline"]
AUGMENTATIONS = {"flip": 0.5, "brightness": 0.2, "contrast": 0.2, "erase": 0.5, "mixup": 0.2, "cutmix": 1.0}
TRAIN_COUNTS = (5, 2, 4, 8, 6, 4, 3)
# Every image has a single tone, which identifies it after any affine transform:
# first tone of its part + 10 * class id + number of the image.
FIRST_TONES = {"train": 0, "val": 80, "test": 160}


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    """A tree with train, val and test folders in which every image has a different tone."""
    root = tmp_path_factory.mktemp("tones")
    for part, first in FIRST_TONES.items():
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for number in range(TRAIN_COUNTS[label] if part == "train" else 2):
                image = Image.new("L", (48, 48), first + 10 * label + number)
                image.save(root / part / name / f"{number}.png")
    return root


TRAIN_TONES = sorted(10 * label + number for label, count in enumerate(TRAIN_COUNTS) for number in range(count))
VAL_TONES, TEST_TONES = (
    [first + 10 * label + number for label in range(7) for number in (0, 1)] for first in (80, 160)
)


def tone_data(root: Path, **options) -> EmotionDataModule:
    settings = {"data": "folder", "data_dir": str(root), "split": "official", "batch_size": 8}
    return data_module(**settings | options)


def in_process(data: EmotionDataModule, rank: int = 0, world_size: int = 1, max_epochs: int | None = 1):
    """Attaches the data to a minimal trainer."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=rank, world_size=world_size, max_epochs=max_epochs)
    return data


def drawn(loader, epoch: int = 0) -> tuple[list[int], list[int]]:
    """Returns the tones and labels of one epoch."""
    loader.set_epoch(epoch)
    tones, labels = [], []
    for batch in loader:
        images = batch.inputs if batch.inputs.dtype == torch.uint8 else batch.inputs * 255
        tones += images[:, 0, 24, 24].float().round().int().tolist()
        labels += batch.labels.tolist()
    return tones, labels


def test_settings_are_plain_values_from_which_the_data_is_rebuilt(tones):
    options = {"balance": "offline", "seed": 3, "val_fraction": 0.3, "split": "report", "augment": False}
    data = tone_data(tones, **options)
    assert options.items() <= dict(data.hparams).items()
    written = json.loads(json.dumps(dict(data.hparams)))
    assert written == dict(data.hparams)
    rebuilt = data_module(**written)
    assert drawn(rebuilt.train_dataloader()) == drawn(data.train_dataloader())
    assert drawn(rebuilt.val_dataloader()) == drawn(data.val_dataloader())


def test_every_setting_is_stored():
    groups = (DataSettings, BatchSettings, AugmentationSettings)
    defaults = {name: field.default for group in groups for name, field in group.model_fields.items()}
    assert dict(data_module().hparams) == dict(EmotionDataModule().hparams) == defaults | {"seed": 0}


@pytest.mark.parametrize("balance", BALANCES)
def test_validation_and_test_images_are_unchanged_with_any_balance(tones, balance):
    data = tone_data(tones, balance=balance)
    for loader, expected, first in (
        (data.val_dataloader(), VAL_TONES, FIRST_TONES["val"]),
        (data.test_dataloader(), TEST_TONES, FIRST_TONES["test"]),
    ):
        seen, labels = drawn(loader)
        assert drawn(loader, 1) == (seen, labels)
        assert sorted(seen) == expected
        assert [(tone - first) // 10 for tone in seen] == labels
        assert all(batch.inputs.dtype == torch.uint8 for batch in loader)
    assert drawn(data.test_dataloader())[0] == TEST_TONES


@pytest.mark.parametrize("on_features", [False, True])
def test_first_validation_images_have_several_classes_and_are_equal_in_all_runs(tones, on_features):
    orders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        data = tone_data(tones, seed=seed, batch_size=4)
        if on_features:
            data.train_on_features(Extractor(), 1)
        batches = list(data.val_dataloader())
        assert len(batches[0].labels.unique()) > 2
        orders.append(torch.cat([batch.labels for batch in batches]).tolist())
    assert orders[0] == orders[1]


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_eval_loader_gives_unchanged_images_in_the_order_of_the_rows(tones, stage):
    data = tone_data(tones, augment=True, balance="offline")
    loader = data.eval_loader(stage)
    rows = getattr(data.rows, stage)
    inputs = torch.cat([batch.inputs for batch in loader])
    np.testing.assert_array_equal(inputs, data.packed.images[rows])
    assert torch.cat([batch.labels for batch in loader]).tolist() == data.packed.labels[rows].tolist()


@pytest.mark.parametrize("balance", ["none", "class_weights"])
@pytest.mark.parametrize("augment", [False, True])
def test_every_training_image_comes_once_an_epoch_in_a_new_order(tones, balance, augment):
    loader = tone_data(tones, balance=balance, augment=augment).train_dataloader()
    first, second = drawn(loader, 0), drawn(loader, 1)
    for seen, labels in (first, second):
        assert sorted(seen) == TRAIN_TONES
        assert [tone // 10 for tone in seen] == labels
    assert first != second


def test_training_images_are_augmented_only_with_augment(fer_tree):
    def images(**options):
        loader = data_module(data_dir=str(fer_tree), split="official", balance="none", **options).train_dataloader()
        batches = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            batches.append(torch.cat([batch.inputs for batch in loader]))
        return torch.cat(batches)

    assert len(images(augment=False).flatten(1).unique(dim=0)) == 32
    assert len(images(augment=True).flatten(1).unique(dim=0)) == 64


@pytest.mark.parametrize(
    ("options", "augmentation"),
    [
        ({}, make_augmentation(RandomAffine(10, 0.15, 0.1, 0.15))),
        ({"rotation": 5, "zoom": 0.2, "shift": 0.3, "shear": 0.4}, make_augmentation(RandomAffine(5, 0.2, 0.3, 0.4))),
        ({"augment": False, "rotation": 5}, None),
        ({"augment": False, "flip": 0.1}, make_augmentation(flip=0.1)),
        ({"augment": False, "brightness": 0.2}, make_augmentation(brightness=0.2)),
        ({"augment": False, "contrast": 0.3}, make_augmentation(contrast=0.3)),
        ({"augment": False, "erase": 0.4}, make_augmentation(erase=0.4)),
        ({"flip": 0.1, "erase": 0.4}, make_augmentation(RandomAffine(), flip=0.1, erase=0.4)),
    ],
)
def test_settings_reach_the_augmentation(tones, options, augmentation):
    data = tone_data(tones, **options)
    assert data.augmentation == data.train_dataloader().augmentation == augmentation


@pytest.mark.parametrize(
    ("options", "mix"),
    [
        ({}, None),
        ({"mixup": 0.2}, make_mix(mixup=0.2)),
        ({"cutmix": 1.0}, make_mix(cutmix=1.0)),
        ({"mixup": 0.2, "cutmix": 1.0}, make_mix(mixup=0.2, cutmix=1.0)),
    ],
)
def test_settings_reach_the_mix(tones, options, mix):
    data = tone_data(tones, **options)
    assert data.mix == data.train_dataloader().mix == mix


def test_only_training_images_are_augmented_and_mixed(tones):
    data = tone_data(tones, **AUGMENTATIONS)
    for loader, expected in ((data.val_dataloader(), VAL_TONES), (data.test_dataloader(), TEST_TONES)):
        assert sorted(drawn(loader)[0]) == expected
        assert all((batch.inputs.dtype, batch.labels.dtype) == (torch.uint8, torch.int64) for batch in loader)
    assert all(batch.labels.shape == (len(batch.inputs), 7) for batch in data.train_dataloader())


@pytest.mark.parametrize(("plain_epochs", "first"), [(0, 4), (1, 3), (3, 1), (4, 0), (9, 0)])
def test_plain_epochs_are_the_last_of_a_training(tones, plain_epochs, first):
    data = tone_data(tones, plain_epochs=plain_epochs, balance="none", **AUGMENTATIONS)
    loader = in_process(data, max_epochs=4).train_dataloader()
    for number in range(4):
        loader.set_epoch(number)
        batches = list(loader)
        values = torch.cat([batch.inputs for batch in batches]) * 255
        labels = torch.cat([batch.labels for batch in batches])
        unchanged = torch.equal(values.amax((1, 2, 3)).round().int().sort().values, torch.tensor(TRAIN_TONES).int())
        unmixed = bool((labels.max(1).values == 1).all())
        assert (unchanged, unmixed) == (number >= first, number >= first)


@pytest.mark.parametrize("max_epochs", [None, -1])
def test_plain_epochs_need_an_end_to_count_from(tones, max_epochs):
    with pytest.raises(UserError, match=r"^plain_epochs=2: .*trainer\.max_epochs") as error:
        in_process(tone_data(tones, plain_epochs=2), max_epochs=max_epochs).train_dataloader()
    assert "\n" not in str(error.value)
    assert in_process(tone_data(tones), max_epochs=max_epochs).train_dataloader().plain_from is None


def test_without_a_trainer_no_epoch_is_plain(tones):
    assert tone_data(tones, plain_epochs=2).train_dataloader().plain_from is None


@pytest.mark.parametrize("batch_size", [4, 16])
def test_batches_have_their_size(tones, batch_size):
    data = tone_data(tones, batch_size=batch_size)
    assert [len(batch.labels) for batch in data.train_dataloader()] == [batch_size] * (32 // batch_size)


def test_seed_sets_split_and_order(tones):
    first, again, other = (tone_data(tones, split="report", seed=seed, balance="none") for seed in (1, 1, 2))
    assert first.rows.val.tolist() == again.rows.val.tolist() != other.rows.val.tolist()
    same, same_again, different = (tone_data(tones, seed=seed, balance="none") for seed in (1, 1, 2))
    assert drawn(same.train_dataloader()) == drawn(same_again.train_dataloader()) != drawn(different.train_dataloader())


def test_counts_of_all_stages(fer_tree):
    counts = data_module(data_dir=str(fer_tree), split="official").counts()
    assert counts == {"train": [*TRAIN_COUNTS, 32], "val": [2] * 7 + [14], "test": [2] * 7 + [14]}


def test_settings_reach_split_and_source(tones, tmp_path):
    data = tone_data(tones, split="report", val_fraction=0.5, pack_size=24, channels=3)
    assert data.packed.images.shape == (60, 3, 24, 24)
    assert [len(rows) for rows in (data.rows.train, data.rows.val, data.rows.test)] == [23, 23, 14]
    assert len(data_module(data="synthetic", synthetic_images=150).packed) == 150
    with pytest.raises(UserError, match=r"^group_duplicates=true: split=official is not random"):
        _ = tone_data(tones, split="official", group_duplicates=True).rows
    with pytest.raises(UserError, match=r"^data_dir: nothing at "):
        _ = data_module(data_dir=str(tmp_path / "nowhere")).packed


def test_bad_images_are_errors_or_skipped(own_fer_tree):
    bad = own_fer_tree / "train" / "happy" / "Training_9.jpg"
    bad.write_text("no image")
    with pytest.raises(UserError, match=r"Training_9\.jpg: not an image"):
        data_module(data_dir=str(own_fer_tree)).prepare_data()
    data = data_module(data_dir=str(own_fer_tree), on_bad_image="skip", split="official")
    data.prepare_data()
    assert data.counts()["train"] == [*TRAIN_COUNTS, 32]
    assert len(data.packed.skipped) == 1


def test_test_only_tests_all_images(tones):
    data = tone_data(tones, split="test_only")
    assert sorted(drawn(data.test_dataloader())[0]) == sorted(TRAIN_TONES + VAL_TONES + TEST_TONES)
    with pytest.raises(UserError, match=r"^split=test_only: leaves no images to train on; it is for evaluate\.py$"):
        data.train_dataloader()


# Balance


@pytest.mark.parametrize("balance", BALANCES)
def test_class_weights_only_with_that_balance(tones, balance):
    weights = tone_data(tones, balance=balance).class_weights
    if balance != "class_weights":
        assert weights is None
        return
    assert [type(weight) for weight in weights] == [float] * 7
    labels = np.repeat(np.arange(7), TRAIN_COUNTS)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(7), y=labels), rtol=1e-6)


@pytest.mark.parametrize("balance", BALANCES)
def test_class_shares_are_those_of_the_labels_as_they_are_drawn(tones, balance):
    data = tone_data(tones, balance=balance)
    assert [type(share) for share in data.class_shares] == [float] * 7
    equal = balance in ("weighted_sampler", "offline")
    expected = [1 / 7] * 7 if equal else np.array(TRAIN_COUNTS) / sum(TRAIN_COUNTS)
    np.testing.assert_allclose(data.class_shares, expected, rtol=1e-6)
    loader = data.train_dataloader()
    labels = np.concatenate([drawn(loader, epoch)[1] for epoch in range(40)])
    # 1,280 draws or more: the standard deviation of a share is at most 0.014.
    np.testing.assert_allclose(np.bincount(labels) / len(labels), data.class_shares, atol=0.05)


def test_class_shares_are_counted_on_the_training_images_of_a_split(tones):
    data = tone_data(tones, split="report", val_fraction=0.3, balance="none")
    counts = np.bincount(data.packed.labels[data.rows.train], minlength=7)
    np.testing.assert_allclose(data.class_shares, counts / len(data.rows.train), rtol=1e-6)
    with pytest.raises(UserError, match="no images to train on"):
        _ = tone_data(tones, split="test_only", balance="none").class_shares


@pytest.mark.parametrize("balance", BALANCES)
def test_class_without_training_images_is_named(tmp_path, tones, balance):
    for part in ("train", "val", "test"):
        for name in CLASSES:
            if part != "train" or name not in ("fear", "sad"):
                shutil.copytree(tones / part / name, tmp_path / part / name)
    data = tone_data(tmp_path, balance=balance)
    without = "exclude=[fear,sad]"
    expected = f"data=folder: no training images of class fear, sad; add some, or train without: {without}"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        _ = data.train_set
    with pytest.raises(UserError, match="no training images"):
        data.train_dataloader()
    # Counting and testing do not need all classes.
    assert data.counts()["train"] == [5, 2, 0, 8, 6, 0, 3, 24]
    assert drawn(data.test_dataloader())[0] == TEST_TONES


def test_weighted_sampler_draws_classes_about_equally_often_from_the_training_images(tones):
    data = tone_data(tones, balance="weighted_sampler")
    loader = data.train_dataloader()
    epochs = [drawn(loader, epoch) for epoch in range(40)]
    assert all(len(seen) == 32 for seen, _ in epochs)
    seen = [tone for tones_of_epoch, _ in epochs for tone in tones_of_epoch]
    assert sorted(set(seen)) == TRAIN_TONES
    assert [tone // 10 for tone in seen] == [label for _, labels in epochs for label in labels]
    counts = np.bincount([tone // 10 for tone in seen])
    # 1280 draws: 183 of each class, with a standard deviation of 12.5.
    assert np.abs(counts - 1280 / 7).max() < 50


def test_weighted_sampler_is_a_function_of_seed_and_epoch(tones):
    same, again, other = (
        tone_data(tones, balance="weighted_sampler", seed=seed).train_dataloader() for seed in (1, 1, 2)
    )
    assert drawn(same, 3) == drawn(again, 3)
    assert drawn(same, 3) != drawn(same, 4)
    assert drawn(same, 3) != drawn(other, 3)


@pytest.mark.parametrize("augment", [False, True])
def test_oversampling_brings_every_class_to_the_size_of_the_largest(tones, augment):
    data = tone_data(tones, balance="offline", augment=augment)
    seen, labels = drawn(data.train_dataloader())
    assert Counter(labels) == dict.fromkeys(range(7), 8)
    assert sorted(set(seen)) == TRAIN_TONES
    assert [tone // 10 for tone in seen] == labels
    # The source images are kept, and both images of the smallest class are used equally often.
    assert Counter(seen)[10] == Counter(seen)[11] == 4
    assert Counter(seen)[30] == 1


@pytest.mark.parametrize("augment", [False, True])
def test_oversampled_images_differ_from_their_sources_and_depend_on_the_seed(fer_tree, augment):
    def train_images(seed):
        data = data_module(data_dir=str(fer_tree), split="official", balance="offline", augment=augment, seed=seed)
        images, _, rows = data.train_set
        assert rows.tolist() == list(range(56))
        np.testing.assert_array_equal(images[:32], data.packed.images[data.rows.train])
        return images

    first, again, other = (train_images(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == 56


def test_oversampled_images_have_the_affine_transform_of_the_settings_only(fer_tree):
    def added(**options):
        data = data_module(data_dir=str(fer_tree), split="official", balance="offline", **options)
        return data.train_set[0][32:]

    originals = {image.tobytes() for image in data_module(data_dir=str(fer_tree)).packed.images}
    unmoved = dict.fromkeys(("rotation", "zoom", "shift", "shear"), 0)
    assert all(image.tobytes() in originals for image in added(**unmoved, **AUGMENTATIONS))
    assert not any(image.tobytes() in originals for image in added())
    np.testing.assert_array_equal(added(), added(**AUGMENTATIONS))
    assert not np.array_equal(added(), added(rotation=30))


def test_offline_strength_scales_the_transform_of_oversampled_images(fer_tree):
    def training(**options):
        return data_module(data_dir=str(fer_tree), split="official", balance="offline", **options)

    stronger, wider = training(offline_strength=2), training(rotation=20, zoom=0.3, shift=0.2, shear=0.3)
    np.testing.assert_array_equal(stronger.train_set[0], wider.train_set[0])
    assert stronger.augmentation == make_augmentation(RandomAffine())
    with pytest.raises(UserError, match=r"^zoom=1.05 shift=0.7, 7 times the settings: values below 1 are needed"):
        _ = training(offline_strength=7).train_set
    assert len(data_module(data_dir=str(fer_tree), offline_strength=7, balance="none").train_set[2])


# Features


class Extractor:
    """Replaces the frozen part of a network: a feature is (tone of the image, number of the view)."""

    def __init__(self):
        self.calls: list[tuple[list[int], Augmentation | None, int]] = []

    def __call__(self, images, rows, augmentation, views):
        assert images.dtype == np.uint8
        tones = images[rows, 0, 24, 24].astype(np.float16)
        self.calls.append((sorted(tones.astype(int).tolist()), augmentation, views))
        return np.concatenate([np.stack([tones, np.full_like(tones, view)], 1) for view in range(views)])


def features(loader, epoch: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Returns the tones, views and labels of one epoch."""
    loader.set_epoch(epoch)
    batches = list(loader)
    assert all(batch.inputs.dtype == torch.float16 for batch in batches)
    tones, views = torch.cat([batch.inputs for batch in batches]).int().T.tolist()
    return tones, views, torch.cat([batch.labels for batch in batches]).tolist()


def with_features(root: Path, views: int = 3, **options) -> tuple[EmotionDataModule, Extractor]:
    data, extract = tone_data(root, **options), Extractor()
    data.train_on_features(extract, views)
    return data, extract


def test_features_without_augmentation_take_one_pass(tones):
    data, extract = with_features(tones, augment=False, balance="none")
    assert extract.calls == [(TRAIN_TONES + VAL_TONES, None, 1)]
    seen, views, labels = features(data.train_dataloader())
    assert sorted(seen) == TRAIN_TONES
    assert [tone // 10 for tone in seen] == labels
    assert set(views) == {0}
    assert features(data.train_dataloader(), 1)[0] != seen


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("balance", BALANCES)
def test_validation_on_features_is_plain_and_tests_stay_images(tones, augment, balance):
    data, _ = with_features(tones, augment=augment, balance=balance)
    seen, views, labels = features(data.val_dataloader())
    assert (sorted(seen), views) == (VAL_TONES, [0] * 14)
    assert [(tone - FIRST_TONES["val"]) // 10 for tone in seen] == labels
    assert drawn(data.test_dataloader())[0] == TEST_TONES
    assert drawn(data.eval_loader("val"))[0] == VAL_TONES


def test_seeds_share_the_pass_over_plain_images(tones):
    calls = [with_features(tones, augment=False, split="report", seed=seed)[1].calls for seed in (0, 1)]
    assert calls[0] == calls[1]


@pytest.mark.parametrize("balance", ["none", "class_weights"])
def test_features_of_augmented_images_come_in_views(tones, balance):
    data, extract = with_features(tones, augment=True, balance=balance)
    assert extract.calls == [(VAL_TONES, None, 1), (TRAIN_TONES, make_augmentation(RandomAffine()), 3)]
    loader = data.train_dataloader()
    assert len(loader) == 4
    epochs = [features(loader, epoch) for epoch in range(10)]
    for seen, _, labels in epochs:
        assert sorted(seen) == TRAIN_TONES
        assert [tone // 10 for tone in seen] == labels
    assert {view for _, views, _ in epochs for view in views} == {0, 1, 2}
    assert len({tuple(views) for _, views, _ in epochs}) == 10


@pytest.mark.parametrize(
    ("augment", "transform", "views"), [(False, None, 1), (True, make_augmentation(RandomAffine()), 3)]
)
def test_features_of_oversampled_images(tones, augment, transform, views):
    data, extract = with_features(tones, augment=augment, balance="offline")
    (_, (taken, augmentation, passes)) = extract.calls
    assert (len(taken), sorted(set(taken)), augmentation, passes) == (56, TRAIN_TONES, transform, views)
    seen, _, labels = features(data.train_dataloader())
    assert Counter(labels) == dict.fromkeys(range(7), 8)
    assert [tone // 10 for tone in seen] == labels


@pytest.mark.parametrize("augment", [False, True])
def test_features_are_sampled_by_weight(tones, augment):
    loader = with_features(tones, augment=augment, balance="weighted_sampler")[0].train_dataloader()
    epochs = [features(loader, epoch) for epoch in range(40)]
    labels = [label for _, _, epoch_labels in epochs for label in epoch_labels]
    assert [tone // 10 for seen, _, _ in epochs for tone in seen] == labels
    assert np.abs(np.bincount(labels) - 1280 / 7).max() < 50


def test_class_weights_are_the_same_with_features(tones):
    assert with_features(tones)[0].class_weights == tone_data(tones).class_weights is not None


def test_features_of_images_that_are_only_mirrored_come_in_views(tones):
    data, extract = with_features(tones, augment=False, flip=0.5, balance="none")
    assert extract.calls[1:] == [(TRAIN_TONES, make_augmentation(flip=0.5), 3)]
    assert set(features(data.train_dataloader())[1]) == {0, 1, 2}


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"augment": True, "plain_epochs": 2}])
def test_settings_that_need_images_are_refused_with_features(tones, options):
    data, extract = tone_data(tones, **{"augment": False, **options}), Extractor()
    expected = r"^feature_views: mixup, cutmix, augmentation= and plain_epochs need the images"
    with pytest.raises(UserError, match=expected) as error:
        data.train_on_features(extract, views=1)
    assert "\n" not in str(error.value)
    assert not extract.calls


def test_plain_epochs_change_nothing_where_all_epochs_are_plain(tones):
    _, extract = with_features(tones, augment=False, plain_epochs=2, balance="none")
    assert len(extract.calls) == 1


# Processes


@pytest.mark.parametrize("balance", ["class_weights", "offline"])
def test_processes_share_the_training_images(tones, balance):
    def share(rank):
        data = in_process(tone_data(tones, balance=balance, batch_size=4), rank, world_size=2)
        return drawn(data.train_dataloader(), 1)

    whole = drawn(tone_data(tones, balance=balance, batch_size=8).train_dataloader(), 1)
    assert Counter(share(0)[0]) + Counter(share(1)[0]) == Counter(whole[0])
    assert len(share(0)[0]) == len(whole[0]) / 2


# Real data


@pytest.mark.real
@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("report", [22967, 5742, 7178]),
        ("official", [28709, 3589, 3589]),
        ("clean", [28006, 3589, 3589]),
        ("test_only", [0, 0, 35887]),
    ],
)
def test_sizes_of_the_splits_of_real_fer2013(fer2013, real_packed, split, sizes):
    counts = data_module(data_dir=str(fer2013), split=split).counts()
    assert [row[-1] for row in counts.values()] == sizes


@pytest.mark.real
def test_classes_of_real_fer2013(fer2013, real_packed):
    counts = data_module(data_dir=str(fer2013)).counts()
    assert np.add(counts["train"], counts["val"]).tolist() == [3995, 436, 4097, 7215, 4965, 4830, 3171, 28709]
    assert counts["test"] == [958, 111, 1024, 1774, 1233, 1247, 831, 7178]


def test_extra_data_is_added_to_training_and_resized(tones, tmp_path):
    for name, tone in (("happy", 250), ("sad", 252)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (60, 90), (tone, tone, tone)).save(tmp_path / name / "photo.png")
    Image.new("L", (48, 48), FIRST_TONES["test"]).save(tmp_path / "sad" / "leak.png")  # the first test image
    data = in_process(tone_data(tones, extra_data=[str(tmp_path)], augment=False))
    found, labels = drawn(data.train_dataloader())
    assert sorted(found) == [*TRAIN_TONES, 250, 252]
    assert {tone: label for tone, label in zip(found, labels, strict=True) if tone >= 250} == {
        250: CLASSES.index("happy"),
        252: CLASSES.index("sad"),
    }
    assert sorted(drawn(data.val_dataloader())[0]) == VAL_TONES
    assert drawn(data.test_dataloader())[0] == TEST_TONES
    names = data.packed.names
    assert len(set(names)) == len(names)
    assert names[-1].startswith("extra0/")
    assert not data.packed.copied[data.rows.test].any()


def test_missing_extra_data_is_refused(tones, tmp_path):
    with pytest.raises(UserError, match=r"/none: no such folder$"):
        _ = tone_data(tones, extra_data=[str(tmp_path / "none")]).packed


def test_other_classes_of_extra_data_are_left_out(tones, tmp_path, caplog):
    for name in ("happy", "contempt"):
        (tmp_path / name).mkdir()
        Image.new("L", (48, 48), 250).save(tmp_path / name / "photo.png")
    data = tone_data(tones, extra_data=[str(tmp_path)])
    assert data.packed.names[-1] == "extra0/happy/photo.png"
    assert "contempt (1 image)" in caplog.text


def test_data_for_a_trained_network_has_its_classes(tones, tmp_path, caplog):
    for name in ("happy", "contempt"):
        (tmp_path / name).mkdir()
        Image.new("L", (48, 48), 250).save(tmp_path / name / "photo.png")
    values = {"data": "folder", "data_dir": str(tmp_path), "split": "test_only"}
    own = data_module(**values)
    assert own.classes == ("contempt", "happy")
    assert own.packed.labels.tolist() == [0, 1]
    assert not caplog.messages
    data = EmotionDataModule.of(values, network_classes=CLASSES)
    assert data.classes == CLASSES
    assert data.packed.labels.tolist() == [-1, CLASSES.index("happy")]
    assert data.rows.test.tolist() == [1]
    assert data.packed.names[1] == "happy/photo.png"
    assert caplog.messages == ["left out, since the network does not know their classes: images of contempt (1)"]


def voted_settings(path, ballots):
    """Writes votes for 140 drawn faces, and returns the settings of these data.

    Args:
        path: folder for the file.
        ballots: votes by emotion for images of a class of FER2013; five for the class itself where it has none.
    """
    plain = data_module(data="synthetic", synthetic_images=140).packed
    names = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
    columns = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
    lines = [f"image,{','.join(names)}"]
    for name, label in zip(plain.names, plain.labels, strict=True):
        own = CLASSES[label]
        counts = dict.fromkeys(names, 0) | ballots.get(own, {columns.get(own, own): 5})
        lines.append(f"{name.split('/')[-1]},{','.join(map(str, counts.values()))}")
    (path / "votes.csv").write_text("\n".join(lines))
    votes = {"labels": "ferplus", "votes": str(path / "votes.csv")}
    return {"data": "synthetic", "synthetic_images": 140, "split": "official"} | votes


def test_ties_of_votes_are_counted_as_they_are_labelled(tmp_path):
    """Five votes for neutral and five for anger: FER+ takes the first column, which is neutral."""
    voted = data_module(**voted_settings(tmp_path, {"neutral": {"neutral": 5, "anger": 5}}))
    hard = data_module(data="synthetic", synthetic_images=140, split="official")
    assert np.array_equal(voted.packed.labels, hard.packed.labels)
    assert voted.class_weights == hard.class_weights
    assert voted.class_shares == hard.class_shares


@pytest.mark.parametrize("balance", ["none", "offline"])
def test_training_sees_the_shares_of_the_votes_and_validation_their_winner(balance, tmp_path):
    settings = voted_settings(tmp_path, {"angry": {"anger": 7, "sadness": 3}})
    data = data_module(**settings, balance=balance, augment=False)
    anger, sadness = CLASSES.index("angry"), CLASSES.index("sad")
    expected = torch.zeros(7)
    expected[[anger, sadness]] = torch.tensor([0.7, 0.3])
    targets = torch.cat([batch.labels for batch in data.train_dataloader()])
    angry = targets[targets[:, anger] > 0]
    assert len(angry)
    assert len(targets) == len(data.train_set[2])
    torch.testing.assert_close(angry, expected.expand_as(angry))
    assert next(iter(data.val_dataloader())).labels.dtype == torch.int64
    data.train_on_features(lambda images, rows, *_: np.zeros((len(rows), 2), np.float16), 1)
    from_features = torch.cat([batch.labels for batch in data.train_dataloader()])
    torch.testing.assert_close(from_features.sum(0), targets.sum(0))
    assert next(iter(data.val_dataloader())).labels.dtype == torch.int64


def test_test_images_that_are_drawn_are_duplicates_only_of_training_images(tmp_path):
    """Flat folders have one part: twins that both test, as with `group_duplicates`, have no duplicate in training."""
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for number in range(10):
            tone = Image.new("L", (48, 48), 30 * label + number)
            for twin in "ab":
                tone.save(tmp_path / name / f"{number}{twin}.png")
    split = {"split": "report", "augment": False}
    grouped, mixed = (tone_data(tmp_path, **split, group_duplicates=grouped) for grouped in (True, False))
    assert not grouped.origin("test")[1].any()
    own = mixed.packed.hashes
    expected = np.isin(own[mixed.rows.test], own[mixed.rows.train])
    assert expected.any()
    assert mixed.origin("test")[1].tolist() == expected.tolist()
