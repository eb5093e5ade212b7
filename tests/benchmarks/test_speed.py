"""The kept results of the benchmarks of training are complete and support the project's claims."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench import PROGRAMS

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def workload(name: str) -> Any:
    measured = json.loads((RESULTS / f"two-cores-{name.replace('_', '-')}.json").read_text(encoding="utf-8"))
    return measured["workloads"][name]


@pytest.mark.parametrize("name", ["cnn", "vgg16_ft", "vgg16_fe"])
def test_every_contestant_ran_every_round(name: str) -> None:
    measured = workload(name)
    assert set(measured["summary"]) == set(PROGRAMS)
    assert {metrics["rounds"] for metrics in measured["summary"].values()} == {len(measured["counted"])}


def test_goals() -> None:
    cnn, features = workload("cnn")["summary"], workload("vgg16_fe")["summary"]
    assert cnn["ours"]["share_of_limit"]["median"] >= 0.95
    assert all(cnn[peer]["times_ours"]["max"] < 1 for peer in ("plain", "timm", "keras"))
    assert 1 / features["plain"]["times_ours"]["max"] >= 50


def test_curves_have_the_same_seeds_for_all_views() -> None:
    measured = json.loads((RESULTS / "curves.json").read_text(encoding="utf-8"))["curves"]
    assert len({len(seeds) for seeds in measured.values()}) == 1
