"""How a table of README and docs is laid out, and what its modules share."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from emotion.analysis.document import Cell

ROOT = Path(__file__).parents[1]


def markdown(header: Sequence[str], columns: str, rows: Iterable[Sequence[str | Cell]]) -> str:
    """Lays out a table; a letter a column as in LaTeX, `l` or `r`."""
    rule = ["---:" if column == "r" else "---" for column in columns]
    texts = ([str(cell) for cell in row] for row in (header, rule, *rows))
    return "\n".join(re.sub(r"\| (?= \|)", "|", f"| {' | '.join(row)} |") for row in texts)


def spread(values: Sequence[float], form: str, middle: Callable[[Sequence[float]], float] = statistics.median) -> str:
    """Writes the median, or another middle, of some values, and between which they lie."""
    return f"{middle(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def span(values: Iterable[float], form: str) -> str:
    """Writes the least and the greatest of some values, or the only one."""
    shown = list(dict.fromkeys(f"{value:{form}}" for value in sorted(values)))
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"
