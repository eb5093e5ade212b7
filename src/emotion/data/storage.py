"""Where arrays lie while a network trains on them: whole on the device, or on disk and streamed."""

import logging
import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

READ_AHEAD = 2
"""Chunks that are read before they are wanted."""
log = logging.getLogger(__name__)


class Storage(Protocol):
    """Hands out rows of an array on the device."""

    device: torch.device
    shape: tuple[int, ...]
    itemsize: int
    bytes_held: int

    def gather(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the values [n, ...] of each chunk of rows, int64 [n]."""


class Resident:
    """An array that lies on the device as a whole; on the CPU it stays mapped, and the system keeps it in memory.

    Args:
        array: [N, ...].
        device: where it goes.
    """

    def __init__(self, array: NDArray[Any], device: torch.device) -> None:
        self._values = torch.from_numpy(array).to(device)
        self.device, self.shape, self.itemsize = device, array.shape, array.itemsize
        self.bytes_held = array.nbytes

    def gather(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the values [n, ...] of each chunk of rows, int64 [n]."""
        for rows in chunks:
            yield self._values.index_select(0, rows.to(self.device))


class Streamed:
    """An array that stays where it is: a thread reads ahead, and copies to the device overlap with its work.

    Args:
        array: [N, ...]; one that is mapped from disk leaves no more than the chunks in use in memory.
        device: where the chunks go.
    """

    def __init__(self, array: NDArray[Any], device: torch.device) -> None:
        self._array = array
        self.device, self.shape, self.itemsize = device, array.shape, array.itemsize
        self.bytes_held = 0
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def gather(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the values [n, ...] of each chunk of rows, int64 [n]."""
        coming: deque[Future[Callable[[], Tensor]]] = deque()
        reader = ThreadPoolExecutor(1, "read-ahead")
        try:
            for rows in chunks:
                coming.append(reader.submit(self._fetch, rows.numpy()))
                if len(coming) > READ_AHEAD:
                    yield coming.popleft().result()()
            while coming:
                yield coming.popleft().result()()
        finally:
            reader.shutdown(cancel_futures=True)

    def _fetch(self, rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Reads and sends off; what is returned waits for the copy on the consumer's side."""
        values = torch.from_numpy(self._read(rows))
        if self._copies is None:
            return lambda: values.to(self.device)
        with torch.cuda.stream(self._copies):
            sent = values.pin_memory().to(self.device, non_blocking=True)
            arrived = self._copies.record_event()

        def receive() -> Tensor:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            sent.record_stream(stream)
            return sent

        return receive

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        array = self._array
        if isinstance(array, np.memmap) and array.filename and isinstance(array.base, mmap.mmap):  # the whole file
            # A map of its own, since the pages that were read count as this process's memory until it is closed.
            array = np.memmap(array.filename, array.dtype, "r", array.offset, shape=array.shape)
        order = rows.argsort()  # the disk is read in one direction
        values = np.empty((len(rows), *array.shape[1:]), array.dtype)
        values[order] = array[rows[order]]
        return values


def place(array: NDArray[Any], device: torch.device, budget: float | None = None) -> Resident | Streamed:
    """Puts an array on the device if the memory allows it, else streams it.

    Args:
        array: [N, ...].
        device: where it is used.
        budget: MiB it may take; None allows half of the device's free memory.
    """
    limit = free_memory(device) / 2 if budget is None else budget * 2**20
    if array.nbytes <= limit:
        return Resident(array, device)
    log.info(
        "%.0f MiB are streamed, since %.0f MiB of memory are allowed (memory_budget)",
        array.nbytes / 2**20,
        limit / 2**20,
    )
    return Streamed(array, device)


def free_memory(device: torch.device) -> int:
    """Returns the bytes of the device's memory that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
