"""Dynamic batching: faces of concurrent requests go through the network in one call."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from emotion.inference.recognizer import BATCH_SIZE, DetectedFaces, Face

Classify = Callable[[Sequence[DetectedFaces]], list[list[Face]]]
"""See `emotion.inference.recognizer.Recognizer.classify`."""


class _Request(NamedTuple):
    detected: DetectedFaces
    answer: asyncio.Future[list[Face]]


class Batcher:
    """Collects the requests that arrive while the network is busy, and passes them to it together once it is free.

    No request waits for a batch to fill: a single face is classified alone. The network runs in one thread; everything
    else runs in one event loop.

    Args:
        classify: the function that calls the network.
        max_faces: most faces in one call. The faces of one request are never split, so that a request of more faces
            is a call of its own.
        observe: called with the number of faces of each call.
    """

    def __init__(
        self, classify: Classify, max_faces: int = BATCH_SIZE, observe: Callable[[int], object] = lambda faces: None
    ) -> None:
        self._classify, self._max_faces, self._observe = classify, max_faces, observe
        self._queue: deque[_Request] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "network")

    async def classify(self, detected: DetectedFaces) -> list[Face]:
        """Returns the classified faces of an image; an error of the network is raised in every request of its call."""
        answer: asyncio.Future[list[Face]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Request(detected, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await answer

    def close(self) -> None:
        """Ends the thread after the call that is running."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while batch := self._next_batch():
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._classify_batch, batch)
            except Exception as error:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            else:
                for request, faces in zip(batch, answers, strict=True):
                    if not request.answer.done():
                        request.answer.set_result(faces)

    def _next_batch(self) -> list[_Request]:
        """Removes the requests of one call from the queue and drops those that were cancelled."""
        batch: list[_Request] = []
        room = self._max_faces
        while self._queue and (not batch or len(self._queue[0].detected) <= room):
            request = self._queue.popleft()
            if not request.answer.done():
                batch.append(request)
                room -= len(request.detected)
        return batch

    def _classify_batch(self, batch: Sequence[_Request]) -> list[list[Face]]:
        detected = [request.detected for request in batch]
        self._observe(sum(map(len, detected)))
        return self._classify(detected)
