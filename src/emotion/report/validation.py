"""Runs that left the test images alone: which settings validation prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from emotion.analysis.document import Block, Cell, Paragraph, Row, Table
from emotion.analysis.statistics import Summary, summarize
from emotion.report.configurations import Configuration
from emotion.report.recipes import typed_settings
from emotion.report.runs import Run, images_digest

_READING = (
    "Runs of test=false, the best first. Validation chose their epochs too, so they reach less on other images. "
    "Differences are taken seed by seed, in points of accuracy, from the run that differs least from all others; only "
    "what differs from it is named."
)

Settings = Mapping[str, str]


def validation_blocks(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds a table of configurations without test images for all that validated on the same images.

    Args:
        configurations: none of them tested.
    """
    ordered = sorted(configurations, key=_images)
    tables = [_table(list(same)) for _, same in groupby(ordered, key=_images)]
    return [Paragraph(_READING), *tables] if tables else []


def baseline(configurations: Sequence[Configuration]) -> Configuration:
    """Returns the configuration that differs least from all others, which an ablation changes one setting of.

    Raises:
        ValueError: there is none.
    """
    settings = {one.number: typed_settings(one.first.settings) for one in configurations}
    return min(
        configurations,
        key=lambda one: (sum(len(_changes(own, settings[one.number])) for own in settings.values()), one.number),
    )


def seed_differences(configuration: Configuration, base: Configuration) -> Summary | None:
    """Returns by how much a configuration's validation accuracy exceeds that of the base, over the seeds of both.

    Returns:
        Differences of shares, -1..1; None if there is no seed for which both validated on the same images.
    """
    theirs = {run.seed: run for run in base.runs}
    same_data = configuration.data == base.data
    pairs = [(run, theirs[run.seed]) for run in configuration.runs if same_data and run.seed in theirs]
    values = [
        _accuracy(ours) - _accuracy(other)
        for ours, other in pairs
        if images_digest(ours.val) == images_digest(other.val)
    ]
    return summarize(values) if values else None


def _table(configurations: Sequence[Configuration]) -> Table:
    base = baseline(configurations)
    header = ("Run", "Validation accuracy", "Difference", "Macro F1", "Seeds", "Folder of the first")
    accuracies = {one.number: one.val_accuracy.mean for one in configurations}
    ranked = sorted(configurations, key=lambda one: accuracies[one.number], reverse=True)
    return Table(header, "lrrrll", [_row(one, base) for one in ranked])


def _row(ours: Configuration, base: Configuration) -> Row:
    changes = _changes(typed_settings(ours.first.settings), typed_settings(base.first.settings))
    # The base stands for itself, by what it changes in its recipe.
    named = base.differences if ours is base else changes
    words = ", ".join(f"{key}={value}" for key, value in named.items() if key != "weights")
    name = Cell(ours.title, "; ".join(filter(None, (ours.warning, words))))
    f1_macro = summarize([run.scores(run.val)["f1_macro"] for run in ours.runs])
    difference = Cell("the base", tone="quiet") if ours is base else _points(seed_differences(ours, base))
    return (name, str(ours.val_accuracy), difference, str(f1_macro), ours.seeds, str(ours.first.folder.path))


def _changes(settings: Settings, base: Settings) -> dict[str, str]:
    return {key: value for key, value in settings.items() if value != base.get(key, value)}


def _points(difference: Summary | None) -> str:
    if difference is None:
        return ""
    deviation = "" if difference.deviation is None else f" ± {100 * difference.deviation:.1f}"
    return f"{100 * difference.mean:+.1f}{deviation}"


def _accuracy(run: Run) -> float:
    return float(run.scores(run.val)["acc"])


def _images(configuration: Configuration) -> tuple[str, bytes]:
    return configuration.data or "", images_digest(configuration.first.val)
