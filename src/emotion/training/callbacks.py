"""What happens around the training steps: random state, pictures for TensorBoard, a line an epoch."""

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
from emotion.data.classes import CLASSES
from emotion.data.loader import Batch
from emotion.training.task import EmotionTask

log = logging.getLogger(__name__)


class RandomState(Callback):
    """Keeps the states of PyTorch's random numbers (dropout) in checkpoints, so that a resumed run is the same run."""

    def __init__(self) -> None:
        self._restored: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the present state of every process; all of them call this together."""
        own = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        states = [own]
        if distributed.is_available() and distributed.is_initialized():
            states = [own] * distributed.get_world_size()
            distributed.all_gather_object(states, own)
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the states for the start of training."""
        self._restored = state_dict["processes"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores here, after all that draws while a run is set up; a new run gives each process its own numbers."""
        if len(self._restored) == trainer.world_size:
            state = self._restored[trainer.global_rank]
            torch.set_rng_state(state["cpu"].cpu())
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in state["cuda"]])
        elif trainer.global_rank:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)


class MovableCheckpoint(ModelCheckpoint):
    """Knows the best epoch so far also when the run's folder was moved or copied before it went on.

    Its state names files, not the folders in which they lie.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""
        return self._placed(super().state_dict(), Path())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state with the files where they lie now."""
        assert self.dirpath is not None
        super().load_state_dict(self._placed(state_dict, Path(self.dirpath)))

    def _placed(self, state: dict[str, Any], folder: Path) -> dict[str, Any]:
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        files = {name: str(folder / Path(path).name) for name in names if (path := state[name])}
        models = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
        return state | files | {"dirpath": str(folder), "best_k_models": models}


class Patience(EarlyStopping):
    """Stops early; a run that had stopped, and was killed while it was tested, does not train on.

    A run that goes on with other settings trains on; it keeps its count of bad epochs, with the patience it is given.
    """

    _stopped = _changed = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes whether network, optimisation or data have other settings than before."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        now = {"hyper_parameters": pl_module, "datamodule_hyper_parameters": data}
        self._changed = any(
            key in checkpoint[place] and checkpoint[place][key] != value
            for place, own in now.items()
            for key, value in own.hparams.items()
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores all but the patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})
        if self._changed or state_dict["patience"] != self.patience:
            self.stopped_epoch = 0
        self._stopped = self.stopped_epoch > 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells the Trainer, which may still train for `min_epochs`, as it was told before."""
        trainer.should_stop = trainer.should_stop or self._stopped


class TensorBoardFigures(Callback):
    """Shows augmented batches and confusion matrices of the validation.

    Args:
        every: epochs between pictures, which take longer to draw than a fast device takes for an epoch.
        images: how many images of the batch are shown.
    """

    def __init__(self, every: int = 10, images: int = 64) -> None:
        self.every, self.images = every, images

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch | list[Batch], batch_idx: int
    ) -> None:
        """Shows the first batch of an epoch as the network gets it."""
        if batch_idx or trainer.current_epoch % self.every:
            return
        batch = batch[0] if isinstance(batch, list) else batch
        if batch.inputs.ndim == 4 and batch.inputs.dtype != torch.float16:
            from torchvision.utils import make_grid

            grid = make_grid(batch.inputs[: self.images].cpu(), nrow=8)
            for writer in _writers(trainer):
                writer.add_image("train/batch", grid, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the confusion matrix of the validation images."""
        if trainer.current_epoch % self.every == 0:
            self._show_matrix(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last confusion matrix."""
        self._show_matrix(trainer, pl_module, trainer.current_epoch)

    def _show_matrix(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        assert isinstance(pl_module, EmotionTask)
        if pl_module.val_matrix is None:
            return
        for writer in _writers(trainer):
            figure = confusion_matrix_figure(pl_module.val_matrix, CLASSES, f"validation, epoch {epoch}")
            writer.add_figure("val/confusion_matrix", figure, trainer.global_step)


class ProgressBar(RichProgressBar):
    """A bar for every epoch, which stays with the figures that it reached; drawn anew a few times a second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4, leave=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar; its figures change at the end of an epoch, and reading them would wait for the device."""
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, completed=batch_idx + 1)
            self.refresh()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leaves out the number that the CSV logger gives itself."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(Callback):
    """Writes a line to the log after every validation, where there is no terminal for a bar."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what the epoch reached; the training figures are not final before its very end."""
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
