import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from emotion.data.augment import RandomAffine
from emotion.data.balance import class_weights, oversample
from emotion.data.synthetic import draw_image

UNCHANGED = RandomAffine(rotation=0, zoom=0, shift=0, shear=0)
FER2013_TRAIN = [3995, 436, 4097, 7215, 4965, 4830, 3171]
# The second largest lacks fewer images than it has, the smallest more than twice as many.
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


def copy(images, labels, affine=None, seed=0, **options):
    return oversample(images, labels, 7, affine or RandomAffine(), seed, **options)


@pytest.mark.parametrize("counts", [FER2013_TRAIN, COUNTS, [5] * 7])
def test_class_weights_are_sklearns_balanced_ones(counts):
    labels = make_labels(counts)
    weights = class_weights(labels, 7)
    assert weights.dtype == torch.float32
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels.numpy())
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_class_weights_of_the_report():
    weights = class_weights(make_labels(FER2013_TRAIN), 7)
    assert weights[1] == pytest.approx(9.41, abs=0.005)
    assert weights[3] == pytest.approx(0.57, abs=0.005)


def test_copies_bring_every_class_to_the_size_of_the_largest(images, labels):
    rows, copies = copy(images, labels)
    assert copies.dtype == torch.uint8
    assert copies.shape == (len(rows), *images.shape[1:])
    assert rows.dtype == torch.int64
    assert torch.bincount(torch.cat([labels, labels[rows]])).tolist() == [9] * 7


def test_images_of_a_class_are_copied_equally_often_but_for_a_remainder(images, labels):
    rows, _ = copy(images, labels)
    times = torch.bincount(rows, minlength=len(labels))
    for label, count in enumerate(COUNTS):
        whole, rest = divmod(max(COUNTS) - count, count)
        assert sorted(times[labels == label].tolist()) == [whole] * (count - rest) + [whole + 1] * rest


@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_rows_say_which_image_a_copy_comes_from(images, labels, chunk):
    rows, copies = copy(images, labels, UNCHANGED, chunk=chunk)
    assert torch.equal(copies, images[rows])


def test_copies_differ_from_their_image_and_from_each_other(images, labels):
    _, copies = copy(images, labels)
    everything = torch.cat([images, copies]).flatten(1)
    assert len(everything.unique(dim=0)) == len(images) + len(copies)


def test_copies_still_show_their_image(images, labels):
    rows, copies = copy(images, labels, RandomAffine(rotation=1, zoom=0.01, shift=0.01, shear=0))
    changes = (copies.float() - images[rows].float()).abs().mean(dim=(1, 2, 3))
    others = (copies.float() - images[rows.roll(1)].float()).abs().mean(dim=(1, 2, 3))
    assert changes.max() < 10 < others.median()


def test_copies_are_fixed_by_the_seed_alone(images, labels):
    torch.manual_seed(1)
    first_rows, first = copy(images, labels, seed=5)
    torch.manual_seed(2)
    again_rows, again = copy(images, labels, seed=5)
    assert torch.equal(first_rows, again_rows)
    assert torch.equal(first, again)


def test_seed_sets_which_images_are_copied_and_how(images, labels):
    assert not torch.equal(copy(images, labels, seed=5)[0], copy(images, labels, seed=6)[0])
    # Here there is but one image to copy in each class.
    (rows, first), (same_rows, other) = (copy(images[:8], torch.arange(8) % 7, seed=seed) for seed in (5, 6))
    assert rows.tolist() == same_rows.tolist() == [1, 2, 3, 4, 5, 6]
    assert not torch.equal(first, other)


def test_classes_of_equal_size_need_no_copies(images):
    rows, copies = copy(images[:14], torch.arange(14) % 7)
    assert rows.shape == (0,)
    assert rows.dtype == torch.int64
    assert copies.shape == (0, *images.shape[1:])
    assert copies.dtype == torch.uint8
