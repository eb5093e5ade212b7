"""The callbacks of training: random states in checkpoints, early stopping, TensorBoard figures, progress bar, log."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

from emotion.analysis.figures import confusion_matrix_figure
from emotion.data.loader import Batch
from emotion.training.task import EmotionTask

log = logging.getLogger(__name__)
CHARTS = {
    "training and validation": {
        "loss": ["Multiline", ["^(train|val)/loss$"]],
        "accuracy": ["Multiline", ["^(train|val)/acc$"]],
        "recall of each class, validation": ["Multiline", ["^val_recall/"]],
    }
}
"""Charts of several curves: names of groups, names of charts, regular expressions on the names of the curves."""
FIGURES_EVERY, SHOWN_IMAGES = 10, 64
"""Epochs between figures, and largest number of images shown of a batch."""


class RandomState(Callback):
    """Saves the states of PyTorch's random generators in checkpoints: a resumed run continues with the same dropout."""

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of all processes; every process must call this method."""
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []  # of the device of this process
        state = {"cpu": torch.get_rng_state(), "cuda": cuda}
        states = [state]
        if distributed.is_available() and distributed.is_initialized():
            states = [state] * distributed.get_world_size()
            distributed.all_gather_object(states, state)
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Stores the states until training starts."""
        self._restored = state_dict["processes"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the states, after the set-up that draws random numbers; a new run seeds each process differently."""
        if len(self._restored) == trainer.world_size:
            state = self._restored[trainer.global_rank]
            torch.set_rng_state(state["cpu"].cpu())
            if state["cuda"] and torch.cuda.is_available():
                number = torch.cuda.current_device() if len(state["cuda"]) > 1 else 0  # older files have all devices
                torch.cuda.set_rng_state(state["cuda"][min(number, len(state["cuda"]) - 1)].cpu())
        elif trainer.global_rank:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)


class MovableCheckpoint(ModelCheckpoint):
    """Finds the best checkpoint so far even if the run's folder was moved or copied before the run was resumed.

    The callback's state holds the names of files without their folders.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, with paths relative to the folder of the checkpoints."""
        return self._with_folder(super().state_dict(), Path())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, with paths in the present folder of the checkpoints."""
        assert self.dirpath is not None
        super().load_state_dict(self._with_folder(state_dict, Path(self.dirpath)))

    def _with_folder(self, state: dict[str, Any], folder: Path) -> dict[str, Any]:
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        files = {name: str(folder / Path(path).name) for name in names if (path := state[name])}
        models = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
        return state | files | {"dirpath": str(folder), "best_k_models": models}


class Patience(EarlyStopping):
    """Stops training early, and does not resume it in a run that had stopped early and was killed during its test.

    A run that is resumed with another patience, or with other settings of network, optimisation or data, does train on:
    it keeps its count of epochs without improvement and takes the new patience. The place of the images is no such
    setting.
    """

    _PLACES = ("data_dir", "memory_budget")
    _stopped = _changed = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Checks whether a setting of network, optimisation or data differs from that in the checkpoint."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        now = {"hyper_parameters": pl_module, "datamodule_hyper_parameters": data}
        self._changed = any(
            key in checkpoint[group] and checkpoint[group][key] != value
            for group, module in now.items()
            for key, value in module.hparams.items()
            if key not in self._PLACES
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state except the patience, which is a setting of the resumed run."""
        super().load_state_dict(state_dict | {"patience": self.patience})
        if self._changed or state_dict["patience"] != self.patience:
            self.stopped_epoch = 0
        self._stopped = self.stopped_epoch > 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks the Trainer to stop, as before the interruption; it still trains for `min_epochs`."""
        trainer.should_stop = trainer.should_stop or self._stopped


class TensorBoardFigures(Callback):
    """Writes augmented batches and confusion matrices to TensorBoard, and its charts of training beside validation.

    On a fast device, drawing them takes longer than an epoch, so that they come every `FIGURES_EVERY` epochs.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes which curves share a chart; TensorBoard shows these charts under Custom Scalars."""
        for writer in _writers(trainer):
            writer.add_custom_scalars(CHARTS)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch | list[Batch], batch_idx: int
    ) -> None:
        """Writes the first batch of the epoch as the network gets it, if it consists of images."""
        if batch_idx or trainer.current_epoch % FIGURES_EVERY:
            return
        batch = batch[0] if isinstance(batch, list) else batch
        if batch.inputs.ndim == 4 and batch.inputs.shape[1] in (1, 3):  # features have more channels
            from torchvision.utils import make_grid

            grid = make_grid(batch.inputs[:SHOWN_IMAGES].cpu(), nrow=8)
            for writer in _writers(trainer):
                writer.add_image("train/batch", grid, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the confusion matrix of the validation images."""
        if trainer.current_epoch % FIGURES_EVERY == 0:
            self._write_matrix(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the confusion matrix of the last validation."""
        self._write_matrix(trainer, pl_module, trainer.current_epoch)

    def _write_matrix(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        assert isinstance(pl_module, EmotionTask)
        if pl_module.val_matrix is None:
            return
        for writer in _writers(trainer):
            figure = confusion_matrix_figure(pl_module.val_matrix, pl_module.classes, f"validation, epoch {epoch}")
            writer.add_figure("val/confusion_matrix", figure, trainer.global_step)


class ProgressBar(RichProgressBar):
    """Draws a bar for every epoch, which stays on the screen with its metrics; refreshes it four times a second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4, leave=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar; its metrics change only at the end of an epoch, and reading them would wait for the device."""
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, completed=batch_idx + 1)
            self.refresh()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Returns the metrics to show, without the version number of the CSV logger."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(Callback):
    """Logs a line after every validation; it replaces the progress bar where there is no terminal."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the validation metrics; the training metrics are not final yet at this point of the epoch."""
        values = trainer.callback_metrics
        log.info(
            "epoch %d/%s  val/loss %.4f  val/acc %.4f  val/f1_macro %.4f  %.1f s",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            *(values[f"val/{name}"] for name in ("loss", "acc", "f1_macro")),
            time.monotonic() - self._start,
        )


def _writers(trainer: Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
