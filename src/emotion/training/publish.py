"""Turns a checkpoint into a file to distribute: weights in half precision, temperature and metrics."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emotion.analysis.calibration import fit_temperature
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import protocol_metrics, protocol_parts
from emotion.data.classes import listed
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.declarations import NEW
from emotion.errors import UserError
from emotion.files import atomic_write
from emotion.models.classifier import Card, Classifier, load_pretrained, save_pretrained
from emotion.models.device import find_device
from emotion.models.onnx import ViewsName
from emotion.settings import FER_SIZE, OWN_DATA, DataSettings, NetworkSettings, marked
from emotion.training.checkpoint import Checkpoint, load_checkpoint
from emotion.training.origin import FURTHER, Origin, require_own_split
from emotion.training.results import predict


def uncalibrated(trained: Checkpoint) -> Classifier:
    """Returns the network of a checkpoint without test-time augmentation and calibration."""
    return Classifier(trained.task.inference_network, _card(trained))


def publish(
    checkpoint: Path, out: Path, views: ViewsName = "flip", test: bool = True, device: str = "cpu"
) -> Classifier:
    """Writes a network to a file, with metrics measured on the rounded weights, and returns it.

    The temperature is fitted on the validation images; test images decide nothing.

    Args:
        checkpoint: a `best.ckpt`, or the folder of its run.
        out: the `.safetensors` file.
        views: test-time augmentation of the published network.
        test: whether the card gets metrics on the test images, too; without, no test image is read.
        device: device that measures: `cpu`, `cuda`, `cuda:1` ...

    Raises:
        UserError: there is no such checkpoint, its network is code of a user, its data is missing or has changed, or
            the file has another suffix.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: a name that ends with .safetensors is needed")
    measuring, trained = find_device(device), load_checkpoint(checkpoint)
    network, data = trained.task.inference_network, trained.data_module()
    require_own_split(f"ckpt={checkpoint}", trained.origin, data, "restore them")
    card = replace(_card(trained), views=views)
    with atomic_write(out) as temporary:
        save_pretrained(temporary, network, card)
        rounded = load_pretrained(temporary)  # the weights that users get
        measured: tuple[Stage, ...] = ("val", "test") if test else ("val",)
        stages: dict[str, Predictions] = {
            stage: predict(rounded.averaged, data, stage, measuring) for stage in measured
        }
        temperature = fit_temperature(stages["val"])
        facts = _facts(trained, stages, temperature, data.training_hash) | _further(trained.origin, data)
        save_pretrained(temporary, network, replace(card, temperature=temperature, facts=facts))
    return load_pretrained(out)


def describe(classifier: Classifier, out: Path) -> str:
    """Returns a text for the terminal: file, classes, temperature, test-time augmentation and measured accuracy."""
    card = classifier.card
    kind = "grey" if card.channels == 1 else "RGB"
    measured = (f"{own['acc']:.4f} on {own['images']:,} images ({part})" for part, own in card.facts["figures"].items())
    return (
        f"{out}: {out.stat().st_size / 2**20:.1f} MiB; {kind} faces of {card.side} pixels; "
        f"classes {listed(classifier.classes)}\n"
        f"temperature {card.temperature:.2f}, test-time augmentation {card.views}; accuracy {', '.join(measured)}"
    )


def _facts(trained: Checkpoint, stages: Mapping[str, Predictions], temperature: float, images: str) -> dict[str, Any]:
    """Returns the facts on the card: model, settings, teachers, epoch and, by part of the images, the metrics."""
    metrics = {
        part: {name: round(value, 4) for name, value in protocol_metrics(predictions, temperature).items()}
        | {"images": len(predictions)}
        for part, predictions in (protocol_parts(stages) or {"validation": stages["val"]}).items()
    }
    settings = {key: trained.data[key] for key in ("data", "split", "balance", "seed")}
    settings |= _labels_and_split(trained, images)
    settings |= _teachers(trained)
    return {"model": trained.task.hparams["model"], **settings, "epoch": trained.epoch, "figures": metrics}


def _labels_and_split(trained: Checkpoint, images: str) -> dict[str, Any]:
    """Returns the settings of labels and split that differ from their defaults, and what tells the training images.

    Paths stay on this machine; of the folders of `extra_data`, the card has the number.

    Args:
        trained: the checkpoint.
        images: hash of the training images and their labels.
    """
    fields = DataSettings.model_fields
    keys = [key for key in marked(NEW) if key in fields and key not in ("images", "votes")]
    told = {key: trained.data[key] for key in keys if trained.data[key] != fields[key].default}
    if trained.data["split"] in ("report", "random"):
        told |= {key: trained.data[key] for key in ("val_fraction", "group_duplicates")}
    extra = {"extra_folders": len(trained.data["extra_data"])} if trained.data["extra_data"] else {}
    return told | extra | {"training_hash": images}


def _teachers(trained: Checkpoint) -> dict[str, Any]:
    """Returns who taught the network, and how; nothing if nobody did."""
    known, keys = trained.task.hparams, ("distill", "distill_temperature", "distill_views")
    return {key: known[key] for key in ("teachers", *keys)} if known["teachers"] else {}


def _further(origin: Origin, data: EmotionDataModule) -> dict[str, Any]:
    """Returns the number of images that start and teachers were trained on, but not the network; nothing for none."""
    if not origin.complete:
        return {FURTHER: "not known"}
    further = np.setdiff1d(origin.hashes, data.packed.hashes[data.rows.train])
    return {FURTHER: len(further)} if len(further) else {}


def _card(trained: Checkpoint) -> Card:
    own = trained.data if trained.data["data"] in OWN_DATA else {}  # other images are grey, 48 x 48
    side, channels = own.get("pack_size") or FER_SIZE, own.get("channels") or 1
    network = NetworkSettings.of(trained.task.hparams).flat()
    return Card(network, side=side, channels=channels, classes=list(trained.task.classes))
