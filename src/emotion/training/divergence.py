"""Stops a run whose loss is infinite or not a number, and names the step."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from emotion.data.loader import Batch
from emotion.errors import UserError

REMEDIES = "a lower lr=, trainer.gradient_clip_val=1 or trainer.precision=32-true may help"


@dataclass(frozen=True)
class _Steps:
    """Steps that were started, and their losses, which are copied to the CPU without waiting for the device."""

    first: int  # number of the first step, from 0
    epoch: int  # from 0
    lr: float | Tensor  # learning rate of the last layer
    batches: list[Batch]
    losses: Tensor  # float32 [len(batches)], valid once the copy has arrived
    arrival: torch.cuda.Event | None  # recorded after the copy; None on a CPU

    @classmethod
    def start(cls, trainer: Trainer, lr: float | Tensor, batches: list[Batch], losses: Tensor) -> "_Steps":
        """Starts to copy the losses; does not wait for the device, since a GPU is several steps behind Python."""
        arrival = torch.cuda.Event() if losses.is_cuda else None
        copy = torch.empty(losses.numel(), pin_memory=losses.is_cuda)  # a copy to memory that is not pinned would wait
        copy.copy_(losses.detach().reshape(-1), non_blocking=losses.is_cuda)
        if arrival:
            arrival.record()
        return cls(max(trainer.global_step - len(batches), 0), trainer.current_epoch, lr, batches, copy, arrival)

    def arrived(self, wait: bool) -> bool:
        """Returns whether the losses have been copied to the CPU; with `wait`, waits until they have."""
        if self.arrival and wait:
            self.arrival.synchronize()
        return self.arrival is None or bool(self.arrival.query())


class FiniteLoss(Callback):
    """Stops a run at a loss that is infinite or not a number, before a checkpoint with its weights is written.

    Without this callback the run would train on without learning, or end as if it had stopped early.

    Args:
        path: file for the batch of that step, as safetensors: the fields of the `Batch`, as the network got it.

    Raises:
        UserError: the loss is infinite or not a number; the message names the step (from 0), the epoch (from 1) and
            the learning rate of the last layer at the start of the step, or of the steps recorded with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: deque[_Steps] = deque()
        self._lr: float | Tensor = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch | list[Batch], batch_idx: int
    ) -> None:
        """Keeps the learning rate, which the schedule changes at the end of the step."""
        lr = trainer.optimizers[0].param_groups[0]["lr"]  # a tensor on the device if steps are recorded
        self._lr = lr.clone() if isinstance(lr, Tensor) else lr

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Batch | list[Batch],
        batch_idx: int,
    ) -> None:
        """Starts to copy the loss of a step, or of several recorded steps; checks the losses that have arrived."""
        losses = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        assert isinstance(losses, Tensor)
        self._pending.append(_Steps.start(trainer, self._lr, batch if isinstance(batch, list) else [batch], losses))
        self._check(wait=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks all remaining losses."""
        self._check(wait=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks all remaining losses, and the loss on the validation images."""
        self._check(wait=True)
        loss = float(trainer.callback_metrics["val/loss"])
        if not torch.tensor(loss).isfinite():
            raise UserError(f"val/loss is {loss} after epoch {trainer.current_epoch + 1}: {REMEDIES}")

    def _check(self, wait: bool) -> None:
        while self._pending and self._pending[0].arrived(wait):
            steps = self._pending.popleft()
            bad = torch.nonzero(~steps.losses.isfinite())
            if len(bad):
                self._stop(steps, int(bad[0]))

    def _stop(self, steps: _Steps, index: int) -> None:
        batch = steps.batches[index]
        tensors = {name: value.cpu().contiguous() for name, value in batch._asdict().items() if value is not None}
        save_file(tensors, self.path)
        raise UserError(
            f"the loss is {float(steps.losses[index])} at step {steps.first + index}, epoch {steps.epoch + 1}, "
            f"learning rate {float(steps.lr):.3g}: {REMEDIES}; the batch is in {self.path}"
        )
