import numpy as np
import pytest

from emotion.data.classes import CLASSES
from emotion.data.synthetic import MIN_IMAGES, draw_face, draw_image, draw_labels

FER2013_TRAIN = np.array([3995, 436, 4097, 7215, 4965, 4830, 3171])
PART_SHARES = {"train": 0.8, "public": 0.1, "private": 0.1}
MOVED = [name for name in CLASSES if name != "neutral"]


def test_image_depends_on_label_seed_and_index() -> None:
    image = draw_image(3, seed=7, index=11)
    assert np.array_equal(image, draw_image(3, seed=7, index=11))
    others = [draw_image(4, seed=7, index=11), draw_image(3, seed=8, index=11), draw_image(3, seed=7, index=12)]
    assert not any(np.array_equal(image, other) for other in others)


def test_images_do_not_depend_on_the_order_of_drawing() -> None:
    forwards = [draw_image(index % 7, 0, index) for index in range(20)]
    backwards = [draw_image(index % 7, 0, index) for index in reversed(range(20))]
    assert np.array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("size", [1, 24, 48, 97])
def test_face_has_the_promised_shape_and_dtype(size: int) -> None:
    face = draw_face("fear", np.random.default_rng(0), size)
    assert face.image.shape == face.mask.shape == (size, size)
    assert face.image.dtype == np.uint8
    assert face.mask.dtype == np.bool_


def test_images_use_the_grey_range() -> None:
    images = np.stack([draw_image(index % 7, 0, index) for index in range(70)])
    assert images.min() < 20
    assert images.max() > 235
    assert 100 < images.mean() < 156
    assert images.std(axis=(1, 2)).min() > 5


def test_image_is_the_face_of_the_documented_generator() -> None:
    face = draw_face("sad", np.random.default_rng([2, 5]))
    assert np.array_equal(face.image, draw_image(CLASSES.index("sad"), 2, 5))


@pytest.mark.parametrize("expression", CLASSES)
def test_mask_covers_something_but_not_much(expression: str) -> None:
    shares = [draw_face(expression, np.random.default_rng(seed)).mask.mean() for seed in range(60)]
    assert min(shares) > 0.02
    assert max(shares) < 0.45


@pytest.mark.parametrize("expression", MOVED)
def test_expression_shows_inside_the_mask(expression: str) -> None:
    inside, outside = [], []
    for seed in range(20):
        face, neutral = (draw_face(name, np.random.default_rng(seed)) for name in (expression, "neutral"))
        change = np.abs(face.image.astype(float) - neutral.image)
        mask = face.mask | neutral.mask
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
    assert np.all(np.array(inside) > outside)
    assert np.mean(inside) > 10 * np.mean(outside)


def test_labels_depend_on_the_seed_and_shuffled() -> None:
    labels, parts = draw_labels(700, seed=1)
    same_labels, same_parts = draw_labels(700, seed=1)
    other_labels, other_parts = draw_labels(700, seed=2)
    assert np.array_equal(labels, same_labels)
    assert np.array_equal(parts, same_parts)
    assert not np.array_equal(labels, other_labels)
    assert sorted(zip(labels, parts, strict=True)) == sorted(zip(other_labels, other_parts, strict=True))
    assert np.any(np.diff(labels) < 0)


def test_labels_have_the_shares_of_fer2013() -> None:
    labels, parts = draw_labels(3500, seed=0)
    assert labels.shape == parts.shape == (3500,)
    assert labels.dtype == np.int64
    for part, share in PART_SHARES.items():
        counts = np.bincount(labels[parts == part], minlength=7)
        assert counts.sum() == pytest.approx(3500 * share, abs=1)
        assert counts == pytest.approx(counts.sum() * FER2013_TRAIN / FER2013_TRAIN.sum(), abs=1)


def test_labels_of_a_full_set_are_those_of_fer2013() -> None:
    labels, parts = draw_labels(35887, seed=0)
    assert np.array_equal(np.bincount(labels[parts == "train"]), FER2013_TRAIN)
    assert np.sum(parts == "public") == np.sum(parts == "private") == 3589


@pytest.mark.parametrize("num_images", [*range(MIN_IMAGES, MIN_IMAGES + 30), 350, 1001])
def test_every_class_is_in_every_part(num_images: int) -> None:
    labels, parts = draw_labels(num_images, seed=0)
    assert len(labels) == len(parts) == num_images
    for part in PART_SHARES:
        assert np.bincount(labels[parts == part], minlength=7).min() >= 2


def test_rejects_too_few_images() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_IMAGES}"):
        draw_labels(MIN_IMAGES - 1, seed=0)


def test_rejects_an_unknown_expression() -> None:
    with pytest.raises(ValueError, match=r"'bored'.*angry"):
        draw_face("bored", np.random.default_rng(0))


def test_rejects_an_empty_image() -> None:
    with pytest.raises(ValueError, match="size"):
        draw_face("happy", np.random.default_rng(0), size=0)


@pytest.mark.parametrize("label", [-1, 7])
def test_rejects_a_label_that_is_no_class(label: int) -> None:
    with pytest.raises(ValueError, match="0 to 6"):
        draw_image(label, seed=0, index=0)
