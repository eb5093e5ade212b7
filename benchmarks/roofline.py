"""The roofline model: FLOPs and moved bytes of a computation, and the ceilings that this device reaches.

FLOPs are those of matrix products and convolutions, as `torch.utils.flop_counter` counts them. Bytes are the reads and
writes of operations that run one by one without a cache. A device that keeps a batch in its cache, or a compiler that
fuses operations, moves fewer bytes.
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
"""Rows and columns of the matrices whose product measures the FLOPs per second of the device."""
COPY_BYTES = 2**30 if ON_GPU else 2**28
"""Bytes of the copy that measures the bytes per second of the device."""
REPEATS = 10
OVERWRITING = ("copy_", "fill_", "zero_", "bernoulli_")
"""Operations that write their first argument without reading it."""


@dataclass(frozen=True)
class Work:
    """The work of a computation.

    Attributes:
        flops: number of floating-point operations; a multiplication and an addition count as two.
        bytes_moved: number of bytes read and written.
    """

    flops: int
    bytes_moved: int


class BytesCounter(TorchDispatchMode):
    """Counts in `bytes_moved` the bytes that operations read and write; views and uninitialised memory move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped_calls_exclude does not reach super()
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
    """Runs a computation and returns its work."""
    with BytesCounter() as moved, FlopCounterMode(display=False) as flops:
        work()
    return Work(flops.get_total_flops(), moved.bytes_moved)


def flops_per_second(dtype: torch.dtype) -> float:
    """Returns the FLOPs per second of a product of large matrices of some type."""
    left, right = torch.rand(2, SIDE, SIDE, device=DEVICE).to(dtype)
    return 2 * SIDE**3 / min(seconds(lambda: torch.mm(left, right), REPEATS))


def bytes_per_second() -> float:
    """Returns the bytes per second that a large copy reads and writes."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source), REPEATS))


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Returns the seconds of each repetition of a computation."""
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
    """Returns the results, and the arguments changed in place, which an operation need not return."""
    arguments = func._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs)
    changed = [given[argument.name] for argument in arguments if argument.is_write and argument.name in given]
    leaves = {id(leaf): leaf for leaf in tree_leaves((result, changed))}
    return list(leaves.values())


def _size(leaves: list[Any]) -> int:
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


def _now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()
