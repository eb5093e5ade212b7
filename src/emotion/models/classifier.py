"""Trained networks to take away: a file with the weights, how to build the network, and what is known about it."""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from emotion.data.classes import CLASSES
from emotion.data.sources import FER_SIZE
from emotion.errors import UserError, first_line, require_choice
from emotion.files import atomic_write
from emotion.models.device import find_device
from emotion.models.network import Network
from emotion.models.onnx import MAX_SIDE, METADATA
from emotion.models.registry import build_network, require_whole
from emotion.models.views import Views, ViewsName
from emotion.models.weights import state_shapes, validate_state
from emotion.shipped import find_weights


@dataclass(frozen=True)
class Card:
    """What is known about a trained network.

    Attributes:
        network: the arguments of `emotion.models.registry.build_network`.
        temperature: what the logits are divided by, fitted on validation images.
        views: the views of each image whose mean counts (see `emotion.models.views.Views`).
        side: height and width of the images it was trained on, pixels.
        facts: how it was trained and measured.

    Raises:
        UserError: a temperature, views or a side that no network has.
    """

    network: dict[str, Any]
    temperature: float = 1.0
    views: ViewsName = "none"
    side: int = FER_SIZE
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("views", self.views, get_args(ViewsName))
        require_whole("side", self.side, MAX_SIDE)
        if type(self.temperature) not in (int, float) or not 0 < self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature}: a number above 0 is needed")


class Classifier(nn.Module):
    """A trained network that turns images into calibrated probabilities.

    Attributes:
        classes: the names of the K classes.
        card: what is known about it.
        network: images [B, C, H, W] to logits [B, K].
        averaged: images [B, C, H, W] to logits [B, K], before the temperature.
    """

    def __init__(self, network: Network, card: Card) -> None:
        super().__init__()
        self.card, self.classes = card, CLASSES
        self.network, self.averaged = network, Views(network, card.views)
        self.eval()

    def set_views(self, views: str | None) -> None:
        """Sets whose mean counts; None leaves it as it is.

        Raises:
            UserError: no such views.
        """
        if views is not None:
            require_choice("tta", views, get_args(ViewsName))
            self.averaged.views = cast("ViewsName", views)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Maps images of faces [B, C, H, W], uint8 (0..255) or float (0..1), grey or RGB, to probabilities [B, K].

        Any height and width will do; the face should fill the image, as in FER2013.

        Raises:
            UserError: the network's answers are not finite.
        """
        logits: Tensor = self.averaged(images)
        probabilities = (logits / self.card.temperature).softmax(1)
        if not probabilities.isfinite().all():
            raise UserError("this network gives no probabilities: its answers are not finite")
        return probabilities


def load_pretrained(name: str | Path = "small", device: str | torch.device = "cpu") -> Classifier:
    """Loads a trained network without a download and without running code in the file.

    Args:
        name: see `emotion.shipped.find_network`; a `.safetensors` file is needed.
        device: where it runs, see `emotion.models.device.find_device`.

    Raises:
        UserError: no such network, file or device, or a file of another kind.
    """
    from safetensors import safe_open

    path, found = find_weights(name), find_device(device)
    try:
        with safe_open(path, "pt") as file:
            card = Card(**json.loads(file.metadata()[METADATA]))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        build = partial(build_network, **card.network)
        validate_state(state_shapes(build), state)
        network = build()
        network.load_state_dict(state)
    except Exception as error:
        # A damaged or hostile file can make the readers raise anything.
        raise UserError(f"{path}: not a network of this project ({first_line(error)})") from None
    return Classifier(network, card).to(found)


def save_pretrained(path: Path, network: Network, card: Card) -> None:
    """Writes a network, its weights in half precision and its statistics in full."""
    from safetensors.torch import save

    weights = {name: value.detach().half() for name, value in network.named_parameters()}
    state = {name: weights.get(name, value).contiguous().cpu() for name, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, {METADATA: json.dumps(vars(card))}))


def network_settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the arguments of `build_network` from those of a task."""
    legal = inspect.signature(build_network).parameters
    return {key: value for key, value in hyperparameters.items() if key in legal}
