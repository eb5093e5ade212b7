"""Runs that left the test images alone: which settings validation prefers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from emotion.analysis.document import Block, Cell, Paragraph, Row, Table
from emotion.analysis.statistics import Summary, summarize
from emotion.report.configurations import Configuration

_CHOICE = (
    "These runs had test=false. Differences are taken seed by seed, in points of accuracy, from the first of the runs "
    "that change least, which has none."
)


def choice_blocks(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds a table of configurations without test images, the best first, and says what all of them share."""
    base = base_of(configurations)
    shared = set.intersection(*(set(one.differences.items()) for one in configurations))
    ranked = sorted(configurations, key=lambda one: one.val_accuracy.mean, reverse=True)
    common = ", ".join(f"{key}={value}" for key, value in base.differences.items() if (key, value) in shared)
    header = ("Run", "Validation accuracy", "Difference", "Macro F1", "Seeds")
    table = Table(header, "lrrrl", [_row(one, base, {key for key, _ in shared}) for one in ranked])
    return [Paragraph(_CHOICE + (f" All have {common}." if common else "")), table]


def base_of(configurations: Sequence[Configuration]) -> Configuration:
    """Returns what the others are compared with: the fewest differences from the recipe, balanced as most are."""
    balances = Counter(one.first.settings["balance"] for one in configurations)
    return min(configurations, key=lambda one: (len(one.differences), -balances[one.first.settings["balance"]]))


def seed_differences(configuration: Configuration, base: Configuration) -> Summary | None:
    """Returns by how much a configuration's validation accuracy exceeds that of the base, over the seeds of both."""
    ours, theirs = ({run.seed: run.scores(run.val)["acc"] for run in one.runs} for one in (configuration, base))
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return summarize(values) if values else None


def _row(ours: Configuration, base: Configuration, shared: set[str]) -> Row:
    note = ", ".join(f"{key}={value}" for key, value in ours.differences.items() if key not in shared)
    difference = None if ours is base else seed_differences(ours, base)
    f1_macro = summarize([run.scores(run.val)["f1_macro"] for run in ours.runs])
    return (Cell(ours.title, note), str(ours.val_accuracy), _points(difference), str(f1_macro), ours.seeds)


def _points(difference: Summary | None) -> str:
    if difference is None:
        return ""
    deviation = "" if difference.deviation is None else f" ± {100 * difference.deviation:.1f}"
    return f"{100 * difference.mean:+.1f}{deviation}"
