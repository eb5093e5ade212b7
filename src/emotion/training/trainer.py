"""The Trainer of a run: its loggers, checkpoints, early stopping and precision."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy

from emotion.errors import UserError, first_line
from emotion.settings import Settings, TrainerSettings, TrainingSettings
from emotion.training.callbacks import (
    EpochLines,
    MovableCheckpoint,
    Patience,
    ProgressBar,
    RandomState,
    TensorBoardFigures,
)
from emotion.training.checkpoint import ThrottledCheckpointIO
from emotion.training.divergence import FiniteLoss
from emotion.training.environment import cpu_flags
from emotion.training.folder import RunFolder
from emotion.training.loggers import TensorBoard, build_trackers, run_name

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
"""Lightning's profilers by their names in `trainer.profiler`; each writes `fit-profile.txt` to the run's folder."""
CHECKPOINT_SECONDS = 30.0
"""Shortest time between two writes of the same checkpoint, in seconds."""


def build_trainer(settings: Settings, folder: RunFolder, extra: Sequence[Callback] = ()) -> Trainer:
    """Builds the Trainer with loggers, checkpoints and early stopping; `extra` callbacks run before the others.

    Raises:
        UserError: Lightning refuses a setting of `trainer`, or the package of `logger` is not installed.
    """
    options = {key: value for key, value in settings.trainer.flat().items() if value is not None}
    options.pop("max_time", None)  # `build_timer` uses it
    if (profiler := options.pop("profiler", None)) is not None:
        options["profiler"] = PROFILERS[profiler](folder.path, "profile")
    if options.get("precision") == "auto":
        options["precision"] = best_precision(options.get("accelerator", "auto"), options.get("devices", 1))
    loggers = [
        TensorBoard(folder.tensorboard, run_name(settings, folder)),
        CSVLogger(folder.csv, name="", flush_logs_every_n_steps=options["log_every_n_steps"] or 1),
    ]
    bar = sys.stderr.isatty()
    callbacks = [
        *extra,
        *build_trackers(settings, folder),
        *_callbacks(settings.training, folder),
        *([ProgressBar()] if bar else [EpochLines()]),
    ]
    try:
        trainer = Trainer(
            **options,
            default_root_dir=folder.path,
            logger=loggers,
            callbacks=callbacks,
            plugins=_plugins(),
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    if (
        options["sync_batchnorm"]
        and isinstance(trainer.strategy, DDPStrategy)
        and not isinstance(trainer.accelerator, CUDAAccelerator)
    ):
        raise UserError("trainer.sync_batchnorm=true: works on GPUs only; use trainer.sync_batchnorm=false")
    return trainer


def build_timer(trainer: TrainerSettings) -> Timer:
    """Builds a timer over all starts of a run; it ends training after the epoch that reaches `trainer.max_time`.

    Raises:
        UserError: `trainer.max_time` is not a time.
    """
    try:
        return Timer(trainer.max_time, interval="epoch", verbose=False)
    except MisconfigurationException:
        raise UserError(f"trainer.max_time={trainer.max_time}: not a time; use DD:HH:MM:SS, as 01:12:00:00") from None


def _plugins() -> list[Any]:
    """On SLURM, Lightning would requeue jobs with a checkpoint in mid-epoch, which cannot be resumed exactly."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [ThrottledCheckpointIO(CHECKPOINT_SECONDS), *slurm]


def _callbacks(training: TrainingSettings, folder: RunFolder) -> list[Callback]:
    mode = "min" if training.monitor == "val/loss" else "max"
    callbacks: list[Callback] = [
        FiniteLoss(folder.diverged),
        RandomState(),
        TensorBoardFigures(),
        LearningRateMonitor(logging_interval="epoch"),
        _checkpoint(folder, "best", training.monitor, mode),
    ]
    if training.monitor != "val/acc":
        callbacks.append(_checkpoint(folder, "best_acc", "val/acc", "max"))
    if training.patience is not None:
        # Not strict: a run that ends during its first epoch (trainer.max_steps) has no validation metric.
        callbacks.append(
            Patience(training.monitor, training.min_delta, training.patience, mode=mode, strict=False, verbose=False)
        )
    return [*callbacks, _checkpoint(folder, "last")]


def _checkpoint(folder: RunFolder, name: str, monitor: str | None = None, mode: str = "min") -> MovableCheckpoint:
    """Builds a callback that saves after all others have ended the epoch, so that the file holds their final state."""
    return MovableCheckpoint(
        folder.checkpoints,
        filename=name,
        monitor=monitor,
        mode=mode,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


def best_precision(accelerator: str, devices: Any = 1) -> str:
    """Returns the value of `trainer.precision` that `auto` stands for on an accelerator of this machine.

    Args:
        accelerator: as in `trainer.accelerator`.
        devices: as in `trainer.devices`; the first GPU of a list decides.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "bf16-mixed" if {"amx_bf16", "avx512_bf16"} & cpu_flags() else "32-true"
    with torch.cuda.device(devices[0] if isinstance(devices, list) and devices else 0):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
