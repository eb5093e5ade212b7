"""Inception-ResNet-v1, the network of FaceNet, with the layers of its published PyTorch weights."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Unit = tuple[int, int | tuple[int, int], int]
"""Filters, kernel size and stride of a convolution with its normalisation."""


class InceptionResNetV1(nn.Module):
    """Inception-ResNet-v1 (Szegedy et al., AAAI 2017) up to its 1,792 pooled features, for 75 pixels or more.

    Layers and names are those of facenet-pytorch, so its weights can be loaded (`20180402-114759-vggface2.pt`, trained
    on 3.3 million faces of VGGFace2, and `20180408-102900-casia-webface.pt`). They were trained at 160 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = conv_bn_relu(3, (32, 3, 2))
        self.conv2d_2a = conv_bn_relu(32, (32, 3, 1), padded=False)
        self.conv2d_2b = conv_bn_relu(32, (64, 3, 1))
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = conv_bn_relu(64, (80, 1, 1))
        self.conv2d_4a = conv_bn_relu(80, (192, 3, 1), padded=False)
        self.conv2d_4b = conv_bn_relu(192, (256, 3, 2))
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = Reduction(256, [[(384, 3, 2)], [(192, 1, 1), (192, 3, 1), (256, 3, 2)]])
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = Reduction(
            896, [[(256, 1, 1), (384, 3, 2)], [(256, 1, 1), (256, 3, 2)], [(256, 1, 1), (256, 3, 1), (256, 3, 2)]]
        )
        self.repeat_3 = nn.Sequential(*(_block8(scale=0.2) for _ in range(5)))
        self.block8 = _block8(scale=1.0, relu=False)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose composition equals this network."""
        return [
            *(self.conv2d_1a, self.conv2d_2a, self.conv2d_2b, self.maxpool_3a),
            *(self.conv2d_3b, self.conv2d_4a, self.conv2d_4b),
            *(*self.repeat_1, self.mixed_6a, *self.repeat_2, self.mixed_7a, *self.repeat_3),
            *(self.block8, self.avgpool_1a),
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images [B, 3, S, S] to features [B, 1792, 1, 1]."""
        for stage in self.stages:
            images = stage(images)
        return images


class Branches(nn.Module):
    """Parallel chains of convolutions, named `branch0`, `branch1` and so on.

    Args:
        inputs: number of input channels.
        chains: the convolutions of each branch.
    """

    def __init__(self, inputs: int, chains: Sequence[Sequence[Unit]]) -> None:
        super().__init__()
        self.outputs = sum(chain[-1][0] for chain in chains)
        self._names = [f"branch{number}" for number in range(len(chains))]
        for name, chain in zip(self._names, chains, strict=True):
            channels = [inputs, *(filters for filters, _, _ in chain)]
            units = [conv_bn_relu(before, unit) for before, unit in zip(channels, chain, strict=False)]
            self.add_module(name, units[0] if len(units) == 1 else nn.Sequential(*units))

    def branches(self, images: Tensor) -> list[Tensor]:
        """Maps feature maps [B, C, H, W] to the feature maps of each branch, [B, C', H', W']."""
        return [getattr(self, name)(images) for name in self._names]


class Residual(Branches):
    """A residual block: the feature maps of all branches pass a 1x1 convolution, are scaled and added to the input.

    Args:
        channels: number of channels of input and output.
        chains: the convolutions of each branch.
        scale: factor of the residual.
        relu: whether the block ends with a ReLU.
    """

    def __init__(self, channels: int, chains: Sequence[Sequence[Unit]], scale: float, relu: bool = True) -> None:
        super().__init__(channels, chains)
        self.conv2d = nn.Conv2d(self.outputs, channels, 1)
        self.scale, self.relu = scale, relu

    def extra_repr(self) -> str:
        """Returns the settings: the text of a module is part of the key of its cached features."""
        return f"{self.scale}, {self.relu}"

    def forward(self, images: Tensor) -> Tensor:
        """Maps feature maps [B, C, H, W] to feature maps of the same shape."""
        added: Tensor = self.conv2d(torch.cat(self.branches(images), 1)) * self.scale + images
        return added.relu() if self.relu else added


class Reduction(Branches):
    """Branches and a max-pooling in parallel, all of which halve height and width."""

    def __init__(self, inputs: int, chains: Sequence[Sequence[Unit]]) -> None:
        super().__init__(inputs, chains)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Maps feature maps [B, C, H, W] to [B, C', (H - 1) // 2, (W - 1) // 2]."""
        return torch.cat([*self.branches(images), self.pool(images)], 1)


def conv_bn_relu(inputs: int, unit: Unit, padded: bool = True) -> nn.Sequential:
    """Returns a convolution, a batch normalisation and a ReLU.

    Args:
        inputs: number of input channels.
        unit: filters, kernel size and stride of the convolution.
        padded: whether a convolution of stride 1 is padded to keep height and width; other strides are never padded.
    """
    filters, kernel, stride = unit
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else (0, 0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, filters, sides, stride, padding, bias=False),
            bn=nn.BatchNorm2d(filters, eps=1e-3),
            relu=nn.ReLU(),
        )
    )


def _block35() -> Residual:
    return Residual(256, [[(32, 1, 1)], [(32, 1, 1), (32, 3, 1)], [(32, 1, 1), (32, 3, 1), (32, 3, 1)]], scale=0.17)


def _block17() -> Residual:
    return Residual(896, [[(128, 1, 1)], [(128, 1, 1), (128, (1, 7), 1), (128, (7, 1), 1)]], scale=0.1)


def _block8(scale: float, relu: bool = True) -> Residual:
    chains: list[list[Unit]] = [[(192, 1, 1)], [(192, 1, 1), (192, (1, 3), 1), (192, (3, 1), 1)]]
    return Residual(1792, chains, scale, relu)
