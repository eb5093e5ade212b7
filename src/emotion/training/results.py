"""Runs networks over validation and test images and writes predictions, metrics, figures and reports."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from emotion.analysis.agreement import Agreement, agreement_rows
from emotion.analysis.agreement_tables import TITLE, AgreementRow, agreement_blocks
from emotion.analysis.document import Block, to_html, to_markdown
from emotion.analysis.figures import (
    History,
    confusion_matrix_figure,
    curves_figure,
    mistakes_figure,
    recall_figure,
    save,
)
from emotion.analysis.predictions import Predictions, confident_mistakes, save_predictions
from emotion.analysis.protocol import protocol_rows
from emotion.analysis.summary import run_document
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.data.votes import VotesFile
from emotion.models.device import exact_float32
from emotion.models.onnx import ViewsName
from emotion.models.views import Views
from emotion.training.folder import write_json, write_text

SHOWN_MISTAKES = 32
log = logging.getLogger(__name__)


def predict(
    network: nn.Module, data: EmotionDataModule, stage: Stage, device: torch.device, temperature: float = 1.0
) -> Predictions:
    """Returns the predictions of a network, whose logits are divided by `temperature`, for the images of a stage."""
    network.eval().to(device)
    exact_float32()
    rows = getattr(data.rows, stage)
    how = " with test-time augmentation" if isinstance(network, Views) and network.views != "none" else ""
    log.info("predicting %d %s images%s", len(rows), stage, how)
    # The inputs are images even if training used cached features, since these are in half precision: for a frozen
    # VGG16 they changed probabilities by up to 0.01 and one class of 140 in bf16-mixed, by up to 0.0002 in float32.
    loader, console = data.eval_loader(stage), Console(stderr=True)
    batches = track(loader, f"predicting {stage} images", console=console, disable=not console.is_terminal)
    with torch.inference_mode():
        outputs = [(network(batch.inputs.to(device)) / temperature).softmax(1).cpu() for batch in batches]  # of [B, K]
    packed = data.packed
    probabilities = torch.cat(outputs).numpy() if outputs else np.empty((0, len(packed.classes)), np.float32)  # [N, K]
    return Predictions(
        packed.names[rows], packed.labels[rows], probabilities, *data.origin(stage), classes=packed.classes
    )


def predict_stages(
    network: nn.Module,
    data: EmotionDataModule,
    stages: Sequence[Stage],
    device: torch.device,
    tta: ViewsName = "none",
    temperature: float = 1.0,
) -> dict[str, Predictions]:
    """Returns the predictions of each stage, and with `tta` those of test-time augmentation as `<stage>_tta`.

    Args:
        network: maps images to logits; set to eval mode, in float32.
        data: the images.
        stages: the stages to predict.
        device: device that computes.
        tta: test-time augmentation.
        temperature: divisor of the logits, above 0.
    """
    networks = {"": network} if tta == "none" else {"": network, "_tta": Views(network, tta)}
    return {
        f"{stage}{suffix}": predict(each, data, stage, device, temperature)
        for suffix, each in networks.items()
        for stage in stages
    }


def write_results(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    stages: Mapping[str, Predictions],
    data: EmotionDataModule,
    history: History | None = None,
    best_epoch: int | None = None,
    record: Mapping[str, Any] | None = None,
    votes: VotesFile | None = None,
    caution: str = "",
) -> dict[str, Any]:
    """Writes `predictions.npz`, figures, `report.md`, `report.html` and, last, `metrics.json`.

    Args:
        folder: folder of the results; made if it is missing.
        title: heading of the report.
        facts: rows of the report's first table.
        stages: predictions of `val`, `test`, `val_tta` and `test_tta`, or of some of them.
        data: the data of the predictions.
        history: learning curves; None if the network was only evaluated.
        best_epoch: epoch that the curves mark, from 1.
        record: facts about the run, the entry `run` of `metrics.json`.
        votes: the votes of people on the images, which give the report a section and `metrics.json` the entry `votes`:
            the values of `emotion.analysis.agreement.Agreement` by test-time augmentation and part of the images.
        caution: sentence after the headline that limits what it says.

    Returns:
        The content of `metrics.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {stage: predictions.metrics() for stage, predictions in stages.items()}
    save_predictions(folder / "predictions.npz", stages)
    shown: Stage = "test" if "test" in stages else "val"
    figures = _write_figures(folder, shown, stages[shown], data, history, best_epoch)
    agreements = list(agreement_rows(stages, votes)) if votes else []
    sections = {TITLE: _agreement_section(agreements)} if agreements else {}
    names = stages[shown].classes
    document = run_document(title, facts, metrics, names, figures, protocol_rows(stages), sections, caution)
    write_text(folder / "report.md", to_markdown(document, folder))
    write_text(folder / "report.html", to_html(document))
    content = {**metrics, "run": dict(record)} if record else metrics
    if agreements:
        content = {**content, "votes": _agreement_record(agreements)}
    write_json(folder / "metrics.json", content)
    return content


def _agreement_section(agreements: Sequence[tuple[str, str, Agreement]]) -> list[Block]:
    return agreement_blocks([AgreementRow("this network", views, part, [one]) for views, part, one in agreements])


def _agreement_record(agreements: Sequence[tuple[str, str, Agreement]]) -> dict[str, Any]:
    """Returns the values by test-time augmentation and part, for JSON."""
    record: dict[str, dict[str, Any]] = {}
    for views, part, one in agreements:
        # Lists, as they are read from the file.
        record.setdefault(views, {})[part] = asdict(one) | {"confusions": [asdict(own) for own in one.confusions]}
    return record


def _write_figures(
    folder: Path,
    stage: Stage,
    predictions: Predictions,
    data: EmotionDataModule,
    history: History | None,
    best_epoch: int | None,
) -> Sequence[tuple[str, Path]]:
    matrix, classes = predictions.matrix(), predictions.classes
    figures = {
        "confusion_matrix": (f"Confusion matrix, {stage}", confusion_matrix_figure(matrix, classes)),
        "recall": (f"Recall of each class, {stage}", recall_figure(matrix, classes)),
        "mistakes": (f"The most confident mistakes, {stage}", _mistakes(predictions, data, getattr(data.rows, stage))),
    }
    if history:
        figures = {"curves": ("Learning curves", curves_figure(history, best_epoch)), **figures}
    for name, (_, figure) in figures.items():
        save(figure, folder / f"{name}.png")
    return [(caption, folder / f"{name}.png") for name, (caption, _) in figures.items()]


def _mistakes(predictions: Predictions, data: EmotionDataModule, rows: NDArray[np.int64]) -> Any:
    shown, names = confident_mistakes(predictions, SHOWN_MISTAKES), predictions.classes
    return mistakes_figure(
        data.packed.images[rows[shown]],
        [names[label] for label in predictions.labels[shown]],
        [names[label] for label in predictions.predicted[shown]],
        predictions.probabilities[shown].max(1).tolist(),
    )
