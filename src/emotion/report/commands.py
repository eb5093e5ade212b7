"""Commands that train a network of the paper, or again what a page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from emotion.files import hide_home
from emotion.report.configurations import Configuration
from emotion.report.published import PublishedRun
from emotion.report.recipes import EARLIER, recipe_settings, typed
from emotion.settings import OWN_DATA


def published_command(published: PublishedRun) -> str:
    """Returns the command that trains a network of the paper as the paper did."""
    return _line("python train.py", _published(published))


def repeated_command(configuration: Configuration) -> str:
    """Returns the command that trains all seeds and folds of a configuration again."""
    first, runs = configuration.first, configuration.runs
    chosen = _published(configuration.published) if configuration.published else _own(first.settings)
    chosen |= _data(first.settings)
    chosen["seed"] = ",".join(str(seed) for seed in sorted({run.seed for run in runs}))
    if first.folds:
        chosen["fold"] = ",".join(str(fold) for fold in sorted({run.fold for run in runs}))
    changed = {key: value for key, value in configuration.differences.items() if EARLIER not in key}
    if "weights" in changed:
        changed["weights"] = hide_home(str(first.settings["weights"]))
    program = "emotion train" if first.record.command.startswith("emotion train") else "python train.py"
    return _line(program + " -m" * (len(runs) > 1), chosen | changed)


def _published(run: PublishedRun) -> dict[str, str]:
    chosen = {"experiment": run.experiment, "model": run.model}
    if run.unfreeze:
        chosen["unfreeze"] = str(run.unfreeze)
    if run.experiment == "cnn":  # its grid trains the network both ways
        chosen["balance"] = run.balance
    return chosen


def _own(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns recipe and model of settings, and what they do not imply of the other settings that choose a recipe."""
    recipe, model = settings.get("recipe"), settings["model"]
    chosen = {"recipe": str(recipe)} if recipe else {}
    if not recipe or recipe_settings({}, recipe=recipe)["model"] != model:
        chosen["model"] = str(model)
    implied = recipe_settings({}, recipe=recipe, model=model)
    return chosen | {key: typed(settings[key]) for key in ("balance", "unfreeze") if settings.get(key) != implied[key]}


def _data(settings: Mapping[str, Any]) -> dict[str, str]:
    data, folder = str(settings["data"]), settings.get("data_dir")
    chosen = {} if data == "fer2013" else {"data": data}
    return chosen | {"data_dir": hide_home(folder)} if folder and data in OWN_DATA else chosen


def _line(program: str, chosen: Mapping[str, str]) -> str:
    return f"{program} {shlex.join(f'{key}={value}' for key, value in chosen.items())}"
