"""Builds any network from plain values."""

from collections.abc import Sequence
from typing import Literal

import torch

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.cnn import build_cnn
from emotion.models.network import Network, Unfreeze
from emotion.models.preprocess import NormalizeName
from emotion.models.transfer import build_transfer

Family = Literal["cnn", "torchvision", "timm"]


def build_network(
    *,
    family: Family,
    backbone: str | None,
    blocks: Sequence[int] | None,
    unfreeze: Unfreeze | None,
    image_size: int,
    normalize: NormalizeName,
) -> Network:
    """Builds a network with random weights, laid out channels last, which convolutions run fastest on.

    Args:
        family: `cnn` (the report's, from scratch), or the library that `backbone` comes from.
        backbone: a name in that library; None for the CNN.
        blocks: convolutions of each block of the CNN; None for a backbone.
        unfreeze: how many of the backbone's last layers train, or `all`; None for the CNN.
        image_size: height and width of the network's input, pixels.
        normalize: see `emotion.models.preprocess.Preprocess`.

    Raises:
        UserError: values that do not go together or are out of range.
    """
    if family == "cnn":
        if backbone is not None or unfreeze is not None:
            key = "backbone" if backbone is not None else "unfreeze"
            raise UserError(
                f"{key}: this model has no backbone; use a model with one (vgg16_ft, resnet50_ft, timm ...)"
            )
        network = build_cnn(blocks or [], image_size, normalize, len(CLASSES))
        return network.to(memory_format=torch.channels_last)
    if backbone is None or unfreeze is None or blocks is not None:
        raise UserError(f"a model of {family} needs backbone=<name> and unfreeze=<number or all>, and takes no blocks")
    network = build_transfer(family, backbone, image_size, normalize, len(CLASSES))
    network.unfreeze(unfreeze)
    return network.to(memory_format=torch.channels_last)
