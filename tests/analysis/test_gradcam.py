import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emotion.analysis.gradcam import heatmap_figure, heatmaps
from emotion.errors import UserError
from emotion.models.registry import build_network

CNN = {"family": "cnn", "backbone": None, "blocks": [1, 1], "unfreeze": None}
BACKBONES = {
    "vgg16": {"family": "torchvision", "backbone": "vgg16", "blocks": None, "unfreeze": 0},
    "resnet50": {"family": "torchvision", "backbone": "resnet50", "blocks": None, "unfreeze": 3},
    "timm": {"family": "timm", "backbone": "resnet18", "blocks": None, "unfreeze": "all"},
}


def build(**changes):
    torch.manual_seed(0)
    values = {**CNN, "image_size": 48, "normalize": "unit"} | changes
    return build_network(**values)


def draw(number, channels=1):
    return np.random.default_rng(0).integers(0, 256, (number, channels, 48, 48), np.uint8)


def maps_by_hand(network, images, classes, method):
    """Computes the maps of a scratch CNN, from the output of its last ReLU, with nothing but autograd."""
    kept = []
    last = [module for module in network.backbone.modules() if isinstance(module, torch.nn.ReLU)][-1]
    handle = last.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = network.eval()(torch.from_numpy(images))
    handle.remove()
    speaking = logits[torch.arange(len(classes)), torch.from_numpy(classes)].sum()
    (gradient,) = torch.autograd.grad(speaking, kept[0])
    weights = gradient if method == "hirescam" else gradient.mean((2, 3), keepdim=True)
    return F.relu((weights * kept[0]).sum(1)).detach().numpy()


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_maps_are_those_of_plain_autograd(method):
    network, images, classes = build(), draw(3), np.array([0, 3, 6])
    coarse = maps_by_hand(network, images, classes, method)
    maps = heatmaps(network, images, classes, method)
    for found, expected in zip(maps, coarse, strict=True):
        # The library enlarges the map; its own places, at twice the distance, stay in the same order.
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        enlarged = F.interpolate(torch.from_numpy(expected)[None, None], (48, 48), mode="bilinear")[0, 0].numpy()
        assert np.corrcoef(found.ravel(), enlarged.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "hirescam"])
def test_every_kind_of_network_has_heatmaps(name, method):
    network = build(**BACKBONES[name], image_size=96)
    maps = heatmaps(network, draw(2), np.array([1, 5]), method)
    assert maps.shape == (2, 48, 48)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_colour_images_and_many_batches_are_taken_one_by_one():
    network, images = build(), draw(35, channels=3)
    classes = np.arange(35) % 7
    together = heatmaps(network, images, classes)
    np.testing.assert_allclose(together[33:], heatmaps(network, images[33:], classes[33:]), atol=1e-4)


def test_maps_depend_on_the_class():
    images = draw(1)
    first, second = (heatmaps(build(), images, np.array([label])) for label in (0, 4))
    assert np.abs(first - second).max() > 0.1


def test_network_is_left_as_it_was():
    network = build(**BACKBONES["resnet50"]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    heatmaps(network, draw(2), np.array([0, 1]))
    assert modes == [module.training for module in network.modules()]
    assert trainable == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_flat_maps_are_zero_not_nan():
    network = build()
    torch.nn.init.zeros_(network.head[-1].weight)
    assert (heatmaps(network, draw(2), np.array([0, 1])) == 0).all()


def test_no_images_give_no_maps():
    assert heatmaps(build(), draw(0), np.array([], np.int64)).shape == (0, 48, 48)


@pytest.mark.parametrize(
    ("changes", "method", "part"),
    [
        (BACKBONES["timm"] | {"backbone": "vit_tiny_patch16_224"}, "hirescam", "no feature map"),
        (BACKBONES["resnet50"] | {"image_size": 8}, "gradcam", "no feature map"),
        (CNN, "scorecam", "method=scorecam"),
    ],
)
def test_what_cannot_be_explained_is_said(changes, method, part):
    with pytest.raises(UserError, match=part) as caught:
        heatmaps(build(**changes), draw(1), np.array([0]), method)
    assert "\n" not in str(caught.value)


def test_as_many_classes_as_images_are_needed():
    with pytest.raises(ValueError, match="2 images need as many classes"):
        heatmaps(build(), draw(2), np.array([0]))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_figure_shows_every_pair(number):
    figure = heatmap_figure(draw(number), np.zeros((number, 48, 48), np.float32), [f"${n}" for n in range(number)])
    assert [axes.get_title() for axes in figure.axes if axes.images] == [f"${n}" for n in range(number)]
    figure.canvas.draw()


def test_figure_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="do not go together"):
        heatmap_figure(draw(2), np.zeros((2, 48, 48), np.float32), ["one"])
