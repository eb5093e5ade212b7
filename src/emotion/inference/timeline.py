"""A timeline of the persons of a film, as a page or a picture."""

from pathlib import Path

from emotion.inference.persons import Film


def write_timeline(film: Film, path: Path, video: Path | None = None) -> None:
    """Writes a timeline (placeholder until the branch `timeline` is merged)."""
    raise NotImplementedError
