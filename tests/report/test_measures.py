from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from emotion.analysis.calibration import fit_temperature
from emotion.analysis.document import Cell
from emotion.analysis.predictions import Predictions
from emotion.analysis.statistics import compare_folds, compare_seeds
from emotion.report.configurations import group
from emotion.report.measures import (
    calibration_table,
    compare_pairs,
    cost_table,
    metrics_table,
    pairs_table,
    parts_table,
    protocol_table,
    significance_marks,
)
from emotion.report.runs import Record, Run

from .conftest import MakeRun, texts


def test_metrics_are_those_of_scikit_learn(make_run: MakeRun) -> None:
    run = make_run(images=700)
    row = metrics_table(group([run])[0]).rows[0]
    labels, predicted = run.test.labels, run.test.predicted
    expected = [(predicted == labels).mean(), f1_score(labels, predicted, average="macro")]
    expected += [balanced_accuracy_score(labels, predicted)]
    assert texts(row)[2:5] == [f"{value:.4f}" for value in expected]
    assert texts(row)[5] == "seed 0"
    check_intervals(row[2:5], expected)


def test_validation_accuracy_stands_before_the_test_metrics(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=70, accuracy=0.6) for seed in (0, 1)]
    runs[1] = replace(runs[1], val=runs[1].val.subset(np.flatnonzero(runs[1].val.predicted == runs[1].val.labels)))
    table = metrics_table(group(runs)[0])
    assert table.header[:3] == ("Run", "Validation accuracy", "Test accuracy")
    assert texts(table.rows[0])[1:3] == ["0.8000 ± 0.2828", "0.6000 ± 0.0000"]


def check_intervals(cells: Sequence[str | Cell], expected: Sequence[float]) -> None:
    for cell, value in zip(cells, expected, strict=True):
        assert isinstance(cell, Cell)
        low, high = map(float, cell.note.split(" to "))
        assert low < value < high
        assert cell.numbers == pytest.approx({"": value, "low": low, "high": high}, abs=6e-4)


def test_accuracy_on_the_parts_of_the_test_images(make_run: MakeRun) -> None:
    run = make_run(images=700)
    table = parts_table(group([run])[0])
    test = run.test
    correct = test.predicted == test.labels
    parts = [correct, correct[test.parts == "public"], correct[test.parts == "private"], correct[~test.copied]]
    expected = [part.mean() for part in parts]
    assert table.header == ("Run", "All test images", "PublicTest", "PrivateTest", "Without duplicates")
    assert texts(table.rows[0])[1:] == [f"{value:.4f}" for value in expected]
    check_intervals(table.rows[0][1:], expected)


def test_parts_without_images_are_left_out(make_run: MakeRun) -> None:
    own, official = make_run("lr=1e-4", name="own", images=70, own=True), make_run(name="halves", images=70)
    assert parts_table(group([own])[0]).header == ("Run", "All test images")
    official.test.parts[:] = "private"
    table = parts_table(group([own, official])[0])
    assert table.header == ("Run", "All test images", "PrivateTest", "Without duplicates")
    assert {texts(row)[2] for row in table.rows} == {"no images", "0.6000"}


def test_calibration_of_the_test_images(make_run: MakeRun) -> None:
    run = make_run(images=700)
    name, temperature, before, after, *_ = texts(calibration_table(group([run])[0]).rows[0])
    assert name == "1. CNN 2-2-1-1, class weights"
    assert float(before) == pytest.approx(log_loss(run.test.labels, run.test.probabilities), abs=2e-3)
    assert float(temperature) == pytest.approx(fit_temperature(run.val), abs=1e-4)
    assert abs(fit_temperature(run.val) - fit_temperature(run.test)) > 0.01
    scaled = run.test.probabilities.astype(float) ** (1 / float(temperature))
    assert float(after) == pytest.approx(log_loss(run.test.labels, scaled / scaled.sum(1, keepdims=True)), abs=2e-3)


def test_p_values_of_all_pairs_are_corrected(make_run: MakeRun) -> None:
    runs = [
        make_run(model, name=model, images=700, accuracy=accuracy, draw=draw)
        for draw, (model, accuracy) in enumerate((("model=cnn_111", 0.5), ("model=cnn_1111", 0.52), ("model=cnn", 0.7)))
    ]
    drawn = make_run("data=synthetic", name="drawn", images=699)
    pairs = compare_pairs(group([*runs, drawn])[0])
    assert [(pair.first.number, pair.second.number) for pair in pairs] == [(1, 2), (1, 3), (2, 3)]
    correct = {number: run.test.predicted == run.test.labels for number, run in enumerate(runs, 1)}
    expected = []
    for pair in pairs:
        first, second = correct[pair.first.number], correct[pair.second.number]
        only_one = int((first & ~second).sum()), int((second & ~first).sum())
        expected.append(binomtest(only_one[0], sum(only_one)).pvalue)
        assert pair.test.difference == pytest.approx(first.mean() - second.mean())
    assert [pair.test.p_value for pair in pairs] == pytest.approx(expected)
    first, second, third = expected
    assert second < third < first
    assert [pair.corrected for pair in pairs] == pytest.approx([first, 3 * second, 2 * third])
    rows = [texts(row) for row in pairs_table(pairs).rows]
    assert [row[-1] for row in rows] == ["not significant", "second", "second"]
    assert rows[1][2] == "-0.2000"
    assert rows[1][4] == "1 : 1"


def seeds_of(make_run: MakeRun, *arguments: str, accuracies: Sequence[float], draw: int, **options: Any) -> list[Run]:
    return [
        make_run(
            *arguments,
            f"seed={seed}",
            name=f"{draw}-{seed}",
            images=700,
            accuracy=accuracy,
            draw=draw + seed,
            **options,
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def test_all_seeds_are_compared(make_run: MakeRun) -> None:
    first = seeds_of(make_run, "model=cnn_111", accuracies=(0.5, 0.52, 0.54), draw=0)
    second = seeds_of(make_run, "model=cnn", accuracies=(0.7, 0.71, 0.69), draw=10)
    (pair,) = compare_pairs(group([*first, *second])[0])
    expected = compare_seeds(*({run.seed: run.test for run in runs} for runs in (first, second)))
    assert pair.test == expected
    assert pair.test.difference == pytest.approx(-0.18)
    assert pair.test.runs == (3, 3)
    assert pair.corrected == pair.test.p_value < 0.001
    assert texts(pairs_table([pair]).rows[0])[4] == "3 : 3"


def test_marks_stand_beside_what_is_significantly_worse_than_the_best(make_run: MakeRun) -> None:
    best = seeds_of(make_run, "model=cnn", accuracies=(0.7, 0.71, 0.69), draw=0)
    close = seeds_of(make_run, "model=cnn_111", accuracies=(0.69, 0.7, 0.68), draw=10)
    worse = seeds_of(make_run, "model=cnn_1111", accuracies=(0.5, 0.52, 0.51), draw=20)
    configurations, _ = group([*best, *close, *worse])
    names = {shown.first.settings["model"]: shown.number for shown in configurations}
    marks = significance_marks(configurations, compare_pairs(configurations))
    assert marks == {names["cnn_1111"]: "***"}
    cells = {
        shown.number: row[2]
        for shown, row in zip(configurations, metrics_table(configurations, marks).rows, strict=True)
    }
    assert {number: cell.mark for number, cell in cells.items()} == {number: marks.get(number, "") for number in cells}


def test_a_dagger_marks_the_comparison_of_two_networks(make_run: MakeRun) -> None:
    runs = [make_run(name="a", images=700, accuracy=0.7), make_run("lr=1e-4", name="b", images=700, accuracy=0.5)]
    configurations, _ = group(runs)
    assert significance_marks(configurations, compare_pairs(configurations)) == {2: "†"}


def test_the_best_is_among_those_that_are_compared(make_run: MakeRun) -> None:
    """A cross-validation is compared with none of the others, whatever its accuracy."""
    folds = fold_runs(make_run, "1e-3", (0.9, 0.92, 0.91))
    others = seeds_of(make_run, "model=cnn_111", accuracies=(0.7, 0.71, 0.69), draw=0)
    others += seeds_of(make_run, "model=cnn_1111", accuracies=(0.5, 0.52, 0.51), draw=20)
    configurations, _ = group([*folds, *others])
    names = {shown.first.settings["model"]: shown.number for shown in configurations}
    assert significance_marks(configurations, compare_pairs(configurations)) == {names["cnn_1111"]: "***"}


def test_of_folds_only_the_accuracy_has_an_interval(make_run: MakeRun) -> None:
    """The mean over folds of the others is not their value for all images together."""
    configurations, _ = group(fold_runs(make_run, "1e-3", (0.7, 0.74, 0.69)))
    _, _, accuracy, macro, balanced, _ = metrics_table(configurations).rows[0]
    assert isinstance(accuracy, Cell)
    assert " to " in accuracy.note
    assert [cell.note for cell in (macro, balanced) if isinstance(cell, Cell)] == ["", ""]


def fold_runs(make_run: MakeRun, lr: str, accuracies: Sequence[float], seed: int = 0) -> list[Run]:
    return [
        make_run(
            "data=folder",
            "data_dir=own",
            f"lr={lr}",
            f"seed={seed}",
            name=f"{lr}-{seed}-{fold}",
            images=100,
            accuracy=accuracy,
            draw=fold,
            own=True,
            prefix=f"fold{fold}/",
            changes={"folds": len(accuracies), "fold": fold},
        )
        for fold, accuracy in enumerate(accuracies)
    ]


def test_folds_are_compared_fold_by_fold(make_run: MakeRun) -> None:
    first = fold_runs(make_run, "1e-3", (0.7, 0.72, 0.69, 0.75, 0.71))
    second = fold_runs(make_run, "1e-4", (0.6, 0.64, 0.61, 0.63, 0.6))
    configurations, _ = group([*first, *second[:4]])
    (pair,) = compare_pairs(configurations)
    better = [1, -1][configurations[0].first.settings["lr"] == 1e-4]
    expected = compare_folds([0.1 * better, 0.08 * better, 0.08 * better, 0.12 * better], 5)
    assert pair.test.difference == pytest.approx(expected.difference)
    assert pair.test.p_value == pytest.approx(expected.p_value)
    assert pair.test.runs == (4, 4)


def test_seeds_of_a_fold_are_averaged_before_the_folds_are_compared(make_run: MakeRun) -> None:
    first = [run for seed in (0, 1) for run in fold_runs(make_run, "1e-3", (0.7 + 0.02 * seed, 0.74, 0.7), seed)]
    second = fold_runs(make_run, "1e-4", (0.6, 0.6, 0.62))
    configurations, _ = group([*first, *second])
    (pair,) = compare_pairs(configurations)
    sign = 1 if len(configurations[0].runs) == 6 else -1
    assert pair.test.difference == pytest.approx(sign * np.mean([0.11, 0.14, 0.08]))
    assert pair.test.runs == (3, 3)


def test_a_mark_does_not_stand_beside_the_better_of_the_shared_folds(make_run: MakeRun) -> None:
    first = fold_runs(make_run, "1e-3", (0.5, 0.51, 0.9, 0.9, 0.9))
    second = fold_runs(make_run, "1e-4", (0.7, 0.72, 0.0, 0.0, 0.0))
    configurations, _ = group([*first, *second[:2]])
    pairs = compare_pairs(configurations)
    assert pairs[0].significant
    assert significance_marks(configurations, pairs) == {}


def test_one_common_fold_is_too_little_for_a_test(make_run: MakeRun) -> None:
    first, second = fold_runs(make_run, "1e-3", (0.7, 0.7)), fold_runs(make_run, "1e-4", (0.6, 0.6))
    assert compare_pairs(group([*first, second[0]])[0]) == []


def test_runs_with_other_classes_are_not_compared(make_run: MakeRun) -> None:
    runs = [
        make_run("model=cnn_111", name="a", images=70, classes=("x", "y")),
        make_run(name="b", images=70, classes=("x", "z")),
    ]
    assert compare_pairs(group(runs)[0]) == []


def test_runs_of_different_images_are_not_compared(make_run: MakeRun) -> None:
    runs = [make_run("model=cnn_111", name="a", images=70), make_run(name="b", images=77)]
    assert compare_pairs(group(runs)[0]) == []
    assert compare_pairs([]) == []


def test_runs_with_other_labels_for_the_same_images_are_not_compared(make_run: MakeRun) -> None:
    runs = [make_run("model=cnn_111", name="a", images=70), make_run(name="b", images=70)]
    runs[1].test.labels[0] = 6
    assert compare_pairs(group(runs)[0]) == []


def test_cost_of_each_run(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=70) for seed in (0, 1)]
    older = Record(**runs[1].record.model_dump(exclude={"images_per_second", "train_seconds"}))
    runs[1] = replace(runs[1], record=older)
    rows = [texts(row)[1:] for row in cost_table(group(runs)[0]).rows]
    assert rows == [["0", "3", "2", "1.5", "1,234", "a machine"], ["1", "3", "2", "—", "—", "a machine"]]


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")  # in half precision
def test_deviation_of_the_calibration_is_over_seeds(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=700, draw=seed) for seed in (0, 1)]
    losses = [log_loss(run.test.labels, run.test.probabilities) for run in runs]
    mean, deviation = map(float, texts(calibration_table(group(runs)[0]).rows[0])[2].split(" ± "))
    assert mean == pytest.approx(np.mean(losses), abs=2e-3)
    assert deviation == pytest.approx(np.std(losses, ddof=1), abs=1e-3)


def public(predictions: Predictions) -> Predictions:
    return replace(predictions, parts=np.full(len(predictions), "public"))


def private(predictions: Predictions) -> Predictions:
    return replace(predictions, parts=np.full(len(predictions), "private"))


def test_protocol_table_has_each_part_with_and_without_augmentation(make_run: MakeRun) -> None:
    runs = [make_run("tta=flip", f"seed={seed}", name=f"a{seed}", images=700, draw=seed) for seed in (0, 1)]
    better = [make_run(f"seed={seed}", name=f"b{seed}", images=700, accuracy=0.9, draw=seed).test for seed in (0, 1)]
    runs = [replace(run, val=public(run.val), test=private(run.test)) for run in runs]
    runs = [
        replace(run, augmented={"val": run.val, "test": private(test)}) for run, test in zip(runs, better, strict=True)
    ]
    table = protocol_table(group(runs)[0])
    assert [texts(row)[1:3] for row in table.rows] == [
        [tta, part]
        for tta in ("none", "flip") * 2
        for part in ("PublicTest", "PrivateTest", "PrivateTest without duplicates", "All")
    ]
    networks = ["seeds 0, 1"] * 8 + ["ensemble of 2 seeds"] * 8
    assert [row[0].note for row in table.rows] == [f"tta=flip; {own}" for own in networks]
    accuracies = [(run.test.predicted == run.test.labels).mean() for run in runs]
    deviation = np.std(accuracies, ddof=1)
    assert texts(table.rows[1])[3] == f"{np.mean(accuracies):.4f} ± {deviation:.4f}"
    assert float(texts(table.rows[5])[3].split(" ")[0]) > 0.85


def test_protocol_table_has_the_ensemble_of_the_seeds(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=700, accuracy=0.4, draw=seed) for seed in (0, 1, 2)]
    runs = [replace(run, val=public(run.val), test=private(run.test)) for run in runs]
    row = protocol_table(group(runs)[0]).rows[5]
    val, test = (np.mean([getattr(run, stage).probabilities for run in runs], 0) for stage in ("val", "test"))
    labels = runs[0].test.labels
    temperature = fit_temperature(replace(runs[0].val, probabilities=val))
    scaled = test.astype(float) ** (1 / temperature)
    accuracy, f1, loss, _ = map(float, texts(row)[3:])
    assert accuracy == pytest.approx((test.argmax(1) == labels).mean(), abs=2e-3)
    assert accuracy > max((run.test.predicted == labels).mean() for run in runs)
    assert f1 == pytest.approx(f1_score(labels, test.argmax(1), average="macro"), abs=2e-3)
    assert loss == pytest.approx(log_loss(labels, scaled / scaled.sum(1, keepdims=True)), abs=2e-3)


def test_protocol_table_names_differing_settings(make_run: MakeRun) -> None:
    runs = [make_run("recipe=small", f"split={split}", name=split, images=70) for split in ("official", "clean")]
    runs = [replace(run, val=public(run.val), test=private(run.test)) for run in runs]
    assert [row[0].note for row in protocol_table(group(runs)[0]).rows[::4]] == ["seed 0", "split=clean; seed 0"]


def test_seeds_with_other_images_have_no_ensemble(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=70, val_images=70 + 7 * seed) for seed in (0, 1)]
    runs = [replace(run, val=public(run.val), test=private(run.test)) for run in runs]
    assert len(protocol_table(group(runs)[0]).rows) == 4


def test_protocol_table_has_the_parts_that_all_seeds_have(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=70, draw=seed) for seed in (0, 1)]
    runs = [
        replace(run, val=public(run.val), test=set_part(run.test))
        for run, set_part in zip(runs, (private, public), strict=True)
    ]
    assert [texts(row)[2] for row in protocol_table(group(runs)[0]).rows] == ["PublicTest", "All"]


def test_protocol_table_needs_public_test_as_validation(make_run: MakeRun) -> None:
    assert not protocol_table(group([make_run(images=70)])[0]).rows
