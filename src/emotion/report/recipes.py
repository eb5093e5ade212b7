"""The recipe behind a run: which run of the report it repeats, and which settings it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from emotion.config import choice_names, compose, settings
from emotion.models.weights import file_stem
from emotion.report.published import RUNS, PublishedRun

PAPER_DATA = ("fer2013", "fer2013_csv", "synthetic")
"""Data whose runs stand in the paper's tables; only those on FER2013's folders are compared with its metrics."""
# Not the number of processes: each takes a batch of its own, so that they decide on the steps of the optimiser.
_RUNTIME_KEYS = {
    "experiment",
    "name",
    "seed",
    "data_dir",
    "resume",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.profiler",
}
RECIPE_KEYS = ("model", "data", "balance", "unfreeze", "recipe")
"""Settings that choose the recipe, and so are never a difference from it."""


def published_run(values: Mapping[str, Any]) -> PublishedRun | None:
    """Finds the run of the report that a run with these settings repeats, whatever else it changes."""
    if values["data"] not in PAPER_DATA:
        return None
    chosen = (values["model"], values.get("unfreeze"), values["balance"])
    return next((run for run in RUNS if (run.model, run.unfreeze, run.balance) == chosen), None)


def differences(values: Mapping[str, Any], published: PublishedRun | None) -> dict[str, str]:
    """Returns the settings that are not those of the recipe, as they would be typed, in the order of the recipe.

    The recipe is the one that it names, or that of the published run, or else that of the model. Where a run lies, how
    it ran and its seed are no difference, and neither is a setting that an older run does not know yet.
    """
    recipe_name = values.get("recipe")
    experiment = published.experiment if published and not recipe_name else None
    config = _compose(experiment=experiment, recipe=recipe_name, model=values["model"])
    config.update({key: values.get(key) for key in RECIPE_KEYS})
    recipe = dict(_flat(settings(config)))
    own = dict(_flat(values)) | {"weights": weights_name(values)}
    legal = [*recipe, *(key for key in own if key not in recipe)]
    changed = [key for key in legal if own.get(key, recipe.get(key)) != recipe.get(key)]
    return {key: _typed(own[key]) for key in changed if key not in _RUNTIME_KEYS}


def typed_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that tell one run from another but for the seed, as they would be typed."""
    own = dict(_flat(values)) | {"weights": weights_name(values)}
    return {key: _typed(value) for key, value in own.items() if key not in _RUNTIME_KEYS}


def weights_name(values: Mapping[str, Any]) -> str:
    """Returns `imagenet`, `none` or the name of the file that the backbone's weights came from."""
    path = Path(str(values["weights"]))
    try:
        stem = file_stem(str(values.get("family")), str(values.get("backbone")))
        files = list(path.expanduser().glob(f"{stem}*.safetensors"))
    except (OSError, RuntimeError):
        # A run of another machine can name places that mean nothing here.
        files = []
    return files[0].name if len(files) == 1 else path.name


def _compose(**chosen: str | None) -> DictConfig:
    overrides = (f"{group}={name}" for group, name in chosen.items() if name in choice_names(group))
    return _composed_once(*overrides).copy()


_composed_once = lru_cache(compose)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _typed(value: object) -> str:
    """Writes a value as on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
