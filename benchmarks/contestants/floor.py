"""The floor of an epoch: its operations, and its bytes, over what this device was seen to do.

Operations are those of matrix products and convolutions, as `torch.utils.flop_counter` counts them. Bytes are what the
operations of a step read and write if each runs for itself and nothing stays in a cache: a device that keeps a batch in
its cache, or a compiler that fuses operations, can be faster than that.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from contestants.pytorch import DEVICE, ON_GPU

SIDE = 8192 if ON_GPU else 2048
"""Rows and columns of the matrices whose product shows how fast the device computes."""
COPIED = 2**30 if ON_GPU else 2**28
"""Bytes of the copy that shows how fast it moves memory."""
REPEATS = 10


@dataclass(frozen=True)
class Work:
    """What a piece of work consists of.

    Attributes:
        operations: floating-point operations, a multiplication and an addition being two.
        traffic: bytes read and written.
    """

    operations: int
    traffic: int


class TrafficCounter(TorchDispatchMode):
    """Adds up in `traffic` the bytes that operations read and write; views and fresh memory move none."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not func.__name__.startswith("empty"):
            tensors = tree_leaves((args, kwargs or {}, result))
            self.traffic += sum(leaf.nbytes for leaf in tensors if isinstance(leaf, Tensor))
        return result


def count(work: Callable[[], object]) -> Work:
    """Runs a piece of work and counts it."""
    with TrafficCounter() as traffic, FlopCounterMode(display=False) as operations:
        work()
    return Work(operations.get_total_flops(), traffic.traffic)


def operations_per_second(dtype: torch.dtype) -> float:
    """Returns what a product of large matrices reaches."""
    left, right = torch.rand(2, SIDE, SIDE, device=DEVICE).to(dtype)
    return 2 * SIDE**3 / _fastest(lambda: torch.mm(left, right))


def bytes_per_second() -> float:
    """Returns how much a large copy reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.zeros_like(source)
    return 2 * COPIED / _fastest(lambda: target.copy_(source))


def _fastest(work: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of some repeats."""
    readings = [_now()]
    for _ in range(REPEATS):
        work()
        readings.append(_now())
    return min(after - before for before, after in pairwise(readings))


def _now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()
