"""Memory of the device: which batches fit into it, what to say where it runs out, and how a CPU's is kept."""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.memory import is_oom_error
from omegaconf import DictConfig

from emotion.errors import UserError
from emotion.models.network import Network

SMALLEST, LARGEST = 8, 1024
"""Batch sizes that are tried; larger ones hardly make a step faster, and learn less in an epoch."""
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
            "bf16-mixed; on a GPU batch_size=auto finds what fits"
        ) from error


def fitting_batch_size(step: Callable[[int], None]) -> int:
    """Doubles the batch size, from 8 to at most 1024, until memory runs out; returns the last that fitted.

    Raises:
        UserError: not even the smallest fits.
    """
    fitting = 0
    for size in (SMALLEST << power for power in range((LARGEST // SMALLEST).bit_length())):
        try:
            step(size)
        except (MemoryError, RuntimeError) as error:
            if not _ran_out(error):
                raise
            break
        fitting = size
    if not fitting:
        raise UserError(f"batch_size=auto: not even {SMALLEST} images fit into the memory; try a smaller image_size=")
    return fitting


def training_step(network: Network, device: torch.device) -> Callable[[int], None]:
    """Returns what does a training step of so many black images.

    In single precision and with the state of Adam, so that most runs need less.
    """
    network = network.to(device).train()
    optimizer = torch.optim.Adam(parameter for parameter in network.parameters() if parameter.requires_grad)
    shape = network.example().shape[-2:]

    def step(size: int) -> None:
        images = torch.zeros(size, 1, *shape, dtype=torch.uint8, device=device)
        labels = torch.zeros(size, dtype=torch.int64, device=device)
        F.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


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
