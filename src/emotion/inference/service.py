"""The HTTP service, with or without the web page."""

import errno
import logging
import socket
import sys
import threading
import time
import webbrowser
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

import emotion
from emotion.errors import UserError, first_line, printable
from emotion.inference.access import answered_hosts, is_answered, is_of_other_site, without_port
from emotion.inference.answers import (
    ERRORS,
    PREDICT_ERRORS,
    Answer,
    Answers,
    Health,
    error_responses,
    face_example,
)
from emotion.inference.faces import DetectionLimits
from emotion.inference.film import FRAME_STRIDE, SMOOTH
from emotion.inference.film_requests import (
    FILM_BODY,
    FILM_ERRORS,
    FilmEnd,
    FilmQuestion,
    FilmResponse,
    FilmRow,
    answer_film,
)
from emotion.inference.limits import Limits
from emotion.inference.pipeline import Pipeline, Question
from emotion.inference.recognizer import Recognizer
from emotion.inference.uploads import REQUEST_BODY, read_upload
from emotion.palette import class_colours
from emotion.shipped import SHIPPED

if TYPE_CHECKING:
    import uvicorn

PAGE_FOLDER = Path(__file__).parent / "page"
SWAGGER_FOLDER = Path(__file__).parent / "swagger"
CARD = SHIPPED / "small.md"
"""What the network that ships with the package was trained on, and how often it is right."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
MAX_CONNECTIONS = 500
"""Open connections from which on requests are refused; a process may usually open 1,024 files."""


def make_service(
    recognizers: Mapping[str, Recognizer],
    page: bool = False,
    limits: Limits | None = None,
    hosts: Sequence[str] = ("*",),
    origins: Sequence[str] = (),
    access_log: bool = False,
) -> FastAPI:
    """Builds the ASGI application.

    Args:
        recognizers: see `emotion.inference.pipeline.Pipeline`.
        page: whether to serve the web page at `/`, which otherwise leads to the description at `/docs`.
        limits: see `emotion.inference.limits.Limits`; None takes the defaults.
        hosts: host names under which requests are answered, IPv6 addresses in brackets, or `*` for every name. The
            check stops DNS rebinding: another site could point a name of its own to this machine.
        origins: origins of other sites whose pages may send requests and read the answers, or `*` for every site.
        access_log: whether to print a line for each request.
    """
    pipeline = Pipeline(recognizers, limits or Limits())

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        yield
        pipeline.close()

    application = FastAPI(
        title="emotion",
        version=emotion.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=error_responses(ERRORS),
    )
    application.state.pipeline = pipeline
    _describe_answers(application, pipeline)
    if origins:
        application.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], expose_headers=["Retry-After"]
        )
    _add_security_headers(application, pipeline, hosts, origins, access_log)
    _add_error_handlers(application)
    _add_endpoints(application, pipeline)
    _add_pages(application, page)
    return application


def run(
    recognizers: Mapping[str, Recognizer],
    host: str,
    port: int,
    page: bool,
    open_browser: bool,
    limits: Limits | None = None,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    access_log: bool = False,
) -> None:
    """Serves until interrupted.

    Args:
        recognizers: see `emotion.inference.pipeline.Pipeline`.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        page: whether to serve the web page.
        open_browser: whether to open the page in the browser.
        limits: see `make_service`.
        hosts: see `emotion.inference.access.answered_hosts`.
        origins: see `make_service`.
        access_log: see `make_service`.

    Raises:
        UserError: the address is taken, or is not one of this machine.
    """
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    # Browsers give a page the camera at localhost, but not at 0.0.0.0, by which they reach this machine too.
    shown = "localhost" if name in ("127.0.0.1", "0.0.0.0", "[::]") else name
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(f"{'page' if page else 'POST images to'}: {address}{'' if page else '/predict'}", flush=True)
    if not page:
        print(f"description: {address}/docs", flush=True)
    if open_browser:
        opener = threading.Timer(0.5, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each broken request
    application = make_service(recognizers, page, limits, answered_hosts(name, hosts), origins, access_log)
    make_server(application).run(sockets=[listener])


def make_server(application: FastAPI) -> "uvicorn.Server":
    """Returns the server of an application, which limits the number of connections."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            again = self.should_exit
            super().handle_exit(sig, frame)
            if again:
                logging.getLogger("uvicorn.error").disabled = True  # it would print where each request was broken off
            elif self.server_state.tasks:
                print("answers the requests that have begun, then ends; Ctrl-C again ends at once", file=sys.stderr)

    # h11 even if a faster HTTP parser is installed, so that the service behaves the same everywhere.
    config = uvicorn.Config(application, http="h11", limit_concurrency=MAX_CONNECTIONS, log_level="warning")
    return Server(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # asyncio sets this for its own sockets only. Without it, each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"{host}:{port}: another program listens here; choose another --port, or 0 for any"
            ) from None
        raise UserError(f"{host}:{port}: cannot listen on this address ({first_line(error)})") from None
    return listener


def _describe_answers(application: FastAPI, pipeline: Pipeline) -> None:
    """Makes the example of a face in /openapi.json one of the default network, and the answer of /film JSON Lines."""
    example = face_example(next(iter(pipeline.recognizers.values())).classes)
    describe = application.openapi

    def describe_answers() -> dict[str, Any]:
        description = describe()
        description["components"]["schemas"]["FaceAnswer"]["examples"] = [example]
        lines = description["paths"]["/film"]["post"]["responses"]["200"]["content"]
        lines[FilmResponse.media_type] = lines.popitem()[1]
        return description

    application.openapi = describe_answers  # type: ignore[method-assign]


def _add_security_headers(
    application: FastAPI, pipeline: Pipeline, hosts: Collection[str], origins: Collection[str], access_log: bool
) -> None:
    """Adds a middleware: sets `HEADERS`, refuses hosts and sites, hides internal errors, counts and prints requests."""
    default = next(iter(pipeline.recognizers))

    @application.middleware("http")
    async def add_security_headers(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        start = time.perf_counter()
        try:
            host = request.headers.get("host", "")
            if not is_answered(host, hosts):
                name = without_port(host)[:100]
                message = f"host {name}: not an answered name; emotion serve --hosts {name} answers it"
                response: Response = JSONResponse({"detail": message}, 400)
            elif is_of_other_site(request, origins):
                message = "origin: requests from pages of other sites are refused"
                response = JSONResponse({"detail": message}, 403)
            else:
                response = await proceed(request)
        except Exception:
            logging.getLogger("uvicorn.error").exception("request failed")
            response = JSONResponse({"detail": "the service failed on this request"}, 500)
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.scope["path"] == "/predict":
            network = request.query_params.get("network", default)
            known = network if network in pipeline.recognizers else ""  # clients must not add series
            pipeline.metrics.requests.labels(known, response.status_code).inc()
        if access_log:
            print(_log_line(request, response.status_code, time.perf_counter() - start), flush=True)
        return response


def _log_line(request: Request, status: int, seconds: float) -> str:
    """Returns the line of the access log: address, method, path, status, milliseconds, and faces if there were any."""
    client = printable(request.client.host) if request.client else "-"
    path = quote(request.scope["path"])  # line breaks would begin another line
    faces = getattr(request.state, "faces", None)
    counted = "" if faces is None else f" {faces} face{'s' * (faces != 1)}"
    return f"{client} {request.method} {path} {status} {1000 * seconds:.0f} ms{counted}"


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


def _add_endpoints(application: FastAPI, pipeline: Pipeline) -> None:
    names, limits = list(pipeline.recognizers), pipeline.limits
    classes = {name: list(recognizer.classes) for name, recognizer in pipeline.recognizers.items()}
    # Where networks share a class, it has the colour that it has for the first of them, the default.
    colours: dict[str, str] = {}
    for own in classes.values():
        colours = class_colours(own) | colours
    errors = error_responses(PREDICT_ERRORS)
    errors[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    by_default = "by default as the service was started"
    network_name = Annotated[str, Query(description=f"one of: {', '.join(names)}")]
    smallest_face = Annotated[
        float | None,
        Query(description=f"smallest face, as a share of the longer side, 0.01 to 1; {by_default}"),
    ]
    lowest_confidence = Annotated[
        float | None, Query(description=f"lowest confidence of a detected face, 0.1 to 1; {by_default}")
    ]

    @application.post("/predict", openapi_extra=REQUEST_BODY, responses=errors)
    async def predict(
        request: Request,
        detect: Annotated[bool, Query(description="false: the central square of the image is one face")] = True,
        network: network_name = names[0],
        heatmap: Annotated[bool, Query(description="true: also a heatmap of each face for its label")] = False,
        min_face: smallest_face = None,
        confidence: lowest_confidence = None,
        max_faces: Annotated[
            int, Query(ge=1, le=limits.faces, description="most faces of an image; the largest are classified")
        ] = limits.faces,
        preview: Annotated[
            bool, Query(description="true: also the upright image as a JPEG, for formats that browsers do not show")
        ] = False,
    ) -> Answer | Answers:
        """Detects the faces in one image or several and classifies their expressions.

        The answer for one image is an object with its faces. For several images, and for JSON, it has a list of such
        objects; an image that cannot be read has a `detail` in its place.
        """
        _refuse_unknown(request, "detect", "network", "heatmap", "min_face", "confidence", "max_faces", "preview")
        detection = _detection_limits(pipeline, network, min_face, confidence)
        question = Question(network, detect, heatmap, max_faces, detection, preview)
        with pipeline.arriving.hold():
            upload = await read_upload(request, limits)
        with pipeline.running.hold():
            try:
                with pipeline.metrics.seconds.labels(network).time():
                    async with timeout(limits.seconds):
                        answer = await pipeline.answer(upload, question)
            except TimeoutError:
                message = f"no answer within {limits.seconds:g} s: try again later"
                raise HTTPException(503, message, {"Retry-After": "5"}) from None
        request.state.faces = answer.count_faces()
        return answer

    @application.post(
        "/film",
        openapi_extra=FILM_BODY,
        status_code=200,  # FastAPI does not find it in the class
        response_class=Response,  # the errors are JSON, unlike the lines
        responses=error_responses(FILM_ERRORS)
        | {200: {"model": FilmRow | FilmEnd, "description": "a line for each classified frame, then the persons"}},
    )
    async def film(
        request: Request,
        network: network_name = names[0],
        frame_stride: Annotated[int, Query(ge=1, description="every Nth frame is classified")] = FRAME_STRIDE,
        smooth: Annotated[
            float,
            Query(description="seconds over which the probabilities of a person are averaged, up to 60; 0 for none"),
        ] = SMOOTH,
        min_face: smallest_face = None,
        confidence: lowest_confidence = None,
    ) -> Response:
        """Follows the persons of a film and classifies their expressions.

        The answer is JSON Lines: a line for each classified frame while the film is read, then one with the persons. A
        further line with a `detail` follows if the film is damaged. The film is kept in a temporary file until then.
        """
        _refuse_unknown(request, "network", "frame_stride", "smooth", "min_face", "confidence")
        detection = _detection_limits(pipeline, network, min_face, confidence)
        return await answer_film(pipeline, request, FilmQuestion(network, frame_stride, smooth, detection))

    @application.head("/health", include_in_schema=False)
    @application.get("/health")
    async def health() -> Health:
        """Returns the version, and the names of the networks and of their classes."""
        return Health(
            networks=names,
            classes=classes,
            megabytes=limits.megabytes,
            film_megabytes=limits.film_megabytes,
            colours=colours,
        )

    @application.head("/metrics", include_in_schema=False)
    @application.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Returns counts of requests and faces, seconds and batch sizes in the format of Prometheus."""
        return PlainTextResponse(pipeline.metrics.text())


def _refuse_unknown(request: Request, *parameters: str) -> None:
    if unknown := sorted({*request.query_params} - {*parameters}):
        raise HTTPException(422, f"{', '.join(unknown)}: not one of {', '.join(sorted(parameters))}")


def _detection_limits(
    pipeline: Pipeline, network: str, min_face: float | None, confidence: float | None
) -> DetectionLimits:
    """Returns the limits of a request: those of its network, unless it says others."""
    if network not in pipeline.recognizers:
        raise HTTPException(404, f"network={network}: not one of {', '.join(pipeline.recognizers)}")
    default = pipeline.recognizers[network].limits
    return DetectionLimits(
        default.min_face if min_face is None else min_face, default.confidence if confidence is None else confidence
    )


def _add_pages(application: FastAPI, page: bool) -> None:
    """Adds the description at `/docs` and, if wanted, the web page at `/`; all files come from this service."""

    def add(path: str, response: Callable[[], Response]) -> None:
        application.add_api_route(path, response, methods=["GET", "HEAD"], include_in_schema=False)

    add("/docs", lambda: FileResponse(SWAGGER_FOLDER / "index.html"))
    add("/docs/start.js", lambda: FileResponse(SWAGGER_FOLDER / "start.js"))
    # The package is only searched for its files, not imported.
    application.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))
    if page:
        add("/", lambda: FileResponse(PAGE_FOLDER / "index.html"))
        add("/card", lambda: PlainTextResponse(CARD.read_text(encoding="utf-8")))
        application.mount("/page", StaticFiles(directory=PAGE_FOLDER))
    else:
        add("/", lambda: RedirectResponse("docs"))
