from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from builders import make_network
from torch import nn
from torchvision.models import resnet50

from emotion.errors import UserError
from emotion.models.face import FACE_BACKBONES, DlibBlock, DlibResNet, build_mobilenet, build_vggface2
from emotion.models.inception_resnet import InceptionResNetV1
from emotion.models.weights import load_backbone


@pytest.mark.parametrize("size", [103, 112, 150])
def test_features_of_any_size(size: int) -> None:
    assert DlibResNet()(torch.rand(2, 3, size, size)).shape == (2, 256, 1, 1)


def test_dlib_has_the_29_convolutions_and_the_widths_of_the_published_network() -> None:
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
    network = make_network(
        family="face", backbone="resnet29_dlib", unfreeze=2, image_size=103, normalize="imagenet"
    ).eval()
    image = torch.randint(256, (1, 3, 103, 103), dtype=torch.uint8)
    expected = (image.float() - torch.tensor([122.782, 117.001, 104.298]).view(3, 1, 1)) / 256  # dlib's divisor
    assert torch.allclose(network.preprocess(image), expected, atol=1e-6)
    trainable = {name for name, parameter in network.backbone.named_parameters() if parameter.requires_grad}
    assert trainable == {f"blocks.13.conv{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")}
    frozen, trained = network.split(network.frozen_stages)
    assert torch.allclose(trained(frozen(image)), network(image), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_head_gets_standardised_features() -> None:
    network = make_network(family="face", backbone="resnet29_dlib", unfreeze=0, image_size=103, normalize="imagenet")
    features = 5 + 0.1 * torch.randn(64, 256, 1, 1)
    standardised = network.head.train()[:2](features)
    assert torch.allclose(standardised.mean(0), torch.zeros(256), atol=1e-4)
    assert torch.allclose(standardised.std(0), torch.ones(256), atol=0.02)


def test_face_weights_come_from_a_file() -> None:
    with pytest.raises(UserError, match=r"weights=imagenet: .*resnet29_dlib.*weights=<file>"):
        load_backbone(DlibResNet(), "imagenet", "face", "resnet29_dlib", 150)
    names = "resnet29_dlib, inception_resnet_v1, resnet50_vggface2, mobilenet_vggface2"
    with pytest.raises(UserError, match=f"backbone=vgg_face: not one of {names}"):
        make_network(family="face", backbone="vgg_face", unfreeze=0, image_size=150, normalize="imagenet")
    with pytest.raises(UserError, match="image_size=102: does not fit resnet29_dlib"):
        make_network(family="face", backbone="resnet29_dlib", unfreeze=0, image_size=102, normalize="imagenet")


@pytest.mark.parametrize("name", FACE_BACKBONES)
def test_stages_compose_the_network_and_the_last_layers_train(name: str) -> None:
    network = make_network(family="face", backbone=name, unfreeze=2, image_size=112, normalize="imagenet").eval()
    image = torch.randint(256, (2, 3, 112, 112), dtype=torch.uint8)
    for first in (0, 3, network.frozen_stages):
        frozen, trained = network.split(first)
        assert torch.allclose(trained(frozen(image)), network(image), atol=1e-4)
    convolutions = [module for module in network.backbone.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.weight.requires_grad for module in convolutions) == 2
    assert network.count_parameters().total > (3_000_000 if name == "mobilenet_vggface2" else 5_000_000)


def test_inception_resnet_has_the_published_layers() -> None:
    """The numbers are those of facenet-pytorch 2.6.0."""
    network = InceptionResNetV1()
    state = network.state_dict()
    assert len(state) == 708
    assert sum(parameter.numel() for parameter in network.parameters()) == 22_564_096
    assert state["mixed_7a.branch2.1.conv.weight"].shape == (256, 256, 3, 3)
    assert state["repeat_2.9.branch1.1.conv.weight"].shape == (128, 128, 1, 7)
    assert state["block8.conv2d.weight"].shape == (1792, 384, 1, 1)
    assert network(torch.rand(2, 3, 75, 75)).shape == (2, 1792, 1, 1)


@torch.no_grad()
def test_inception_resnet_equals_facenet_pytorch() -> None:
    """The features are those of facenet-pytorch 2.6.0 with the same weights and image."""
    network = InceptionResNetV1().eval()
    for name, parameter in network.named_parameters():
        wave = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.7).cos().view(parameter.shape)
        if parameter.dim() == 4:
            values = wave * (2 / parameter[0].numel()) ** 0.5
        else:
            values = 1 + wave / 4 if name.endswith("bn.weight") else wave / 10
        parameter.copy_(values)
    features = network(torch.linspace(-1, 1, 3 * 80 * 80).view(1, 3, 80, 80)).flatten()
    assert features[[0, 1, 2, 700, 1791]].tolist() == pytest.approx([10.355, 12.343, -2.049, -3.579, -5.124], rel=1e-3)
    assert features.abs().mean().item() == pytest.approx(7.5987, rel=1e-3)


def test_residual_block_scales_its_residual() -> None:
    block = InceptionResNetV1().eval().repeat_1[0]
    maps = torch.rand(1, 256, 5, 5)
    mixed = block.conv2d(torch.cat([block.branch0(maps), block.branch1(maps), block.branch2(maps)], 1))
    assert torch.allclose(block(maps), (maps + 0.17 * mixed).relu())
    assert InceptionResNetV1().eval().block8(torch.randn(1, 1792, 3, 3)).min() < 0


def test_files_of_facenet_fit_with_their_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = InceptionResNetV1()
    classifier = {
        "last_linear.weight": torch.zeros(512, 1792),
        "last_bn.weight": torch.ones(512),
        "logits.bias": torch.zeros(9),
    }
    torch.save(published.state_dict() | classifier, tmp_path / "vggface2.pt")
    backbone = InceptionResNetV1()
    load_backbone(backbone, str(tmp_path / "vggface2.pt"), "face", "inception_resnet_v1", 160)
    assert torch.equal(backbone.block8.conv2d.weight, published.block8.conv2d.weight)


def test_vggface2_is_the_resnet50_of_caffe() -> None:
    backbone, stages = build_vggface2()
    assert len(stages) == 4 + 16 + 1
    assert [backbone.get_submodule(f"layer{group}.0.conv1").stride for group in (1, 2, 3, 4)] == [(1, 1)] + [(2, 2)] * 3
    assert {backbone.get_submodule(f"layer{group}.0.conv2").stride for group in (1, 2, 3, 4)} == {(1, 1)}
    # At 224 pixels the pooled map has 56 rows, as with a border, but counts from the first pixel.
    ramp = torch.arange(112.0).expand(1, 1, 112, 112)
    assert stages[3](ramp)[0, 0, 0, :2].tolist() == [2, 4]
    assert stages[3](ramp).shape == (1, 1, 56, 56)
    assert set(resnet50().state_dict()) - set(backbone.state_dict()) == {"fc.weight", "fc.bias"}


def test_resnet_of_vggface2_expects_blue_first() -> None:
    _, stages = build_vggface2()
    stages[0].weight.data = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1).expand(64, 3, 7, 7).clone()
    image = torch.zeros(1, 3, 8, 8)
    image[0, :, 0, 0] = torch.tensor([3.0, 2.0, 1.0])  # red, green, blue
    assert stages[0](image)[0, 0, 0, 0].item() == 1 + 20 + 300


def test_mobilenet_pads_as_tensorflow_and_expects_blue_first() -> None:
    backbone, stages = build_mobilenet()
    assert len(stages) == 2 + 13 + 1
    assert backbone.eval()(torch.rand(2, 3, 112, 112)).shape == (2, 1024)
    stages[0].weight.data = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1).expand(32, 3, 3, 3).clone()
    image = torch.zeros(1, 3, 112, 112)
    image[0, :, 0, 0] = torch.tensor([3.0, 2.0, 1.0])  # red, green, blue
    maps = stages[0](image)  # [1, 32, 56, 56]
    # At even sizes, TensorFlow adds nothing before the first pixel: only the first place of the map sees it.
    assert maps[0, 0, :2, :2].tolist() == [[1 + 20 + 300, 0], [0, 0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet29_dlib", [(255 - 122.782) / 256, -117.001 / 256, -104.298 / 256]),
        ("inception_resnet_v1", [127.5 / 128, -127.5 / 128, -127.5 / 128]),
        ("resnet50_vggface2", [255 - 131.0912, -103.8827, -91.4953]),
        ("mobilenet_vggface2", [255 - 123.68, -116.779, -103.939]),
    ],
)
def test_pixels_are_scaled_as_published(name: str, expected: list[float]) -> None:
    network = make_network(family="face", backbone=name, unfreeze=0, image_size=103, normalize="imagenet")
    red = torch.zeros(1, 3, 103, 103, dtype=torch.uint8)
    red[:, 0] = 255
    assert network.preprocess(red)[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-3)
