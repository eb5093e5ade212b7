"""Options and variables of `emotion serve`."""

from typing import Any

import pytest
from typer.testing import CliRunner

from emotion.cli import app
from emotion.inference.faces import CONFIDENCE, DetectionLimits
from emotion.inference.limits import Limits
from emotion.inference.recognizer import Recognizer
from emotion.shipped import SHIPPED


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is passed to `emotion.inference.service.run`, which would not return."""
    given: dict[str, Any] = {}

    def run(recognizers: dict[str, Recognizer], host: str, port: int, **options: Any) -> None:
        given.update(options, recognizers=recognizers, host=host, port=port)

    monkeypatch.setattr("emotion.inference.service.run", run)
    return given


def invoke(*arguments: str, **variables: str) -> Any:
    environment = {f"EMOTION_{name.upper()}": value for name, value in variables.items()}
    return CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "160", **environment})


def test_defaults(served: dict[str, Any]) -> None:
    assert invoke().exit_code == 0
    (name, recognizer), *others = served.pop("recognizers").items()
    assert (name, others) == ("default", [])
    assert recognizer.limits == DetectionLimits(0, CONFIDENCE)
    assert served == {
        **{"host": "127.0.0.1", "port": 8000, "page": False, "open_browser": False},
        **{"limits": Limits(), "hosts": [], "origins": [], "access_log": False},
    }


OPTIONS = {
    "host": "0.0.0.0",
    "port": "8001",
    "hosts": "a.example,b.example",
    "cors": "https://a.example",
    "min-face": "0.1",
    "confidence": "0.8",
    "max-faces": "5",
    "max-images": "6",
    "max-mb": "2.5",
    "max-film-mb": "40",
    "timeout": "7",
    "max-wait": "0.5",
    "max-requests": "9",
}


@pytest.mark.parametrize("as_variables", [False, True])
def test_every_option_is_also_a_variable(served: dict[str, Any], as_variables: bool) -> None:
    if as_variables:
        result = invoke(access_log="1", **{name.replace("-", "_"): value for name, value in OPTIONS.items()})
    else:
        result = invoke("--access-log", *(word for name, value in OPTIONS.items() for word in (f"--{name}", value)))
    assert result.exit_code == 0, result.output
    assert served.pop("recognizers")["default"].limits == DetectionLimits(0.1, 0.8)
    assert served == {
        **{"host": "0.0.0.0", "port": 8001, "page": False, "open_browser": False, "access_log": True},
        **{"hosts": ["a.example", "b.example"], "origins": ["https://a.example"]},
        "limits": Limits(
            megabytes=2.5, images=6, faces=5, seconds=7, wait=0.5, uploads=9, requests=9, film_megabytes=40
        ),
    }


def test_the_variable_of_the_network_is_averaged_over_its_words(served: dict[str, Any]) -> None:
    assert invoke(ckpt=f"small {SHIPPED / 'small.onnx'}").exit_code == 0
    assert len(served["recognizers"]["default"].networks) == 2


def test_networks_with_names(served: dict[str, Any]) -> None:
    result = invoke("--network", "first=small", "--network", f"second={SHIPPED / 'small.onnx'}", "--min-face", "0.2")
    assert result.exit_code == 0
    assert list(served["recognizers"]) == ["first", "second"]
    assert {recognizer.limits.min_face for recognizer in served["recognizers"].values()} == {0.2}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--network", "small"],
            "--network small: NAME=FILE is needed, with a name of letters, digits, dots and dashes",
        ),
        (["--network", "a b=small"], "--network a b=small: NAME=FILE is needed"),
        (["--network", "a="], "--network a=: NAME=FILE is needed"),
        (["--network", "a=small", "--network", "a=x.onnx"], "--network a=x.onnx: the name a is given twice"),
        (["--network", "a=none"], "none: no such file"),
        (["--network", "a=small", "--ckpt", "small"], "both are given; use one of them"),
        (["--cors", "a.example"], "--cors a.example: an origin such as https://example.org, or * for every origin"),
        (["--hosts", "a:80"], "--hosts a:80: a host name without a port"),
        (["--min-face", "2"], "--min-face 2.0: a share of the image's longer side, from 0.01 to 1, is needed"),
        (["--confidence", "nan"], "--confidence nan: a number from 0.1 to 1 is needed"),
    ],
)
def test_wrong_values_get_one_line(served: dict[str, Any], words: list[str], line: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert line in result.stderr
    assert not served


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", "x"), ("max_faces", "0"), ("max_wait", "-1"), ("timeout", "")),
        *((name, "inf") for name in ("max_mb", "max_film_mb", "max_wait", "timeout")),
    ],
)
def test_wrong_values_of_variables_are_named(served: dict[str, Any], name: str, value: str) -> None:
    result = invoke(**{name: value})
    if value:
        assert result.exit_code == 2
        assert f"EMOTION_{name.upper()}" in result.stderr
        assert not served
    else:  # an empty variable counts as none
        assert (result.exit_code, served["limits"]) == (0, Limits())


def test_help_names_every_variable_in_panels() -> None:
    text = invoke("--help").stdout
    for name in (*OPTIONS, "ckpt", "access-log"):
        assert f"EMOTION_{name.replace('-', '_').upper()}]" in text, name
    for panel in ("Networks", "Address", "Detection", "Limits"):
        assert f"─ {panel}" in text
