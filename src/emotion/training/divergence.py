"""A run whose loss is no longer a number stops, and says where."""

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
    """Steps that were started, and their losses on the way to the CPU."""

    first: int
    epoch: int
    lr: float | Tensor
    batches: list[Batch]
    losses: Tensor
    arrival: torch.cuda.Event | None

    @classmethod
    def start(cls, trainer: Trainer, batches: list[Batch], losses: Tensor) -> "_Steps":
        """Starts copying without waiting for the device, which on a GPU is some steps behind."""
        arrival = torch.cuda.Event() if losses.is_cuda else None  # type: ignore[no-untyped-call]
        copy = torch.empty(losses.numel(), pin_memory=losses.is_cuda)  # a copy to other memory would wait
        copy.copy_(losses.detach().reshape(-1), non_blocking=True)
        if arrival:
            arrival.record()
        lr = trainer.optimizers[0].param_groups[0]["lr"]  # the last layer's, on the device where steps are recorded
        lr = lr.clone() if isinstance(lr, Tensor) else lr
        return cls(max(trainer.global_step - len(batches), 0), trainer.current_epoch, lr, batches, copy, arrival)

    def arrived(self, wait: bool) -> bool:
        """Whether the losses may be read; waits for that if asked."""
        if self.arrival and wait:
            self.arrival.synchronize()
        return self.arrival is None or bool(self.arrival.query())  # type: ignore[no-untyped-call]


class FiniteLoss(Callback):
    """Stops at a loss that is infinite or not a number, before a checkpoint of it is written.

    Without it a run would go on to train nothing, or end as if it had run out of patience.

    Args:
        path: where the batch of that step is kept: `inputs` as the network got them, and `labels`, as safetensors.

    Raises:
        UserError: such a loss; names the step (from 0), the epoch (from 1) and the learning rate of the last layer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: deque[_Steps] = deque()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Batch | list[Batch],
        batch_idx: int,
    ) -> None:
        """Notes the losses of one step, or of several that were recorded, and looks at those that have arrived."""
        losses = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        assert isinstance(losses, Tensor)
        self._pending.append(_Steps.start(trainer, batch if isinstance(batch, list) else [batch], losses))
        self._look(wait=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the rest."""
        self._look(wait=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the rest, and at the loss of the validation images."""
        self._look(wait=True)
        loss = float(trainer.callback_metrics["val/loss"])
        if not torch.tensor(loss).isfinite():
            raise UserError(f"val/loss is {loss} after epoch {trainer.current_epoch + 1}: {REMEDIES}")

    def _look(self, wait: bool) -> None:
        while self._pending and self._pending[0].arrived(wait):
            steps = self._pending.popleft()
            bad = torch.nonzero(~steps.losses.isfinite())
            if len(bad):
                self._stop(steps, int(bad[0]))

    def _stop(self, steps: _Steps, index: int) -> None:
        batch = steps.batches[index]
        save_file({name: value.cpu().contiguous() for name, value in batch._asdict().items()}, self.path)
        raise UserError(
            f"the loss is {float(steps.losses[index])} at step {steps.first + index}, epoch {steps.epoch + 1}, "
            f"learning rate {float(steps.lr):.3g}: {REMEDIES}; that batch is in {self.path}"
        )
