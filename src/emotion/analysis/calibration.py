"""Whether a network's confidence can be believed, and the one temperature that mends it.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, describe the error and the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from emotion.analysis.predictions import Predictions
from emotion.errors import UserError
from emotion.palette import BLUE, GREY, GRID, LIGHT_BLUE, LIGHT_ORANGE, TEXT

# Files keep probabilities in half precision, where all below 3e-8 become 0, whose logarithm is infinite. A single such
# image would decide every mean; the smallest number of half precision, 6e-8, is the closest that has a logarithm.
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Calibration:
    """How well probabilities agree with the truth; 0 is best for all.

    Attributes:
        nll: mean negative natural logarithm of the true class's probability, at most 16.6.
        brier: mean over images of the squared errors summed over classes, 0..2.
        ece: expected calibration error, 0..1: the mean gap between confidence and accuracy, over bins of confidence
            that count by their images.
    """

    nll: float
    brier: float
    ece: float


def calibration(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15) -> Calibration:
    """Computes how well probabilities agree with the truth.

    Args:
        probabilities: float32 [N, K] in 0..1, rows sum to 1.
        labels: int64 [N], true class ids.
        bins: number of bins of equal width from 0 to 1.

    Raises:
        ValueError: there are no images.
    """
    if not len(labels):
        raise ValueError("no images to compute the calibration of")
    wide = probabilities.astype(np.float64)
    truth = np.eye(wide.shape[1])[labels]
    return Calibration(
        nll=float(-np.log(np.maximum(wide[truth == 1], _SMALLEST)).mean()),
        brier=float(((wide - truth) ** 2).sum(1).mean()),
        ece=_expected_error(_bin(probabilities, labels, bins)),
    )


def fit_temperature(predictions: Predictions) -> float:
    """Finds the temperature, 0.05..20, at which the predictions have the least negative log likelihood.

    Args:
        predictions: of validation images; the test images must not choose anything.

    Raises:
        UserError: there are no images.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    if not len(predictions):
        raise UserError("temperature: there are no validation images to fit it on")
    logits, images = _logits(predictions), np.arange(len(predictions))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[images, predictions.labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded").x))


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Divides the logits by a temperature: above 1 makes the network less sure, below 1 surer.

    The order of the classes of an image stays, and so does the most probable one. Two whose probabilities differ in
    the last digit of half precision may become equal in it; decisions are best read from the predictions as they were.

    Args:
        predictions: of any images.
        temperature: above 0.

    Returns:
        A copy whose probabilities are rescaled, float32 [N, K], rows sum to 1.
    """
    from scipy.special import softmax

    rescaled = softmax(_logits(predictions) / temperature, axis=1)
    return replace(predictions, probabilities=rescaled.astype(np.float32))


def reliability_figure(predictions: Predictions, temperature: float, bins: int = 15) -> Figure:
    """Draws accuracy against confidence, before and after the temperature, above the distribution of confidences.

    Args:
        predictions: before the temperature.
        temperature: above 0.
        bins: number of bins of equal width from 0 to 1.

    Raises:
        ValueError: there are no images.
    """
    if not len(predictions):
        raise ValueError("no images to draw the reliability of")
    figure = Figure(figsize=(7.5, 5.4), layout=ConstrainedLayoutEngine(wspace=0.05))
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    stages = {"before": predictions, f"after, T = {temperature:.2f}": with_temperature(predictions, temperature)}
    for (name, stage), (upper, lower) in zip(stages.items(), panels.T, strict=True):
        binned = _bin(stage.probabilities, stage.labels, bins)
        upper.set_title(f"{name}: ECE {_expected_error(binned):.1%}", loc="left", fontweight="bold", fontsize=11)
        _draw_reliability(upper, binned)
        _draw_confidences(lower, binned)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images")
    return figure


@dataclass(frozen=True)
class _Bins:
    """Images by their confidence, in bins of equal width from 0 to 1."""

    images: NDArray[np.int64]  # [B]
    confidence: NDArray[np.float64]  # [B], summed over the images of the bin
    right: NDArray[np.float64]  # [B], images whose most probable class is the true one


def _logits(predictions: Predictions) -> NDArray[np.float64]:
    """Returns log probabilities, float64 [N, K], which are logits but for a constant of each row.

    They come from half precision, so that predictions in memory and read from their file give the same.
    """
    return np.log(np.maximum(predictions.stored.astype(np.float64), _SMALLEST))


def _bin(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int) -> _Bins:
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    # A confidence of 1 is at the upper edge of the last bin and belongs to it.
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    member = number[:, np.newaxis] == np.arange(bins)
    return _Bins(member.sum(0), confidence @ member, right @ member)


def _expected_error(binned: _Bins) -> float:
    return float(np.abs(binned.right - binned.confidence).sum() / binned.images.sum())


def _draw_reliability(axes: Axes, binned: _Bins) -> None:
    """Draws a bar a bin up to its accuracy, and in other colours the gap to its mean confidence."""
    held = np.flatnonzero(binned.images)
    width = 1 / len(binned.images)
    accuracy, confidence = (sums[held] / binned.images[held] for sums in (binned.right, binned.confidence))
    for label, colour, bottom, top in (
        ("accuracy", BLUE, np.zeros(len(held)), accuracy),
        ("too sure", LIGHT_ORANGE, accuracy, np.maximum(accuracy, confidence)),
        ("not sure enough", LIGHT_BLUE, np.minimum(accuracy, confidence), accuracy),
    ):
        axes.bar((held + 0.5) * width, top - bottom, 0.9 * width, bottom, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color=TEXT, linestyle="--", linewidth=1.0, label="accuracy = confidence")
    axes.set_ylim(0, 1)
    _tidy(axes)


def _draw_confidences(axes: Axes, binned: _Bins) -> None:
    width = 1 / len(binned.images)
    middles = (np.arange(len(binned.images)) + 0.5) * width
    axes.bar(middles, binned.images / binned.images.sum(), 0.9 * width, color=GREY)
    axes.set_xlabel("confidence")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
