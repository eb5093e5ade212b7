import pytest
import torch
import torch.nn.functional as F
from builders import make_network
from torch import nn

from emotion.errors import UserError
from emotion.models.network import Network, feature_count
from emotion.models.preprocess import Preprocess


def torchvision(backbone, image_size=48):
    return make_network(
        family="torchvision",
        backbone=backbone,
        blocks=None,
        unfreeze=0,
        image_size=image_size,
        normalize="imagenet",
    )


@pytest.fixture(scope="module")
def vgg16():
    return torchvision("vgg16")


@pytest.fixture(scope="module")
def vgg11():
    return torchvision("vgg11", 32)


@pytest.fixture(scope="module")
def resnet18():
    return torchvision("resnet18", 32)


@pytest.fixture(scope="module")
def resnet50():
    return torchvision("resnet50", 32)


class Backbone(nn.Module):
    """Has all that freezing must respect: running statistics, dropout, and layers declared in another order."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(4, 4, 1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.last_norm = nn.BatchNorm2d(4)
        self.last_drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.last_drop(self.last_norm(self.last(self.drop(self.norm(self.first(images))))))


def network_of(backbone, image_size=8):
    features = feature_count(backbone, torch.zeros(1, 3, image_size, image_size), "test")
    head = nn.Sequential(nn.Flatten(), nn.Linear(features, 7))
    return Network(Preprocess(3, image_size, "unit"), backbone, head, [backbone])


def trained(network):
    return [name for name, parameter in network.backbone.named_parameters() if parameter.requires_grad]


def of_layers(*layers):
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


VGG16_BLOCKS = {1: [0, 2], 2: [5, 7], 3: [10, 12, 14], 4: [17, 19, 21], 5: [24, 26, 28]}


@pytest.mark.parametrize(
    ("count", "blocks"),
    [(0, []), (3, [5]), (6, [4, 5]), (9, [3, 4, 5]), (13, [1, 2, 3, 4, 5]), ("all", [1, 2, 3, 4, 5])],
)
def test_vgg16_trains_its_last_blocks(vgg16, count, blocks):
    vgg16.unfreeze(count)
    assert trained(vgg16) == of_layers(*(f"features.{layer}" for block in blocks for layer in VGG16_BLOCKS[block]))
    assert all(parameter.requires_grad for parameter in vgg16.head.parameters())


def test_vgg16_has_the_parameters_of_the_paper(vgg16):
    vgg16.unfreeze(9)
    count = vgg16.count_parameters()
    assert (count.total, count.trainable, count.frozen) == (14_847_815, 14_587_655, 260_160)


RESNET50_LAST = [
    "layer4.0.conv1.weight", "layer4.0.bn1.weight", "layer4.0.bn1.bias",
    "layer4.0.conv2.weight", "layer4.0.bn2.weight", "layer4.0.bn2.bias",
    "layer4.0.conv3.weight", "layer4.0.bn3.weight", "layer4.0.bn3.bias",
    "layer4.0.downsample.0.weight", "layer4.0.downsample.1.weight", "layer4.0.downsample.1.bias",
    "layer4.1.conv1.weight", "layer4.1.bn1.weight", "layer4.1.bn1.bias",
    "layer4.1.conv2.weight", "layer4.1.bn2.weight", "layer4.1.bn2.bias",
    "layer4.1.conv3.weight", "layer4.1.bn3.weight", "layer4.1.bn3.bias",
    "layer4.2.conv1.weight", "layer4.2.bn1.weight", "layer4.2.bn1.bias",
    "layer4.2.conv2.weight", "layer4.2.bn2.weight", "layer4.2.bn2.bias",
    "layer4.2.conv3.weight", "layer4.2.bn3.weight", "layer4.2.bn3.bias",
]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, RESNET50_LAST[-3:]),
        (3, RESNET50_LAST[-9:]),
        (6, RESNET50_LAST[-18:]),
        # The shortcut runs after the three convolutions of its block, so it is the next to train.
        (7, RESNET50_LAST[9:]),
        (8, RESNET50_LAST[6:]),
        (10, RESNET50_LAST),
        (11, ["layer3.5.conv3.weight", "layer3.5.bn3.weight", "layer3.5.bn3.bias", *RESNET50_LAST]),
    ],
)
def test_resnet50_trains_its_last_convolutions_with_their_normalisation(resnet50, count, names):
    resnet50.unfreeze(count)
    assert trained(resnet50) == names


def test_resnet50_unfrozen_to_the_first_layer_equals_all(resnet50):
    resnet50.unfreeze(53)
    assert trained(resnet50) == [name for name, _ in resnet50.backbone.named_parameters()]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, ["last", "last_norm"]), (2, ["last", "first", "norm", "last_norm"])]
)
def test_layers_are_counted_in_the_order_of_the_forward_pass(count, expected):
    network = network_of(Backbone())
    network.unfreeze(count)
    assert trained(network) == of_layers(*expected)


def test_unfreeze_can_be_called_again():
    network = network_of(Backbone())
    network.unfreeze("all")
    network.unfreeze(1)
    network.train().freeze_statistics()
    assert trained(network) == of_layers("last", "last_norm")
    assert not network.backbone.norm.training
    network.unfreeze("all")
    network.train().freeze_statistics()
    assert len(trained(network)) == 8
    assert network.backbone.norm.training


@pytest.mark.parametrize("count", [-1, 9, 100])
def test_unfreeze_out_of_range_names_the_legal_range(vgg11, count):
    vgg11.unfreeze(2)
    with pytest.raises(UserError, match=rf"unfreeze={count}:.*8 layers.*0\.\.8, all"):
        vgg11.unfreeze(count)
    assert trained(vgg11) == of_layers("features.16", "features.18")


class OwnParameter(nn.Module):
    """Like a vision transformer: the parameter that is added first belongs to the module that finishes last."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 8, 8))
        self.first = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, images):
        return self.last(self.first(images) + self.position)


class Bypassed(nn.Module):
    """Like the attention of BEiT, EVA and Swin V2 in timm: the weights of a layer are used without calling it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.qkv = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, images):
        tokens = self.first(images).flatten(2).transpose(1, 2)
        return self.last(F.linear(tokens, self.qkv.weight, self.qkv.bias))


def test_parameters_before_the_frozen_layers_are_frozen():
    network = network_of(OwnParameter())
    network.unfreeze(1)
    assert trained(network) == of_layers("last")


@pytest.mark.parametrize("count", [1, 2])
def test_layers_that_are_not_called_cannot_be_counted(count):
    network = network_of(Bypassed())
    with pytest.raises(UserError, match=rf"unfreeze={count}: .*does not call all its layers, so only 0 and all"):
        network.unfreeze(count)


def test_layers_that_are_not_called_are_frozen_or_trained_as_a_whole():
    network = network_of(Bypassed())
    network.unfreeze(0)
    assert trained(network) == []
    network.unfreeze("all")
    assert trained(network) == of_layers("first", "qkv", "last")


@pytest.mark.parametrize("count", [0, 1, 2, "all"])
def test_only_the_frozen_part_is_in_eval_mode(count):
    network = network_of(Backbone())
    network.unfreeze(count)
    network.train().freeze_statistics()
    backbone = network.backbone
    early, late = (
        (backbone.first, backbone.norm, backbone.drop),
        (backbone.last, backbone.last_norm, backbone.last_drop),
    )
    assert [module.training for module in early] == [count in (2, "all")] * 3
    assert [module.training for module in late] == [count != 0] * 3
    assert all(module.training for module in network.head)


def test_frozen_part_stays_frozen_when_its_normalisation_is_replaced():
    network = network_of(Backbone())
    network.unfreeze(1)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.train().freeze_statistics()
    assert network.backbone.last_norm.training
    assert not network.backbone.norm.training


def test_unfreeze_changes_neither_weights_nor_statistics_nor_mode():
    network = network_of(Backbone())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training).unfreeze(1)
        assert network.backbone.training == network.backbone.norm.training == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def assert_split_equals(network, images):
    network.eval()
    prefix, suffix = network.split(network.frozen_stages)
    assert not any(parameter.requires_grad for parameter in prefix.parameters())
    trainable = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in suffix.parameters() if parameter.requires_grad}
    with torch.no_grad():
        torch.testing.assert_close(suffix(prefix(images)), network(images))
    return prefix, suffix


@pytest.mark.parametrize(("count", "stages"), [(0, 21), (1, 18), (3, 13), (6, 6), (8, 0), ("all", 0)])
def test_vgg_is_split_before_its_first_trained_convolution(vgg11, count, stages):
    vgg11.unfreeze(count)
    assert vgg11.frozen_stages == stages
    prefix, suffix = assert_split_equals(vgg11, torch.rand(2, 1, 48, 48))
    assert list(prefix) == [vgg11.preprocess, *vgg11.backbone.features[:stages]]
    assert list(suffix) == [*vgg11.backbone.features[stages:], vgg11.head]


@pytest.mark.parametrize(("count", "stages"), [(0, 12), (1, 11), (2, 11), (3, 10), (6, 9), (20, 0), ("all", 0)])
def test_resnet_is_split_before_the_block_of_its_first_trained_convolution(resnet18, count, stages):
    resnet18.unfreeze(count)
    prefix, _ = assert_split_equals(resnet18, torch.rand(2, 1, 48, 48))
    assert len(prefix) == 1 + stages


@pytest.mark.parametrize(("count", "stages"), [(0, 1), (1, 0), ("all", 0)])
def test_backbone_of_one_stage_is_split_around_it(count, stages):
    network = network_of(Backbone())
    network.unfreeze(count)
    prefix, _ = assert_split_equals(network, torch.rand(2, 1, 8, 8))
    assert len(prefix) == 1 + stages


def test_split_shares_its_weights_with_the_network():
    network = network_of(Backbone())
    network.unfreeze(0)
    _, suffix = network.split(network.frozen_stages)
    images = torch.rand(2, 3, 8, 8)
    before = network.eval()(images)
    with torch.no_grad():
        suffix[-1][-1].bias.add_(1)
    torch.testing.assert_close(network(images), before + 1)


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18"])
def test_network_can_be_split_before_any_stage(request, backbone):
    network = request.getfixturevalue(backbone).eval()
    images = torch.rand(2, 1, 48, 48)
    stages = {"vgg11": 21, "resnet18": 12}[backbone]
    with torch.no_grad():
        expected = network(images)
        for first in range(stages + 1):
            prefix, suffix = network.split(first)
            assert len(prefix) == first + 1
            torch.testing.assert_close(suffix(prefix(images)), expected)


def timm(backbone):
    return make_network(family="timm", backbone=backbone, unfreeze="all", image_size=32, normalize="imagenet")


def scratch(family, **settings):
    return make_network(family=family, image_size=32, normalize="unit", **settings)


LAYERED = {
    # 13 convolutions.
    "vgg16": (lambda: torchvision("vgg16"), 13),
    # 8 convolutions with their normalisation.
    "vgg11_bn": (lambda: torchvision("vgg11_bn"), 8),
    # The stem, 16 blocks.
    "resnet50": (lambda: torchvision("resnet50", 32), 1 + 16),
    # The stem; 4 blocks, and 2 in each of 4 stages.
    "resnet10t": (lambda: timm("resnet10t"), 1 + 4),
    "resnet18 of timm": (lambda: timm("resnet18"), 1 + 8),
    # The embeddings, 12 blocks, the last with the normalisation after it.
    "vit_tiny_patch16_224": (lambda: timm("vit_tiny_patch16_224"), 1 + 12),
    # The stem, 4 stages of 2, 2, 6 and 2 blocks; the normalisation after them belongs to the head.
    "convnext_atto": (lambda: timm("convnext_atto"), 1 + 12),
    "cnn": (lambda: scratch("cnn", blocks=[2, 1]), 2),
    "resnet": (lambda: scratch("resnet", blocks=[2, 1], width=4, stem_stride=1), 1 + 2),
}


class TestLayers:
    @pytest.mark.parametrize("name", LAYERED)
    def test_hold_every_parameter_once_from_the_first_to_the_head(self, name):
        build, count = LAYERED[name]
        network = build()
        layers = network.layers()
        assert len(layers) == count + 1
        own = list(map(id, network.head.parameters()))
        assert list(map(id, layers[-1]))[-len(own) :] == own
        held = [id(parameter) for layer in layers for parameter in layer]
        assert len(held) == len(set(held))
        assert set(held) == {id(parameter) for parameter in network.parameters()}

    @pytest.mark.parametrize("name", LAYERED)
    def test_follow_the_forward_pass(self, name):
        network = LAYERED[name][0]()
        layer_of = {id(parameter): number for number, layer in enumerate(network.layers()) for parameter in layer}
        seen = []
        for module in network.modules():
            numbers = [layer_of[id(parameter)] for parameter in module.parameters(recurse=False)]
            if numbers and not list(module.children()):
                module.register_forward_hook(lambda *_, numbers=numbers: seen.extend(numbers))
        with torch.no_grad():
            network.eval()(torch.rand(1, 1, 32, 32))
        assert seen == sorted(seen)
        assert set(seen) == set(range(len(network.layers())))

    def test_of_a_transformer_begin_with_the_embeddings(self):
        network = timm("vit_tiny_patch16_224")
        first = {id(parameter) for parameter in network.layers()[0]}
        names = {name for name, parameter in network.backbone.named_parameters() if id(parameter) in first}
        assert names == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}

    def test_are_the_same_whatever_is_frozen(self, resnet18):
        resnet18.unfreeze("all")
        expected = [list(map(id, layer)) for layer in resnet18.layers()]
        resnet18.unfreeze(2)
        assert [list(map(id, layer)) for layer in resnet18.layers()] == expected


def test_stages_are_in_the_state_dict_once(resnet18):
    names = {name.split(".")[0] for name in resnet18.state_dict()}
    assert names == {"backbone", "head"}


def test_running_statistics_count_as_frozen_parameters():
    network = network_of(Backbone())
    network.unfreeze("all")
    weights = (27 * 4 + 4) + (4 * 4 + 4) + 2 * 8 + (256 * 7 + 7)
    count = network.count_parameters()
    assert (count.total, count.trainable, count.frozen) == (weights + 16, weights, 16)
    network.unfreeze(0)
    assert network.count_parameters().trainable == 256 * 7 + 7


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, ValueError])
def test_feature_count_names_size_and_backbone_and_restores_the_mode(error):
    class Picky(Backbone):
        def forward(self, images):
            raise error("too small")

    backbone = Picky()
    with pytest.raises(UserError, match=r"image_size=4: does not fit picky \(too small\)"):
        feature_count(backbone, torch.zeros(1, 3, 4, 4), "picky")
    assert backbone.training


def test_feature_count_changes_neither_statistics_nor_mode():
    backbone = Backbone()
    assert feature_count(backbone, torch.rand(1, 3, 8, 8), "test") == 4 * 8 * 8
    assert not backbone.norm.running_mean.any()
    assert backbone.training
