"""The table of what `make trust` tried."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layout import ROOT, markdown

FOLDED = {
    r"damaged and invented: (.*)": "damaged and invented input of {count} kinds: {kinds}",
    r"probabilities of each class from data=(\w+) to checkpoint, file and ONNX": (
        "order of the classes from the data to checkpoint, published file and ONNX, in data={kinds}"
    ),
    r"(commands in a network of their own): .*": "{kinds}: a host name asked for, a file outside the cache",
}
"""Rows of results/trust.json that are one row here: what they match, and its text."""


def trust() -> str:
    """What `make trust` tried, how often, and how often it was lost."""
    kept = json.loads((ROOT / "results/trust.json").read_text(encoding="utf-8"))
    counts: dict[str, list[dict[str, Any]]] = {}
    for row in kept["rows"]:
        counts.setdefault(
            next((pattern for pattern in FOLDED if re.fullmatch(pattern, row["what"])), row["what"]), []
        ).append(row)
    rows = [(_folded(key, own), f"{_sum(own, 'tried'):,}", f"{_sum(own, 'lost'):,}") for key, own in counts.items()]
    header = (f"Tried on {kept['date']} with commit {kept['commit']}, {kept['hardware']}", "Times", "Lost")
    return markdown(header, "lrr", rows)


def _folded(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if key not in FOLDED:
        return key
    kinds = list(dict.fromkeys(re.sub(key, r"\1", row["what"]) for row in rows))
    return FOLDED[key].format(count=len(kinds), kinds="; ".join(kinds))


def _sum(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)
