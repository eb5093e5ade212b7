import numpy as np
import pytest
import torch
from torch import nn

from emotion.models.preprocess import Preprocess
from emotion.models.views import Views

NAMES = ("none", "flip", "shifts", "ten_crop")


class Counting(nn.Module):
    """A linear network of all pixels with fixed random weights, which counts its calls."""

    def __init__(self, side=48, scale=10.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.preprocess = Preprocess(1, side, "unit")
        self.weights = torch.randn(side * side, 7, generator=generator) * scale / side
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return (self.preprocess(images).flatten(1) - 0.5) @ self.weights


def pixels(height=48, width=48, count=5):
    return torch.randint(256, (count, 1, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moved(images, down, across):
    """Returns the images moved by this number of pixels; the edge is repeated."""
    height, width = images.shape[-2:]
    rows = [min(max(row - down, 0), height - 1) for row in range(height)]
    columns = [min(max(column - across, 0), width - 1) for column in range(width)]
    return images[:, :, rows][:, :, :, columns]


def shifts(images, down, across):
    return [moved(images, *by) for by in ((0, 0), (-down, 0), (down, 0), (0, -across), (0, across))]


def crops(images, height, width):
    last, right = images.shape[-2] - height, images.shape[-1] - width
    corners = ((0, 0), (0, right), (last, 0), (last, right), (last // 2, right // 2))
    return [images[:, :, top : top + height, left : left + width] for top, left in corners]


def brute_force(network, views):
    """Returns the mean probabilities over views in 0..1 and their mirror images, in float64 by numpy."""
    probabilities = []
    for view in views:
        for image in (view, np.ascontiguousarray(view[..., ::-1])):
            logits = network(torch.from_numpy(image).float()).double().numpy()
            shares = np.exp(logits - logits.max(1, keepdims=True))
            probabilities.append(shares / shares.sum(1, keepdims=True))
    return np.mean(probabilities, axis=0)


@pytest.mark.parametrize(
    ("name", "height", "width", "make"),
    [
        ("flip", 48, 48, lambda images: [images]),
        ("shifts", 48, 48, lambda images: shifts(images, 2, 2)),
        ("shifts", 96, 24, lambda images: shifts(images, 4, 1)),
        ("shifts", 10, 10, lambda images: shifts(images, 1, 1)),
        ("ten_crop", 48, 48, lambda images: crops(images, 44, 44)),
        ("ten_crop", 96, 24, lambda images: crops(images, 88, 22)),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_probabilities_are_the_mean_over_the_views(name, height, width, make, kind):
    network, images = Counting(), pixels(height, width)
    floats = images.float() / 255
    found = Views(network, name)(images if kind == "bytes" else floats).exp().numpy()
    expected = brute_force(network, make(floats.numpy().astype(np.float64)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain = network(floats).softmax(1).numpy()
    assert np.abs(found - plain).max() > 0.05, "the views do not differ, so this test proves nothing"


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_floats_agree(name):
    views, images = Views(Counting(), name), pixels()
    torch.testing.assert_close(views(images), views(images.float() / 255), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_logarithm_of_probabilities(name):
    output = Views(Counting(), name)(pixels())
    assert output.shape == (5, 7)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.exp().sum(1), torch.ones(5))
    torch.testing.assert_close(output.softmax(1), output.exp())


def test_one_view_gives_the_output_of_the_network():
    network, images = Counting(), pixels()
    torch.testing.assert_close(Views(network, "none")(images), network(images).log_softmax(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "count"), list(zip(NAMES, [1, 2, 10, 10], strict=True)))
def test_each_view_is_seen_once(name, count):
    network = Counting()
    Views(network, name)(pixels())
    assert network.calls == count


@pytest.mark.parametrize("name", NAMES[1:])
def test_mirror_images_get_the_same_output(name):
    views, images = Views(Counting(), name), pixels()
    torch.testing.assert_close(views(images.flip(-1)), views(images))


@pytest.mark.parametrize("name", NAMES)
def test_images_are_not_written_to(name):
    for images in (pixels(), pixels().float() / 255):
        before = images.clone()
        Views(Counting(), name)(images)
        assert torch.equal(images, before)


def test_probability_zero_in_all_views_stays_zero():
    output = Views(Counting(scale=1e5), "flip")(pixels())
    assert (output == -torch.inf).any()
    assert not output.isnan().any()
    torch.testing.assert_close(output.softmax(1).sum(1), torch.ones(5))


def test_half_precision_is_averaged_in_single():
    class Half(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :7].to(torch.bfloat16)

    output = Views(Half(), "flip")(pixels().float() / 255)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.exp().sum(1), torch.ones(5))


def test_mode_and_device_reach_the_network():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 7))
    views = Views(network, "flip").eval()
    assert not network[1].training
    assert len(list(views.parameters())) == 2
