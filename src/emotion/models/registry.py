"""Builds any network from plain values."""

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
    """How a kind of network is built and named.

    Attributes:
        build: takes `image_size`, `normalize`, `num_classes`, `dropout` where it is set, and the settings of `needs`
            but for `unfreeze`, by name.
        needs: the settings that it has; for other families they are None.
        title: its name on the report page; empty for pretrained backbones, which go by their own names.
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
"""All that is to be said of a family; `conf/model` holds settings for it."""
assert {*FAMILIES} == {*get_args(Family)}, "FAMILIES and Family name different families"
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
        image_size: height and width of the network's input, at most `MAX_SIDE` pixels.
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
    require_whole("image_size", image_size, MAX_SIDE)
    if width is not None:
        require_whole("width", width, MOST_FILTERS)
    if blocks is not None:
        _check_blocks(blocks)
    own: dict[str, object] = {key: value for key, value in given.items() if value is not None and key != "unfreeze"}
    if dropout is not None:
        own["dropout"] = dropout
    network = FAMILIES[family].build(image_size=image_size, normalize=normalize, num_classes=len(CLASSES), **own)
    if unfreeze is not None:
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
    needed = FAMILIES[family].needs
    for key, value in given.items():
        if value is None and key in needed:
            raise UserError(f"{key} is missing: a model of family {family} needs {' and '.join(needed)}")
        if value is not None and key not in needed:
            others = ", ".join(other for other, settings in FAMILIES.items() if key in settings.needs)
            raise UserError(f"{key}: a model of family {family} has none (those of {others} do)")
