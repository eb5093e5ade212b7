"""Medians over rounds, and who is how much faster, compared round by round."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WARM_UP = 1
"""Epochs at the start of a process that do not count."""
OURS, LIMIT = "ours", "limit"
PER_PROCESS = ("startup_seconds", "preparation_seconds", "peak_rss_mib", "peak_device_mib")

MOST_STOLEN = 0.03
"""Share of the processors' time that others may take from a contestant; a round in which one lost more is disturbed."""

Run = Mapping[str, Any]
"""A measurement, or `{"error": why there is none}`."""


def figures(run: Run) -> dict[str, float] | None:
    """Returns the figures of one process, medians over its epochs after the warm-up; None if it failed.

    `seconds_per_epoch` is training and validation, and `images_per_second` the training images in that time.
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
    """Returns the largest share of the processors' time that one of these runs lost in the epochs that count."""
    return max((_stolen(run["epochs"][WARM_UP:]) for run in runs if "error" not in run), default=0.0)


def calmest(runs: Mapping[str, Sequence[Run]], rounds: int) -> list[int]:
    """Returns the numbers of the so many rounds from which others took the least; speed has no part in the choice."""
    shares = [stolen_share(one) for one in zip(*runs.values(), strict=True)]
    return sorted(sorted(range(len(shares)), key=lambda number: max(shares[number], MOST_STOLEN))[:rounds])


def summarise(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Summarises the runs of each contestant, one a round in the same order for all.

    Returns:
        for each contestant that finished a round: `rounds`, how many it finished, and for each figure a dictionary of
        `median`, `min` and `max` over them; besides those of `figures`, `times_ours` and `share_of_limit`: its images
        per second as a multiple of ours and of the limit's in the same round.
    """
    measured = {name: [figures(run) for run in own] for name, own in runs.items()}
    summary: dict[str, dict[str, Any]] = {}
    for name, rounds in measured.items():
        finished = [one for one in rounds if one is not None]
        if not finished:
            continue
        ratios = {
            "times_ours": _ratios(rounds, measured.get(OURS, [])),
            "share_of_limit": _ratios(rounds, measured.get(LIMIT, [])),
        }
        summary[name] = {
            "rounds": len(finished),
            **{key: spread(one[key] for one in finished) for key in finished[0]},
            **{key: spread(values) for key, values in ratios.items() if values},
        }
    return summary


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns median, least and greatest."""
    known = list(values)
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def _stolen(epochs: Sequence[Mapping[str, float]]) -> float:
    return statistics.mean(epoch["stolen_share"] for epoch in epochs)


def _ratios(rounds: Sequence[dict[str, float] | None], base: Sequence[dict[str, float] | None]) -> list[float]:
    """Divides within each round that both finished."""
    key = "images_per_second"
    return [one[key] / other[key] for one, other in zip(rounds, base, strict=False) if one and other]
