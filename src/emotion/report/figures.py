"""Figures of all configurations: published and our test accuracies, and the differences of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotion.analysis.figures import tidy
from emotion.palette import BLUE, GREEN, GREY, ORANGE
from emotion.report.configurations import BALANCES, Configuration
from emotion.report.measures import Pair
from emotion.report.published import HALF_UNIT, RUNS
from emotion.report.verdict import compare_to_published

_COLOURS = {"agrees": GREEN, "higher": BLUE, "lower": ORANGE}


def published_figure(configurations: Sequence[Configuration]) -> Figure:
    """Draws the published test accuracies, and ours with their intervals, coloured by verdict.

    Args:
        configurations: configurations that repeat a run of the paper and are comparable with it.
    """
    figure = _figure(9.0, 0.9 + 0.3 * len(RUNS))
    axes = figure.add_subplot()
    axes.use_sticky_edges = False
    rows = np.arange(len(RUNS))
    lowest = [run.test - HALF_UNIT for run in RUNS]
    axes.barh(rows, 2 * HALF_UNIT, 0.7, lowest, color=GREY, label="published")
    for configuration in configurations:
        _draw_accuracy(axes, configuration)
    axes.set_yticks(rows, [f"{run.network}, {BALANCES[run.balance]}" for run in RUNS], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy")
    tidy(axes, "x")
    unique = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def pairs_figure(pairs: Sequence[Pair]) -> Figure:
    """Draws the difference in accuracy of every two configurations, row minus column, coloured if significant."""
    shown = {configuration.number: configuration for pair in pairs for configuration in (pair.first, pair.second)}
    index = {number: position for position, number in enumerate(sorted(shown))}
    points, significant = np.full((2, len(shown), len(shown)), np.nan)
    for pair in pairs:
        row, column = index[pair.first.number], index[pair.second.number]
        points[row, column], points[column, row] = 100 * pair.test.difference, -100 * pair.test.difference
        significant[row, column] = significant[column, row] = pair.significant
    figure = _figure(4.0 + 0.45 * len(shown), 1.0 + 0.34 * len(shown))
    axes = figure.add_subplot()
    # The colour range is wider than the values, so that colours stay light enough for text on them.
    limit = 1.6 * max(float(np.nanmax(np.abs(points))), 1.0)
    axes.imshow(np.where(significant == 1, points, np.nan), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.argwhere(~np.isnan(points)):
        colour = "black" if significant[row, column] else GREY
        axes.text(column, row, f"{points[row, column]:+.1f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(list(index.values()), [f"{number}." for number in index])
    axes.set_yticks(list(index.values()), [shown[number].title for number in index], parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_accuracy(axes: Axes, configuration: Configuration) -> None:
    assert configuration.published is not None
    row = RUNS.index(configuration.published)
    verdict = compare_to_published(configuration, configuration.published)
    bounds, mean = configuration.test_interval("acc"), configuration.scores("acc").mean
    axes.plot([bounds.low, bounds.high], [row, row], color=_COLOURS[verdict], linewidth=1.6)
    axes.plot([mean], [row], "o", color=_COLOURS[verdict], markersize=5, label=f"ours: {verdict}")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
