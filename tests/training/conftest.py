from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from small_runs import FIGURES

from emotion.analysis import figures
from emotion.data.loader import BatchLoader
from emotion.data.storage import Resident
from emotion.training import results
from emotion.training.task import EmotionTask

MakeTask = Callable[..., EmotionTask]
MakeTrainer = Callable[..., Trainer]
MakeLoader = Callable[..., BatchLoader]


@pytest.fixture(scope="session", autouse=True)
def _quick_runs(quick_runs: None) -> None:
    """No test of this folder looks at the figures of a run, unless it asks for `drawn_figures`."""


@pytest.fixture
def drawn_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their figures."""
    for name in FIGURES:
        monkeypatch.setattr(results, name, getattr(figures, name))


@pytest.fixture(scope="session")
def make_task() -> MakeTask:
    """Builds a task, by default of the smallest scratch network; what differs is given by name."""

    def make(kind: type[EmotionTask] = EmotionTask, **changes: Any) -> EmotionTask:
        torch.manual_seed(0)
        values: dict[str, Any] = {
            "model": "test",
            "family": "cnn",
            "backbone": None,
            "blocks": [1],
            "unfreeze": None,
            "image_size": 8,
            "normalize": "unit",
            "weights": "none",
            "class_weights": None,
            "lr": 1e-3,
            "schedule": "none",
            "lr_factor": 0.5,
            "lr_patience": 3,
        }
        return kind.of(values | changes)

    return make


@pytest.fixture(scope="session")
def make_trainer() -> MakeTrainer:
    """Builds a quiet trainer that logs every step to `<folder>/csv`."""

    def make(folder: Path, **changes: Any) -> Trainer:
        values: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": CSVLogger(folder, name="csv", version=""),
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return Trainer(default_root_dir=folder, **values | changes)

    return make


@pytest.fixture(scope="session")
def make_loader() -> MakeLoader:
    """Loads random images uint8 [size, 1, 8, 8] of random classes."""

    def make(size: int = 24, batch_size: int = 8, seed: int = 0, **options: Any) -> BatchLoader:
        random = np.random.default_rng(seed)
        images = Resident(random.integers(256, size=(size, 1, 8, 8), dtype=np.uint8), torch.device("cpu"))
        labels = torch.from_numpy(random.integers(7, size=size))
        return BatchLoader(images, labels, torch.arange(size), batch_size, num_classes=7, **options)

    return make
