"""The tables of the published report, with our figures beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emotion.analysis.document import Block, Cell, Heading, Paragraph, Row, Table
from emotion.analysis.statistics import Interval, Summary, summarize
from emotion.data.classes import CLASSES
from emotion.report.configurations import BALANCES, Configuration
from emotion.report.published import SCORES, TABLES, PublishedRun, PublishedScores, PublishedTable
from emotion.report.verdict import best_match, verdict_cell

NOT_RUN = Cell("not run", tone="quiet")
_SCORES = ("precision", "recall", "f1")


def published_tables(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds each table of the report under a heading; a line for every configuration that repeats one of its runs."""
    blocks: list[Block] = []
    for table in TABLES:
        blocks += [Heading(table.title), _published_table(table, configurations)]
    return blocks


def detailed_scores(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds the four classification reports that were published, each beside that of the closest configuration."""
    blocks: list[Block] = []
    for published in SCORES:
        ours = best_match(configurations, published.run)
        blocks.append(Heading(f"{published.run.network}, {BALANCES[published.run.balance]}", 3))
        source = f"Ours: {ours.title} ({', '.join(filter(None, (ours.subtitle, ours.seeds)))})." if ours else "Not run."
        blocks += [Paragraph(source), _scores_table(published, ours)]
    return blocks


def other_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the configurations that repeat no run of the report."""
    rows = [
        (
            name_cell(one, one.subtitle),
            value_cell(one.scores("acc"), one.test_interval("acc")),
            str(one.scores("f1_macro")),
            one.seeds,
        )
        for one in configurations
    ]
    return Table(("Network", "Test accuracy", "Macro F1", "Seeds"), "lrrl", rows)


def name_cell(configuration: Configuration, note: str = "") -> Cell:
    """Writes the name of a configuration, with a link to its section, over a note."""
    return Cell(configuration.title, note, target=configuration.title)


def value_cell(summary: Summary | None, bounds: Interval | None = None) -> Cell:
    """Writes a mean and its deviation, with the interval below, or that a run did not keep it."""
    if summary is None:
        return Cell("not kept", tone="quiet")
    return Cell(str(summary), interval_text(bounds) if bounds else "")


def interval_text(bounds: Interval) -> str:
    """Writes an interval in words."""
    return f"{bounds.low:.3f} to {bounds.high:.3f}"


def _published_table(table: PublishedTable, configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the report; test accuracy and verdict come first, since a narrow screen shows no more."""
    rows: list[Row] = []
    for published in table.runs:
        ours = [one for one in configurations if one.published == published]
        rows += [_our_row(published, one) for one in ours] or [_empty_row(published)]
    header = ["Network", "Test, published", "Test, ours", "Difference", "95 % interval", "Verdict"]
    if table.runs[0].train is None:
        return Table(header, "lrrrrl", rows)
    return Table([*header, "Val, published", "Val, ours", "Train, published", "Train, ours"], "lrrrrlrrrr", rows)


def _our_row(published: PublishedRun, ours: Configuration) -> Row:
    accuracy = ours.scores("acc")
    test = (
        Cell(published.network, ours.subtitle, target=ours.title),
        f"{published.test:.2f}",
        Cell(str(accuracy), ours.seeds),
        "" if ours.not_comparable_because else f"{accuracy.mean - published.test:+.3f}",
        interval_text(ours.test_interval("acc")),
        verdict_cell(ours, published),
    )
    if published.train is None:
        return test
    return (
        *test,
        f"{published.val:.4f}",
        str(ours.val_accuracy),
        f"{published.train:.4f}",
        value_cell(ours.train_accuracy),
    )


def _empty_row(published: PublishedRun) -> Row:
    test = (published.network, f"{published.test:.2f}", NOT_RUN, "", "", "")
    return (
        test if published.train is None else (*test, f"{published.val:.4f}", NOT_RUN, f"{published.train:.4f}", NOT_RUN)
    )


def _scores_table(published: PublishedScores, ours: Configuration | None) -> Table:
    header = [
        "Class",
        *(f"{name}, {whose}" for name in ("Precision", "Recall", "F1") for whose in ("published", "ours")),
    ]
    rows = [
        _scores_row(name, triple, [scores["per_class"][name] for scores in ours.test_scores] if ours else [])
        for name, triple in zip(CLASSES, published.per_class, strict=True)
    ]
    averages = {"macro": published.macro, "weighted": published.weighted}
    footer = [
        _scores_row(f"{name} avg", triple, [_average(scores, name) for scores in ours.test_scores] if ours else [])
        for name, triple in averages.items()
    ]
    return Table(header, "lrrrrrr", rows, footer)


def _average(scores: dict[str, Any], name: str) -> dict[str, Any]:
    return {score: scores[f"{score}_{name}"] for score in _SCORES}


def _scores_row(name: str, published: Sequence[float], ours: Sequence[dict[str, Any]]) -> Row:
    cells: list[str | Cell] = [name]
    for score, value in zip(_SCORES, published, strict=True):
        cells += [f"{value:.2f}", str(summarize([scores[score] for scores in ours])) if ours else NOT_RUN]
    return cells
