"""The LightningModule: a network, its loss, optimiser, schedule and epoch metrics."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from emotion.data.classes import CLASSES
from emotion.data.loader import Batch, BatchGroups, BatchLoader
from emotion.errors import UserError
from emotion.models.network import Unfreeze
from emotion.models.preprocess import NormalizeName
from emotion.models.registry import Family, build_network
from emotion.training.meter import EpochMeter
from emotion.training.recorded import Outcome, Record, RecordedStep, record_cuda_graph

ScheduleName = Literal["none", "plateau", "cosine"]
KERAS_EPSILON = 1e-7


class EmotionTask(LightningModule):
    """Trains any network of the project to classify expressions.

    Every argument is a plain value and is kept in checkpoints, so that a checkpoint rebuilds its network.
    Optimiser and initialisation follow Keras's defaults, which the report used: Adam with epsilon 1e-7, and a weighted
    loss that is divided by the number of images, not by the sum of their weights.

    Args:
        model: the name of the recipe; kept for the record.
        family: see `emotion.models.registry.build_network`, as for the next five.
        backbone: name of the backbone.
        blocks: convolutions of each block of the scratch CNN.
        unfreeze: number of trainable layers of the backbone, or `all`.
        image_size: pixels.
        normalize: scaling of the pixels.
        weights: where the backbone's weights came from; kept for the record, they are loaded by `train`.
        class_weights: weight of each class in the training loss; None weighs all alike.
        lr: learning rate of Adam.
        schedule: `none`; `plateau`: times `lr_factor` when val/loss has not improved for `lr_patience` epochs;
            `cosine`: to zero over the whole training, step by step.
        lr_factor: see `schedule`.
        lr_patience: see `schedule`; Keras's way of counting (the third bad epoch of three acts).
    """

    def __init__(
        self,
        *,
        model: str,
        family: Family,
        backbone: str | None,
        blocks: Sequence[int] | None,
        unfreeze: Unfreeze | None,
        image_size: int,
        normalize: NormalizeName,
        weights: str,
        class_weights: Sequence[float] | None,
        lr: float,
        schedule: ScheduleName,
        lr_factor: float,
        lr_patience: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = build_network(
            family=family,
            backbone=backbone,
            blocks=blocks,
            unfreeze=unfreeze,
            image_size=image_size,
            normalize=normalize,
        )
        self.lr, self.schedule, self.lr_factor, self.lr_patience = lr, schedule, lr_factor, lr_patience
        self.class_weights: Tensor | None
        weights_tensor = torch.tensor(class_weights) if class_weights is not None else None
        self.register_buffer("class_weights", weights_tensor, persistent=False)
        self.train_meter, self.val_meter = EpochMeter(), EpochMeter()
        self._val_loss: float | None = None
        self.val_matrix: NDArray[np.int64] | None = None
        # In a tuple, since as an attribute its parameters would be registered a second time.
        self._trained: tuple[Callable[[Tensor], Tensor]] = (self.network,)

    def take_features(self) -> nn.Module:
        """Makes the task train on features in place of images.

        Returns:
            The frozen part of the network, which turns images into these features.

        Raises:
            UserError: nothing is frozen.
        """
        frozen, trained = self.network.split()
        if not list(frozen.parameters()):
            raise UserError(
                "feature_views: this network has no frozen part that can be split from the rest (unfreeze=)"
            )
        self._trained = (trained,)
        return frozen

    def compile_network(self) -> None:
        """Makes training and validation run what trains through PyTorch's compiler."""
        torch.compiler.reset()  # of the networks of earlier runs in this process, which count against its limits
        self._trained = (torch.compile(self._trained[0]),)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 or float 0..1, to logits [B, K]."""
        logits: Tensor = self.network(images)
        return logits

    def record_steps(self, record: Record = record_cuda_graph) -> None:
        """Makes the task do its own optimisation steps, which come several at a time, and replay a recording."""
        self.automatic_optimization = False
        self._recorded = RecordedStep(self._optimise, record)

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor | None:
        """Returns the loss of a batch; of several, does the steps."""
        if isinstance(batch, list):
            self.log("train/loss_step", self._replay(batch))
            return None
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        loss, logits = self._outcome(batch)
        self.train_meter.update(loss, logits, batch.labels)
        if interval and (self.global_step + 1) % interval == 0:
            self.log("train/loss_step", loss)
        return loss

    def _outcome(self, batch: Batch) -> Outcome:
        """The loss is the cross-entropy, weighted by class, mean over the images."""
        logits = self._logits(batch)
        losses = F.cross_entropy(logits, batch.labels, weight=self.class_weights, reduction="none")
        return Outcome(losses.mean(), logits)

    def _optimise(self, batch: Batch) -> Outcome:
        optimizer = self._optimizer()
        kind = self.device.type
        half = torch.get_autocast_dtype(kind)
        # Without the cache of half-precision weights, which is kept as long as the Trainer's own context lasts.
        with torch.autocast(kind, half, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            outcome = self._outcome(batch)
        with torch.autocast(kind, enabled=False):
            optimizer.zero_grad()
            outcome.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return Outcome(*(value.detach() for value in outcome))

    def _replay(self, batches: list[Batch]) -> Tensor:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        for batch in batches:
            outcome = self._recorded(batch)
            self.train_meter.update(*outcome, batch.labels)
            # The Trainer counts the steps of its own wrapper, by these.
            optimizer._on_before_step()
            optimizer._on_after_step()
            if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
        # The loggers' steps are the batches of the Trainer, of which this was one.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += len(batches) - 1
        return outcome.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch; the validation loss is not weighted, as in Keras."""
        logits = self._logits(batch)
        self.val_meter.update(F.cross_entropy(logits, batch.labels), logits, batch.labels)

    def on_train_start(self) -> None:
        """Gives the optimiser, whose state may come from a checkpoint, the form that this run needs."""
        optimizer = self._optimizer()
        for group in optimizer.param_groups:
            group["lr"] = self._rate(float(group["lr"]))
            group["capturable"] = not self.automatic_optimization
            group["fused"] = self._fused
        for parameter, state in optimizer.state.items():
            state["step"] = state["step"].to(parameter.device if self._fused else "cpu", torch.float32)

    def on_train_epoch_start(self) -> None:
        """Freezes, for Lightning calls no `train()` that could be overridden, and tells the loader the epoch."""
        self.network.freeze_statistics()
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchLoader | BatchGroups):
            loader.set_epoch(self.current_epoch)

    def on_validation_epoch_end(self) -> None:
        """Logs loss, accuracy, macro F1 and the recall of each class on the validation images."""
        metrics, self.val_matrix = self.val_meter.finish(self._add_up)
        self._val_loss = metrics["loss"]
        self.log_dict({f"val/{name}": metrics[name] for name in ("loss", "acc", "f1_macro")}, prog_bar=True)
        self.log_dict({f"val_recall/{name}": metrics["per_class"][name]["recall"] for name in CLASSES})

    def on_train_epoch_end(self) -> None:
        """Logs loss and accuracy on the training images, and lets the plateau schedule act."""
        if self.train_meter.empty:
            return  # resumed from the end of this epoch, which Lightning ends a second time
        metrics, _ = self.train_meter.finish(self._add_up)
        self.log_dict({f"train/{name}": metrics[name] for name in ("loss", "acc")})
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and self._val_loss is not None:
            scheduler.step(self._val_loss)
        self._val_loss = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns Adam over the trainable parameters, with the schedule."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trainable, self._rate(self.lr), eps=KERAS_EPSILON, fused=self._fused)
        if self.schedule == "none":
            return optimizer
        if self.schedule == "cosine":
            cosine = CosineAnnealingLR(optimizer, self._planned_steps())
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
        # PyTorch acts on the epoch after `patience` bad ones, Keras on the last of them; Keras's threshold is absolute.
        plateau = ReduceLROnPlateau(
            optimizer, factor=self.lr_factor, patience=self.lr_patience - 1, threshold=1e-4, threshold_mode="abs"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "strict": False}}

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any | None) -> None:
        """Leaves the plateau schedule to `on_train_epoch_end`.

        Lightning would step it after the checkpoint of the epoch is written, and a resumed run would miss the step.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    @property
    def _fused(self) -> bool:
        """Lightning cannot clip gradients that a fused optimiser unscales itself."""
        return self.trainer.precision != "16-mixed"

    def _planned_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError("schedule=cosine needs an end: trainer.max_epochs or trainer.max_steps")
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchGroups):
            return int(steps) // len(loader) * len(loader.loader)
        return int(steps)

    def _rate(self, value: float) -> float | Tensor:
        """A recorded step reads the learning rate from the device."""
        return value if self.automatic_optimization else torch.tensor(value, device=self.device)

    def _optimizer(self) -> Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return optimizer

    def _add_up(self, values: Tensor) -> Tensor:
        total = self.trainer.strategy.reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _logits(self, batch: Batch) -> Tensor:
        inputs = batch.inputs.float() if batch.inputs.dtype == torch.float16 else batch.inputs
        return self._trained[0](inputs).float()
