import pytest
import torch
from builders import make_network
from torch import nn

from emotion.errors import UserError
from emotion.models.registry import FAMILIES as REGISTERED
from emotion.models.registry import build_network
from emotion.settings import NetworkSettings

CNN = {"family": "cnn", "blocks": [1, 1]}
RESNET = {"family": "resnet", "blocks": [1, 1], "width": 4, "stem_stride": 2}
VGG = {"family": "torchvision", "backbone": "vgg11", "unfreeze": 1}
TIMM = {"family": "timm", "backbone": "test_efficientnet", "unfreeze": 2}
FACE = {"family": "face", "backbone": "resnet29_dlib", "unfreeze": 0, "image_size": 112, "normalize": "imagenet"}
FAMILIES = (CNN, RESNET, VGG, TIMM, FACE)
NAMES = [settings["family"] for settings in FAMILIES]
RECIPE_KEYS = {"backbone": "vgg16", "unfreeze": 0, "blocks": [2, 2], "width": 4, "stem_stride": 1}
"""A value for each setting that only some families have."""


def build(settings=CNN, **changes):
    return make_network(**{"image_size": 32, "normalize": "unit"} | settings | changes)


@pytest.mark.parametrize("settings", FAMILIES, ids=NAMES)
def test_every_family_maps_images_to_seven_logits(settings):
    network = build(settings).eval()
    assert network(torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)).shape == (2, 7)
    assert network.preprocess.image_size == settings.get("image_size", 32)


@pytest.mark.parametrize("settings", FAMILIES, ids=NAMES)
def test_filters_are_channels_last(settings):
    layers = [layer for layer in build(settings).modules() if isinstance(layer, nn.Conv2d)]
    assert layers
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)


@pytest.mark.parametrize("unfreeze", [0, 1, 3, "all"])
def test_unfreeze_reaches_the_backbone(unfreeze):
    backbone = build(VGG, unfreeze=unfreeze).backbone
    trained = sum(parameter.requires_grad for parameter in backbone.parameters())
    assert trained == 2 * (8 if unfreeze == "all" else unfreeze)


@pytest.mark.parametrize("settings", [CNN, RESNET], ids=["cnn", "resnet"])
def test_scratch_network_trains_as_a_whole(settings):
    network = build(settings)
    assert all(parameter.requires_grad for parameter in network.parameters())
    network.train().freeze_statistics()
    assert all(module.training for module in network.modules())


def test_width_and_stride_reach_the_resnet():
    stem = build(RESNET, width=6, stem_stride=1).backbone[0][0]
    assert (stem.out_channels, stem.stride) == (6, (1, 1))


@pytest.mark.parametrize(("settings", "default"), [*zip(FAMILIES, [0.5, 0, 0.5, 0.5, 0.5], strict=True)], ids=NAMES)
def test_dropout_before_the_last_layer_is_the_default_of_the_family_or_as_given(settings, default):
    def last(network):
        return [module for module in network.head if isinstance(module, nn.Dropout)][-1].p

    assert last(build(settings)) == default
    assert last(build(settings, dropout=0.3)) == 0.3
    assert last(build(settings, dropout=0.0)) == 0.0


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (CNN, "blocks"),
        *((RESNET, key) for key in ("blocks", "width", "stem_stride")),
        *((settings, key) for settings in (VGG, TIMM, FACE) for key in ("backbone", "unfreeze")),
    ],
    ids=lambda value: value if isinstance(value, str) else value["family"],
)
def test_a_setting_that_is_missing_is_named(settings, key):
    with pytest.raises(UserError, match=f"^{key} is missing: .*family {settings['family']} needs .*{key}") as error:
        build(settings, **{key: None})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "key", "others"),
    [
        (CNN, "backbone", "torchvision, timm, face"),
        (CNN, "width", "resnet"),
        (CNN, "stem_stride", "resnet"),
        (RESNET, "backbone", "torchvision, timm, face"),
        (VGG, "blocks", "cnn, resnet"),
        (TIMM, "blocks", "cnn, resnet"),
        (TIMM, "width", "resnet"),
        (FACE, "stem_stride", "resnet"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["family"],
)
def test_a_setting_of_other_families_is_named_with_them(settings, key, others):
    expected = f"^{key}: a setting of family {others}, not of family {settings['family']}; remove it$"
    with pytest.raises(UserError, match=expected) as error:
        build(settings, **{key: RECIPE_KEYS[key]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (CNN, {"normalize": "imagenet"}, "normalize=imagenet"),
        (CNN, {"blocks": []}, r"blocks=\[\]"),
        (RESNET, {"normalize": "imagenet"}, "normalize=imagenet"),
        (RESNET, {"width": 0}, "width=0"),
        (RESNET, {"width": "x"}, "width=x: a whole number from 1 to 1024"),
        (RESNET, {"width": 2000}, "width=2000: a whole number from 1 to 1024"),
        (RESNET, {"blocks": [200, 200]}, r"blocks=\[200, 200\]: .* at most 256"),
        (CNN, {"blocks": [1_000_000]}, r"blocks=\[1000000\]: .* at most 256"),
        (CNN, {"blocks": ["a"]}, r"blocks=\['a'\]: a list of whole numbers"),
        (CNN, {"blocks": 3}, "blocks=3: a list of whole numbers"),
        *((family, {"image_size": 20_000}, "image_size=20000: .* to 1024") for family in FAMILIES),
        (CNN, {"image_size": 32.5}, "image_size=32.5: a whole number"),
        (RESNET, {"stem_stride": 0}, "stem_stride=0"),
        (VGG, {"unfreeze": 9}, r"unfreeze=9: .*0\.\.8"),
        (VGG, {"unfreeze": -1}, "unfreeze=-1: a whole number from 0 or all"),
        (VGG, {"backbone": "resnet18d"}, "backbone=resnet18d"),
        (TIMM, {"backbone": "vgg_19"}, "backbone=vgg_19"),
        (FACE, {"backbone": "vgg16"}, "backbone=vgg16: not one of resnet29_dlib"),
        (FACE, {"image_size": 32}, "image_size=32: does not fit resnet29_dlib"),
        (VGG, {"image_size": 16}, "image_size=16"),
    ],
)
def test_values_out_of_range_are_one_clear_line(settings, changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(settings, **changes)
    assert "\n" not in str(error.value)


def test_a_family_without_a_backbone_has_a_title_for_the_page() -> None:
    assert all(family.title or "backbone" in family.needs for family in REGISTERED.values())


def test_a_network_of_ones_own_may_have_filters_of_any_dimension():
    class Net(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.conv = nn.Conv3d(1, num_classes, 1)

        def forward(self, images):
            return self.conv(images[:, None]).mean((2, 3, 4))

    network = build_network(NetworkSettings(family="custom", network="x.py:Net"), 3, Net)
    assert network(torch.zeros(2, 1, 48, 48)).shape == (2, 3)
