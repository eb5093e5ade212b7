"""Files that are there as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside a file, with its suffix; what is written there then takes the file's place.

    Whatever ends the block early (a signal, a full disk, an error) leaves the file as it was; all but a SIGKILL also
    removes the temporary one.

    Args:
        path: the file to write; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_rests(folder: Path, stem: str = "*") -> None:
    """Removes what processes that were killed left of a file, or of all; no other process may be writing it."""
    for rest in folder.glob(f".{stem}.*.tmp*"):
        rest.unlink()
