"""The README's figures of training speed are those of the files that the benchmarks wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench import PROGRAMS

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
WORKLOADS = ("cnn", "vgg16_ft", "vgg16_fe")


def read(name: str) -> Any:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8"))


def workload(name: str) -> Any:
    return read(f"two-cores-{name.replace('_', '-')}")["workloads"][name]


def spread(values: dict[str, float], form: str) -> str:
    return "{median:{0}} ({min:{0}} to {max:{0}})".format(form, **values)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_contestant_ran_every_round(name: str) -> None:
    measured = workload(name)
    assert set(measured["summary"]) == set(PROGRAMS)
    assert {one["rounds"] for one in measured["summary"].values()} == {len(measured["counted"])}
    assert f"{measured['images']['train']:,} + {measured['images']['val']:,} images" in README


@pytest.mark.parametrize("contestant", PROGRAMS)
@pytest.mark.parametrize("name", ["cnn", "vgg16_ft"])
def test_images_per_second(name: str, contestant: str) -> None:
    one = workload(name)["summary"][contestant]
    ratio = "1" if contestant == "ours" else f"{one['times_ours']['median']:.2f}"
    assert f"| {spread(one['images_per_second'], '.0f')} | {ratio} |" in README


@pytest.mark.parametrize("contestant", PROGRAMS)
def test_epochs_on_features(contestant: str) -> None:
    one = workload("vgg16_fe")["summary"][contestant]
    form = ".2f" if contestant in ("ours", "limit") else ".1f"
    row = f"| {spread(one['seconds_per_epoch'], form)} |"
    if contestant not in ("ours", "limit"):
        row += f" {1 / one['times_ours']['median']:.0f} |"
    assert row in README


def test_bars() -> None:
    cnn, features = workload("cnn")["summary"], workload("vgg16_fe")["summary"]
    assert cnn["ours"]["share_of_limit"]["median"] >= 0.95
    assert all(cnn[peer]["times_ours"]["max"] < 1 for peer in ("plain", "timm", "keras"))
    assert 1 / features["plain"]["times_ours"]["max"] >= 50


@pytest.mark.parametrize("name", ["cnn", "vgg16_ft"])
def test_floors(name: str) -> None:
    limit = workload(name)["summary"]["limit"]
    floor, traffic, own = (limit[key]["median"] for key in ("floor_seconds", "traffic_seconds", "seconds_per_epoch"))
    assert f"{own:.1f} s, of which operations need {floor:.1f} and bytes {traffic:.1f}" in README


def test_the_ways_in_which_the_cost_grows() -> None:
    measured = read("scaling")["measurements"]
    seconds = {
        storage: [f"{one['seconds']:.1f}" for one in measured if one["storage"] == storage]
        for storage in ("resident", "streamed")
    }
    for values in seconds.values():
        assert f"{values[0]}, {values[1]} and {values[2]} s" in README
    memory = [one["memory_mib"] for one in measured if one["storage"] == "streamed"]
    assert "{}, {} and {} MiB".format(*memory) in README


def test_overhead_of_a_step() -> None:
    assert f"{100 * read('step')['overhead_share']:.1f} % of a step" in README


def test_curves_of_features() -> None:
    measured = read("curves")
    images = measured["curves"]["0"]
    for views, seeds in measured["curves"].items():
        last = [seed[-1] for seed in seeds]
        assert len(last) == len(images)
        mean, least, most = sum(last) / len(last), min(last), max(last)
        assert f"| {views} | {mean:.3f} ({least:.3f} to {most:.3f}) |" in README


def test_shares_of_operations() -> None:
    cnn, vgg = (read("breakdown")["workloads"][name] for name in ("cnn", "vgg16_ft"))
    convolutions = [100 * (one["aten::convolution_backward"] + one["aten::mkldnn_convolution"]) for one in (cnn, vgg)]
    assert "Convolutions take {:.0f} % of the CNN's steps and {:.0f} % of VGG16's".format(*convolutions) in README
    assert f"on one core here, take {100 * cnn['aten::bernoulli_']:.0f} % of the CNN's" in README
