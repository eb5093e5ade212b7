"""Where images come from: FER2013 as folders or CSV, any tree of class folders, drawn faces.

A source is iterated once, by `emotion.data.packed`, and yields every image in a fixed order.
"""

import csv
import hashlib
import inspect
import logging
import os
from abc import ABC, abstractmethod
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Literal, TextIO, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emotion.data import synthetic
from emotion.data.classes import CLASSES, CSV_CLASSES, SPELLINGS, class_id
from emotion.data.decode import BadImageError, open_image, upright
from emotion.errors import UserError
from emotion.files import hide_home, is_hidden, visible_files

SourceName = Literal["fer2013", "fer2013_csv", "folder", "synthetic"]
Part = Literal["train", "val", "test", "public", "private"]
"""Which part of its source an image belongs to; public and private are FER2013's two official test sets."""

FER_SIZE = 48
FER_PARTS: dict[str, Part] = {"Training": "train", "PublicTest": "public", "PrivateTest": "private"}
PART_FOLDERS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
CSV_FILES = ("fer2013.csv", "icml_face_data.csv")
LONGEST_LINE = 2**17
"""Characters, ten times those of FER2013; a file can claim to hold a line of gigabytes."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source: pixels uint8 [C, S, S], class id, part, and a name unique in its source."""

    pixels: NDArray[np.uint8]
    label: int
    part: str
    name: str


class Source(ABC):
    """A set of labelled images.

    Attributes:
        size: height and width in pixels, alike for all images.
        channels: 1 (grey) or 3 (RGB).
    """

    size: int = FER_SIZE
    channels: int = 1

    @property
    @abstractmethod
    def place(self) -> str:
        """What tells this source from others of its kind, such as its folder."""

    @abstractmethod
    def stamp(self) -> object:
        """Returns what changes when the content may have changed, such as file sizes and times."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns how many items the iteration yields."""

    @abstractmethod
    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        """Yields the images in a fixed order, and in place of an unusable one the reason."""


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: int
    part: str


class FolderSource(Source):
    """A tree `<class>/*` or `<train|val|test>/<class>/*` of image files of any size and colour.

    Each image is turned upright (EXIF), cut to its central square and resized; transparency is dropped. Links to
    class folders and to images are followed inside the tree only, so that data from strangers cannot draw in other
    files; links to folders further down are not.

    Args:
        root: the folder.
        size: pixels to resize to.
        channels: 1 to convert to grey, 3 to convert to RGB.
        other_classes: leave out, with a line in the log, folders of classes that are none of the seven.

    Raises:
        UserError: no such folder, no images, a class folder that is empty, of no known name or elsewhere.
    """

    def __init__(self, root: Path, size: int = FER_SIZE, channels: int = 1, other_classes: bool = False) -> None:
        self.root, self.size, self.channels = _existing_folder(root), size, channels
        self._left_out: list[Path] | None = [] if other_classes else None
        self.files = [file for part, folder in _part_folders(root) for file in self._list_part(part, folder)]
        if self._left_out:
            told = ", ".join(map(self._describe, self._left_out))
            log.warning("%s: left out, since they are none of the seven classes: %s", hide_home(str(root)), told)
        if not self.files:
            raise UserError(f"{root} has no class folders (<class>/ or train|val|test/<class>/; {', '.join(CLASSES)})")

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root.resolve())

    def stamp(self) -> object:
        """Returns names, sizes and times of all files, of links their own."""
        stats = (file.path.lstat() for file in self.files)
        return [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in zip(self.files, stats, strict=True)]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        chunk = 1024
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), chunk):
                yield from pool.map(self._read, self.files[start : start + chunk])

    def _list_part(self, part: str, folder: Path) -> Iterator[_File]:
        for class_folder in sorted(_visible_folders(folder)):
            try:
                label = class_id(class_folder.name)
            except UserError as error:
                if self._left_out is None:
                    raise UserError(f"{class_folder}: {error}") from None
                self._left_out.append(class_folder)
                continue
            if not self._holds(class_folder):
                raise UserError(f"{class_folder}: a link that leads out of {self.root}; copy the folder there")
            paths = sorted(visible_files(class_folder))
            if not paths:
                raise UserError(f"{class_folder}: the class folder has no images")
            for path in paths:
                yield _File(
                    Path(path), os.path.relpath(path, self.root), label, self._part(part, os.path.basename(path))
                )

    def _describe(self, folder: Path) -> str:
        """Names a folder that is left out, how much is in it, and the class that may be meant."""
        near = get_close_matches(folder.name.lower(), [name for names in SPELLINGS.values() for name in names], 1)
        number = sum(1 for _ in visible_files(folder))
        images = "1 image" if number == 1 else f"{number:,} images"
        return f"{folder.relative_to(self.root)} ({images}{f'; is it {near[0]}?' if near else ''})"

    def _part(self, part: str, file_name: str) -> str:
        return part

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _read(self, file: _File) -> LabelledImage | BadImageError:
        try:
            if file.path.is_symlink() and not self._holds(file.path):
                raise BadImageError(f"a link that leads out of {self.root}")
            with open_image(file.path) as image:
                pixels = self._pixels(image)
        except BadImageError as error:
            return BadImageError(f"{file.path}: {error}")
        except Exception as error:
            # Decoders raise nearly anything for a damaged file.
            reason = str(error).replace(f" {str(file.path)!r}", "") or type(error).__name__
            return BadImageError(f"{file.path}: not an image that can be read ({reason})")
        return LabelledImage(pixels, file.label, file.part, file.name)

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        picture = Image.fromarray(upright(image, "L" if self.channels == 1 else "RGB"))
        square = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(square).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


class Fer2013Folders(FolderSource):
    """FER2013 as image folders: `train/<class>/Training_*`, `test/<class>/PublicTest_*` and `PrivateTest_*`.

    The public data set of 28,709 + 7,178 grey 48x48 JPEGs that the report used. Images are taken as they are; where a
    file's name tells its part, the name counts.

    Raises:
        UserError: besides those of `FolderSource`: the folder `train` or `test` or one of their classes is missing.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for folder in ("train", "test"):
            found = {file.label for file in self.files if file.name.lower().startswith(f"{folder}/")}
            missing = [name for label, name in enumerate(CLASSES) if label not in found]
            if missing:
                raise UserError(f"{root / folder}: no images of class {', '.join(missing)}")

    def _part(self, part: str, file_name: str) -> str:
        return FER_PARTS.get(file_name.split("_")[0], part)

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        if image.mode != "L" or image.size != (FER_SIZE, FER_SIZE):
            width, height = image.size
            raise BadImageError(
                f"{width}x{height} {image.mode}, but images of FER2013 are 48x48 L (grey); data=folder takes any image"
            )
        return np.asarray(image)[np.newaxis]


class Fer2013Csv(Source):
    """The challenge's `fer2013.csv` or `icml_face_data.csv`: columns emotion, pixels, Usage.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        UserError: no such file, a column is missing, or a line is longer than `LONGEST_LINE`.
    """

    def __init__(self, path: Path) -> None:
        self.path = _existing_csv(path)
        with self._open() as file:
            lines = self._lines(file)
            header = [
                column.strip().lower() for column in next(csv.reader([next(lines, "")], skipinitialspace=True), [])
            ]
            self.length = sum(1 for line in lines if line.strip())
        missing = [column for column in ("emotion", "pixels", "usage") if column not in header]
        if missing:
            raise UserError(f"{self.path}: the header has no column {', '.join(missing)} (emotion, pixels, Usage)")
        self.columns = {column: header.index(column) for column in ("emotion", "pixels", "usage")}

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path.resolve())

    def stamp(self) -> object:
        """Returns size and time of the file."""
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        with self._open() as file:
            rows = csv.reader(self._lines(file), skipinitialspace=True)  # before quotes, too
            next(rows)
            try:
                for row in rows:
                    if row:
                        yield self._read(row, rows.line_num)
            except csv.Error as error:
                raise UserError(f"{self.path} line {rows.line_num}: not CSV ({error})") from None

    def _open(self) -> TextIO:
        with self.path.open("rb") as file:
            start = file.read(2)
        # Editors add byte order marks, and some write UTF-16. Bytes that are no text make a broken row, not a failure
        # to read the rest; beside the columns that count there may be any.
        encoding = "utf-16" if start in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        return self.path.open(newline="", encoding=encoding, errors="replace")

    def _lines(self, file: TextIO) -> Iterator[str]:
        for number in count(1):
            line = file.readline(LONGEST_LINE)
            if len(line) == LONGEST_LINE:
                raise UserError(f"{self.path} line {number}: longer than {LONGEST_LINE:,} characters, so not FER2013")
            if not line:
                return
            yield line

    def _read(self, row: list[str], line: int) -> LabelledImage | BadImageError:
        try:
            emotion, pixels, usage = (row[self.columns[column]].strip() for column in ("emotion", "pixels", "usage"))
            label = CLASSES.index(CSV_CLASSES[_digit(emotion, len(CSV_CLASSES))])
            values = np.frombuffer(bytes(map(int, pixels.split())), np.uint8)
            image = values.reshape(1, FER_SIZE, FER_SIZE)
            return LabelledImage(image, label, FER_PARTS[usage], f"{self.path.name}:{line}")
        except (IndexError, KeyError, ValueError):
            expected = "emotion 0..6, 2,304 pixels 0..255, Usage " + "/".join(FER_PARTS)
            return BadImageError(f"{self.path} line {line}: broken row (expected {expected})")


class SyntheticFaces(Source):
    """Faces drawn on the spot, with FER2013's parts and class imbalance.

    Args:
        num_images: how many, all parts together.
        seed: of the drawing; apart from the seed of a run, so that seeds share their data.
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        try:
            self.labels, self.parts = synthetic.draw_labels(num_images, seed)
        except ValueError as error:
            raise UserError(f"synthetic_images={num_images}: {error}") from None
        self.seed = seed

    @property
    def place(self) -> str:
        """Seed and number."""
        return f"seed {self.seed}, {len(self)} images"

    def stamp(self) -> object:
        """Returns the code that draws: the same seed draws the same as long as that stays."""
        return _digest(inspect.getsource(synthetic))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        for index, (label, part) in enumerate(zip(self.labels.tolist(), self.parts.tolist(), strict=True)):
            pixels = synthetic.draw_image(label, self.seed, index)[np.newaxis]
            yield LabelledImage(pixels, label, part, f"drawn/{part}/{CLASSES[label]}_{index}")


def open_source(
    data: SourceName, data_dir: str | None, *, pack_size: int, channels: int, synthetic_images: int
) -> Source:
    """Opens a source by name.

    Args:
        data: its kind.
        data_dir: where it lies; None is `$EMOTION_DATA`, or `data/fer2013` where that is not set.
        pack_size: pixels to which `data=folder` resizes.
        channels: 1 or 3, for `data=folder`.
        synthetic_images: how many faces `data=synthetic` draws.

    Raises:
        UserError: nothing usable is there; the message says what to do.
    """
    if data == "synthetic":
        return SyntheticFaces(synthetic_images)
    path = Path(data_dir or os.environ.get("EMOTION_DATA") or "data/fer2013").expanduser()
    if not path.exists():
        raise UserError(
            f"data_dir: nothing at {path}; get FER2013 with `emotion data fetch`, say where it lies with "
            "data_dir=<path> or EMOTION_DATA, or take drawn faces with data=synthetic"
        )
    match data:
        case "fer2013":
            return Fer2013Folders(path)
        case "fer2013_csv":
            return Fer2013Csv(path)
        case "folder":
            return FolderSource(path, pack_size, channels)
        case _:
            assert_never(data)


def fingerprint(source: Source) -> tuple[str, str]:
    """Returns two hashes (hex) of a source: of what it is, and of its present content."""
    identity = _digest(type(source).__name__, source.place, source.size, source.channels)
    return identity, _digest(source.stamp())


def _digest(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()


def _digit(text: str, limit: int) -> int:
    value = int(text)
    if not 0 <= value < limit:
        raise ValueError(text)
    return value


def _visible_folders(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _existing_folder(root: Path) -> Path:
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    if not root.is_dir():
        raise UserError(
            f"{root} is a file, not a folder; an archive is unpacked with `python -m zipfile -e {root} "
            "<folder>`, a CSV file is read with data=fer2013_csv"
        )
    return root


def _existing_csv(path: Path) -> Path:
    candidates = [path / name for name in CSV_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"data_dir: no {' or '.join(CSV_FILES)} in {path}")


def _part_folders(root: Path) -> list[tuple[Part, Path]]:
    """Finds train, val and test folders; a tree without them is one part, `train`."""
    folders = sorted(_visible_folders(root))
    found = [(PART_FOLDERS[folder.name.lower()], folder) for folder in folders if folder.name.lower() in PART_FOLDERS]
    others = [folder.name for folder in folders if folder.name.lower() not in PART_FOLDERS]
    if found and others:
        raise UserError(
            f"{root}: {', '.join(others)} beside train, val or test folders would be left out; move it away"
        )
    return found or [("train", root)]
