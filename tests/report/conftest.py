"""Folders of runs that were not trained, but written with known predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from emotion.analysis.document import Cell, Row
from emotion.analysis.predictions import Predictions, save_predictions
from emotion.config import compose, settings
from emotion.data.classes import CLASSES
from emotion.report.runs import Run, find_runs

RECORD = {
    "epochs": 3,
    "best_epoch": 2,
    "train_seconds": 90.0,
    "images_per_second": 1234.5,
    "hardware": "a machine",
    "command": "python train.py model=cnn",
}
TRAIN_ACCURACIES = (0.4, 0.5, 0.6)

MakeRun = Callable[..., Run]


composed = cache(compose)


def make_settings(*arguments: str) -> dict[str, Any]:
    """Returns the settings of a command line."""
    return settings(composed(*arguments))


def make_predictions(
    images: int, accuracy: float, seed: int = 0, part: str = "test", classes: Sequence[str] = CLASSES
) -> Predictions:
    """Returns predictions, `round(accuracy * images)` of them correct, half for PublicTest and half for PrivateTest."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % len(classes)
    correct = generator.permutation(images) < round(accuracy * images)
    predicted = np.where(correct, labels, (labels + generator.integers(1, len(classes), images)) % len(classes))
    probabilities = generator.dirichlet(np.ones(len(classes)), images) / 2
    probabilities[np.arange(images), predicted] += 0.5
    parts = np.where(np.arange(images) < images // 2, "public", "private") if part == "test" else np.full(images, part)
    ids = np.array([f"{part}/{number}.jpg" for number in range(images)])
    copied = generator.random(images) < 0.1
    return Predictions(ids, labels, probabilities.astype(np.float32), parts, copied, tuple(classes))


@pytest.fixture(scope="session", autouse=True)
def _quick_runs(quick_runs: None) -> None:
    """Draws no figures of runs."""


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all figures one pixel: drawing them takes most of the time of a page."""

    def savefig(figure: Figure, file: Path, **options: Any) -> None:
        Image.new("L", (1, 1)).save(file, "PNG")

    monkeypatch.setattr(Figure, "savefig", savefig)


def texts(row: Row) -> list[str]:
    """Returns the texts of the cells of a row."""
    return [cell.text if isinstance(cell, Cell) else cell for cell in row]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a finished run of a command line to `<tmp_path>/<name>` and reads it."""

    def make(
        *arguments: str,
        name: str = "run",
        images: int = 7178,
        accuracy: float = 0.6,
        draw: int = 0,
        changes: dict[str, Any] | None = None,
        curves: bool = True,
        tested: bool = True,
        val_images: int = 350,
        prefix: str = "",
        data: str | None = None,
        classes: Sequence[str] = CLASSES,
        own: bool = False,
        history: dict[str, Sequence[float]] | None = None,
        record: dict[str, Any] | None = None,
    ) -> Run:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        values = make_settings(*arguments) | (changes or {})
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        stages = {
            "val": make_predictions(val_images, accuracy, seed=draw + 100, part="train", classes=classes),
            "test": make_predictions(images, accuracy, seed=draw, classes=classes),
        }
        if own:  # data without the parts and the duplicates of FER2013
            plain = {"parts": np.full(images, "train"), "copied": np.zeros(images, np.bool_)}
            stages["test"] = replace(stages["test"], **plain)
        for stage, predictions in stages.items():
            stages[stage] = replace(predictions, ids=np.char.add(prefix, predictions.ids))
        if not tested:
            del stages["test"]
        save_predictions(folder / "predictions.npz", stages)
        (folder / "metrics.json").write_text(
            json.dumps({"run": RECORD | ({"data": data} if data else {}) | (record or {})})
        )
        if curves:
            _write_curves(folder / "csv" / "version_0" / "metrics.csv", history or {"train/acc": TRAIN_ACCURACIES})
        return find_runs([folder])[0][0]

    return make


def _write_curves(file: Path, history: dict[str, Sequence[float]]) -> None:
    file.parent.mkdir(parents=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", "step", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True)):
            writer.writerow([epoch, 10 * epoch, *values])
