"""Shared by the contestants in PyTorch: network, optimiser, loss weights, precision, and a clock for the device."""

from collections.abc import Iterable
from typing import Any

import torch
from measurement import Clock, measurement
from torch import Tensor, nn
from workloads import EPSILON, LEARNING_RATE, Job, Workload

from emotion.data.classes import CLASSES
from emotion.models.network import Network
from emotion.models.registry import build_network
from emotion.settings import NetworkSettings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"


def start_clock(job: Job) -> Clock:
    """Returns a clock that waits for the GPU, if there is one."""
    return Clock(job.started, torch.cuda.synchronize if ON_GPU else lambda: None)


def build(workload: Workload) -> Network:
    """Returns the project's network on the device, with random weights."""
    torch.manual_seed(0)
    return build_network(NetworkSettings.of(workload.network_settings()), len(CLASSES)).to(DEVICE)


def autocast(job: Job) -> torch.autocast:
    """Returns the context for forward passes in the precision of the job."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=job.mixed)


def build_adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Returns the optimiser of the parameters that require gradients."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(trained, LEARNING_RATE, eps=EPSILON, fused=True)


def loss_weights(labels: Tensor) -> Tensor:
    """Returns the loss weight of each class, float32 [K], for labels int64 [N]."""
    from emotion.data.balance import class_weights

    return class_weights(labels, len(CLASSES)).to(DEVICE)


def measured(clock: Clock, network: Network, note: str, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the measurement of a contestant in PyTorch; `packages` are those it uses besides PyTorch."""
    return measurement(
        clock,
        parameters=network.count_parameters().total,
        packages=["torch", *packages],
        note=note,
        device_bytes=torch.cuda.max_memory_allocated() if ON_GPU else None,
    )
