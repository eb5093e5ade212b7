"""Tables that the paper does not have: metrics with intervals, calibration, paired tests, cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from emotion.analysis.calibration import Calibration, calibration, fit_temperature, with_temperature
from emotion.analysis.document import Cell, Row, Table
from emotion.analysis.predictions import Predictions, mean_predictions
from emotion.analysis.protocol import METRICS, protocol_rows
from emotion.analysis.statistics import Difference, compare_folds, compare_seeds, holm, summarize
from emotion.analysis.summary import format_number
from emotion.report.configurations import Configuration, interval
from emotion.report.runs import Run, SkippedRun, images_digest
from emotion.report.sections import belong_together
from emotion.report.tables import MEANS, interval_cell, name_cell, shared_parts, value_cell

SIGNIFICANT = 0.05
_PARTS = {"All test images": "all", "PublicTest": "public", "PrivateTest": "private", "Without duplicates": "distinct"}
"""Headings of the parts of the test images; `distinct` are those without an identical training image."""

Metrics = Mapping[tuple[str, str], Mapping[str, float]]
"""Metrics of the protocol by test-time augmentation and part of the held-out images, as in `protocol_rows`."""


@dataclass(frozen=True)
class Pair:
    """Two configurations compared on the same images; `corrected` is the p-value corrected for the number of pairs."""

    first: Configuration
    second: Configuration
    test: Difference
    corrected: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant."""
        return self.corrected < SIGNIFICANT


def metrics_table(configurations: Sequence[Configuration], marks: Mapping[int, str] | None = None) -> Table:
    """Builds a table of validation accuracy, and of accuracy, macro F1 and balanced accuracy on the test images.

    Args:
        configurations: the rows.
        marks: signs beside the accuracy of a configuration, by its number.
    """
    header = ("Run", "Validation accuracy", "Test accuracy", "Macro F1", "Balanced accuracy", "Seeds")
    rows = [
        _metrics_row(configuration, (marks or {}).get(configuration.number, "")) for configuration in configurations
    ]
    caption = f"Results on the test images. {MEANS}"
    return Table(header, "lrrrrl", rows, name="results", caption=caption, best=".++++.")


def parts_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the accuracy on parts of the test images, with intervals, for the parts that have images."""
    parts = {name: part for name, part in _PARTS.items() if any(_has(shown, part) for shown in configurations)}
    rows = [
        (
            name_cell(configuration, configuration.note),
            *(_accuracy_cell(configuration, part) for part in parts.values()),
        )
        for configuration in configurations
    ]
    columns = len(parts)
    caption = f"Accuracy on parts of the test images. {MEANS}"
    return Table(("Run", *parts), "l" + "r" * columns, rows, name="parts", caption=caption, best="." + "+" * columns)


def calibration_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of NLL, ECE and Brier score before and after the temperature fitted on the validation images."""
    header = [
        "Run",
        "Temperature",
        *(f"{name}, {when}" for name in ("NLL", "ECE", "Brier") for when in ("before", "after")),
    ]
    rows = [_calibration_row(configuration) for configuration in configurations]
    caption = "Calibration on the test images before and after the temperature fitted on the validation images."
    return Table(header, "lrrrrrrr", rows, name="calibration", caption=caption, best="..------")


def protocol_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table of the protocol's metrics: each part of the held-out images, with and without augmentation.

    It contains the configurations that validated on PublicTest, where the temperature for NLL and ECE was fitted. Below
    the means over several seeds are the metrics of the seeds' ensemble, their mean probability (arXiv:1612.01474).
    """
    held_out = [configuration for configuration in configurations if (configuration.first.val.parts == "public").all()]
    rows = [row for configuration in held_out for row in _protocol_rows(configuration)]
    header = ("Run", "Test-time augmentation", "Images", *METRICS.values())
    return Table(header, "lllrrrr", rows, name="protocol", caption="PublicTest and PrivateTest.")


def compare_pairs(configurations: Sequence[Configuration]) -> list[Pair]:
    """Compares every two configurations that have the same classes, data and test images, over all seeds or folds.

    The p-values get Holm's correction for the number of pairs.
    """
    pairs = [(*pair, _compare(*pair)) for pair in itertools.combinations(configurations, 2)]
    tested = [(first, second, test) for first, second, test in pairs if test]
    corrected = holm([test.p_value for _, _, test in tested])
    return [Pair(*pair, p) for pair, p in zip(tested, corrected, strict=True)]


def significance_marks(configurations: Sequence[Configuration], pairs: Sequence[Pair]) -> dict[int, str]:
    """Returns a mark for each configuration whose accuracy is significantly below the best, by its number.

    The best has the highest mean accuracy of those that are compared with the configuration. `*`, `**` and `***`:
    corrected p below 0.05, 0.01 and 0.001, over several seeds or folds. `†`: corrected p below 0.05, between one
    network each.
    """
    marks = {}
    for one in configurations:
        compared = [(pair.second, pair, -pair.test.difference) for pair in pairs if pair.first.number == one.number]
        compared += [(pair.first, pair, pair.test.difference) for pair in pairs if pair.second.number == one.number]
        if not compared:
            continue
        best, pair, lead = max(compared, key=lambda other: other[0].scores("acc").mean)
        # Of cross-validations, the shared folds are compared; there the best over all folds can be the worse one.
        if best.scores("acc").mean >= one.scores("acc").mean and pair.significant and lead > 0:
            stars = "*" * sum(pair.corrected < limit for limit in (0.05, 0.01, 0.001))
            marks[one.number] = "†" if pair.test.runs == (1, 1) else stars
    return marks


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Builds a table with a row for each pair."""
    header = ("First", "Second", "Difference", "95 % interval", "Runs or shared folds", "p", "p, corrected", "Better")
    caption = "Differences in accuracy, first minus second; p corrected by Holm for the number of pairs."
    return Table(header, "llrrrrrl", [_pair_row(pair) for pair in pairs], name="pairs", caption=caption)


def cost_table(configurations: Sequence[Configuration]) -> Table:
    """Builds a table with a row for each run: time, epochs, images per second and hardware."""
    header = ("Run", "Seed", "Epochs", "Best epoch", "Minutes", "Images per second", "Hardware")
    rows = [_cost_row(configuration, run) for configuration in configurations for run in configuration.runs]
    return Table(header, "lrrrrrl", rows, name="cost", caption="Time and hardware of each run.")


def ensemble_stages(configuration: Configuration) -> dict[str, Predictions]:
    """Returns the mean predictions of several seeds on the same images, by stage; empty if there is no such mean."""
    runs = configuration.runs
    if len(runs) == 1 or runs[0].folds or not _all_same_images(runs):
        return {}
    shared = [stage for stage in runs[0].stages if all(stage in run.stages for run in runs)]
    return {stage: mean_predictions([run.stages[stage] for run in runs]) for stage in shared}


def skipped_table(skipped: Sequence[SkippedRun]) -> Table:
    """Builds a table of the runs that are not on the page, with the reasons."""
    return Table(("Run", "Reason"), "ll", [(str(run.path), run.reason) for run in skipped])


def _metrics_row(configuration: Configuration, mark: str) -> Row:
    accuracy = value_cell(configuration.scores("acc"), configuration.test_interval("acc"))
    # A mean over folds of these is not their value for all images together, for which an interval could be given.
    macro, balanced = (
        value_cell(configuration.scores(metric), None if configuration.folds else configuration.test_interval(metric))
        for metric in ("f1_macro", "balanced_acc")
    )
    name = name_cell(configuration, configuration.note)
    validation = value_cell(configuration.val_accuracy)
    return (name, validation, replace(accuracy, mark=mark), macro, balanced, configuration.seeds)


def _protocol_rows(configuration: Configuration) -> Iterator[Row]:
    runs = configuration.runs
    yield from _part_rows(configuration, configuration.seeds, [_protocol_metrics(run.stages) for run in runs])
    if ensemble := ensemble_stages(configuration):
        yield from _part_rows(configuration, f"ensemble of {len(runs)} seeds", [_protocol_metrics(ensemble)])


def _part_rows(configuration: Configuration, networks: str, seeds: Sequence[Metrics]) -> Iterator[Row]:
    for name, tta, part, values in shared_parts(configuration, networks, seeds):
        yield (name, tta, part, *(value_cell(summarize([metrics[key] for metrics in values])) for key in METRICS))


def _protocol_metrics(stages: Mapping[str, Predictions]) -> Metrics:
    return {(views, part): metrics for views, part, _, metrics in protocol_rows(stages)}


def _all_same_images(runs: Sequence[Run]) -> bool:
    first = runs[0]
    return all(first.val.same_images(run.val) and first.test.same_images(run.test) for run in runs)


def _compare(first: Configuration, second: Configuration) -> Difference | None:
    """Compares two configurations; None if they have no common images, or too few folds with the same images."""
    if not belong_together(first, second) or first.first.folds != second.first.folds:
        return None
    if first.first.folds:
        differences = _fold_differences(first, second)
        return compare_folds(differences, first.first.folds) if len(differences) > 1 else None
    if images_digest(first.first.test) != images_digest(second.first.test):
        return None
    return compare_seeds(*({run.seed: run.test for run in shown.runs} for shown in (first, second)))


def _fold_differences(first: Configuration, second: Configuration) -> list[float]:
    """Returns the difference in accuracy on each fold with the same images, as mean over seeds where all share them."""
    differences = []
    for fold in sorted({run.fold for run in first.runs} & {run.fold for run in second.runs}):
        sides = [[run for run in shown.runs if run.fold == fold] for shown in (first, second)]
        if len({images_digest(run.test) for side in sides for run in side}) == 1:
            means = [sum(run.scores(run.test)["acc"] for run in side) / len(side) for side in sides]
            differences.append(means[0] - means[1])
        else:
            differences += [
                run.scores(run.test)["acc"] - other.scores(other.test)["acc"]
                for run, other in itertools.product(*sides)
                if run.seed == other.seed and images_digest(run.test) == images_digest(other.test)
            ]
    return differences


def _has(configuration: Configuration, part: str) -> bool:
    """Returns whether some test images are in a part, or for `distinct` whether some are not in it."""
    if part == "distinct":
        return any(test.copied.any() for test in configuration.pooled)
    return any(len(_part(test, part)) for test in configuration.pooled)


def _part(test: Predictions, part: str) -> Predictions:
    if part == "all":
        return test
    return test.subset(~test.copied if part == "distinct" else test.parts == part)


def _accuracy_cell(configuration: Configuration, part: str) -> Cell:
    pooled = [_part(test, part) for test in configuration.pooled]
    own = [_part(run.test, part) for run in configuration.runs]
    if not all(map(len, (*pooled, *own))):
        return Cell("no images", tone="quiet")
    accuracy = summarize([float((test.predicted == test.labels).mean()) for test in own])
    return value_cell(accuracy, interval(pooled, "acc"))


def _calibration_row(configuration: Configuration) -> Row:
    runs = configuration.runs
    temperatures = [fit_temperature(run.val) for run in runs]
    before = [calibration(run.test.probabilities, run.test.labels) for run in runs]
    scaled = [with_temperature(run.test, temperature) for run, temperature in zip(runs, temperatures, strict=True)]
    after = [calibration(test.probabilities, test.labels) for test in scaled]
    values = [_over_seeds(errors, name) for name in ("nll", "ece", "brier") for errors in (before, after)]
    return (name_cell(configuration, configuration.origin), value_cell(summarize(temperatures)), *values)


def _over_seeds(values: Sequence[Calibration], name: str) -> Cell:
    return value_cell(summarize([getattr(value, name) for value in values]))


def _pair_row(pair: Pair) -> Row:
    test = pair.test
    better = "first" if test.difference > 0 else "second"
    return (
        name_cell(pair.first),
        name_cell(pair.second),
        Cell(f"{test.difference:+.4f}", numbers={"": test.difference}),
        interval_cell(test.interval),
        f"{test.runs[0]} : {test.runs[1]}",
        Cell(_p_text(test.p_value), numbers={"": test.p_value}),
        Cell(_p_text(pair.corrected), numbers={"": pair.corrected}),
        Cell(better, tone="good") if pair.significant else Cell("not significant", tone="quiet"),
    )


def _p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _cost_row(configuration: Configuration, run: Run) -> Row:
    record = run.record
    return (
        name_cell(configuration, configuration.origin),
        f"{run.seed}, fold {run.fold}" if run.folds else str(run.seed),
        format_number(record.epochs, "d"),
        format_number(record.best_epoch, "d"),
        format_number(None if record.train_seconds is None else record.train_seconds / 60, ".1f"),
        format_number(record.images_per_second, ",.0f"),
        ", ".join(filter(None, (record.hardware, record.precision))),
    )
