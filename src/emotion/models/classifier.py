"""Trained classifiers in one file: the weights, the arguments that build the network, and facts about its training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from emotion.data.classes import CLASSES, require_classes
from emotion.errors import UserError, first_line, require_choice
from emotion.files import atomic_write
from emotion.models.device import find_device
from emotion.models.network import Network
from emotion.models.onnx import MAX_SIDE, METADATA, ViewsName, require_channels
from emotion.models.registry import build_network
from emotion.models.views import Views
from emotion.models.weights import state_shapes, validate_state
from emotion.settings import FER_SIZE, NetworkSettings
from emotion.shipped import find_weights

TEACHING = "emotion_teaching"
"""Key of the description in files that hold the judgement of teachers (see `emotion.training.teachers`)."""


MOST_TEMPERATURE = 1e6
"""Larger ones make all classes equally probable; a file may claim a number that no float can hold."""


@dataclass(frozen=True)
class Card:
    """Describes a trained network.

    Attributes:
        network: the `emotion.settings.NetworkSettings`, as plain values.
        temperature: divisor of the logits, fitted on validation images, above 0.
        views: name of the test-time augmentation (see `emotion.models.views.Views`).
        side: height and width of the training images, pixels.
        channels: 1 for grey training images, 3 for RGB; older files, which lack it, have 1.
        facts: settings of the training and measured results.
        classes: names of the K classes, in the order of the outputs; older files, which lack it, have the seven classes
            of FER2013.

    Raises:
        UserError: temperature, views, side, channels, facts or classes have an illegal value.
    """

    network: dict[str, Any]
    temperature: float = 1.0
    views: ViewsName = "none"
    side: int = FER_SIZE
    channels: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=lambda: list(CLASSES))

    def __post_init__(self) -> None:
        require_choice("views", self.views, get_args(ViewsName))
        if type(self.side) is not int or not 1 <= self.side <= MAX_SIDE:
            raise UserError(f"side={self.side}: a whole number from 1 to {MAX_SIDE} is needed")
        require_channels(self.channels)
        require_classes(self.classes)
        if type(self.temperature) not in (int, float) or not 0 < self.temperature <= MOST_TEMPERATURE:
            raise UserError(f"temperature={str(self.temperature)[:30]}: a number from above 0 to 10^6 is needed")
        if not isinstance(self.facts, dict):
            raise UserError(f"facts={str(self.facts)[:30]}: not a description")


class Classifier(nn.Module):
    """A trained network with test-time augmentation and calibration.

    Attributes:
        classes: names of the K classes, in the order of the probabilities.
        card: description of the network.
        network: maps images [B, C, H, W] to logits [B, K].
        averaged: maps images [B, C, H, W] to logits [B, K] averaged over the views, before the temperature.
    """

    def __init__(self, network: Network, card: Card) -> None:
        super().__init__()
        self.card, self.classes = card, tuple(card.classes)
        self.network, self.averaged = network, Views(network, card.views)
        self.eval()

    def set_views(self, views: str | None) -> None:
        """Sets the test-time augmentation; None changes nothing.

        Raises:
            UserError: the name is not one of `ViewsName`.
        """
        if views is not None:
            require_choice("tta", views, get_args(ViewsName))
            self.averaged.views = cast("ViewsName", views)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Maps images of faces [B, C, H, W], uint8 (0..255) or float (0..1), grey or RGB, to probabilities [B, K].

        Height and width are free; the face should fill the image, as in FER2013.

        Raises:
            UserError: the outputs of the network are not finite.
        """
        logits: Tensor = self.averaged(images)
        probabilities = (logits / self.card.temperature).softmax(1)
        if not probabilities.isfinite().all():
            raise UserError("this network has outputs that are not finite; load other weights")
        return probabilities


def load_pretrained(name: str | Path = "small", device: str | torch.device = "cpu") -> Classifier:
    """Loads a trained network without running code in its file; only `hf://` names are downloaded.

    Args:
        name: name or path of a network with a `.safetensors` file (see `emotion.shipped.find_network`).
        device: device that runs the network (see `emotion.models.device.find_device`).

    Raises:
        UserError: the network, the file or the device does not exist, or the file is of another kind.
    """
    path, found_device = find_weights(name), find_device(device)
    try:
        card, settings, state = read_published(path)
        build = partial(build_network, settings, len(card.classes))
        validate_state(state_shapes(build), state)
        network = build()
        network.load_state_dict(state)
    except Exception as error:
        # A damaged or hostile file can make safetensors, json and PyTorch raise any exception.
        raise UserError(f"{path}: not a network of this project ({first_line(error)})") from None
    return Classifier(network, card).to(found_device)


def read_published(path: Path) -> tuple[Card, NetworkSettings, dict[str, Tensor]]:
    """Reads the card, the settings of the network and the weights of a published file, which runs no code.

    Raises:
        Exception: the file is damaged or of another kind; safetensors and json raise nearly any exception then.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        card, names = Card(**json.loads(_described(file.metadata()))), file.keys()
        state = {name: file.get_tensor(name) for name in names}
    if not isinstance(card.network, dict) or not {*card.network} <= {*NetworkSettings.model_fields}:
        raise UserError(f"network={str(card.network)[:100]}: not the settings of a network")
    return card, NetworkSettings.of(card.network), state


def _described(metadata: Mapping[str, str] | None) -> str:
    """Returns the description in the metadata of a published file, JSON.

    Raises:
        ValueError: there is none.
    """
    texts = metadata or {}
    if TEACHING in texts:
        raise ValueError("it holds the judgement of teachers, for teacher= alone")
    if METADATA not in texts:
        raise ValueError("it has no description; emotion publish writes one")
    return texts[METADATA]


def to_planes(faces: Tensor) -> Tensor:
    """Turns faces, as `OnnxNetwork` takes them, [N, S, S] or [N, S, S, 3], into images [N, C, S, S]."""
    return faces[:, None] if faces.ndim == 3 else faces.permute(0, 3, 1, 2)


def save_pretrained(path: Path, network: Network, card: Card) -> None:
    """Writes a network and its card, with weights in float16, if they fit, and running statistics in float32."""
    from safetensors.torch import save

    halves = {name: value.detach().half() for name, value in network.named_parameters()}
    weights = {name: value for name, value in halves.items() if value.isfinite().all()}
    state = {name: weights.get(name, value).contiguous().cpu() for name, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, {METADATA: json.dumps(vars(card))}))
