"""The HTTP service, with or without the web page."""

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

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

import emotion
from emotion.errors import UserError, first_line
from emotion.inference.batching import Batcher
from emotion.inference.crops import LEVELLED_FROM
from emotion.inference.images import read_image
from emotion.inference.limits import Limits, Slots, read_upload
from emotion.inference.recognizer import DetectedFaces, Recognizer
from emotion.palette import EXPRESSIONS, INK

if TYPE_CHECKING:
    import uvicorn

P = ParamSpec("P")
T = TypeVar("T")
PAGE_FOLDER = Path(__file__).parent / "page"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in addresses."""
HEATMAP_SIDE = 24
"""Height and width of the heatmaps in answers."""
DETECTOR_THREADS = 8
"""Most threads that decode images and detect faces; each may hold a decoded image of `MAX_PIXELS` pixels."""
MAX_CONNECTIONS = 500
"""Open connections from which on requests are refused; a process may usually open 1,024 files."""
REQUEST_BODY = {
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

ERRORS = {
    400: "the request is malformed, or (as plain text) the host name is refused",
    403: "the request comes from a page of another site",
    500: "the service failed",
}
"""Statuses of all paths, with their descriptions."""
PREDICT_ERRORS = {
    404: "the network does not exist",
    408: "the upload took too long",
    413: "the upload is too large",
    415: "the content type is neither an image nor a form",
    422: "the image is missing or cannot be read, or a parameter is wrong",
    503: "too many requests or connections, or no answer in time",
}


class FaceAnswer(BaseModel):
    """One classified face."""

    box: tuple[int, int, int, int] = Field(description="left, top, width and height in pixels of the upright image")
    label: str = Field(description="the most probable class")
    probabilities: dict[str, float]
    confidence: float | None = Field(description="the detector's confidence, 0 to 1; null with detect=false")
    tilt: float = Field(description="angle by which the head leans to the right of the image, degrees")
    heatmap: list[list[float]] | None = Field(
        description="rows of values, 0 to 1: regions of the box that raise the score of the label; null unless asked "
        "for, and for networks without heatmaps"
    )


class Answer(BaseModel):
    """The faces of an image, from left to right."""

    width: int
    height: int
    found: int = Field(description="detected faces; if `faces` holds fewer, these are the largest")
    faces: list[FaceAnswer]
    milliseconds: float


class Problem(BaseModel):
    """An error: its reason, and what is legal."""

    detail: str


class Health(BaseModel):
    """The version, and the networks that can be asked for."""

    status: str = "ok"
    version: str = emotion.__version__
    networks: list[str]
    colours: dict[str, str] = Field(default=EXPRESSIONS, description="colours of boxes and curves, by class")
    ink: str = Field(default=INK, description="colour of text and outlines on these colours")


class Service:
    """Answers requests with several networks, and counts requests, seconds and batch sizes.

    Args:
        recognizers: recognisers by the name that requests give as `network`; the first one is the default.
        limits: see `emotion.inference.limits.Limits`.
    """

    def __init__(self, recognizers: Mapping[str, Recognizer], limits: Limits) -> None:
        self.recognizers, self.limits = dict(recognizers), limits
        self.arriving, self.running = Slots(limits.uploads), Slots(limits.requests)
        self.registry = CollectorRegistry()
        self.requests = Counter("emotion_requests", "Requests", ["status"], registry=self.registry)
        self.seconds = Histogram("emotion_seconds", "Seconds to an answer", registry=self.registry)
        sizes = (0, 1, 2, 4, 8, 16, 32, 64)
        batches = Histogram("emotion_batch_faces", "Faces in a call", buckets=sizes, registry=self.registry)
        threads = min(DETECTOR_THREADS, os.cpu_count() or 1)
        self._detectors, self._free_detectors = ThreadPoolExecutor(threads, "faces"), asyncio.Semaphore(threads)
        self._batchers = {
            name: Batcher(recognizer.classify, observe=batches.observe) for name, recognizer in recognizers.items()
        }

    async def predict(self, content: bytes, name: str, detect: bool, heatmap: bool) -> Answer:
        """Answers a request for the image file `content` and the network `name`.

        Raises:
            UserError: the image cannot be read.
        """
        start = time.perf_counter()
        recognizer = self.recognizers[name]
        (height, width), detected = await self._in_detector_thread(self._detect, content, recognizer, detect)
        faces = await self._batchers[name].classify(detected) if len(detected) else []
        maps: list[NDArray[np.float32] | None] = [None] * len(faces)
        if heatmap and faces:
            labels = [face.label for face in faces]
            with suppress(UserError):  # some networks give no heatmaps
                maps = [*await self._in_detector_thread(recognizer.heatmaps, detected, labels)]
        return Answer(
            width=width,
            height=height,
            found=len(detected) + detected.omitted,
            faces=[
                FaceAnswer(**vars(face), heatmap=_rows(map_, face.tilt)) for face, map_ in zip(faces, maps, strict=True)
            ],
            milliseconds=round(1000 * (time.perf_counter() - start), 1),
        )

    def close(self) -> None:
        """Ends the threads after the calls that are running."""
        self._detectors.shutdown()
        for batcher in self._batchers.values():
            batcher.close()

    async def _in_detector_thread(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Calls a function in a thread once one is free; the pool's queue would keep images of cancelled requests."""
        await self._free_detectors.acquire()
        loop, call = asyncio.get_running_loop(), self._detectors.submit(function, *args, **options)
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free_detectors.release))
        return await asyncio.wrap_future(call)

    def _detect(self, content: bytes, recognizer: Recognizer, detect: bool) -> tuple[tuple[int, int], DetectedFaces]:
        """Returns the height and width of an image and its cropped faces, so that its pixels are freed at once."""
        image = read_image(content)
        return (image.shape[0], image.shape[1]), recognizer.detect(image, detect, self.limits.faces)


def make_service(
    recognizers: Mapping[str, Recognizer],
    page: bool = False,
    limits: Limits | None = None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Builds the ASGI application.

    Args:
        recognizers: see `Service`.
        page: whether to serve the web page at `/`.
        limits: see `emotion.inference.limits.Limits`; None takes the defaults.
        hosts: host names under which requests are answered, IPv6 addresses in brackets, or `*` for every name. The
            check stops DNS rebinding: another site could point a name of its own to this machine.
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
        responses=_error_responses(ERRORS),
    )
    application.state.service = service
    # Added before the security headers, so that its refusals get them, too.
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    _add_security_headers(application, service)
    _add_error_handlers(application)
    _add_endpoints(application, service)
    if page:
        application.add_api_route(
            "/", lambda: FileResponse(PAGE_FOLDER / "index.html"), methods=["GET", "HEAD"], include_in_schema=False
        )
        application.mount("/page", StaticFiles(directory=PAGE_FOLDER))
    return application


def run(recognizers: Mapping[str, Recognizer], host: str, port: int, page: bool, open_browser: bool) -> None:
    """Serves until interrupted.

    Args:
        recognizers: see `Service`.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        page: whether to serve the web page.
        open_browser: whether to open the page in the browser.

    Raises:
        UserError: the address is taken, or is not one of this machine.
    """
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{'localhost' if name == '127.0.0.1' else name}:{listener.getsockname()[1]}"
    print(f"{'page' if page else 'POST images to'}: {address}{'' if page else '/predict'}", flush=True)
    if open_browser:
        opener = threading.Timer(0.5, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    application = make_service(recognizers, page, hosts=LOCAL_HOSTS if name in LOCAL_HOSTS else ("*",))
    make_server(application).run(sockets=[listener])


def make_server(application: FastAPI) -> "uvicorn.Server":
    """Returns the server of an application, which limits the number of connections."""
    import uvicorn

    # h11 even if a faster HTTP parser is installed, so that the service behaves the same everywhere.
    config = uvicorn.Config(application, http="h11", limit_concurrency=MAX_CONNECTIONS, log_level="warning")
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # asyncio sets this for its own sockets only. Without it, each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port}: cannot listen on this address ({first_line(error)})") from None
    return listener


def _add_security_headers(application: FastAPI, service: Service) -> None:
    """Adds a middleware that sets `HEADERS`, refuses other sites, hides internal errors, and counts the requests."""

    @application.middleware("http")
    async def add_security_headers(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = _refuse_other_origin(request) or await proceed(request)
        except Exception:
            logging.getLogger("uvicorn.error").exception("request failed")
            response = JSONResponse({"detail": "the service failed on this request"}, 500)
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.scope["path"] == "/predict":
            service.requests.labels(response.status_code).inc()
        return response


def _add_error_handlers(application: FastAPI) -> None:
    @application.exception_handler(UserError)
    async def on_user_error(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": first_line(error)}, 422)

    @application.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @application.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # the client is gone, but /metrics counts the request


def _refuse_other_origin(request: Request) -> JSONResponse | None:
    """Returns an answer with status 403 to a request that a page of another site sends, None to other requests."""
    origin = request.headers.get("origin")
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return None
    return JSONResponse({"detail": "origin: requests from pages of other sites are refused"}, 403)


def _add_endpoints(application: FastAPI, service: Service) -> None:
    names = list(service.recognizers)
    errors = _error_responses(PREDICT_ERRORS)
    errors[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}

    @application.post("/predict", openapi_extra=REQUEST_BODY, responses=errors)
    async def predict(
        request: Request,
        detect: Annotated[bool, Query(description="false: the central square of the image is one face")] = True,
        network: Annotated[str, Query(description=f"one of: {', '.join(names)}")] = names[0],
        heatmap: Annotated[bool, Query(description="true: also a heatmap of each face for its label")] = False,
    ) -> Answer:
        """Detects the faces in an image and classifies their expressions."""
        parameters = {"detect", "network", "heatmap"}
        if unknown := sorted({*request.query_params} - parameters):
            raise HTTPException(422, f"{', '.join(unknown)}: not one of {', '.join(sorted(parameters))}")
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
                message = f"no answer within {service.limits.seconds:g} s: try again later"
                raise HTTPException(503, message, {"Retry-After": "5"}) from None

    @application.head("/health", include_in_schema=False)
    @application.get("/health")
    async def health() -> Health:
        """Returns the version and the names of the networks."""
        return Health(networks=names)

    @application.head("/metrics", include_in_schema=False)
    @application.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Returns counts of requests, seconds and batch sizes in the format of Prometheus."""
        return PlainTextResponse(generate_latest(service.registry))


def _error_responses(statuses: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Describes statuses of errors for /openapi.json."""
    return {status: {"model": Problem, "description": text} for status, text in statuses.items()}


def _rows(heatmap: NDArray[np.float32] | None, tilt: float) -> list[list[float]] | None:
    """Shrinks a heatmap [S, S] of a face, turned back to its tilt, to `HEATMAP_SIDE` rows of values from 0 to 1."""
    if heatmap is None:
        return None
    turned = Image.fromarray(heatmap).rotate(-tilt if abs(tilt) >= LEVELLED_FROM else 0, Image.Resampling.BILINEAR)
    small = turned.resize((HEATMAP_SIDE, HEATMAP_SIDE), Image.Resampling.BOX)
    rows: list[list[float]] = np.round(np.asarray(small, np.float64), 3).tolist()
    return rows
