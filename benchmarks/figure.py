"""The plot of a benchmark: training images per second of every contestant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from summary import LIMIT, OURS

from emotion.palette import BLUE, GREY, LIGHT_ORANGE

_NAMES = {"limit": "limit", "ours": "ours", "plain": "plain loop", "timm": "timm's script", "keras": "Keras"}


def speed_figure(result: Mapping[str, Any]) -> Figure:
    """Draws a panel of bars for each workload; error bars show the slowest and the fastest round.

    Args:
        result: the content of the JSON file that `bench.py` writes.

    Returns:
        A figure whose panel titles state our speed as a share of the limit's speed.
    """
    workloads = result["workloads"]
    rows = [len(workload["runs"]) for workload in workloads.values()]
    figure = Figure(figsize=(8.5, 0.9 + sum(0.9 + 0.36 * count for count in rows)), dpi=120, layout="constrained")
    panels = figure.subplots(len(workloads), squeeze=False, height_ratios=[count + 1 for count in rows])[:, 0]
    for axes, (name, workload) in zip(panels, workloads.items(), strict=True):
        _draw_panel(axes, name, workload)
    panels[-1].set_xlabel("training images per second of an epoch, validation included")
    figure.suptitle(f"{result['hardware']}, {result['settings']['precision']}", fontsize=10, parse_math=False)
    return figure


def _draw_panel(axes: Axes, name: str, workload: Mapping[str, Any]) -> None:
    summary, contestants = workload["summary"], [key for key in _NAMES if key in workload["runs"]]
    for row, key in enumerate(contestants):
        _draw_bar(axes, row, key, summary.get(key), workload["feature_views"] > 0)
    axes.set_yticks(range(len(contestants)), [_NAMES[key] for key in contestants], fontsize=9)
    axes.set_ylim(len(contestants) - 0.5, -0.5)
    axes.set_xlim(0, 1.35 * max((metrics["images_per_second"]["max"] for metrics in summary.values()), default=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    rounds = len(workload["counted"])
    title = f"{name}, batch {workload['batch_size']}, {rounds} round{'s' * (rounds > 1)}"
    if "share_of_limit" in summary.get(OURS, {}):
        title += f": ours reaches {summary[OURS]['share_of_limit']['median']:.0%} of the limit"
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bar(axes: Axes, row: int, key: str, metrics: Mapping[str, Any] | None, on_features: bool) -> None:
    rate = metrics["images_per_second"] if metrics else {"median": 0.0, "min": 0.0, "max": 0.0}
    errors = [[rate["median"] - rate["min"]], [rate["max"] - rate["median"]]]
    colour = {OURS: BLUE, LIMIT: LIGHT_ORANGE}.get(key, GREY)
    axes.barh(row, rate["median"], 0.7, xerr=errors, color=colour, error_kw={"elinewidth": 1.2, "capsize": 3})
    label = _label(key, metrics, on_features) if metrics else "not measured"
    axes.annotate(label, (rate["max"], row), (6, 0), textcoords="offset points", va="center", fontsize=8)


def _label(key: str, metrics: Mapping[str, Any], on_features: bool) -> str:
    label = f"{metrics['images_per_second']['median']:,.0f}"
    if key == OURS and on_features:
        return f"{label}   on features, after one pass of {metrics['preparation_seconds']['median']:.1f} s"
    if key == LIMIT and on_features:
        return f"{label}   the head on features"
    if key not in (OURS, LIMIT) and "times_ours" in metrics:
        return f"{label}   ours is {1 / metrics['times_ours']['median']:.2f} times as fast"
    return label
