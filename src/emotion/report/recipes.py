"""The recipe of a run: the run of the paper that it repeats, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from emotion.config import choice_names, compose, flatten, settings
from emotion.files import expand
from emotion.models.weights import file_stem
from emotion.report.published import RUNS, PublishedRun
from emotion.report.runs import Change

PAPER_DATA = ("fer2013", "fer2013_csv", "synthetic")
"""Values of `data` whose runs the paper's tables show; only runs on FER2013's folders are compared with the paper."""
# The number of processes (trainer.devices) is missing here: each process takes its own batch, so it changes the steps.
_RUNTIME_KEYS = {
    "experiment",
    "name",
    "seed",
    "fold",
    "data_dir",
    "resume",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.benchmark",
    "trainer.detect_anomaly",
    "memory_budget",
    "compile",
    "cuda_graph",
}
RECIPE_KEYS = ("model", "data", "balance", "unfreeze", "recipe")
"""Settings that choose the recipe, and so never differ from it."""
EARLIER = " until epoch "
"""Between a setting and the last epoch with another value of it."""


def published_run(values: Mapping[str, Any]) -> PublishedRun | None:
    """Returns the run of the paper with the model, unfreezing and balance of these settings, or None.

    A recipe of this project is not that of the paper, whatever its model.
    """
    if values["data"] not in PAPER_DATA or any(values.get(key) for key in ("folds", "labels", "recipe")):
        return None
    chosen = (values["model"], values.get("unfreeze"), values["balance"])
    return next((run for run in RUNS if (run.model, run.unfreeze, run.balance) == chosen), None)


def differences(values: Mapping[str, Any], published: PublishedRun | None) -> dict[str, str]:
    """Returns the settings that differ from the recipe, with values as on the command line, in the recipe's order.

    The recipe is that of the setting `recipe`, or that of the published run, or that of the model. Paths, hardware and
    seed are no differences, and neither are settings that did not exist yet when an older run was made.
    """
    recipe_name = values.get("recipe")
    experiment = published.experiment if published else None
    chosen = {key: values.get(key) for key in RECIPE_KEYS}
    recipe = recipe_settings(chosen, experiment=experiment, recipe=recipe_name, model=values["model"])
    given = flatten(values) | {"weights": weights_name(values)}
    keys = [*recipe, *(key for key in given if key not in recipe)]
    changed = [key for key in keys if given.get(key, recipe.get(key)) != recipe.get(key)]
    return {key: typed(given[key]) for key in changed if key not in _RUNTIME_KEYS}


def earlier_settings(values: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, str]:
    """Returns the settings that were others in the first epochs of a run, each with its value in them.

    Those that only decide on its end, and paths, are left out: it is the run that began with the later value.

    Args:
        values: the settings of the run.
        changes: its changes while it was trained.
    """
    # A resumed run has the teachers that it began with, wherever they lie.
    ends = {"patience", "teacher"} | ({"trainer.max_epochs"} if values.get("schedule") != "cosine" else set())
    return {
        f"{key}{EARLIER}{change.after_epoch}": typed(before)
        for change in changes
        for key, (before, _) in change.changed.items()
        if change.after_epoch and key not in ends | _RUNTIME_KEYS
    }


def typed_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns all settings but the seed and those of paths and hardware, with values as on the command line."""
    given = flatten(values) | {"weights": weights_name(values)}
    return {key: typed(value) for key, value in given.items() if key not in _RUNTIME_KEYS}


def weights_name(values: Mapping[str, Any]) -> str:
    """Returns `imagenet`, `none` or the name of the file with the initial weights of the backbone."""
    path = Path(str(values["weights"]))
    try:
        stem = file_stem(str(values.get("family")), str(values.get("backbone")))
        files = list(expand(path).glob(f"{stem}*.safetensors"))
    except (OSError, RuntimeError):
        # A run of another machine can name paths that are invalid here.
        files = []
    return files[0].name if len(files) == 1 else path.name


def recipe_settings(chosen: Mapping[str, Any], **groups: str | None) -> dict[str, Any]:
    """Returns the flattened settings of an experiment, a recipe and a model, as far as files of these names exist.

    Args:
        chosen: values of settings, on which others can depend.
        groups: the names of `experiment`, `recipe` and `model`.
    """
    config = _composed(*(f"{group}={name}" for group, name in groups.items() if name in choice_names(group))).copy()
    config.update(chosen)
    return flatten(settings(config))


_composed = lru_cache(compose)


def typed(value: object) -> str:
    """Returns a value as text for the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
