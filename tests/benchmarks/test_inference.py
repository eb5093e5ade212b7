"""The README's figures of inference are those of the file that the benchmark wrote."""

import json
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


def test_the_service() -> None:
    def rate(clients: int) -> float:
        return statistics.median(run["requests_per_second"] for run in RESULT["service"] if run["clients"] == clients)

    assert f"{rate(1):.0f} requests a second from one client, {rate(8):.0f} from eight at a time" in README
    assert sum(run["lost"] for run in RESULT["service"]) == 0
    assert all(run["requests"] == 200 for run in RESULT["service"])


def test_medians() -> None:
    calls = []
    value = inference.median(lambda: calls.append(0), repeats=20)
    assert len(calls) == 23
    assert 0 <= value < 5
