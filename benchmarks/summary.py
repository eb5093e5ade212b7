"""Medians over rounds, and speed ratios of contestants, which are computed round by round."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WARM_UP = 1
"""Number of epochs at the start of a process that are not measured."""
OURS, LIMIT = "ours", "limit"
PER_PROCESS = ("startup_seconds", "preparation_seconds", "peak_rss_mib", "peak_device_mib")

MAX_STOLEN_SHARE = 0.03
"""Largest share of processor time that other virtual machines may take in an undisturbed round."""

Run = Mapping[str, Any]
"""A measurement, or `{"error": message}`."""


def process_metrics(run: Run) -> dict[str, float] | None:
    """Returns the metrics of one process, medians over its epochs after the warm-up; None if it failed.

    `seconds_per_epoch` is the time of training and validation, `images_per_second` training images over that time.
    """
    if "error" in run:
        return None
    epochs = run["epochs"][WARM_UP:]
    train, val = ([epoch[key] for epoch in epochs] for key in ("train_seconds", "val_seconds"))
    seconds = statistics.median(a + b for a, b in zip(train, val, strict=True))
    return {
        "images_per_second": epochs[0]["images"] / seconds,
        "seconds_per_epoch": seconds,
        "train_seconds": statistics.median(train),
        "val_seconds": statistics.median(val),
        **{key: run[key] for key in PER_PROCESS if run[key] is not None},
    }


def stolen_share(runs: Iterable[Run]) -> float:
    """Returns the largest share of processor time that any of the runs lost after its warm-up."""
    return max((_stolen(run["epochs"][WARM_UP:]) for run in runs if "error" not in run), default=0.0)


def least_disturbed(runs: Mapping[str, Sequence[Run]], rounds: int) -> list[int]:
    """Returns the indices of the `rounds` rounds that lost the least processor time, whatever their speed."""
    shares = [stolen_share(contestants) for contestants in zip(*runs.values(), strict=True)]
    return sorted(sorted(range(len(shares)), key=lambda index: max(shares[index], MAX_STOLEN_SHARE))[:rounds])


def summarise(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Summarises the runs of each contestant.

    Args:
        runs: for each contestant, its run of each round.

    Returns:
        For each contestant that finished a round: `rounds`, the number of finished rounds, and `median`, `min` and
        `max` over these of each metric. The metrics are those of `process_metrics`, and `times_ours` and
        `share_of_limit`: images per second as a multiple of ours and of the limit's in the same round.
    """
    measured = {name: [process_metrics(run) for run in rounds] for name, rounds in runs.items()}
    summary: dict[str, dict[str, Any]] = {}
    for name, rounds in measured.items():
        finished = [metrics for metrics in rounds if metrics is not None]
        if not finished:
            continue
        ratios = {
            "times_ours": _ratios(rounds, measured.get(OURS, [])),
            "share_of_limit": _ratios(rounds, measured.get(LIMIT, [])),
        }
        summary[name] = {
            "rounds": len(finished),
            **{key: spread(metrics[key] for metrics in finished) for key in finished[0]},
            **{key: spread(values) for key, values in ratios.items() if values},
        }
    return summary


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns median, minimum and maximum of the values."""
    known = list(values)
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def _stolen(epochs: Sequence[Mapping[str, float]]) -> float:
    return statistics.mean(epoch["stolen_share"] for epoch in epochs)


def _ratios(rounds: Sequence[dict[str, float] | None], base: Sequence[dict[str, float] | None]) -> list[float]:
    """Returns the ratios of images per second to those of `base` in the rounds that both finished."""
    key = "images_per_second"
    return [metrics[key] / other[key] for metrics, other in zip(rounds, base, strict=False) if metrics and other]
