"""Runs of a small network on drawn faces, here or in a process of their own, and whether two of them are the same."""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emotion.config import compose
from emotion.training.checkpoint import ThrottledCheckpointIO
from emotion.training.folder import RunFolder, read_json
from emotion.training.run import run

SMALL = ["data=synthetic", "synthetic_images=210", "model=cnn_111", "batch_size=32", "trainer.accelerator=cpu"]

processes = get_context("forkserver")
processes.set_forkserver_preload(["emotion.training.run"])


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
    process = processes.Process(target=_work, args=(folder, overrides, place, spacing, before))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Waits for a process and returns its status, negative for a signal."""
    process.join(300)
    assert isinstance(process.exitcode, int)
    return process.exitcode


def _work(
    folder: Path, overrides: tuple[str, ...], cache: Path, spacing: float, before: Callable[[], None] | None
) -> None:
    torch.set_num_threads(1)
    os.environ["EMOTION_CACHE"] = str(cache)
    sys.stderr = folder.with_suffix(".log").open("a")
    ThrottledCheckpointIO.__init__.__defaults__ = (spacing,)  # type: ignore[misc]
    if before:
        before()
    train(folder, *overrides)


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
