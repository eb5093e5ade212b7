"""Sources of labelled images: FER2013 as folders or CSV, any tree of class folders, synthetic faces.

`emotion.data.packed` iterates over a source once; the order of its images is fixed.
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
"""The part of its source that an image belongs to; public and private are FER2013's two official test sets."""

FER_SIZE = 48
FER_PARTS: dict[str, Part] = {"Training": "train", "PublicTest": "public", "PrivateTest": "private"}
PART_FOLDERS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
CSV_FILES = ("fer2013.csv", "icml_face_data.csv")
MAX_LINE_LENGTH = 2**17
"""Longest accepted line of a CSV file in characters, ten times that of FER2013: a hostile line may hold gigabytes."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source: pixels uint8 [C, S, S], class id (0..6), part, and a name that is unique in the source."""

    pixels: NDArray[np.uint8]
    label: int
    part: str
    name: str


class Source(ABC):
    """A set of labelled images.

    Attributes:
        size: height and width of all images, pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    size: int = FER_SIZE
    channels: int = 1

    @property
    @abstractmethod
    def location(self) -> str:
        """Text that identifies the source among sources of its class, such as the path of its folder."""

    @abstractmethod
    def stamp(self) -> object:
        """Returns a value that changes whenever the content may have changed, such as file sizes and times."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns how many items the iteration yields."""

    @abstractmethod
    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        """Yields the images in a fixed order; an unusable image is replaced by an error with the reason."""


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: int
    part: str


class FolderSource(Source):
    """A tree `<class>/*` or `<train|val|test>/<class>/*` of image files of any size and colour.

    Each image is turned upright (EXIF), cropped to its central square and resized; transparency is dropped. Links to
    class folders and to images are followed only if they stay inside the tree, so that a downloaded data set cannot
    include other files of this machine; links to deeper folders are not followed.

    Args:
        root: path of the folder.
        size: height and width to which images are resized, pixels.
        channels: 1 to convert to grey, 3 to convert to RGB.
        other_classes: whether folders of other classes are left out with a warning in the log; otherwise they are an
            error.

    Raises:
        UserError: the folder is missing or has no images, or a class folder is empty, unknown or outside the tree.
    """

    def __init__(self, root: Path, size: int = FER_SIZE, channels: int = 1, other_classes: bool = False) -> None:
        self.root, self.size, self.channels = _existing_folder(root), size, channels
        self._skipped_folders: list[Path] | None = [] if other_classes else None
        self.files = [file for part, folder in _part_folders(root) for file in self._list_part(part, folder)]
        if self._skipped_folders:
            names = ", ".join(map(self._describe, self._skipped_folders))
            log.warning("%s: left out, since they are none of the seven classes: %s", hide_home(str(root)), names)
        if not self.files:
            raise UserError(f"{root}: no class folders (<class>/ or train|val|test/<class>/; {', '.join(CLASSES)})")

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self.root.resolve())

    def stamp(self) -> object:
        """Returns names, sizes and modification times of all files (of links themselves, not of their targets)."""
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
                if self._skipped_folders is None:
                    raise UserError(f"{class_folder}: {error}") from None
                self._skipped_folders.append(class_folder)
                continue
            if not self._contains(class_folder):
                raise UserError(f"{class_folder}: a link that leads out of {self.root}; copy the folder into it")
            paths = sorted(visible_files(class_folder))
            if not paths:
                raise UserError(f"{class_folder}: the class folder has no images; add some or remove it")
            for path in paths:
                yield _File(
                    Path(path), os.path.relpath(path, self.root), label, self._part(part, os.path.basename(path))
                )

    def _describe(self, folder: Path) -> str:
        """Returns the path of a folder that is left out, its number of images, and the class with a similar name."""
        near = get_close_matches(folder.name.lower(), [name for names in SPELLINGS.values() for name in names], 1)
        number = sum(1 for _ in visible_files(folder))
        images = "1 image" if number == 1 else f"{number:,} images"
        return f"{folder.relative_to(self.root)} ({images}{f'; is it {near[0]}?' if near else ''})"

    def _part(self, part: str, file_name: str) -> str:
        return part

    def _contains(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _read(self, file: _File) -> LabelledImage | BadImageError:
        try:
            if file.path.is_symlink() and not self._contains(file.path):
                raise BadImageError(f"a link that leads out of {self.root}")
            with open_image(file.path) as image:
                pixels = self._pixels(image)
        except BadImageError as error:
            return BadImageError(f"{file.path}: {error}")
        except Exception as error:
            # Decoders raise nearly any exception for a damaged file.
            reason = str(error).replace(f" {str(file.path)!r}", "") or type(error).__name__
            return BadImageError(f"{file.path}: not an image that can be read ({reason})")
        return LabelledImage(pixels, file.label, file.part, file.name)

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        decoded = Image.fromarray(upright(image, "L" if self.channels == 1 else "RGB"))
        square = ImageOps.fit(decoded, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(square).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)  # [C, S, S]


class Fer2013Folders(FolderSource):
    """FER2013 as image folders: `train/<class>/Training_*`, `test/<class>/PublicTest_*` and `PrivateTest_*`.

    The public data set of 28,709 + 7,178 grey 48x48 JPEGs that the paper used. Images are not resized or converted; the
    part in a file's name takes precedence over its folder.

    Raises:
        UserError: the errors of `FolderSource`, or the folder `train` or `test` lacks a class.
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
                f"{width}x{height} {image.mode}: images of FER2013 are 48x48 L (grey); data=folder accepts any image"
            )
        return np.asarray(image)[np.newaxis]  # [1, 48, 48]


class Fer2013Csv(Source):
    """FER2013 as `fer2013.csv` or `icml_face_data.csv` of the challenge, with columns emotion, pixels and Usage.

    Args:
        path: path of the file, or of the folder that contains it.

    Raises:
        UserError: the file or a column is missing, or a line is longer than `MAX_LINE_LENGTH`.
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
            raise UserError(f"{self.path}: no column {', '.join(missing)} in the header (emotion, pixels, Usage)")
        self.columns = {column: header.index(column) for column in ("emotion", "pixels", "usage")}

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
        with self._open() as file:
            rows = csv.reader(self._lines(file), skipinitialspace=True)  # a space may precede a quote
            next(rows)  # the header
            try:
                for row in rows:
                    if row:
                        yield self._read(row, rows.line_num)
            except csv.Error as error:
                raise UserError(f"{self.path} line {rows.line_num}: not CSV ({error})") from None

    def _open(self) -> TextIO:
        with self.path.open("rb") as file:
            start = file.read(2)
        # Editors add byte order marks, and some write UTF-16. Undecodable bytes are replaced, so they break at most
        # their own row, and none if they are in a column that is not used.
        encoding = "utf-16" if start in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        return self.path.open(newline="", encoding=encoding, errors="replace")

    def _lines(self, file: TextIO) -> Iterator[str]:
        for number in count(1):
            line = file.readline(MAX_LINE_LENGTH)
            if len(line) == MAX_LINE_LENGTH:
                raise UserError(f"{self.path} line {number}: not FER2013, longer than {MAX_LINE_LENGTH:,} characters")
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
    """Synthetic faces, drawn while iterating, with FER2013's parts and class imbalance.

    Args:
        num_images: number of images in all parts together.
        seed: seed of the drawing; it is not the seed of a run, so that runs of all seeds share the images.

    Raises:
        UserError: fewer than `emotion.data.synthetic.MIN_IMAGES` images.
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        try:
            self.labels, self.parts = synthetic.draw_labels(num_images, seed)
        except ValueError as error:
            raise UserError(f"synthetic_images={num_images}: {error}") from None
        self.seed = seed

    @property
    def location(self) -> str:
        """Seed and number of the images."""
        return f"seed {self.seed}, {len(self)} images"

    def stamp(self) -> object:
        """Returns a hash of the drawing code, since a change of the code may change the images of a seed."""
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
        data: kind of source.
        data_dir: path of the source; None is `$EMOTION_DATA`, or `data/fer2013` if that variable is not set.
        pack_size: height and width to which images of `data=folder` are resized, pixels.
        channels: 1 (grey) or 3 (RGB), for `data=folder`.
        synthetic_images: number of images of `data=synthetic`.

    Raises:
        UserError: the source is missing or unusable; the message names the alternatives.
    """
    if data == "synthetic":
        return SyntheticFaces(synthetic_images)
    path = Path(data_dir or os.environ.get("EMOTION_DATA") or "data/fer2013").expanduser()
    if not path.exists():
        raise UserError(
            f"data_dir: nothing at {path}; download FER2013 with `emotion data fetch`, name its path with "
            "data_dir=<path> or EMOTION_DATA, or use drawn faces with data=synthetic"
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
    """Returns two hashes (hex) of a source: one of its identity, one of its present content."""
    identity = _digest(type(source).__name__, source.location, source.size, source.channels)
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
            f"{root}: a file, not a folder; unpack an archive with `python -m zipfile -e {root} <folder>`, read a CSV "
            "file with data=fer2013_csv"
        )
    return root


def _existing_csv(path: Path) -> Path:
    candidates = [path / name for name in CSV_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"data_dir: no {' or '.join(CSV_FILES)} in {path}; name the file with data_dir=<path>")


def _part_folders(root: Path) -> list[tuple[Part, Path]]:
    """Lists the train, val and test folders; a tree without them has one part, `train`."""
    folders = sorted(_visible_folders(root))
    found = [(PART_FOLDERS[folder.name.lower()], folder) for folder in folders if folder.name.lower() in PART_FOLDERS]
    others = [folder.name for folder in folders if folder.name.lower() not in PART_FOLDERS]
    if found and others:
        raise UserError(
            f"{root}: {', '.join(others)} beside train, val or test folders would be ignored; move it elsewhere"
        )
    return found or [("train", root)]
