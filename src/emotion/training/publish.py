"""Makes a file to take away from a checkpoint: its weights in half precision, its temperature, its figures."""

from dataclasses import replace
from pathlib import Path

import torch

from emotion.analysis.calibration import fit_temperature
from emotion.analysis.protocol import protocol_metrics, protocol_parts
from emotion.data.sources import FER_SIZE
from emotion.models.classifier import Card, Classifier, load_pretrained, network_settings, save_pretrained
from emotion.models.views import ViewsName
from emotion.training.checkpoint import Checkpoint, load_checkpoint
from emotion.training.results import predict


def uncalibrated(trained: Checkpoint) -> Classifier:
    """Returns the network of a checkpoint as it is: one view, probabilities not calibrated."""
    return Classifier(trained.task.inference_network, _card(trained))


def publish(checkpoint: Path, out: Path, views: ViewsName = "flip") -> Classifier:
    """Writes a network to `out`, measured as it will be used, and returns it.

    The temperature is fitted on the validation images; test images choose nothing.

    Args:
        checkpoint: a `best.ckpt`.
        out: the `.safetensors` file.
        views: the views of each image whose mean counts.

    Raises:
        UserError: no such checkpoint, or its data is not there.
    """
    trained = load_checkpoint(checkpoint)
    network, data = trained.task.inference_network, trained.data_module()
    card = replace(_card(trained), views=views)
    save_pretrained(out, network, card)
    rounded = load_pretrained(out)  # what users will have
    stages = {stage: predict(rounded.averaged, data, stage, torch.device("cpu")) for stage in ("val", "test")}
    temperature = fit_temperature(stages["val"])
    figures = {
        part: {name: round(value, 4) for name, value in protocol_metrics(own, temperature).items()}
        | {"images": len(own)}
        for part, own in protocol_parts(stages).items()
    }
    settings = {key: trained.data[key] for key in ("data", "split", "balance", "seed")}
    facts = {"model": trained.task.hparams["model"], **settings, "epoch": trained.epoch, "figures": figures}
    save_pretrained(out, network, replace(card, temperature=temperature, facts=facts))
    return load_pretrained(out)


def _card(trained: Checkpoint) -> Card:
    side = trained.data["pack_size"] if trained.data["data"] == "folder" else FER_SIZE
    return Card(network_settings(trained.task.hparams), side=side)
