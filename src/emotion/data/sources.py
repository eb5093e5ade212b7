"""Where images come from: FER2013 as folders or CSV, any tree of class folders, drawn faces.

A source is iterated once, by `emotion.data.packed`, and yields every image in a fixed order.
"""

import csv
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emotion.data.classes import CLASSES, CSV_CLASSES, class_id
from emotion.data.synthetic import draw_image, draw_labels
from emotion.errors import UserError

SourceName = Literal["fer2013", "fer2013_csv", "folder", "synthetic"]
Part = Literal["train", "val", "test", "public", "private"]
"""Which part of its source an image belongs to; public and private are FER2013's two official test sets."""

FER_SIZE = 48
FER_PARTS: dict[str, Part] = {"Training": "train", "PublicTest": "public", "PrivateTest": "private"}
PART_FOLDERS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IGNORED_FILES = {"thumbs.db", "desktop.ini"}
CSV_FILES = ("fer2013.csv", "icml_face_data.csv")


class BadImageError(UserError):
    """One image that cannot be used; the message names it."""


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

    Each image is turned upright (EXIF), cut to its central square and resized.

    Args:
        root: the folder.
        size: pixels to resize to.
        channels: 1 to convert to grey, 3 to convert to RGB.

    Raises:
        UserError: no such folder, no images, a class folder that is empty or of no known name.
    """

    def __init__(self, root: Path, size: int = FER_SIZE, channels: int = 1) -> None:
        self.root, self.size, self.channels = _existing_folder(root), size, channels
        self.files = [file for part, folder in _part_folders(root) for file in self._list_part(part, folder)]
        if not self.files:
            raise UserError(f"data_dir: no class folders with images in {root}")

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root.resolve())

    def stamp(self) -> object:
        """Returns names, sizes and times of all files."""
        stats = (file.path.stat() for file in self.files)
        return [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in zip(self.files, stats, strict=True)]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        chunk = 1024
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), chunk):
                yield from pool.map(self._read, self.files[start : start + chunk])

    def _list_part(self, part: str, folder: Path) -> Iterator[_File]:
        for class_folder in sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."):
            try:
                label = class_id(class_folder.name)
            except UserError as error:
                raise UserError(f"{class_folder}: {error}") from None
            names = sorted(entry.name for entry in os.scandir(class_folder) if _is_listed(entry))
            if not names:
                raise UserError(f"{class_folder}: the class folder has no images")
            for name in names:
                path = class_folder / name
                yield _File(path, path.relative_to(self.root).as_posix(), label, self._part(part, name))

    def _part(self, part: str, file_name: str) -> str:
        return part

    def _read(self, file: _File) -> LabelledImage | BadImageError:
        try:
            with Image.open(file.path) as image:
                pixels = self._pixels(image)
        except BadImageError as error:
            return BadImageError(f"{file.path}: {error}")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return BadImageError(f"{file.path}: not an image that can be read ({error})")
        return LabelledImage(pixels, file.label, file.part, file.name)

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        upright = ImageOps.exif_transpose(image).convert("L" if self.channels == 1 else "RGB")
        square = ImageOps.fit(upright, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(square).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


class Fer2013Folders(FolderSource):
    """FER2013 as image folders: `train/<class>/Training_*`, `test/<class>/PublicTest_*` and `PrivateTest_*`.

    The public data set of 28,709 + 7,178 grey 48x48 JPEGs that the report used. Images are taken as they are.

    Raises:
        UserError: besides those of `FolderSource`: the folder `train` or `test` or one of their classes is missing.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        for folder in ("train", "test"):
            found = {file.label for file in self.files if file.name.startswith(f"{folder}/")}
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
        UserError: no such file, or a column is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = _existing_csv(path)
        with self.path.open(newline="") as file:
            header = [column.strip().lower() for column in next(csv.reader(file), [])]
            self.length = sum(1 for _ in file)
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
        with self.path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            for row in rows:
                if row:
                    yield self._read(row, rows.line_num)

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
            self.labels, self.parts = draw_labels(num_images, seed)
        except ValueError as error:
            raise UserError(f"synthetic_images={num_images}: {error}") from None
        self.seed = seed

    @property
    def place(self) -> str:
        """Seed and number."""
        return f"seed {self.seed}, {len(self)} images"

    def stamp(self) -> object:
        """Returns nothing: the same seed always draws the same."""
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        for index, (label, part) in enumerate(zip(self.labels.tolist(), self.parts.tolist(), strict=True)):
            pixels = draw_image(label, self.seed, index)[np.newaxis]
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
    if data == "fer2013_csv":
        return Fer2013Csv(path)
    return Fer2013Folders(path) if data == "fer2013" else FolderSource(path, pack_size, channels)


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


def _is_listed(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and not entry.name.startswith(".") and entry.name.lower() not in IGNORED_FILES


def _existing_folder(root: Path) -> Path:
    if not root.is_dir():
        unpack = f"; unpack it first (python -m zipfile -e {root.name} data/fer2013)" if root.suffix == ".zip" else ""
        raise UserError(f"data_dir: {root} is not a folder{unpack}")
    return root


def _existing_csv(path: Path) -> Path:
    candidates = [path / name for name in CSV_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"data_dir: no {' or '.join(CSV_FILES)} in {path}")


def _part_folders(root: Path) -> list[tuple[str, Path]]:
    """Finds train, val and test folders; a tree without them is one part, `train`."""
    found = [
        (PART_FOLDERS[name.lower()], root / name) for name in sorted(os.listdir(root)) if name.lower() in PART_FOLDERS
    ]
    return [(part, folder) for part, folder in found if folder.is_dir()] or [("train", root)]
