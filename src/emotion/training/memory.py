"""Memory of the device: the message where it runs out, and how a CPU's is kept."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.memory import is_oom_error
from omegaconf import DictConfig

from emotion.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


@contextmanager
def explain_out_of_memory(config: DictConfig) -> Iterator[None]:
    """Says, where memory runs out, what decides on it.

    Raises:
        UserError: memory ran out; names batch size and image size.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error):
            raise
        size, side = config.batch_size, config.image_size
        raise UserError(
            f"out of memory with batch_size={size} and image_size={side}: try batch_size={max(size // 2, 2)} (with "
            "trainer.accumulate_grad_batches=2 it learns as before), a smaller image_size= or trainer.precision="
            "bf16-mixed"
        ) from error


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that a step frees, where that is the C library; the next step needs as much again.

    Given back to the system and asked for anew, it costs a tenth of a step of the scratch CNN on two cores.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _ran_out(error: MemoryError | RuntimeError) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_oom_error(error)
