"""The HTTP service, with or without the page for people."""

import asyncio
import logging
import os
import socket
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

import emotion
from emotion.errors import UserError, first_line
from emotion.inference.batching import Batcher
from emotion.inference.images import read_image
from emotion.inference.limits import Limits, Slots, read_upload
from emotion.inference.recognizer import DetectedFaces, Recognizer
from emotion.palette import EXPRESSIONS, INK

if TYPE_CHECKING:
    import uvicorn

P = ParamSpec("P")
T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine, as they stand in addresses."""
HEATMAP_SIDE = 24
FINDERS = 8
"""Threads at most, since each may hold a whole picture."""
CONNECTIONS = 500
"""At the same time; a request on a further one is refused. Less than the files that a process may usually open."""
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

PROBLEMS = {
    400: "malformed, or (as plain text) asked under another name",
    403: "asked by another site",
    500: "a failure",
}
"""What a status means, whatever was asked for."""
PREDICT_PROBLEMS = {
    404: "no such network",
    408: "the upload took too long",
    413: "the upload is too large",
    415: "neither an image nor a form",
    422: "no image, one that cannot be read, or a wrong parameter",
    503: "too much to do",
}


class FaceAnswer(BaseModel):
    """One face."""

    box: tuple[int, int, int, int] = Field(description="left, top, width and height in pixels of the upright picture")
    label: str = Field(description="the most probable expression")
    probabilities: dict[str, float]
    confidence: float | None = Field(description="of the detector that this is a face")
    heatmap: list[list[float]] | None = Field(
        description="what in the box speaks for the label, rows from 0 to 1; null also where the network cannot tell"
    )


class Answer(BaseModel):
    """The faces of a picture, from left to right."""

    width: int
    height: int
    found: int = Field(description="faces in the picture; where they are more than `faces`, the largest are judged")
    faces: list[FaceAnswer]
    milliseconds: float


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Health(BaseModel):
    """What runs."""

    status: str = "ok"
    version: str = emotion.__version__
    networks: list[str]
    colours: dict[str, str] = Field(default=EXPRESSIONS, description="of boxes and curves, by class")
    ink: str = Field(default=INK, description="colour of letters and outlines on these colours")


class Service:
    """Networks behind a queue, with what they count.

    Args:
        recognizers: by the name under which clients ask for them; the first is the default.
        limits: see there.
    """

    def __init__(self, recognizers: Mapping[str, Recognizer], limits: Limits) -> None:
        self.recognizers, self.limits = dict(recognizers), limits
        self.arriving, self.running = Slots(limits.uploads), Slots(limits.requests)
        self.registry = CollectorRegistry()
        self.requests = Counter("emotion_requests", "Requests", ["status"], registry=self.registry)
        self.seconds = Histogram("emotion_seconds", "Seconds to an answer", registry=self.registry)
        sizes = (0, 1, 2, 4, 8, 16, 32, 64)
        batches = Histogram("emotion_batch_faces", "Faces judged in a call", buckets=sizes, registry=self.registry)
        threads = min(FINDERS, os.cpu_count() or 1)
        self._finders, self._free_finders = ThreadPoolExecutor(threads, "faces"), asyncio.Semaphore(threads)
        self._batchers = {
            name: Batcher(recognizer.classify, observe=batches.observe) for name, recognizer in recognizers.items()
        }

    async def predict(self, content: bytes, name: str, detect: bool, heatmap: bool) -> Answer:
        """Answers a request.

        Raises:
            UserError: not an image.
        """
        begun = time.perf_counter()
        recognizer = self.recognizers[name]
        (height, width), found = await self._in_finder(self._find, content, recognizer, detect)
        faces = await self._batchers[name].classify(found) if len(found) else []
        maps: list[NDArray[np.float32] | None] = [None] * len(faces)
        if heatmap and faces:
            labels = [face.label for face in faces]
            with suppress(UserError):  # some networks cannot tell
                maps = [*await self._in_finder(recognizer.heatmaps, found, labels)]
        return Answer(
            width=width,
            height=height,
            found=len(found) + found.smaller,
            faces=[FaceAnswer(**vars(face), heatmap=_rows(own)) for face, own in zip(faces, maps, strict=True)],
            milliseconds=round(1000 * (time.perf_counter() - begun), 1),
        )

    def close(self) -> None:
        """Ends the threads when their calls have ended."""
        self._finders.shutdown()
        for batcher in self._batchers.values():
            batcher.close()

    async def _in_finder(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Calls in a thread once one is free: the pool would keep the pictures of those who gave up waiting."""
        await self._free_finders.acquire()
        loop, call = asyncio.get_running_loop(), self._finders.submit(work, *args, **options)
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free_finders.release))
        return await asyncio.wrap_future(call)

    def _find(self, content: bytes, recognizer: Recognizer, detect: bool) -> tuple[tuple[int, int], DetectedFaces]:
        """Returns height and width of a picture and its faces; the rest of it, which may be large, is let go."""
        picture = read_image(content)
        return (picture.shape[0], picture.shape[1]), recognizer.detect(picture, detect, self.limits.faces)


def make_service(
    recognizers: Mapping[str, Recognizer],
    page: bool = False,
    limits: Limits | None = None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Builds the application.

    Args:
        recognizers: see `Service`.
        page: whether to serve the page at `/`.
        limits: of a request.
        hosts: names under which it may be called, which keeps other sites from reaching it through a name of their own
            that they point here; IPv6 addresses in brackets, `*` for every name.
    """
    service = Service(recognizers, limits or Limits())

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    application = FastAPI(
        title="emotion",
        version=emotion.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_problems(PROBLEMS),
    )
    application.state.service = service
    # Added first, it lies within the guard, which gives its answers their headers too.
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    _add_guard(application, service)
    _add_endpoints(application, service)
    if page:
        application.add_api_route(
            "/", lambda: FileResponse(PAGE / "index.html"), methods=["GET", "HEAD"], include_in_schema=False
        )
        application.mount("/page", StaticFiles(directory=PAGE))
    return application


def run(recognizers: Mapping[str, Recognizer], host: str, port: int, page: bool, open_browser: bool) -> None:
    """Serves until interrupted.

    Args:
        recognizers: see `Service`.
        host: where to listen.
        port: likewise; 0 takes a free one.
        page: whether to serve the page.
        open_browser: whether to show it.

    Raises:
        UserError: the address is taken or not one of this machine.
    """
    cv2.setNumThreads(1)  # pictures are worked on side by side, each by one thread
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{'localhost' if name == '127.0.0.1' else name}:{listener.getsockname()[1]}"
    print(f"{'page' if page else 'POST images to'}: {address}{'' if page else '/predict'}", flush=True)
    if open_browser:
        opener = threading.Timer(0.5, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    application = make_service(recognizers, page, hosts=LOCAL if name in LOCAL else ("*",))
    make_server(application).run(sockets=[listener])


def make_server(application: FastAPI) -> "uvicorn.Server":
    """Returns the server of an application, with its limits on connections."""
    import uvicorn

    # h11 also where a faster parser is installed: one behaviour everywhere.
    return uvicorn.Server(uvicorn.Config(application, http="h11", limit_concurrency=CONNECTIONS, log_level="warning"))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # asyncio does so for its own sockets only; without it each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot listen there ({first_line(error)})") from None
    return listener


def _add_guard(application: FastAPI, service: Service) -> None:
    @application.middleware("http")
    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = _refusal(request) or await proceed(request)
        except Exception:
            logging.getLogger("uvicorn.error").exception("a request failed")
            response = JSONResponse({"detail": "the service failed on this request"}, 500)
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.scope["path"] == "/predict":
            service.requests.labels(response.status_code).inc()
        return response

    @application.exception_handler(UserError)
    async def explain(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": first_line(error)}, 422)

    @application.exception_handler(RequestValidationError)
    async def correct(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = error.errors()[0]
        return JSONResponse({"detail": f"{wrong['loc'][-1]}: {wrong['msg']}"}, 422)

    @application.exception_handler(ClientDisconnect)
    async def forget(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it, but it is counted


def _refusal(request: Request) -> JSONResponse | None:
    """Turns away pages of other sites."""
    origin = request.headers.get("origin")
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return None
    return JSONResponse({"detail": "requests from other sites are refused"}, 403)


def _add_endpoints(application: FastAPI, service: Service) -> None:
    names = list(service.recognizers)
    problems = _problems(PREDICT_PROBLEMS)
    problems[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}

    @application.post("/predict", openapi_extra=BODY, responses=problems)
    async def predict(
        request: Request,
        detect: Annotated[bool, Query(description="false: the picture is one face already")] = True,
        network: Annotated[str, Query(description=f"one of: {', '.join(names)}")] = names[0],
        heatmap: Annotated[bool, Query(description="true: also what in each face speaks for its label")] = False,
    ) -> Answer:
        """Finds the faces of an image and tells their expressions."""
        if network not in service.recognizers:
            raise HTTPException(404, f"network={network}: not one of {', '.join(names)}")
        with service.arriving.hold():
            content = await read_upload(request, service.limits)
        with service.running.hold():
            try:
                with service.seconds.time():
                    async with asyncio.timeout(service.limits.seconds):
                        return await service.predict(content, network, detect, heatmap)
            except TimeoutError:
                told = f"no answer within {service.limits.seconds:g} s"
                raise HTTPException(503, told, {"Retry-After": "5"}) from None

    @application.head("/health", include_in_schema=False)
    @application.get("/health")
    async def health() -> Health:
        """Says what runs."""
        return Health(networks=names)

    @application.head("/metrics", include_in_schema=False)
    @application.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counts requests, seconds and batch sizes, as Prometheus reads them."""
        return PlainTextResponse(generate_latest(service.registry))


def _problems(statuses: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Describes answers that are none."""
    return {status: {"model": Problem, "description": why} for status, why in statuses.items()}


def _rows(heatmap: NDArray[np.float32] | None) -> list[list[float]] | None:
    if heatmap is None:
        return None
    small = cv2.resize(heatmap, (HEATMAP_SIDE, HEATMAP_SIDE), interpolation=cv2.INTER_AREA)
    rows: list[list[float]] = np.round(np.asarray(small, np.float64), 3).tolist()
    return rows
