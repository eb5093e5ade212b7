"""Uncertainty of metrics: bootstrap intervals, tests of two runs, seeds or folds, means over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.predictions import Predictions
from emotion.errors import UserError

Metric = Literal["acc", "f1_macro", "balanced_acc"]

LEVEL = 0.95
"""Probability of the intervals."""
DRAWN = 2**24
"""Largest number of counts that are drawn at a time."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval: the range that a metric would have on other images of the same kind."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Two configurations compared, each with one or several runs.

    Attributes:
        difference: mean accuracy of the first minus that of the second, -1..1.
        interval: the 95 % confidence interval of `difference`.
        p_value: two-sided p-value of the hypothesis that both are equally good.
        runs: number of runs of the first and of the second; of cross-validations, number of differences of folds.
    """

    difference: float
    interval: Interval
    p_value: float
    runs: tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (None for a single value) and number of a metric's values over seeds."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.deviation is None else f"{self.mean:.4f} ± {self.deviation:.4f}"


def bootstrap_interval(
    matrix: NDArray[np.int64], metric: Metric, *, seed: int = 0, resamples: int = 2000, level: float = LEVEL
) -> Interval:
    """Computes the confidence interval of a metric by the percentile bootstrap over images.

    Args:
        matrix: int64 [K, K], rows are true classes.
        metric: name of the metric in `matrix_metrics`.
        seed: seed of the resampling.
        resamples: number of resamples, each of as many images as there are, drawn with replacement.
        level: share of the resamples inside the interval, 0..1.

    Raises:
        ValueError: the matrix counts no images.
    """
    values = [_metric_values(draws, metric) for draws in _resample(matrix, seed, resamples)]
    return _percentiles(np.concatenate(values), level)


def paired_test(first: Predictions, second: Predictions, *, resamples: int = 2000) -> Difference:
    """Compares the accuracy of two runs on the same images, in any order, by McNemar's exact test.

    Its p-value is the probability of as many images or more that only one of them classifies correctly, if both are
    equally good. The p-values of many tests need a correction, for example `holm`.

    Args:
        first: predictions of one run.
        second: predictions of the other run.
        resamples: number of resamples for the interval, each of as many images as there are, drawn with replacement.

    Raises:
        UserError: the runs differ in their images or in the labels of their images.
        ValueError: there are no images.
    """
    from scipy.stats import binomtest

    correct_first, correct_second = _correct_on_same_images(first, second)
    images = len(correct_first)
    only_first, only_second = int((correct_first & ~correct_second).sum()), int((correct_second & ~correct_first).sum())
    # Images that both runs classify correctly, or both wrongly, cancel in the difference, so one count holds them all.
    counts = np.array([only_first, only_second, images - only_first - only_second])
    draws = np.concatenate(list(_resample(counts, 0, resamples)))  # [R, 3]
    discordant = only_first + only_second
    return Difference(
        difference=(only_first - only_second) / images,
        interval=_percentiles((draws[:, 0] - draws[:, 1]) / images),
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        runs=(1, 1),
    )


def compare_seeds(first: Mapping[int, Predictions], second: Mapping[int, Predictions]) -> Difference:
    """Compares the mean accuracy of two configurations over their seeds, on the same images.

    The squared standard error of the difference is the variance of a mean over images plus that of a mean over seeds:
    other images and other seeds would both have given another difference. Both contain the variance that depends on
    image and seed together, so the test is cautious: of equal methods it calls fewer than 5 % different. Student's t
    distribution with the degrees of freedom of Welch and Satterthwaite gives p-value and interval, so that two or three
    seeds say little where seeds matter. Differences are taken seed by seed if both have the same seeds; otherwise the
    deviation over seeds is pooled. With one run each there is no deviation: then the test is `paired_test`, which
    compares two networks and not the methods that trained them.

    Args:
        first: predictions of one configuration by seed.
        second: predictions of the other configuration by seed.

    Raises:
        UserError: the runs differ in their images or in the labels of their images.
        ValueError: there are no images.
    """
    counts = len(first), len(second)
    if counts == (1, 1):
        return paired_test(*first.values(), *second.values())
    reference = next(iter(first.values()))
    pairs = {seed: _correct_on_same_images(run, reference)[0] for seed, run in first.items()}
    others = {seed: _correct_on_same_images(run, reference)[0] for seed, run in second.items()}
    by_image = np.mean([*pairs.values()], axis=0) - np.mean([*others.values()], axis=0)  # [N]
    accuracies = ({seed: float(run.mean()) for seed, run in runs.items()} for runs in (pairs, others))
    over_seeds = _seed_variance(*accuracies)
    over_images = _Variance(float(by_image.var()) / len(by_image), len(by_image) - 1)
    return _t_test(float(by_image.mean()), [over_seeds, over_images], counts)


def compare_folds(differences: Sequence[float], folds: int) -> Difference:
    """Compares two configurations by their differences in accuracy on the folds of a cross-validation.

    This is the corrected t-test of Nadeau and Bengio (Machine Learning 52, 2003): the training images of two folds
    overlap, so the variance over n folds is multiplied by 1/n + 1/(folds - 1) and not by 1/n alone.

    Args:
        differences: accuracy of the first minus that of the second, on the same held-out images, for n >= 2 folds.
        folds: number of folds of the cross-validation, at least 2.
    """
    count = len(differences)
    variance = float(np.var(differences, ddof=1)) * (1 / count + 1 / (folds - 1))
    return _t_test(float(np.mean(differences)), [_Variance(variance, count - 1)], (count, count))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p-values of several tests by Holm's method, which holds for tests that depend on each other.

    The smallest p of n is multiplied by n, the next by n - 1, and so on; none becomes smaller than one before it.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def summarize(values: Sequence[float]) -> Summary:
    """Computes the mean and the sample standard deviation of a metric's values over seeds.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values to summarize")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class _Variance:
    """An estimated variance of a mean, and the degrees of freedom of the estimate."""

    value: float
    freedom: int


def _seed_variance(first: Mapping[int, float], second: Mapping[int, float]) -> _Variance:
    """Returns the variance of the difference of two means over seeds, of accuracies by seed; one has several."""
    if first.keys() == second.keys():
        count = len(first)
        return _Variance(float(np.var([first[seed] - second[seed] for seed in first], ddof=1)) / count, count - 1)
    groups = [np.array([*values.values()]) for values in (first, second)]
    freedom = sum(map(len, groups)) - 2
    pooled = sum(float(((values - values.mean()) ** 2).sum()) for values in groups) / freedom
    return _Variance(pooled * sum(1 / len(values) for values in groups), freedom)


def _t_test(difference: float, variances: Sequence[_Variance], runs: tuple[int, int]) -> Difference:
    """Tests a difference whose variance is the sum of some variances, with the degrees of freedom of Satterthwaite."""
    from scipy.stats import t

    variance = sum(part.value for part in variances)
    if not variance:  # equal differences everywhere, from which no spread can be estimated
        interval = Interval(-1.0, 1.0) if difference else Interval(0.0, 0.0)
        return Difference(difference, interval, 1.0, runs)
    error = variance**0.5
    freedom = variance**2 / sum(part.value**2 / part.freedom for part in variances if part.value)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(difference) / error, freedom))
    interval = Interval(max(-1.0, difference - half), min(1.0, difference + half))
    return Difference(difference, interval, p_value, runs)


def _resample(counts: NDArray[np.int64], seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Draws as many images as `counts` [...] holds, with replacement, and yields their counts int64 [r, ...].

    They come in parts of at most `DRAWN` counts, `resamples` draws in all, since those of 1,000 classes take 16 GB.
    Counts of images drawn with replacement follow a multinomial distribution, so that the counts are drawn directly.
    """
    images = int(counts.sum())
    if not images:
        raise ValueError("no images to draw from")
    generator, size = np.random.default_rng(seed), max(1, DRAWN // counts.size)
    filled = np.flatnonzero(counts)  # at most one cell for each image, of a million cells of 1,000 classes
    for start in range(0, resamples, size):
        draws = np.zeros((min(size, resamples - start), counts.size), np.int64)
        draws[:, filled] = generator.multinomial(images, counts.flat[filled] / images, size=len(draws))
        yield draws.reshape(-1, *counts.shape)  # [r, ...]


def _metric_values(matrices: NDArray[np.int64], metric: Metric) -> NDArray[np.float64]:
    """Returns a metric of `matrix_metrics` for each of R matrices, int64 [R, K, K], none empty: float64 [R]."""
    correct, support, predicted = matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)  # [R, K] each
    if metric == "acc":
        return np.asarray(correct.sum(1) / support.sum(1), np.float64)
    numerator, denominator = (2 * correct, support + predicted) if metric == "f1_macro" else (correct, support)
    return np.asarray(np.mean(numerator / np.maximum(denominator, 1), axis=1, where=support > 0), np.float64)


def _percentiles(values: NDArray[np.float64], level: float = LEVEL) -> Interval:
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high))


def _correct_on_same_images(first: Predictions, second: Predictions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which images each run classifies correctly, bool [N] each, in the order of the sorted ids."""
    first, second = (run.subset(np.argsort(run.ids)) for run in (first, second))
    if not np.array_equal(first.ids, second.ids):
        shared = len(np.intersect1d(first.ids, second.ids))
        raise UserError(
            f"predictions of different images ({len(first)} and {len(second)}, {shared} of them the same): "
            "compare runs of the same data and split"
        )
    if not np.array_equal(first.labels, second.labels):
        raise UserError("predictions with different labels for the same images: compare runs of the same data")
    return first.predicted == first.labels, second.predicted == second.labels
