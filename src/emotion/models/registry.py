"""Builds any network from plain values."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.cnn import build_cnn
from emotion.models.network import Network, Unfreeze
from emotion.models.onnx import LARGEST_SIDE
from emotion.models.preprocess import NormalizeName
from emotion.models.resnet import build_resnet
from emotion.models.transfer import build_transfer

Family = Literal["cnn", "resnet", "torchvision", "timm", "face"]
NEEDS: dict[Family, tuple[str, ...]] = {
    "cnn": ("blocks",),
    "resnet": ("blocks", "width", "stem_stride"),
    "torchvision": ("backbone", "unfreeze"),
    "timm": ("backbone", "unfreeze"),
    "face": ("backbone", "unfreeze"),
}
"""The settings that each family has; the others are None."""
MOST_BLOCKS, MOST_FILTERS = 256, 1024
"""In a network, and in the first stage of a ResNet."""


def build_network(
    *,
    family: Family,
    image_size: int,
    normalize: NormalizeName,
    backbone: str | None = None,
    unfreeze: Unfreeze | None = None,
    blocks: Sequence[int] | None = None,
    width: int | None = None,
    stem_stride: int | None = None,
    dropout: float | None = None,
) -> Network:
    """Builds a network with random weights, laid out channels last, which convolutions run fastest on.

    Args:
        family: `cnn` (the report's), `resnet` (for small images), or the library that `backbone` comes from.
        image_size: height and width of the network's input, at most `LARGEST_SIDE` pixels.
        normalize: see `emotion.models.preprocess.Preprocess`.
        backbone: a name in that library.
        unfreeze: how many of the backbone's last layers train, or `all`.
        blocks: convolutions of each block of the CNN, or residual blocks of each stage of the ResNet; at most
            `MOST_BLOCKS` in all.
        width: see `emotion.models.resnet.build_resnet`, as for the next one; at most `MOST_FILTERS`.
        stem_stride: pixels.
        dropout: before the last layer; None takes the family's own.

    Raises:
        UserError: values that do not go together or are out of range.
    """
    given = {"backbone": backbone, "unfreeze": unfreeze, "blocks": blocks, "width": width, "stem_stride": stem_stride}
    _check(family, given)
    require_whole("image_size", image_size, LARGEST_SIDE)
    if width is not None:
        require_whole("width", width, MOST_FILTERS)
    if blocks is not None:
        _check_blocks(blocks)
    own = {} if dropout is None else {"dropout": dropout}
    if family == "cnn":
        network = build_cnn(blocks or (), image_size, normalize, len(CLASSES), **own)
    elif family == "resnet":
        network = build_resnet(blocks or (), width or 0, stem_stride or 0, image_size, normalize, len(CLASSES), **own)
    else:
        assert backbone is not None
        assert unfreeze is not None
        network = build_transfer(family, backbone, image_size, normalize, len(CLASSES), **own)
        network.unfreeze(unfreeze)
    return network.to(memory_format=torch.channels_last)


def require_whole(key: str, value: object, most: int) -> None:
    """Raises a `UserError` if a value is not a whole number from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{key}={value}: a whole number from 1 to {most} is needed")


def _check_blocks(blocks: Sequence[int]) -> None:
    if not isinstance(blocks, list | tuple) or any(type(own) is not int for own in blocks) or sum(blocks) > MOST_BLOCKS:
        raise UserError(
            f"blocks={str(blocks)[:100]}: a list of whole numbers, together at most {MOST_BLOCKS}, is needed"
        )


def _check(family: Family, given: Mapping[str, object]) -> None:
    needed = NEEDS[family]
    for key, value in given.items():
        if value is None and key in needed:
            raise UserError(f"{key} is missing: a model of family {family} needs {' and '.join(needed)}")
        if value is not None and key not in needed:
            others = ", ".join(other for other, keys in NEEDS.items() if key in keys)
            raise UserError(f"{key}: a model of family {family} has none (those of {others} do)")
