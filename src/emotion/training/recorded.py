"""Records training steps as CUDA graphs and replays them, so that a small network does not wait for Python.

Only `prepared.py` imports this module: it chooses `RecordedTask` in place of `EmotionTask`. Callbacks that look at
batches (`FiniteLoss`, `TensorBoardFigures`) get lists of them. Further parts that serve it alone: the setting
`cuda_graph`, `EmotionTask._capturable` and `_rate`, `EmotionDataModule.group_batches`, and two warnings that run.py
ignores.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from emotion.data.datamodule import EmotionDataModule
from emotion.data.loader import DEVICE_CHUNK, Batch, BatchLoader
from emotion.errors import UserError, first_line
from emotion.settings import Settings
from emotion.training.memory import is_out_of_memory
from emotion.training.task import EmotionTask

BATCHES_TOGETHER = 50
"""Number of recorded steps between two calls by the Trainer, if no steps are logged."""
WARM_UP = 3
"""Ordinary steps of each batch shape before its recording; in them, libraries choose kernels and allocate buffers."""
SYNCHRONIZES = "called a synchronizing CUDA operation"
"""Part of PyTorch's warning on a step that waits for the device."""
log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The mean loss of a batch (scalar) and its logits, float32 [B, K]."""

    loss: Tensor
    logits: Tensor


Step = Callable[[Batch], Outcome]
Record = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]


def record_cuda_graph(step: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    """Records the kernels of a step without running them; returns a function that replays them, and its outputs."""
    graph = torch.cuda.CUDAGraph()
    # Without `stream`, PyTorch would take one of the first device that this process recorded on. Other threads, which
    # load the next batches, may use the device during the recording.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        outcome = step()
    return graph.replay, outcome


class RecordedStep:
    """Runs optimisation steps: the first of each batch shape normally, further ones by replaying a recording.

    Args:
        step: forward pass, backward pass and the optimiser's step.
        record: records a step, see `record_cuda_graph`.
    """

    def __init__(self, step: Step, record: Record = record_cuda_graph) -> None:
        self._step, self._record = step, record
        self._done: Counter[torch.Size] = Counter()
        self._recordings: dict[torch.Size, tuple[Batch, Callable[[], None], Outcome]] = {}
        self._waits: str | None = None

    def __call__(self, batch: Batch) -> Outcome:
        """Runs the step of one batch, and returns its loss and logits."""
        shape = batch.inputs.shape
        self._done[shape] += 1
        if self._done[shape] <= WARM_UP:
            return self._warm_up(batch)
        if self._waits is not None:
            return self._step(batch)
        if shape not in self._recordings:
            self._recordings[shape] = self._make(batch)
        # A recording reads and writes always the same memory: the batch is copied in, the outcome is copied out.
        buffers, replay, outcome = self._recordings[shape]
        for buffer, values in zip(buffers, batch, strict=True):
            if buffer is not None and values is not None:
                buffer.copy_(values)
        replay()
        return Outcome(*(value.clone() for value in outcome))

    def _warm_up(self, batch: Batch) -> Outcome:
        """Runs a step on a separate stream, as a recording does, and detects whether the step waits for the device."""
        if batch.inputs.device.type != "cuda":
            return self._step(batch)
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(main)
        with torch.cuda.stream(side), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outcome = self._step(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        main.wait_stream(side)
        waits = []
        for one in caught:
            if SYNCHRONIZES in str(one.message):
                waits.append(str(one.message))
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno, source=one.source)
        if waits and self._done[batch.inputs.shape] == WARM_UP and self._waits is None:
            self._waits = waits[0].splitlines()[0]
            log.warning("cuda_graph: the step waits for the device and cannot be recorded (%s)", self._waits)
        return outcome

    def _make(self, batch: Batch) -> tuple[Batch, Callable[[], None], Outcome]:
        buffers = Batch(*(value.clone() for value in batch if value is not None))
        try:
            return buffers, *self._record(lambda: self._step(buffers))
        except RuntimeError as error:
            # Ending a failed recording raises an error of its own; that of the step is its context.
            chain = list(_contexts(error))
            for cause in filter(is_out_of_memory, chain):
                raise cause from None
            # After a failed recording, the state of the device is unknown, so the run cannot continue.
            raise UserError(
                f"cuda_graph: the step cannot be recorded ({first_line(chain[-1])}); use cuda_graph=false"
            ) from error


def _contexts(error: BaseException) -> Iterator[Exception]:
    """Yields an error and those that were being handled when it was raised, the first error last."""
    context: BaseException | None = error
    while isinstance(context, Exception):
        yield context
        context = context.__context__


class BatchGroups:
    """Groups the batches of a loader into lists.

    Args:
        loader: loader of the batches.
        size: largest number of batches in a list; a list that would exceed `DEVICE_CHUNK` has fewer.
    """

    def __init__(self, loader: BatchLoader, size: int) -> None:
        self.loader, self.size = loader, max(1, min(size, DEVICE_CHUNK // loader.batch_bytes))

    def __len__(self) -> int:
        return -(-len(self.loader) // self.size)

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = iter(self.loader)
        while group := list(islice(batches, self.size)):
            yield group


class RecordedTask(EmotionTask):
    """A task that gets lists of batches (`BatchGroups`) and runs their steps itself, by replaying a recording.

    Args:
        values, named: the arguments of `EmotionTask`.

    Attributes:
        log_interval: number of steps between two lines of the log; 0 for none.
    """

    _capturable = True
    log_interval = 1

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.automatic_optimization = False
        self.recorded_step = RecordedStep(self.run_step)

    def training_step(self, batch: list[Batch], batch_idx: int) -> Tensor:  # type: ignore[override]
        """Runs a step for each batch; returns their losses [n]."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        losses = []
        for each in batch:
            outcome = self.recorded_step(each)
            losses.append(outcome.loss)
            self.train_meter.update(*outcome, each.labels)
            # The Trainer counts steps by these two calls of its wrapper around the optimiser, which a replay skips.
            optimizer._on_before_step()
            optimizer._on_after_step()
            if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
        # The loggers count the Trainer's batches, and this list was one of them.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += len(batch) - 1
        # A list can have fewer steps, and reading their loss would wait for the device.
        logs = self.log_interval and self.trainer.global_step % self.log_interval < len(batch)
        self.trainer.log_every_n_steps = int(logs)  # type: ignore[attr-defined]
        self.log("train/loss_step", losses[-1])
        return torch.stack(losses)  # [n]

    def run_step(self, batch: Batch) -> Outcome:
        """Runs the step of one batch without the Trainer."""
        optimizer = self._optimizer()
        kind = self.device.type
        half = torch.get_autocast_dtype(kind)
        # Without the cache of half-precision weights, which would outlive the step, as the Trainer's context does.
        with torch.autocast(kind, half, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            outcome = Outcome(*self._loss_and_logits(batch))
        with torch.autocast(kind, enabled=False):
            optimizer.zero_grad()
            outcome.loss.backward()
            optimizer.step()
            self._move_average()
        return Outcome(*(value.detach() for value in outcome))

    @property
    def train_loader(self) -> BatchLoader | None:
        """The loader of single batches."""
        groups = self.trainer.train_dataloader
        return groups.loader if isinstance(groups, BatchGroups) else None

    @property
    def batches_per_epoch(self) -> int:
        """Number of training batches in an epoch: all of them, since `records_steps` refuses settings that limit it."""
        assert self.train_loader is not None
        return len(self.train_loader)

    def _planned_steps(self) -> tuple[int, int]:
        groups, groups_per_epoch = super()._planned_steps()
        return groups // groups_per_epoch * self.batches_per_epoch, self.batches_per_epoch

    def _rate(self, value: float) -> Tensor:
        """Returns a learning rate as a tensor on the device, from which a recording reads it."""
        return torch.tensor(value, device=self.device)


def group_steps(task: RecordedTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Gives the Trainer as many batches at once as there are steps between two lines of the log."""
    task.log_interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    data.group_batches(partial(BatchGroups, size=task.log_interval or BATCHES_TOGETHER))
    trainer.log_every_n_steps = min(task.log_interval, 1)  # type: ignore[attr-defined]


def records_steps(settings: Settings, device: torch.device, precision: str) -> bool:
    """Returns whether the steps of a run are recorded.

    Args:
        settings: the settings of the run.
        device: device of the run.
        precision: precision of the Trainer, in which `trainer.precision=auto` is resolved.

    Raises:
        UserError: `cuda_graph=true`, and the steps cannot be recorded.
    """
    obstacle, wanted = _obstacle(settings, device, precision), settings.training.cuda_graph
    if wanted is True and obstacle:
        raise UserError(f"cuda_graph=true: steps cannot be recorded with {obstacle}; use cuda_graph=auto")
    # A recording repeats the values that Python had in its step, which the code of a user may change from step to step.
    own = settings.network.network or settings.loss.loss
    return not obstacle and (wanted is True or (wanted == "auto" and not own))


def _obstacle(settings: Settings, device: torch.device, precision: str) -> str | None:
    """Returns the first setting that needs the Trainer or the CPU between two steps, or None."""
    trainer, rho = settings.trainer, settings.optimizer.sam_rho
    if rho:
        return f"sam_rho={rho}"
    plain = {
        "num_nodes": 1,
        "max_steps": -1,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": 0,
        "limit_train_batches": None,
        "overfit_batches": 0,
        "detect_anomaly": False,
        "strategy": "auto",
    }  # null is legal for all
    if device.type != "cuda":
        return f"trainer.accelerator={trainer.accelerator} (no CUDA device)"
    if trainer.devices not in (1, "1") and not (isinstance(trainer.devices, list) and len(trainer.devices) == 1):
        return f"trainer.devices={trainer.devices}"
    if precision not in ("32-true", "bf16-mixed"):
        return f"trainer.precision={precision}"
    values = trainer.flat()
    return next((f"trainer.{key}={values[key]}" for key, one in plain.items() if values[key] not in (None, one)), None)
