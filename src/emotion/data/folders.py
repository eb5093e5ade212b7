"""Sources of image files: any tree of class folders, and FER2013 as image folders."""

import inspect
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emotion.data import decode
from emotion.data.classes import AUTO, CLASSES, ClassRule, canonical, listed
from emotion.data.decode import BadImageError, open_image, upright
from emotion.data.labelled import FER_PARTS, PART_FOLDERS, LabelledImage, Part, Source, digest
from emotion.errors import UserError
from emotion.files import is_hidden, visible_files
from emotion.settings import FER_SIZE

THREADS = 8
"""Largest number of threads that decode images."""


@dataclass(frozen=True)
class ImageFile:
    """An image file of a source, with its class id, its part, a unique name, and how messages name it."""

    path: Path
    name: str
    label: int
    part: str
    place: str


class FilesSource(Source):
    """A source whose images are files of any size and colour.

    Each image is turned upright (EXIF), cropped to its central square and resized; transparency is dropped.

    Args:
        root: path of the folder that holds all images.
        size: height and width to which images are resized, pixels.
        channels: 1 to convert to grey, 3 to convert to RGB.

    Attributes:
        files: the image files, in the order of the iteration.
    """

    files: list[ImageFile]

    def __init__(self, root: Path, size: int, channels: int) -> None:
        self.root, self.size, self.channels = root, size, channels
        self._real_root = root.resolve()

    def stamp(self) -> object:
        """Returns a hash of the decoding code, and names, sizes and times of all files (see `stat_of`)."""
        return digest(inspect.getsource(decode)), [(file.name, *stat_of(file.path)) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        chunk = 1024
        # Each thread can hold a decoded image of 150 MB three times.
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self.files), chunk):
                yield from pool.map(self._read, self.files[start : start + chunk])

    def _contains(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._real_root)

    @abstractmethod
    def _is_inside(self, file: ImageFile) -> bool:
        """Checks that no link on the way to a file leads out of the folder."""

    def _read(self, file: ImageFile) -> LabelledImage | BadImageError:
        try:
            if not self._is_inside(file):
                raise BadImageError(f"a link that leads out of {self.root}")
            with open_image(file.path) as image:
                pixels = self._pixels(image)
        except BadImageError as error:
            return BadImageError(f"{file.place}: {error}")
        except FileNotFoundError:
            return BadImageError(f"{file.place}: no such file")
        except PermissionError as error:
            return BadImageError(f"{file.place}: {error.strerror}")
        except Exception as error:
            # Decoders raise nearly any exception for a damaged file.
            reason = str(error).replace(f" {str(file.path)!r}", "") or type(error).__name__
            return BadImageError(f"{file.place}: not an image that can be read ({reason})")
        return LabelledImage(pixels, file.label, file.part, file.name)

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        decoded = Image.fromarray(upright(image, "L" if self.channels == 1 else "RGB"))
        square = ImageOps.fit(decoded, (self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(square).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)  # [C, S, S]


class FolderSource(FilesSource):
    """A tree `<class>/*` or `<train|val|test>/<class>/*` of image files of any size and colour (see `FilesSource`).

    Links to class folders and to images are followed only if they stay inside the tree, so that a downloaded data set
    cannot include other files of this machine; links to deeper folders are not followed.

    Args:
        root: path of the folder.
        size: height and width to which images are resized, pixels.
        channels: 1 to convert to grey, 3 to convert to RGB.
        rule: which classes the names of the class folders stand for. Folders that it skips are named in the log.

    Raises:
        UserError: the folder is missing or has no images, a class folder is empty or outside the tree, or the rule
            refuses a class folder.
    """

    def __init__(self, root: Path, size: int = FER_SIZE, channels: int = 1, rule: ClassRule = AUTO) -> None:
        super().__init__(_existing_folder(root), size, channels)
        folders = [
            (part, folder) for part, parent in _part_folders(root) for folder in sorted(_visible_folders(parent))
        ]
        places: dict[str, str] = {}
        for _, folder in folders:
            places.setdefault(folder.name, str(folder))
        classes = self._apply(rule, places)
        self.files = [
            file
            for part, folder in folders
            if (label := classes.ids[folder.name]) is not None
            for file in self._list_class(part, folder, label)
        ]
        if classes.skipped:
            counts: Counter[str] = Counter()
            for _, folder in folders:
                counts[folder.name] += _count(folder) if folder.name in classes.skipped else 0
            self._leave_out(classes, counts, str(root))
        if not self.files:
            if places and all(classes.ids[name] is None and name not in classes.skipped for name in places):
                raise UserError(f"{root}: exclude= leaves no class folder, of {listed([*places])}")
            names = "any names" if rule.classes == "auto" else listed(self.classes)
            raise UserError(f"{root}: no class folders (<class>/ or train|val|test/<class>/; {names})")

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self._real_root)

    def _list_class(self, part: str, folder: Path, label: int) -> Iterator[ImageFile]:
        if not self._contains(folder):
            raise UserError(f"{folder}: a link that leads out of {self.root}; copy the folder into it")
        paths = sorted(visible_files(folder, _raise))
        if not paths:
            raise UserError(f"{folder}: the class folder has no images; add some or remove it")
        prefix = os.path.join(self.root, "")
        for path in paths:
            name = path.removeprefix(prefix).replace(os.sep, "/")
            yield ImageFile(Path(path), name, label, self._part(part, os.path.basename(path)), path)

    def _part(self, part: str, file_name: str) -> str:
        return part

    def _is_inside(self, file: ImageFile) -> bool:
        # Links to folders are checked in `_list_class` or not followed.
        return not file.path.is_symlink() or self._contains(file.path)


class Fer2013Folders(FolderSource):
    """FER2013 as image folders: `train/<class>/Training_*`, `test/<class>/PublicTest_*` and `PrivateTest_*`.

    The public data set of 28,709 + 7,178 grey 48x48 JPEGs that the paper used. Images are not resized or converted; the
    part in a file's name takes precedence over its folder.

    Args:
        root: path of the folder.
        rule: as for `FolderSource`; `auto` means the seven classes.

    Raises:
        UserError: the errors of `FolderSource`, or the folder `train` or `test` lacks a class.
    """

    def __init__(self, root: Path, rule: ClassRule = AUTO) -> None:
        super().__init__(root, rule=rule.of_seven())
        for folder in ("train", "test"):
            found = {file.label for file in self.files if file.name.lower().startswith(f"{folder}/")}
            own = [label for label, name in enumerate(self.classes) if canonical(name) in CLASSES]
            missing = [self.classes[label] for label in own if label not in found]
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


def stat_of(path: Path) -> tuple[int, ...]:
    """Returns size, time of modification and time of change of a file, and those of the target of a link.

    The last time tells files apart that were renamed. A missing file has none of them.
    """
    try:
        stats = [path.lstat()]
        if S_ISLNK(stats[0].st_mode):
            stats.append(path.stat())
    except OSError:
        return ()
    return tuple(value for each in stats for value in (each.st_size, each.st_mtime_ns, each.st_ctime_ns))


def _count(folder: Path) -> int:
    return sum(1 for _ in visible_files(folder, _raise))


def _raise(error: OSError) -> None:
    raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror})")


def _visible_folders(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _existing_folder(root: Path) -> Path:
    if not root.exists():
        raise UserError(f"{root}: no such folder")
    if not root.is_dir():
        raise UserError(
            f"{root}: a file, not a folder; unpack an archive with `python -m zipfile -e {root} <folder>`, read a "
            "table of paths and labels with data=table, or fer2013.csv with data=fer2013_csv"
        )
    return root


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
