import math

import numpy as np
import pytest
import torch
from builders import make_augmentation
from scipy import ndimage, stats
from torchvision.transforms.v2 import functional as tv

from emotion.data.augment import Draws, RandomAffine, affine_matrices, warp

EVERYTHING = make_augmentation(RandomAffine(), flip=0.5, brightness=0.2, contrast=0.2, erase=0.5)


def noise(count, size=24, channels=1, low=0.0, high=1.0):
    """Returns random images [count, C, size, size] without pixels of mid grey."""
    images = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(9))
    return (low + (high - low) * images).where(images != 0.5, low)


def change(augmentation, images, seed=0):
    return augmentation(images, torch.Generator().manual_seed(seed))


def draws(augmentation, images, seed=0):
    return augmentation.draw(len(images), *images.shape[-2:], torch.Generator().manual_seed(seed))


def keras_transform(image, degrees, down, right, shear_degrees, zoom_rows, zoom_columns):
    """Transforms one image [H, W] as the documentation of ImageDataGenerator describes, with scipy."""
    angle, shear = math.radians(degrees), math.radians(shear_degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    shift = np.array([[1, 0, down], [0, 1, right], [0, 0, 1]])
    shearing = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([zoom_rows, zoom_columns, 1])
    center_row, center_column = (np.array(image.shape) - 1) / 2
    to_center = np.array([[1, 0, center_row], [0, 1, center_column], [0, 0, 1]])
    matrix = to_center @ rotation @ shift @ shearing @ zoom @ np.linalg.inv(to_center)
    return ndimage.affine_transform(image, matrix[:2, :2], matrix[:2, 2], order=1, mode="nearest")


@pytest.mark.parametrize("shape", [(48, 48), (33, 60)])
@pytest.mark.parametrize(
    "parameters",
    [
        (0, 0, 0, 0, 1, 1),
        (10, 0, 0, 0, 1, 1),
        (0, 3.5, -2.25, 0, 1, 1),
        (0, 0, 0, 20, 1, 1),
        (0, 0, 0, 0, 0.85, 1.15),
        (-7, 4.2, 4.8, 0.15, 1.1, 0.9),
    ],
)
def test_warp_equals_keras_on_each_image(shape, parameters):
    image = np.random.default_rng(0).random(shape, np.float32)
    degrees, down, right, shear, zoom_rows, zoom_columns = (torch.tensor([float(value)] * 2) for value in parameters)
    matrices = affine_matrices(
        degrees.deg2rad(), torch.stack([down, right]), shear.deg2rad(), torch.stack([zoom_rows, zoom_columns])
    )
    warped = warp(torch.from_numpy(image).expand(2, 1, *shape), matrices)
    np.testing.assert_allclose(warped[1, 0], keras_transform(image, *parameters), atol=2e-4)


def test_every_image_gets_its_own_parameters_within_the_ranges():
    ramp = torch.arange(48.0).expand(500, 1, 48, 48) / 48
    shifted = RandomAffine(rotation=0, zoom=0, shift=0.1, shear=0)(ramp, torch.Generator().manual_seed(0))
    moves = (shifted - ramp)[:, 0, 24, 24] * 48
    assert moves.abs().max() <= 4.8
    assert moves.abs().max() > 4.5
    assert len(moves.unique()) > 490
    assert abs(float(moves.mean())) < 0.5


def test_same_generator_state_same_images():
    images = torch.rand(4, 1, 48, 48)
    first, second = (RandomAffine()(images, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, RandomAffine()(images, torch.Generator().manual_seed(8)))


# Mirroring


def test_flip_mirrors_its_share_of_the_images_and_leaves_the_others():
    levels = torch.randint(256, (2000, 1, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    flipped = (change(make_augmentation(flip=0.25), levels.float() / 255) * 255).round().byte()
    same, mirrored = ((flipped == other).flatten(1).all(1) for other in (levels, levels.flip(-1)))
    assert (same ^ mirrored).all()
    # 2,000 images: 500 mirrored, with a standard deviation of 19.
    assert abs(int(mirrored.sum()) - 500) < 80


def test_flip_comes_after_the_affine_transform():
    images = noise(20)
    moved, mirrored = (change(make_augmentation(RandomAffine(), flip=flip), images) for flip in (0, 1))
    torch.testing.assert_close(mirrored, moved.flip(-1), atol=1e-4, rtol=0)


# Tone


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_tone_of_each_image_is_changed_as_torchvision_does(name):
    images, augmentation = noise(200), make_augmentation(**{name: 0.4})
    changed = change(augmentation, images)
    contrast, brightness = draws(augmentation, images).tones.T
    factors, others = (brightness, contrast) if name == "brightness" else (contrast, brightness)
    adjust = tv.adjust_brightness if name == "brightness" else tv.adjust_contrast
    expected = torch.stack([adjust(image, float(factor)) for image, factor in zip(images, factors, strict=True)])
    torch.testing.assert_close(changed, expected, atol=1e-6, rtol=0)
    # Some tones left the range.
    assert (changed == 1).any()
    assert torch.equal(others, torch.ones(200))
    assert stats.kstest(factors, "uniform", (0.6, 0.8)).pvalue > 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_comes_before_brightness_and_the_tones_stay_in_range(channels):
    images, augmentation = noise(50, channels=channels), make_augmentation(brightness=0.9, contrast=0.9)
    changed = change(augmentation, images).numpy()
    for image, result, (contrast, brightness) in zip(
        images.numpy(), changed, draws(augmentation, images).tones.numpy(), strict=True
    ):
        expected = np.clip(((image - image.mean()) * contrast + image.mean()) * brightness, 0, 1)
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (changed == 0).any()
    assert (changed == 1).any()


def test_tone_moves_no_pixel():
    images = noise(100, low=0.3, high=0.6)
    changed = change(make_augmentation(brightness=0.2, contrast=0.2), images)
    for image, result in zip(images, changed, strict=True):
        assert np.corrcoef(image.flatten(), result.flatten())[0, 1] == pytest.approx(1, abs=1e-5)


# Erasing


def rectangles(erased):
    """Returns first row, first column, height and width of the erased rectangle of each image, [4, N]."""
    result = []
    for mask in erased:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        indices = [np.flatnonzero(side) for side in (rows, columns)]
        assert all(len(axis) == axis[-1] - axis[0] + 1 for axis in indices)
        result.append([indices[0][0], indices[1][0], len(indices[0]), len(indices[1])])
    return np.array(result).T


def test_erase_fills_a_rectangle_in_its_share_of_the_images():
    images = noise(2000)
    changed = change(make_augmentation(erase=0.25), images)
    erased = (changed != images)[:, 0]
    assert (changed[:, 0][erased] == 0.5).all()
    # 2,000 images: 500 of them, with a standard deviation of 19.
    assert abs(int(erased.flatten(1).any(1).sum()) - 500) < 80
    assert len({tuple(box) for box in rectangles(erased[erased.flatten(1).any(1)]).T}) > 400


def test_erased_rectangles_have_areas_shapes_and_positions_of_random_erasing():
    side = 150
    images = noise(400, side)
    first_rows, first_columns, heights, widths = rectangles(
        (change(make_augmentation(erase=1), images) != images)[:, 0]
    )
    # The ranges of Zhong et al.; a pixel more or less by rounding.
    assert stats.kstest(heights * widths / side**2, "uniform", (0.02, 1 / 3 - 0.02)).pvalue > 0.01
    assert stats.kstest(np.log(heights / widths), "uniform", (math.log(0.3), 2 * math.log(10 / 3))).pvalue > 0.01
    for first, length in ((first_rows, heights), (first_columns, widths)):
        assert (first + length).max() <= side
        assert stats.kstest(first / (side - length + 1e-9), "uniform").pvalue > 0.01


def test_erase_leaves_all_channels_grey():
    images = noise(50, channels=3)
    erased = change(make_augmentation(erase=1), images) != images
    assert (erased == erased[:, :1]).all()
    assert erased.flatten(1).any(1).all()


# All augmentations


def test_nothing_is_on_by_default():
    assert not make_augmentation().changes
    images = noise(5)
    assert torch.equal(change(make_augmentation(), images), images)


@pytest.mark.parametrize(
    "options", [{"affine": RandomAffine()}, {"flip": 0.5}, {"brightness": 0.2}, {"contrast": 0.2}, {"erase": 0.5}]
)
def test_each_augmentation_alone_changes_images(options):
    images = noise(20)
    assert make_augmentation(**options).changes
    assert not torch.allclose(change(make_augmentation(**options), images), images, atol=1e-3)


def test_affine_alone_draws_the_recorded_values():
    images, generators = noise(3, 48), [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(make_augmentation(RandomAffine())(images, generators[0]), RandomAffine()(images, generators[1]))
    assert torch.equal(*(generator.get_state() for generator in generators))
    recorded = [[0.942226, 0.003363, 2.569765], [-0.001231, 1.040218, -3.953978]]
    torch.testing.assert_close(
        draws(make_augmentation(RandomAffine()), images).matrices[0], torch.tensor(recorded), atol=2e-6, rtol=0
    )


def test_affine_transforms_do_not_depend_on_other_augmentations():
    images = noise(50)
    alone, among_others = (draws(kind, images).matrices for kind in (make_augmentation(RandomAffine()), EVERYTHING))
    mirror = torch.tensor([1, -1, 1])
    assert all(
        torch.equal(other, expected) or torch.equal(other, expected * mirror)
        for expected, other in zip(alone, among_others, strict=True)
    )


def test_changes_depend_on_the_generator_alone_and_differ_between_images():
    images = noise(1).repeat(20, 1, 1, 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = change(EVERYTHING, images, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, change(EVERYTHING, images, seed=7))
    assert len(torch.cat([first, change(EVERYTHING, images, seed=8)]).flatten(1).unique(dim=0)) == 40
    assert torch.equal(images, noise(1).repeat(20, 1, 1, 1))


def test_selected_draws_change_images_as_the_draws_of_all_images_do():
    images, some = noise(30), torch.tensor([4, 28, 11])
    everything = draws(EVERYTHING, images)
    whole = EVERYTHING.apply(images, everything)
    torch.testing.assert_close(EVERYTHING.apply(images[some], everything.select(some, images.device)), whole[some])
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_rectangles_lie_over_the_moved_image_of_other_tone():
    """The right half is erased: mirroring does not move the rectangle, and it keeps its mid grey."""
    augmentation = make_augmentation(flip=1, brightness=0.5, erase=1)
    mirror = torch.tensor([[[1.0, 0, 0], [0, -1, 0]]])
    draws = Draws(mirror, torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 1, 0.5, 1]]))
    image = torch.tensor([0.2, 0.4, 0.6, 0.8]).expand(1, 1, 4, 4)
    changed = augmentation.apply(image.clone(), draws)
    torch.testing.assert_close(changed, torch.tensor([0.4, 0.3, 0.5, 0.5]).expand(1, 1, 4, 4))
