"""A trained network that is evaluated, or that teaches: its weights, classes and training images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emotion.data.datamodule import EmotionDataModule
from emotion.models.classifier import load_pretrained
from emotion.settings import OWN_DATA, DataSettings
from emotion.shipped import find_weights
from emotion.training.checkpoint import load_checkpoint

_FER2013 = ("fer2013", "fer2013_csv")


@dataclass(frozen=True)
class Member:
    """A trained network.

    Attributes:
        network: maps images [B, C, H, W] to logits [B, K].
        model: name of its model in `conf/model`; empty if it is not known.
        classes: names of the K classes.
        data: settings of the data that it was trained on, as flat values.
        temperature: divisor of the logits; 1 for a checkpoint, which is not calibrated.
        size: shape (C, S, S) of the training images; None if it is not known.
        hashes: hashes of the training images, uint64 [N]; see `emotion.data.packed.PackedImages`.
        facts: the facts on the card of a published file; nothing for a checkpoint.
    """

    network: nn.Module
    model: str
    classes: tuple[str, ...]
    data: dict[str, Any]
    temperature: float
    size: tuple[int, ...] | None
    hashes: NDArray[np.uint64]
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_member(name: str | Path, network: str | None = None) -> Member:
    """Reads a trained network.

    Args:
        name: a checkpoint, the folder of a run, a published file or the name of a shipped network.
        network: name of the user's network in the checkpoint, if its code is trusted.

    Raises:
        UserError: there is no such network, or its file is of another kind.
    """
    path = Path(name) if Path(name).suffix == ".ckpt" else find_weights(str(name))
    if path.suffix == ".ckpt":
        read = load_checkpoint(path, network)
        task, model = read.task, str(read.task.hparams["model"])
        return Member(task.inference_network, model, task.classes, read.data, 1.0, read.size, read.hashes)
    published = load_pretrained(path)
    card = published.card
    known = {key: value for key, value in card.facts.items() if key in (*DataSettings.model_fields, "seed")}
    data = {"pack_size": card.side, "channels": card.channels, **known}
    model, none = str(card.facts.get("model", "")), np.empty(0, np.uint64)
    return Member(published.network, model, published.classes, data, card.temperature, None, none, card.facts)


def training_hashes(member: Member, data: EmotionDataModule) -> NDArray[np.uint64] | None:
    """Returns the hashes of a network's training images; of a published one, those of its split of the same images.

    Args:
        member: the network.
        data: the data that they are compared with.

    Returns:
        uint64 [N]; None if they cannot be told.
    """
    if len(member.hashes):
        return member.hashes
    facts, own = member.facts, data.settings
    kinds = [_FER2013 if kind in _FER2013 else (kind,) for kind in (facts.get("data"), own.data)]
    same = kinds[0] == kinds[1] and facts.get("images_hash", data.packed.digest) == data.packed.digest
    known = own.data not in OWN_DATA or "images_hash" in facts
    drawn = facts.get("split") in ("report", "random") and "val_fraction" not in facts
    if not same or not known or drawn or "extra_folders" in facts:
        return None
    source = {key: getattr(own, key) for key in ("data", "data_dir", "votes", "images", "synthetic_images")}
    trained = EmotionDataModule.of({**member.data, **source}, network_classes=member.classes)
    return trained.packed.hashes[trained.rows.train]
