"""The network families, and the construction of a network from its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from emotion.errors import UserError
from emotion.models.cnn import build_cnn
from emotion.models.network import Network
from emotion.models.preprocess import Preprocess, require_unit
from emotion.models.resnet import build_resnet
from emotion.models.transfer import build_transfer
from emotion.plugins import own_code
from emotion.settings import Family, NetworkSettings


@dataclass(frozen=True)
class NetworkFamily:
    """A family of networks.

    Attributes:
        build: makes a network from settings and the number of classes.
        needs: names of the settings that the family requires; the settings of other families must be None.
        title: name on the report page; empty for pretrained backbones, which are shown by their own names.
    """

    build: Callable[[NetworkSettings, int], Network]
    needs: tuple[str, ...]
    title: str = ""


FAMILIES: dict[Family, NetworkFamily] = {
    "cnn": NetworkFamily(build_cnn, ("blocks",), "CNN"),
    "resnet": NetworkFamily(build_resnet, ("blocks", "width", "stem_stride"), "ResNet"),
    "torchvision": NetworkFamily(build_transfer, ("backbone", "unfreeze")),
    "timm": NetworkFamily(build_transfer, ("backbone", "unfreeze")),
    "face": NetworkFamily(build_transfer, ("backbone", "unfreeze")),
}
"""The families of the project; `conf/model` has settings for each of them. `custom` stands for a class of the user."""
assert {*FAMILIES, "custom"} == {*get_args(Family)}, "FAMILIES and Family list different families"
OPTIONAL = {"unfreeze": (*FAMILIES, "custom"), "stem_width": ("resnet",), "activation_scale": ("torchvision",)}
"""Settings that some families accept and none needs."""
MAX_BLOCKS = 256
"""Largest sum of `blocks` of a network."""


def build_network(settings: NetworkSettings, num_classes: int, own: Callable[..., nn.Module] | None = None) -> Network:
    """Builds a network with random weights in the memory format channels last, which is fastest for convolutions.

    Args:
        settings: family and size of the network.
        num_classes: number of logits K.
        own: the user's class that `settings.network` names (see `emotion.plugins`); never imported here, since the
            settings can come from a stranger's file.

    Raises:
        UserError: a value is out of range, a setting is missing or belongs to another family, or the user's network
            cannot be made or has outputs of another shape.
    """
    if settings.family == "custom":
        network = _wrap(settings, num_classes, own)
    else:
        _check_settings(settings)
        network = FAMILIES[settings.family].build(settings, num_classes)
    if settings.unfreeze is not None:
        network.unfreeze(settings.unfreeze)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise UserError(f"unfreeze={settings.unfreeze}: leaves nothing to train, since this network has no head")
    for parameter in network.parameters():
        if parameter.ndim == 4:  # a network of one's own may have others
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network


def _check_settings(settings: NetworkSettings) -> None:
    family, needed = settings.family, FAMILIES[settings.family].needs
    for key in ("backbone", "blocks", "width", "stem_stride", "network", *OPTIONAL):
        value = getattr(settings, key)
        if value is None and key in needed:
            raise UserError(f"{key} is missing: a model of family {family} needs {' and '.join(needed)}")
        if value is not None and key not in needed and family not in OPTIONAL.get(key, ()):
            takers = [other for other, definition in FAMILIES.items() if key in definition.needs]
            others = takers or OPTIONAL.get(key, ("custom",))
            remedy = "add model=custom" if key == "network" else "remove it"
            raise UserError(f"{key}: a setting of family {', '.join(others)}, not of family {family}; {remedy}")
    if settings.blocks is not None and sum(settings.blocks) > MAX_BLOCKS:
        raise UserError(
            f"blocks={str(settings.blocks)[:100]}: a list of whole numbers, sum at most {MAX_BLOCKS}, is needed"
        )


def _wrap(settings: NetworkSettings, num_classes: int, own: Callable[..., nn.Module] | None) -> Network:
    """Gives the user's network the form of all others: pixels in, logits out."""
    name = f"network={settings.network}"
    if settings.network is None:
        raise UserError("network is missing: model=custom needs network=<file>.py:<class>")
    for key in ("backbone", "blocks", "width", "stem_stride", "stem_width", "activation_scale", "dropout"):
        if getattr(settings, key) is not None:
            raise UserError(f"{key}: not a setting of a network of your own; remove it")
    if own is None:
        raise UserError(f"{name}: a class of a user, which is only imported where its name is given; add {name}")
    channels, size = getattr(own, "channels", 1), settings.image_size
    if channels != 3:
        require_unit(settings.normalize)
    with own_code(name, "cannot be made"):
        body = own(num_classes=num_classes)
    images = f"images [2, {channels}, {size}, {size}], which its attribute channels and image_size= change"
    with own_code(name, f"cannot be used with {images}"), torch.no_grad():
        shape = tuple(body.eval()(torch.zeros(2, channels, size, size)).shape)
    if shape != (2, num_classes):
        raise UserError(
            f"{name}: maps images [2, {channels}, {size}, {size}] to {list(shape)}, not to logits [2, {num_classes}]"
        )
    return Network(Preprocess(channels, size, settings.normalize), body.train(), nn.Identity(), [body])
