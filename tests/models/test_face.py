import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emotion.errors import UserError
from emotion.models.face import DLIB_MEAN, DlibBlock, DlibResNet
from emotion.models.registry import build_network
from emotion.models.weights import load_backbone


@pytest.mark.parametrize("size", [103, 112, 150])
def test_features_of_any_size(size: int) -> None:
    assert DlibResNet()(torch.rand(2, 3, size, size)).shape == (2, 256, 1, 1)


def test_it_has_the_29_convolutions_and_the_widths_of_the_published_network() -> None:
    network = DlibResNet()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 29
    assert [block.conv2.out_channels for block in network.blocks] == [32] * 3 + [64] * 4 + [128] * 3 + [256] * 4
    assert [number for number, block in enumerate(network.blocks) if block.down] == [3, 7, 10, 13]
    # With the 128 x 256 embedding these are all the weights and biases of its file.
    assert sum(parameter.numel() for parameter in network.parameters()) + 128 * 256 == 5_607_488


@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize(("inputs", "outputs", "down"), [(4, 4, False), (4, 6, True), (4, 4, True)])
def test_block_pixel_by_pixel(inputs: int, outputs: int, down: bool, size: int) -> None:
    torch.manual_seed(0)
    block = DlibBlock(inputs, outputs, down)
    image = torch.rand(1, inputs, size, size)
    stride, padding = (2, 0) if down else (1, 1)
    branch = F.conv2d(image, block.conv1.weight, block.conv1.bias, stride, padding).relu()
    branch = F.conv2d(branch, block.conv2.weight, block.conv2.bias, 1, 1)
    side = size // 2 if down else size
    expected = torch.zeros(1, outputs, side, side)
    expected[:, :, : branch.shape[2], : branch.shape[3]] = branch
    for channel in range(inputs):
        for row in range(side):
            for column in range(side):
                if down:
                    value = image[0, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
                else:
                    value = image[0, channel, row, column]
                expected[0, channel, row, column] += value
    assert torch.allclose(block(image), expected.relu(), atol=1e-5)


def test_network_normalises_as_dlib_and_splits_anywhere() -> None:
    network = build_network(
        family="face", backbone="resnet29_dlib", unfreeze=2, image_size=103, normalize="imagenet"
    ).eval()
    image = torch.randint(256, (1, 3, 103, 103), dtype=torch.uint8)
    expected = (image.float() - 255 * torch.tensor(DLIB_MEAN).view(3, 1, 1)) / 255
    assert torch.allclose(network.preprocess(image), expected, atol=1e-6)
    trainable = {name for name, parameter in network.backbone.named_parameters() if parameter.requires_grad}
    assert trainable == {f"blocks.13.conv{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")}
    frozen, trained = network.split(network.frozen_stages)
    assert torch.allclose(trained(frozen(image)), network(image), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_head_gets_standardised_features() -> None:
    network = build_network(family="face", backbone="resnet29_dlib", unfreeze=0, image_size=103, normalize="imagenet")
    features = 5 + 0.1 * torch.randn(64, 256, 1, 1)
    seen = network.head.train()[:2](features)
    assert torch.allclose(seen.mean(0), torch.zeros(256), atol=1e-4)
    assert torch.allclose(seen.std(0), torch.ones(256), atol=0.02)


def test_its_weights_come_from_a_file() -> None:
    with pytest.raises(UserError, match=r"weights=imagenet: .*resnet29_dlib.*weights=<file>"):
        load_backbone(DlibResNet(), "imagenet", "face", "resnet29_dlib", 150)
    with pytest.raises(UserError, match="backbone=vgg_face: not one of resnet29_dlib"):
        build_network(family="face", backbone="vgg_face", unfreeze=0, image_size=150, normalize="imagenet")
    with pytest.raises(UserError, match="image_size=102 does not fit resnet29_dlib"):
        build_network(family="face", backbone="resnet29_dlib", unfreeze=0, image_size=102, normalize="imagenet")
