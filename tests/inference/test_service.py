import base64
import io
import math
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from other_classes import FERPLUS, STRANGE, THREE, write_onnx
from PIL import Image

import emotion
from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.inference import service
from emotion.inference.access import LOCAL_HOSTS
from emotion.inference.answers import FACE_EXAMPLE, Answer, Answers, Problem
from emotion.inference.faces import Detection
from emotion.inference.limits import Limits
from emotion.inference.recognizer import DetectedFaces, Face, Recognizer, load
from emotion.inference.service import make_service, run
from emotion.palette import EXPRESSIONS, INK, class_colours


def encoded(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Returns the content of an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


class Client(TestClient):
    """Checks that /openapi.json describes each answer."""

    def post(self, url, **options):
        answer = super().post(url, **options)
        responses = self.app.openapi()["paths"]["/predict"]["post"]["responses"]
        response = responses[str(answer.status_code)]
        schema = response["content"]["application/json"]["schema"]
        names = {one["$ref"].rsplit("/", 1)[-1] for one in schema.get("anyOf", [schema])}
        assert names == ({"Answer", "Answers"} if answer.status_code == 200 else {"Problem"})
        models = {"Answer": Answer, "Answers": Answers, "Problem": Problem}
        told = "Answers" if "images" in answer.json() else min(names)
        models[told].model_validate_json(answer.content, extra="forbid")
        assert ("retry-after" in answer.headers) == ("Retry-After" in response.get("headers", {}))
        return answer


class Stub(Recognizer):
    """A fake that waits: the first pixel of an image is its number of faces, the second one their class."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__([])
        self.classes, self.seconds = CLASSES, seconds

    def detect(self, image, detect=True, max_faces=None, limits=None):
        time.sleep(self.seconds)
        faces, label = int(image[0, 0, 0]), int(image[0, 1, 0])
        boxes = [(index, label, index + 1, index + 1) for index in range(faces)]
        return DetectedFaces([Detection(box, 0.9) for box in boxes], {})

    def classify(self, images):
        return [[self.face(detection) for detection in image.detections] for image in images]

    def face(self, detection):
        label = CLASSES[detection.box[1]]
        return Face(detection.box, label, {name: float(name == label) for name in CLASSES}, detection.confidence)


def stub_image(faces: int, label: int = 0) -> bytes:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0], image[0, 1] = faces, label
    return encoded(image)


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until another thread fulfils a condition, at most ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client(recognizer: Recognizer) -> Iterator[Client]:
    with Client(make_service({"small": recognizer}, page=True), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def stub() -> Iterator[Client]:
    with Client(make_service({"one": Stub(), "two": Stub()}), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("form", [True, False])
def test_answers_are_those_of_the_recogniser(
    client: Client, recognizer: Recognizer, portrait: Path, form: bool
) -> None:
    content = portrait.read_bytes()
    options = {"files": {"image": content}} if form else {"content": content, "headers": {"content-type": "image/jpeg"}}
    answer = client.post("/predict", **options)
    assert answer.status_code == 200
    content = answer.json()
    assert (content["width"], content["height"]) == (512, 600)
    (face,), (expected,) = content["faces"], recognizer.predict(portrait)
    assert tuple(face["box"]) == expected.box
    assert face["label"] == expected.label
    assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    assert face["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    assert face["heatmap"] is None
    assert content["milliseconds"] > 0


def test_an_image_of_one_face_and_its_heatmap(
    client: Client, recognizer: Recognizer, pixels: NDArray[np.uint8]
) -> None:
    cropped = pixels[112:330, 155:373]
    answer = client.post("/predict?detect=false&heatmap=true", files={"image": encoded(cropped)}).json()
    (face,), (expected,) = answer["faces"], recognizer.predict(cropped, detect=False)
    assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    assert face["confidence"] is None
    heatmap = np.array(face["heatmap"])
    full = recognizer.heatmaps(recognizer.detect(cropped, detect=False), [expected.label])[0]
    assert heatmap.shape == (24, 24)
    assert heatmap.max() > 0.8
    assert np.abs(heatmap - full.reshape(24, 2, 24, 2).mean((1, 3))).max() < 2e-3


def test_a_preview_is_the_upright_image(client: Client, portrait: Path) -> None:
    file = io.BytesIO()
    with Image.open(portrait) as image:
        turned = image.rotate(90, expand=True).resize((2400, 2048))
        turned.save(file, "TIFF", exif={274: 6})  # to be turned by 90 degrees clockwise
    assert client.post("/predict", files={"image": file.getvalue()}).json()["preview"] is None
    answer = client.post("/predict?preview=true", files={"image": file.getvalue()}).json()
    head, _, content = answer["preview"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as preview, Image.open(portrait) as image:
        assert (answer["width"], answer["height"]) == (2048, 2400)
        assert (preview.format, preview.size) == ("JPEG", (1365, 1600))
        difference = np.asarray(preview.resize(image.size), np.float32) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).mean() < 4


def test_no_face_is_an_answer(client: Client) -> None:
    answer = client.post("/predict?heatmap=true", files={"image": encoded(np.zeros((50, 80, 3), np.uint8))})
    assert answer.status_code == 200
    assert answer.json()["faces"] == []
    assert answer.json()["found"] == 0


@pytest.mark.parametrize(
    ("request_", "status", "part"),
    [
        ({"files": {"image": b"no image"}}, 422, "not an image"),
        ({"files": {"image": b""}}, 422, "an empty file"),
        ({"files": {"photo": b"x"}}, 422, "`image`"),
        ({"data": {"image": "text"}, "files": {"other": b""}}, 422, "`image`"),
        ({"content": b"", "headers": {"content-type": "image/png"}}, 422, "an empty file"),
        ({"json": {}}, 422, "images: Field required"),
        ({"json": {"images": []}}, 422, "at least 1 item"),
        ({"json": {"images": [1]}}, 422, "images.0: Input should be a valid string"),
        ({"json": {"images": ["eA=="], "url": "x"}}, 422, "url: settings belong into the address: ?url=%22x%22"),
        ({"json": [[]]}, 422, "body: "),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "body: Invalid JSON"),
        ({"content": b"[" * 10**6, "headers": {"content-type": "application/json"}}, 400, "body: Invalid JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "`image`"),
        ({}, 415, "`image`"),
        ({"content": b"xx", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
        ({"content": b"xx", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, ""),
        ({"params": {"network": "<b>"}, "files": {"image": b""}}, 404, "not one of small"),
        (
            {"params": {"heatmaps": "true"}, "files": {"image": b""}},
            422,
            "heatmaps: not one of confidence, detect, heatmap, max_faces, min_face, network",
        ),
        ({"params": {"detect": "perhaps"}, "files": {"image": b""}}, 422, "detect: Input should be"),
    ],
)
def test_bad_requests_get_a_message(client: Client, request_: dict, status: int, part: str) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    detail = str(answer.json()["detail"])
    assert part in detail
    assert "Traceback" not in detail


def test_damaged_images_get_a_message(client: Client, portrait: Path) -> None:
    whole = portrait.read_bytes()
    png = encoded(np.zeros((9, 9), np.uint8))
    cut_off, other = "cut off: the end of the file is missing", "not an image that can be read"
    contents = {whole[:5000]: cut_off, whole[:200]: other, whole[5:]: other, png[:8] + whole: other, png[:40]: other}
    for content, reason in contents.items():
        answer = client.post("/predict", files={"image": content})
        assert answer.status_code == 422
        assert answer.json() == {"detail": f"image: {reason}"}


def test_an_image_bomb_is_refused_by_its_header(client: Client) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )
    start = time.perf_counter()
    answer = client.post("/predict", files={"image": bomb})
    assert answer.status_code == 422
    assert time.perf_counter() - start < 5


def test_uploads_are_limited_with_and_without_a_stated_length() -> None:
    with Client(make_service({"one": Stub()}, limits=Limits(megabytes=0.01))) as client:
        kind = {"content-type": "image/png"}
        assert client.post("/predict", content=bytes(9_000), headers=kind).status_code == 422
        answer = client.post("/predict", content=bytes(11_000), headers=kind)
        assert (answer.status_code, answer.json()["detail"]) == (413, "upload: more than 0.01 MB")
        pieces = (bytes(1000) for _ in range(50))  # sent without a length
        assert client.post("/predict", content=pieces, headers=kind).status_code == 413
        assert client.post("/predict", files={"image": bytes(11_000)}).status_code == 413
        form = {"content-type": "multipart/form-data; boundary=y"}
        assert client.post("/predict", content=(bytes(1000) for _ in range(50)), headers=form).status_code in (400, 413)


def test_the_largest_faces_are_classified_up_to_the_limit(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    with Client(make_service({"small": recognizer}, limits=Limits(faces=3))) as client:
        answer = client.post("/predict", files={"image": encoded(np.tile(pixels, (2, 3, 1)))}).json()
    assert len(answer["faces"]) == 3
    assert answer["found"] == 6


def test_a_late_answer_is_status_503_with_retry_after() -> None:
    with Client(make_service({"slow": Stub(1)}, limits=Limits(seconds=0.1))) as client:
        answer = client.post("/predict", files={"image": stub_image(1)})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "0.1 s" in answer.json()["detail"]


def test_images_of_cancelled_requests_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion.inference.pipeline.DETECTOR_THREADS", 1)
    application = make_service({"slow": Stub(1)}, limits=Limits(seconds=0.1))
    with Client(application) as client:
        for _ in range(3):
            assert client.post("/predict", files={"image": stub_image(1)}).status_code == 503
        assert application.state.pipeline._detectors._work_queue.empty()


def test_uploads_are_not_written_to_the_disk(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: pytest.fail("a file is made"))
    answer = client.post("/predict?detect=false", files={"image": encoded(np.zeros((1000, 1000, 3), np.uint8), "BMP")})
    assert answer.status_code == 200


def test_too_many_requests_are_refused_at_once() -> None:
    refused = Event()

    class Waiting(Stub):
        def detect(self, *arguments, **options):
            assert refused.wait(60)
            return super().detect(*arguments, **options)

    with (
        Client(make_service({"slow": Waiting()}, limits=Limits(requests=2, seconds=60))) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        asked = [pool.submit(client.post, "/predict", files={"image": stub_image(1)}) for _ in range(6)]
        for _ in zip(range(4), as_completed(asked), strict=False):
            pass
        refused.set()
        answers = [each.result() for each in asked]
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200, 200, 503, 503, 503, 503]
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
        assert client.post("/predict", files={"image": stub_image(1)}).status_code == 200


def test_an_internal_error_is_not_shown() -> None:
    class Broken(Stub):
        def detect(self, image, detect=True, max_faces=None, limits=None):
            raise RuntimeError("secret /home/somebody")

    with Client(make_service({"one": Broken()}), raise_server_exceptions=False) as client:
        answer = client.post("/predict", files={"image": stub_image(1)})
        assert answer.status_code == 500
        assert answer.json() == {"detail": "the service failed on this request"}


def test_internal_errors_are_counted_and_have_security_headers() -> None:
    class Broken(Stub):
        def detect(self, image, detect=True, max_faces=None, limits=None):
            raise RuntimeError("secret")

    with Client(make_service({"one": Broken()})) as client:
        answer = client.post("/predict", files={"image": stub_image(1)})
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert 'emotion_requests_total{network="one",status="500"} 1.0' in client.get("/metrics").text


def test_a_network_without_heatmaps_answers() -> None:
    class NoHeatmaps(Stub):
        def heatmaps(self, detected, labels):
            raise UserError("no maps")

    with Client(make_service({"one": NoHeatmaps()})) as client:
        (face,) = client.post("/predict?heatmap=true", files={"image": stub_image(1)}).json()["faces"]
    assert face["label"] == CLASSES[0]
    assert face["heatmap"] is None


def stall(port: int, sent: bytes = b"") -> socket.socket:
    """Begins an upload of 100 bytes and leaves it incomplete."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
    connection.sendall(head + sent)
    return connection


def test_stalled_uploads_end_and_do_not_block_complete_ones(served: Callable[[FastAPI], int]) -> None:
    application = make_service({"one": Stub()}, limits=Limits(requests=1, upload_seconds=2))
    port = served(application)
    stalled = [stall(port) for _ in range(3)]
    wait_until(lambda: application.state.pipeline.arriving.taken == 3)
    assert httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": stub_image(1)}).status_code == 200
    for connection in stalled:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


def test_too_many_uploads_at_once_are_refused(served: Callable[[FastAPI], int]) -> None:
    application = make_service({"one": Stub()}, limits=Limits(uploads=2))
    port = served(application)
    arriving = application.state.pipeline.arriving
    stalled = [stall(port, bytes(90)) for _ in range(2)]
    wait_until(lambda: arriving.taken == 2)
    answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": stub_image(1)})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    for connection in stalled:
        connection.close()
    wait_until(lambda: arriving.taken == 0)
    assert httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": stub_image(1)}).status_code == 200


def test_requests_on_too_many_connections_are_refused(
    served: Callable[[FastAPI], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_CONNECTIONS", 3)
    port = served(make_service({"one": Stub()}))
    address = f"http://127.0.0.1:{port}/health"
    idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(3)]
    wait_until(lambda: httpx.get(address).status_code == 503)
    for connection in idle:
        connection.close()
    wait_until(lambda: httpx.get(address).status_code == 200)


def test_broken_off_uploads_are_counted(served: Callable[[FastAPI], int]) -> None:
    application = make_service({"one": Stub()})
    port = served(application)
    with stall(port, b"half"):
        wait_until(lambda: application.state.pipeline.arriving.taken == 1)
    counted = 'emotion_requests_total{network="one",status="499"} 1.0'
    wait_until(lambda: counted in httpx.get(f"http://127.0.0.1:{port}/metrics").text)
    assert application.state.pipeline.arriving.taken == 0


def test_200_requests_8_at_a_time_get_their_own_answers(stub: Client) -> None:
    def ask(number: int) -> bool:
        faces, label, name = number % 5, number % 7, ("one", "two")[number % 2]
        answer = stub.post(f"/predict?network={name}", files={"image": stub_image(faces, label)})
        answered = answer.json()["faces"]
        return len(answered) == faces and all(face["label"] == CLASSES[label] for face in answered)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))
    text = stub.get("/metrics").text
    for name in ("one", "two"):
        # Each network answers 100 requests with 0, 2, 4, 1, 3 faces in turn.
        assert f'emotion_requests_total{{network="{name}",status="200"}} 100.0' in text
        assert f'emotion_faces_total{{network="{name}"}} 200.0' in text
        assert f'emotion_batch_faces_sum{{network="{name}"}} 200.0' in text
        assert f'emotion_seconds_count{{network="{name}"}} 100.0' in text


def test_health_and_metrics_answer_head_requests(stub: Client) -> None:
    for path in ("/health", "/metrics"):
        answer = stub.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == stub.get(path).headers["content-type"]
        assert set(stub.get("/openapi.json").json()["paths"][path]) == {"get"}
    assert stub.head("/predict").status_code == 405


def test_health_and_description(stub: Client) -> None:
    health = stub.get("/health").json()
    assert health.pop("colours") == EXPRESSIONS
    assert health.pop("classes") == {"one": [*CLASSES], "two": [*CLASSES]}
    assert (health.pop("megabytes"), health.pop("film_megabytes")) == (15, 500)
    assert health == {"status": "ok", "version": emotion.__version__, "networks": ["one", "two"], "ink": INK}
    description = stub.get("/openapi.json").json()
    assert set(description["paths"]) == {"/predict", "/film", "/health", "/metrics"}
    body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    assert "probabilities" in description["components"]["schemas"]["FaceAnswer"]["properties"]
    answers = description["paths"]["/predict"]["post"]["responses"]
    assert sorted(map(int, answers)) == [200, 400, 403, 404, 408, 413, 415, 422, 500, 503]
    assert stub.get("/page/app.js").status_code == 404


def test_requests_of_other_sites_are_refused() -> None:
    with Client(make_service({"one": Stub()}, hosts=LOCAL_HOSTS), base_url="http://localhost:8000") as client:
        image = {"image": stub_image(1)}
        assert client.post("/predict", files=image).status_code == 200
        assert client.post("/predict", files=image, headers={"origin": "http://localhost:8000"}).status_code == 200
        for origin in ("http://localhost:9000", "http://localhost", "null", "http://[x", "", "localhost:8000"):
            assert client.post("/predict", files=image, headers={"origin": origin}).status_code == 403
        assert not any(name.startswith("access-control") for name in client.post("/predict", files=image).headers)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_local_host_names_are_answered(host: str) -> None:
    with TestClient(make_service({"one": Stub()}, hosts=LOCAL_HOSTS)) as client:
        assert client.get("/health", headers={"host": host}).status_code == 200
        headers = {"host": host, "origin": f"http://{host}"}
        assert client.post("/predict", files={"image": stub_image(1)}, headers=headers).status_code == 200


def test_a_refused_host_name_gets_the_option_that_answers_it() -> None:
    with TestClient(make_service({"one": Stub()}, hosts=[*LOCAL_HOSTS, "*.good.example"])) as client:
        assert client.get("/health", headers={"host": "Evil.example:8100"}).json() == {
            "detail": "host evil.example: not an answered name; emotion serve --hosts evil.example answers it"
        }
        for host, status in (("a.good.example:1", 200), ("good.example", 400), ("agood.example", 400)):
            assert client.get("/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example:8000", "[::2]", "[::1", "[x", "[", "::1", "", "localhost:8000/", "*"],
)
def test_other_host_names_are_refused(host: str) -> None:
    with TestClient(make_service({"one": Stub()}, page=True, hosts=LOCAL_HOSTS)) as client:
        for answer in (
            client.get("/health", headers={"host": host}),
            client.get("/page", headers={"host": host}),
            client.post("/predict", files={"image": stub_image(1)}, headers={"host": host}),
        ):
            assert answer.status_code == 400
            assert answer.json()["detail"].startswith("host ")
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (
            'emotion_requests_total{network="one",status="400"} 1.0'
            in client.get("/metrics", headers={"host": "localhost"}).text
        )


def test_every_host_name_is_answered_without_a_list() -> None:
    with TestClient(make_service({"one": Stub()}, page=True), raise_server_exceptions=False) as client:
        for host in ("emotion.example", "10.0.0.2:8000", "[::2]:80", "[x"):
            assert client.get("/health", headers={"host": host}).status_code == 200
            assert client.get("/page", headers={"host": host}).status_code < 500


def test_the_page_and_no_other_file_is_served(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/app.js").status_code == 200
    for path in ("/page/../service.py", "/page/%2e%2e/service.py", "/page/..%2fservice.py", "/page/", "/service.py"):
        assert client.get(path).status_code == 404


def test_a_taken_port_gets_a_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^127.0.0.1:{port}: another program listens here; choose another --port"):
            run({"one": Stub()}, "127.0.0.1", port, page=False, open_browser=False)
    with pytest.raises(UserError, match="cannot listen on this address"):
        run({"one": Stub()}, "no.such.host.invalid", 0, page=False, open_browser=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_address_is_one_at_which_browsers_allow_the_camera(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("emotion.inference.service.make_server", lambda _: SimpleNamespace(run=lambda sockets: None))
    run({"one": Stub()}, host, 0, page=True, open_browser=False)
    assert capsys.readouterr().out.startswith("page: http://localhost:")


def test_the_service_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    command = [sys.executable, "-m", "emotion", "serve", "--host", "::1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        assert address.startswith("http://[::1]:")
        answer = httpx.get(address.replace("/predict", "/health"))
        process.terminate()
    assert answer.json()["status"] == "ok"


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE])
def test_each_network_has_its_own_classes(classes: tuple[str, ...], tmp_path: Path) -> None:
    own = load(write_onnx(tmp_path / "own.onnx", classes))
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    with Client(make_service({"own": own, "small": load()})) as client:
        health = client.get("/health").json()
        assert health["classes"] == {"own": [*classes], "small": [*CLASSES]}
        assert {name: health["colours"][name] for name in classes} == class_colours(classes)
        for name, recognizer in (("own", own), ("small", load())):
            query = {"network": name, "detect": "false"}
            (face,) = client.post("/predict", params=query, files={"image": encoded(picture)}).json()["faces"]
            (expected,) = recognizer.predict(picture, detect=False)
            assert tuple(face["probabilities"]) == recognizer.classes
            assert face["probabilities"] == expected.as_dict()["probabilities"]
            assert face["label"] == expected.label
        (example,) = client.get("/openapi.json").json()["components"]["schemas"]["FaceAnswer"]["examples"]
        assert tuple(example["probabilities"]) == classes
        assert sum(example["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert (example["label"], example["score"]) == (classes[0], example["probabilities"][classes[0]])
        metrics = client.get("/metrics").text
    assert not any(name in metrics for name in classes if name != "label")


@pytest.mark.parametrize("value", [math.inf, math.nan, -1])
def test_limits_are_finite_numbers(value: float) -> None:
    with pytest.raises(UserError, match=f"^megabytes={value}: a number from 0 on is needed$"):
        Limits(megabytes=value)


def test_the_description_of_the_seven_stays(stub: Client) -> None:
    (example,) = stub.get("/openapi.json").json()["components"]["schemas"]["FaceAnswer"]["examples"]
    assert example == FACE_EXAMPLE


def test_the_example_of_a_face_is_what_the_network_answers(portrait: Path) -> None:
    (face,) = emotion.load().predict(portrait)
    answer = face.as_dict()
    assert (list(answer["box"]), answer["label"]) == (FACE_EXAMPLE["box"], FACE_EXAMPLE["label"])
    assert answer["probabilities"] == pytest.approx(FACE_EXAMPLE["probabilities"], abs=2e-3)


def test_answers_are_not_kept_and_the_page_is_in_no_frame(client: Client) -> None:
    for path in ("/", "/health"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert {rules[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert rules["script-src"] == rules["connect-src"] == "'self'"
