"""The classified faces of files as CSV, JSON, JSON Lines, tables and data frames."""

import csv
import itertools
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emotion.data.classes import CLASSES
from emotion.errors import UserError, printable
from emotion.files import no_formula
from emotion.inference.film import FilmFrame
from emotion.inference.persons import BRIEF, Film
from emotion.inference.recognizer import Face, most_probable, rounded

if TYPE_CHECKING:
    import pandas

_BOX = ("left", "top", "width", "height")
_FACE = (*_BOX, "confidence", "label")
_FRAME = ("file", "frame", "second", "person")
WIDEST, MOST_BARS = 26, 12
"""Characters of the name of a class in a table, and classes of a live table: the most probable ones."""
_HEADERS = {
    **{name: name for name in ("file", "face", "expression")},
    **{"share": "", "bar": "", "next": "next", "detected": "detected"},
}
"""Columns of the table of images, with what is written above them."""
_GIVING_WAY = (("next", 12), ("file", 12), ("face", 9), ("next", 0), ("bar", 0), ("expression", 12))
"""Columns that give way in a narrow console, one after the other, and their least width; 0 leaves them out."""


def columns_of(classes: Sequence[str], films: bool) -> tuple[str, ...]:
    """Returns the columns of CSV and data frames.

    A column has the name of its class, with `class_` before it where a column of that name is there already.

    Args:
        classes: names of the K classes.
        films: whether there are films, which have more columns.
    """
    own = [*_class_columns(classes).values()]
    return (*_FRAME, *_FACE, *own, "raw_label", *(f"raw_{name}" for name in own)) if films else ("file", *_FACE, *own)


def _class_columns(classes: Iterable[str]) -> dict[str, str]:
    """Returns the columns of the probabilities, by class."""
    names = list(classes)
    taken = {*_FRAME, *_FACE, "raw_label"}
    columns: dict[str, str] = {}
    for name in names:
        column = name
        while column in taken or f"raw_{column}" in taken or (column != name and column in names):
            column = f"class_{column}"
        columns[name] = column
        taken |= {column, f"raw_{column}"}
    return columns


@dataclass(frozen=True)
class Record:
    """The classified faces of an image, or of the frame of a film: its number from 0, and its time in seconds."""

    file: str
    faces: Sequence[Face]
    frame: int | None = None
    second: float | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the values of `columns_of` for each face; without faces one row of the first columns."""
        frame = {"file": self.file, "frame": self.frame, "second": rounded(self.second, 3)}
        for face in self.faces:
            columns = _class_columns(face.probabilities)
            box = dict(zip(_BOX, face.box, strict=True))
            named = {"person": face.person, **box, "confidence": rounded(face.confidence), "label": face.label}
            own = {columns[name]: value for name, value in rounded(face.probabilities).items()}
            raw = {f"raw_{columns[name]}": value for name, value in rounded(face.raw or {}).items()}
            label = {"raw_label": most_probable(face.raw)} if face.raw else {}
            yield frame | named | own | label | raw
        if not self.faces:
            yield frame

    def as_dict(self) -> dict[str, Any]:
        """Returns the record, ready for JSON; `frame` and `second` are left out for images."""
        frame = {} if self.second is None else {"frame": self.frame, "second": rounded(self.second, 3)}
        return {"file": self.file, **frame, "faces": [face.as_dict() for face in self.faces]}


class Writer(Protocol):
    """Writes records one by one, so that those written so far survive an interruption."""

    def write(self, record: Record) -> None:
        """Writes a record."""

    def close(self) -> None:
        """Writes the end."""


class CsvWriter:
    """Writes CSV with a header and a row for each face; a record without faces has a row without values.

    Args:
        file: file to write to.
        films: whether there are films, which have more columns.
        classes: names of the K classes. `'` is put before the name of a class or file that would be a formula.
    """

    def __init__(self, file: TextIO, films: bool, classes: Sequence[str]) -> None:
        columns = columns_of(classes, films)
        self._file = file
        self._rows = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        self._rows.writerow({column: no_formula(column) for column in columns})

    def write(self, record: Record) -> None:
        """Writes the rows of a record."""
        for row in record.rows():
            labels = {name: no_formula(row[name]) for name in ("file", "label", "raw_label") if name in row}
            self._rows.writerow(row | labels)
        self._file.flush()

    def close(self) -> None:
        """Does nothing: CSV has no end."""


class JsonWriter:
    """Writes a JSON list with an object for each record.

    Args:
        file: file to write to; unless its encoding is one of Unicode's, characters outside ASCII are escaped.
        lines: True writes JSON Lines: an object in each line, and no list.
    """

    def __init__(self, file: TextIO, lines: bool = False) -> None:
        self._file, self._lines, self._separator = file, lines, "" if lines else "[\n"
        self._ascii = not (file.encoding or "utf-8").lower().startswith("utf")

    def write(self, record: Record) -> None:
        """Writes the object of a record."""
        text = json.dumps(record.as_dict(), ensure_ascii=self._ascii)
        self._file.write(f"{text}\n" if self._lines else f"{self._separator}{text}")
        self._separator = ",\n"
        self._file.flush()

    def close(self) -> None:
        """Writes the end of the list."""
        if not self._lines:
            self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")


class TableWriter:
    """Prints one table of all images at the end, since the width of its columns depends on all rows.

    Frames of films are left out; `to_summary` shows a film.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._images = console, list[Record]()

    def write(self, record: Record) -> None:
        """Keeps the record of an image."""
        if record.second is None:
            self._images.append(record)

    def close(self) -> None:
        """Prints the table, if there are images."""
        if self._images:
            self._console.print(to_table(self._images))


def to_table(records: Sequence[Record]) -> "FacesTable":
    """Returns a table with a row for each face of images, and for each image without faces.

    The folder that several files share is the title, since long paths would leave no room for the columns.
    """
    folder = _common_folder({record.file for record in records})
    return FacesTable(folder, [row for record in records for row in _cells(record, folder)])


def _cells(record: Record, folder: str) -> Iterator[dict[str, Text | ProgressBar]]:
    """Yields the cells of `_HEADERS` for each face of a record; an image without faces has the first two."""
    name = Text(printable(os.path.relpath(record.file, folder) if folder else record.file).replace("\n", r"\n"))
    for face in record.faces:
        first, second = sorted(face.probabilities.items(), key=lambda item: -item[1])[:2]
        yield {
            "file": name,
            "face": Text("{} {} {}x{}".format(*face.box)),
            "expression": Text(printable(face.title), "dim" if face.is_unsure else "bold"),
            "share": Text(f"{first[1]:4.0%}"),
            "bar": ProgressBar(1, first[1], finished_style="bar.complete"),
            "next": Text(printable(f"{second[0]} {second[1]:.0%}")),
            "detected": Text("" if face.confidence is None else f"{face.confidence:4.0%}"),
        }
    if not record.faces:
        yield {"file": name, "face": Text("no face", "dim")}


class FacesTable:
    """A table of faces that is as wide as the console at most.

    Where room is short, long names lose their middle and boxes take two lines; at last `next` and the bars are left
    out.
    """

    def __init__(self, folder: str, rows: Sequence[dict[str, Text | ProgressBar]]) -> None:
        self._folder, self._rows = folder, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yields the table in the width of the console."""
        widths = self._widths(options.max_width)
        table = Table(box=None, pad_edge=False, title_justify="left")
        table.title = Text(printable(f"in {self._folder}")) if self._folder else None
        for name, width in widths.items():
            table.add_column(_HEADERS[name], width=width, no_wrap=name != "face")
        for row in self._rows:
            table.add_row(*(_shortened(row[name], widths[name], name) if name in row else "" for name in widths))
        yield table

    def _widths(self, room: int) -> dict[str, int]:
        """Returns the width of each column that is shown in a console of `room` characters."""
        widths = {name: len(header) for name, header in _HEADERS.items()} | {"bar": 6}
        for name, cell in itertools.chain.from_iterable(row.items() for row in self._rows):
            if isinstance(cell, Text):
                widths[name] = max(widths[name], cell.cell_len)
        widths |= {name: min(WIDEST, widths[name]) for name in ("expression", "next")}
        for name, least in _GIVING_WAY:
            excess = sum(widths.values()) + 2 * len(widths) - 2 - room
            if excess > 0 and least:
                widths[name] = max(min(least, widths[name]), widths[name] - excess)
            elif excess > 0:
                del widths[name]
        return widths


def _shortened(text: Text | ProgressBar, width: int, column: str) -> Text | ProgressBar:
    """Leaves out the middle of a name that is wider than so many characters of the terminal."""
    if not isinstance(text, Text) or column not in ("file", "next") or text.cell_len <= width:
        return text
    tail = (width - 1) // 2
    end = set_cell_size(text.plain[::-1], tail)[::-1].lstrip()
    return Text(f"{set_cell_size(text.plain, width - 1 - tail).rstrip()}…{end}")


def to_summary(film: Film) -> Table:
    """Returns a table with a row for each person of a film who is seen for at least `BRIEF` seconds."""
    table = Table(title=Text(printable(film.name)), title_justify="left", box=None, pad_edge=False)
    for header in ("person", "from", "to", "seen"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("expressions", "changes", "longest"):
        table.add_column(header)
    persons = film.persons
    shown = [person for person in persons if person.seconds >= BRIEF]
    for person in shown:
        shares = sorted(person.shares.items(), key=lambda item: -item[1])
        longest = person.longest
        table.add_row(
            str(person.number),
            *(f"{seconds:.1f} s" for seconds in (person.first, person.last, person.seconds)),
            Text(printable(", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005))),
            str(person.changes),
            Text(printable(f"{longest.label} {longest.seconds:.1f} s from {longest.start:.1f} s")),
        )
    brief = len(persons) - len(shown)
    table.show_header = bool(shown)
    if shown and brief:
        table.caption = f"{brief} more, seen for less than {BRIEF:g} s"
    elif not shown:
        table.caption = f"{brief} face{'s' * (brief > 1)} for a moment" if brief else "no face"
    table.caption_justify = "left"
    return table


def to_live(frame: FilmFrame) -> Table:
    """Returns a table of the faces in a frame of a camera, the largest first, with a bar for each class.

    Of many classes, these are the `MOST_BARS` that are most probable for a face, in the order of the classes.
    """
    table = Table(title=f"{frame.second:.1f} s", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    faces = sorted(frame.faces, key=lambda face: -face.box[2])
    for face in faces:
        table.add_column(f"person {face.person}", no_wrap=True)
    highest = (
        {name: max(face.probabilities[name] for face in faces) for name in faces[0].probabilities} if faces else {}
    )
    shown = {*sorted(highest, key=lambda name: -highest[name])[:MOST_BARS]}
    for name in filter(shown.__contains__, highest):
        bars = (ProgressBar(1, face.probabilities[name], width=16, style="dim") for face in faces)
        table.add_row(Text(printable(name)), *bars)
    if not faces:
        table.add_row("[dim]no face[/]")
    return table


def to_frame(results: Any) -> "pandas.DataFrame":
    """Returns a pandas data frame with a row for each face.

    Args:
        results: the faces of an image, a list of the faces of several images, or a `Film`.

    Returns:
        A data frame with the columns of CSV; `file` is the number of the image in the list, or the name of the film.
        Without a face in any image, it has the columns of the network that ships with the package.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise UserError("emotion.to_frame: pandas is missing; pip install pandas") from None
    if isinstance(results, Film):
        records = [Record(results.name, frame.faces, frame.number, frame.second) for frame in results]
        rows = (row for record in records for row in record.rows())
        return pandas.DataFrame(rows, columns=columns_of(results.classes, films=True))
    listed = list(results)
    images = listed if not listed or isinstance(listed[0], list) else [listed]
    rows = (row | {"file": number} for number, faces in enumerate(images) for row in Record("", faces).rows())
    classes = next((face.probabilities for faces in images for face in faces), CLASSES)
    return pandas.DataFrame(rows, columns=columns_of(tuple(classes), films=False))


def _common_folder(files: Collection[str]) -> str:
    """Returns the folder in which several files lie, at any depth; empty for a single file and for no folder."""
    try:
        folders = [os.path.dirname(file) for file in files]  # noqa: PTH120, empty for a name alone
        return os.path.commonpath(folders) if len(files) > 1 else ""
    except ValueError:  # some paths are absolute and others are not
        return ""
