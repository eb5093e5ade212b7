"""Turns a checkpoint into a file to distribute: weights in half precision, temperature and metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emotion.analysis.calibration import fit_temperature
from emotion.analysis.protocol import protocol_metrics, protocol_parts
from emotion.declarations import NEW
from emotion.models.classifier import Card, Classifier, load_pretrained, save_pretrained
from emotion.models.onnx import ViewsName
from emotion.settings import FER_SIZE, OWN_DATA, DataSettings, NetworkSettings, marked
from emotion.training.checkpoint import Checkpoint, load_checkpoint
from emotion.training.results import predict


def uncalibrated(trained: Checkpoint) -> Classifier:
    """Returns the network of a checkpoint without test-time augmentation and calibration."""
    return Classifier(trained.task.inference_network, _card(trained))


def publish(checkpoint: Path, out: Path, views: ViewsName = "flip") -> Classifier:
    """Writes a network to a file, with metrics measured on the rounded weights, and returns it.

    The temperature is fitted on the validation images; test images decide nothing.

    Args:
        checkpoint: a `best.ckpt`.
        out: the `.safetensors` file.
        views: test-time augmentation of the published network.

    Raises:
        UserError: there is no such checkpoint, its network is code of a user, or its data is missing.
    """
    trained = load_checkpoint(checkpoint)
    network, data = trained.task.inference_network, trained.data_module()
    card = replace(_card(trained), views=views)
    save_pretrained(out, network, card)
    rounded = load_pretrained(out)  # the weights that users get
    stages = {stage: predict(rounded.averaged, data, stage, torch.device("cpu")) for stage in ("val", "test")}
    temperature = fit_temperature(stages["val"])
    metrics = {
        part: {name: round(value, 4) for name, value in protocol_metrics(predictions, temperature).items()}
        | {"images": len(predictions)}
        for part, predictions in protocol_parts(stages).items()
    }
    settings = {key: trained.data[key] for key in ("data", "split", "balance", "seed")}
    settings |= _labels_and_split(trained, data.packed.digest)
    settings |= _teachers(trained)
    facts = {"model": trained.task.hparams["model"], **settings, "epoch": trained.epoch, "figures": metrics}
    save_pretrained(out, network, replace(card, temperature=temperature, facts=facts))
    return load_pretrained(out)


def _labels_and_split(trained: Checkpoint, images: str) -> dict[str, Any]:
    """Returns the settings of labels and split that differ from their defaults, and what tells the training images.

    Paths stay on this machine; of the folders of `extra_data`, the card has the number.

    Args:
        trained: the checkpoint.
        images: hash of all images of the source.
    """
    fields = DataSettings.model_fields
    keys = [key for key in marked(NEW) if key in fields and key not in ("images", "votes")]
    told = {key: trained.data[key] for key in keys if trained.data[key] != fields[key].default}
    if trained.data["split"] in ("report", "random"):
        told |= {key: trained.data[key] for key in ("val_fraction", "group_duplicates")}
    extra = {"extra_folders": len(trained.data["extra_data"])} if trained.data["extra_data"] else {}
    return told | extra | {"images_hash": images}


def _teachers(trained: Checkpoint) -> dict[str, Any]:
    """Returns who taught the network, and how; nothing if nobody did."""
    known, keys = trained.task.hparams, ("distill", "distill_temperature", "distill_views")
    return {key: known[key] for key in ("teachers", *keys)} if known["teachers"] else {}


def _card(trained: Checkpoint) -> Card:
    own = trained.data if trained.data["data"] in OWN_DATA else {}  # other images are grey, 48 x 48
    side, channels = own.get("pack_size") or FER_SIZE, own.get("channels") or 1
    network = NetworkSettings.of(trained.task.hparams).flat()
    return Card(network, side=side, channels=channels, classes=list(trained.task.classes))
