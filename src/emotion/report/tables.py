"""The tables of the paper, with our values beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from emotion.analysis.document import Block, Cell, Heading, Paragraph, Row, Table
from emotion.analysis.exports import file_stem
from emotion.analysis.statistics import Interval, Summary, summarize
from emotion.data.classes import CLASSES
from emotion.report.commands import published_command
from emotion.report.configurations import BALANCES, Configuration
from emotion.report.published import SCORES, TABLES, PublishedRun, PublishedScores, PublishedTable
from emotion.report.verdict import best_match, remark, verdict_cell

Value = TypeVar("Value")
NOT_RUN = Cell("not run", tone="quiet")
_SCORES = ("precision", "recall", "f1")
MEANS = "Mean ± sample standard deviation over seeds and folds."


def published_tables(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds each table of the paper under a heading, with a row for each configuration that repeats a run."""
    blocks: list[Block] = []
    for table in TABLES:
        rows = _published_table(table, configurations)
        blocks += [Heading(table.title), replace(rows, name=file_stem(table.title), caption=f"{table.title}.")]
    return blocks


def detailed_scores(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds the four published classification reports, each beside that of the best matching configuration."""
    blocks: list[Block] = []
    for published in SCORES:
        match = best_match(configurations, published.run)
        blocks.append(Heading(f"{published.run.network}, {BALANCES[published.run.balance]}", 3))
        if match is None:
            blocks.append(Paragraph(f"Not run: {published_command(published.run)}"))
            continue
        facts = ", ".join(filter(None, (match.subtitle, match.seeds)))
        source = f"Ours: {match.title} ({facts})."
        scores = _scores_table(published, match)
        title = f"{published.run.network}, {BALANCES[published.run.balance]}"
        caption = f"Precision, recall and F1 of each class: {title}."
        blocks += [Paragraph(source), replace(scores, name=file_stem(f"published {title}"), caption=caption)]
    return blocks


def folds_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the cross-validated configurations: accuracy over the folds, and on all images together."""
    rows = [_folds_row(configuration) for configuration in configurations if configuration.folds]
    header = ("Run", "Folds", "Accuracy, over folds", "Held-out images", "Accuracy, all images", "Macro F1, all images")
    caption = (
        f"Cross-validation. {MEANS} All images: the predictions for the held-out images of all folds, counted "
        "together, as mean over seeds."
    )
    return Table(header, "llrrrr", rows, name="cross-validation", caption=caption, best="..+.++")


def name_cell(configuration: Configuration, note: str = "") -> Cell:
    """Returns a cell with the name of a configuration, linked to its section, above a note."""
    return Cell(configuration.title, note, target=configuration.title)


def shared_parts(
    configuration: Configuration, networks: str, seeds: Sequence[Mapping[tuple[str, str], Value]]
) -> Iterator[tuple[Cell, str, str, list[Value]]]:
    """Yields each part of the images and test-time augmentation that all seeds have, for the rows of a table.

    Args:
        configuration: the configuration.
        networks: its networks as text, such as the number of seeds.
        seeds: for each seed, its values by test-time augmentation (`none` or `several views`) and part.

    Yields:
        The name for the row, the test-time augmentation, the part, and the value of each seed.
    """
    name = name_cell(configuration, "; ".join(filter(None, (configuration.note, networks))))
    for views, part in seeds[0]:
        if all((views, part) in values for values in seeds):
            tta = views if views == "none" else str(configuration.first.settings.get("tta"))
            yield name, tta, part, [values[views, part] for values in seeds]


def value_cell(summary: Summary | None, bounds: Interval | None = None) -> Cell:
    """Returns a cell with a mean and its deviation above the interval, or "not kept" for a missing value."""
    if summary is None:
        return Cell("not kept", tone="quiet")
    numbers = {"": summary.mean}
    if summary.deviation is not None:
        numbers["sd"] = summary.deviation
    if bounds:
        numbers |= {"low": bounds.low, "high": bounds.high}
    return Cell(str(summary), interval_text(bounds) if bounds else "", numbers=numbers)


def interval_text(bounds: Interval) -> str:
    """Returns an interval as text."""
    return f"{bounds.low:.3f} to {bounds.high:.3f}"


def _folds_row(configuration: Configuration) -> Row:
    scores = [predictions.metrics() for predictions in configuration.pooled]
    together = (
        value_cell(summarize([score[metric] for score in scores]), configuration.test_interval(metric))
        for metric in ("acc", "f1_macro")
    )
    return (
        name_cell(configuration, configuration.note),
        configuration.seeds,
        value_cell(configuration.scores("acc")),
        f"{len(configuration.pooled[0]):,}",
        *together,
    )


def _published_table(table: PublishedTable, configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the paper; test accuracy and verdict come first, since a narrow screen shows only these."""
    rows: list[Row] = []
    for published in table.runs:
        repeated = [configuration for configuration in configurations if configuration.published == published]
        rows += [_compared_row(published, configuration, repeated) for configuration in repeated]
        rows += [] if repeated else [_empty_row(published)]
    header = ["Network", "Test, published", "Test, ours", "Difference", "95 % interval", "Verdict"]
    if table.runs[0].train is None:
        return Table(header, "lrrrrl", rows)
    return Table([*header, "Val, published", "Val, ours", "Train, published", "Train, ours"], "lrrrrlrrrr", rows)


def _compared_row(published: PublishedRun, configuration: Configuration, repeated: Sequence[Configuration]) -> Row:
    accuracy, precisions = configuration.scores("acc"), configuration.precisions
    note = "; ".join(filter(None, (configuration.subtitle, remark(configuration, repeated))))
    test = (
        Cell(published.network, note, target=configuration.title),
        f"{published.test:.2f}",
        replace(value_cell(accuracy), note="; ".join((configuration.seeds, *precisions))),
        "" if configuration.not_comparable_because else _difference_cell(accuracy.mean - published.test),
        interval_cell(configuration.test_interval("acc")),
        verdict_cell(configuration, published),
    )
    if published.train is None:
        return test
    return (
        *test,
        f"{published.val:.4f}",
        value_cell(configuration.val_accuracy),
        f"{published.train:.4f}",
        value_cell(configuration.train_accuracy),
    )


def _difference_cell(difference: float) -> Cell:
    return Cell(f"{difference:+.3f}", numbers={"": difference})


def interval_cell(bounds: Interval) -> Cell:
    """Returns a cell with an interval."""
    return Cell(interval_text(bounds), numbers={"low": bounds.low, "high": bounds.high})


def _empty_row(published: PublishedRun) -> Row:
    network = Cell(published.network, published_command(published))
    test = (network, f"{published.test:.2f}", NOT_RUN, "", "", "")
    return (
        test if published.train is None else (*test, f"{published.val:.4f}", NOT_RUN, f"{published.train:.4f}", NOT_RUN)
    )


def _scores_table(published: PublishedScores, match: Configuration) -> Table:
    columns = [f"{name}, {source}" for name in ("Precision", "Recall", "F1") for source in ("published", "ours")]
    seeds = match.test_scores
    rows = [
        _scores_row(name, triple, [scores["per_class"][name] for scores in seeds])
        for name, triple in zip(CLASSES, published.per_class, strict=True)
    ]
    averages = {"macro": published.macro, "weighted": published.weighted}
    footer = [
        _scores_row(f"{name} avg", triple, [_average(scores, name) for scores in seeds])
        for name, triple in averages.items()
    ]
    return Table(["Class", *columns], "lrrrrrr", rows, footer)


def _average(scores: dict[str, Any], name: str) -> dict[str, Any]:
    return {score: scores[f"{score}_{name}"] for score in _SCORES}


def _scores_row(name: str, published: Sequence[float], ours: Sequence[dict[str, Any]]) -> Row:
    cells: list[str | Cell] = [name]
    for score, value in zip(_SCORES, published, strict=True):
        cells += [f"{value:.2f}", str(summarize([scores[score] for scores in ours]))]
    return cells
