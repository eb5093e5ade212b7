"""Names of networks in `emotion app`."""

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from emotion.cli import app
from emotion.data.classes import CLASSES


def test_networks_have_the_names_of_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("emotion.inference.service.run", lambda recognizers, *_, **options: given.update(recognizers))
    loaded = lambda name: SimpleNamespace(name=name, classes=CLASSES)  # noqa: E731
    monkeypatch.setattr("emotion.inference.recognizer.load", loaded)
    names = [
        "runs/one/best.ckpt",
        "runs/two/best.ckpt",
        "/y/small.onnx",
        "small",
        "best (2).onnx",
        "hf://owner/faces",
        "/x/best.onnx",
    ]
    first, *others = names
    words = [word for name in others for word in ("--compare", name)]
    result = CliRunner().invoke(app, ["app", "--ckpt", first, *words])
    assert result.exit_code == 0, result.output
    assert {label: network.name for label, network in given.items()} == {
        "best": "runs/one/best.ckpt",
        "best (2)": "runs/two/best.ckpt",
        "small (2)": "/y/small.onnx",
        "small": "small",
        "best (2) (2)": "best (2).onnx",
        "faces": "hf://owner/faces",
        "best (3)": "/x/best.onnx",
    }


def test_all_faces_of_a_crowd_are_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("emotion.inference.service.run", lambda *_, **options: given.update(options))
    monkeypatch.setattr("emotion.inference.recognizer.load", lambda name: SimpleNamespace(classes=CLASSES))
    assert CliRunner().invoke(app, ["app", "--no-open"]).exit_code == 0
    assert given["limits"].faces == 1000


@pytest.mark.parametrize("words", [["--compare", "small"], ["--compare", "x.onnx", "--compare", "x.onnx"]])
def test_the_same_network_twice_gets_one_line(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["app", "--no-open", *words])
    assert result.exit_code == 2
    assert result.stderr == f"error: --compare {words[-1]}: given twice; name another network\n"
