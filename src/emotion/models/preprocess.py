"""Preprocessing of stored pixels for a network: range, colour channels, size, normalisation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emotion.errors import UserError
from emotion.settings import NormalizeName

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red in 0..255, of ImageNet in the Caffe models of Oxford's VGG
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's conversion to grey


class Preprocess(nn.Module):
    """The first layer of every network, so that all networks take pixels.

    Args:
        channels: number of output channels: 3 (grey is repeated), or with `unit` also 1 (colour is converted to grey).
        image_size: height and width of the output, pixels.
        normalize: `imagenet`: (x - mean) / std, as in the training of the pretrained weights. `unit`: x in 0..1.
            `keras_unit`: x / (255 std), 1/255 of the contrast of `imagenet`: by so much the input of Keras's weights
            shrinks if images are scaled to 0..1; torchvision's biases are smaller beside it than Keras's, so that its
            weights suffer more.
            `caffe`: 255 x - mean, blue before green before red, which Keras's weights of VGG were made for.
        mean: mean of each channel in 0..1, for `imagenet`.
        std: standard deviation of each channel in 0..1, for `imagenet` and `keras_unit`.
        gain: factor on the output.
    """

    shift: Tensor
    scale: Tensor
    luma: Tensor

    def __init__(
        self,
        channels: int,
        image_size: int,
        normalize: NormalizeName,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels, self.image_size, self.normalize = channels, image_size, normalize
        shifts = {"imagenet": mean, "caffe": [value / 255 for value in CAFFE_MEAN]}
        scales = {"imagenet": std, "keras_unit": [255 * value for value in std], "caffe": [1 / 255]}
        shift, scale = shifts.get(normalize, [0.0]), [value / gain for value in scales.get(normalize, [1.0])]
        self.register_buffer("luma", torch.tensor(LUMA).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        """Returns the settings: the text of a module is part of the key of its cached features."""
        return f"{self.channels}, {self.image_size}, {self.normalize}, {self.shift.tolist()}, {self.scale.tolist()}"

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, 1 or 3, H, W], whole numbers (0..255) or floats (0..1), to float [B, channels, S, S]."""
        images = images.float() if images.is_floating_point() else images.float() / 255
        if images.shape[1] == 3 and self.channels == 1:
            images = (images * self.luma).sum(1, keepdim=True)  # [B, 1, H, W]
        if self.normalize == "caffe":
            images = images.flip(1)  # red, green, blue to blue, green, red; grey stays
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=max(images.shape[-2:]) > self.image_size)
        normalized = ((images - self.shift) / self.scale).expand(-1, self.channels, -1, -1)  # [B, channels, S, S]
        return normalized.contiguous(memory_format=torch.channels_last)


def require_unit(normalize: NormalizeName) -> None:
    """Checks the normalisation of a network without pretrained weights.

    Raises:
        UserError: the normalisation is not `unit`.
    """
    if normalize != "unit":
        raise UserError(f"normalize={normalize}: no pretrained weights of colour images to match; set normalize=unit")
