"""How sure a figure is: intervals by bootstrap, paired tests of two runs, means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotion.analysis.predictions import Predictions
from emotion.errors import UserError

Metric = Literal["acc", "f1_macro", "balanced_acc"]


@dataclass(frozen=True)
class Interval:
    """The range in which a figure lies, by the spread that drawing other images of the same kind would cause."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Two runs compared on the same images.

    Attributes:
        only_first: images that only the first run gets right.
        only_second: images that only the second run gets right.
        difference: accuracy of the first minus that of the second, -1..1.
        interval: the interval of `difference`.
        p_value: of McNemar's exact test, two-sided: how probable so unequal counts are if both runs are equally good.
    """

    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Summary:
    """Values of several seeds: their mean, sample standard deviation (None for a single value) and number."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.deviation is None else f"{self.mean:.4f} ± {self.deviation:.4f}"


def bootstrap_interval(
    matrix: NDArray[np.int64], figure: Metric, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Computes the interval of a figure by the percentile bootstrap over images.

    Args:
        matrix: int64 [K, K], rows are true classes.
        figure: its name in `matrix_metrics`, which defines it.
        seed: of the draws.
        resamples: the number of times as many images as there are get drawn with replacement.
        level: the share of resamples inside the interval, 0..1.

    Raises:
        ValueError: the matrix counts no images.
    """
    return _percentiles(_figures(_resample(matrix, seed, resamples), figure), level)


def paired_test(
    first: Predictions, second: Predictions, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> PairedTest:
    """Compares the accuracy of two runs on the same images, which may come in another order.

    Many such tests need a correction, as by `scipy.stats.false_discovery_control`.

    Args:
        first: predictions of one run.
        second: predictions of the other.
        seed: of the draws.
        resamples: the number of times as many images as there are get drawn with replacement.
        level: the share of resamples inside the interval of the difference, 0..1.

    Raises:
        UserError: the runs are of different images or of different labels for them.
        ValueError: there are no images.
    """
    from scipy.stats import binomtest

    right_first, right_second = _right_on_same_images(first, second)
    images = len(right_first)
    only_first, only_second = int((right_first & ~right_second).sum()), int((right_second & ~right_first).sum())
    # Images on which both are right or both wrong cancel in the difference, so one cell holds them all.
    draws = _resample(np.array([only_first, only_second, images - only_first - only_second]), seed, resamples)
    discordant = only_first + only_second
    return PairedTest(
        only_first,
        only_second,
        difference=(only_first - only_second) / images,
        interval=_percentiles((draws[:, 0] - draws[:, 1]) / images, level),
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )


def summarize(values: Sequence[float]) -> Summary:
    """Computes the mean and the sample standard deviation of a figure over seeds.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values to summarize")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), deviation, len(values))


def _resample(counts: NDArray[np.int64], seed: int, resamples: int) -> NDArray[np.int64]:
    """Draws as many images as `counts` [...] holds, with replacement, and counts them again: int64 [resamples, ...].

    The counts of images drawn with replacement follow a multinomial distribution, so no image is drawn by itself.
    """
    images = int(counts.sum())
    if not images:
        raise ValueError("no images to draw from")
    draws = np.random.default_rng(seed).multinomial(images, counts.ravel() / images, size=resamples)
    return draws.reshape(resamples, *counts.shape)


def _figures(matrices: NDArray[np.int64], figure: Metric) -> NDArray[np.float64]:
    """Computes a figure of `matrix_metrics` for each of the matrices [R, K, K] with images, float64 [R]."""
    hits, support, claimed = matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)
    if figure == "acc":
        return np.asarray(hits.sum(1) / support.sum(1), np.float64)
    part, whole = (2 * hits, support + claimed) if figure == "f1_macro" else (hits, support)
    return np.asarray(np.mean(part / np.maximum(whole, 1), axis=1, where=support > 0), np.float64)


def _percentiles(values: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high))


def _right_on_same_images(first: Predictions, second: Predictions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which images each run gets right, bool [N] twice, in the order of the sorted ids."""
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
