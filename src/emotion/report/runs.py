"""Finds runs on disk and reads their files; runs can come from other people, so all content is checked."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emotion.analysis.figures import History, read_curves
from emotion.analysis.metrics import matrix_metrics
from emotion.analysis.predictions import Predictions, load_predictions
from emotion.errors import UserError, first_line
from emotion.files import hide_home
from emotion.models.onnx import MAX_SIDE
from emotion.settings import OWN_DATA, Family
from emotion.training.folder import EVALUATION, RunFolder, is_run, read_yaml

_STAGES = ("val", "test")
_MAX_JSON_BYTES = 2**20  # the metrics.json of a run has about 10,000

Count = Annotated[int, Field(ge=0, lt=2**31)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Content = TypeVar("Content", bound=BaseModel)


class Change(BaseModel):
    """Settings of a resumed run that changed after an epoch, with their values before and after."""

    after_epoch: Count
    changed: dict[str, tuple[Any, Any]]


class Record(BaseModel):
    """Facts about the training of a run, times in seconds; older runs have fewer of them."""

    epochs: Count | None = None
    best_epoch: Count | None = None
    train_seconds: Amount | None = None
    images_per_second: Amount | None = None
    hardware: str = ""
    precision: str = ""
    command: str = "not kept"
    data: str | None = None
    teachers: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


class _Metrics(BaseModel):
    run: Record = Record()
    test: Any = None


class _Failure(BaseModel):
    error: str


class _Settings(BaseModel):
    """The settings that the page reads by name; the page only shows the others, so they may have any value."""

    model_config = ConfigDict(strict=True)

    model: str
    family: Family
    backbone: Annotated[str, Field(pattern=r"^[^*?\[]+$")] | None = None
    blocks: list[int] | None = None
    unfreeze: int | str | None = None
    weights: str | None
    data: str
    data_dir: str | None = None
    pack_size: Annotated[int, Field(ge=8, le=MAX_SIDE)] = 48
    synthetic_images: Annotated[int, Field(ge=1, le=10**6)] = 1
    split: str
    folds: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    fold: Count | None = None
    balance: str
    recipe: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the folder of the run.
        settings: content of the run's config.yaml.
        record: epochs, seconds, hardware and other facts about the training.
        val: predictions for the validation images.
        test: predictions for the test images; empty for a run with `test=false`.
        augmented: predictions with test-time augmentation for `val` and, if tested, `test`; empty without augmentation.
    """

    folder: RunFolder
    settings: Mapping[str, Any]
    record: Record
    val: Predictions
    test: Predictions
    augmented: Mapping[str, Predictions]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the data."""
        return self.val.classes

    @property
    def folds(self) -> int:
        """Number of folds of the cross-validation; 0 without one."""
        return int(self.settings.get("folds") or 0)

    @property
    def fold(self) -> int:
        """The fold whose images are the test images, from 0."""
        return int(self.settings.get("fold") or 0) if self.folds else 0

    @property
    def tested(self) -> bool:
        """Whether the run has predictions for test images."""
        return len(self.test) > 0

    @property
    def stages(self) -> dict[str, Predictions]:
        """Predictions of `val` and `test`, and as `val_tta` and `test_tta` those with test-time augmentation."""
        augmented = {f"{stage}_tta": predictions for stage, predictions in self.augmented.items()}
        return {"val": self.val, "test": self.test, **augmented}

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.settings["seed"])

    @property
    def data(self) -> str | None:
        """Identifier of the data: `PackedImages.digest`, or the data folder of an older run on own data.

        None if unknown: older runs on FER2013 did not keep the digest, and FER2013's folder can have any name.
        """
        folder = self.settings.get("data_dir") if self.settings["data"] in OWN_DATA else None
        return self.record.data or (os.path.normpath(hide_home(folder)) if folder else None)

    def scores(self, predictions: Predictions) -> dict[str, Any]:
        """Returns the `matrix_metrics` of predictions."""
        return matrix_metrics(predictions.matrix(), predictions.classes)

    @cached_property
    def history(self) -> History:
        """The learning curves, see `emotion.analysis.figures.read_curves`."""
        return read_curves(self.folder.csv_files())

    def train_accuracy(self) -> float | None:
        """Returns the training accuracy in the best epoch, 0..1, or None without readable learning curves."""
        return dict(self.history.get("train/acc", ())).get(self.record.best_epoch or 0)


@dataclass(frozen=True)
class SkippedRun:
    """A run or evaluation that the page leaves out, and the reason."""

    path: Path
    reason: str


def images_digest(predictions: Predictions) -> bytes:
    """Returns a hash of the names and labels of the images that does not depend on their order."""
    order = np.argsort(predictions.ids)
    named = (predictions.ids[order].tolist(), predictions.labels[order].tolist())
    return hashlib.blake2b(repr(named).encode()).digest()


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[SkippedRun]]:
    """Reads all runs in and below some folders, each once, in the order of their paths.

    Returns:
        The finished runs, and the skipped runs: those that failed, are not finished, or cannot be read.

    Raises:
        UserError: a folder does not exist or contains no run.
    """
    found: dict[Path, Run | SkippedRun] = {}
    for path in paths:
        below = {folder.path.resolve(): folder for folder in _run_folders(path)}
        if not below and not any(path.rglob(EVALUATION)):
            raise UserError(f"{path}: no run in this folder: a run has the config.yaml that training writes")
        found |= {key: _read(folder) for key, folder in below.items() if key not in found}
    return (
        [run for run in found.values() if isinstance(run, Run)],
        [run for run in found.values() if isinstance(run, SkippedRun)],
    )


def _run_folders(path: Path) -> Iterator[RunFolder]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    for file in sorted(path.rglob("config.yaml")):
        folder = RunFolder(file.parent)
        if not {".replaced", ".moving"} & {*file.parts} and folder.config.is_file() and _holds_run(folder):
            yield folder


def _holds_run(folder: RunFolder) -> bool:
    """Returns whether config.yaml has a run's settings, or cannot be read but is beside other files of a run."""
    try:
        return is_run(read_yaml(folder.config))
    except UserError:
        return folder.state != "new" or folder.failure.is_file()


def _read(folder: RunFolder) -> Run | SkippedRun:
    try:
        if folder.state == "finished":
            return _read_finished(folder)
        if folder.failure.is_file():
            return SkippedRun(folder.path, f"failed: {read_record(_Failure, folder.failure).error}")
    except (UserError, OSError, ValueError) as error:
        return SkippedRun(folder.path, f"cannot be read: {first_line(error)}")
    return SkippedRun(folder.path, "not finished")


def _read_finished(folder: RunFolder) -> Run:
    settings = read_yaml(folder.config)
    try:
        _Settings.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{folder.config}: {_first_message(error)}") from None
    metrics = read_record(_Metrics, folder.metrics)
    stages = load_predictions(folder.predictions)
    tested = metrics.test is not None or {"test", "test_tta"} & set(stages)
    required = _STAGES if tested else ("val",)
    for stage in required:
        if not len(stages.get(stage, ())):
            raise UserError(f"{folder.predictions}: no predictions for {stage} images")
    if not (settings.get("fold") or 0) < (settings.get("folds") or sys.maxsize):
        raise UserError(f"{folder.config}: fold={settings['fold']} of folds={settings['folds']}")
    augmented = {stage: stages[f"{stage}_tta"] for stage in required if f"{stage}_tta" in stages}
    if augmented and not all(stage in augmented and augmented[stage].same_images(stages[stage]) for stage in required):
        raise UserError(f"{folder.predictions}: predictions with test-time augmentation are for other images")
    val = stages["val"]
    test = stages.get("test", val.subset(np.empty(0, np.int64)))
    return Run(folder, settings, metrics.run, val, test, augmented)


def read_record(kind: type[Content], path: Path) -> Content:
    """Reads a JSON file of at most 1 MiB into a pydantic model.

    Raises:
        UserError: the file is larger or does not fit the model.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise UserError(f"{path}: more than {_MAX_JSON_BYTES // 2**20} MiB")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {_first_message(error)}") from None


def _first_message(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
