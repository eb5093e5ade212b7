import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import make_network
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

from emotion.analysis.gradcam import heatmap_figure, heatmaps
from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import Preprocess

CNN = {"family": "cnn", "backbone": None, "blocks": [1, 1], "unfreeze": None}
BACKBONES = {
    "vgg16": {"family": "torchvision", "backbone": "vgg16", "blocks": None, "unfreeze": 0},
    "resnet50": {"family": "torchvision", "backbone": "resnet50", "blocks": None, "unfreeze": 3},
    "timm": {"family": "timm", "backbone": "resnet18", "blocks": None, "unfreeze": "all"},
}
# The layer whose map is used: the last map of at least 5 x 5 before a pooling and at the end of a residual block.
LAYERS = [
    ({"blocks": [1, 1]}, "1.1"),
    ({"blocks": [2, 2, 1, 1]}, "3.1"),
    ({"blocks": [1, 1, 1, 1, 1]}, "3.1"),
    (BACKBONES["vgg16"], "features.22"),
    (BACKBONES["vgg16"] | {"image_size": 96}, "features.29"),
    (BACKBONES["resnet50"], "layer2"),
    (BACKBONES["timm"] | {"image_size": 96}, "layer3"),
]


class WorksInPlace(nn.Module):
    """A backbone that overwrites the output of its one convolution, if asked."""

    def __init__(self, in_place):
        super().__init__()
        self.convolution, self.in_place = nn.Conv2d(1, 8, 3, padding=1), in_place

    def forward(self, images):
        return F.max_pool2d(F.relu(self.convolution(images), inplace=self.in_place), 16)


def build(**changes):
    torch.manual_seed(0)
    values = {**CNN, "image_size": 48, "normalize": "unit"} | changes
    return make_network(**values)


def draw(number, channels=1):
    return np.random.default_rng(0).integers(0, 256, (number, channels, 48, 48), np.uint8)


def scale(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num()


def weigh(gradient, features, method):
    if method == "hirescam":
        return gradient
    if method == "gradcam":
        return gradient.mean((2, 3), keepdim=True)
    # Equation 19 of arXiv:1710.11063; the library adds 1e-6 against a division by zero.
    shares = gradient**2 / (2 * gradient**2 + features.sum((2, 3), keepdim=True) * gradient**3 + 1e-6)
    return (shares * F.relu(gradient)).sum((2, 3), keepdim=True)


def maps_by_hand(network, layer, images, classes, method):
    """Computes the heatmaps from the output of a layer of the backbone with plain autograd."""
    kept = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    handle = network.backbone.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1]))
    logits = network.eval().requires_grad_(True)(torch.from_numpy(images))
    handle.remove()
    explained = logits[torch.arange(len(classes)), torch.from_numpy(classes)].sum()
    (gradient,) = torch.autograd.grad(explained, kept[0])
    coarse = scale(F.relu((weigh(gradient, kept[0], method) * kept[0]).sum(1)).detach())
    return scale(F.interpolate(coarse[:, None], images.shape[2:], mode="bilinear")[:, 0]).numpy()


@pytest.mark.parametrize(("changes", "layer"), LAYERS)
def test_maps_equal_those_of_plain_autograd(changes, layer):
    network, images, classes = build(**changes), draw(7), np.arange(7)
    for method in ("gradcam", "gradcam++", "hirescam"):
        maps = heatmaps(network, images, classes, method)
        expected = maps_by_hand(network, layer, images, classes, method)
        assert expected.any((1, 2)).sum() >= 2
        np.testing.assert_allclose(maps, expected, atol=2e-3)
        assert maps.dtype == np.float32
        assert (maps.min(), maps.max()) == (0, pytest.approx(1))


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "hirescam"])
def test_layers_that_work_in_place_do_not_change_the_map(method):
    maps = []
    for in_place in (False, True):
        torch.manual_seed(0)
        backbone = WorksInPlace(in_place)
        head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 9, 7))
        network = Network(Preprocess(1, 48, "unit"), backbone, head, [backbone])
        maps.append(heatmaps(network, draw(3), np.array([0, 3, 6]), method))
    np.testing.assert_array_equal(maps[0], maps[1])
    assert maps[0].max() == pytest.approx(1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_are_the_same_where_gradients_are_off(mode):
    expected = heatmaps(build(), draw(2), np.array([1, 2]))
    with mode():
        np.testing.assert_array_equal(heatmaps(build(), draw(2), np.array([1, 2])), expected)


def test_maps_of_colour_images_do_not_depend_on_the_batch():
    network, images = build(), draw(35, channels=3)
    classes = np.arange(35) % 7
    together = heatmaps(network, images, classes)
    np.testing.assert_allclose(together[33:], heatmaps(network, images[33:], classes[33:]), atol=1e-4)


def test_maps_depend_on_the_class():
    images = draw(1)
    first, second = (heatmaps(build(), images, np.array([label])) for label in (0, 4))
    assert np.abs(first - second).max() > 0.1


def state_of(network):
    """Returns everything that heatmaps might change in a network."""
    tensors = [*network.state_dict().values(), *(parameter.grad for parameter in network.parameters())]
    return {
        "values": [tensor if tensor is None else tensor.clone() for tensor in tensors],
        "layouts": [tensor if tensor is None else tensor.stride() for tensor in tensors],
        "trainable": [parameter.requires_grad for parameter in network.parameters()],
        "modes": [(module.training, getattr(module, "inplace", None)) for module in network.modules()],
        "hooks": [(*module._forward_hooks.values(), *module._backward_hooks.values()) for module in network.modules()],
    }


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_network_does_not_change(name):
    network = build(**BACKBONES[name]).train()
    network(torch.from_numpy(draw(2))).sum().backward()
    network.backbone.register_forward_hook(lambda *call: None)
    before = state_of(network)
    heatmaps(network, draw(2), np.array([0, 1]))
    after = state_of(network)
    for old, new in zip(before.pop("values"), after.pop("values"), strict=True):
        assert (old is None and new is None) or torch.equal(old, new)
    assert after == before


def test_copy_of_the_network_is_freed_at_once():
    network = build()
    gc.collect()
    gc.disable()
    before = networks()  # other tests may have left some
    try:
        for _ in range(2):
            heatmaps(network, draw(1), np.array([0]))
        copies = networks() - before
    finally:
        gc.enable()
    assert not copies


def networks():
    return {id(item) for item in gc.get_objects() if type(item) is Network}


def test_flat_maps_are_zero_not_nan():
    network = build()
    torch.nn.init.zeros_(network.head[-1].weight)
    assert (heatmaps(network, draw(2), np.array([0, 1])) == 0).all()


def test_no_images_give_no_maps():
    assert heatmaps(build(), draw(0), np.array([], np.int64)).shape == (0, 48, 48)


@pytest.mark.parametrize(
    ("changes", "method", "part"),
    [
        (BACKBONES["timm"] | {"backbone": "vit_tiny_patch16_224", "image_size": 96}, "hirescam", "no feature map"),
        (BACKBONES["resnet50"] | {"image_size": 8}, "gradcam", "no feature map"),
        (CNN, "scorecam", "method=scorecam"),
    ],
)
def test_network_or_method_without_heatmaps_is_an_error(changes, method, part):
    with pytest.raises(UserError, match=part) as caught:
        heatmaps(build(**changes), draw(1), np.array([0]), method)
    assert "\n" not in str(caught.value)


def test_as_many_classes_as_images_are_needed():
    with pytest.raises(ValueError, match="classes: 1 for 2 images"):
        heatmaps(build(), draw(2), np.array([0]))


def test_class_that_does_not_exist_is_an_error():
    with pytest.raises(IndexError):
        heatmaps(build(), draw(1), np.array([7]))


@pytest.mark.parametrize("number", [0, 1, 5])
def test_figure_shows_every_pair(number):
    figure = heatmap_figure(draw(number), np.zeros((number, 48, 48), np.float32), [f"${n}" for n in range(number)])
    assert [axes.get_title() for axes in figure.axes if axes.images] == [f"${n}" for n in range(number)]
    figure.draw_without_rendering()


@pytest.mark.parametrize("channels", [1, 3])
def test_heatmap_is_drawn_over_the_right_image_of_a_pair(channels):
    image, drawings = draw(1, channels), []
    for heat in (0, 1):
        figure = heatmap_figure(image, np.full((1, 48, 48), heat, np.float32), [""])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawings.append(np.asarray(canvas.buffer_rgba(), int))
    changed = (drawings[0] != drawings[1]).any((0, 2))
    middle = len(changed) // 2
    assert not changed[:middle].any()
    assert changed[middle:].mean() > 0.9
    left, right = drawings[0][:, :middle], drawings[0][:, middle:]
    shades = [len(np.unique(half.reshape(-1, 4), axis=0)) for half in (left, right)]
    assert min(shades) > 200


def test_figure_refuses_lengths_that_do_not_match():
    with pytest.raises(ValueError, match="do not match"):
        heatmap_figure(draw(2), np.zeros((2, 48, 48), np.float32), ["one"])
