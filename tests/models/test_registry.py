import pytest
import torch
from torch import nn

from emotion.errors import UserError
from emotion.models.registry import build_network


def build(**changes):
    values = {"family": "cnn", "backbone": None, "blocks": [1, 1], "unfreeze": None}
    return build_network(**values | {"image_size": 32, "normalize": "unit"} | changes)


VGG = {"family": "torchvision", "backbone": "vgg11", "blocks": None, "unfreeze": 1}
VIT = {"family": "timm", "backbone": "test_efficientnet", "blocks": None, "unfreeze": 2}


@pytest.mark.parametrize("settings", [{}, VGG, VIT], ids=["cnn", "torchvision", "timm"])
def test_every_family_maps_images_to_seven_logits(settings):
    network = build(**settings).eval()
    assert network(torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)).shape == (2, 7)
    assert network.preprocess.image_size == 32


@pytest.mark.parametrize("settings", [{}, VGG, VIT], ids=["cnn", "torchvision", "timm"])
def test_filters_lie_channels_last(settings):
    layers = [layer for layer in build(**settings).modules() if isinstance(layer, nn.Conv2d)]
    assert layers
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)


@pytest.mark.parametrize("unfreeze", [0, 1, 3, "all"])
def test_unfreeze_reaches_the_backbone(unfreeze):
    backbone = build(**VGG | {"unfreeze": unfreeze}).backbone
    trained = sum(parameter.requires_grad for parameter in backbone.parameters())
    assert trained == 2 * (8 if unfreeze == "all" else unfreeze)


def test_scratch_network_trains_as_a_whole():
    network = build()
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.train().freeze_statistics()
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unfreeze": 3}, "unfreeze: this model has no backbone"),
        ({"unfreeze": 0}, "unfreeze: this model has no backbone"),
        ({"unfreeze": "all"}, "unfreeze: this model has no backbone"),
        ({"backbone": "vgg16"}, "backbone: this model has no backbone"),
        ({"blocks": None}, "blocks="),
        ({"normalize": "imagenet"}, "normalize=imagenet"),
        (VGG | {"blocks": [2, 2]}, "torchvision .*no blocks"),
        (VIT | {"blocks": [2, 2]}, "timm .*no blocks"),
        (VGG | {"backbone": None}, "backbone=<name>"),
        (VGG | {"unfreeze": None}, "unfreeze=<number or all>"),
        (VGG | {"unfreeze": 9}, r"unfreeze=9: .*0\.\.8"),
        (VGG | {"unfreeze": -1}, r"unfreeze=-1: .*0\.\.8"),
        (VGG | {"backbone": "resnet18d"}, "backbone=resnet18d"),
        (VIT | {"backbone": "vgg_19"}, "backbone=vgg_19"),
        (VGG | {"image_size": 16}, "image_size=16"),
    ],
)
def test_settings_that_do_not_go_together_are_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)
