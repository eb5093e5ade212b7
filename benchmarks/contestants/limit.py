"""The limit: only the network's computations, on a batch that is in memory.

An epoch has as many bare steps as an epoch of the other contestants, and then as many bare forward passes as their
validation. If ours trains on features, the limit does so too and runs only the head.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measurement import run_contestant
from torch import Tensor, nn
from workloads import IMAGE_SIZE, Job

from contestants.pytorch import DEVICE, autocast, build, build_adam, loss_weights, measured, start_clock
from emotion.data.classes import CLASSES
from emotion.models.network import Network
from emotion.training.memory import keep_freed_memory


def main(job: Job) -> dict[str, Any]:
    """Trains for the epochs of the job and returns the measurement."""
    clock = start_clock(job)
    keep_freed_memory()  # as in our training
    network = build(job.network)
    trained, inputs = trained_part(network, job)
    images, val_images = (count_images(Path(job.data) / part) for part in ("train", "val"))
    step = step_of(trained, inputs, job)
    for _ in range(job.epochs):
        clock.epoch_begins(images)
        trained.train()
        for size in batch_sizes(images, job.batch_size):
            step(size)
            clock.step_ends()
        clock.validation_begins()
        _validate(trained, inputs, val_images, job)
        clock.validation_ends()
    clock.finish()
    return measured(clock, network, "bare steps on one batch in memory" + ", head only" * job.network.features)


def step_of(trained: nn.Module, inputs: Tensor, job: Job) -> Callable[[int], None]:
    """Returns a function that makes a bare training step on the first `size` images of the batch."""
    labels = torch.arange(job.batch_size, device=DEVICE) % len(CLASSES)
    weights, optimizer = loss_weights(labels.cpu()), build_adam(trained.parameters())

    def step(size: int) -> None:
        optimizer.zero_grad()
        with autocast(job):
            logits = trained(inputs[:size])
        losses = F.cross_entropy(logits.float(), labels[:size], weights, reduction="none")
        losses.mean().backward()
        optimizer.step()

    return step


def trained_part(network: Network, job: Job) -> tuple[nn.Module, Tensor]:
    """Returns the trained part of a network, and a batch of inputs for it."""
    images = torch.rand(job.batch_size, 1, IMAGE_SIZE, IMAGE_SIZE, device=DEVICE)
    if not job.network.features:
        return network, images
    frozen, trained = network.split(network.frozen_stages)
    with torch.no_grad(), autocast(job):
        return trained, frozen.eval()(images).float()


@torch.inference_mode()
def _validate(trained: nn.Module, inputs: Tensor, images: int, job: Job) -> None:
    trained.eval()
    for size in batch_sizes(images, job.batch_size):
        with autocast(job):
            trained(inputs[:size])


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Returns the sizes of an epoch's batches."""
    return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def count_images(folder: Path) -> int:
    """Returns the number of files in the class folders of `folder`."""
    return sum(1 for _ in folder.glob("*/*"))


if __name__ == "__main__":
    run_contestant(main)
