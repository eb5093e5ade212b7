import time
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from emotion.analysis import statistics
from emotion.analysis.metrics import confusion_matrix, matrix_metrics
from emotion.analysis.predictions import Predictions
from emotion.analysis.statistics import (
    Interval,
    Summary,
    _metric_values,
    _resample,
    bootstrap_interval,
    compare_folds,
    compare_seeds,
    holm,
    paired_test,
    summarize,
)
from emotion.data.classes import CLASSES
from emotion.errors import UserError

METRICS = ("acc", "f1_macro", "balanced_acc")


def draw(seed=0, size=400):
    """Returns labels of classes of unequal size, and predictions that are correct more often than by chance."""
    random = np.random.default_rng(seed)
    labels = random.choice(7, size, p=(0.2, 0.02, 0.13, 0.25, 0.15, 0.15, 0.1))
    predicted = np.where(random.random(size) < 0.55, labels, random.integers(7, size=size))
    return labels, predicted


def predictions_of(labels, predicted):
    size = len(labels)
    probabilities = 0.7 * np.eye(7, dtype=np.float32)[predicted] + np.float32(0.3 / 7)
    ids = np.array([f"image_{number}" for number in range(size)], np.str_)
    return Predictions(ids, labels, probabilities, parts=np.full(size, "test"), copied=np.zeros(size, np.bool_))


def predictions_correct_where(correct):
    """Returns predictions that are correct exactly where `correct` is true; the labels do not depend on it."""
    labels = np.arange(len(correct)) % 7
    return predictions_of(labels, np.where(correct, labels, (labels + 1) % 7))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1, 5, 20, 400])
def test_metrics_of_each_resample_equal_matrix_metrics(metric, size):
    (matrices,) = _resample(confusion_matrix(*draw(size=size), 7), seed=1, resamples=200)
    assert matrices.shape == (200, 7, 7)
    expected = [matrix_metrics(matrix, CLASSES)[metric] for matrix in matrices]
    np.testing.assert_allclose(_metric_values(matrices, metric), expected, rtol=1e-12)


def test_resamples_have_as_many_images_and_may_lack_classes():
    matrix = confusion_matrix(*draw(size=20), 7)
    (resamples,) = _resample(matrix, seed=0, resamples=500)
    assert set(resamples.sum((1, 2))) == {20}
    assert not resamples[:, matrix == 0].any()
    np.testing.assert_allclose(resamples.mean(0), matrix, atol=0.6)
    assert (resamples.sum(2) == 0).any(), "otherwise the test above does not cover missing classes"


def test_resamples_in_parts_are_those_of_one_draw(monkeypatch):
    matrix = confusion_matrix(*draw(size=50), 7)
    (whole,) = _resample(matrix, seed=0, resamples=100)
    interval = bootstrap_interval(matrix, "f1_macro", resamples=100)
    monkeypatch.setattr(statistics, "DRAWN", 49 * 30)
    parts = list(_resample(matrix, seed=0, resamples=100))
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    assert np.array_equal(np.concatenate(parts), whole)
    assert bootstrap_interval(matrix, "f1_macro", resamples=100) == interval


def test_interval_of_accuracy_equals_that_of_scipy():
    labels, predicted = draw()
    correct = labels == predicted
    expected = stats.bootstrap((correct,), np.mean, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    interval = bootstrap_interval(confusion_matrix(labels, predicted, 7), "acc", resamples=20_000)
    # Neighbouring values of the accuracy of 400 images are 0.0025 apart.
    assert [interval.low, interval.high] == pytest.approx([expected.low, expected.high], abs=0.003)


def test_interval_of_macro_f1_equals_that_of_resampled_images():
    labels, predicted = draw(1, 300)
    rows = np.random.default_rng(5).integers(300, size=(1000, 300))
    scores = [f1_score(labels[drawn], predicted[drawn], average="macro", zero_division=0) for drawn in rows]
    interval = bootstrap_interval(confusion_matrix(labels, predicted, 7), "f1_macro", resamples=20_000)
    assert [interval.low, interval.high] == pytest.approx(list(np.quantile(scores, (0.025, 0.975))), abs=0.008)


def test_intervals_approach_those_of_the_normal_distribution():
    labels, predicted = draw(2, 20_000)
    matrix, accuracy = confusion_matrix(labels, predicted, 7), accuracy_score(labels, predicted)
    error = np.sqrt(accuracy * (1 - accuracy) / len(labels))
    for level in (0.5, 0.95, 0.99):
        interval = bootstrap_interval(matrix, "acc", resamples=20_000, level=level)
        expected = stats.norm.interval(level, accuracy, error)
        assert [interval.low, interval.high] == pytest.approx(list(expected), abs=0.1 * error)


def test_interval_depends_on_the_seed_only():
    matrix = confusion_matrix(*draw(), 7)
    intervals = [bootstrap_interval(matrix, "f1_macro", seed=seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]
    assert intervals[0] == bootstrap_interval(matrix, "f1_macro")


def test_interval_of_a_faultless_run_is_a_point():
    assert bootstrap_interval(np.diag([3, 4, 0]), "balanced_acc") == Interval(1.0, 1.0)


@pytest.mark.parametrize("metric", METRICS)
def test_interval_contains_the_value_of_matrix_metrics(metric):
    matrix = np.array([[300, 0, 100], [200, 400, 0], [0, 0, 0]])
    value, interval = matrix_metrics(matrix, "abc")[metric], bootstrap_interval(matrix, metric)
    assert interval.low < value < interval.high < value + 0.1


def test_interval_of_a_test_split_takes_less_than_a_second():
    matrix = confusion_matrix(*draw(size=7178), 7)
    start = time.process_time()
    bootstrap_interval(matrix, "f1_macro")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("metric", METRICS)
def test_interval_of_no_images_is_refused(metric):
    with pytest.raises(ValueError, match="no images"):
        bootstrap_interval(np.zeros((7, 7), np.int64), metric)


def test_paired_test_counts_by_hand():
    first, second = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 0, 0, 1, 0, 0], bool)
    result = paired_test(predictions_correct_where(first), predictions_correct_where(second))
    assert result.difference == pytest.approx(3 / 8)
    # The probability that of five tossed coins at most one or at least four show heads.
    assert result.p_value == pytest.approx(2 * (comb(5, 0) + comb(5, 1)) / 2**5)


def test_difference_equals_that_of_the_metrics():
    labels, predicted = draw()
    runs = [predictions_of(labels, predicted), predictions_of(labels, draw(0)[1] % 5)]
    first, second = (run.metrics()["acc"] for run in runs)
    result = paired_test(*runs)
    assert first > second
    assert result.difference == pytest.approx(first - second)


def test_interval_of_the_difference_equals_that_of_the_paired_bootstrap_of_scipy():
    random = np.random.default_rng(0)
    first = random.random(500) < 0.7
    second = np.where(random.random(500) < 0.8, first, random.random(500) < 0.5)
    result = paired_test(predictions_correct_where(first), predictions_correct_where(second), resamples=20_000)
    expected = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        vectorized=True,
        rng=1,
    ).confidence_interval
    # Neighbouring differences of 500 images are 0.002 apart.
    assert [result.interval.low, result.interval.high] == pytest.approx([expected.low, expected.high], abs=0.003)
    assert result.interval.low < result.difference < result.interval.high


def test_swapping_the_runs_changes_the_sign():
    random = np.random.default_rng(4)
    first, second = (predictions_correct_where(random.random(300) < share) for share in (0.7, 0.6))
    forward, backward = paired_test(first, second), paired_test(second, first)
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value
    assert forward.interval.low == pytest.approx(-backward.interval.high, abs=0.01)


def test_images_in_another_order_are_aligned():
    labels, predicted = draw()
    first, second = predictions_of(labels, predicted), predictions_of(labels, draw(7)[1])
    expected = paired_test(first, second)
    shuffled = second.subset(np.random.default_rng(0).permutation(400))
    assert not np.array_equal(first.ids, shuffled.ids)
    assert paired_test(first, shuffled) == expected
    assert paired_test(first.subset(np.arange(400)[::-1]), second) == expected


def test_runs_that_never_differ_are_equal():
    run = predictions_of(*draw())
    result = paired_test(run, run)
    assert (result.difference, result.p_value) == (0.0, 1.0)
    assert result.interval == Interval(0.0, 0.0)


def test_chance_alone_is_rarely_significant():
    random = np.random.default_rng(0)
    pairs = random.random((200, 2, 300)) < 0.6
    values = [paired_test(*map(predictions_correct_where, pair), resamples=1).p_value for pair in pairs]
    assert np.mean(np.array(values) < 0.05) < 0.08
    assert np.mean(np.array(values) < 0.5) > 0.3


def test_different_images_are_refused():
    run = predictions_of(*draw())
    for other in (
        run.subset(np.arange(399)),
        replace(run, ids=np.char.add("other_", run.ids)),
        replace(run, ids=np.where(run.ids == "image_3", "image_4", run.ids)),
    ):
        with pytest.raises(UserError, match="predictions of different images") as caught:
            paired_test(run, other)
        assert "\n" not in str(caught.value)


def test_error_states_how_many_images_are_the_same():
    run = predictions_of(*draw())
    with pytest.raises(UserError, match=r"\(400 and 300, 300 of them the same\)"):
        paired_test(run, run.subset(np.arange(300)))


def test_different_labels_are_refused():
    run = predictions_of(*draw())
    with pytest.raises(UserError, match="different labels"):
        paired_test(run, replace(run, labels=(run.labels + 1) % 7))


def test_paired_test_of_no_images_is_refused():
    run = predictions_of(*draw(size=0))
    with pytest.raises(ValueError, match="no images"):
        paired_test(run, run)


def test_summary_by_hand():
    summary = summarize([0.1, 0.2, 0.6])
    assert summary.mean == pytest.approx(0.3)
    assert summary.deviation == pytest.approx(np.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert summary.count == 3
    assert str(summary) == "0.3000 ± 0.2646"


def test_summary_of_one_value_has_no_deviation():
    assert summarize([0.62426]) == Summary(0.62426, None, 1)
    assert str(summarize([0.62426])) == "0.6243"


def test_summary_of_no_values_is_refused():
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_holm_multiplies_by_the_number_of_tests_that_are_left():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def seeds(*accurate, images=400):
    """Returns predictions by seed, each correct on its own random share of the images."""
    return {
        seed: predictions_correct_where(np.random.default_rng([seed, round(1000 * share)]).random(images) < share)
        for seed, share in enumerate(accurate)
    }


def correct(run):
    return (run.predicted == run.labels).astype(float)


def test_one_seed_each_is_mcnemars_test():
    first, second = seeds(0.6), seeds(0.7)
    expected = paired_test(first[0], second[0])
    found = compare_seeds(first, second)
    assert (found.difference, found.p_value, found.runs) == (expected.difference, expected.p_value, (1, 1))
    assert found.interval == expected.interval


@pytest.mark.parametrize("others", [(0.52, 0.55, 0.58), (0.52, 0.6)])
def test_seeds_add_their_variance_to_that_of_the_images(others):
    first, second = seeds(0.6, 0.66, 0.63), seeds(*others)
    found = compare_seeds(first, second)
    values = np.array([correct(run) for run in first.values()]), np.array([correct(run) for run in second.values()])
    by_image = values[0].mean(0) - values[1].mean(0)
    own, theirs = (rows.mean(1) for rows in values)
    if len(others) == 3:
        seed_variance, freedom = np.var(own - theirs, ddof=1) / 3, 2
    else:
        freedom = 3
        pooled = (2 * np.var(own, ddof=1) + np.var(theirs, ddof=1)) / freedom
        seed_variance = pooled * (1 / 3 + 1 / 2)
    image_variance = np.var(by_image) / 400
    variance = seed_variance + image_variance
    degrees = variance**2 / (seed_variance**2 / freedom + image_variance**2 / 399)
    assert found.difference == pytest.approx(own.mean() - theirs.mean())
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.difference) / np.sqrt(variance), degrees))
    half = stats.t.ppf(0.975, degrees) * np.sqrt(variance)
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(half)
    assert found.runs == (3, len(others))


def test_one_of_the_configurations_may_have_a_single_seed():
    found = compare_seeds(seeds(0.6, 0.66, 0.63), seeds(0.55))
    assert found.runs == (3, 1)
    assert 0 < found.p_value < 1


def test_order_of_the_images_and_sides_does_not_matter():
    first, second = seeds(0.6, 0.66), seeds(0.5, 0.55)
    shuffled = {seed: run.subset(np.random.default_rng(seed).permutation(400)) for seed, run in first.items()}
    found, backward = compare_seeds(shuffled, second), compare_seeds(second, first)
    assert found == compare_seeds(first, second)
    assert (backward.difference, backward.p_value) == pytest.approx((-found.difference, found.p_value))


def test_seeds_with_other_images_are_refused():
    first = seeds(0.6, 0.66)
    with pytest.raises(UserError, match="different images"):
        compare_seeds(first, {0: first[0].subset(np.arange(300))})


def test_equal_runs_do_not_differ():
    same = {seed: predictions_correct_where(np.arange(400) < 200) for seed in (0, 1)}
    found = compare_seeds(same, same)
    assert (found.difference, found.p_value, found.interval) == (0.0, 1.0, Interval(0.0, 0.0))


def test_equally_good_methods_are_rarely_told_apart_although_their_networks_differ():
    """Networks differ by seed, so McNemar's test of two of them calls equal methods different far too often."""
    random = np.random.default_rng(0)
    ease = random.normal(0, 2, 400)

    def network():
        return predictions_correct_where(random.random(400) < 1 / (1 + np.exp(-(ease + 0.7 + random.normal(0, 0.4)))))

    over_seeds, over_networks = [], []
    for _ in range(200):
        first, second = ({seed: network() for seed in range(4)} for _ in range(2))
        over_seeds.append(compare_seeds(first, second).p_value < 0.05)
        over_networks.append(paired_test(first[0], second[0]).p_value < 0.05)
    assert np.mean(over_seeds) < 0.09
    assert np.mean(over_networks) > 0.2


def test_folds_have_the_corrected_variance_of_nadeau_and_bengio():
    differences = [0.02, 0.05, 0.01, 0.04, 0.03]
    found = compare_folds(differences, 5)
    error = np.sqrt(np.var(differences, ddof=1) * (1 / 5 + 1 / 4))
    assert found.difference == pytest.approx(0.03)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.03 / error, 4))
    assert found.p_value > stats.ttest_1samp(differences, 0).pvalue
    half = stats.t.ppf(0.975, 4) * error
    assert (found.interval.low, found.interval.high) == pytest.approx((0.03 - half, 0.03 + half))
    assert found.runs == (5, 5)


def test_intervals_of_differences_end_where_differences_do():
    wide = statistics._t_test(0.9, [statistics._Variance(0.04, 3)], (2, 2))
    assert wide.interval.high == 1
    assert wide.interval.low == pytest.approx(0.9 - stats.t.ppf(0.975, 3) * 0.2)
    assert statistics._t_test(0.1, [statistics._Variance(0, 1)], (2, 2)).interval == Interval(-1, 1)
    assert statistics._t_test(0, [statistics._Variance(0, 1)], (2, 2)).interval == Interval(0, 0)
