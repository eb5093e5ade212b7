"""A trained network that is evaluated, or that teaches: its weights and the images that it learned from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path

from torch import nn

from emotion.errors import UserError
from emotion.files import expand
from emotion.models.classifier import load_pretrained
from emotion.models.onnx import ViewsName
from emotion.shipped import HUB, find_weights
from emotion.training.checkpoint import load_checkpoint
from emotion.training.origin import Origin


@dataclass(frozen=True)
class Member:
    """A trained network.

    Attributes:
        network: maps images [B, C, H, W] to logits [B, K].
        model: name of its model in `conf/model`; empty if it is not known.
        origin: its classes and training images.
        temperature: divisor of the logits; 1 for a checkpoint, which is not calibrated.
        views: test-time augmentation of a published file; a checkpoint has none.
        teachers: the networks that it learned from, each as `<model>, seed <seed>, <hash of its weights>`.
    """

    network: nn.Module
    model: str
    origin: Origin
    temperature: float = 1.0
    views: ViewsName = "none"
    teachers: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A hash of the weights, 8 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=4)
        for value in self.network.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()


def matches(pattern: str) -> Sequence[Path | str]:
    """Returns the files that match a pattern, or the path itself if it exists (its name may contain `[` or `*`)."""
    if pattern.startswith(HUB):
        return [pattern]
    path = expand(pattern)
    files = [] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207, takes any path
    return files or [path]


def require_different(key: str, names: Sequence[object], members: Sequence[Member]) -> None:
    """Refuses a network that is named twice, in one file or in copies, which would count twice in an average."""
    known: dict[str, object] = {}
    for name, member in zip(names, members, strict=True):
        if member.digest in known:
            raise UserError(f"{key}={name}: the network of {known[member.digest]} again; name each network once")
        known[member.digest] = name


def read_member(name: str | Path, network: str | None = None) -> Member:
    """Reads a trained network.

    Args:
        name: a checkpoint, the folder of a run, a published file, the name of a shipped network or of one on the hub.
        network: name of the user's network in the checkpoint, if its code is trusted.

    Raises:
        UserError: there is no such network, or its file is of another kind.
    """
    is_file = Path(name).suffix == ".ckpt" and not str(name).startswith(HUB)
    path = Path(name) if is_file else find_weights(str(name))
    if path.suffix == ".ckpt":
        read = load_checkpoint(path, network)
        taught = tuple(read.task.hparams.get("teachers", ()))
        return Member(read.task.inference_network, str(read.task.hparams["model"]), read.origin, teachers=taught)
    published = load_pretrained(path)
    card = published.card
    origin = Origin.of_card(card, published.classes)
    model, taught = str(card.facts.get("model", "")), tuple(map(str, card.facts.get("teachers", ())))
    return Member(published.network, model, origin, card.temperature, card.views, taught)
