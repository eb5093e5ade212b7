"""Test-time augmentation: the mean prediction over fixed views of each image (Krizhevsky et al., NeurIPS 2012)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emotion.models.onnx import ViewsName

SHIFT, CROP = 1 / 24, 11 / 12
"""Distance of `shifts` and side of `ten_crop` as shares of the image: 2 of 48 pixels, and 44 of 48 pixels."""


class Views(nn.Module):
    """Averages a network's probabilities over views of each image.

    Args:
        network: maps images [B, C, H, W] to logits [B, K].
        views: `none`: the image alone. `flip`: the image and its mirror image. `shifts`: the image, unmoved and
            shifted up, down, left and right with repeated edges, each with its mirror image, 10 views. `ten_crop`:
            crops of the corners and the centre, each with its mirror image, 10 views; the network's preprocessing
            enlarges the crops.
    """

    def __init__(self, network: nn.Module, views: ViewsName) -> None:
        super().__init__()
        self.network, self.views = network, views

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 or float 0..1, to the logarithms of the mean probabilities [B, K]."""
        probabilities = [self.network(view).float().softmax(1) for view in self.make(images)]
        return torch.stack(probabilities).mean(0).log()  # stacked [V, B, K]

    def make(self, images: Tensor) -> Iterator[Tensor]:
        """Yields the views of images [B, C, H, W], each [B, C, H', W']."""
        for view in self._unmirrored(images):
            yield view
            if self.views != "none":
                yield view.flip(-1)

    def _unmirrored(self, images: Tensor) -> Iterator[Tensor]:
        if self.views == "ten_crop":
            from torchvision.transforms.functional import five_crop

            height, width = (round(CROP * side) for side in images.shape[-2:])
            yield from five_crop(images, [height, width])
            return
        if self.views == "shifts" and images.dtype == torch.uint8:
            images = images.float() / 255  # replicate padding does not support integers
        yield images
        if self.views == "shifts":
            height, width = images.shape[-2:]
            down, across = (max(1, round(SHIFT * side)) for side in (height, width))
            padded = F.pad(images, (across, across, down, down), "replicate")  # [B, C, H + 2 down, W + 2 across]
            for top, left in ((0, across), (2 * down, across), (down, 0), (down, 2 * across)):
                yield padded[..., top : top + height, left : left + width]
