"""Configurations: runs that differ only in seed and fold, and the run of the paper that they repeat."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np

from emotion.analysis.predictions import Predictions
from emotion.analysis.statistics import Interval, Metric, Summary, bootstrap_interval, summarize
from emotion.config import with_defaults
from emotion.data.classes import CLASSES
from emotion.data.datamodule import SOURCE_SETTINGS
from emotion.declarations import NEW
from emotion.files import hide_home
from emotion.models.registry import FAMILIES
from emotion.report.published import RUNS, TEST_IMAGES, PublishedRun
from emotion.report.recipes import (
    RECIPE_KEYS,
    differences,
    earlier_settings,
    published_run,
    typed_settings,
    weights_name,
)
from emotion.report.runs import Run, SkippedRun, images_digest
from emotion.settings import OWN_DATA, marked

_MOST_NAMED = 3
"""Configurations that differ in more settings are not named after them; notes tell what differs from the recipe."""
_DEFINE_DATA = [key for key in marked(NEW) if key in SOURCE_SETTINGS]
BALANCES = {
    "class_weights": "class weights",
    "weighted_sampler": "weighted sampler",
    "offline": "oversampling",
    "none": "no balancing",
}


@dataclass(frozen=True)
class Configuration:
    """Runs with the same settings, data, classes and test images; in a cross-validation, each fold has its own images.

    Attributes:
        number: position on the page, from 1.
        published: the run of the paper that the configuration repeats, if any.
        runs: one run for each seed and fold, in this order.
        differences: settings that differ from the recipe, with values as on the command line.
        data: identifier of the data, as in `Run.data`; None if no run kept it.
        data_folder: the folder of the data, if it must be shown to distinguish configurations; otherwise empty.
        same_images: False if another configuration differs in nothing but its test images.
        same_teachers: False if another configuration differs in nothing but its teachers.
        named: settings that distinguish it from others with its network, balance and data, as on the command line.
    """

    number: int
    published: PublishedRun | None
    runs: tuple[Run, ...]
    differences: Mapping[str, str]
    data: str | None = None
    data_folder: str = ""
    same_images: bool = True
    same_teachers: bool = True
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Run:
        """The run with the lowest seed and fold, which the figures show."""
        return self.runs[0]

    @property
    def network(self) -> str:
        """A short name of the network."""
        values = self.first.settings
        if self.published:
            return self.published.network
        return ", ".join([*([f"recipe={values['recipe']}"] if values.get("recipe") else []), _network(values)])

    @property
    def title(self) -> str:
        """The name on the page, which the number makes unique."""
        balance = str(self.first.settings["balance"])
        named = [f"{key}={value}" for key, value in self.named.items()]
        return f"{self.number}. {', '.join([self.network, BALANCES.get(balance, balance), *named])}"

    @property
    def warning(self) -> str:
        """Facts that readers must not miss: data other than FER2013's folders, and the initial weights."""
        return "; ".join(filter(None, (self._data, self.data_folder, self._weights)))

    @property
    def subtitle(self) -> str:
        """The warning, and all settings that differ from the recipe."""
        return "; ".join(filter(None, (self.warning, self._changed())))

    @property
    def origin(self) -> str:
        """The facts of `warning` that the name of a section does not tell."""
        own = self.first.settings["data"] in OWN_DATA
        images = "" if self.same_images else "other test images: split_seed=<number> gives all seeds the same"
        teachers = "" if self.same_teachers else " and ".join(self.first.record.teachers)
        learned = f"taught by {teachers}" if teachers else ""
        return "; ".join(filter(None, ("" if own else self.data_folder, self._weights, images, learned)))

    @property
    def note(self) -> str:
        """The origin, precisions, and settings that differ from the recipe and that neither section nor title name."""
        mixed = f"some runs in {', others in '.join(self.precisions)}" if len(self.precisions) > 1 else ""
        return "; ".join(
            filter(None, (self.origin, self._changed(hidden={"weights", *_DEFINE_DATA, *self.named}), mixed))
        )

    def _changed(self, hidden: Collection[str] = ("weights",)) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.differences.items() if key not in hidden)

    @property
    def precisions(self) -> list[str]:
        """The precisions of the runs, as in `trainer.precision`; older runs did not keep theirs."""
        return sorted({run.record.precision for run in self.runs} - {""})

    @property
    def seeds(self) -> str:
        """The seeds of the runs as text, after the number of folds in a cross-validation."""
        numbers = sorted({run.seed for run in self.runs})
        seeds = f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        return ", ".join(filter(None, (self.folds, seeds)))

    @property
    def folds(self) -> str:
        """The number of folds that were run, as text; empty without cross-validation."""
        if not self.first.folds:
            return ""
        wanted = self.first.folds * len({run.seed for run in self.runs})
        return f"{wanted} folds" if len(self.runs) == wanted else f"{len(self.runs)} of {wanted} folds"

    @property
    def not_comparable_because(self) -> str:
        """The reason why the configuration cannot be compared with the published values; empty if it can."""
        split = self.first.settings.get("split")
        if self._data or split != "report":
            return self._data or f"split={split}"
        if len(self.first.test) != TEST_IMAGES:
            return f"{len(self.first.test)} test images"
        return self._weights if self._weights == "random weights" else ""

    @cached_property
    def constant(self) -> bool:
        """Whether every network gives all test images the same class."""
        return all(len(np.unique(run.test.predicted)) == 1 for run in self.runs)

    @property
    def _data(self) -> str:
        data = str(self.first.settings["data"])
        return {"fer2013": "", "synthetic": "drawn faces"}.get(data, f"data={data}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the data."""
        return self.first.classes

    @property
    def _weights(self) -> str:
        if self.first.settings.get("backbone") is None:
            return ""
        name = weights_name(self.first.settings)
        return {"imagenet": "ImageNet weights", "none": "random weights"}.get(name, f"weights {name}")

    @cached_property
    def test_scores(self) -> list[dict[str, Any]]:
        """`matrix_metrics` on the test images, for each run."""
        return [run.scores(run.test) for run in self.runs]

    @cached_property
    def pooled(self) -> list[Predictions]:
        """The predictions of each seed for its test images, those of all folds together."""
        seeds = {run.seed: [other.test for other in self.runs if other.seed == run.seed] for run in self.runs}
        return [reduce(Predictions.joined, folds) for folds in seeds.values()]

    def scores(self, metric: str) -> Summary:
        """Returns a metric of `matrix_metrics` on the test images, summarized over seeds and folds."""
        return summarize([scores[metric] for scores in self.test_scores])

    def test_interval(self, metric: Metric) -> Interval:
        """Returns the `interval` of a metric on the test images, those of all folds together."""
        return interval(self.pooled, metric)

    @property
    def val_accuracy(self) -> Summary:
        """The accuracy on the validation images, over seeds and folds."""
        return summarize([run.scores(run.val)["acc"] for run in self.runs])

    @property
    def train_accuracy(self) -> Summary | None:
        """The training accuracy in the best epoch, over seeds and folds; None if a run did not keep it."""
        values = [run.train_accuracy() for run in self.runs]
        return None if None in values else summarize([value for value in values if value is not None])


def _network(values: Mapping[str, Any]) -> str:
    if values["family"] == "custom":
        return Path(str(values.get("network"))).name
    title = FAMILIES[values["family"]].title
    if title:
        return f"{title} {'-'.join(map(str, values.get('blocks') or []))}".rstrip()
    return f"{values.get('backbone')}, unfreeze={values.get('unfreeze')}"


def interval(tests: Sequence[Predictions], metric: Metric) -> Interval:
    """Computes the 95 % interval of a metric's mean over seeds, by bootstrap over images.

    The bounds of the seeds' intervals are averaged: the seeds share their images, so more seeds do not narrow it.
    The folds of a cross-validation do not, so their images count together.

    Args:
        tests: the predictions of each seed for the test images.
        metric: name of the metric in `matrix_metrics`.
    """
    intervals = [bootstrap_interval(predictions.matrix(), metric) for predictions in tests]
    low, high = ([getattr(bounds, name) for bounds in intervals] for name in ("low", "high"))
    return Interval(sum(low) / len(low), sum(high) / len(high))


def group(runs: Sequence[Run]) -> tuple[list[Configuration], list[SkippedRun]]:
    """Groups runs that differ only in seed and fold, in the order of the paper; those without test images come last.

    Runs with the same settings but different data, classes, test images or teachers are separate configurations.

    Returns:
        The configurations, and the skipped runs: those with the settings, data, seed and fold of another run, and
        those of a fold whose test images another fold has too.
    """
    groups: dict[tuple[Any, ...], dict[tuple[int, int], Run]] = {}
    repeated = []
    data = _data_of(runs)
    # Of runs that repeat each other, one with a checkpoint comes first, since its heatmaps can be drawn.
    for run in sorted(runs, key=lambda run: not run.folder.best.is_file()):
        # The folds of a cross-validation have different test images.
        images = b"" if run.folds and run.tested else images_digest(run.test)
        members = groups.setdefault((run.tested, *_key(run), run.classes, data[run.folder.path], images), {})
        reason = _repeats(run, members)
        if reason:
            repeated.append(SkippedRun(run.folder.path, reason))
        else:
            members[run.seed, run.fold] = run
    ordered = sorted(groups.items(), key=lambda item: _order(*item))
    configurations = [_configuration(number, *item, groups) for number, item in enumerate(ordered, 1)]
    return [replace(one, named=_distinguishing(one, configurations)) for one in configurations], repeated


def _distinguishing(configuration: Configuration, others: Sequence[Configuration]) -> dict[str, str]:
    """Returns the settings in which configurations with the same name and data differ, as on the command line."""
    alike = [other for other in others if _name(other) == _name(configuration)]
    settings = [typed_settings(other.first.settings) for other in alike]
    keys = dict.fromkeys(key for other in alike for key in other.differences if key not in {"weights", *_DEFINE_DATA})
    own = typed_settings(configuration.first.settings)
    named = {key: own[key] for key in keys if key in own and len({values.get(key) for values in settings}) > 1}
    return named if len(named) <= _MOST_NAMED else {}


def _name(configuration: Configuration) -> tuple[object, ...]:
    run = configuration.first
    given = (run.settings["balance"], run.settings["data"], run.settings["split"])
    return configuration.network, *given, configuration.data_folder, run.tested


def _repeats(run: Run, members: Mapping[tuple[int, int], Run]) -> str:
    """Returns why a run cannot join others with its settings and data; empty if it can."""
    if same := members.get((run.seed, run.fold)):
        unit = ", seed and fold" if run.folds else " and seed"
        return f"has the settings, data{unit} of {same.folder.path}"
    for (seed, fold), other in members.items():
        if seed == run.seed and np.isin(run.test.ids, other.test.ids).any():
            return f"fold {run.fold} has test images of fold {fold}, {other.folder.path}"
    return ""


def _data_of(runs: Sequence[Run]) -> dict[Path, str | None]:
    """Returns the data of each run by its folder; where a run did not keep it, the only known data of its source."""
    known: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        known.setdefault(_source(run), set()).update([run.data] if run.data else [])
    unique = {source: next(iter(names)) for source, names in known.items() if len(names) == 1}
    return {run.folder.path: run.data or unique.get(_source(run)) for run in runs}


def _source(run: Run) -> tuple[str, ...]:
    values = with_defaults(run.settings)
    return tuple(str(values[name]) for name in (*SOURCE_SETTINGS, "extra_data") if name != "data_dir")


def _configuration(
    number: int,
    key: tuple[Any, ...],
    members: Mapping[tuple[int, int], Run],
    groups: Iterable[tuple[Any, ...]],
) -> Configuration:
    _, published, *_, _, changed, _, data, _ = key
    runs = tuple(members[unit] for unit in sorted(members))
    settings = runs[0].settings
    same_data = len({other[-2] for other in groups if other[:-2] == key[:-2]}) == 1
    shown = settings["data"] in OWN_DATA or not same_data
    data_folder = hide_home(str(settings.get("data_dir") or "the default folder")) if shown else ""
    same_images = sum(other[:-1] == key[:-1] for other in groups) == 1
    same_teachers = sum(other[:-5] + other[-4:] == key[:-5] + key[-4:] for other in groups) == 1
    return Configuration(number, published, runs, dict(changed), data, data_folder, same_images, same_teachers)


def _key(run: Run) -> tuple[Any, ...]:
    published = published_run(run.settings) if run.classes == CLASSES else None
    earlier = earlier_settings(run.settings, run.record.changes)
    changed = (*differences(run.settings, published).items(), *earlier.items())
    return (published, *(str(run.settings.get(key)) for key in RECIPE_KEYS), run.record.teachers, changed)


def _order(key: tuple[Any, ...], members: Mapping[tuple[int, int], Run]) -> tuple[Any, ...]:
    """Returns a sort key: tested runs, the paper's order, FER2013, then the fewest differences from the recipe."""
    tested, published, *given, changed, classes, data, images = key
    place = (not tested, RUNS.index(published) if published else len(RUNS), given[1] != "fer2013")
    return *place, len(changed), given, changed, classes, data or "", min(members), images
