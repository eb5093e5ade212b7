"""Memory: the message when it runs out, and reuse of a CPU's memory between steps."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from emotion.errors import UserError
from emotion.settings import Settings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt` in glibc's malloc.h."""


@contextmanager
def explain_out_of_memory(settings: Settings) -> Iterator[None]:
    """Turns an out-of-memory error of the block into advice on batch and image size.

    Raises:
        UserError: the memory of the device or the machine ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size, side = settings.batches.batch_size, settings.network.image_size
        raise UserError(
            f"out of memory with batch_size={size} and image_size={side}: try batch_size={max(size // 2, 2)} (with "
            "trainer.accumulate_grad_batches=2 for the same updates), a smaller image_size=, trainer.precision="
            "bf16-mixed, or on a GPU cuda_graph=false and a memory_budget= for the images"
        ) from error


def keep_freed_memory() -> None:
    """Makes glibc, where it is the C library, keep the memory that a step frees for the next step.

    If it went back to the system after each step, a step of the scratch CNN would take a tenth longer on two cores.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether the memory of the device or the machine ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(is_oom_error(error))
