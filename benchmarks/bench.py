"""Measures training beside its peers and beside what the network alone would take.

    python benchmarks/bench.py
    python benchmarks/bench.py --workloads cnn --contestants ours limit --batch-size 256

Every contestant is a process of its own that trains the same network on the same files with the same precision; in each
round each runs once, and each round begins with another one. The first epoch of a process warms up and does not count.
Where others share the machine, a round in which they took over 3 % of some contestant's processor time is repeated,
up to as many times as there are rounds; the rounds that lost least count, and the rest stay in the file.

    limit  bare forward, backward and optimiser steps on one batch in place, bare forward passes for validation
    ours   what train.py runs, with logging, checkpoints and TensorBoard
    plain  an ordinary PyTorch loop: ImageFolder, torchvision transforms, DataLoader
    timm   timm's train.py, downloaded at the tag of the installed timm
    keras  Keras with ImageDataGenerator, in an environment of its own that the first call makes

The files are part of FER2013 from EMOTION_DATA or data/fer2013, or drawn faces, with the classes in their shares.

The result is a JSON file, written anew after every round:

    date, hardware   when and on what; `environment` has command, commit, versions
    settings         options of the command line after `auto` was resolved: precision, rounds, epochs, data
    workloads        for each: `images` (train, val, test), `batch_size`, `feature_views` (0: none), `workers` and
                     `workers_tried` (number of loader processes to seconds per epoch of the plain loop),
                     `runs`, `counted` (numbers of the rounds that count) and `summary`
    runs             for each contestant, a measurement each round: `epochs` (train_seconds, val_seconds, images,
                     stolen_share: of the processors' time, what the host gave to others),
                     `startup_seconds` (process start to first finished step, without preparation),
                     `preparation_seconds` (what later runs find done: packed images, features), `peak_rss_mib`,
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
from summary import WARM_UP, calmest, summarise
from workloads import WORKLOADS, Job

RESULTS = Path(__file__).parent / "results"
DEFAULT_DATA = Path(__file__).parents[1] / "data" / "fer2013"
WIDTH = 100
"""Of the table, characters, at least."""
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


def parse_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="networks to train")
    add("--contestants", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="who takes part")
    add("--rounds", type=_at_least(1), default=5, help="how often each contestant runs (5)")
    add("--epochs", type=_at_least(WARM_UP + 1), default=3, help="of a process, the first of them warm-up (3)")
    add("--images", type=_at_least(28), help="training images of an epoch; a quarter validates (by workload)")
    add("--batch-size", type=_at_least(2), default=64, help="images of a step (64)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="of all; auto: what train.py takes here")
    add("--data", choices=("auto", "fer2013", "synthetic"), default="auto", help="auto: FER2013 if it is there")
    add("--feature-views", type=_at_least(1), default=3, help="vgg16_fe: views of which ours keeps the features (3)")
    add("--workers", type=_at_least(0), help="loader processes of plain and timm (the fastest of 0, 2 and all cores)")
    add("--timm-script", type=Path, help="timm's train.py where it cannot be downloaded")
    add("--out", type=Path, help="JSON file, the picture beside it (benchmarks/results/<hardware>-<precision>.json)")
    return parser.parse_args(words)


def measure(options: argparse.Namespace) -> None:
    """Runs all rounds of all workloads; files and table are up to date after each."""
    from rich.console import Console
    from table import speed_table

    result = describe(options)
    gpu = bool(result["environment"]["gpus"])
    contestants = [enter(name, gpu, options.timm_script) for name in options.contestants]
    out = options.out or RESULTS / f"{slug(result)}.json"
    console = Console(width=max(WIDTH, Console().width))
    for name in options.workloads:
        with TemporaryDirectory() as folder:
            for workload in measure_workload(name, contestants, options, result["settings"], Path(folder)):
                result["workloads"][name] = workload
                save(result, out)
                ran = len(workload["runs"][contestants[0].name])
                console.log(f"{name}: {ran} rounds, {len(workload['counted'])} of {options.rounds} count")
        console.print(speed_table(name, result["workloads"][name]))
    console.print(f"{out}\n{out.with_suffix('.png')}")


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the result before anything is measured."""
    from emotion.training.environment import describe_environment, describe_hardware

    environment = describe_environment()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_hardware(environment),
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
    """Returns where FER2013 is looked for."""
    return Path(os.environ.get("EMOTION_DATA") or DEFAULT_DATA).expanduser()


def resolve_precision(precision: str) -> str:
    """Returns the precision, or for `auto` the one of the Trainer; 32-true where that is neither of `PRECISIONS`."""
    if precision != "auto":
        return precision
    from emotion.config import compose
    from emotion.training.folder import RunFolder
    from emotion.training.trainer import build_trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with TemporaryDirectory() as folder:
        chosen = str(build_trainer(compose(), RunFolder(Path(folder))).precision)
    return chosen if chosen in PRECISIONS else "32-true"


def enter(name: str, gpu: bool, script: Path | None) -> Contestant:
    """Gets a contestant ready; one that cannot be had enters with the reason."""
    from peers import keras_python, timm_script

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
    """Yields the record of a workload after each round."""
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
        counted = calmest(record["runs"], options.rounds)
        summary = summarise({key: [own[number] for number in counted] for key, own in record["runs"].items()})
        yield record | {"counted": counted, "summary": summary}


def save(result: dict[str, Any], out: Path) -> None:
    """Writes the result and its picture."""
    from figure import speed_figure

    from emotion.training.folder import write_json

    write_json(out, result)
    temporary = out.with_name(f".{out.stem}.tmp.png")
    speed_figure(result).savefig(temporary)
    temporary.replace(out.with_suffix(".png"))


def slug(result: dict[str, Any]) -> str:
    """Returns the name of the files: hardware and precision."""
    return re.sub(r"[^a-z0-9]+", "-", f"{result['hardware']} {result['settings']['precision']}".lower()).strip("-")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value}: a whole number from {least} is needed")
        return value

    return number


if __name__ == "__main__":
    main()
