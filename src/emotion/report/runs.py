"""Finds runs on disk and reads what they left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion.analysis.figures import merge_histories, read_history
from emotion.analysis.metrics import matrix_metrics
from emotion.analysis.predictions import Predictions, load_predictions
from emotion.data.classes import CLASSES
from emotion.errors import UserError, first_line
from emotion.training.folder import RunFolder, read_json, read_yaml

_SETTINGS_OF_A_RUN = {"model", "family", "weights", "data", "split", "balance", "seed"}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        settings: its config.yaml.
        record: epochs, seconds, hardware and the like; older runs hold less.
        val: predictions for the validation images.
        test: predictions for the test images.
        augmented: `val` and `test` with test-time augmentation, where there was any.
    """

    folder: RunFolder
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    val: Predictions
    test: Predictions
    augmented: Mapping[str, Predictions]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.settings["seed"])

    def scores(self, predictions: Predictions) -> dict[str, Any]:
        """Returns `matrix_metrics` of some of its predictions."""
        return matrix_metrics(predictions.matrix(), CLASSES)

    def train_accuracy(self) -> float | None:
        """Returns the accuracy while training in the best epoch, or None where the learning curves were not kept."""
        history = merge_histories(read_history(path) for path in self.folder.csv_files())
        return dict(history.get("train/acc", ())).get(self.record.get("best_epoch", 0))


@dataclass(frozen=True)
class Unused:
    """A run without figures, and why."""

    path: Path
    reason: str


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Unused]]:
    """Reads all runs that lie in or below some folders, each once, in the order of their paths.

    Returns:
        The finished runs, and those that failed, are not finished, or cannot be read.

    Raises:
        UserError: a folder that does not exist or holds no run, or a config.yaml that cannot be read.
    """
    found: dict[Path, Run | Unused] = {}
    for path in paths:
        below = {folder.resolve(): (folder, settings) for folder, settings in _run_folders(path)}
        if not below:
            raise UserError(f"{path}: no run lies there (a folder with the config.yaml that training writes)")
        found |= {key: _read(*run) for key, run in below.items() if key not in found}
    return (
        [run for run in found.values() if isinstance(run, Run)],
        [run for run in found.values() if isinstance(run, Unused)],
    )


def _run_folders(path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    for file in sorted(path.rglob("config.yaml")):
        settings = read_yaml(file)
        if settings.keys() >= _SETTINGS_OF_A_RUN:
            yield file.parent, settings


def _read(path: Path, settings: Mapping[str, Any]) -> Run | Unused:
    folder = RunFolder(path)
    try:
        if folder.state == "finished":
            stages = load_predictions(folder.predictions)
            record = read_json(folder.metrics).get("run", {})
            augmented = {stage: stages[f"{stage}_tta"] for stage in ("val", "test") if f"{stage}_tta" in stages}
            return Run(folder, settings, record, stages["val"], stages["test"], augmented)
        if folder.failure.is_file():
            return Unused(path, f"failed: {read_json(folder.failure)['error']}")
    except (UserError, ValueError, KeyError) as error:
        return Unused(path, f"cannot be read: {first_line(error)}")
    return Unused(path, "not finished")
