"""Images that are listed in a table, a CSV or TSV file with their labels."""

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emotion.data.classes import AUTO, ClassRule, listed
from emotion.data.folders import FilesSource, ImageFile, stat_of
from emotion.data.labelled import FER_PARTS, PART_FOLDERS, Part
from emotion.data.lines import read_lines
from emotion.errors import UserError
from emotion.files import expand
from emotion.settings import FER_SIZE, TABLE_SETTINGS, DataSettings

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", "\t", ";", " ")
PARTS: dict[str, Part] = {**PART_FOLDERS, **{name.lower(): part for name, part in FER_PARTS.items()}}
"""The part that a value of the split column stands for, in lower case."""
FIELD = re.compile(r"\{(path|name|stem)\}")
IMAGE = re.compile(r"\.(jpe?g|png|bmp|gif|tiff?|webp|p[gn]m)$", re.IGNORECASE)
WHOLE = re.compile(r"[0-9]+(\.0+)?")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """An image of a table: its path below the images' folder, its label, its part (if known), and where it stands."""

    name: str
    label: str
    part: Part | None
    place: str


class Table:
    """A file of rows with named columns, separated by commas, tabs or semicolons, or by spaces.

    Args:
        path: path of the file.
        columns: names of the columns of a file without header; None: the first line is the header.
        wanted: a column that the file should have, by which the separator is recognised.

    Raises:
        UserError: the file is empty, or its first line has another number of columns than `columns` names.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None, wanted: str) -> None:
        self.path, self._has_header = path, columns is None
        first = next((line for line in read_lines(path, "a table") if line.strip()), None)
        if first is None:
            raise UserError(f"{path}: the table is empty")
        splits = {delimiter: self._split(first, delimiter) for delimiter in DELIMITERS}
        if columns is None:
            fits = [delimiter for delimiter, names in splits.items() if _position(wanted, names) is not None]
            self._delimiter = fits[0] if fits else max(DELIMITERS[:3], key=lambda delimiter: len(splits[delimiter]))
            self.header = splits[self._delimiter]
        else:
            fits = [delimiter for delimiter, fields in splits.items() if len(fields) == len(columns)]
            if not fits:
                raise UserError(f"{path}: the first line does not have the {len(columns)} columns {listed(columns)}")
            self._delimiter, self.header = fits[0], list(columns)

    def column(self, name: str, setting: str) -> int:
        """Returns the position of a column, whose name a setting gives.

        Raises:
            UserError: there is no such column.
        """
        position = _position(name, self.header)
        if position is None and self._has_header and any(map(IMAGE.search, self.header)):
            raise UserError(
                f"{self.path}: the first line names an image, so it is no header; name the columns, as "
                "columns=[path,label] or columns=[path,label,split]"
            )
        if position is None:
            raise UserError(f"{self.path}: no column {name!r}; {setting}= one of {listed(self.header)}")
        return position

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields each row as the number of its line and its fields, without the header and blank lines.

        Raises:
            UserError: a row is not CSV or has more fields than the header; missing ones are empty.
        """
        rows = csv.reader(
            read_lines(self.path, "a table"), delimiter=self._delimiter, skipinitialspace=True, strict=True
        )
        skip = self._has_header
        try:
            for row in rows:
                fields = _without_end(row)
                if fields and not skip:
                    # A field with an unquoted separator would move the others to wrong columns.
                    if len(fields) > len(self.header):
                        raise UserError(
                            f"{self.path} line {rows.line_num}: {len(fields)} columns, not {len(self.header)}"
                        )
                    yield rows.line_num, fields + [""] * (len(self.header) - len(fields))
                skip = skip and not fields
        except csv.Error as error:
            raise UserError(f"{self.path} line {rows.line_num}: not CSV ({error})") from None

    def _split(self, line: str, delimiter: str) -> list[str]:
        try:
            return _without_end(next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), []))
        except csv.Error as error:
            raise UserError(f"{self.path} line 1: not CSV ({error})") from None


class TableSource(FilesSource):
    """Images that tables list, of any size and colour (see `FilesSource`).

    The tables of a folder give all of their images the part that they are named after. In a single table, the split
    column names the part of each image. Without that column it is the beginning of the images' names if all of them
    begin with the name of a part, as `train_1.jpg`, otherwise `train`.

    Args:
        path: path of the table, or of a folder with tables `train`, `val` or `test` (.csv, .tsv or .txt).
        settings: the columns of path, label and part (`split_column`, which a table may lack if it is `split`), one of
            `PARTS`; the names of all `columns` of a table without header, from the left; and `images`: the folder that
            the paths are relative to, or a template of the path of an image with `{path}`, `{name}` (the file's name)
            or `{stem}` (the name without suffix), relative to the folder of the table. Also size and colour.
        rule: which classes the labels stand for. Labels that it skips are named in the log.

    Raises:
        UserError: a table, column or folder is missing, or a row has no legal path, label or part; the message names
            the line. A missing image is not an error of the table but an image that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        settings: DataSettings = DataSettings(data="table"),  # noqa: B008, frozen
        rule: ClassRule = AUTO,
    ) -> None:
        self.path, self.settings = path, settings
        tables = _tables(path)
        if settings.split_column != "split" and tables[0][0] is not None:
            raise UserError(f"split_column={settings.split_column}: has no effect; the tables in {path} name the parts")
        self._tables = [(part, Table(table, settings.columns, settings.path_column)) for part, table in tables]
        root, self._template = _images(self._tables[0][1].path.parent, settings.images)
        super().__init__(root, settings.pack_size or FER_SIZE, settings.channels or 1)
        rows = [row for part, table in self._tables for row, _ in self._rows(part, table)]
        if not rows:
            raise UserError(f"{path}: the table is empty")
        _require_unique(rows)
        if not isinstance(rule.classes, str):
            rows = _with_whole_numbers(rows)
        places: dict[str, str] = {}
        for row in rows:
            places.setdefault(row.label, row.place)
        classes = self._apply(rule, places)
        self._leave_out(classes, Counter(row.label for row in rows), str(path))
        parts = _parts_of_names(rows)
        self.files = [
            ImageFile(path := root / row.name, row.name, label, part, f"{row.place}: {path}")
            for row, part in zip(rows, parts, strict=True)
            if (label := classes.ids[row.label]) is not None
        ]
        if not self.files:
            raise UserError(f"{path}: no images of the classes {listed(self.classes)}")

    @property
    def location(self) -> str:
        """Path of the table or of the folder of tables."""
        return str(self.path.resolve())

    @property
    def variant(self) -> tuple[object, ...]:
        """The classes and the columns."""
        return (self.classes, self.excluded, *(getattr(self.settings, key) for key in TABLE_SETTINGS))

    def stamp(self) -> object:
        """Returns names, sizes and modification times of the tables and of all images."""
        tables = [(table.path.name, *stat_of(table.path)) for _, table in self._tables]
        return tables, super().stamp()

    def groups(self, names: Sequence[str], group_by: str) -> list[str]:
        """Returns the group of each image: its value in the column `group_by`, or else see `Source.groups`.

        Raises:
            UserError: the column is empty for an image, or `group_by` is neither a column nor a legal pattern.
        """
        if any(_position(group_by, table.header) is None for _, table in self._tables):
            try:
                return super().groups(names, group_by)
            except UserError as error:
                raise UserError(f"{error}; the columns are {listed(self._tables[0][1].header)}") from None
        groups: dict[str, str] = {}
        for part, table in self._tables:
            column = table.column(group_by, "group_by")
            groups |= {row.name: fields[column] for row, fields in self._rows(part, table)}
        for name in names:
            _require_utf_8(groups[name], f"group_by={group_by}, {name}")
        missing = [name for name in names if not groups[name]]
        if missing:
            raise UserError(f"group_by={group_by}: no value for {len(missing):,} images, as {missing[0]}")
        return [groups[name] for name in names]

    def _is_inside(self, file: ImageFile) -> bool:
        # Any folder of the path may be a link.
        return self._contains(file.path)

    def _rows(self, part: Part | None, table: Table) -> Iterator[tuple[_Row, list[str]]]:
        """Yields the images of a table, each with all fields of its row."""
        columns = self.settings
        paths, labels = (
            table.column(columns.path_column, "path_column"),
            table.column(columns.label_column, "label_column"),
        )
        splits = None
        if part is None and (columns.split_column != "split" or _position("split", table.header) is not None):
            splits = table.column(columns.split_column, "split_column")
        for line, fields in table.rows():
            place = f"{table.path} line {line}"
            if not fields[labels]:
                raise UserError(f"{place}: no label in column {columns.label_column!r}")
            _require_utf_8(fields[labels], place)
            own = part if splits is None else _part(fields[splits], place)
            yield _Row(self._name(fields[paths], place), fields[labels], own, place), fields

    def _name(self, path: str, place: str) -> str:
        """Returns the path of an image below the images' folder."""
        if not path:
            raise UserError(f"{place}: no path in column {self.settings.path_column!r}")
        # Of strings, since objects of Path would take most of the time for a table of 300,000 rows.
        file = os.path.basename(path)
        values = {"path": path, "name": file, "stem": os.path.splitext(file)[0]}  # noqa: PTH122
        name = os.path.normpath(FIELD.sub(lambda field: values[field[1]], self._template))
        if os.path.isabs(path) or "\0" in path or f"{name}{os.sep}".startswith(f"{os.pardir}{os.sep}"):  # noqa: PTH117
            raise UserError(
                f"{place}: the path {path!r} leads out of {self.root}; paths are relative to images=<folder>"
            )
        return name


def _tables(path: Path) -> list[tuple[Part | None, Path]]:
    """Lists the tables of a folder with their parts; a single file has no part."""
    if not path.is_dir():
        return [(None, path)]
    candidates = (entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in SUFFIXES and entry.is_file())
    found = [(PART_FOLDERS[table.stem.lower()], table) for table in candidates if table.stem.lower() in PART_FOLDERS]
    if not found:
        raise UserError(
            f"{path}: no table train, val or test ({', '.join(SUFFIXES)}); name the file with data_dir=<path>"
        )
    parts = [part for part, _ in found]
    twice = [table.name for part, table in found if parts.count(part) > 1]
    if twice:
        raise UserError(f"{path}: {listed(twice)} are tables of the same part; keep one, or join them")
    return list(found)


def _images(folder: Path, images: str | None) -> tuple[Path, str]:
    """Returns the folder of the images, and the template of a path below it."""
    steps = expand(images or "").parts
    fixed = next((number for number, step in enumerate(steps) if "{" in step), len(steps))
    root, template = folder.joinpath(*steps[:fixed]), "/".join(steps[fixed:]) or "{path}"
    if re.search("[{}]", FIELD.sub("", template)):
        raise UserError(f"images={images}: only {{path}}, {{name}} and {{stem}} are filled in")
    if not root.is_dir():
        raise UserError(f"images={images}: no folder {root}")
    return root, template


def _with_whole_numbers(rows: list[_Row]) -> list[_Row]:
    """Turns labels as 3.0, which pandas writes for integers beside empty cells, into 3, if all of them are numbers."""
    if not all(WHOLE.fullmatch(row.label) for row in rows):
        return rows
    return [replace(row, label=row.label.partition(".")[0]) for row in rows]


def _require_utf_8(text: str, place: str) -> None:
    """Refuses a text with the sign for letters that could not be decoded, which would make different texts equal."""
    if "\ufffd" in text:
        raise UserError(f"{place}: {text!r} is not UTF-8; save the table as UTF-8")


def _require_unique(rows: Sequence[_Row]) -> None:
    places: dict[str, str] = {}
    for row in rows:
        first = places.setdefault(row.name, row.place)
        if first != row.place:
            raise UserError(f"{row.place}: {row.name} is listed already, in {first}")


def _part(text: str, place: str) -> Part:
    try:
        return PARTS[text.lower()]
    except KeyError:
        raise UserError(f"{place}: the split {text!r} is not one of {', '.join(PARTS)}") from None


def _parts_of_names(rows: Sequence[_Row]) -> list[Part]:
    """Returns the part of each image, by the beginning of its name where the table does not say."""
    starts = [PARTS.get(os.path.basename(row.name).lower().split("_")[0]) for row in rows]
    named = None not in starts
    return [row.part or (start if start and named else "train") for row, start in zip(rows, starts, strict=True)]


def _position(name: str, header: Sequence[str]) -> int | None:
    """Returns the position of a column, whose case does not count unless two columns differ in it alone."""
    if name in header:
        return header.index(name)
    lowered = [column.lower() for column in header]
    return lowered.index(name.lower()) if name.lower() in lowered else None


def _without_end(fields: Sequence[str]) -> list[str]:
    """Returns the fields without the empty ones at the end, and without spaces around them."""
    stripped = [field.strip() for field in fields]
    while stripped and not stripped[-1]:
        stripped.pop()
    return stripped
