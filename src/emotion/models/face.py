"""Backbones that were trained on faces to tell people apart."""

import torch.nn.functional as F
from torch import Tensor, nn

DLIB_MEAN = (122.782 / 255, 117.001 / 255, 104.298 / 255)
DLIB_STD = (1.0, 1.0, 1.0)
_WIDTHS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
_DOWN = (3, 7, 10, 13)
"""The blocks that halve height and width."""


class DlibResNet(nn.Module):
    """dlib's face recognition network up to its 256 pooled features, with normalisation folded into convolutions.

    29 convolutions trained by Davis King on about 3 million faces, published as `dlib_face_recognition_resnet_model_v1`
    (public domain). It was trained with 150 pixels and takes 103 or more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2)
        inputs = (32, *_WIDTHS)
        self.blocks = nn.Sequential(
            *(DlibBlock(inputs[place], width, place in _DOWN) for place, width in enumerate(_WIDTHS))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules that, applied in turn, equal this one."""
        return [self.stem, self.relu, self.maxpool, *self.blocks, self.pool]

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images [B, 3, S, S] to features [B, 256, 1, 1]."""
        features: Tensor = self.pool(self.blocks(self.maxpool(self.relu(self.stem(images)))))
        return features


class DlibBlock(nn.Module):
    """Two convolutions and a shortcut without weights, which is pooled and filled with zero channels where it must be.

    Args:
        inputs: channels.
        outputs: channels.
        down: whether height and width are halved.
    """

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.down, self.new_channels = down, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps feature maps [B, C, H, W] to [B, C', H', W'], not below 0."""
        branch = self.conv2(F.relu(self.conv1(inputs)))
        shortcut = F.avg_pool2d(inputs, 2) if self.down else inputs
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        missing = [large - small for large, small in zip(shortcut.shape[-2:], branch.shape[-2:], strict=True)]
        return F.relu(F.pad(branch, (0, missing[1], 0, missing[0])) + shortcut)
