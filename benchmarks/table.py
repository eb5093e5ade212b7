"""The table of a workload for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

COLUMNS = {
    "images_per_second": ("images/s", "{:,.0f}"),
    "seconds_per_epoch": ("s/epoch", "{:.3g}"),
    "startup_seconds": ("start s", "{:.1f}"),
    "preparation_seconds": ("prepare s", "{:.1f}"),
    "peak_rss_mib": ("MiB", "{:,.0f}"),
    "peak_device_mib": ("GPU MiB", "{:,.0f}"),
    "times_ours": ("x ours", "{:.2f}"),
    "share_of_limit": ("of limit", "{:.0%}"),
}


def speed_table(name: str, workload: Mapping[str, Any]) -> Table:
    """Returns a table with a row of medians for each contestant, above the errors of those that failed."""
    images = workload["images"]
    table = Table(title=f"{name}, batch {workload['batch_size']}, {images['train']:,} + {images['val']:,} images")
    summary = workload["summary"]
    shown = {key: COLUMNS[key] for key in COLUMNS if any(key in metrics for metrics in summary.values())}
    table.add_column("", no_wrap=True)
    for heading, _ in shown.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("images/s from..to", no_wrap=True)
    for contestant, metrics in summary.items():
        medians = (_median(metrics, key, form) for key, (_, form) in shown.items())
        table.add_row(contestant, *medians, _range(metrics))
    errors = {key: run["error"] for key, runs in workload["runs"].items() for run in runs if "error" in run}
    table.caption = Text("\n".join(f"{contestant}: {error}" for contestant, error in errors.items()), justify="left")
    return table


def _median(metrics: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(metrics[key]["median"]) if key in metrics else ""


def _range(metrics: Mapping[str, Any]) -> str:
    rate = metrics["images_per_second"]
    return f"{rate['min']:,.0f}..{rate['max']:,.0f}"
