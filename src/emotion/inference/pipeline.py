"""Takes the images of a request through decoding, detection and classification, together with other requests."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from emotion.errors import UserError, first_line
from emotion.inference.answers import Answer, Answers, FaceAnswer, Problem, to_preview
from emotion.inference.batching import Batcher
from emotion.inference.faces import DetectionLimits
from emotion.inference.images import read_image
from emotion.inference.limits import Limits
from emotion.inference.metrics import Metrics
from emotion.inference.queues import Queue, Slots
from emotion.inference.recognizer import DetectedFaces, Recognizer
from emotion.inference.uploads import EncodedImage, Upload

P = ParamSpec("P")
T = TypeVar("T")
DETECTOR_THREADS = 8
"""Most threads that decode images and detect faces; each may hold a decoded image of `MAX_PIXELS` pixels."""


@dataclass(frozen=True)
class Question:
    """What a request asks about each of its images.

    Attributes:
        network: name of the network.
        detect: False takes the central square as one face.
        heatmap: whether to add heatmaps.
        max_faces: largest number of faces; the largest faces are classified.
        limits: which faces count as detected.
        preview: whether to add a copy of the upright image that browsers can display.
    """

    network: str
    detect: bool
    heatmap: bool
    max_faces: int
    limits: DetectionLimits
    preview: bool = False


@dataclass(frozen=True)
class _Detected:
    """The cropped faces of an image, its size in pixels, and the preview if it was asked for."""

    height: int
    width: int
    faces: DetectedFaces
    preview: str | None


class Pipeline:
    """Answers requests with several networks, and counts requests, faces, seconds and batch sizes.

    Decoding, detection and networks run in threads, and release Python's lock for most of their time; everything else
    runs in one event loop.

    Args:
        recognizers: recognisers by the name that requests give as `network`; the first one is the default.
        limits: see `emotion.inference.limits.Limits`.
    """

    def __init__(self, recognizers: Mapping[str, Recognizer], limits: Limits) -> None:
        self.recognizers, self.limits, self.metrics = dict(recognizers), limits, Metrics(recognizers)
        threads = min(DETECTOR_THREADS, _cores())
        self.arriving, self.running = Slots(limits.uploads), Slots(limits.requests)
        self.films = Slots(1, 10, "another film is being classified")
        self.queue = Queue(threads, limits.wait)
        self._detectors, self._free_detectors = ThreadPoolExecutor(threads, "faces"), asyncio.Semaphore(threads)
        self._batchers = {
            name: Batcher(recognizer.classify, observe=self.metrics.batches.labels(name).observe)
            for name, recognizer in recognizers.items()
        }

    async def answer(self, upload: Upload, question: Question) -> Answer | Answers:
        """Answers a request; of several images, one that cannot be read gets a `Problem`.

        Raises:
            HTTPException: 503, the request would wait too long.
            UserError: the only image cannot be read.
        """
        start = time.perf_counter()
        with self.queue.hold(len(upload.images)):
            detected = await _all_or_error(self._detect(image, question) for image in upload.images)
        answers = await _all_or_error(self._classify(faces, question, start) for faces in detected)
        if upload.listed:
            images = [Problem(detail=first_line(told)) if isinstance(told, UserError) else told for told in answers]
            return Answers(images=images, milliseconds=_milliseconds(start))
        (told,) = answers
        if isinstance(told, UserError):
            raise told
        return told

    def close(self) -> None:
        """Ends the threads after the calls that are running."""
        self._detectors.shutdown()
        for batcher in self._batchers.values():
            batcher.close()

    async def _detect(self, image: bytes | EncodedImage, question: Question) -> _Detected:
        return await self._in_detector_thread(self._read_and_detect, image, question)

    async def _classify(self, image: _Detected | UserError, question: Question, start: float) -> Answer:
        if isinstance(image, UserError):
            raise image
        faces = await self._batchers[question.network].classify(image.faces) if len(image.faces) else []
        self.metrics.faces.labels(question.network).inc(len(faces))
        heatmaps: list[NDArray[np.float32] | None] = [None] * len(faces)
        if question.heatmap and faces:
            recognizer, labels = self.recognizers[question.network], [face.label for face in faces]
            with suppress(UserError):  # some networks give no heatmaps
                heatmaps = [*await self._in_detector_thread(recognizer.heatmaps, image.faces, labels)]
        return Answer(
            width=image.width,
            height=image.height,
            found=len(image.faces) + image.faces.omitted,
            faces=[FaceAnswer.of(face, heatmap) for face, heatmap in zip(faces, heatmaps, strict=True)],
            milliseconds=_milliseconds(start),
            preview=image.preview,
        )

    async def _in_detector_thread(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Calls a function in a thread once one is free; the pool's queue would keep images of cancelled requests."""
        await self._free_detectors.acquire()
        loop, call = asyncio.get_running_loop(), self._detectors.submit(function, *args, **options)
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free_detectors.release))
        return await asyncio.wrap_future(call)

    def _read_and_detect(self, image: bytes | EncodedImage, question: Question) -> _Detected:
        """Returns the cropped faces of an image, so that its pixels are freed at once."""
        start = time.perf_counter()
        pixels = read_image(image.decode() if isinstance(image, EncodedImage) else image)
        recognizer = self.recognizers[question.network]
        faces = recognizer.detect(pixels, question.detect, question.max_faces, question.limits)
        self.queue.observe(time.perf_counter() - start)
        preview = to_preview(pixels) if question.preview else None
        return _Detected(pixels.shape[0], pixels.shape[1], faces, preview)


async def _all_or_error(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T | UserError]:
    """Awaits several calls together, and returns the value or the `UserError` of each; other errors are raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, UserError):
            raise result
    return cast("list[T | UserError]", results)


def _milliseconds(start: float) -> float:
    return round(1000 * (time.perf_counter() - start), 1)


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
