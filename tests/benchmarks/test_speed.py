"""The README's figures of training speed are those of the files that the benchmarks wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench import PROGRAMS

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
WORKLOADS = ("cnn", "vgg16_ft", "vgg16_fe")
LABELS = {
    "limit": "the limit: bare steps on one batch that lies ready",
    "ours": "ours",
    "plain": "a plain PyTorch loop: ImageFolder, torchvision transforms, DataLoader",
    "timm": "timm's training script",
    "keras": "Keras with ImageDataGenerator, as the report",
}
ON_FEATURES = LABELS | {
    "limit": "the limit: steps of the head on one batch that lies ready",
    "ours": "ours, after {:.0f} s of preparation: three views of each image through the frozen part",
    "plain": "a plain PyTorch loop",
}


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


@pytest.mark.parametrize("contestant", LABELS)
@pytest.mark.parametrize("name", ["cnn", "vgg16_ft"])
def test_images_per_second(name: str, contestant: str) -> None:
    one = workload(name)["summary"][contestant]
    ratio = "1" if contestant == "ours" else f"{one['times_ours']['median']:.2f}"
    assert f"| {LABELS[contestant]} | {spread(one['images_per_second'], '.0f')} | {ratio} |" in README


@pytest.mark.parametrize("contestant", ON_FEATURES)
def test_epochs_on_features(contestant: str) -> None:
    one = workload("vgg16_fe")["summary"][contestant]
    form, faster = (".2f", "") if contestant in ("ours", "limit") else (".1f", f"{1 / one['times_ours']['median']:.0f}")
    label = ON_FEATURES[contestant].format(one["preparation_seconds"]["median"])
    assert f"| {label} | {spread(one['seconds_per_epoch'], form)} | {faster} |".replace("  ", " ") in README


def test_bars() -> None:
    cnn, features = workload("cnn")["summary"], workload("vgg16_fe")["summary"]
    share = cnn["ours"]["share_of_limit"]
    assert share["median"] >= 0.95
    assert all(cnn[peer]["times_ours"]["max"] < 1 for peer in ("plain", "timm", "keras"))
    assert 1 / features["plain"]["times_ours"]["max"] >= 50
    percent = {key: 100 * value for key, value in share.items()}
    assert "Ours reaches {median:.0f} % of the CNN's limit ({min:.0f} to {max:.0f} %)".format(**percent) in README
    assert f"on features {100 * features['ours']['share_of_limit']['median']:.0f} %" in README


@pytest.mark.parametrize(("name", "network"), [("cnn", "the CNN"), ("vgg16_ft", "VGG16")])
def test_floors(name: str, network: str) -> None:
    measured = read("breakdown")
    own, ceilings = measured["workloads"][name], measured["ceilings"]
    flops, moved, step = (1e3 * own[key] for key in ("flops_seconds", "bytes_seconds", "step_seconds"))
    convolutions = 100 * (own["shares"]["aten::convolution_backward"] + own["shares"]["aten::mkldnn_convolution"])
    assert f"| {network} | {step:.0f} | {flops:.0f} | {moved:.0f} | {convolutions:.0f} % |" in README
    speeds = f"({ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s) and a large copy "
    assert speeds + f"({ceilings['bytes_per_second'] / 1e9:.0f} GB/s)" in README
    dropout = 100 * measured["workloads"]["cnn"]["shares"]["aten::bernoulli_"]
    assert f"take {dropout:.0f} % of the CNN's" in README


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
