"""Backbones that were trained for face recognition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from emotion.errors import UserError
from emotion.models.inception_resnet import InceptionResNetV1

_WIDTHS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
_DOWN = (3, 7, 10, 13)
"""Positions of the blocks that halve height and width."""


@dataclass(frozen=True)
class FaceBackbone:
    """A published face recognition network.

    Attributes:
        build: builds the network with random weights; returns it and its stages, whose composition equals the network.
        mean: mean of the training pixels in 0..1, for each channel of RGB.
        std: divisor of the centred training pixels in 0..1, for each channel of RGB.
    """

    build: Callable[[], tuple[nn.Module, list[nn.Module]]]
    mean: Sequence[float]
    std: Sequence[float]


def face_backbone(name: str) -> FaceBackbone:
    """Returns a backbone by its name.

    Raises:
        UserError: the name is not one of `FACE_BACKBONES`.
    """
    if name not in FACE_BACKBONES:
        raise UserError(f"backbone={name}: not one of {', '.join(FACE_BACKBONES)}")
    return FACE_BACKBONES[name]


class DlibResNet(nn.Module):
    """dlib's face recognition network up to its 256 pooled features, with normalisation folded into convolutions.

    Its 29 convolutions were trained by Davis King on about 3 million faces and published as
    `dlib_face_recognition_resnet_model_v1` (public domain). It was trained on images of 150 pixels and needs 103.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2)
        inputs = (32, *_WIDTHS)
        self.blocks = nn.Sequential(
            *(DlibBlock(inputs[index], width, index in _DOWN) for index, width in enumerate(_WIDTHS))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose composition equals this network."""
        return [self.stem, self.relu, self.maxpool, *self.blocks, self.pool]

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images [B, 3, S, S] to features [B, 256, 1, 1]."""
        features: Tensor = self.pool(self.blocks(self.maxpool(self.relu(self.stem(images)))))
        return features


class DlibBlock(nn.Module):
    """A residual block of two convolutions whose shortcut is pooled and padded with zero channels instead of projected.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        down: whether the block halves height and width.
    """

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.down, self.new_channels = down, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps feature maps [B, inputs, H, W] to non-negative feature maps [B, outputs, H', W']."""
        branch = self.conv2(F.relu(self.conv1(inputs)))
        shortcut = F.avg_pool2d(inputs, 2) if self.down else inputs
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))  # [B, outputs, H', W']
        # The unpadded convolution of stride 2 returns up to one row and column less than the pooling.
        missing = [large - small for large, small in zip(shortcut.shape[-2:], branch.shape[-2:], strict=True)]
        return F.relu(F.pad(branch, (0, missing[1], 0, missing[0])) + shortcut)


def build_dlib() -> tuple[nn.Module, list[nn.Module]]:
    """Builds dlib's network (see `DlibResNet`); returns it and its stages, as `FaceBackbone.build` does."""
    network = DlibResNet()
    return network, network.stages


def build_inception() -> tuple[nn.Module, list[nn.Module]]:
    """Builds FaceNet's network (see `InceptionResNetV1`); returns it and its stages."""
    network = InceptionResNetV1()
    return network, network.stages


def build_vggface2() -> tuple[nn.Module, list[nn.Module]]:
    """Builds the ResNet50 of VGGFace2 (Cao et al., FG 2018) up to its 2,048 pooled features.

    It follows Caffe: the channel order is BGR, the first convolution of a block halves the feature maps, and pooling
    has no padding. All other layers and all names are torchvision's, as in the published conversions
    (`resnet50_ft_weight`, trained on MS-Celeb-1M, then VGGFace2). It was trained on images of 224 pixels.

    Returns:
        The network and its stages.
    """
    from torchvision.models import resnet50

    network = resnet50()
    network.conv1.register_forward_pre_hook(_to_bgr)
    network.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    network.fc = nn.Identity()
    groups = (network.layer1, network.layer2, network.layer3, network.layer4)
    for group in groups[1:]:
        group[0].conv1.stride, group[0].conv2.stride = (2, 2), (1, 1)
    blocks = (block for group in groups for block in group)
    return network, [network.conv1, network.bn1, network.relu, network.maxpool, *blocks, network.avgpool]


def build_mobilenet() -> tuple[nn.Module, list[nn.Module]]:
    """Builds the MobileNet-v1 of VGGFace2 (Savchenko, SISY 2021) up to its 1,024 pooled features.

    It is timm's, with the padding of TensorFlow and the channel order BGR. It was trained on images of 224 pixels.

    Returns:
        The network and its stages.
    """
    import timm

    network = timm.create_model("mobilenetv1_100", num_classes=0, pad_type="same")
    first = network.get_submodule("conv_stem")
    first.register_forward_pre_hook(_to_bgr)
    groups = network.get_submodule("blocks").children()
    blocks = (block for group in groups for block in group.children())
    return network, [first, network.get_submodule("bn1"), *blocks, network.get_submodule("global_pool")]


def _to_bgr(_: nn.Module, images: tuple[Tensor]) -> tuple[Tensor]:
    """Turns RGB images [B, 3, H, W] into the channel order of the weights of a first convolution."""
    return (images[0].flip(1),)


FACE_BACKBONES = {
    "resnet29_dlib": FaceBackbone(build_dlib, (122.782 / 255, 117.001 / 255, 104.298 / 255), (256 / 255,) * 3),
    "inception_resnet_v1": FaceBackbone(build_inception, (127.5 / 255,) * 3, (128 / 255,) * 3),
    "resnet50_vggface2": FaceBackbone(
        build_vggface2, (131.0912 / 255, 103.8827 / 255, 91.4953 / 255), (1 / 255, 1 / 255, 1 / 255)
    ),
    "mobilenet_vggface2": FaceBackbone(
        build_mobilenet, (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)
    ),
}
