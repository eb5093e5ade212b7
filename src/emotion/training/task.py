"""The LightningModule: a network, its loss, optimiser, schedule and epoch metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

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

from emotion.data.classes import CLASSES
from emotion.data.loader import Batch, BatchLoader
from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.registry import build_network
from emotion.plugins import Plugins
from emotion.settings import DistillationSettings, LossSettings, NetworkSettings, OptimizerSettings
from emotion.training.loss import EmotionLoss
from emotion.training.meter import EpochMeter
from emotion.training.optimizer import SharpnessAware, build_optimizer, cosine_factor
from emotion.training.statistics import ENOUGH_IMAGES, estimate_statistics, slow_statistics

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3

STORED = ("classes", "class_weights", "class_shares", "model", "weights", "teachers")
"""Values in checkpoints beside the settings of the task."""


class EmotionTask(LightningModule):
    """Trains a network of any family to classify expressions.

    Checkpoints contain all settings as flat, plain values, from which `of` rebuilds the task.

    Args:
        network: settings of the network.
        loss: settings of the loss.
        optimizer: settings of the optimiser and of the schedule: `plateau` as in Keras, times `lr_factor` when val/loss
            has not improved for `lr_patience` epochs; `cosine`: to zero over the whole training, step by step
            (Loshchilov and Hutter, "SGDR", ICLR 2017), after a warm-up (arXiv:1706.02677). `ema_decay` is the decay per
            step of the moving average of the weights (Polyak and Juditsky 1992; timm's `ModelEmaV3`), which validation,
            test and inference use; during the first 1 / (1 - ema_decay) steps it restarts with each epoch, since it
            would otherwise consist mostly of the initial weights.
        distillation: settings of the part of the loss that compares with teachers.
        classes: names of the K classes, in the order of the logits.
        class_weights: weight of each class in the training loss; None weights all classes equally.
        class_shares: share of each class among the training images, sum 1; needed for `logit_adjustment`.
        model: name of the model in `conf/model`; stored, not used.
        weights: origin of the backbone's weights; stored, not used (`prepare` in `prepared.py` loads them).
        teachers: names of the networks that the task learns from; stored, not used.
        plugins: the user's classes, if the settings name some.
    """

    _capturable = False  # whether CUDA graphs may record the optimiser's step

    def __init__(
        self,
        network: NetworkSettings,
        loss: LossSettings = LossSettings(),  # noqa: B008, frozen
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008
        distillation: DistillationSettings = DistillationSettings(),  # noqa: B008
        *,
        classes: Sequence[str] = CLASSES,
        class_weights: Sequence[float] | None = None,
        class_shares: Sequence[float] | None = None,
        model: str = "",
        weights: str | None = "none",
        teachers: Sequence[str] = (),
        plugins: Plugins = Plugins(),  # noqa: B008
    ) -> None:
        super().__init__()
        groups = (network, loss, optimizer, distillation)
        settings = {key: value for group in groups for key, value in group.flat().items()}
        stored = {"model": model, "weights": weights, "classes": list(classes), "teachers": list(teachers)}
        balance = {"class_weights": class_weights, "class_shares": class_shares}
        self.save_hyperparameters({**settings, **stored, **balance}, logger=False)
        self.classes, self.optimizer_settings = tuple(classes), optimizer
        self.network = build_network(network, len(self.classes), plugins.network)
        self.average = _averaged(self.network, optimizer.ema_decay) if optimizer.ema_decay else None
        self.loss = EmotionLoss(loss, _tensor(class_weights), _tensor(class_shares), plugins.loss, distillation)
        self.train_meter, self.val_meter = EpochMeter(self.classes), EpochMeter(self.classes)
        self._val_loss: float | None = None
        self.val_matrix: NDArray[np.int64] | None = None
        # In tuples: as attributes of a module, the networks would be registered, and saved, a second time.
        self._trained: tuple[Callable[[Tensor], Tensor]] = (self.network,)
        self._validated: tuple[Callable[[Tensor], Tensor]] = (self.inference_network,)
        # Never compiled: the changes of momentum while statistics are estimated would compile it again and again.
        self._estimated = self._validated
        self._perturbed = self._rate_changed = False
        self._steps_per_epoch = 0
        self._slow: list[str] = []

    @classmethod
    def of(cls, values: Mapping[str, Any], plugins: Plugins = Plugins()) -> Self:  # noqa: B008
        """Builds a task from flat values, as in a checkpoint; settings that are newer than it have their defaults.

        Raises:
            UserError: a value is not legal.
        """
        others = {name: values[name] for name in STORED if name in values}
        groups = (NetworkSettings.of(values), LossSettings.of(values), OptimizerSettings.of(values))
        return cls(*groups, DistillationSettings.of(values), **others, plugins=plugins)

    @property
    def inference_network(self) -> Network:
        """The network for validation, test and inference: the average of the weights if there is one."""
        return self.network if self.average is None else self.average.module

    @property
    def train_loader(self) -> BatchLoader | None:
        """The loader of the training batches; None if the Trainer trains on a loader of another kind."""
        loader = self.trainer.train_dataloader
        return loader if isinstance(loader, BatchLoader) else None

    @property
    def batches_per_epoch(self) -> int:
        """Number of training batches in an epoch."""
        return int(self.trainer.num_training_batches)

    def restart_average(self) -> None:
        """Restarts the average of the weights from the present weights."""
        if self.average is not None:
            self.average.set(self.network)

    def train_on_features(self) -> nn.Module:
        """Makes the task train on features in place of images.

        Returns:
            The frozen part of the network, which maps images [B, C, H, W] to these features.

        Raises:
            UserError: no part of the network is frozen.
        """
        first = self.network.frozen_stages
        frozen, trained = self.network.split(first)
        if not list(frozen.parameters()):
            raise UserError(
                "feature_views: this network has no frozen part; use feature_views=0, or unfreeze fewer layers "
                "(unfreeze=0 for backbones of timm, whose parts cannot run alone)"
            )
        self._trained, self._validated = (trained,), (self.inference_network.split(first)[1],)
        self._estimated = self._validated
        return frozen

    def compile_network(self) -> None:
        """Compiles the trained part of the network for training and validation."""
        torch.compiler.reset()  # networks of earlier runs in this process count against the compiler's limits
        averaged = self._validated[0] if self.average else None
        self._trained = (torch.compile(self._trained[0]),)
        self._validated = (torch.compile(averaged),) if averaged else self._trained

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 (0..255) or float (0..1), to logits [B, K]."""
        logits: Tensor = self.inference_network(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch (scalar)."""
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        loss, logits = self._loss_and_logits(batch)
        if self._perturbed:
            return loss
        self.train_meter.update(loss, logits, batch.labels)
        if interval and (self.global_step + 1) % interval == 0:
            self.log("train/loss_step", loss)
        return loss

    def _loss_and_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self._logits(self._trained[0], batch)
        return self.loss(logits, batch.labels, batch.soft_targets), logits

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Runs the optimiser's step, sharpness-aware if `sam_rho` is set, and updates the average of the weights."""
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

    def on_validation_epoch_start(self) -> None:
        """Estimates the statistics of batch normalisation where an epoch is too short for their running mean."""
        loader = self.train_loader
        if self._slow and loader is not None:
            layers = [self.inference_network.get_submodule(name) for name in self._slow]
            count = min(self.batches_per_epoch, -(-ENOUGH_IMAGES // loader.batch_size))
            batches = islice(loader, count)
            estimate_statistics(layers, self._estimated[0], (_floats(batch.inputs) for batch in batches))
            for values in (value for layer in layers for value in (layer.running_mean, layer.running_var)):
                assert isinstance(values, Tensor)
                values.copy_(self.trainer.strategy.reduce(values, reduce_op="mean"))  # over all processes

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation metrics; as in Keras, the validation loss has no class weights."""
        logits = self._logits(self._validated[0], batch)
        self.val_meter.update(F.cross_entropy(logits, batch.labels), logits, batch.labels)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks whether the learning rate or its decay over layers differs from that in the checkpoint."""
        before = {"layer_decay": 1.0, **checkpoint["hyper_parameters"]}
        self._rate_changed = any(before[key] != self.hparams[key] for key in ("lr", "layer_decay"))

    def on_train_start(self) -> None:
        """Sets the values of this run in the optimiser, whose state may come from a checkpoint of another device."""
        optimizer = self._optimizer()
        factor = self._restart_schedule()
        for group, values in zip(optimizer.param_groups, self._group_values, strict=True):
            rate = group["lr"] if factor is None else values["lr"] * factor
            group.update(values, lr=self._rate(float(rate)))
            group["fused"] = self._fused or None
            if "capturable" in group:
                group["capturable"] = self._capturable
        for parameter, state in optimizer.state.items():
            if "step" not in state:
                continue
            state["step"] = state["step"].to(parameter.device if self._fused else "cpu", torch.float32)

    def _restart_schedule(self) -> float | None:
        """Sets the values of this run in the schedule.

        Returns:
            The factor of the learning rate at this step; None if the rate in the checkpoint holds.
        """
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.factor = self.optimizer_settings.lr_factor
            scheduler.patience = self.optimizer_settings.lr_patience - 1
        if not isinstance(scheduler, LambdaLR):
            return 1.0 if self._rate_changed else None
        # An epoch can have another number of steps than before, as with another batch size or number of devices.
        step = self.current_epoch * self._steps_per_epoch if self.trainer.max_steps < 0 else scheduler.last_epoch
        scheduler.last_epoch = step
        scheduler.base_lrs = [values["lr"] for values in self._group_values]
        return float(scheduler.lr_lambdas[0](step))

    def on_train_epoch_start(self) -> None:
        """Freezes statistics again, since Lightning sets all modules to training mode, and sets the loader's epoch."""
        self.network.freeze_statistics()
        loader = self.train_loader
        if loader is None:
            return
        same = bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        loader.set_epoch(0 if same else self.current_epoch)
        self._slow = slow_statistics(self.network, self.batches_per_epoch)
        batches = self.current_epoch * self.batches_per_epoch
        if batches * (1 - self.optimizer_settings.ema_decay) < self.trainer.accumulate_grad_batches:
            self.restart_average()

    def on_validation_epoch_end(self) -> None:
        """Logs loss, accuracy, macro F1 and the recall of each class on the validation images."""
        metrics, self.val_matrix = self.val_meter.finish(self._add_up)
        self._val_loss = metrics["loss"]
        self.log_dict({f"val/{name}": metrics[name] for name in ("loss", "acc", "f1_macro")}, prog_bar=True)
        self.log_dict({f"val_recall/{name}": metrics["per_class"][name]["recall"] for name in self.classes})

    def on_train_epoch_end(self) -> None:
        """Logs loss and accuracy on the training images, and steps the plateau schedule."""
        if self.train_meter.empty:
            return  # Lightning ends the epoch again when a run is resumed from a checkpoint of its end
        metrics, _ = self.train_meter.finish(self._add_up)
        self.log_dict({f"train/{name}": metrics[name] for name in ("loss", "acc")})
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and self._val_loss is not None:
            scheduler.step(self._val_loss)
        self._val_loss = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimiser of the trainable parameters, and the schedule."""
        settings = self.optimizer_settings
        optimizer = build_optimizer(self.network.layers(), self._rate(settings.lr), settings, self._fused)
        names = ("lr", "weight_decay", "momentum")
        # As numbers: a rate on the device is a tensor that the schedule changes in place.
        self._group_values = [
            {name: float(group[name]) for name in names if name in group} for group in optimizer.param_groups
        ]
        if settings.schedule == "none":
            return optimizer
        if settings.schedule == "cosine":
            steps, self._steps_per_epoch = self._planned_steps()
            warm_up = round(settings.warmup_epochs * self._steps_per_epoch)
            cosine = LambdaLR(optimizer, partial(cosine_factor, steps=steps, warm_up=warm_up))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
        # PyTorch acts on the epoch after `patience` bad ones, Keras on the last of them; Keras's threshold is absolute.
        plateau = ReduceLROnPlateau(
            optimizer, "min", settings.lr_factor, settings.lr_patience - 1, threshold=1e-4, threshold_mode="abs"
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
        """Not with float16, whose gradients Lightning scales, nor with clipping in bf16-mixed, which it refuses."""
        clips, precision = bool(self.trainer.gradient_clip_val), self.trainer.precision
        return precision != "16-mixed" and not (clips and precision == "bf16-mixed")

    def _planned_steps(self) -> tuple[int, int]:
        """Returns the numbers of the optimiser's steps in the whole training and in an epoch."""
        trainer = self.trainer
        steps = int(trainer.estimated_stepping_batches)
        trainer.fit_loop.setup_data()
        return steps, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    def _rate(self, value: float) -> float | Tensor:
        """Returns a learning rate as the optimiser gets it: a number here, in `RecordedTask` a tensor on the device."""
        return value

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
        return network(_floats(batch.inputs)).float()


def _floats(inputs: Tensor) -> Tensor:
    """Returns features, which are stored in half precision, in full precision; images as they are."""
    return inputs.float() if inputs.dtype == torch.float16 else inputs


def _tensor(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def _averaged(network: Network, decay: float) -> "ModelEmaV3":
    from timm.utils.model_ema import ModelEmaV3  # here, since it takes seconds

    return ModelEmaV3(network, decay).requires_grad_(False)
