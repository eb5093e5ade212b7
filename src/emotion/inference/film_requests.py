"""Answers requests with a film: a line of JSON for each classified frame while the film is read, then its persons."""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, JsonValue
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive, Scope, Send

from emotion.errors import UserError, disk_is_full, first_line
from emotion.inference.faces import DetectionLimits
from emotion.inference.film import FilmFrame, Watcher
from emotion.inference.limits import Limits
from emotion.inference.persons import Film
from emotion.inference.pipeline import Pipeline
from emotion.inference.timeline import timeline_data
from emotion.inference.uploads import BINARY, body_chunks, files_of
from emotion.inference.video import Frame, Video

NAME = "video"
"""Name of the film in messages."""
FIELDS = (NAME, "film", "file")
"""Fields of forms that may hold the film."""
PATIENCE_S, LOOK_S = 0.2, 0.005
"""Before each classified frame, a film waits at most so long for photographs, and looks so often."""
FREED_S = 2.0
"""Seconds for which a film waits for the place of a film before it, whose client has just gone."""
FILM_ERRORS = {
    404: "the network does not exist",
    408: "the upload took too long",
    413: "the film is too large",
    415: "the content type is neither that of a video nor a form",
    422: "there is no film, it cannot be read, or a parameter is wrong",
    503: "another film is being classified, or the disk of the service is full",
}
FILM_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [NAME],
                    "properties": {NAME: BINARY},
                    "description": "a file in the field `video`; `film` and `file` are read, too",
                },
            },
            "video/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}
"""The bodies that `receive_film` reads, for /openapi.json."""


class FilmFace(BaseModel):
    """A face of a frame; numbers are rounded to four digits."""

    box: tuple[int, int, int, int] = Field(description="left, top, width and height in pixels of the upright frame")
    label: str = Field(description="the most probable class")
    score: float = Field(description="probability of the label")
    probabilities: dict[str, float] = Field(description="averaged over time")
    confidence: float | None = Field(description="the detector's confidence, 0 to 1")
    tilt: float = Field(description="angle by which the head leans to the right of the frame, degrees")
    person: int = Field(description="number of the person, from 1")
    raw: dict[str, float] | None = Field(description="probabilities of this frame alone")


class FilmRow(BaseModel):
    """A classified frame: a line of the answer."""

    frame: int = Field(description="number of the frame, from 0")
    second: float = Field(description="when the frame is shown, seconds after the first one")
    lead: float = Field(description="second at which players show the first frame, later than 0 if sound is before it")
    share: float | None = Field(description="share of the film that is done; null if the film does not say its length")
    faces: list[FilmFace] = Field(description="from left to right")


class FilmEnd(BaseModel):
    """The end of the answer; a line with a `detail` follows if the film is damaged."""

    film: dict[str, JsonValue] = Field(description="what a timeline shows: times, persons, probabilities, portraits")
    persons: list[dict[str, JsonValue]] = Field(description="when each person is seen, and with which expressions")


@dataclass(frozen=True)
class FilmQuestion:
    """What a request asks about its film; see `emotion.inference.film.Watcher`."""

    network: str
    frame_stride: int
    smooth: float
    limits: DetectionLimits


class FilmResponse(StreamingResponse):
    """Streams lines that a thread makes one after the other; a client that goes away ends the work.

    Args:
        lines: the lines.
        thread: the thread that makes them.
        release: frees what the work holds; called before the last line is sent, since a client that has read it may
            send its next film at once, or after a broken answer, once the thread has stopped.
    """

    media_type = "application/x-ndjson"

    def __init__(self, lines: Generator[bytes], thread: ThreadPoolExecutor, release: Callable[[], None]) -> None:
        self._lines, self._thread, self._release, self._released = lines, thread, release, False
        super().__init__(self._stream())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the lines until there are no more or the client is gone."""
        loop = asyncio.get_running_loop()

        def release(_: Future[None]) -> None:
            with suppress(RuntimeError):  # the loop is closed: the service has ended
                loop.call_soon_threadsafe(self._release)

        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._released:  # the thread may be making a line: it ends after this one
                self._thread.submit(self._lines.close).add_done_callback(release)

    async def _stream(self) -> AsyncIterator[bytes]:
        line = await self._next()
        while line is not None:
            following = await self._next()
            if following is None:
                self._released = True
                self._release()
            yield line
            line = following

    async def _next(self) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, next, self._lines, None)


async def answer_film(pipeline: Pipeline, request: Request, question: FilmQuestion) -> FilmResponse:
    """Receives a film, opens it, and returns the answer that classifies it as it is sent.

    The film lies in a temporary file that no other program can open by name, and that is gone when it is closed.

    Raises:
        HTTPException: 400, the form is malformed; 408, the upload takes too long; 413, the film is too large; 415, the
            content type is none of `FILM_BODY`; 422, there is no film; 503, another film is being classified, or the
            disk is full.
        UserError: the film cannot be read, or a parameter is wrong.
    """
    await pipeline.films.wait(FREED_S)
    with ExitStack() as held:
        held.enter_context(pipeline.films.hold())
        recognizer = pipeline.recognizers[question.network]
        watcher = Watcher(
            recognizer,
            frame_stride=question.frame_stride,
            smooth=question.smooth,
            portraits=True,
            limits=question.limits,
        )
        name, file = await receive_film(request, pipeline.limits)
        held.callback(file.close)
        thread = ThreadPoolExecutor(1, "film")
        held.callback(thread.shutdown, wait=False)
        video = await asyncio.get_running_loop().run_in_executor(thread, Video, file, NAME)
        held.callback(video.close)
        frames = _giving_way(video, question.frame_stride, lambda: pipeline.running.taken > 0)
        lines = _lines(video, frames, watcher, Film(name, recognizer.classes))
        return FilmResponse(lines, thread, held.pop_all().close)


async def receive_film(request: Request, limits: Limits) -> tuple[str, BinaryIO]:
    """Writes the film of a request to a temporary file; returns its name, if the request says one, and the file.

    Raises:
        HTTPException: see `answer_film`.
    """
    kind = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    try:
        async with asyncio.timeout(limits.film_upload_seconds):
            if kind.startswith("video/") or kind == "application/octet-stream":
                return NAME, await _from_body(request, limits)
            if kind == "multipart/form-data":
                return await _from_form(request, limits)
    except TimeoutError:
        raise HTTPException(408, f"upload: not complete after {limits.film_upload_seconds:g} s") from None
    except OSError as error:
        if disk_is_full(error):
            raise HTTPException(503, "the disk of the service is full", {"Retry-After": "60"}) from None
        raise
    legal = "as the body (video/... or application/octet-stream), or as the field `video` of a form"
    raise HTTPException(415, f"a film is needed, {legal}")


async def _from_body(request: Request, limits: Limits) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115, it outlives this function
    try:
        async for chunk in body_chunks(request, limits.film_megabytes):
            file.write(chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


async def _from_form(request: Request, limits: Limits) -> tuple[str, BinaryIO]:
    chunks = body_chunks(request, limits.film_megabytes)
    try:
        form = await MultiPartParser(request.headers, chunks, max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    try:
        upload = files_of(form, FIELDS)[0]
    except HTTPException:
        await form.close()
        raise
    return upload.filename or NAME, upload.file


def _lines(video: Video, frames: Iterable[Frame], watcher: Watcher, film: Film) -> Generator[bytes]:
    """Classifies the frames of a film, adds them to it, and yields the lines of the answer."""
    problem = ""
    try:
        for frame in watcher.watch(frames):
            film.add(frame)
            yield _line(_row(frame, video))
        video.require_whole()
    except UserError as error:
        problem = first_line(error)
    except Exception:
        logging.getLogger("uvicorn.error").exception("film failed")
        problem = f"{NAME}: the service failed on this film"
    film.finish(video)
    yield _line({"film": timeline_data(film), "persons": [person.as_dict() for person in film.persons]})
    if problem:
        yield _line({"detail": problem})


def _giving_way(frames: Iterable[Frame], stride: int, is_busy: Callable[[], bool]) -> Iterator[Frame]:
    """Yields frames; every Nth, which will be classified, waits for photographs, so that these are not slowed down."""
    for frame in frames:
        end = time.monotonic() + PATIENCE_S
        while frame.number % stride == 0 and is_busy() and time.monotonic() < end:
            time.sleep(LOOK_S)
        yield frame


def _row(frame: FilmFrame, video: Video) -> dict[str, Any]:
    share = round(min(1.0, (frame.number + 1) / video.frames), 4) if video.frames else None
    faces = [face.as_dict() for face in frame.faces]
    times = {"second": round(frame.second, 3), "lead": round(video.lead, 3)}
    return {"frame": frame.number, **times, "share": share, "faces": faces}


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
