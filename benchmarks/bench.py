"""Measures the speed of training, of its peers, and of the network's computations alone.

    python benchmarks/bench.py
    python benchmarks/bench.py --workloads cnn --contestants ours limit --batch-size 256

Every contestant is a separate process that trains the same network on the same files with the same precision. Each
contestant runs once in a round, and each round starts with another contestant. The first epoch of a process is a
warm-up and is not measured. On a shared virtual machine, rounds in which a contestant lost over 3 % of its processor
time to other machines are repeated, at most as many as there are rounds. The summary is over the rounds that lost the
least time; the file keeps all rounds.

    limit  bare forward, backward and optimiser steps on one batch in memory, bare forward passes for validation
    ours   train.py with logging, checkpoints and TensorBoard
    plain  an ordinary PyTorch loop: ImageFolder, torchvision transforms, DataLoader
    timm   timm's train.py, downloaded at the tag of the installed timm
    keras  Keras with ImageDataGenerator, in a separate environment that the first call makes

The files are a subset of FER2013 from EMOTION_DATA or data/fer2013, or drawn faces; the classes keep their shares.

The result is a JSON file, which is rewritten after every round:

    date, hardware   date and hardware; `environment` has command, commit, versions
    settings         options of the command line with `auto` resolved: precision, rounds, epochs, data
    workloads        for each workload: `images` (train, val, test), `batch_size`, `feature_views` (0: none), `workers`
                     and `workers_tried` (seconds per epoch of the plain loop by number of loader processes),
                     `runs`, `counted` (indices of the rounds in the summary) and `summary`
    runs             for each contestant, a measurement of each round: `epochs` (train_seconds, val_seconds, images,
                     stolen_share: share of processor time that the host gave to other virtual machines),
                     `startup_seconds` (process start to end of the first step, without preparation),
                     `preparation_seconds` (work that later runs reuse: packed images, features), `peak_rss_mib`,
                     `peak_device_mib` (null without a GPU), `parameters`, `versions`, `note`; or `error`
    summary          see `summary.summarise`
"""

import argparse
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rounds import Contestant, choose_workers, run_rounds
from summary import WARM_UP, least_disturbed, summarise
from workloads import WORKLOADS, Job

RESULTS = Path(__file__).parent / "results"
DEFAULT_DATA = Path(__file__).parents[1] / "data" / "fer2013"
WIDTH = 100
"""Smallest width of the table, in characters."""
PRECISIONS = ("32-true", "bf16-mixed")
PROGRAMS = {
    "limit": "contestants.limit",
    "ours": "contestants.ours",
    "plain": "contestants.plain",
    "timm": "contestants.timm_script",
    "keras": "contestants.keras_generator",
}


def main() -> None:
    """Runs the command line."""
    options = parse_options()
    from emotion.errors import exit_on_user_error

    with exit_on_user_error():
        measure(options)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="networks to train")
    add("--contestants", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="contestants to measure")
    add("--rounds", type=_at_least(1), default=5, help="runs of each contestant (5)")
    add("--epochs", type=_at_least(WARM_UP + 1), default=3, help="epochs of a process; the first is a warm-up (3)")
    add("--images", type=_at_least(28), help="training images, and a quarter as many for validation (by workload)")
    add("--batch-size", type=_at_least(2), default=64, help="images of a step (64)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="of all contestants; auto: as in train.py")
    add("--data", choices=("auto", "fer2013", "synthetic"), default="auto", help="auto: FER2013 if available")
    add("--feature-views", type=_at_least(1), default=3, help="vgg16_fe: augmented views for features, ours only (3)")
    add("--workers", type=_at_least(0), help="loader processes of plain and timm (the fastest of 0, 2 and all cores)")
    add("--timm-script", type=Path, help="timm's train.py, if it cannot be downloaded")
    add("--out", type=Path, help="JSON file, with a plot beside it (benchmarks/results/<hardware>-<precision>.json)")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> None:
    """Runs all rounds of all workloads and writes the files after each round."""
    from rich.console import Console
    from table import speed_table

    result = describe(options)
    gpu = bool(result["environment"]["gpus"])
    contestants = [make_contestant(name, gpu, options.timm_script) for name in options.contestants]
    out = options.out or RESULTS / f"{slug(result)}.json"
    console = Console(width=max(WIDTH, Console().width))
    for name in options.workloads:
        with TemporaryDirectory() as folder:
            for workload in measure_workload(name, contestants, options, result["settings"], Path(folder)):
                result["workloads"][name] = workload
                save(result, out)
                rounds = len(workload["runs"][contestants[0].name])
                console.log(f"{name}: {rounds} rounds, {len(workload['counted'])} of {options.rounds} in the summary")
        console.print(speed_table(name, result["workloads"][name]))
    console.print(f"{out}\n{out.with_suffix('.png')}")


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the result without any measurement."""
    import torch

    from emotion.training.environment import describe_environment, describe_hardware

    environment = describe_environment()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_hardware(environment, torch.device("cuda" if environment["gpus"] else "cpu")),
        "settings": {
            "precision": resolve_precision(options.precision),
            "rounds": options.rounds,
            "epochs": options.epochs,
            "data": options.data if options.data != "auto" else "fer2013" if data_dir().is_dir() else "synthetic",
        },
        "workloads": {},
        "environment": environment,
    }


def data_dir() -> Path:
    """Returns the folder of FER2013, which need not exist."""
    return Path(os.environ.get("EMOTION_DATA") or DEFAULT_DATA).expanduser()


def resolve_precision(precision: str) -> str:
    """Returns the precision, for `auto` that of the Trainer; 32-true if that is not in `PRECISIONS`."""
    if precision != "auto":
        return precision
    from emotion.config import compose, read
    from emotion.training.folder import RunFolder
    from emotion.training.trainer import build_trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with TemporaryDirectory() as folder:
        chosen = str(build_trainer(read(compose()), RunFolder(Path(folder))).precision)
    return chosen if chosen in PRECISIONS else "32-true"


def make_contestant(name: str, gpu: bool, script: Path | None) -> Contestant:
    """Returns a contestant with all that it needs, or with the reason why that is missing."""
    from environments import keras_python, timm_script

    from emotion.errors import UserError

    try:
        if name == "keras":
            return Contestant(name, PROGRAMS[name], python=keras_python(gpu))
        if name == "timm":
            return Contestant(name, PROGRAMS[name], script=str(timm_script(script)))
    except UserError as error:
        return Contestant(name, PROGRAMS[name], missing=str(error))
    return Contestant(name, PROGRAMS[name])


def measure_workload(
    name: str, contestants: Sequence[Contestant], options: argparse.Namespace, settings: dict[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Runs the rounds of a workload and yields its entry in the result after each round."""
    from faces import write_folders

    images = write_folders(folder, settings["data"], data_dir(), options.images or WORKLOADS[name].images)
    views = options.feature_views if WORKLOADS[name].features else 0
    job = Job(name, str(folder), options.batch_size, options.epochs, settings["precision"], options.workers or 0, views)
    tried: dict[int, float] = {}
    if options.workers is None and {"plain", "timm"} & set(options.contestants):
        tried = choose_workers(Contestant("plain", PROGRAMS["plain"]), job, sorted({0, 2, os.cpu_count() or 2}))
        job = replace(job, workers=min(tried, key=lambda workers: tried[workers], default=0))
    record = {
        "images": images,
        "batch_size": options.batch_size,
        "feature_views": views,
        "workers": job.workers,
        "workers_tried": tried,
        "runs": {contestant.name: [] for contestant in contestants},
    }
    for runs in run_rounds(contestants, job, options.rounds):
        for contestant, run in runs.items():
            record["runs"][contestant].append(run)
        counted = least_disturbed(record["runs"], options.rounds)
        summary = summarise({key: [rounds[index] for index in counted] for key, rounds in record["runs"].items()})
        yield record | {"counted": counted, "summary": summary}


def save(result: dict[str, Any], out: Path) -> None:
    """Writes the result and its plot."""
    from figure import speed_figure

    from emotion.training.folder import write_json

    write_json(out, result)
    temporary = out.with_name(f".{out.stem}.tmp.png")
    speed_figure(result).savefig(temporary)
    temporary.replace(out.with_suffix(".png"))


def slug(result: dict[str, Any]) -> str:
    """Returns the name of the files without suffix: hardware and precision."""
    return re.sub(r"[^a-z0-9]+", "-", f"{result['hardware']} {result['settings']['precision']}".lower()).strip("-")


def _at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if (value := int(text)) < minimum:
            raise argparse.ArgumentTypeError(f"{value}: must be an integer of at least {minimum}")
        return value

    return integer


if __name__ == "__main__":
    main()
