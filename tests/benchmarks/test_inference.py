"""The README's figures of inference are those of the file that the benchmark wrote."""

import json
import re
import statistics
from pathlib import Path

import inference
import pytest

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks/results/inference.json").read_text())
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = {
    "a file, faces found and judged": "predict a file",
    "an array, faces found and judged": "predict an array",
    "an array that is one face": "predict an array, detect=False",
    "1600 x 1200 pixels with one small face": "predict a large picture of a small face",
    "512 x 600 pixels without a face": "predict a picture without a face",
    "the network alone, ONNX": "the network, ONNX",
    "the same on one core": "the network, ONNX, one core",
    "the same in eight bits": "the network, ONNX, int8",
    "the same in PyTorch": "the network, PyTorch",
    "`emotion predict photo.jpg`, cold": "emotion predict",
    "`emotion --help`, cold": "emotion --help",
}


@pytest.mark.parametrize("row", ROWS)
def test_times(row: str) -> None:
    value = RESULT["milliseconds"][ROWS[row]]
    assert f"| {row} | {value:.0f} |" in README or f"| {row} | {value:.1f} |" in README


def test_goals() -> None:
    times = RESULT["milliseconds"]
    assert times["predict a file"] <= 30
    assert times["predict an array, detect=False"] <= 8
    assert times["the network, PyTorch"] >= 1.5 * times["the network, ONNX"]
    assert times["emotion --help"] < 500
    assert times["emotion predict"] < 2000


@pytest.mark.parametrize(("detect", "what"), [(True, "faces found and judged"), (False, "the picture is one face")])
def test_the_service(detect: bool, what: str) -> None:
    def rates(clients: int) -> str:
        kind = {"detect": detect, "clients": clients}
        own = [run["requests_per_second"] for run in RESULT["service"] if kind.items() <= run.items()]
        return f"{statistics.median(own):.0f} ({min(own):.0f} to {max(own):.0f})"

    assert f"| {what} | {rates(1)} | {rates(8)} |" in README
    assert sum(run["lost"] for run in RESULT["service"]) == 0
    assert all(run["requests"] == 200 for run in RESULT["service"])


def test_batches() -> None:
    first, *_, last = (f"{value:.0f}" for value in RESULT["faces_per_second"].values())
    assert f"{first} faces a second one by one and {last} in batches of 32" in README


def test_eight_bits() -> None:
    size, eight, float32 = re.search(r"int8.onnx: (\S+) MiB; .*accuracy (\S+), (\S+) in", RESULT["export"][-1]).groups()
    assert f"eight bits is {size} MiB and has {eight} on PublicTest, {float32} in float32" in " ".join(README.split())


def test_medians() -> None:
    calls = []
    value = inference.median(lambda: calls.append(0), repeats=20)
    assert len(calls) == 23
    assert 0 <= value < 5
