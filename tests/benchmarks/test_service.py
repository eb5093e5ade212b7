"""The kept results of the benchmark of the service support the project's claims."""

import io
import json
import os
from pathlib import Path

import psutil
import pytest
import service
from PIL import Image

RESULT = json.loads((Path(__file__).parents[2] / "benchmarks/results/service.json").read_text(encoding="utf-8"))


def runs(name: str) -> dict[int, dict[str, float]]:
    return {run["clients"]: run for run in RESULT[name]["runs"]}


def test_all_numbers_of_clients_were_measured_without_failures() -> None:
    for name in ("before", "now"):
        assert tuple(runs(name)) == service.CLIENTS
        assert all(run["seconds"] >= service.SECONDS for run in runs(name).values())
        assert sum(run["failed"] for run in runs(name).values()) == 0


@pytest.mark.parametrize("clients", service.CLIENTS)
def test_more_answers_than_the_version_before(clients: int) -> None:
    assert runs("now")[clients]["per_second"] >= max(36, 1.5 * runs("before")[clients]["per_second"])


@pytest.mark.parametrize("clients", [32, 64])
def test_answers_come_within_two_seconds(clients: int) -> None:
    assert runs("now")[clients]["p99"] < 2000


def test_the_photograph() -> None:
    with Image.open(io.BytesIO(service.photograph())) as image:
        assert (image.format, image.size) == ("JPEG", (910, 1137))


def test_percentiles() -> None:
    assert service.percentile([], 99) is None
    assert service.percentile([10.0, 20.0, 30.0], 50) == 20.0


def test_a_run_that_others_disturb_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process(os.getpid())

    def least(*shares: float) -> tuple[float, int]:
        left = list(shares)
        monkeypatch.setattr(service, "load", lambda *_: {"others_share": left.pop(0)})
        return service.quietest(0, process, b"", 1, 1)["others_share"], len(shares) - len(left)

    assert least(0.01, 0.0) == (0.01, 1)
    assert least(0.3, 0.02, 0.0) == (0.02, 2)
    assert least(0.3, 0.2, 0.4, 0.0) == (0.2, 3)
