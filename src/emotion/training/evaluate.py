"""Evaluates one checkpoint, or the mean probability of several (arXiv:1612.01474), on their own or on other data."""

import hashlib
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from emotion.analysis.predictions import Predictions, mean_predictions
from emotion.config import check
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.errors import UserError, exit_on_user_error
from emotion.models.device import find_device
from emotion.models.onnx import ViewsName
from emotion.overrides import parse_arguments
from emotion.privacy import keep_private
from emotion.training.checkpoint import Checkpoint, load_checkpoint
from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.folder import EVALUATION, make_results_folder, write_json
from emotion.training.results import predict_stages, write_results

OPTIONS = ("ckpt", "out", "device", "tta")
USAGE = """usage: evaluate.py ckpt=<file> | ckpt=[a.ckpt,b.ckpt] [tta=flip] [out=<folder>] [device=cuda]
                   [data=... split=...]

Rebuilds network and data from a checkpoint and tests the network. Settings of the data on the command line replace
those of the checkpoint; split=test_only tests on all images of a source. The probabilities of several checkpoints are
averaged; a pattern in quotes, ckpt='runs/small/*/checkpoints/best.ckpt', stands for all files that match it.
tta=flip, shifts or ten_crop also tests with test-time augmentation."""


def main() -> None:
    """Runs the command line: `ckpt=<file>` and settings as `key=value`."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return
    keep_private()
    with exit_on_user_error():
        options = parse_arguments(sys.argv[1:], OPTIONS)
        patterns = options.pop("ckpt", None) or []
        patterns = patterns if isinstance(patterns, list) else [patterns]
        paths = [path for pattern in patterns for path in _matches(str(pattern))]
        given = {key: options.pop(key) for key in ("out", "device", "tta") if key in options}
        evaluate(paths, options, **given)


def evaluate(
    paths: Sequence[Path],
    changes: dict[str, Any],
    out: str | None = None,
    device: str | None = None,
    tta: ViewsName = "none",
) -> dict[str, Any]:
    """Tests checkpoints and writes `metrics.json`, `predictions.npz`, `evaluation.json`, figures and the report.

    Args:
        paths: the checkpoints; the probabilities of several are averaged.
        changes: settings of the data that replace those in the checkpoints.
        out: folder for the results; None makes `runs/evaluations/<data>-<split>-<hash>`.
        device: `cpu` or `cuda`; None takes a GPU if there is one.
        tta: test-time augmentation, see `emotion.models.views.Views`; adds the stages `val_tta` and `test_tta`.

    Returns:
        The content of `metrics.json`: metrics by stage.

    Raises:
        UserError: no checkpoint is given, one cannot be read, their test images differ, there is no such device, or
            the folder cannot be made.
    """
    if not paths:
        raise UserError(f"ckpt: missing; give a checkpoint\n{USAGE}")
    check({**changes, "tta": tta})
    torch_device = find_device(device)
    checkpoints = [load_checkpoint(path) for path in paths]
    modules = [checkpoint.data_module(**changes) for checkpoint in checkpoints]
    first = modules[0]
    folder = Path(str(out)).expanduser() if out else _default_folder(first, paths, {**changes, "tta": tta})
    make_results_folder(folder)
    stages = _predict(checkpoints, modules, torch_device, tta)
    environment = describe_environment()
    facts = {
        "checkpoints": ", ".join(map(str, paths)),
        "data": str(first.hparams["data"]),
        "split": str(first.hparams["split"]),
        "test images trained on": _describe_seen(checkpoints, first),
        **({} if "val" in stages else {"validation images": "left out: not the same for all, or trained on"}),
        "hardware": describe_hardware(environment),
        "command": environment["command"],
    }
    results = write_results(folder, "Evaluation", facts, stages, first)
    record = {"checkpoints": [str(path) for path in paths], "seen": facts["test images trained on"], "tta": tta}
    write_json(folder / EVALUATION, record | {key: facts[key] for key in ("data", "split", "hardware", "command")})
    _print(results, folder, facts["test images trained on"])
    return results


def _stages(checkpoints: Sequence[Checkpoint], modules: Sequence[EmotionDataModule]) -> list[Stage]:
    """Returns the stages to evaluate: without validation if its images differ between checkpoints or were trained on.

    They differ between the seeds of `split=report`. They count as trained on if that is true of at least half of them:
    then the evaluation uses another split than the training. A smaller share are the duplicates within FER2013.
    """
    rows = modules[0].rows.val
    shared = all(np.array_equal(rows, data.rows.val) for data in modules)
    return ["val", "test"] if shared and 2 * _seen(checkpoints, modules[0], rows).sum() < len(rows) else ["test"]


def _seen(checkpoints: Sequence[Checkpoint], data: EmotionDataModule, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns a mask [len(rows)] of images that are, pixel for pixel, in the known training images of a checkpoint."""
    return np.isin(data.packed.hashes[rows], np.concatenate([checkpoint.hashes for checkpoint in checkpoints]))


def _describe_seen(checkpoints: Sequence[Checkpoint], data: EmotionDataModule) -> str:
    for checkpoint in checkpoints:
        if checkpoint.size is None:
            return "not known (older checkpoints do not keep it)"
        if checkpoint.size != data.packed.images.shape[1:]:
            return "not known (the sizes of the images differ)"
    seen = _seen(checkpoints, data, data.rows.test)
    return f"{seen.sum():,} of {len(seen):,}, pixel for pixel"


def _predict(
    checkpoints: Sequence[Checkpoint], modules: Sequence[EmotionDataModule], device: torch.device, tta: ViewsName
) -> dict[str, Predictions]:
    stages = _stages(checkpoints, modules)
    members = [
        predict_stages(checkpoint.task.inference_network, data, stages, device, tta)
        for checkpoint, data in zip(checkpoints, modules, strict=True)
    ]
    return {stage: mean_predictions([member[stage] for member in members]) for stage in members[0]}


def _matches(pattern: str) -> list[Path]:
    """Returns the files that match a pattern, or the path itself if it exists (its name may contain `[` or `*`)."""
    path = Path(pattern).expanduser()
    files = [] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207, takes any path
    return files or [path]


def _default_folder(data: EmotionDataModule, paths: Sequence[Path], changes: dict[str, Any]) -> Path:
    key = repr((sorted(str(path.resolve()) for path in paths), sorted(changes.items())))
    digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    return Path("runs/evaluations") / f"{data.hparams['data']}-{data.hparams['split']}-{digest}"


def _print(results: dict[str, Any], folder: Path, seen: str) -> None:
    table = Table("", "images", "loss", "accuracy", "macro F1", "balanced accuracy")
    for stage, values in results.items():
        metrics = [f"{values[name]:.4f}" for name in ("loss", "acc", "f1_macro", "balanced_acc")]
        table.add_row(stage, str(values["num_images"]), *metrics)
    console = Console()
    console.print(table)
    console.print(f"test images trained on: {seen}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, markup=False, highlight=False)
