"""Runs that were not evaluated on the test images, compared by their validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from emotion.analysis.document import Block, Cell, Heading, Paragraph, Row, Table
from emotion.analysis.statistics import Summary, summarize
from emotion.report.configurations import Configuration
from emotion.report.recipes import EARLIER, typed_settings
from emotion.report.runs import Run, images_digest
from emotion.report.sections import Section, belong_together, make_sections
from emotion.report.tables import value_cell

_READING = (
    "Runs with test=false, the best first. The validation images also chose the epochs, so accuracy on other images is "
    "lower. Differences in accuracy are in percentage points, computed seed by seed from the baseline, which is the "
    "run whose settings differ least from all others. A row names only the settings that differ from the baseline."
)

Settings = Mapping[str, str]


def validation_blocks(configurations: Sequence[Configuration]) -> list[Block]:
    """Builds one table for each set of validation images, after a note on how to read it.

    Args:
        configurations: configurations without predictions for test images, of any data.
    """
    sections = make_sections(configurations)
    blocks: list[Block] = [Paragraph(_READING)] if sections else []
    for section in sections:
        blocks += [] if section.only else [Heading(section.heading("Validation"), 3)]
        blocks += _section_tables(section)
    return blocks


def baseline(configurations: Sequence[Configuration]) -> Configuration:
    """Returns the configuration whose settings differ least from all others: that of an ablation's unchanged run.

    Raises:
        ValueError: there are no configurations.
    """
    settings = {configuration.number: typed_settings(configuration.first.settings) for configuration in configurations}
    changes = {
        number: sum(len(_changes(other, own)) for other in settings.values()) for number, own in settings.items()
    }
    return min(configurations, key=lambda configuration: (changes[configuration.number], configuration.number))


def seed_differences(configuration: Configuration, base: Configuration) -> Summary | None:
    """Returns a configuration's validation accuracy minus that of the baseline, over the seeds and folds of both.

    Returns:
        Differences of accuracies, -1..1; None without a seed for which both have the same validation images.
    """
    base_runs = {(run.seed, run.fold): run for run in base.runs}
    together = belong_together(configuration, base)
    pairs = [
        (run, base_runs[run.seed, run.fold])
        for run in configuration.runs
        if together and (run.seed, run.fold) in base_runs
    ]
    values = [
        _accuracy(run) - _accuracy(base_run)
        for run, base_run in pairs
        if images_digest(run.val) == images_digest(base_run.val)
    ]
    return summarize(values) if values else None


def _section_tables(section: Section) -> list[Table]:
    ordered = sorted(section.configurations, key=_images)
    tables = [_table(list(same)) for _, same in groupby(ordered, key=_images)]
    names = ["validation", *(f"validation-{number}" for number in range(2, len(tables) + 1))]
    caption = f"Validation results: {section.name}. Mean ± sample standard deviation over seeds and folds."
    return [replace(table, name=section.file(name), caption=caption) for name, table in zip(names, tables, strict=True)]


def _table(configurations: Sequence[Configuration]) -> Table:
    base = baseline(configurations)
    header = ("Run", "Validation accuracy", "Difference", "Macro F1", "Seeds", "Folder of the first seed")
    ranked = sorted(configurations, key=lambda configuration: configuration.val_accuracy.mean, reverse=True)
    return Table(header, "lrrrll", [_row(configuration, base) for configuration in ranked], best=".+.+..")


def _row(configuration: Configuration, base: Configuration) -> Row:
    changes = _changes(typed_settings(configuration.first.settings), typed_settings(base.first.settings))
    changes |= {key: value for key, value in configuration.differences.items() if EARLIER in key}
    # The row of the baseline names the settings that differ from its recipe.
    named = base.differences if configuration is base else changes
    hidden = {"weights", *configuration.named}
    text = ", ".join(f"{key}={value}" for key, value in named.items() if key not in hidden)
    return (
        Cell(configuration.title, "; ".join(filter(None, (configuration.origin, text)))),
        value_cell(configuration.val_accuracy),
        Cell("baseline", tone="quiet") if configuration is base else _points(seed_differences(configuration, base)),
        value_cell(summarize([run.scores(run.val)["f1_macro"] for run in configuration.runs])),
        configuration.seeds,
        str(configuration.first.folder.path),
    )


def _changes(settings: Settings, base: Settings) -> dict[str, str]:
    return {key: value for key, value in settings.items() if value != base.get(key, value)}


def _points(difference: Summary | None) -> str | Cell:
    if difference is None:
        return ""
    deviation = "" if difference.deviation is None else f" ± {100 * difference.deviation:.1f}"
    points = {key: 100 * value for key, value in value_cell(difference).numbers.items()}
    return Cell(f"{100 * difference.mean:+.1f}{deviation}", numbers=points)


def _accuracy(run: Run) -> float:
    return float(run.scores(run.val)["acc"])


def _images(configuration: Configuration) -> tuple[str, bytes]:
    return configuration.data or "", images_digest(configuration.first.val)
