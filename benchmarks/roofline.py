"""The roofline of a piece of work: its FLOPs and the bytes it moves, over what this device was seen to do.

FLOPs are those of matrix products and convolutions, as `torch.utils.flop_counter` counts them. Bytes are what the
operations read and write if each runs for itself and nothing stays in a cache: a device that keeps a batch in its
cache, or a compiler that fuses operations, moves fewer.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from contestants.pytorch import DEVICE, ON_GPU
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SIDE = 8192 if ON_GPU else 2048
"""Rows and columns of the matrices whose product shows how fast the device computes."""
COPIED = 2**30 if ON_GPU else 2**28
"""Bytes of the copy that shows how fast it moves memory."""
REPEATS = 10
OVERWRITING = ("copy_", "fill_", "zero_", "bernoulli_")
"""Operations that write their first argument without reading it."""


@dataclass(frozen=True)
class Work:
    """What a piece of work consists of.

    Attributes:
        flops: a multiplication and an addition are two.
        bytes_moved: read and written.
    """

    flops: int
    bytes_moved: int


class BytesCounter(TorchDispatchMode):
    """Adds up in `bytes_moved` what operations read and write; views and fresh memory move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        name = func._schema.name.rpartition("::")[2]
        if not func.is_view and not name.startswith(("empty", "new_empty")):
            self.bytes_moved += _size(_read(name, args, given)) + _size(_written(func, args, given, result))
        return result


def count(work: Callable[[], object]) -> Work:
    """Runs a piece of work and counts it."""
    with BytesCounter() as moved, FlopCounterMode(display=False) as flops:
        work()
    return Work(flops.get_total_flops(), moved.bytes_moved)


def flops_per_second(dtype: torch.dtype) -> float:
    """Returns what a product of large matrices of some type reaches."""
    left, right = torch.rand(2, SIDE, SIDE, device=DEVICE).to(dtype)
    return 2 * SIDE**3 / min(seconds(lambda: torch.mm(left, right), REPEATS))


def bytes_per_second() -> float:
    """Returns how much a large copy reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=DEVICE)
    target = torch.zeros_like(source)
    return 2 * COPIED / min(seconds(lambda: target.copy_(source), REPEATS))


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Returns how long each repeat of a piece of work took."""
    readings = [_now()]
    for _ in range(repeats):
        work()
        readings.append(_now())
    return [after - before for before, after in pairwise(readings)]


def _read(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    if name.endswith("_like") or name.startswith("new_"):
        return []
    return tree_leaves((args[1:] if name in OVERWRITING else args, kwargs))


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> list[Any]:
    """The result, and what is changed in place, which an operation may or may not return too."""
    arguments = func._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs)
    changed = [given[one.name] for one in arguments if one.is_write and one.name in given]
    leaves = {id(leaf): leaf for leaf in tree_leaves((result, changed))}
    return list(leaves.values())


def _size(leaves: list[Any]) -> int:
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


def _now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()
