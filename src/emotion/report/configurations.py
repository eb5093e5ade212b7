"""Runs that differ in nothing but the seed, and what they correspond to in the published report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emotion.analysis.predictions import Predictions
from emotion.analysis.statistics import Interval, Metric, Summary, bootstrap_interval, summarize
from emotion.data.datamodule import SOURCE_SETTINGS
from emotion.files import hide_home
from emotion.models.registry import FAMILIES
from emotion.report.published import RUNS, TEST_IMAGES, PublishedRun
from emotion.report.recipes import RECIPE_KEYS, differences, published_run, weights_name
from emotion.report.runs import Run, SkippedRun, images_digest

BALANCES = {
    "class_weights": "class weights",
    "weighted_sampler": "weighted sampler",
    "offline": "balanced copies",
    "none": "no balancing",
}


@dataclass(frozen=True)
class Configuration:
    """Runs of the same settings on the same data, which test the same images.

    Attributes:
        number: its place on the page, from 1.
        published: the run of the report that it repeats, if any.
        runs: one for each seed, the lowest first.
        differences: settings that are not those of the recipe, as they would be typed.
        data: what tells its data from that of others, as `Run.data`; None where no run of it kept that.
        place: the folder of its data, where that must be named; else nothing.
    """

    number: int
    published: PublishedRun | None
    runs: tuple[Run, ...]
    differences: Mapping[str, str]
    data: str | None = None
    place: str = ""

    @property
    def first(self) -> Run:
        """The run of the lowest seed, which the pictures show."""
        return self.runs[0]

    @property
    def network(self) -> str:
        """The network in a few words."""
        values = self.first.settings
        if self.published:
            return self.published.network
        title = FAMILIES[values["family"]].title
        if title:
            return f"{title} {'-'.join(map(str, values.get('blocks') or []))}".rstrip()
        return f"{values['backbone']}, unfreeze={values['unfreeze']}"

    @property
    def title(self) -> str:
        """Its name on the page, unique by the number."""
        balance = str(self.first.settings["balance"])
        return f"{self.number}. {self.network}, {BALANCES.get(balance, balance)}"

    @property
    def warning(self) -> str:
        """What nobody must overlook: data that is not FER2013's folders, and the weights it started from."""
        return "; ".join(filter(None, (self._data, self.place, self._weights)))

    @property
    def subtitle(self) -> str:
        """The mark, and all settings that differ from the recipe."""
        others = ", ".join(f"{key}={value}" for key, value in self.differences.items() if key != "weights")
        return "; ".join(filter(None, (self.warning, others)))

    @property
    def seeds(self) -> str:
        """The seeds of its runs in words."""
        return f"seed{'s' * (len(self.runs) > 1)} {', '.join(str(run.seed) for run in self.runs)}"

    @property
    def not_comparable_because(self) -> str:
        """Why the published figures are no measure for it, or nothing."""
        split = self.first.settings.get("split")
        if self._data or split != "report":
            return self._data or f"split={split}"
        if len(self.first.test) != TEST_IMAGES:
            return f"{len(self.first.test)} test images"
        return self._weights if self._weights == "random weights" else ""

    @property
    def _data(self) -> str:
        data = str(self.first.settings["data"])
        return {"fer2013": "", "synthetic": "drawn faces"}.get(data, f"data={data}")

    @property
    def _weights(self) -> str:
        if self.first.settings.get("backbone") is None:
            return ""
        name = weights_name(self.first.settings)
        return {"imagenet": "ImageNet weights", "none": "random weights"}.get(name, f"weights {name}")

    @cached_property
    def test_scores(self) -> list[dict[str, Any]]:
        """`matrix_metrics` on the test images, of each seed."""
        return [run.scores(run.test) for run in self.runs]

    def scores(self, figure: str) -> Summary:
        """Summarizes a figure of `matrix_metrics` on the test images over the seeds."""
        return summarize([scores[figure] for scores in self.test_scores])

    def test_interval(self, figure: Metric) -> Interval:
        """Computes the interval of a figure on the test images, as `interval` does."""
        return interval([run.test for run in self.runs], figure)

    @property
    def val_accuracy(self) -> Summary:
        """The accuracy on the validation images over the seeds."""
        return summarize([run.scores(run.val)["acc"] for run in self.runs])

    @property
    def train_accuracy(self) -> Summary | None:
        """The accuracy while training in the best epoch over the seeds; None where a run did not keep it."""
        values = [run.train_accuracy() for run in self.runs]
        return None if None in values else summarize([value for value in values if value is not None])


def interval(tests: Sequence[Predictions], figure: Metric) -> Interval:
    """Computes the 95 % interval of a figure's mean over seeds, by bootstrap over images.

    The bounds of the seeds are averaged: the seeds share their images, so more seeds make it no narrower.

    Args:
        tests: the predictions of each seed.
        figure: its name in `matrix_metrics`.
    """
    intervals = [bootstrap_interval(predictions.matrix(), figure) for predictions in tests]
    low, high = ([getattr(one, bound) for one in intervals] for bound in ("low", "high"))
    return Interval(sum(low) / len(low), sum(high) / len(high))


def group(runs: Sequence[Run]) -> tuple[list[Configuration], list[SkippedRun]]:
    """Puts runs that differ only in their seed together, in the order of the published report.

    Runs on other data, or tested on other images, are no seeds of each other, whatever their settings say.

    Returns:
        The configurations, and the runs that repeat another's settings, data and seed.
    """
    groups: dict[tuple[Any, ...], dict[int, Run]] = {}
    repeated = []
    data = _data_of(runs)
    # Of runs that repeat each other, the one whose checkpoint is at hand has more to show.
    for run in sorted(runs, key=lambda run: not run.folder.best.is_file()):
        key = (*_key(run), data[run.folder.path], images_digest(run.test))
        seeds = groups.setdefault(key, {})
        if run.seed in seeds:
            other = seeds[run.seed].folder.path
            repeated.append(SkippedRun(run.folder.path, f"settings, data and seed are those of {other}"))
        seeds.setdefault(run.seed, run)
    ordered = sorted(groups.items(), key=lambda item: _order(*item))
    return [_configuration(number, *item, groups) for number, item in enumerate(ordered, 1)], repeated


def _data_of(runs: Sequence[Run]) -> dict[Path, str | None]:
    """Tells the data of each run, by its folder; those that do not say are taken to be on the one that others name."""
    known: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        known.setdefault(_source(run), set()).update([run.data] if run.data else [])
    only = {source: next(iter(names)) for source, names in known.items() if len(names) == 1}
    return {run.folder.path: run.data or only.get(_source(run)) for run in runs}


def _source(run: Run) -> tuple[str, ...]:
    names = [*SOURCE_SETTINGS, "extra_data"]
    return tuple(str(run.settings.get(name)) for name in names if name != "data_dir")


def _configuration(
    number: int, key: tuple[Any, ...], seeds: Mapping[int, Run], groups: Iterable[tuple[Any, ...]]
) -> Configuration:
    published, *_, changed, data, _ = key
    runs = tuple(seeds[seed] for seed in sorted(seeds))
    settings = runs[0].settings
    alone = len({other[-2] for other in groups if other[:-2] == key[:-2]}) == 1
    named = settings["data"] == "folder" or not alone
    place = hide_home(str(settings.get("data_dir") or "the default folder")) if named else ""
    return Configuration(number, published, runs, dict(changed), data, place)


def _key(run: Run) -> tuple[Any, ...]:
    published = published_run(run.settings)
    changed = tuple(differences(run.settings, published).items())
    return (published, *(str(run.settings.get(key)) for key in RECIPE_KEYS), changed)


def _order(key: tuple[Any, ...], seeds: Mapping[int, Run]) -> tuple[Any, ...]:
    """Orders as the report does, then FER2013 first, then the fewest differences from the recipe."""
    published, *given, changed, data, images = key
    place = RUNS.index(published) if published else len(RUNS)
    return place, given[1] != "fer2013", len(changed), given, changed, data or "", min(seeds), images
