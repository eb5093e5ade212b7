"""Ours: the training of `python train.py` with logging, checkpoints and TensorBoard, and a clock as a callback."""

import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning import Callback, LightningModule, Trainer
from measurement import Clock, run_contestant
from torch.optim.optimizer import register_optimizer_step_post_hook
from workloads import Job

from contestants.pytorch import measured, start_clock
from emotion.config import compose, read
from emotion.data.datamodule import EmotionDataModule
from emotion.settings import Settings
from emotion.training import run
from emotion.training.features import FeatureCache
from emotion.training.folder import RunFolder
from emotion.training.task import EmotionTask


class ClockCallback(Callback):
    """Calls the clock when epochs and validations begin and end."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.epoch_begins(len(trainer.datamodule.train_set[2]))  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.validation_begins()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.validation_ends()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.finish()


def main(job: Job) -> dict[str, Any]:
    """Trains for the epochs of the job, with a temporary folder and cache, and returns the measurement."""
    clock = start_clock(job)
    register_optimizer_step_post_hook(clock.step_ends)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMOTION_CACHE"] = f"{folder}/cache"
        trained = _train(compose_settings(job), RunFolder(Path(folder, "run")), clock)
    note = "as in train.py; the first epoch, which is not measured, includes the first checkpoint and figures"
    if job.network.features:
        note += f"; the frozen part ran once, on {job.feature_views} augmented views of each image"
    task = trained.trainer.lightning_module
    assert isinstance(task, EmotionTask)
    return measured(clock, task.network, note, ["torchvision", "lightning"])


def compose_settings(job: Job) -> Settings:
    """Returns the settings that `train.py` would compose."""
    arguments = [
        f"model={job.network.model}",
        "weights=none",
        "data=folder",
        f"data_dir={job.data}",
        "split=official",
        f"batch_size={job.batch_size}",
        f"feature_views={job.feature_views if job.network.features else 0}",
        f"trainer.max_epochs={job.epochs}",
        f"trainer.precision={job.precision}",
    ]
    return read(compose(*arguments))


def _train(settings: Settings, folder: RunFolder, clock: Clock) -> run.Trained:
    """Trains with the clock, which measures packing and the pass through the frozen part as preparation."""
    with clock.preparing():
        EmotionDataModule(settings.data).prepare_data()
    extract = FeatureCache.__call__

    def timed_extract(*arguments: Any, **options: Any) -> Any:
        with clock.preparing():
            return extract(*arguments, **options)

    with patch.object(FeatureCache, "__call__", timed_extract):
        return run.train(settings, folder, [ClockCallback(clock)])


if __name__ == "__main__":
    run_contestant(main)
