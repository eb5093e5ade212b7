"""The LightningModule: a network, its loss, optimiser, schedule and epoch metrics."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from emotion.config import OptimizerName, ScheduleName
from emotion.data.classes import CLASSES
from emotion.data.loader import Batch, BatchGroups, BatchLoader
from emotion.errors import UserError
from emotion.models.network import Network, Unfreeze
from emotion.models.preprocess import NormalizeName
from emotion.models.registry import Family, build_network
from emotion.training.loss import EmotionLoss, LossSettings
from emotion.training.meter import EpochMeter
from emotion.training.optimizer import (
    OptimizerSettings,
    SharpnessAware,
    build_optimizer,
    cosine_factor,
)
from emotion.training.recorded import Outcome, Record, RecordedStep, record_cuda_graph

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3


class EmotionTask(LightningModule):
    """Trains any network of the project to classify expressions.

    Every argument is a plain value and is kept in checkpoints, so that a checkpoint rebuilds its network; those with a
    default came later, and checkpoints without them are read with it.

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
        lr: learning rate of the last layer.
        schedule: `none`; `plateau`: times `lr_factor` when val/loss has not improved for `lr_patience` epochs;
            `cosine`: to zero over the whole training, step by step (Loshchilov and Hutter, "SGDR", ICLR 2017).
        lr_factor: see `schedule`.
        lr_patience: see `schedule`; Keras's way of counting (the third bad epoch of three acts).
        warmup_epochs: of `cosine`: before it, the learning rate rises from almost zero (arXiv:1706.02677).
        class_shares: of the training images; what `logit_adjustment` needs.
        label_smoothing: see `emotion.training.loss.LossSettings`, as for the next two.
        focal_gamma: power.
        logit_adjustment: tau.
        optimizer: see `emotion.training.optimizer.OptimizerSettings`, as for the next four.
        momentum: of `sgd`.
        weight_decay: of weights.
        layer_decay: of the learning rate.
        sam_rho: radius.
        ema_decay: validation, test and use see the exponential moving average of the weights (Polyak and Juditsky
            1992; timm keeps it), which holds on to so much of itself at each step; 0 is off. For 1 / (1 - ema_decay)
            steps it begins anew with each epoch, since it would still be mostly the initial weights.
        dropout: see `emotion.models.registry.build_network`, as for the next two.
        width: filters.
        stem_stride: pixels.
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
        warmup_epochs: float = 0.0,
        class_shares: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        logit_adjustment: float = 0.0,
        optimizer: OptimizerName = "adam",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        layer_decay: float = 1.0,
        sam_rho: float = 0.0,
        ema_decay: float = 0.0,
        dropout: float | None = None,
        width: int | None = None,
        stem_stride: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = build_network(
            family=family,
            image_size=image_size,
            normalize=normalize,
            backbone=backbone,
            unfreeze=unfreeze,
            blocks=blocks,
            width=width,
            stem_stride=stem_stride,
            dropout=dropout,
        )
        self.average = _averaged(self.network, ema_decay) if ema_decay else None
        self.lr, self.schedule, self.lr_factor, self.lr_patience = lr, schedule, lr_factor, lr_patience
        self.warmup_epochs, self.ema_decay = warmup_epochs, ema_decay
        self.optimizer_settings = OptimizerSettings(
            optimizer=optimizer, momentum=momentum, weight_decay=weight_decay, layer_decay=layer_decay, sam_rho=sam_rho
        )
        changes = LossSettings(
            label_smoothing=label_smoothing, focal_gamma=focal_gamma, logit_adjustment=logit_adjustment
        )
        self.loss = EmotionLoss(changes, _tensor(class_weights), _tensor(class_shares))
        self.train_meter, self.val_meter = EpochMeter(), EpochMeter()
        self._val_loss: float | None = None
        self.val_matrix: NDArray[np.int64] | None = None
        # In a tuple, since as an attribute its parameters would be registered a second time.
        self._trained: tuple[Callable[[Tensor], Tensor]] = (self.network,)
        self._validated: tuple[Callable[[Tensor], Tensor]] = (self.inference_network,)
        self._perturbed = self._other_rate = False

    @property
    def inference_network(self) -> Network:
        """The network to use: the average of the weights if there is one."""
        return self.network if self.average is None else self.average.module

    def restart_average(self) -> None:
        """Makes the average of the weights begin with the weights as they are."""
        if self.average is not None:
            self.average.set(self.network)  # type: ignore[no-untyped-call]

    def train_on_features(self) -> nn.Module:
        """Makes the task train on features in place of images.

        Returns:
            The frozen part of the network, which turns images into these features.

        Raises:
            UserError: nothing is frozen.
        """
        first = self.network.frozen_stages
        frozen, trained = self.network.split(first)
        if not list(frozen.parameters()):
            raise UserError(
                "feature_views: this network has no frozen part that can be split from the rest (unfreeze=)"
            )
        self._trained, self._validated = (trained,), (self.inference_network.split(first)[1],)
        return frozen

    def compile_network(self) -> None:
        """Makes training and validation run what trains through PyTorch's compiler."""
        torch.compiler.reset()  # of the networks of earlier runs in this process, which count against its limits
        averaged = self._validated[0] if self.average else None
        self._trained = (torch.compile(self._trained[0]),)
        self._validated = (torch.compile(averaged),) if averaged else self._trained

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 or float 0..1, to logits [B, K]."""
        logits: Tensor = self.inference_network(images)
        return logits

    def record_steps(self, record: Record = record_cuda_graph) -> None:
        """Makes the task do its own optimisation steps, which come several at a time, and replay a recording."""
        self.automatic_optimization = False
        self._recorded = RecordedStep(self._optimise, record)

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor:
        """Returns the loss of a batch; of several, does the steps and returns the loss of each."""
        if isinstance(batch, list):
            losses = self._replay(batch)
            self.log("train/loss_step", losses[-1])
            return losses
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        loss, logits = self._outcome(batch)
        if self._perturbed:
            return loss
        self.train_meter.update(loss, logits, batch.labels)
        if interval and (self.global_step + 1) % interval == 0:
            self.log("train/loss_step", loss)
        return loss

    def _outcome(self, batch: Batch) -> Outcome:
        logits = self._logits(self._trained[0], batch)
        return Outcome(self.loss(logits, batch.labels), logits)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Does the optimiser's step, with the gradient of the worst place nearby if asked, and moves the average."""
        assert optimizer_closure is not None
        rho = self.optimizer_settings.sam_rho
        closure = partial(self._sharpness_aware, optimizer_closure, rho) if rho else optimizer_closure
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self._move_average()

    def _sharpness_aware(self, closure: Callable[[], Any], rho: float) -> Any:
        loss = closure()
        sharpness = SharpnessAware(self.network, rho)
        before = sharpness.perturb()
        self._perturbed = True
        closure()
        self._perturbed = False
        sharpness.restore(before)
        return loss

    def _move_average(self) -> None:
        if self.average is not None:
            self.average.update(self.network)

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
            self._move_average()
        return Outcome(*(value.detach() for value in outcome))

    def _replay(self, batches: list[Batch]) -> Tensor:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        losses = []
        for batch in batches:
            outcome = self._recorded(batch)
            losses.append(outcome.loss)
            self.train_meter.update(*outcome, batch.labels)
            # The Trainer counts the steps of its own wrapper, by these.
            optimizer._on_before_step()
            optimizer._on_after_step()
            if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
        # The loggers' steps are the batches of the Trainer, of which this was one.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += len(batches) - 1
        return torch.stack(losses)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch; the validation loss is not weighted, as in Keras."""
        logits = self._logits(self._validated[0], batch)
        self.val_meter.update(F.cross_entropy(logits, batch.labels), logits, batch.labels)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes whether the learning rate asked for is another than the one the run had until now."""
        before = {"layer_decay": 1.0, **checkpoint["hyper_parameters"]}
        self._other_rate = any(before[key] != self.hparams[key] for key in ("lr", "layer_decay"))

    def on_train_start(self) -> None:
        """Gives the optimiser, whose state may come from a checkpoint, the form and the values that this run needs."""
        optimizer = self._optimizer()
        factor = self._restart_schedule()
        for group, asked in zip(optimizer.param_groups, self._asked, strict=True):
            rate = asked["lr"] * factor if self._other_rate else group["lr"]
            group.update(asked, lr=self._rate(float(rate)))
            group["fused"] = self._fused
            if "capturable" in group:
                group["capturable"] = not self.automatic_optimization
        for parameter, state in optimizer.state.items():
            if "step" not in state:
                continue
            state["step"] = state["step"].to(parameter.device if self._fused else "cpu", torch.float32)

    def _restart_schedule(self) -> float:
        """Gives the schedule the values asked for, and returns what it multiplies the learning rate by at this step."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.factor, scheduler.patience = self.lr_factor, self.lr_patience - 1
        if not isinstance(scheduler, LambdaLR):
            return 1.0
        if self._other_rate:
            scheduler.base_lrs = [float(asked["lr"]) for asked in self._asked]
        return float(scheduler.lr_lambdas[0](scheduler.last_epoch))

    def on_train_epoch_start(self) -> None:
        """Freezes, for Lightning calls no `train()` that could be overridden, and tells the loader the epoch."""
        self.network.freeze_statistics()
        loader = self.trainer.train_dataloader
        if not isinstance(loader, BatchLoader | BatchGroups):
            return
        same = bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        loader.set_epoch(0 if same else self.current_epoch)
        batches = self.current_epoch * len(loader.loader if isinstance(loader, BatchGroups) else loader)
        if batches * (1 - self.ema_decay) < self.trainer.accumulate_grad_batches:
            self.restart_average()

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
        """Returns the optimiser of what trains, with the schedule."""
        if self.optimizer_settings.sam_rho and self.trainer.accumulate_grad_batches > 1:
            raise UserError("sam_rho: every step needs a batch of its own (trainer.accumulate_grad_batches=1)")
        optimizer = build_optimizer(self.network.layers(), self._rate(self.lr), self.optimizer_settings, self._fused)
        names = ("lr", "weight_decay", "momentum")
        # As numbers: a rate that lies on the device is one and the same tensor, which the schedule writes over.
        self._asked = [
            {name: float(group[name]) for name in names if name in group} for group in optimizer.param_groups
        ]
        if self.schedule == "none":
            return optimizer
        if self.schedule == "cosine":
            steps, per_epoch = self._planned_steps()
            warm_up = round(self.warmup_epochs * per_epoch)
            cosine = LambdaLR(optimizer, partial(cosine_factor, steps=steps, warm_up=warm_up))
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
        """Lightning refuses to clip the gradients of a fused optimiser in mixed precision, and scales those of fp16."""
        clips, precision = bool(self.trainer.gradient_clip_val), self.trainer.precision
        return precision != "16-mixed" and not (clips and precision == "bf16-mixed")

    def _planned_steps(self) -> tuple[int, int]:
        """Counts the optimiser's steps of the whole training, and of an epoch."""
        trainer = self.trainer
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError("schedule=cosine needs an end: trainer.max_epochs or trainer.max_steps")
        trainer.fit_loop.setup_data()
        loader = trainer.train_dataloader
        if isinstance(loader, BatchGroups):
            return int(steps) // len(loader) * len(loader.loader), len(loader.loader)
        return int(steps), math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

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

    @staticmethod
    def _logits(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        return network(batch.inputs.float() if batch.inputs.dtype == torch.float16 else batch.inputs).float()


def _tensor(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def _averaged(network: Network, decay: float) -> "ModelEmaV3":
    from timm.utils.model_ema import ModelEmaV3  # here, since it takes seconds

    return ModelEmaV3(network, decay).requires_grad_(False)
