import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from emotion.errors import UserError
from emotion.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, require_unit

MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


def pixels(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("normalize", "channels", "stored"),
    [
        *((name, 3, stored) for name in ("imagenet", "unit", "keras_unit") for stored in (1, 3)),
        ("unit", 1, 1),
        ("unit", 1, 3),
    ],
)
def test_bytes_equal_floats_divided_by_255(normalize, channels, stored):
    preprocess = Preprocess(channels, 24, normalize)
    images = pixels(2, stored, 24, 24)
    assert torch.equal(preprocess(images), preprocess(images.float() / 255))
    for kind in (torch.int32, torch.int64):
        assert torch.equal(preprocess(images.to(kind)), preprocess(images))
    torch.testing.assert_close(preprocess(images.double() / 255), preprocess(images))


@pytest.mark.parametrize(
    ("normalize", "value", "expected"),
    [
        ("imagenet", 0, [-2.117904, -2.035714, -1.804444]),
        ("imagenet", 255, [2.248908, 2.428571, 2.64]),
        ("imagenet", 51, [-1.244541, -1.142857, -0.915556]),
        ("unit", 0, [0, 0, 0]),
        ("unit", 255, [1, 1, 1]),
        ("unit", 51, [0.2, 0.2, 0.2]),
        ("keras_unit", 0, [0, 0, 0]),
        ("keras_unit", 255, [0.01712475, 0.01750700, 0.01742919]),
        ("keras_unit", 51, [0.00342495, 0.00350140, 0.00348584]),
    ],
)
def test_values_by_hand(normalize, value, expected):
    output = Preprocess(3, 2, normalize)(torch.full((1, 1, 2, 2), value, dtype=torch.uint8))
    assert output.shape == (1, 3, 2, 2)
    torch.testing.assert_close(output[0, :, 0, 0], torch.tensor(expected, dtype=torch.float32), atol=2e-6, rtol=1e-5)
    assert (output == output[..., :1, :1]).all()


def test_given_mean_and_std_replace_those_of_imagenet():
    images = torch.rand(2, 3, 4, 4)
    halves = (0.5, 0.5, 0.5)
    torch.testing.assert_close(Preprocess(3, 4, "imagenet", halves, halves)(images), 2 * images - 1)
    torch.testing.assert_close(Preprocess(3, 4, "keras_unit", halves, halves)(images), images / 127.5)


@pytest.mark.parametrize("normalize", ["imagenet", "keras_unit"])
def test_first_layer_gets_the_input_of_keras_weights(normalize):
    """Keras's filters expect BGR, 0..255 minus the means; in torchvision's terms they are filters / (255 std)."""
    images = torch.rand(2, 3, 8, 8)
    filters = torch.randn(5, 3, 3, 3)
    keras_filters = (filters / (255 * STD)).flip(1)
    fed = (images * 255 - 255 * MEAN if normalize == "imagenet" else images).flip(1)
    torch.testing.assert_close(F.conv2d(Preprocess(3, 8, normalize)(images), filters), F.conv2d(fed, keras_filters))


def test_grey_becomes_three_equal_channels():
    output = Preprocess(3, 8, "unit")(pixels(2, 1, 8, 8))
    assert output.shape == (2, 3, 8, 8)
    assert torch.equal(output[:, 0], output[:, 1])
    assert torch.equal(output[:, 0], output[:, 2])


def test_colour_becomes_the_grey_of_pillow():
    images = pixels(1, 3, 16, 16)
    grey = Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L")
    output = Preprocess(1, 16, "unit")(images)
    assert output.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(output[0, 0] * 255, np.asarray(grey), atol=0.51)


@pytest.mark.parametrize(("stored", "wanted"), [(24, 48), (48, 30), (48, 96), (96, 24)])
def test_resize_is_bilinear_and_smooths_where_it_shrinks(stored, wanted):
    images = torch.rand(2, 1, stored, stored)
    expected = F.interpolate(images, (wanted, wanted), mode="bilinear", align_corners=False, antialias=wanted < stored)
    torch.testing.assert_close(Preprocess(1, wanted, "unit")(images), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 64), (96, 16)])
def test_images_that_are_not_square_are_smoothed_along_both_axes(height, width):
    images = torch.rand(2, 1, height, width)
    expected = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(Preprocess(1, 32, "unit")(images), expected)


def test_images_of_the_right_size_are_unchanged():
    preprocess = Preprocess(3, 20, "unit")
    images = torch.rand(2, 3, 20, 20)
    assert torch.equal(preprocess(images), images)
    assert torch.equal(preprocess(preprocess(images)), images)


def test_images_are_not_written_to():
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    Preprocess(3, 8, "imagenet")(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_output_is_channels_last(channels):
    output = Preprocess(channels, 8, "unit")(pixels(2, 1, 8, 8))
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_state_dict_is_empty():
    assert not Preprocess(3, 8, "imagenet").state_dict()


def test_networks_without_pretrained_weights_require_unit():
    require_unit("unit")
    for normalize in ("imagenet", "keras_unit"):
        with pytest.raises(UserError, match=f"normalize={normalize}: .*set normalize=unit") as error:
            require_unit(normalize)
        assert "\n" not in str(error.value)


def test_text_depends_on_the_settings():
    made = [
        Preprocess(3, 48, "imagenet"),
        Preprocess(3, 48, "imagenet", (0.5, 0.5, 0.5)),
        Preprocess(3, 48, "imagenet", IMAGENET_MEAN, (0.5, 0.5, 0.5)),
        Preprocess(3, 48, "unit"),
        Preprocess(3, 48, "keras_unit"),
        Preprocess(3, 96, "imagenet"),
        Preprocess(1, 48, "unit"),
    ]
    assert len({repr(preprocess) for preprocess in made}) == len(made)
    assert repr(Preprocess(3, 48, "imagenet")) == repr(made[0])
