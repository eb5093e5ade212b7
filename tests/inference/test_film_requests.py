"""Films that are sent to the HTTP service."""

import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from drawn_films import draw_film, noise
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from other_classes import STRANGE, THREE, write_onnx
from PIL import Image

import emotion
from emotion.inference import film_requests
from emotion.inference.film_requests import PATIENCE_S, FilmEnd, FilmRow
from emotion.inference.limits import Limits
from emotion.inference.recognizer import DetectedFaces, Recognizer
from emotion.inference.service import make_service
from emotion.inference.timeline import timeline_data
from emotion.palette import class_colours

FRAMES, RATE = 40, 25


@pytest.fixture(scope="module")
def film_file(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Path:
    """A film of 1.6 seconds: the portrait moves to the right."""
    frames = [np.roll(pixels, 2 * index, 1)[100:400, 80:480] for index in range(FRAMES)]
    path = tmp_path_factory.mktemp("film") / "walk.mp4"
    return draw_film(path, frames, rate=RATE, options={"movflags": "faststart"})


@pytest.fixture(scope="module")
def client(recognizer: Recognizer) -> Iterator[TestClient]:
    with TestClient(make_service({"small": recognizer}), raise_server_exceptions=False) as client:
        yield client


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """Returns the lines of an answer, and checks that /openapi.json describes them."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in answer.text.splitlines()]
    for line in found:
        if "detail" not in line:
            (FilmEnd if "film" in line else FilmRow).model_validate(line, extra="forbid")
    return found


@pytest.mark.parametrize("form", [True, False])
def test_lines_are_those_of_analyze_video(
    client: TestClient, recognizer: Recognizer, film_file: Path, form: bool
) -> None:
    content = film_file.read_bytes()
    options: dict[str, Any] = {"content": content, "headers": {"content-type": "video/mp4"}}
    if form:
        options = {"files": {"video": ("walk.mp4", content)}}
    *rows, end = lines(client.post("/film", **options))
    film = emotion.analyze_video(film_file, recognizer)
    assert [(row["frame"], row["second"], row["share"]) for row in rows] == [
        (number, number / RATE, round((number + 1) / FRAMES, 4)) for number in range(0, FRAMES, 5)
    ]
    for row, frame in zip(rows, film, strict=True):
        assert row["faces"] == json.loads(json.dumps([face.as_dict() for face in frame.faces]))
        assert [face["person"] for face in row["faces"]] == [1]
    assert end == {
        "film": timeline_data(film) | {"name": "walk.mp4" if form else "video"},
        "persons": [person.as_dict() for person in film.persons],
    }


@pytest.mark.parametrize("field", ["film", "file"])
def test_other_names_of_the_field_of_a_form(client: TestClient, film_file: Path, field: str) -> None:
    files = {field: ("walk.mp4", film_file.read_bytes())}
    *_, end = lines(client.post("/film?frame_stride=40", files=files))
    assert end["film"]["name"] == "walk.mp4"


def test_the_description_has_lines_for_a_film_and_json_for_errors(client: TestClient) -> None:
    client.get("/openapi.json")
    responses = client.get("/openapi.json").json()["paths"]["/film"]["post"]["responses"]
    lines_of = responses.pop("200")["content"]
    assert set(lines_of) == {"application/x-ndjson"}
    schema = lines_of["application/x-ndjson"]["schema"]
    assert schema["anyOf"] == [{"$ref": f"#/components/schemas/{name}"} for name in ("FilmRow", "FilmEnd")]
    assert "type" not in schema
    assert {"400", "413", "503"} <= {*responses}
    assert {kind for response in responses.values() for kind in response["content"]} == {"application/json"}


def test_the_next_film_is_taken_as_soon_as_the_last_line_is_read(client: TestClient, film_file: Path) -> None:
    files = {"video": film_file.read_bytes()}
    assert {client.post("/film?frame_stride=40", files=files).status_code for _ in range(20)} == {200}


def test_parameters_are_followed(client: TestClient, film_file: Path) -> None:
    files = {"video": film_file.read_bytes()}
    *rows, _ = lines(client.post("/film?frame_stride=10&smooth=0", files=files))
    assert [row["frame"] for row in rows] == [0, 10, 20, 30]
    for row in rows:
        (face,) = row["faces"]
        assert face["raw"] == face["probabilities"]
    *rows, end = lines(client.post("/film?min_face=0.9&confidence=0.9", files=files))
    assert [row["faces"] for row in rows] == [[]] * 8
    assert end["persons"] == []


@pytest.mark.parametrize(
    ("query", "options", "status", "message"),
    [
        ("", {"files": {"video": b"no film"}}, 422, "video: not a video that can be read"),
        ("", {"content": b"", "headers": {"content-type": "video/mp4"}}, 422, "video: an empty file"),
        ("", {"files": {"image": b"no film"}}, 422, "form: no file in a field `video`, `film` or `file`"),
        (
            "",
            {"files": {"video": b"no film"}, "data": {"smooth": "0"}},
            422,
            "smooth: settings belong into the address: ?smooth=0",
        ),
        ("", {"data": {"video": "text"}}, 415, "a film is needed"),
        ("", {"content": b"x", "headers": {"content-type": "image/png"}}, 415, "a film is needed, as the body"),
        ("?network=other", {"files": {"video": b""}}, 404, "network=other: not one of small"),
        ("?stride=2", {"files": {"video": b""}}, 422, "stride: not one of confidence, frame_stride, min_face, network"),
        ("?frame_stride=0", {"files": {"video": b""}}, 422, "frame_stride: Input should be greater than or equal to 1"),
        ("?smooth=-1", {"files": {"video": b""}}, 422, "smooth=-1.0: a number of seconds from 0 to 60.0 is needed"),
        ("?confidence=2", {"files": {"video": b""}}, 422, "confidence=2.0: a number from 0.1 to 1 is needed"),
    ],
)
def test_bad_requests_get_a_message(
    client: TestClient, query: str, options: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post(f"/film{query}", **options)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(message)
    assert str(status) in client.get("/openapi.json").json()["paths"]["/film"]["post"]["responses"]
    assert client.app.state.pipeline.films.taken == 0


def test_a_picture_is_no_film(client: TestClient, portrait: Path) -> None:
    answer = client.post("/film", files={"video": portrait.read_bytes()})
    assert (answer.status_code, answer.json()["detail"]) == (422, "video: not a video but a picture")


def test_a_film_that_is_cut_off_is_told_from_other_files(client: TestClient, tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.mp4", 20).read_bytes()
    answer = client.post("/film", files={"video": content[: len(content) // 2]})
    assert answer.json()["detail"] == "video: a video that is cut off or damaged at its start or end"


def test_a_damaged_film_is_classified_up_to_its_end(client: TestClient, tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.mp4", noise(100), options={"movflags": "faststart"}).read_bytes()
    *rows, end, last = lines(client.post("/film", files={"video": content[: len(content) * 6 // 10]}))
    assert len(rows) == pytest.approx(100 * 0.6 / 5, abs=2)
    assert len(end["film"]["seconds"]) == len(rows)
    assert last["detail"].startswith("video: damaged, ")


def test_an_internal_error_is_not_shown(film_file: Path) -> None:
    class Broken(Recognizer):
        def classify(self, images):
            raise ValueError("secret")

    with TestClient(make_service({"one": Broken([])})) as client:
        *_, last = lines(client.post("/film", files={"video": film_file.read_bytes()}))
    assert last == {"detail": "video: the service failed on this film"}


def test_films_are_limited_with_and_without_a_stated_length(film_file: Path, recognizer: Recognizer) -> None:
    limits = Limits(megabytes=0.001, film_megabytes=0.002)
    with TestClient(make_service({"small": recognizer}, limits=limits)) as client:
        for content in (bytes(3000), iter([bytes(1500)] * 2)):
            answer = client.post("/film", content=content, headers={"content-type": "video/mp4"})
            assert (answer.status_code, answer.json()["detail"]) == (413, "upload: more than 0.002 MB")
        assert client.post("/film", files={"video": bytes(1500)}).status_code == 422


class Slow(Recognizer):
    """Finds no face, 50 ms in each frame or photograph; counts them."""

    def __init__(self) -> None:
        super().__init__([])
        self.seen = 0

    @property
    def detector(self) -> Any:
        return self

    def __call__(self, *_: Any) -> list[Any]:
        time.sleep(0.05)
        self.seen += 1
        return []

    def search(self, *_: Any) -> list[Any]:
        return self()

    def crop(self, *_: Any) -> DetectedFaces:
        return DetectedFaces([], {})

    def detect(self, *_: Any) -> DetectedFaces:
        return DetectedFaces([], {})

    def classify(self, images: Any) -> list[Any]:
        return [[] for _ in images]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def empty_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def test_a_film_that_has_begun_is_answered_to_its_end_after_sigterm(film_file: Path) -> None:
    command = [sys.executable, "-m", "emotion", "serve", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout
        assert process.stderr
        address = process.stdout.readline().split()[-1].removesuffix("/predict")
        options = {"files": {"video": film_file.read_bytes()}, "timeout": 60}
        with httpx.stream("POST", f"{address}/film?frame_stride=1", **options) as answer:
            rows = answer.iter_lines()
            first = next(rows)
            process.terminate()
            told = process.stderr.readline()
            assert told == "answers the requests that have begun, then ends; Ctrl-C again ends at once\n"
            shown = [json.loads(row) for row in (first, *rows)]
    assert len(shown) == FRAMES + 1
    assert "film" in shown[-1]
    assert process.returncode in (0, -signal.SIGTERM)


def test_a_second_interruption_ends_at_once_and_prints_no_traceback(long_film: bytes) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-m", "emotion", "serve", "--port", "0"], **pipes, text=True) as process:
        assert process.stdout
        assert process.stderr
        address = process.stdout.readline().split()[-1].removesuffix("/predict")
        options = {"files": {"video": long_film}, "timeout": 60}
        with httpx.stream("POST", f"{address}/film?frame_stride=1", **options) as answer:
            rows = answer.iter_lines()  # kept, since its end closes the connection
            next(rows)
            process.send_signal(signal.SIGINT)
            process.stderr.readline()
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()
    # The second end is that of a process whose parent ignores SIGINT, as a shell in the background does.
    assert (process.returncode, told) in ((130, "interrupted\n"), (0, ""))


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film of 2,000 frames, which takes 100 s with `Slow`."""
    return draw_film(tmp_path_factory.mktemp("long") / "long.mp4", 2000, rate=100).read_bytes()


def test_photographs_are_answered_while_a_film_runs_and_a_second_film_is_refused(
    served: Callable[[FastAPI], int], long_film: bytes
) -> None:
    application = make_service({"slow": Slow()})
    address = f"http://127.0.0.1:{served(application)}"
    options = {"files": {"video": long_film}}
    with httpx.stream("POST", f"{address}/film?frame_stride=1&smooth=0", **options) as answer:
        rows = answer.iter_lines()
        assert json.loads(next(rows))["frame"] == 0
        begin = time.monotonic()
        assert httpx.post(f"{address}/predict", files={"image": empty_picture()}).json()["faces"] == []
        assert time.monotonic() - begin < 30
        refused = httpx.post(f"{address}/film", **options)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert refused.json() == {"detail": "another film is being classified: try again later"}
        assert json.loads(next(rows))["frame"] == 1


def test_a_client_that_goes_away_ends_the_work(served: Callable[[FastAPI], int], long_film: bytes) -> None:
    recognizer = Slow()
    application = make_service({"slow": recognizer})
    address = f"http://127.0.0.1:{served(application)}"
    with httpx.stream("POST", f"{address}/film?frame_stride=1", files={"video": long_film}) as answer:
        assert json.loads(next(answer.iter_lines()))["frame"] == 0
    films = application.state.pipeline.films
    wait_until(lambda: films.taken == 0)
    seen = recognizer.seen
    time.sleep(0.5)
    assert recognizer.seen == seen < 100


def test_the_film_is_no_file_that_others_can_find(
    served: Callable[[FastAPI], int], long_film: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    large = long_film + bytes(2_000_000)  # what is larger than a megabyte does not stay in memory
    application = make_service({"slow": Slow()})
    address = f"http://127.0.0.1:{served(application)}"
    for options in (
        {"files": {"video": large}},
        {"content": large, "headers": {"content-type": "video/mp4"}},
    ):
        with httpx.stream("POST", f"{address}/film?frame_stride=100&smooth=0", **options) as answer:
            assert json.loads(next(answer.iter_lines()))["frame"] == 0
            assert [*folder.iterdir()] == []
        wait_until(lambda: application.state.pipeline.films.taken == 0)


@pytest.mark.parametrize("busy", [True, False])
def test_frames_wait_for_photographs_but_not_for_long(busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0

    def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(film_requests, "time", SimpleNamespace(monotonic=lambda: passed, sleep=sleep))
    frames = [SimpleNamespace(number=number) for number in range(6)]
    assert [*film_requests._giving_way(frames, 2, lambda: busy)] == frames
    assert 3 * PATIENCE_S <= passed < 5 * PATIENCE_S if busy else passed == 0


@pytest.mark.parametrize("classes", [THREE, STRANGE])
def test_films_of_other_classes(classes: tuple[str, ...], film_file: Path, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "own.onnx", classes)
    recognizer = emotion.load(path)
    with TestClient(make_service({"own": recognizer})) as client:
        *rows, end = lines(client.post("/film", files={"video": ("walk.mp4", film_file.read_bytes())}))
        health = client.get("/health").json()
    for row in rows:
        (face,) = row["faces"]
        assert tuple(face["probabilities"]) == tuple(face["raw"]) == classes
    assert tuple(end["persons"][0]["shares"]) == classes
    assert tuple(end["film"]["classes"]) == tuple(health["classes"]["own"]) == classes
    assert end["film"]["colours"] == health["colours"] == class_colours(classes)
    assert end["film"] == timeline_data(emotion.analyze_video(film_file, recognizer))
