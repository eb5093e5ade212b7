"""Calibration: how far a network's confidence is from its accuracy, and the temperature that corrects it.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, define the calibration error and the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from emotion.analysis.figures import tidy
from emotion.analysis.predictions import Predictions
from emotion.errors import UserError
from emotion.palette import BLUE, GREY, LIGHT_BLUE, LIGHT_ORANGE, TEXT

# Files keep probabilities in half precision, where values below 3e-8 become 0. The logarithm of 0 is infinite, and one
# such image would decide every mean, so 0 counts as the smallest positive number of half precision, 6e-8.
SMALLEST_PROBABILITY = float(np.finfo(np.float16).smallest_subnormal)
_TEMPERATURE_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class Calibration:
    """Errors of predicted probabilities; 0 is the best value of each.

    Attributes:
        nll: mean negative natural logarithm of the true class's probability, 0..16.6.
        brier: mean over images of the squared errors summed over classes, 0..2.
        ece: expected calibration error, 0..1: the gap between mean confidence and accuracy of the images in a bin of
            confidence, averaged over the bins, each weighted by its number of images.
    """

    nll: float
    brier: float
    ece: float


def calibration(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15) -> Calibration:
    """Computes the errors of predicted probabilities.

    Args:
        probabilities: float32 [N, K] in 0..1, rows sum to 1.
        labels: int64 [N], true class ids.
        bins: number of bins of equal width from 0 to 1.

    Raises:
        ValueError: there are no images.
    """
    if not len(labels):
        raise ValueError("no images to compute the calibration of")
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)  # [N]
    squares = np.einsum("nk,nk->n", probabilities, probabilities, dtype=np.float64)  # [N]
    return Calibration(
        nll=float(-np.log(np.maximum(true, SMALLEST_PROBABILITY)).mean()),
        brier=float((squares - 2 * true + 1).mean()),  # the label has the error 1 - p, every other class its p
        ece=_expected_error(_bin(probabilities, labels, bins)),
    )


def fit_temperature(predictions: Predictions) -> float:
    """Returns the temperature, 0.05..20, at which the predictions have the lowest mean negative log likelihood.

    It is at least 1 where all of them are right: then the lowest one would be the best, and tells nothing of others.

    Args:
        predictions: predictions for validation images, since test images must not choose anything.

    Raises:
        UserError: there are no images.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    if not len(predictions):
        raise UserError("temperature: no validation images to fit it on: choose a split that has some")
    logits, images = _logits(predictions), np.arange(len(predictions))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[images, predictions.labels].mean())

    fitted = float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURE_RANGE), method="bounded").x))
    return max(1.0, fitted) if (predictions.predicted == predictions.labels).all() else fitted


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Divides the logits by a temperature: above 1 it lowers the confidence, below 1 it raises it.

    The order of an image's classes stays, and so does its most probable class. Two classes whose probabilities differ
    in the last digit of half precision may become equal in it, so classes should be read from the given predictions.

    Args:
        predictions: predictions for any images.
        temperature: divisor of the logits, above 0.

    Returns:
        The predictions with rescaled probabilities, float32 [N, K], rows sum to 1.
    """
    from scipy.special import softmax

    rescaled = softmax(_logits(predictions) / temperature, axis=1)
    return replace(predictions, probabilities=rescaled.astype(np.float32))


def reliability_figure(predictions: Predictions, temperature: float, bins: int = 15) -> Figure:
    """Draws accuracy against confidence, before and after the temperature, above the distribution of confidences.

    Args:
        predictions: predictions before the temperature.
        temperature: divisor of the logits, above 0.
        bins: number of bins of equal width from 0 to 1.

    Raises:
        ValueError: there are no images.
    """
    if not len(predictions):
        raise ValueError("no images to draw a reliability diagram of")
    figure = Figure(figsize=(7.5, 5.4), layout=ConstrainedLayoutEngine(wspace=0.05))
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    versions = {"before": predictions, f"after, T = {temperature:.2f}": with_temperature(predictions, temperature)}
    for (name, version), (upper, lower) in zip(versions.items(), panels.T, strict=True):
        binned = _bin(version.probabilities, version.labels, bins)
        upper.set_title(f"{name}: ECE {_expected_error(binned):.1%}", loc="left", fontweight="bold", fontsize=11)
        _draw_reliability(upper, binned)
        _draw_confidences(lower, binned)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images")
    return figure


@dataclass(frozen=True)
class _Bins:
    """Images counted by their confidence, in B bins of equal width from 0 to 1."""

    images: NDArray[np.int64]  # [B], number of images
    confidence: NDArray[np.float64]  # [B], confidence summed over the images
    correct: NDArray[np.float64]  # [B], number of images whose most probable class is the true class


def _logits(predictions: Predictions) -> NDArray[np.float64]:
    """Returns log probabilities, float64 [N, K], which differ from the logits by a constant in each row.

    They come from half precision, so that predictions in memory and those read from their file give the same results.
    """
    return np.log(np.maximum(predictions.stored.astype(np.float64), SMALLEST_PROBABILITY))


def _bin(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int) -> _Bins:
    confidence = probabilities.max(1).astype(np.float64)  # [N]
    correct = (probabilities.argmax(1) == labels).astype(np.float64)  # [N]
    # A confidence of 1 is the upper edge of the last bin and belongs to that bin.
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    member = index[:, np.newaxis] == np.arange(bins)  # bool [N, B]
    return _Bins(member.sum(0), confidence @ member, correct @ member)


def _expected_error(binned: _Bins) -> float:
    return float(np.abs(binned.correct - binned.confidence).sum() / binned.images.sum())


def _draw_reliability(axes: Axes, binned: _Bins) -> None:
    """Draws the accuracy of each bin with images as a bar, and in another colour the gap to its mean confidence."""
    filled = np.flatnonzero(binned.images)
    width = 1 / len(binned.images)
    accuracy, confidence = (sums[filled] / binned.images[filled] for sums in (binned.correct, binned.confidence))
    for label, colour, bottom, top in (
        ("accuracy", BLUE, np.zeros(len(filled)), accuracy),
        ("overconfident", LIGHT_ORANGE, accuracy, np.maximum(accuracy, confidence)),
        ("underconfident", LIGHT_BLUE, np.minimum(accuracy, confidence), accuracy),
    ):
        axes.bar((filled + 0.5) * width, top - bottom, 0.9 * width, bottom, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color=TEXT, linestyle="--", linewidth=1.0, label="accuracy = confidence")
    axes.set_ylim(0, 1)
    _tidy(axes)


def _draw_confidences(axes: Axes, binned: _Bins) -> None:
    width = 1 / len(binned.images)
    centers = (np.arange(len(binned.images)) + 0.5) * width
    axes.bar(centers, binned.images / binned.images.sum(), 0.9 * width, color=GREY)
    axes.set_xlabel("confidence")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    tidy(axes)
