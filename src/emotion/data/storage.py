"""Storage of arrays during training: resident on the device, or streamed to it from disk or memory."""

import logging
import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

READ_AHEAD = 2
"""Number of chunks that are read in advance."""
log = logging.getLogger(__name__)


class Storage(Protocol):
    """An array [N, ...] whose rows are delivered to a device.

    Attributes:
        device: the device that receives the rows.
        shape: shape of the array.
        itemsize: bytes of one value.
        bytes_held: bytes of the array that are kept on the device.
    """

    device: torch.device
    shape: tuple[int, ...]
    itemsize: int
    bytes_held: int

    def gather(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the values [n, ...] of each chunk of rows, int64 [n]."""


class Resident:
    """An array that is kept on the device; on the CPU it stays mapped, and the system caches its pages.

    Args:
        array: [N, ...].
        device: the device that keeps it.
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
    """An array that stays on disk or in memory; a thread reads ahead, and transfers overlap with the device's work.

    Args:
        array: [N, ...]; of an array mapped from disk, only the chunks in use take memory.
        device: the device that receives the chunks.
    """

    def __init__(self, array: NDArray[Any], device: torch.device) -> None:
        self._array = array
        # Kept open, since another process can replace the file when the images change.
        self._file, self._offset = None, 0
        if isinstance(array, np.memmap) and array.filename and isinstance(array.base, mmap.mmap):  # the whole file
            self._file, self._offset = Path(array.filename).open("rb"), array.offset  # noqa: SIM115
        self.device, self.shape, self.itemsize = device, array.shape, array.itemsize
        self.bytes_held = 0
        self._transfers = torch.cuda.Stream(device) if device.type == "cuda" else None

    def gather(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the values [n, ...] of each chunk of rows, int64 [n]."""
        pending: deque[Future[Callable[[], Tensor]]] = deque()
        reader = ThreadPoolExecutor(1, "read-ahead")
        try:
            for rows in chunks:
                pending.append(reader.submit(self._fetch, rows.numpy()))
                if len(pending) > READ_AHEAD:
                    yield pending.popleft().result()()
            while pending:
                yield pending.popleft().result()()
        finally:
            reader.shutdown(cancel_futures=True)

    def _fetch(self, rows: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Reads rows and starts their transfer; the returned function waits for it in the stream of its caller."""
        values = torch.from_numpy(self._read(rows))  # [n, ...]
        if self._transfers is None:
            return lambda: values.to(self.device)
        with torch.cuda.stream(self._transfers):
            sent = values.pin_memory().to(self.device, non_blocking=True)
            arrived = self._transfers.record_event()

        def receive() -> Tensor:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            sent.record_stream(stream)  # keeps the memory from being reused before this stream has read it
            return sent

        return receive

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        array = self._array
        if self._file is not None:
            # A new map for each chunk: pages read through a map count as memory of this process until it is closed.
            array = np.memmap(self._file, array.dtype, "r", self._offset, array.shape)
        order = rows.argsort()  # ascending rows make the disk read in one direction
        values = np.empty((len(rows), *array.shape[1:]), array.dtype)
        values[order] = array[rows[order]]
        return values


def place(array: NDArray[Any], device: torch.device, budget: float | None = None) -> Resident | Streamed:
    """Keeps an array on the device if it fits into the memory budget; otherwise streams it.

    Args:
        array: [N, ...].
        device: the device that uses the array.
        budget: largest size of a kept array, MiB; None is half of the device's free memory.
    """
    limit = free_memory(device) / 2 if budget is None else budget * 2**20
    if array.nbytes <= limit:
        return Resident(array, device)
    log.info(
        "%.0f MiB of data are streamed, because memory_budget allows %.0f MiB",
        array.nbytes / 2**20,
        limit / 2**20,
    )
    return Streamed(array, device)


def free_memory(device: torch.device) -> int:
    """Returns the free memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
