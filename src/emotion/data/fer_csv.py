"""FER2013 as the CSV file of the challenge."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emotion.data.classes import AUTO, CSV_CLASSES, ClassRule
from emotion.data.decode import BadImageError
from emotion.data.labelled import FER_PARTS, LabelledImage, Source
from emotion.data.lines import read_lines, whole_number
from emotion.errors import UserError
from emotion.settings import FER_SIZE

CSV_FILES = ("fer2013.csv", "icml_face_data.csv")


class Fer2013Csv(Source):
    """FER2013 as `fer2013.csv` or `icml_face_data.csv` of the challenge, with columns emotion, pixels and Usage.

    Args:
        path: path of the file, or of the folder that contains it.
        rule: which classes are used; `auto` means the seven. Classes that it skips are named in the log.

    Raises:
        UserError: the file or a column is missing, a line is longer than `emotion.data.lines.MAX_LINE_LENGTH`, or the
            rule refuses one of the seven classes.
    """

    def __init__(self, path: Path, rule: ClassRule = AUTO) -> None:
        self.path = _existing_csv(path)
        lines = self._lines()
        header = [column.strip().lower() for column in next(csv.reader([next(lines, "")], skipinitialspace=True), [])]
        self.length = sum(1 for line in lines if line.strip())
        missing = [column for column in ("emotion", "pixels", "usage") if column not in header]
        if missing:
            raise UserError(f"{self.path}: no column {', '.join(missing)} in the header (emotion, pixels, Usage)")
        self.columns = {column: header.index(column) for column in ("emotion", "pixels", "usage")}
        classes = self._apply(rule.of_seven(), dict.fromkeys(CSV_CLASSES, str(self.path)))
        self._ids = [classes.ids[name] for name in CSV_CLASSES]
        if None in self._ids:
            counts = self._counts()
            self.length -= sum(counts[name] for name in CSV_CLASSES if classes.ids[name] is None)
            self._leave_out(classes, counts, str(self.path))

    @property
    def location(self) -> str:
        """Path of the file."""
        return str(self.path.resolve())

    def stamp(self) -> object:
        """Returns size and modification time of the file."""
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        for number, (line, row) in enumerate(self._rows(), 2):  # the header is row 1
            item = self._read(row, line, number)
            if item is not None:
                yield item

    def _lines(self) -> Iterator[str]:
        return read_lines(self.path, "FER2013")

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the rows below the header with the numbers of their lines."""
        rows = csv.reader(self._lines(), skipinitialspace=True)  # a space may precede a quote
        try:
            next(rows)  # the header
            for row in rows:
                if row:
                    yield rows.line_num, row
        except csv.Error as error:
            raise UserError(f"{self.path} line {rows.line_num}: not CSV ({error})") from None

    def _counts(self) -> Counter[str]:
        """Counts the rows of each class; rows without a legal one count for none."""
        counts: Counter[str] = Counter()
        for _, row in self._rows():
            try:
                counts[self._class(row)] += 1
            except (IndexError, ValueError):
                continue
        return counts

    def _class(self, row: list[str]) -> str:
        return CSV_CLASSES[whole_number(row[self.columns["emotion"]].strip(), len(CSV_CLASSES))]

    def _read(self, row: list[str], line: int, number: int) -> LabelledImage | BadImageError | None:
        """Returns the image of a row, or None if its class is left out.

        The image is named after the number of the row, which the votes of FER+ go by: empty lines do not count.
        """
        try:
            label = self._ids[CSV_CLASSES.index(self._class(row))]
            if label is None:
                return None
            pixels, usage = (row[self.columns[column]].strip() for column in ("pixels", "usage"))
            values = np.frombuffer(bytes(map(int, pixels.split())), np.uint8)
            image = values.reshape(1, FER_SIZE, FER_SIZE)
            return LabelledImage(image, label, FER_PARTS[usage], f"{self.path.name}:{number}")
        except (IndexError, KeyError, ValueError):
            expected = "emotion 0..6, 2,304 pixels 0..255, Usage " + "/".join(FER_PARTS)
            return BadImageError(f"{self.path} line {line}: broken row (expected {expected})")


def _existing_csv(path: Path) -> Path:
    candidates = [path / name for name in CSV_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"data_dir: no {' or '.join(CSV_FILES)} in {path}; name the file with data_dir=<path>")
