"""The network families, and the construction of a network from plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.cnn import build_cnn
from emotion.models.network import Network, Unfreeze
from emotion.models.onnx import MAX_SIDE
from emotion.models.preprocess import NormalizeName
from emotion.models.resnet import build_resnet
from emotion.models.transfer import build_transfer

Family = Literal["cnn", "resnet", "torchvision", "timm", "face"]


@dataclass(frozen=True)
class NetworkFamily:
    """A family of networks.

    Attributes:
        build: function of the keyword arguments `image_size`, `normalize`, `num_classes`, `dropout` (only if it is
            set) and the settings in `needs` except `unfreeze`.
        needs: names of the settings that the family requires; the settings of other families must be None.
        title: name on the report page; empty for pretrained backbones, which are shown by their own names.
    """

    build: Callable[..., Network]
    needs: tuple[str, ...]
    title: str = ""


FAMILIES: dict[Family, NetworkFamily] = {
    "cnn": NetworkFamily(build_cnn, ("blocks",), "CNN"),
    "resnet": NetworkFamily(build_resnet, ("blocks", "width", "stem_stride"), "ResNet"),
    "torchvision": NetworkFamily(partial(build_transfer, "torchvision"), ("backbone", "unfreeze")),
    "timm": NetworkFamily(partial(build_transfer, "timm"), ("backbone", "unfreeze")),
    "face": NetworkFamily(partial(build_transfer, "face"), ("backbone", "unfreeze")),
}
"""The registered families; `conf/model` has settings for each of them."""
assert {*FAMILIES} == {*get_args(Family)}, "FAMILIES and Family list different families"
MAX_BLOCKS, MAX_FILTERS = 256, 1024
"""Largest sum of `blocks` of a network, and largest number of filters in the first stage of a ResNet."""


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
    """Builds a network with random weights in the memory format channels last, which is fastest for convolutions.

    Args:
        family: `cnn` (the paper's), `resnet` (for small images), or the library of `backbone`.
        image_size: height and width of the network's input, 1 to `MAX_SIDE` pixels.
        normalize: normalisation of the pixels (see `emotion.models.preprocess.Preprocess`).
        backbone: name of the backbone in its library.
        unfreeze: number of trainable last layers of the backbone, or `all`.
        blocks: number of convolutions of each block of the CNN, or of residual blocks of each stage of the ResNet; the
            sum is at most `MAX_BLOCKS`.
        width: number of filters of the ResNet's first stage, at most `MAX_FILTERS`.
        stem_stride: stride of the ResNet's first convolution, 1 or 2.
        dropout: probability of the dropout before the last layer; None is the default of the family.

    Raises:
        UserError: a value is out of range, or a setting is missing or belongs to another family.
    """
    given = {"backbone": backbone, "unfreeze": unfreeze, "blocks": blocks, "width": width, "stem_stride": stem_stride}
    _check_settings(family, given)
    require_integer("image_size", image_size, MAX_SIDE)
    if width is not None:
        require_integer("width", width, MAX_FILTERS)
    if blocks is not None:
        _check_blocks(blocks)
    options: dict[str, object] = {key: value for key, value in given.items() if value is not None and key != "unfreeze"}
    if dropout is not None:
        options["dropout"] = dropout
    network = FAMILIES[family].build(image_size=image_size, normalize=normalize, num_classes=len(CLASSES), **options)
    if unfreeze is not None:
        network.unfreeze(unfreeze)
    return network.to(memory_format=torch.channels_last)


def require_integer(key: str, value: object, maximum: int) -> None:
    """Raises a `UserError` if a value is not an integer from 1 to `maximum`."""
    if type(value) is not int or not 1 <= value <= maximum:
        raise UserError(f"{key}={value}: a whole number from 1 to {maximum} is needed")


def _check_blocks(blocks: Sequence[int]) -> None:
    integers = isinstance(blocks, list | tuple) and all(type(block) is int for block in blocks)
    if not integers or sum(blocks) > MAX_BLOCKS:
        raise UserError(f"blocks={str(blocks)[:100]}: a list of whole numbers, sum at most {MAX_BLOCKS}, is needed")


def _check_settings(family: Family, given: Mapping[str, object]) -> None:
    needed = FAMILIES[family].needs
    for key, value in given.items():
        if value is None and key in needed:
            raise UserError(f"{key} is missing: a model of family {family} needs {' and '.join(needed)}")
        if value is not None and key not in needed:
            others = ", ".join(other for other, definition in FAMILIES.items() if key in definition.needs)
            raise UserError(f"{key}: a setting of family {others}, not of family {family}; remove it")
