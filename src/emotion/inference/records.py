"""The classified faces of files as a table, JSON or CSV."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO

from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from emotion.data.classes import CLASSES
from emotion.errors import printable
from emotion.inference.recognizer import Face


@dataclass(frozen=True)
class Record:
    """The classified faces of an image, or of the frame of a video at a time, in seconds."""

    file: str
    faces: Sequence[Face]
    second: float | None = None


def to_table(records: Iterable[Record]) -> Table:
    """Returns a table with a row for each face and for each record without faces; for videos with the time."""
    records = list(records)
    has_videos = any(record.second is not None for record in records)
    table = Table(Column("file", overflow="fold"), box=None, pad_edge=False)
    if has_videos:
        table.add_column("second", justify="right", no_wrap=True)
    table.add_column("face", overflow="fold")
    for header, width in (("expression", None), ("", None), ("", 10), ("next", None)):
        table.add_column(header, no_wrap=True, max_width=width)
    for record in records:
        cells: list[Text | str] = [Text(printable(record.file))]
        if has_videos:
            cells.append("" if record.second is None else f"{record.second:.2f}")
        if not record.faces:
            table.add_row(*cells, "[dim]no face[/]")
        for face in record.faces:
            (_, first), (other, runner_up) = sorted(face.probabilities.items(), key=lambda item: -item[1])[:2]
            box = "{} {} {}x{}".format(*face.box)
            bar = ProgressBar(1, first, finished_style="bar.complete")
            table.add_row(*cells, box, f"[bold]{face.label}[/]", f"{first:4.0%}", bar, f"{other} {runner_up:.0%}")
    return table


def to_json(records: Iterable[Record], encoding: str = "utf-8") -> str:
    """Returns a JSON list of objects with the keys `file`, `second` (videos only) and `faces`.

    Args:
        records: the classified faces.
        encoding: encoding of the output; unless it is one of Unicode's, characters outside ASCII are escaped.
    """
    rows = [
        {"file": record.file}
        | ({} if record.second is None else {"second": round(record.second, 3)})
        | {"faces": [_rounded(face) for face in record.faces]}
        for record in records
    ]
    return json.dumps(rows, indent=2, ensure_ascii=not encoding.lower().startswith("utf"))


def to_csv(records: Iterable[Record]) -> str:
    """Returns CSV with a header and a row for each face; a record without faces has a row without values."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "second", "left", "top", "width", "height", "confidence", "label", *CLASSES))
    for record in records:
        cells = (record.file, "" if record.second is None else f"{record.second:.3f}")
        for face in record.faces:
            confidence = "" if face.confidence is None else f"{face.confidence:.4f}"
            probabilities = (f"{face.probabilities[name]:.4f}" for name in CLASSES)
            writer.writerow((*cells, *face.box, confidence, face.label, *probabilities))
        if not record.faces:
            writer.writerow((*cells, *[""] * (6 + len(CLASSES))))
    return text.getvalue()


def _rounded(face: Face) -> dict[str, object]:
    rounded = {name: round(value, 4) for name, value in face.probabilities.items()}
    confidence = None if face.confidence is None else round(face.confidence, 4)
    return asdict(face) | {"probabilities": rounded, "confidence": confidence}
