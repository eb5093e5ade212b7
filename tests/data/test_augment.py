import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from emotion.data.augment import RandomAffine, affine_matrices, warp


def keras_transform(image, degrees, down, right, shear_degrees, zoom_rows, zoom_columns):
    """What ImageDataGenerator does to one image [H, W], written after its documentation with scipy."""
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
