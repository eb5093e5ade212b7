"""Host names, pages of other sites, the access log and the metrics of the service."""

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import emotion
from emotion.errors import UserError
from emotion.inference.access import LOCAL_HOSTS, answered_hosts, parse_hosts, parse_origins
from emotion.inference.recognizer import Recognizer
from emotion.inference.service import make_service

ORIGIN = "https://faces.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


@pytest.fixture(scope="module")
def black() -> bytes:
    file = io.BytesIO()
    Image.new("L", (48, 48)).save(file, "PNG")
    return file.getvalue()


def test_allowed_origins_may_ask_and_read(recognizer: Recognizer, black: bytes) -> None:
    with TestClient(make_service({"small": recognizer}, origins=[ORIGIN])) as client:
        preflight = client.options("/predict", headers={"origin": ORIGIN, **PREFLIGHT})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert preflight.headers["access-control-allow-methods"] == "GET, POST"
        assert "Content-Type" in preflight.headers["access-control-allow-headers"]
        for content, status in ((black, 200), (b"x", 422)):
            answer = client.post("/predict", files={"image": content}, headers={"origin": ORIGIN})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
            assert answer.headers["access-control-expose-headers"] == "Retry-After"
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://faces.example", f"{ORIGIN}:8443", "null"])
def test_other_origins_are_refused(recognizer: Recognizer, black: bytes, origin: str) -> None:
    with TestClient(make_service({"small": recognizer}, origins=[ORIGIN])) as client:
        refused = [
            client.options("/predict", headers={"origin": origin, **PREFLIGHT}),
            client.post("/predict", files={"image": black}, headers={"origin": origin}),
        ]
    for answer in refused:
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_every_origin_may_be_allowed(recognizer: Recognizer, black: bytes) -> None:
    with TestClient(make_service({"small": recognizer}, origins=["*"])) as client:
        answer = client.post("/predict", files={"image": black}, headers={"origin": "null"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_preflights_are_refused_without_origins(recognizer: Recognizer) -> None:
    with TestClient(make_service({"small": recognizer})) as client:
        assert client.options("/predict", headers={"origin": ORIGIN, **PREFLIGHT}).status_code == 403


def test_lists_of_origins_and_hosts() -> None:
    assert parse_origins("") == parse_hosts(" , ") == []
    origins = "https://A.example, http://localhost:3000,http://[::1]:80,*"
    assert parse_origins(origins) == ["https://a.example", "http://localhost:3000", "http://[::1]:80", "*"]
    assert parse_hosts("A.example,*.b.example,10.0.0.2,[::2],*") == [
        *("a.example", "*.b.example", "10.0.0.2", "[::2]", "*")
    ]
    for wrong in ("a.example", "https://a.example/", "ftp://a.example", "https://*.a.example", "null"):
        with pytest.raises(UserError, match="an origin such as https"):
            parse_origins(wrong)
    for wrong in ("a.example:80", "http://a.example", "a.*", "a/b", "-,é"):
        with pytest.raises(UserError, match="a host name without a port"):
            parse_hosts(wrong)


def test_which_hosts_are_answered() -> None:
    assert answered_hosts("127.0.0.1", []) == answered_hosts("[::1]", []) == LOCAL_HOSTS
    assert answered_hosts("0.0.0.0", []) == ("*",)
    assert answered_hosts("0.0.0.0", ["a.example"]) == ["a.example", *LOCAL_HOSTS]
    assert answered_hosts("127.0.0.1", ["a.example"]) == ["a.example", *LOCAL_HOSTS]


def test_a_line_for_each_request(
    recognizer: Recognizer, portrait: Path, black: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestClient(make_service({"small": recognizer}, access_log=True), client=("10.1.2.3", 5000)) as client:
        client.post("/predict?detect=true", files={"image": ("secret.jpg", portrait.read_bytes())})
        client.post("/predict", files=[("image", black), ("image", portrait.read_bytes()), ("image", b"x")])
        client.post("/predict", files={"image": black})
        client.post("/predict", files={"image": b"x"})
        client.get("/health%0a%1b[31m?token=secret")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shortened = [" ".join([*line[:4], *line[6:]]) for line in lines]
    assert shortened == [
        "10.1.2.3 POST /predict 200 1 face",
        "10.1.2.3 POST /predict 200 1 face",
        "10.1.2.3 POST /predict 200 0 faces",
        "10.1.2.3 POST /predict 422",
        "10.1.2.3 GET /health%0A%1B%5B31m 404",
    ]
    assert all(int(line[4]) >= 0 and line[5] == "ms" for line in lines)


def test_no_line_without_the_option(recognizer: Recognizer, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(make_service({"small": recognizer})) as client:
        client.get("/health")
    assert capsys.readouterr().out == ""


def test_metrics_name_the_version_and_each_network(recognizer: Recognizer, black: bytes) -> None:
    with TestClient(make_service({"a": recognizer, "b": recognizer})) as client:
        client.post("/predict?network=b&detect=false", files={"image": black})
        for name in ("x", "y"):
            client.post(f"/predict?network={name}", files={"image": black})
        text = client.get("/metrics").text
    assert f'emotion_build_info{{version="{emotion.__version__}"}} 1.0' in text
    assert "_created" not in text
    assert 'emotion_faces_total{network="a"} 0.0' in text
    assert 'emotion_faces_total{network="b"} 1.0' in text
    assert 'emotion_requests_total{network="b",status="200"} 1.0' in text
    assert 'emotion_requests_total{network="",status="404"} 2.0' in text
    assert 'emotion_seconds_count{network="b"} 1.0' in text
