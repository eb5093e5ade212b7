"""The kept results of the benchmark of inference are complete and support the project's claims."""

import json
from pathlib import Path

import inference

RESULT = json.loads((Path(__file__).parents[2] / "benchmarks/results/inference.json").read_text())


def test_goals() -> None:
    times = RESULT["milliseconds"]
    assert times["predict a file"] <= 30
    assert times["predict an array, detect=False"] <= 8
    assert times["the network, PyTorch"] >= 1.5 * times["the network, ONNX"]
    assert times["emotion --help"] < 500
    assert times["emotion predict"] < 2000


def test_the_service_lost_no_request() -> None:
    assert sum(run["lost"] for run in RESULT["service"]) == 0
    assert all(run["requests"] == 200 for run in RESULT["service"])


def test_medians() -> None:
    calls = []
    value = inference.median(lambda: calls.append(0), repeats=20)
    assert len(calls) == 23
    assert 0 <= value < 5
