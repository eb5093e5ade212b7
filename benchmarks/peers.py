"""Compares the network that comes with the package with those in other packages, on the same images of FER2013.

    EMOTION_DATA=data/fer2013 python benchmarks/peers.py

`--only shipped` measures one network again, and the others keep their values.

Each network is installed with pip or npm as its authors packed it, in an environment of its own in the cache, and is
fed as its own code feeds it (recognizers/). It gets faces of 48 x 48 pixels, so that no detector is measured. Accuracy
and macro F1 are counted on PrivateTest, PublicTest and as many random Training images, which shows what a network has
seen. For the times every process may use one core and one thread; the networks take turns. Foreign weights are loaded
without code (`weights_only` of PyTorch).

Contents of the JSON file: `networks`, by key, {`install`, `versions`, `megabytes`, `parameters`, `accuracy` and
`f1_macro` by part, `milliseconds` and `cold_seconds`, a value a round, `environment`: when and on which machine these
times were measured}; `images`, their number by part.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from environments import Environment, node_environment, python_environment
from numpy.typing import NDArray
from recognizers.protocol import class_name

from emotion.analysis.metrics import confusion_matrix, matrix_metrics
from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError, exit_on_user_error
from emotion.settings import DataSettings
from emotion.training.environment import describe_environment

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(__file__).parent / "recognizers"
OUT = ROOT / "benchmarks/results/peers.json"
PARTS = {"private": "PrivateTest", "public": "PublicTest", "train": "Training"}
TIMED, WARM_UP = 200, 20
"""Images whose time is measured in a round, and images before them."""
SECONDS = 3600
"""After that a program is ended."""
SETUPTOOLS = "setuptools==80.9.0"
"""The last version line with `pkg_resources`, which some packages import and do not ask for."""
RECORDED = ("tensorflow", "keras", "torch", "torchvision", "onnxruntime", "numpy", "@tensorflow/tfjs")
"""Packages whose versions are recorded besides the network's own."""
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
}


@dataclass(frozen=True)
class Peer:
    """A network in a package.

    Attributes:
        program: its program in recognizers/, with words for it.
        pins: what pip or npm installs, the package itself first.
        fresh: whether its environment is made again in each run, since the package changes under one version.
    """

    program: tuple[str, ...]
    pins: tuple[str, ...]
    fresh: bool = False

    @property
    def node(self) -> bool:
        """Whether it runs in Node."""
        return self.program[0].endswith(".js")

    @property
    def package(self) -> str:
        """Name of its package."""
        return self.pins[0].rpartition("@")[0] if self.node else self.pins[0].partition("==")[0]

    @property
    def install(self) -> str:
        """The command that installs it."""
        pins = ["."] if self.fresh else self.pins
        return " ".join(["npm install" if self.node else "pip install", *pins])


TFJS = ("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")
PEERS = {
    "shipped": Peer(("shipped.py",), (str(ROOT),), fresh=True),
    "fer": Peer(("fer_package.py",), ("fer==25.10.3", SETUPTOOLS)),
    "fer-keras": Peer(("fer_package.py", "keras"), ("fer==25.10.3", SETUPTOOLS)),
    "facex": Peer(("facex_classifier.py",), ("facex==1.1.0",)),
    "facemood": Peer(("facemood_camera.py",), ("facemood==1.0.1", SETUPTOOLS)),
    "what-the-face": Peer(("what_the_face.py",), ("what-the-face-classification==0.0.27", SETUPTOOLS)),
    "pyemotion": Peer(("pyemotion_package.py",), ("PyEmotion==1.0.0",)),
    "human": Peer(("human_wasm.js",), ("@vladmandic/human@3.3.6", *TFJS)),
    "face-api": Peer(("face_api_wasm.js",), ("@vladmandic/face-api@1.7.15", *TFJS)),
}


@dataclass(frozen=True)
class Images:
    """Images of a part of FER2013: pixels uint8 [N, 48, 48] and class ids int64 [N]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_parts() -> dict[str, Images]:
    """Reads both test parts, and as many random Training images as PrivateTest has."""
    packed = EmotionDataModule(DataSettings(data="fer2013")).packed
    random, parts, number = np.random.default_rng(0), {}, 0
    for part in PARTS:
        rows = random.permutation(np.flatnonzero(packed.parts == part))[: number or None]
        number = number or len(rows)
        parts[part] = Images(packed.images[rows, 0], packed.labels[rows])
    return parts


def install(key: str) -> Environment:
    """Returns the environment of a network, which is made if it is missing."""
    peer = PEERS[key]
    if peer.node:
        return node_environment(peer.package.rpartition("/")[2], peer.pins)
    return python_environment("emotion" if peer.fresh else peer.package, peer.pins, peer.fresh)


def classify(key: str, environment: Environment, pixels: NDArray[np.uint8], core: int | None = None) -> dict[str, Any]:
    """Runs the program of a network on images.

    Args:
        key: key of `PEERS`.
        environment: where its package is installed.
        pixels: images, uint8 [N, 48, 48].
        core: the only core that the process may use; None for all.

    Returns:
        `classes` and `milliseconds` of each image, `parameters`, and `cold_seconds` from the start of the process to
        the first answer.

    Raises:
        UserError: the program failed, or did not end.
    """
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables = kept | ENVIRONMENT | {"PEER_MODULES": str(environment.modules)}
    program, *words = PEERS[key].program
    with TemporaryDirectory() as folder:
        path = Path(folder) / "images.bin"
        pixels.tofile(path)
        command = [environment.interpreter, str(PROGRAMS / program), str(path), *words]
        began = time.time()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=variables, cwd=folder, preexec_fn=pin, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"{key}: {program} did not end in {SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{key}: {program} failed ({lines[-1]})")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"cold_seconds": result["answered"] - began}


def score(answers: Sequence[str], labels: NDArray[np.int64]) -> dict[str, float]:
    """Returns accuracy and macro F1 of the names of classes; a name that FER2013 does not have is a wrong answer."""
    number = len(CLASSES)
    names = [class_name(name) for name in answers]
    predicted = np.array([CLASSES.index(name) if name in CLASSES else number for name in names])
    metrics = matrix_metrics(confusion_matrix(labels, predicted, number + 1), [*CLASSES, "other"])
    return {"accuracy": round(metrics["acc"], 4), "f1_macro": round(metrics["f1_macro"], 4)}


def measure_accuracy(key: str, environment: Environment, parts: dict[str, Images]) -> dict[str, Any]:
    """Returns the parameters, and accuracy and macro F1 by part."""
    answers = classify(key, environment, np.concatenate([images.pixels for images in parts.values()]))
    scores, begin = {}, 0
    for part, images in parts.items():
        end = begin + len(images.labels)
        scores[PARTS[part]] = score(answers["classes"][begin:end], images.labels)
        begin = end
    by_metric = {name: {part: own[name] for part, own in scores.items()} for name in ("accuracy", "f1_macro")}
    return {"parameters": answers["parameters"], **by_metric}


def measure_speed(environments: dict[str, Environment], images: Images, rounds: int) -> dict[str, dict[str, Any]]:
    """Returns the median milliseconds of an image and the seconds of the cold start in each round that did not fail."""
    pixels = images.pixels[: WARM_UP + TIMED]
    times: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for key, environment in environments.items():
            with reported():
                answers = classify(key, environment, pixels, core=0)
                own = times.setdefault(key, {"milliseconds": [], "cold_seconds": []})
                own["milliseconds"].append(round(statistics.median(answers["milliseconds"][WARM_UP:]), 3))
                own["cold_seconds"].append(round(answers["cold_seconds"], 2))
    return times


@contextmanager
def reported() -> Iterator[None]:
    """Prints the error of a network, so that the others are still measured."""
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)


def describe(key: str, environment: Environment) -> dict[str, Any]:
    """Returns how a network is installed, versions and megabytes."""
    installed = environment.installed
    package = "emotion" if PEERS[key].fresh else PEERS[key].package
    versions = {name.lower().replace("_", "-"): version for name, version in installed["versions"].items()}
    wanted = [name for name in (package, *RECORDED) if name.lower() in versions]
    return {
        "install": PEERS[key].install,
        "versions": {name: versions[name.lower()] for name in wanted},
        "megabytes": installed["megabytes"],
    }


def place_and_date() -> dict[str, Any]:
    """Returns when, by which command and on which machine the times are measured."""
    machine = describe_environment()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, **{name: machine[name] for name in ("command", "python", "cpu", "cores")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="networks to measure")
    parser.add_argument("--measure", nargs="+", choices=("accuracy", "speed"), default=("accuracy", "speed"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file; networks that are not measured stay in it")
    options = parser.parse_args()
    parts = read_parts()
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"networks": {}}
    result["images"] = {PARTS[part]: len(images.labels) for part, images in parts.items()}

    def keep(key: str, measured: dict[str, Any]) -> None:
        result["networks"][key] = result["networks"].get(key, {}) | describe(key, environments[key]) | measured
        result["networks"] = {name: result["networks"][name] for name in PEERS if name in result["networks"]}
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(key, json.dumps(measured), flush=True)

    environments = {}
    for key in options.only:
        with reported():
            environments[key] = install(key)
    for key, environment in environments.items():
        if "accuracy" in options.measure:
            with reported():
                keep(key, measure_accuracy(key, environment, parts))
    if "speed" in options.measure:
        for key, times in measure_speed(environments, parts["private"], options.rounds).items():
            keep(key, {"environment": place_and_date(), **times})


if __name__ == "__main__":
    with exit_on_user_error():
        main()
