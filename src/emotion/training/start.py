"""Starts a training from a trained network: a shipped one, a checkpoint, a published file or the folder of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from emotion.config import choice_names, compose, read
from emotion.data.classes import CLASSES, listed
from emotion.errors import UserError, first_line
from emotion.models.classifier import read_published
from emotion.models.network import COUNTED_LAYERS, Network, forward_order
from emotion.models.weights import OPTIONAL_SUFFIX
from emotion.settings import NetworkSettings
from emotion.shipped import find_weights
from emotion.training.checkpoint import read_content
from emotion.training.origin import Origin

ARCHITECTURE = (
    *("backbone", "blocks", "width", "stem_stride", "stem_width"),
    *("image_size", "normalize", "activation_scale"),
)
"""The settings of a trained network that a network which starts from it has too, unless others are asked for."""


@dataclass(frozen=True)
class Start:
    """The weights of a trained network.

    Attributes:
        name: name or path that the user gave.
        model: name of its model in `conf/model`; empty if it is not known.
        origin: its classes, in the order of its outputs, and its training images.
        state: its tensors by name.
        settings: those of its network; the biases contain the factor `activation_scale`.
    """

    name: str
    model: str
    origin: Origin
    state: dict[str, Tensor]
    settings: NetworkSettings

    @property
    def architecture(self) -> dict[str, Any]:
        """The values of `ARCHITECTURE` that its network has."""
        values = {key: getattr(self.settings, key) for key in ARCHITECTURE}
        return {key: value for key, value in values.items() if value is not None}

    def differences(self, settings: NetworkSettings) -> list[str]:
        """Returns a text for each value of its architecture that the settings of another network do not have."""
        others = {key: getattr(settings, key) for key in self.architecture}
        return [
            f"{key}={value}, here {others[key]}" for key, value in self.architecture.items() if value != others[key]
        ]

    def load_into(self, network: Network, classes: Sequence[str]) -> str:
        """Copies the tensors that fit into a network; the last layer fits only if the classes are the same.

        Args:
            network: the network to train.
            classes: its classes, in the order of its outputs.

        Returns:
            One line that says what was taken and what is new.

        Raises:
            UserError: nothing of the backbone fits, or a number is not finite.
        """
        own, last = network.state_dict(), _last_layer(network) if self.origin.classes != tuple(classes) else None
        fits = {
            key: value
            for key, value in self.state.items()
            if isinstance(value, Tensor) and key in own and own[key].shape == value.shape
            if not (last and key.startswith(f"{last}."))
        }
        # The counters of batch normalisation fit any network.
        if not any(key.startswith("backbone.") and not key.endswith(OPTIONAL_SUFFIX) for key in fits):
            words = " ".join([f"model={self.model}", *_words(self.architecture)])
            hint = f"; the network in the file has {words}" if self.model else ""
            raise UserError(f"init={self.name}: none of its weights fits this model{hint}")
        if not all(value.isfinite().all() for value in fits.values()):
            raise UserError(f"init={self.name}: has numbers that are not finite")
        network.load_state_dict(fits, strict=False)
        new = sorted({key.rpartition(".")[0] for key in own if key not in fits})
        kept = f"init={self.name}: {len(fits)} of {len(own)} tensors taken"
        if unused := len(self.state.keys() - own.keys()):
            kept += f" and {unused} of the file left out"
        if any(layer.startswith("backbone.") for layer in new):
            kept += f"; {len(new)} layers are new, since the network in the file has another architecture"
        elif new:
            kept += f"; new: {listed(new)}"
        return f"{kept}, for the classes {listed(classes)}" if last in new else kept


def read_start(name: str) -> Start:
    """Reads the weights of a trained network, without running code in its file.

    Args:
        name: name of a shipped network, path of a `.ckpt` or `.safetensors` file, or folder of a run.

    Raises:
        UserError: there is no such network, or its file is of another kind.
    """
    path = find_weights(name)
    if path.suffix == ".safetensors":
        return _read_published(name, path)
    content = read_content(path)
    try:
        settings = content["hyper_parameters"]
        prefix = "average.module." if settings.get("ema_decay") else "network."
        state = {
            key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)
        }
        origin = Origin.of_checkpoint(settings.get("classes", CLASSES), content)
        return Start(name, str(settings["model"]), origin, state, NetworkSettings.of(settings))
    except Exception as error:
        # A file of another origin can hold anything.
        raise UserError(f"init={name}: not a checkpoint of this project ({first_line(error)})") from None


def with_implied_model(arguments: list[str]) -> list[str]:
    """Adds the model that `network=` or `init=` stands for, where the command line names no model.

    The model of `init=` is that of the file, with the settings of its network that differ from `conf/model`. A recipe
    or experiment keeps its own model, unless it starts from a trained network itself, and the settings of that model
    which it changes.

    Raises:
        UserError: a sweep starts from several networks and names no model, or there is no such network.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if {"model", "resume"} & given.keys():
        return arguments
    named: dict[str, str] = {group: given[group] for group in ("recipe", "experiment") if group in given}
    custom = ["model=custom"] if "network" in given and not named else []
    if given.get("init", "null") == "null" or any("," in value for value in named.values()):
        return [*arguments, *custom]
    if "," in given["init"] and {"-m", "--multirun"} & {*arguments}:
        if not named:
            raise UserError(f"init={given['init']}: several networks; name their model too, as model=resnet_small")
        return arguments
    start = read_start(given["init"])
    legal = all(name in choice_names(group) for group, name in (*named.items(), ("model", start.model)))
    if not legal or (custom and start.model != "custom"):
        return [*arguments, *custom]
    usual = {} if start.model in ("custom", "timm") else read(compose(f"model={start.model}")).network.flat()
    model, asked = [f"model={start.model}"], {*given}
    if named:
        chosen = read(compose(*_words(named)))
        if chosen.run.model == start.model:
            model = []
            asked |= {key for key, value in chosen.network.flat().items() if value != usual.get(key)}
        elif chosen.training.init is None:
            return arguments
    own = {key: value for key, value in start.architecture.items() if value != usual.get(key) and key not in asked}
    return [*arguments, *model, *_words(own)]


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={str(value).replace(' ', '')}" for key, value in settings.items()]


def _read_published(name: str, path: Path) -> Start:
    try:
        card, settings, weights = read_published(path)
        model, origin = str(card.facts.get("model", "")), Origin.of_card(card, card.classes)
        return Start(name, model, origin, {key: value.float() for key, value in weights.items()}, settings)
    except Exception as error:
        # A damaged or hostile file can make safetensors and json raise any exception.
        raise UserError(f"init={name}: not a network of this project ({first_line(error)})") from None


def _last_layer(network: Network) -> str | None:
    """Returns the name of the last linear layer or convolution, which computes the logits, or None without one."""
    modules = dict(network.named_modules())
    if isinstance(network.head, nn.Identity):  # a network of one's own may create its layers in any order
        order = forward_order(network.backbone, network.example())
        modules = {f"backbone.{name}": module for name, module in order.items()}
    names = [name for name, module in modules.items() if isinstance(module, COUNTED_LAYERS)]
    return names[-1] if names else None
