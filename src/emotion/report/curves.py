"""Learning curves of several configurations in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emotion.analysis.figures import short_name, tidy
from emotion.palette import BLUE, GREEN, ORANGE, PURPLE, SOFT_TEXT
from emotion.report.configurations import Configuration

MAX_CURVES = 24
"""Most configurations in a figure: eight colours, each as a solid, a dashed and a dotted line."""

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#b5405c", "#1c9aa6", "#8a6d2f", SOFT_TEXT)
_STYLES = ("-", "--", ":")
_PANELS = {"validation accuracy": "val/acc", "validation loss": "val/loss"}
_LABEL = 64  # characters of a name in the legend
_OUTLYING = 1.5  # values above this multiple of the 95 % quantile are cut off

Curve = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def comparison_figure(configurations: Sequence[Configuration]) -> Figure | None:
    """Draws validation accuracy and loss over the epochs, one line for each configuration.

    A line is the mean over the runs of a configuration, the band its sample standard deviation. Both end with the last
    epoch that all these runs reached: a mean over the runs that are left would jump where one stops. Losses far above
    most others are cut off.

    Args:
        configurations: at most `MAX_CURVES`.

    Returns:
        A figure of two panels above a legend; None if no run has readable curves.
    """
    drawn = [shown for shown in configurations if any(mean_curve(shown, tag) for tag in _PANELS.values())]
    if not drawn:
        return None
    labels = _labels(drawn)
    figure = Figure(figsize=(12.0, 4.2 + 0.22 * math.ceil(len(drawn) / 2)), layout="constrained")
    for axes, (title, tag) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for position, (configuration, label) in enumerate(zip(drawn, labels, strict=True)):
            colour, style = _COLOURS[position % len(_COLOURS)], _STYLES[position // len(_COLOURS) % len(_STYLES)]
            _draw(axes, mean_curve(configuration, tag), label, color=colour, linestyle=style)
        _finish(axes, title)
    lines = figure.axes[0].lines
    legend = figure.legend(lines, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def mean_curve(configuration: Configuration, tag: str) -> Curve | None:
    """Returns epochs int64 [E], mean float64 [E] and sample standard deviation float64 [E] of a tag over the runs.

    The epochs are those for which all runs have a value. The deviation of a single run is 0.

    Returns:
        The curve; None if there is no such epoch.
    """
    runs = [dict(run.history.get(tag, ())) for run in configuration.runs]
    epochs = sorted(set.intersection(*(set(values) for values in runs)))
    if not epochs:
        return None
    values = np.array([[run[epoch] for epoch in epochs] for run in runs])  # [R, E]
    with np.errstate(invalid="ignore"):  # infinite losses
        deviation = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(epochs))
    return np.array(epochs), values.mean(axis=0), deviation


def _draw(axes: Axes, curve: Curve | None, label: str, **style: Any) -> None:
    epochs, mean, deviation = curve or (np.empty(0, np.int64), np.empty(0), np.empty(0))
    axes.plot(epochs, mean, label=label, linewidth=1.6, marker="o" if len(epochs) == 1 else "", markersize=4, **style)
    if deviation.any():
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, linewidth=0)


def _labels(configurations: Sequence[Configuration]) -> list[str]:
    """Returns a name for each configuration, with the settings that not all of them share."""
    settings = [
        # The title has the settings that are named, and a file of weights has a long name.
        {key: value for key, value in shown.differences.items() if key not in {"weights", *shown.named}}
        for shown in configurations
    ]
    shared = set.intersection(*(set(values.items()) for values in settings))
    labels = []
    for configuration, values in zip(configurations, settings, strict=True):
        own = [f"{key}={value}" for key, value in values.items() if (key, value) not in shared]
        name = short_name(", ".join([configuration.title, *own]), _LABEL)
        labels.append(f"{name} ({configuration.seeds})")
    return labels


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    values = values[np.isfinite(values) & (values > 0)]  # a loss can be infinite, or not a number
    if values.size:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, _OUTLYING * float(np.quantile(values, 0.95))))
