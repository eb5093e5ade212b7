"""A training step that is recorded as a CUDA graph and replayed, so that a small network does not wait for Python."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from emotion.data.loader import Batch
from emotion.errors import UserError, first_line

WARM_UP = 3
"""Ordinary steps before the recording, in which libraries choose their kernels and buffers are made."""
log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The mean loss of a batch (scalar) and its logits, float32 [B, K]."""

    loss: Tensor
    logits: Tensor


Step = Callable[[Batch], Outcome]
Record = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]


def record_cuda_graph(step: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    """Records the kernels of a step without running them; returns what replays them, and where the outcome appears."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = step()
    return graph.replay, outcome


class RecordedStep:
    """Does optimisation steps: a few as they are, then by replaying a recording on every batch of the same shape.

    Args:
        step: forward and backward pass and the optimiser's step, without any wait for the device.
        record: makes the recording.
    """

    def __init__(self, step: Step, record: Record = record_cuda_graph) -> None:
        self._step, self._record = step, record
        self._done = 0
        self._inputs: Batch | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> Outcome:
        """Does the step of one batch."""
        self._done += 1
        if self._done <= WARM_UP:
            return self._aside(batch)
        if self._inputs is None:
            self._prepare(batch)
        assert self._inputs is not None
        if self._replay is None or batch.inputs.shape != self._inputs.inputs.shape:
            return self._step(batch)
        for place, values in zip(self._inputs, batch, strict=True):
            place.copy_(values)
        self._replay()
        return Outcome(*(value.clone() for value in self._outcome))

    def _aside(self, batch: Batch) -> Outcome:
        """Runs a step on a stream of its own, as a recording does."""
        if batch.inputs.device.type != "cuda":
            return self._step(batch)
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(main)
        with torch.cuda.stream(side):
            outcome = self._step(batch)
        main.wait_stream(side)
        return outcome

    def _prepare(self, batch: Batch) -> None:
        self._inputs = inputs = Batch(*(value.clone() for value in batch))
        try:
            self._replay, self._outcome = self._record(lambda: self._step(inputs))
        except RuntimeError as error:
            log.warning("cuda_graph: the step cannot be recorded and runs as it is (%s)", first_line(error))


def records_steps(config: DictConfig, device: torch.device) -> bool:
    """Decides whether the steps of a run are recorded.

    Raises:
        UserError: `cuda_graph=true` where it cannot be.
    """
    obstacle = _obstacle(config, device)
    if config.cuda_graph is True and obstacle:
        raise UserError(f"cuda_graph=true: steps cannot be recorded with {obstacle}")
    return config.cuda_graph is not False and not obstacle


def _obstacle(config: DictConfig, device: torch.device) -> str | None:
    """Names the first thing that needs the Trainer, or the CPU, between two steps."""
    trainer = config.trainer
    plain = {
        "num_nodes": (1,),
        "max_steps": (-1,),
        "accumulate_grad_batches": (1,),
        "gradient_clip_val": (None, 0),
        "limit_train_batches": (None, 1.0),
        "overfit_batches": (0, 0.0),
        "detect_anomaly": (False, None),
        "precision": ("auto", "32-true", "bf16-mixed", "bf16-true"),
    }
    if device.type != "cuda":
        return f"trainer.accelerator={trainer.accelerator} (no CUDA device)"
    if trainer.devices not in (1, [0], "1"):
        return f"trainer.devices={trainer.devices}"
    return next((f"trainer.{key}={trainer[key]}" for key, legal in plain.items() if trainer[key] not in legal), None)
