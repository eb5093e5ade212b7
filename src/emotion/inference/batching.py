"""Faces of many requests, judged together."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Crops = Mapping[int, NDArray[np.uint8]]
"""The same N faces in each size that some network takes: from the side in pixels to grey [N, side, side]."""


class _Waiting(NamedTuple):
    crops: Crops
    faces: int
    answer: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Gives the faces that wait while a network is busy to it in one call, as soon as it is free.

    Nobody waits for a batch to fill: a face that comes alone is judged alone. All methods belong to one event loop; the
    network works in a thread of its own.

    Args:
        judge: maps the crops of N faces to probabilities [N, K].
        most: faces in one call; the faces of one request are never parted.
        observe: called with the number of faces of each call.
    """

    def __init__(
        self, judge: Callable[[Crops], NDArray[np.float32]], most: int = 64, observe: Callable[[int], object] = int
    ) -> None:
        self._judge, self._most, self._observe = judge, most, observe
        self._waiting: deque[_Waiting] = deque()
        self._work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "network")

    async def __call__(self, crops: Crops) -> NDArray[np.float32]:
        """Returns the probabilities [N, K] of faces, N from 1; what `judge` raises, every request of the call gets."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(crops, len(next(iter(crops.values()))), answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await answer

    def close(self) -> None:
        """Ends the thread when its call has ended."""
        self._thread.shutdown(cancel_futures=True)

    async def _run(self) -> None:
        while batch := self._take():
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._judge_all, batch)
            except Exception as error:
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
            else:
                for waiting, own in zip(batch, answers, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(own)

    def _take(self) -> list[_Waiting]:
        """Takes from the queue what fits into one call, less what nobody waits for any more."""
        batch: list[_Waiting] = []
        room = self._most
        while self._waiting and (not batch or self._waiting[0].faces <= room):
            first = self._waiting.popleft()
            if not first.answer.done():
                batch.append(first)
                room -= first.faces
        return batch

    def _judge_all(self, batch: Sequence[_Waiting]) -> list[NDArray[np.float32]]:
        crops = {side: np.concatenate([waiting.crops[side] for waiting in batch]) for side in batch[0].crops}
        ends = np.cumsum([waiting.faces for waiting in batch])
        self._observe(int(ends[-1]))
        return np.split(self._judge(crops), ends[:-1])
