import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from emotion.data.augment import RandomAffine
from emotion.data.balance import class_weights, oversample, sampling_weights
from emotion.data.synthetic import draw_image

UNCHANGED = RandomAffine(rotation=0, zoom=0, shift=0, shear=0)
FER2013_TRAIN = [3995, 436, 4097, 7215, 4965, 4830, 3171]
# The second largest class needs fewer images than it has, the smallest more than twice as many.
COUNTS = [9, 2, 4, 7, 1, 9, 3]


def make_labels(counts: list[int]) -> torch.Tensor:
    labels = np.repeat(np.arange(len(counts)), counts)
    return torch.from_numpy(np.random.default_rng(0).permutation(labels))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return make_labels(COUNTS)


@pytest.fixture(scope="module")
def images(labels) -> torch.Tensor:
    drawn = [draw_image(label, seed=0, index=index, size=24) for index, label in enumerate(labels.tolist())]
    return torch.from_numpy(np.stack(drawn))[:, None]


def augmented(images, labels, affine=None, seed=0, **options):
    return oversample(images, labels, 7, affine or RandomAffine(), seed, **options)


@pytest.mark.parametrize("counts", [FER2013_TRAIN, COUNTS, [5] * 7])
def test_class_weights_are_sklearns_balanced_ones(counts):
    labels = make_labels(counts)
    weights = class_weights(labels, 7)
    assert weights.dtype == torch.float32
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels.numpy())
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_class_weights_of_the_paper():
    weights = class_weights(make_labels(FER2013_TRAIN), 7)
    assert weights[1] == pytest.approx(9.41, abs=0.005)
    assert weights[3] == pytest.approx(0.57, abs=0.005)


def test_oversampling_brings_every_class_to_the_size_of_the_largest(images, labels):
    rows, added = augmented(images, labels)
    assert added.dtype == torch.uint8
    assert added.shape == (len(rows), *images.shape[1:])
    assert rows.dtype == torch.int64
    assert torch.bincount(torch.cat([labels, labels[rows]])).tolist() == [9] * 7


def test_images_of_a_class_are_used_equally_often_except_for_a_remainder(images, labels):
    rows, _ = augmented(images, labels)
    times = torch.bincount(rows, minlength=len(labels))
    for label, count in enumerate(COUNTS):
        whole, rest = divmod(max(COUNTS) - count, count)
        assert sorted(times[labels == label].tolist()) == [whole] * (count - rest) + [whole + 1] * rest


@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_rows_are_those_of_the_source_images(images, labels, chunk):
    rows, added = augmented(images, labels, UNCHANGED, chunk=chunk)
    assert torch.equal(added, images[rows])


def test_added_images_differ_from_their_source_and_from_each_other(images, labels):
    _, added = augmented(images, labels)
    everything = torch.cat([images, added]).flatten(1)
    assert len(everything.unique(dim=0)) == len(images) + len(added)


def test_added_images_still_show_their_source(images, labels):
    rows, added = augmented(images, labels, RandomAffine(rotation=1, zoom=0.01, shift=0.01, shear=0))
    changes = (added.float() - images[rows].float()).abs().mean(dim=(1, 2, 3))
    others = (added.float() - images[rows.roll(1)].float()).abs().mean(dim=(1, 2, 3))
    assert changes.max() < 10 < others.median()


def test_added_images_depend_on_the_seed_alone(images, labels):
    torch.manual_seed(1)
    first_rows, first = augmented(images, labels, seed=5)
    torch.manual_seed(2)
    again_rows, again = augmented(images, labels, seed=5)
    assert torch.equal(first_rows, again_rows)
    assert torch.equal(first, again)


def test_seed_sets_the_source_images_and_their_transforms(images, labels):
    assert not torch.equal(augmented(images, labels, seed=5)[0], augmented(images, labels, seed=6)[0])
    # Each class has only one image to add here.
    (rows, first), (same_rows, other) = (augmented(images[:8], torch.arange(8) % 7, seed=seed) for seed in (5, 6))
    assert rows.tolist() == same_rows.tolist() == [1, 2, 3, 4, 5, 6]
    assert not torch.equal(first, other)


def test_classes_of_equal_size_need_no_images(images):
    rows, added = augmented(images[:14], torch.arange(14) % 7)
    assert rows.shape == (0,)
    assert rows.dtype == torch.int64
    assert added.shape == (0, *images.shape[1:])
    assert added.dtype == torch.uint8


def test_of_a_million_images_all_classes_are_drawn_equally_often() -> None:
    """Sums of float32 lose the small weights of a large class: then the last images are never drawn."""
    labels = make_labels([100_000, *[900] * 1_000])
    weights = sampling_weights(labels, 1_001)
    drawn = torch.multinomial(weights, len(labels), replacement=True, generator=torch.Generator().manual_seed(0))
    large = drawn[labels[drawn] == 0]
    assert abs(len(large) - 999) < 5 * 999**0.5
    assert large.max() > 0.98 * len(labels)


def test_the_draws_of_few_images_are_those_of_earlier_versions() -> None:
    assert sampling_weights(make_labels(FER2013_TRAIN), 7).dtype == torch.float32
