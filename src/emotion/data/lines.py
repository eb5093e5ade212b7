"""Reads the lines of CSV files in any encoding, without holding a hostile one in memory."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from emotion.errors import UserError

MAX_LINE_LENGTH = 2**17
"""Longest accepted line of a CSV file in characters, ten times that of FER2013: a hostile line may hold gigabytes."""


def read_lines(path: Path, kind: str) -> Iterator[str]:
    """Yields the lines of a text file with their ends.

    Args:
        path: the file, in UTF-8 or, with a byte order mark, UTF-16. Bytes that cannot be decoded are replaced, so they
            break at most their own line.
        kind: what the file should be, for the error.

    Raises:
        UserError: a line is longer than `MAX_LINE_LENGTH`.
    """
    with path.open("rb") as file:
        start = file.read(2)
    # Editors add byte order marks, and some write UTF-16.
    encoding = "utf-16" if start in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
    with path.open(newline="", encoding=encoding, errors="replace") as file:
        for number in count(1):
            line = file.readline(MAX_LINE_LENGTH)
            if len(line) == MAX_LINE_LENGTH:
                raise UserError(f"{path} line {number}: not {kind}, longer than {MAX_LINE_LENGTH:,} characters")
            if not line:
                return
            yield line


def whole_number(text: str, limit: int) -> int:
    """Reads a whole number from 0 to below a limit.

    Raises:
        ValueError: the text is none.
    """
    value = int(text)
    if not 0 <= value < limit:
        raise ValueError(text)
    return value
