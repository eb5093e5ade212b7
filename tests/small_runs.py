"""Runs of a small network on drawn faces and other commands, here or in processes; whether two runs are the same."""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from emotion import cli
from emotion.config import compose
from emotion.training import callbacks, results, trainer
from emotion.training.folder import RunFolder, read_json
from emotion.training.run import run

ROOT = Path(__file__).parents[1]
SMALL = [
    *("data=synthetic", "synthetic_images=210", "model=cnn_111", "image_size=24", "batch_size=32"),
    "trainer.accelerator=cpu",
]
TINY = ["model=resnet_small", "width=4", "image_size=24", "balance=none", "trainer.max_epochs=1"]
FIGURES = ("confusion_matrix_figure", "curves_figure", "mistakes_figure", "recall_figure")

processes = get_context("forkserver")
processes.set_forkserver_preload(["pytest", "emotion.cli", "emotion.training.command", "emotion.training.evaluate"])


@contextmanager
def blank_figures() -> Iterator[None]:
    """Runs draw empty figures: the real ones take four times as long as the training of a small network."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((results, FIGURES), (callbacks, FIGURES[:1])):
            for name in names:
                patch.setattr(module, name, lambda *_: Figure((1, 1)))
        yield


def train(path: Path, *overrides: str) -> RunFolder:
    run(compose(*SMALL, *overrides), path, list(overrides))
    return RunFolder(path)


def resume(path: Path, *overrides: str) -> RunFolder:
    """Goes on with the run in a folder, with some settings changed."""
    words = [f"resume={path}", *overrides]
    run(compose(*words), path, words)
    return RunFolder(path)


def start(
    folder: Path,
    *overrides: str,
    cache: Path | None = None,
    spacing: float = 30.0,
    before: Callable[[], None] | None = None,
) -> BaseProcess:
    """Trains in a process of its own, with a log (and a cache, unless one is given) beside the folder.

    Args:
        folder: of the run.
        overrides: as on the command line.
        cache: of prepared data.
        spacing: seconds between two writes of a checkpoint.
        before: called first, in that process.
    """
    place = cache or folder.with_suffix(".cache")
    process = processes.Process(target=_train, args=(folder, overrides, place, spacing, before))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Waits for a process and returns its status, negative for a signal."""
    process.join(300)
    assert isinstance(process.exitcode, int)
    return process.exitcode


def _train(
    folder: Path, overrides: tuple[str, ...], cache: Path, spacing: float, before: Callable[[], None] | None
) -> None:
    torch.set_num_threads(1)
    os.environ["EMOTION_CACHE"] = str(cache)
    sys.stderr = folder.with_suffix(".log").open("a")
    trainer.CHECKPOINT_SECONDS = spacing
    if before:
        before()
    with blank_figures():
        train(folder, *overrides)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def call(*words: str, folder: Path = ROOT, **environment: str) -> Done:
    """Gives a command in a process of its own that need not import the program, which takes seconds.

    Args:
        words: `emotion` or the file of a script, and the arguments.
        folder: to work in.
        environment: variables to add.
    """
    with TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("stdout", "stderr")]
        process = processes.Process(target=_call, args=(words, folder, os.environ | environment, files))
        process.start()
        return Done(finish(process), *(file.read_text() for file in files))


def _call(words: tuple[str, ...], folder: Path, environment: dict[str, str], files: list[Path]) -> None:
    torch.set_num_threads(1)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = list(words)
    with blank_figures():
        cli.main() if words[0] == "emotion" else runpy.run_path(words[0], run_name="__main__")


def epochs(folder: RunFolder) -> int:
    return int(read_json(folder.metrics)["run"]["epochs"])


def weights(path: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return content


def differences(first: RunFolder, second: RunFolder) -> list[str]:
    """Names what is not the same, to the last bit, of the weights, the metrics and the predictions of two runs."""
    found = []
    one, other = weights(first.last), weights(second.last)
    found += [name for name in one.keys() | other.keys() if not torch.equal(one[name], other[name])]
    results = [read_json(folder.metrics) for folder in (first, second)]
    found += [stage for stage in ("val", "test") if results[0][stage] != results[1][stage]]
    with np.load(first.predictions) as ours, np.load(second.predictions) as theirs:
        names = set(ours.files) | set(theirs.files)
        found += [name for name in names if not np.array_equal(ours[name], theirs[name])]
    return found
