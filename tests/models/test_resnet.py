import pytest
import torch
from builders import make_network
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from emotion.errors import UserError


def build(blocks=(2, 2), width=8, stem_stride=1, **options):
    return make_network(family="resnet", blocks=list(blocks), width=width, stem_stride=stem_stride, **options)


def blocks_of(network):
    return [module for module in network.modules() if isinstance(module, BasicBlock)]


def randomise_norms(network):
    """Gives random values to the weights and statistics that begin at 0 or 1, so that all of them matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)


def torchvision_resnet18(pooled_shortcuts):
    """Returns the ResNet18 of torchvision with a stem for small grey images and seven classes."""
    network = resnet18(num_classes=7)
    network.conv1, network.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    if pooled_shortcuts:
        for layer in (network.layer2, network.layer3, network.layer4):
            convolution, norm = layer[0].downsample
            convolution.stride = (1, 1)
            layer[0].downsample = nn.Sequential(nn.AvgPool2d(2), convolution, norm)
    return network


def test_resnet18_has_the_parameters_of_torchvision():
    reference = torchvision_resnet18(pooled_shortcuts=False)
    count = build([2, 2, 2, 2], 64).count_parameters()
    statistics = sum(value.numel() for name, value in reference.named_buffers() if "running" in name)
    assert count.trainable == sum(value.numel() for value in reference.parameters()) == 11_171_271
    assert count.frozen == statistics


def test_resnet18_equals_torchvision_with_pooled_shortcuts():
    network, reference = build([2, 2, 2, 2], 64).eval(), torchvision_resnet18(pooled_shortcuts=True).eval()
    randomise_norms(network)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    images = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(images), reference(images))


@pytest.mark.parametrize(("blocks", "width"), [([1], 4), ([2, 2, 2], 48), ([1, 3, 1, 2], 6)])
def test_parameters_by_hand(blocks, width):
    def convolution(inputs, outputs, size):
        return size**2 * inputs * outputs + 2 * outputs  # with the parameters of its normalisation

    expected, inputs = convolution(1, width, 3), width
    for number, depth in enumerate(blocks):
        outputs = width * 2**number
        expected += convolution(inputs, outputs, 3) + (2 * depth - 1) * convolution(outputs, outputs, 3)
        expected += convolution(inputs, outputs, 1) if number else 0
        inputs = outputs
    assert build(blocks, width).count_parameters().trainable == expected + 7 * inputs + 7


@pytest.mark.parametrize(
    ("stem_stride", "image_size", "sides"),
    [
        (1, 48, [48, 48, 24, 12, 6]),
        (2, 48, [24, 24, 12, 6, 3]),
        (1, 25, [25, 25, 13, 7, 4]),
        (2, 50, [25, 25, 13, 7, 4]),
        (1, 8, [8, 8, 4, 2, 1]),
    ],
)
def test_stages_halve_the_image_and_double_the_filters(stem_stride, image_size, sides):
    network = build([1, 2, 1, 1], 4, stem_stride, image_size=image_size)
    shapes = []
    for stage in network.backbone:
        stage.register_forward_hook(lambda *arguments: shapes.append(tuple(arguments[-1].shape[1:])))
    logits = network(torch.randint(256, (3, 1, 48, 48), dtype=torch.uint8))
    assert shapes == [(filters, side, side) for filters, side in zip([4, 4, 8, 16, 32], sides, strict=True)]
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_a_wide_stem_sees_the_image_at_its_full_resolution(stem_stride):
    sizes = []
    stem = build((1,), 8, stem_stride, stem_width=5, image_size=16).backbone[0]
    for layer in stem:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    stem(torch.rand(2, 1, 16, 16))
    assert sizes == [(5, 16, 16), (5, 16, 16), (8, 16 // stem_stride, 16 // stem_stride)]
    counts = [(9 + 2) * 5, (9 * 5 + 2) * 5, (9 * 5 + 2) * 8]  # weights, scale and shift of each convolution
    assert sum(value.numel() for value in stem.parameters()) == sum(counts)


@pytest.mark.parametrize("training", [True, False])
def test_every_block_begins_as_its_shortcut(training):
    for block in blocks_of(build([2, 2, 1]).train(training)):
        images = torch.rand(2, block.conv1.in_channels, 12, 12)  # not below 0, as after any block
        expected = block.downsample(images).relu() if block.downsample else images
        torch.testing.assert_close(block(images), expected)
        if block.downsample:
            assert block(images).std() > 0.01


def test_blocks_learn_although_their_residual_begins_at_zero():
    network = build([1, 1], width=4, image_size=8)
    nn.functional.cross_entropy(network(torch.rand(8, 1, 8, 8)), torch.arange(8) % 7).backward()
    assert all(block.bn2.weight.grad.abs().max() > 0 for block in blocks_of(network))


def test_convolutions_are_initialised_as_he_proposed():
    torch.manual_seed(0)
    for layer in build([2, 2], 32).modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach()
            expected = (2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])) ** 0.5
            assert weight.std() == pytest.approx(expected, rel=0.15)
            assert layer.bias is None


def test_weights_depend_on_the_seed():
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build().state_dict())
    first, again, other = states
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["backbone.0.0.weight"], other["backbone.0.0.weight"])


def test_dropout_is_before_the_last_layer_and_off_by_default():
    assert [type(layer).__name__ for layer in build().head] == ["AdaptiveAvgPool2d", "Flatten", "Dropout", "Linear"]
    assert [build(**options).head[2].p for options in ({}, {"dropout": 0.3})] == [0.0, 0.3]


def test_layers_are_the_stem_the_stages_and_the_head():
    network = build([2, 1, 1])
    layers = [*network.backbone, network.head]
    assert [list(map(id, layer)) for layer in network.layers()] == [list(map(id, part.parameters())) for part in layers]
    prefix, suffix = network.eval().split(2)
    images = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(suffix(prefix(images)), network(images))


def test_colour_images_are_converted_to_grey():
    network = build().eval()
    grey = torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(network(grey.expand(-1, 3, -1, -1)), network(grey), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0: a whole number from 1 to 1024"),
        ({"stem_stride": 0}, "stem_stride=0"),
        ({"stem_stride": 3}, "stem_stride=3: not one of 1, 2"),
        ({"blocks": []}, r"blocks=\[\]"),
        ({"blocks": [2, 0]}, r"blocks=\[2, 0\]"),
        ({"blocks": [1, -1]}, r"blocks=\[1, -1\]"),
        ({"blocks": [1] * 5, "image_size": 8}, r"blocks=\[1, 1, 1, 1, 1\].*image_size=8, stem_stride=1"),
        ({"blocks": [1] * 4, "image_size": 8, "stem_stride": 2}, "image_size=8, stem_stride=2"),
        ({"normalize": "imagenet"}, "normalize=imagenet: .*unit"),
        ({"normalize": "keras_unit"}, "normalize=keras_unit: .*unit"),
    ],
)
def test_impossible_settings_are_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)
