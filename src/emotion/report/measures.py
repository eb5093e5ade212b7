"""Tables beyond the published report's: figures with intervals, calibration, paired tests, cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from emotion.analysis.calibration import Calibration, calibration, fit_temperature, with_temperature
from emotion.analysis.document import Cell, Row, Table
from emotion.analysis.predictions import Predictions, mean_predictions
from emotion.analysis.protocol import METRICS, protocol_rows
from emotion.analysis.statistics import PairedTest, paired_test, summarize
from emotion.analysis.summary import format_number
from emotion.report.configurations import Configuration, interval
from emotion.report.runs import Run, SkippedRun
from emotion.report.tables import interval_text, name_cell, value_cell

SIGNIFICANT = 0.05

Metrics = Mapping[tuple[str, str], Mapping[str, float]]
"""The figures of the protocol for views (one, several) and part of the held-out images."""


@dataclass(frozen=True)
class Pair:
    """Two configurations compared on the same images, with a p-value corrected for the number of pairs."""

    first: Configuration
    second: Configuration
    test: PairedTest
    corrected: float

    @property
    def significant(self) -> bool:
        """Whether chance explains the difference badly."""
        return self.corrected < SIGNIFICANT


def metrics_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of accuracy on parts of the test images, macro F1 and balanced accuracy, with intervals."""
    header = ("Run", "All test images", "PublicTest", "PrivateTest", "Without a copy", "Macro F1", "Balanced accuracy")
    return Table(header, "lrrrrrr", [_metrics_row(one) for one in configurations])


def calibration_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of NLL, ECE and Brier score before and after the temperature that validation images chose."""
    header = [
        "Run",
        "Temperature",
        *(f"{name}, {when}" for name in ("NLL", "ECE", "Brier") for when in ("before", "after")),
    ]
    return Table(header, "lrrrrrrr", [_calibration_row(one) for one in configurations])


def protocol_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of final figures: each part of the held-out images, with and without test-time augmentation.

    Only for configurations that validated on PublicTest; the temperature before NLL and ECE was fitted there. Below the
    means over several seeds stand the figures of their ensemble, the mean probability (arXiv:1612.01474).
    """
    held_out = [one for one in configurations if (one.first.val.parts == "public").all()]
    rows = [row for one in held_out for row in _protocol_rows(one)]
    return Table(("Run", "Views", "Images", *METRICS.values()), "lllrrrr", rows)


def compare_pairs(configurations: Sequence[Configuration]) -> list[Pair]:
    """Tests every two configurations that share their test images, by their first seeds.

    The p-values are corrected by Benjamini and Yekutieli, which holds however the tests depend on each other.
    """
    from scipy.stats import false_discovery_control

    pairs = [
        (first, second)
        for first, second in itertools.combinations(configurations, 2)
        if first.data == second.data and first.first.test.same_images(second.first.test)
    ]
    tests = [paired_test(first.first.test, second.first.test) for first, second in pairs]
    if not tests:
        return []
    corrected = false_discovery_control([test.p_value for test in tests], method="by")
    return [Pair(*pair, test, float(p)) for pair, test, p in zip(pairs, tests, corrected, strict=True)]


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Builds a table with a row for each pair."""
    header = ("First", "Second", "Difference", "95 % interval", "Right alone", "p", "p, corrected", "Better")
    return Table(header, "llrrrrrl", [_pair_row(pair) for pair in pairs])


def cost_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table with a row for each run: time, epochs, images per second and hardware."""
    header = ("Run", "Seed", "Epochs", "Best epoch", "Minutes", "Images per second", "Hardware")
    return Table(header, "lrrrrrl", [_cost_row(one, run) for one in configurations for run in one.runs])


def skipped_table(unused: Sequence[SkippedRun]) -> Table:
    """Builds a table of the runs that are not on the page, and why."""
    return Table(("Run", "Why it is left out"), "ll", [(str(run.path), run.reason) for run in unused])


def _metrics_row(ours: Configuration) -> Row:
    tests = [run.test for run in ours.runs]
    parts = [[_part(test, part) for test in tests] for part in ("all", "public", "private", "without a copy")]
    macro, balanced = (
        value_cell(ours.scores(figure), ours.test_interval(figure)) for figure in ("f1_macro", "balanced_acc")
    )
    return (name_cell(ours, ours.subtitle), *(_accuracy_cell(ours, part) for part in parts), macro, balanced)


def _protocol_rows(ours: Configuration) -> Iterator[Row]:
    yield from _part_rows(ours, ours.seeds, [_protocol_metrics(run.stages) for run in ours.runs])
    if len(ours.runs) > 1 and _all_same_images(ours.runs):
        shared = [stage for stage in ours.first.stages if all(stage in run.stages for run in ours.runs)]
        ensemble = {stage: mean_predictions([run.stages[stage] for run in ours.runs]) for stage in shared}
        yield from _part_rows(ours, f"mean of the {len(ours.runs)}", [_protocol_metrics(ensemble)])


def _part_rows(ours: Configuration, networks: str, seeds: Sequence[Metrics]) -> Iterator[Row]:
    """Yields a row for all views and parts that each of the seeds has."""
    name = name_cell(ours, "; ".join(filter(None, (ours.subtitle, networks))))
    for views, part in seeds[0]:
        if all((views, part) in figures for figures in seeds):
            shown = views if views == "one" else str(ours.first.settings.get("tta"))
            values = (str(summarize([figures[views, part][name] for figures in seeds])) for name in METRICS)
            yield (name, shown, part, *values)


def _protocol_metrics(stages: Mapping[str, Predictions]) -> Metrics:
    return {(views, part): figures for views, part, _, figures in protocol_rows(stages)}


def _all_same_images(runs: Sequence[Run]) -> bool:
    first = runs[0]
    return all(first.val.same_images(run.val) and first.test.same_images(run.test) for run in runs)


def _part(test: Predictions, part: str) -> Predictions:
    if part == "all":
        return test
    return test.subset(~test.copied if part == "without a copy" else test.parts == part)


def _accuracy_cell(ours: Configuration, tests: Sequence[Predictions]) -> Cell:
    if not all(map(len, tests)):
        return Cell("no images", tone="quiet")
    accuracy = summarize([run.scores(test)["acc"] for run, test in zip(ours.runs, tests, strict=True)])
    return value_cell(accuracy, interval(tests, "acc"))


def _calibration_row(ours: Configuration) -> Row:
    temperatures = [fit_temperature(run.val) for run in ours.runs]
    before = [calibration(run.test.probabilities, run.test.labels) for run in ours.runs]
    scaled = [with_temperature(run.test, t) for run, t in zip(ours.runs, temperatures, strict=True)]
    after = [calibration(test.probabilities, test.labels) for test in scaled]
    values = [_over_seeds(stage, name) for name in ("nll", "ece", "brier") for stage in (before, after)]
    return (name_cell(ours, ours.warning), str(summarize(temperatures)), *values)


def _over_seeds(values: Sequence[Calibration], name: str) -> str:
    return str(summarize([getattr(value, name) for value in values]))


def _pair_row(pair: Pair) -> Row:
    test = pair.test
    better = "first" if test.difference > 0 else "second"
    return (
        name_cell(pair.first),
        name_cell(pair.second),
        f"{test.difference:+.4f}",
        interval_text(test.interval),
        f"{test.only_first} : {test.only_second}",
        _p_text(test.p_value),
        _p_text(pair.corrected),
        Cell(better, tone="good") if pair.significant else Cell("none shown", tone="quiet"),
    )


def _p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _cost_row(ours: Configuration, run: Run) -> Row:
    record = run.record
    return (
        name_cell(ours, ours.warning),
        str(run.seed),
        format_number(record.epochs, "d"),
        format_number(record.best_epoch, "d"),
        format_number(None if record.train_seconds is None else record.train_seconds / 60, ".1f"),
        format_number(record.images_per_second, ",.0f"),
        record.hardware,
    )
