"""Figures of all configurations: published and our test accuracies, and the differences of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotion.analysis.figures import short_name, tidy
from emotion.palette import BLUE, GREEN, GREY, ORANGE
from emotion.report.configurations import BALANCES, Configuration
from emotion.report.measures import Pair
from emotion.report.published import HALF_UNIT, RUNS, PublishedRun
from emotion.report.verdict import best_match, compare_to_published

_COLOURS = {"agrees": GREEN, "higher": BLUE, "lower": ORANGE}


def published_figure(configurations: Sequence[Configuration]) -> Figure:
    """Draws the published test accuracies, and ours with their intervals, coloured by verdict.

    Args:
        configurations: configurations that repeat a run of the paper and are comparable with it. Of several that repeat
            one run, the point of that which `best_match` takes is filled.
    """
    figure = _figure(9.0, 0.9 + 0.3 * len(RUNS))
    axes = figure.add_subplot()
    axes.use_sticky_edges = False
    rows = np.arange(len(RUNS))
    lowest = [run.test - HALF_UNIT for run in RUNS]
    axes.barh(rows, 2 * HALF_UNIT, 0.7, lowest, color=GREY, label="published")
    for configuration in configurations:
        assert configuration.published is not None
        match = best_match(configurations, configuration.published)
        _draw_accuracy(axes, configuration, configuration.published, filled=configuration is match)
    axes.set_yticks(rows, [f"{run.network}, {BALANCES[run.balance]}" for run in RUNS], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy")
    tidy(axes, "x")
    unique = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
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
    titles = [short_name(shown[number].title, 64) for number in index]
    figure = _figure(1.6 + 0.09 * max(map(len, titles)) + 0.45 * len(shown), 1.0 + 0.34 * len(shown))
    axes = figure.add_subplot()
    # The colour range is wider than the values, so that colours stay light enough for text on them.
    limit = 1.6 * max(float(np.nanmax(np.abs(points))), 1.0)
    axes.imshow(np.where(significant == 1, points, np.nan), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.argwhere(~np.isnan(points)):
        colour = "black" if significant[row, column] else GREY
        axes.text(column, row, f"{points[row, column]:+.1f}", ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(list(index.values()), [f"{number}." for number in index])
    axes.set_yticks(list(index.values()), titles, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_accuracy(axes: Axes, configuration: Configuration, published: PublishedRun, filled: bool) -> None:
    row, verdict = RUNS.index(published), compare_to_published(configuration, published)
    bounds, mean = configuration.test_interval("acc"), configuration.scores("acc").mean
    colour, label = _COLOURS[verdict], f"ours: {verdict}" if filled else "ours, with other settings"
    axes.plot([bounds.low, bounds.high], [row, row], color=colour, linewidth=1.6 if filled else 0.8)
    axes.plot([mean], [row], "o", color=colour, markersize=5, markerfacecolor=None if filled else "white", label=label)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
