"""Whether our figures agree with the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from emotion.analysis.document import Cell
from emotion.analysis.statistics import Interval
from emotion.report.configurations import Configuration
from emotion.report.published import HALF_UNIT, RUNS, PublishedRun

Verdict = Literal["agrees", "higher", "lower", "not compared", "not run"]
_WORDS: dict[Verdict, str] = {
    "agrees": "in agreement with ours",
    "higher": "where ours is higher",
    "lower": "where ours is lower",
    "not compared": "run under conditions that allow no comparison",
    "not run": "not run",
}
_LABELS: dict[Verdict, Cell] = {
    "agrees": Cell("agrees", tone="good"),
    "higher": Cell("higher", tone="high"),
    "lower": Cell("lower", tone="low"),
}


def compare(ours: Interval, published: float) -> Verdict:
    """Compares an interval with a value that was published with two decimals.

    They agree if the interval holds any value that would have been rounded to the published one.
    """
    if ours.low > published + HALF_UNIT:
        return "higher"
    return "lower" if ours.high < published - HALF_UNIT else "agrees"


def compare_to_published(configuration: Configuration | None, published: PublishedRun) -> Verdict:
    """Compares the test accuracy of a configuration with that of the report, where that means something."""
    if configuration is None:
        return "not run"
    if configuration.not_comparable_because:
        return "not compared"
    return compare(configuration.test_interval("acc"), published.test)


def verdict_cell(configuration: Configuration, published: PublishedRun) -> Cell:
    """Writes the verdict as a label, or why there is none."""
    verdict = compare_to_published(configuration, published)
    return _LABELS.get(verdict) or Cell(verdict, configuration.not_comparable_because, "quiet")


def best_match(configurations: Sequence[Configuration], published: PublishedRun) -> Configuration | None:
    """Chooses the configuration that speaks for a run of the report, or None if there is none.

    It is one that can be compared, if any is; of those the one with the fewest differences from the recipe; of those
    the one with the most seeds.
    """
    candidates = [one for one in configurations if one.published == published]
    return min(
        candidates,
        key=lambda one: (bool(one.not_comparable_because), len(one.differences), -len(one.runs)),
        default=None,
    )


def overall(configurations: Sequence[Configuration]) -> str:
    """Says in a few sentences how many of the report's test accuracies were repeated, and how they came out."""
    chosen = {published: best_match(configurations, published) for published in RUNS}
    verdicts = [compare_to_published(one, published) for published, one in chosen.items()]
    compared = [one for one in chosen.values() if one is not None and not one.not_comparable_because]
    counts = ", ".join(f"{verdicts.count(name)} {words}" for name, words in _WORDS.items() if name in verdicts)
    text = f"Of {len(RUNS)} published test accuracies: {counts}."
    if not compared:
        return text
    exact = sum(not one.differences for one in compared)
    single = sum(len(one.runs) == 1 for one in compared)
    return (
        f"{text} Of the {len(compared)} compared, {exact} follow the report's recipe in every setting, and {single} "
        "rest on a single seed."
    )
