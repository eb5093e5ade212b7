"""Evaluates one checkpoint, or the mean probability of several (arXiv:1612.01474), on their own or on other data."""

import hashlib
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from emotion.analysis.predictions import Predictions, mean_predictions
from emotion.data.classes import require_same_classes
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.data.votes import VotesFile, open_votes, vote_columns
from emotion.errors import MISSING_GLYPH, UserError, exit_on_user_error, require_choice
from emotion.files import expand, hide_home
from emotion.models.device import find_device
from emotion.models.onnx import ViewsName
from emotion.overrides import parse_arguments
from emotion.privacy import keep_private
from emotion.settings import OWN_DATA
from emotion.training.checkpoint import data_for
from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.folder import EVALUATION, make_results_folder, write_json
from emotion.training.member import Member, matches, read_member, require_different
from emotion.training.origin import Origin, require_own_split
from emotion.training.results import predict_stages, write_results

log = logging.getLogger(__name__)
OPTIONS = ("ckpt", "out", "device", "tta", "network")
USAGE = """usage: emotion evaluate ckpt=<network> | ckpt=[a.ckpt,b.ckpt] [tta=flip] [out=<folder>] [device=cuda]
                        [data=... split=... exclude=[...]] [votes=<file>]

Rebuilds network and data and tests the network. A network is a checkpoint, the folder of a run, a published file, the
name of a shipped one, as small, or hf://<owner>/<repository>. Settings of the data on the command line replace those of
its training; split=test_only tests on all images of a source, as it does where they have no parts. Images of classes
that the network does not have are left out, with a line that names them; exclude= leaves out further classes. The
probabilities of several networks are averaged; a pattern in quotes, ckpt='runs/small/*/checkpoints/best.ckpt', stands
for all files that match it. tta=flip, shifts or ten_crop also tests with test-time augmentation; without tta=,
published files bring their own. votes=<file> compares the predictions for images of FER2013 with the votes of people,
from FER+. network=<file>.py:<class> names the code of a network of your own; it is run."""


def main() -> None:
    """Runs the command line: `ckpt=<file>` and settings as `key=value`."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return
    keep_private()
    warnings.filterwarnings("ignore", MISSING_GLYPH)
    with exit_on_user_error():
        options = parse_arguments(sys.argv[1:], OPTIONS)
        patterns = options.pop("ckpt", None) or []
        patterns = patterns if isinstance(patterns, list) else [patterns]
        paths = [path for pattern in patterns for path in matches(str(pattern))]
        given = {key: options.pop(key) for key in OPTIONS if key in options}
        evaluate(paths, options, **given)


def evaluate(
    paths: Sequence[Path | str],
    changes: dict[str, Any],
    out: str | None = None,
    device: str | None = None,
    tta: ViewsName | None = None,
    network: str | None = None,
) -> dict[str, Any]:
    """Tests networks and writes `metrics.json`, `predictions.npz`, `evaluation.json`, figures and the report.

    Args:
        paths: checkpoints, folders of runs, published files, names of shipped networks or of those on the hub; the
            probabilities of several are averaged.
        changes: settings of the data that replace those of the training. With `votes`, the predictions are compared
            with the votes of people in this file, too (see `emotion.analysis.agreement`).
        out: folder for the results; None makes `runs/evaluations/<data>-<split>-<hash>`.
        device: `cpu` or `cuda`; None takes a GPU if there is one.
        tta: test-time augmentation, see `emotion.models.views.Views`; adds the stages `val_tta` and `test_tta`.
            None takes that of the published files, if all networks have the same.
        network: name of the user's network in a checkpoint, if its code is trusted (see `emotion.plugins`).

    Returns:
        The content of `metrics.json`: metrics by stage, and the agreement with people as `votes`.

    Raises:
        UserError: no network is given, one is given twice or cannot be read, their classes or test images differ, one
            was trained on images that its split tests now, there is no such device, the folder cannot be made, or the
            votes are broken or not on these images and classes.
    """
    if not paths:
        raise UserError(f"ckpt: missing; give a checkpoint\n{USAGE}")
    if tta is not None:
        require_choice("tta", tta, get_args(ViewsName))
    EmotionDataModule.of(changes)  # refuses illegal settings before any file is read
    torch_device = find_device(device)
    members = [read_member(path, network) for path in paths]
    require_different("ckpt", paths, members)
    views = tta or _own_views(members)
    require_same_classes(paths, [member.origin.classes for member in members])
    if not {"data", "data_dir"} & changes.keys():
        _require_images(paths, members)
    modules = _modules(members, changes)
    if {"data", "data_dir"} & changes.keys() and "split" not in changes and _needs_parts(modules[0]):
        log.warning("split=test_only: the images are not divided into parts, so all of them are tested")
        changes = {**changes, "split": "test_only"}
        modules = _modules(members, changes)
    first = modules[0]
    if not {"data", "data_dir", "split"} & changes.keys():
        _require_own_splits(paths, members, modules)
    members = [replace(member, origin=_with_hashes(member.origin, first)) for member in members]
    votes = _read_votes(changes, first)
    folder = expand(str(out)) if out else _default_folder(first, paths, {**changes, "tta": views})
    evaluated = _stages(members, modules)
    make_results_folder(folder)
    stages = _predict(members, modules, evaluated, torch_device, views)
    environment = describe_environment()
    teachers = list(dict.fromkeys(teacher for member in members for teacher in member.teachers))
    seen = _seen_tests(members, first)
    facts = {
        "checkpoints": ", ".join(map(str, paths)),
        "data": _describe_data(first),
        "split": str(first.hparams["split"]),
        "test images trained on": seen if isinstance(seen, str) else _describe_seen(members, seen),
        **_describe_unseen(stages, seen),
        **({"teachers": "; ".join(teachers)} if teachers else {}),
        **_describe_validation(stages, first),
        **({"other images": first.packed.left_out} if first.packed.left_out else {}),
        "hardware": describe_hardware(environment, torch_device),
        "command": environment["command"],
    }
    caution = _caution(stages, seen)
    results = write_results(folder, "Evaluation", facts, stages, first, votes=votes, caution=caution)
    record = {"checkpoints": [str(path) for path in paths], "seen": facts["test images trained on"], "tta": views}
    record |= {"teachers": teachers} if teachers else {}
    write_json(folder / EVALUATION, record | {key: facts[key] for key in ("data", "split", "hardware", "command")})
    notes = [f"test images trained on: {facts['test images trained on']}", caution]
    _print({stage: results[stage] for stage in stages}, results.get("votes", {}), folder, notes)
    return results


def _require_images(paths: Sequence[Path | str], members: Sequence[Member]) -> None:
    for path, member in zip(paths, members, strict=True):
        if member.origin.facts and member.origin.data.get("data") in OWN_DATA:
            raise UserError(f"ckpt={path}: a published file has no images; name them, as data_dir=photos")


def _own_views(members: Sequence[Member]) -> ViewsName:
    """Returns the test-time augmentation that all networks bring; "none" if they differ."""
    first, *others = {member.views for member in members}
    return "none" if others else first


def _require_own_splits(
    paths: Sequence[Path | str], members: Sequence[Member], modules: Sequence[EmotionDataModule]
) -> None:
    advice = "restore them, or name the split to test on such images too, as split=test_only"
    for path, member, data in zip(paths, members, modules, strict=True):
        require_own_split(f"ckpt={path}", member.origin, data, advice)


def _with_hashes(origin: Origin, data: EmotionDataModule) -> Origin:
    """Adds the hashes of the training images, if the card of a published file tells them."""
    hashes = origin.known_hashes(data) if origin.size is None else None
    return origin if hashes is None else replace(origin, hashes=hashes, size=data.packed.images.shape[1:])


def _read_votes(changes: Mapping[str, Any], data: EmotionDataModule) -> VotesFile | None:
    """Returns the votes that the command line names, once they are known to be on these images and classes."""
    if changes.get("votes") is None:
        return None
    file = open_votes(expand(str(changes["votes"])))
    vote_columns(data.classes)
    rows = np.concatenate([data.rows.test, data.rows.val])
    file.require_on(data.packed.names[rows].tolist(), data.packed.parts[rows].tolist())
    return file


def _describe_data(data: EmotionDataModule) -> str:
    """Returns the kind of data, with the folder or file of images of one's own and the labels, if they are votes."""
    settings = data.settings
    folder = f" {hide_home(str(settings.data_dir))}" if settings.data in OWN_DATA else ""
    return f"{settings.data}{folder}{f', labels={settings.labels}' if settings.labels else ''}"


def _describe_validation(stages: Mapping[str, Predictions], data: EmotionDataModule) -> dict[str, str]:
    if "val" in stages or not len(data.rows.val):
        return {}
    return {"validation images": "left out: they differ between the networks, or some were trained on them"}


def _stages(members: Sequence[Member], modules: Sequence[EmotionDataModule]) -> list[Stage]:
    """Returns the stages to evaluate: without validation if its images differ between checkpoints or were trained on.

    They differ between the seeds of `split=report`. They count as trained on if that is true of at least half of them:
    then the evaluation uses another split than the training. A smaller share are the duplicates within FER2013.
    """
    rows = modules[0].rows.val
    shared = all(np.array_equal(rows, data.rows.val) for data in modules)
    validates = shared and 2 * _seen(members, modules[0], rows).sum() < len(rows)
    wanted: dict[Stage, bool] = {"val": validates, "test": len(modules[0].rows.test) > 0}
    stages = [stage for stage, there in wanted.items() if there]
    if not stages:
        raise UserError(f"split={modules[0].settings.split}: has no images to evaluate; split=test_only takes all")
    return stages


def _seen(members: Sequence[Member], data: EmotionDataModule, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns a mask [len(rows)] of images that are, pixel for pixel, in the known training images of a checkpoint."""
    return np.isin(data.packed.hashes[rows], np.concatenate([member.origin.hashes for member in members]))


def _seen_tests(members: Sequence[Member], data: EmotionDataModule) -> NDArray[np.bool_] | str:
    """Returns the mask `_seen` of the test images, or why there is none."""
    for origin in (member.origin for member in members):
        if origin.size is None:
            return f"not known ({origin.told}; some of these images may be among them)"
        if origin.size != data.packed.images.shape[1:]:
            return "not known (the sizes of the images differ)"
    seen = _seen(members, data, data.rows.test)
    return seen if len(seen) else "there are no test images"


def _describe_seen(members: Sequence[Member], seen: NDArray[np.bool_]) -> str:
    complete = all(member.origin.complete for member in members)
    others = "" if complete else "; not all images are known that its start or its teachers were trained on"
    return f"{seen.sum():,} of {len(seen):,}, pixel for pixel{others}"


def _describe_unseen(stages: Mapping[str, Predictions], seen: NDArray[np.bool_] | str) -> dict[str, str]:
    """Returns the accuracy of each stage on the test images that were not trained on, if some were and some not."""
    if isinstance(seen, str) or not seen.any() or seen.all():
        return {}
    tested = {stage: stages[stage].subset(~seen) for stage in ("test", "test_tta") if stage in stages}
    values = ", ".join(f"{stage} {own.metrics()['acc']:.4f}" for stage, own in tested.items())
    return {"accuracy on the other test images": f"{values}, {(~seen).sum():,} images"}


def _caution(stages: Mapping[str, Predictions], seen: NDArray[np.bool_] | str) -> str:
    """Returns a sentence that says that test images were trained on; "" if none is known to be."""
    if isinstance(seen, str) or not seen.any():
        return ""
    if seen.all():
        return "All test images are training images, so this accuracy says nothing about new images."
    others = stages["test"].subset(~seen).metrics()["acc"]
    return (
        f"{seen.sum():,} test images are training images, so this accuracy is too high; on the other "
        f"{(~seen).sum():,} it is {others:.1%}."
    )


def _predict(
    members: Sequence[Member],
    modules: Sequence[EmotionDataModule],
    stages: Sequence[Stage],
    device: torch.device,
    tta: ViewsName,
) -> dict[str, Predictions]:
    predicted = [
        predict_stages(member.network, data, stages, device, tta, member.temperature)
        for member, data in zip(members, modules, strict=True)
    ]
    return {stage: mean_predictions([each[stage] for each in predicted]) for stage in predicted[0]}


def _modules(members: Sequence[Member], changes: Mapping[str, Any]) -> list[EmotionDataModule]:
    return [data_for(member.origin.classes, member.origin.data, changes) for member in members]


def _needs_parts(data: EmotionDataModule) -> bool:
    """Returns whether the split of the network takes the parts of its images, and these images have none."""
    return data.hparams["split"] in ("official", "clean") and set(data.packed.parts.tolist()) <= {"train", "extra"}


def _default_folder(data: EmotionDataModule, paths: Sequence[Path | str], changes: dict[str, Any]) -> Path:
    names = [path if isinstance(path, str) else str(path.resolve()) for path in paths]
    key = repr((sorted(names), sorted(changes.items())))
    digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
    return Path("runs/evaluations") / f"{data.hparams['data']}-{data.hparams['split']}-{digest}"


def _print(results: dict[str, Any], agreements: dict[str, Any], folder: Path, notes: Sequence[str]) -> None:
    table = Table("", "images", "loss", "accuracy", "macro F1", "balanced accuracy")
    for stage, values in results.items():
        metrics = [f"{values[name]:.4f}" for name in ("loss", "acc", "f1_macro", "balanced_acc")]
        table.add_row(stage, str(values["num_images"]), *metrics)
    console = Console()
    console.print(table)
    if agreements:
        console.print(_people_table(agreements))
    for line in (*filter(None, notes), f"report: {folder / 'report.html'}"):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _people_table(agreements: dict[str, Any]) -> Table:
    """Builds the table of the agreement with people, by part of the images and test-time augmentation."""
    table = Table(
        Column("votes of people", overflow="fold", min_width=11),
        "images",
        "share of votes",
        "two people",
        "most votes",
        "8 of 10",
        "KL",
    )
    for views, parts in agreements.items():
        for part, own in parts.items():
            people = own["people"]
            measures = (own["votes"], people["pairs"], own["clear"], own["strong"], own["divergence"])
            values = ("" if value is None else f"{value:.4f}" for value in measures)
            name = part if views == "none" else f"{part}, {views}"
            table.add_row(name, str(people["images"]), *values)
    return table
