"""Verdicts on our test accuracies beside those of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from emotion.analysis.document import Cell
from emotion.analysis.statistics import Interval
from emotion.report.configurations import Configuration
from emotion.report.published import HALF_UNIT, LARGEST_CLASS, RUNS, PublishedRun

Verdict = Literal["agrees", "higher", "lower", "not compared", "not run"]
_SUMMARY: dict[Verdict, str] = {
    "agrees": "in agreement",
    "higher": "higher",
    "lower": "lower",
    "not compared": "not comparable",
    "not run": "not run",
}
_LABELS: dict[Verdict, Cell] = {
    "agrees": Cell("agrees", tone="good"),
    "higher": Cell("higher", tone="high"),
    "lower": Cell("lower", tone="low"),
}


def compare(bounds: Interval, published: float) -> Verdict:
    """Compares an interval with a value that was published with two decimals.

    They agree if the interval contains a value that rounds to the published value.
    """
    if bounds.low > published + HALF_UNIT:
        return "higher"
    return "lower" if bounds.high < published - HALF_UNIT else "agrees"


def compare_to_published(configuration: Configuration | None, published: PublishedRun) -> Verdict:
    """Compares the test accuracy of a configuration with the published one, if they are comparable."""
    if configuration is None:
        return "not run"
    if configuration.not_comparable_because:
        return "not compared"
    return compare(configuration.test_interval("acc"), published.test)


def verdict_cell(configuration: Configuration, published: PublishedRun) -> Cell:
    """Returns a cell with the verdict as a label, or with the reason why there is none."""
    verdict = compare_to_published(configuration, published)
    return _LABELS.get(verdict) or Cell(verdict, configuration.not_comparable_because, "quiet")


def best_match(configurations: Sequence[Configuration], published: PublishedRun) -> Configuration | None:
    """Returns the configuration that represents a run of the paper, or None if no configuration repeats the run.

    Comparable configurations come first, then those that predict more than one class if the paper's network did, then
    those with the fewest differences from the recipe, then those with the most seeds.
    """
    candidates = [configuration for configuration in configurations if configuration.published == published]
    return min(
        candidates,
        key=lambda match: (
            bool(match.not_comparable_because),
            match.constant and published.test > LARGEST_CLASS,
            len(match.differences),
            -len(match.runs),
        ),
        default=None,
    )


def learning(configurations: Sequence[Configuration]) -> Configuration | None:
    """Returns the one that learns best where another of the configurations, of one network, does not learn at all.

    The validation images choose it among those that predict more than one class.
    """
    learn = [one for one in configurations if not one.constant]
    return max(learn, key=lambda one: one.val_accuracy.mean) if 0 < len(learn) < len(configurations) else None


def remark(configuration: Configuration, repeated: Sequence[Configuration]) -> str:
    """Returns whether a configuration, of those that repeat a run of the paper, learns nothing, or best beside such."""
    if configuration.constant:
        return "one class for every image"
    return (
        "the nearest recipe that learns, chosen by validation accuracy" if configuration is learning(repeated) else ""
    )


def overall(configurations: Sequence[Configuration]) -> str:
    """Returns a summary of the verdicts on all test accuracies of the paper."""
    matches = {published: best_match(configurations, published) for published in RUNS}
    verdicts = [compare_to_published(match, published) for published, match in matches.items()]
    compared = [match for match in matches.values() if match is not None and not match.not_comparable_because]
    counts = ", ".join(f"{verdicts.count(name)} {text}" for name, text in _SUMMARY.items() if name in verdicts)
    text = f"Our results beside the {len(RUNS)} test accuracies of the paper: {counts}."
    if not compared:
        return text
    exact = sum(not match.differences for match in compared)
    single = sum(len(match.runs) == 1 for match in compared)
    return (
        f"{text} Comparable with the paper: {len(compared)}, of which {exact} with every setting of its recipe and "
        f"{single} from a single seed."
    )
