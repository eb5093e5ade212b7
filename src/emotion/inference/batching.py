"""Faces of many requests, judged together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from emotion.inference.recognizer import DetectedFaces, Face

Classify = Callable[[Sequence[DetectedFaces]], list[list[Face]]]
"""See `emotion.inference.recognizer.Recognizer.classify`."""


class _Waiting(NamedTuple):
    found: DetectedFaces
    answer: asyncio.Future[list[Face]]


class Batcher:
    """Gives the faces that wait while a network is busy to it in one call, as soon as it is free.

    Nobody waits for a batch to fill: a face that comes alone is judged alone. The network works in a thread of its own;
    everything else happens in one event loop.

    Args:
        classify: what calls the network.
        max_faces: faces in one call; the faces of one request are never parted.
        observe: called with the number of faces of each call.
    """

    def __init__(
        self, classify: Classify, max_faces: int = 64, observe: Callable[[int], object] = lambda faces: None
    ) -> None:
        self._classify, self._max_faces, self._observe = classify, max_faces, observe
        self._waiting: deque[_Waiting] = deque()
        self._work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "network")

    async def classify(self, found: DetectedFaces) -> list[Face]:
        """Returns the faces of a picture; what the network raises, every request of the call gets."""
        answer: asyncio.Future[list[Face]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(found, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await answer

    def close(self) -> None:
        """Ends the thread when its call has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while batch := self._take():
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._classify_all, batch)
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
        room = self._max_faces
        while self._waiting and (not batch or len(self._waiting[0].found) <= room):
            first = self._waiting.popleft()
            if not first.answer.done():
                batch.append(first)
                room -= len(first.found)
        return batch

    def _classify_all(self, batch: Sequence[_Waiting]) -> list[list[Face]]:
        found = [waiting.found for waiting in batch]
        self._observe(sum(map(len, found)))
        return self._classify(found)
