"""Tables that the paper does not have: metrics with intervals, calibration, paired tests, cost."""

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
"""Metrics of the protocol by test-time augmentation and part of the held-out images, as in `protocol_rows`."""


@dataclass(frozen=True)
class Pair:
    """Two configurations compared on the same images; `corrected` is the p-value corrected for the number of pairs."""

    first: Configuration
    second: Configuration
    test: PairedTest
    corrected: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant."""
        return self.corrected < SIGNIFICANT


def metrics_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of accuracy on parts of the test images, macro F1 and balanced accuracy, with intervals."""
    parts = ("All test images", "PublicTest", "PrivateTest", "Without duplicates")
    header = ("Run", *parts, "Macro F1", "Balanced accuracy")
    return Table(header, "lrrrrrr", [_metrics_row(configuration) for configuration in configurations])


def calibration_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of NLL, ECE and Brier score before and after the temperature fitted on the validation images."""
    header = [
        "Run",
        "Temperature",
        *(f"{name}, {when}" for name in ("NLL", "ECE", "Brier") for when in ("before", "after")),
    ]
    return Table(header, "lrrrrrrr", [_calibration_row(configuration) for configuration in configurations])


def protocol_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the protocol's metrics: each part of the held-out images, with and without augmentation.

    It contains the configurations that validated on PublicTest, where the temperature for NLL and ECE was fitted. Below
    the means over several seeds are the metrics of the seeds' ensemble, their mean probability (arXiv:1612.01474).
    """
    held_out = [configuration for configuration in configurations if (configuration.first.val.parts == "public").all()]
    rows = [row for configuration in held_out for row in _protocol_rows(configuration)]
    return Table(("Run", "Test-time augmentation", "Images", *METRICS.values()), "lllrrrr", rows)


def compare_pairs(configurations: Sequence[Configuration]) -> list[Pair]:
    """Compares the first seeds of every two configurations that have the same test images.

    The p-values get the correction of Benjamini and Yekutieli, which is valid for tests that depend on each other.
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
    header = ("First", "Second", "Difference", "95 % interval", "Correct alone", "p", "p, corrected", "Better")
    return Table(header, "llrrrrrl", [_pair_row(pair) for pair in pairs])


def cost_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table with a row for each run: time, epochs, images per second and hardware."""
    header = ("Run", "Seed", "Epochs", "Best epoch", "Minutes", "Images per second", "Hardware")
    rows = [_cost_row(configuration, run) for configuration in configurations for run in configuration.runs]
    return Table(header, "lrrrrrl", rows)


def skipped_table(skipped: Sequence[SkippedRun]) -> Table:
    """Builds a table of the runs that are not on the page, with the reasons."""
    return Table(("Run", "Reason"), "ll", [(str(run.path), run.reason) for run in skipped])


def _metrics_row(configuration: Configuration) -> Row:
    tests = [run.test for run in configuration.runs]
    parts = [[_part(test, part) for test in tests] for part in ("all", "public", "private", "without duplicates")]
    macro, balanced = (
        value_cell(configuration.scores(metric), configuration.test_interval(metric))
        for metric in ("f1_macro", "balanced_acc")
    )
    name = name_cell(configuration, configuration.subtitle)
    return (name, *(_accuracy_cell(configuration, part) for part in parts), macro, balanced)


def _protocol_rows(configuration: Configuration) -> Iterator[Row]:
    runs = configuration.runs
    yield from _part_rows(configuration, configuration.seeds, [_protocol_metrics(run.stages) for run in runs])
    if len(runs) > 1 and _all_same_images(runs):
        shared = [stage for stage in runs[0].stages if all(stage in run.stages for run in runs)]
        ensemble = {stage: mean_predictions([run.stages[stage] for run in runs]) for stage in shared}
        yield from _part_rows(configuration, f"ensemble of {len(runs)} seeds", [_protocol_metrics(ensemble)])


def _part_rows(configuration: Configuration, networks: str, seeds: Sequence[Metrics]) -> Iterator[Row]:
    """Yields a row for each part and test-time augmentation that all seeds have."""
    name = name_cell(configuration, "; ".join(filter(None, (configuration.subtitle, networks))))
    for views, part in seeds[0]:
        if all((views, part) in metrics for metrics in seeds):
            tta = views if views == "none" else str(configuration.first.settings.get("tta"))
            values = (str(summarize([metrics[views, part][key] for metrics in seeds])) for key in METRICS)
            yield (name, tta, part, *values)


def _protocol_metrics(stages: Mapping[str, Predictions]) -> Metrics:
    return {(views, part): metrics for views, part, _, metrics in protocol_rows(stages)}


def _all_same_images(runs: Sequence[Run]) -> bool:
    first = runs[0]
    return all(first.val.same_images(run.val) and first.test.same_images(run.test) for run in runs)


def _part(test: Predictions, part: str) -> Predictions:
    if part == "all":
        return test
    return test.subset(~test.copied if part == "without duplicates" else test.parts == part)


def _accuracy_cell(configuration: Configuration, tests: Sequence[Predictions]) -> Cell:
    if not all(map(len, tests)):
        return Cell("no images", tone="quiet")
    accuracy = summarize([run.scores(test)["acc"] for run, test in zip(configuration.runs, tests, strict=True)])
    return value_cell(accuracy, interval(tests, "acc"))


def _calibration_row(configuration: Configuration) -> Row:
    runs = configuration.runs
    temperatures = [fit_temperature(run.val) for run in runs]
    before = [calibration(run.test.probabilities, run.test.labels) for run in runs]
    scaled = [with_temperature(run.test, temperature) for run, temperature in zip(runs, temperatures, strict=True)]
    after = [calibration(test.probabilities, test.labels) for test in scaled]
    values = [_over_seeds(errors, name) for name in ("nll", "ece", "brier") for errors in (before, after)]
    return (name_cell(configuration, configuration.warning), str(summarize(temperatures)), *values)


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
        Cell(better, tone="good") if pair.significant else Cell("not significant", tone="quiet"),
    )


def _p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _cost_row(configuration: Configuration, run: Run) -> Row:
    record = run.record
    return (
        name_cell(configuration, configuration.warning),
        str(run.seed),
        format_number(record.epochs, "d"),
        format_number(record.best_epoch, "d"),
        format_number(None if record.train_seconds is None else record.train_seconds / 60, ".1f"),
        format_number(record.images_per_second, ",.0f"),
        record.hardware,
    )
