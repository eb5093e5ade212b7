import math

import pytest
import torch
from builders import make_network
from torch import nn

from emotion.errors import UserError

VARIANTS = [
    [1, 1, 1],
    [1, 1, 1, 1],
    [1, 1, 1, 1, 1],
    [2, 1, 1, 1],
    [2, 2, 1, 1],
    [2, 2, 2, 1],
    [2, 2, 2, 2],
    [3, 2, 2, 2],
]


def build(blocks=(2, 2, 1, 1), image_size=48):
    return make_network(blocks=list(blocks), image_size=image_size)


def keras_count(blocks, image_size):
    """Returns the total and the running statistics by the formulas of Keras's layers."""
    total = statistics = 0
    inputs = 1
    for number, depth in enumerate(blocks):
        outputs = 32 * 2**number
        total += 9 * inputs * outputs + outputs + (depth - 1) * (9 * outputs * outputs + outputs)
        total += depth * 4 * outputs
        statistics += depth * 2 * outputs
        inputs = outputs
    flat = inputs * (image_size // 2 ** len(blocks)) ** 2
    return total + (flat + 1) * 256 + 4 * 256 + 257 * 7, statistics + 2 * 256


def test_parameters_are_those_of_the_paper():
    count = build().count_parameters()
    assert (count.total, count.trainable, count.frozen) == (1_029_223, 1_027_559, 1_664)


@pytest.mark.parametrize("blocks", VARIANTS, ids=str)
def test_variant_maps_images_to_logits_and_has_keras_parameters(blocks):
    network = build(blocks)
    logits = network(torch.randint(256, (3, 1, 48, 48), dtype=torch.uint8))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    count = network.count_parameters()
    assert (count.total, count.frozen) == keras_count(blocks, 48)


@pytest.mark.parametrize("image_size", [50, 96])
def test_other_sizes_change_the_flattened_length_alone(image_size):
    network = build(image_size=image_size)
    count = network.count_parameters()
    assert (count.total, count.frozen) == keras_count([2, 2, 1, 1], image_size)
    assert network(torch.rand(2, 1, 48, 48)).shape == (2, 7)


def test_layers_follow_the_order_of_the_paper():
    network = build([3, 1])
    first = ["Conv2d", "ReLU", "BatchNorm2d"] * 2 + ["Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d", "Dropout"]
    second = ["Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d", "Dropout"]
    assert [[type(layer).__name__ for layer in block] for block in network.backbone] == [first, second]
    assert [type(layer).__name__ for layer in network.head] == [
        "Flatten", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear",
    ]  # fmt: skip
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.2, 0.2, 0.5]
    other = make_network(blocks=[3, 1], dropout=0.1)
    assert [layer.p for layer in other.modules() if isinstance(layer, nn.Dropout)] == [0.2, 0.2, 0.1]
    pools = [layer for layer in network.modules() if isinstance(layer, nn.MaxPool2d)]
    assert all((pool.kernel_size, pool.stride) == (2, 2) for pool in pools)


def test_convolutions_keep_the_size_and_double_the_filters():
    convolutions = [layer for layer in build([1, 2, 1]).modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [
        (1, 32), (32, 64), (64, 64), (64, 128),
    ]  # fmt: skip
    assert all((layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (1, 1)) for layer in convolutions)


def test_batch_normalisation_has_the_defaults_of_keras():
    layers = [layer for layer in build().modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(layers) == 7
    for layer in layers:
        assert (layer.momentum, layer.eps) == (0.01, 1e-3)
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))
        assert not layer.bias.any()


def test_weights_are_glorot_uniform_and_biases_zero():
    torch.manual_seed(0)
    layers = [layer for layer in build().modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 8
    for layer in layers:
        weight = layer.weight.detach()
        limit = math.sqrt(6 / (math.prod(weight.shape[2:]) * (weight.shape[0] + weight.shape[1])))
        assert 0.95 * limit < weight.abs().max() <= limit
        assert weight.std() == pytest.approx(limit / math.sqrt(3), rel=0.1)
        assert not layer.bias.any()


def test_colour_images_are_converted_to_grey():
    network = build([1, 1, 1]).eval()
    grey = torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(network(grey.expand(-1, 3, -1, -1)), network(grey), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("blocks", "image_size"),
    [([], 48), ([2, 0, 1], 48), ([1, -1], 48), ([1] * 6, 48), ([1] * 5, 16)],
    ids=str,
)
def test_impossible_blocks_are_refused(blocks, image_size):
    with pytest.raises(UserError, match=rf"blocks=.*image_size={image_size}") as caught:
        build(blocks, image_size)
    assert str(blocks) in str(caught.value)


@pytest.mark.parametrize("normalize", ["imagenet", "keras_unit"])
def test_scaling_for_pretrained_weights_is_refused(normalize):
    with pytest.raises(UserError, match=f"normalize={normalize}.*unit"):
        make_network(blocks=[1], normalize=normalize)
