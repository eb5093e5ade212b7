import threading

import numpy as np
import pytest
import torch
from builders import data_module, make_augmentation
from lightning import seed_everything
from torch import nn

from emotion.data.augment import RandomAffine
from emotion.errors import UserError
from emotion.models.preprocess import Preprocess
from emotion.training.features import FeatureCache

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
CPU = torch.device("cpu")
AFFINE = make_augmentation(RandomAffine())


class Frozen(nn.Sequential):
    """A small fixed function of images that counts the images that went through it."""

    def __init__(self, normalize="imagenet", seed=0):
        torch.manual_seed(seed)
        super().__init__(Preprocess(3, 8, normalize), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


def draw_images(size=10, seed=0):
    return torch.randint(256, (size, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def extract(frozen, images=None, augmentation=None, views=1, seed=0, batch_size=4, precision="32-true"):
    images = (draw_images() if images is None else images).numpy()
    cache = FeatureCache(frozen, CPU, seed, precision, batch_size)
    features = cache(images, np.arange(len(images)), augmentation, views)
    return torch.from_numpy(features)


def test_features_are_the_output_in_half_precision():
    frozen, images = Frozen(), draw_images()
    features = extract(frozen, images)
    assert features.dtype == torch.float16
    assert features.shape == (10, 2, 6, 6)
    with torch.no_grad():
        assert torch.equal(features, frozen.eval()(images).half())


def test_features_are_computed_only_once():
    images = draw_images()
    first, second = Frozen(), Frozen()
    features = extract(first, images)
    assert first.seen == 10
    again = extract(second, images.clone())
    assert second.seen == 0
    assert torch.equal(features, again)


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen": lambda: Frozen(seed=1)},
        {"frozen": lambda: Frozen(normalize="unit")},
        {"frozen": lambda: Frozen(normalize="keras_unit")},
        {"frozen": lambda: nn.Sequential(*list(Frozen())[:3])},
        {"images": draw_images(seed=1)},
        {"images": draw_images(9)},
        {"images": draw_images().flip(0)},
        {"augmentation": AFFINE},
        {"augmentation": AFFINE, "views": 2},
        {"augmentation": make_augmentation(RandomAffine(rotation=20.0)), "views": 2},
        {"augmentation": make_augmentation(RandomAffine(), flip=0.5), "views": 3},
        {"augmentation": AFFINE, "views": 3, "seed": 1},
        {"precision": "bf16-mixed"},
    ],
    ids=[
        "weights",
        "unit",
        "keras_unit",
        "layers",
        "pixels",
        "number",
        "order",
        "affine",
        "views",
        "angle",
        "flip",
        "seed",
        "precision",
    ],
)
def test_other_inputs_get_another_file(cache, changes):
    options = {"images": draw_images(), **changes}
    frozen = options.pop("frozen", Frozen)()
    extract(Frozen())
    extract(Frozen(), augmentation=AFFINE, views=3)
    assert len(list(cache.rglob("*.npy"))) == 2
    fresh = extract(frozen, **options)
    assert len(list(cache.rglob("*.npy"))) == 3
    assert len(fresh) == len(options["images"]) * options.get("views", 1)


def test_running_statistics_and_dropout_are_frozen():
    frozen = Frozen().train()
    before = frozen[2].running_mean.clone()
    extract(frozen)
    assert torch.equal(frozen[2].running_mean, before)
    assert not frozen[3].training


def test_views_of_an_image_differ():
    plain = extract(Frozen())
    views = [*extract(Frozen(), augmentation=AFFINE, views=3).view(3, *plain.shape), plain]
    for number, view in enumerate(views):
        for other in views[:number]:
            assert (view - other).float().flatten(1).norm(dim=1).min() > 0.1


def test_views_are_augmented_with_every_ingredient():
    class Pixels(nn.Module):
        def forward(self, images):
            return images.float() / (255 if images.dtype == torch.uint8 else 1)

    images = draw_images(200)
    plain = extract(Pixels(), images)
    mirrored = extract(Pixels(), images, make_augmentation(flip=1.0))
    torch.testing.assert_close(mirrored, plain.flip(-1), atol=1e-3, rtol=0)
    erased = extract(Pixels(), images, make_augmentation(erase=1.0), views=2)
    assert ((erased == plain.repeat(2, 1, 1, 1)) | (erased == 0.5)).all()


def test_views_follow_one_another():
    # A constant image stays the same under the transforms, so its features show its position.
    images = torch.arange(0, 250, 25, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 8, 8)
    plain = extract(Frozen(), images)
    assert len(plain.flatten(1).unique(dim=0)) == 10
    views = extract(Frozen(), images, AFFINE, 3).view(3, *plain.shape)
    torch.testing.assert_close(views, plain.expand(3, *plain.shape), atol=5e-3, rtol=0)


def test_views_are_the_same_in_every_run(cache, monkeypatch, tmp_path):
    features = extract(Frozen(), augmentation=AFFINE, views=2)
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "other"))
    torch.manual_seed(99)
    assert torch.equal(features, extract(Frozen(), augmentation=AFFINE, views=2))


def test_the_random_state_of_the_run_is_unchanged():
    frozen = Frozen()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    extract(frozen, augmentation=AFFINE, views=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_views_follow_the_seed_and_plain_features_do_not():
    plain = [extract(Frozen(), seed=seed) for seed in (0, 1)]
    views = [extract(Frozen(), augmentation=AFFINE, seed=seed) for seed in (0, 1)]
    assert torch.equal(*plain)
    assert not torch.equal(*views)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_the_batch_size_does_not_change_features(batch_size, monkeypatch, tmp_path):
    features = extract(Frozen())
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "other"))
    torch.testing.assert_close(extract(Frozen(), batch_size=batch_size), features, atol=2e-3, rtol=0)


def test_features_too_large_for_half_precision_are_refused(cache):
    frozen = Frozen()
    torch.nn.init.constant_(frozen[1].weight, 1e6)
    with pytest.raises(UserError, match="feature_views=0"):
        extract(frozen)
    assert not list(cache.rglob("*.npy"))


def test_file_is_an_ordinary_array(cache):
    features = extract(Frozen(), augmentation=AFFINE, views=2)
    (path,) = cache.rglob("*.npy")
    stored = np.load(path, allow_pickle=False)
    assert stored.shape == (20, 2, 6, 6)
    assert np.array_equal(stored, features.numpy())


def test_writing_to_features_does_not_reach_the_file():
    features = extract(Frozen())
    expected = features.clone()
    features.fill_(7)
    assert torch.equal(extract(Frozen()), expected)


def test_interrupted_computation_leaves_no_features(cache):
    class Dying(Frozen):
        def forward(self, images):
            if self.seen >= 8:
                raise KeyboardInterrupt
            return super().forward(images)

    dying = Dying()
    with pytest.raises(KeyboardInterrupt):
        extract(dying)
    assert not list(cache.rglob("*.npy"))
    dying.seen = -100
    torch.testing.assert_close(extract(dying), extract(Frozen()))


@pytest.mark.parametrize("kept", [0, 60, -40])
def test_a_file_that_a_crash_cut_off_is_replaced(cache, kept):
    features = extract(Frozen()).clone()
    (path,) = cache.glob("features/*.npy")
    path.write_bytes(path.read_bytes()[:kept])
    assert torch.equal(extract(Frozen()), features)


def test_runs_that_start_together_compute_once():
    frozen = [Frozen() for _ in range(4)]
    results = [None] * 4

    def work(number):
        results[number] = extract(frozen[number], draw_images(200))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.seen for each in frozen) == 200
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("unfreeze", [0, 3])
def test_training_on_features_equals_training_on_images(make_task, make_trainer, tmp_path, unfreeze):
    def train(on_features):
        data = data_module(
            data="synthetic", synthetic_images=140, balance="class_weights", augment=False, batch_size=32
        )
        task = make_task(
            family="torchvision",
            backbone="resnet18",
            blocks=None,
            unfreeze=unfreeze,
            image_size=32,
            normalize="imagenet",
            class_weights=data.class_weights,
        )
        calls = []
        task.network.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
        trainer = make_trainer(tmp_path / str(on_features), max_epochs=2)
        if on_features:
            data.train_on_features(FeatureCache(task.train_on_features(), CPU), views=1)
        computed = len(calls)
        seed_everything(1, verbose=False)
        trainer.fit(task, data)
        assert (len(calls) == computed) == on_features
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return metrics, {name: value.clone() for name, value in task.network.state_dict().items()}

    (plain, plain_state), (cached, cached_state) = train(False), train(True)
    assert cached.keys() == plain.keys()
    assert cached["train/loss"] == pytest.approx(plain["train/loss"], rel=5e-3)
    # Adam turns the rounding of features into steps, which the statistics of the trained layers amplify.
    assert cached["val/loss"] == pytest.approx(plain["val/loss"], rel=3e-2)
    assert cached_state.keys() == plain_state.keys()
    moved = [name for name in plain_state if name.startswith("head.") and name.endswith("weight")]
    initial = make_task(family="torchvision", backbone="resnet18", blocks=None, unfreeze=unfreeze, image_size=32)
    for name in moved:
        step = (plain_state[name] - initial.network.state_dict()[name]).norm()
        assert (cached_state[name] - plain_state[name]).norm() < 0.1 * step


@pytest.mark.parametrize("balance", ["none", "weighted_sampler", "offline"])
def test_augmented_training_draws_from_all_views(make_task, make_trainer, tmp_path, balance):
    data = data_module(data="synthetic", synthetic_images=140, balance=balance, augment=True, batch_size=32)
    task = make_task(blocks=[1, 1])
    frozen, trained = task.network.split(task.network.frozen_stages)
    data.train_on_features(FeatureCache(frozen, CPU), views=3)
    loader = data.train_dataloader()
    assert loader.inputs.shape[0] == 3 * len(loader.labels)
    _, labels, rows = data.train_set
    assert torch.equal(loader.labels, labels[rows])
    for batch in loader:
        assert batch.inputs.dtype == torch.float16
        assert torch.isfinite(trained(batch.inputs.float())).all()
    make_trainer(tmp_path).fit(task, data)
