"""The votes of FER+, in which ten people each named the expression of an image of FER2013.

The votes replace the labels of FER2013 (Barsoum et al., arXiv:1608.01041).
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import canonical, listed
from emotion.data.labelled import FER_PARTS
from emotion.data.lines import read_lines, whole_number
from emotion.errors import UserError

if TYPE_CHECKING:  # which needs packages that emotion data fetch does not
    from emotion.data.packed import PackedImages

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTED = (*EMOTIONS, "unknown", "NF")
"""The columns of votes; NF stands for an image without a face."""
MOST_VOTES = 10_000
"""Numbers of votes are smaller."""
_LINE = re.compile(r"[^:]+:(\d{1,9})")
"""The name of an image of `data=fer2013_csv`: the file and the row, of which the header is the first."""


class NoVotesError(UserError):
    """FER+ has no votes for some classes of a network."""


@dataclass(frozen=True)
class Votes:
    """The votes on N images.

    Attributes:
        counts: int64 [N, 10], number of votes for each of `VOTED`; zeros for an image without votes.
    """

    counts: NDArray[np.int64]

    def labels(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Returns the class with the most votes on each image, int64 [N]; -1 for an image that cannot be used.

        That is an image without votes, one on which `unknown`, `NF` or an expression outside `classes` has the most
        votes. Of equal numbers the first of `VOTED` wins, as in the published program of FER+, which takes the argmax
        of the columns: so an expression wins against `unknown` and `NF`, and each expression against contempt. Other
        than there, the most votes need not be more than half.

        Args:
            classes: class names in the order of the class ids, each a spelling of one of `EMOTIONS`.

        Raises:
            UserError: there are no votes for one of the classes.
        """
        ids = np.full(len(VOTED), -1)
        ids[vote_columns(classes)] = np.arange(len(classes))
        winners = ids[self.counts.argmax(1)]  # [N]
        return np.where(self.counts.any(1), winners, -1)

    def shares(self, classes: Sequence[str]) -> NDArray[np.float32]:
        """Returns the share of each class in the votes on each image, float32 [N, K].

        Votes for `unknown`, `NF` and other expressions do not count. Rows sum to 1, those of images that cannot be
        used (see `labels`) to 0.

        Raises:
            UserError: there are no votes for one of the classes.
        """
        counts = self.counts[:, vote_columns(classes)] * (self.labels(classes) >= 0)[:, np.newaxis]  # [N, K]
        shares: NDArray[np.float32] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
        return shares


@dataclass(frozen=True)
class VotesFile:
    """A file of votes, read.

    Attributes:
        path: the file.
        counts: ten numbers, in the order of `VOTED`, for each image by the name of its file, with its folders or
            without, or, in the file of FER+ itself, by the number of its row as text, from 0.
        parts: part of each image by the same keys; empty unless the file is that of FER+ itself.
    """

    path: Path
    counts: Mapping[str, Sequence[int]]
    parts: Mapping[str, str]

    def on(self, names: Sequence[str], parts: Sequence[str] = ()) -> Votes:
        """Returns the votes on images; those without any have zeros, and so have two images that share a name.

        A row that names no folders is for one image. Of two that have its name it does not say which.

        Args:
            names: names of N images, which may begin with folders. The file of FER+ itself has the rows of
                `fer2013.csv`, so the names must be those of `data=fer2013_csv`, as `fer2013.csv:2` for the first row.
            parts: part of each image; empty if it is not known. It shows whether the rows have another order.

        Raises:
            UserError: a row of FER+'s own file is of another part than its image.
        """
        keys = [self._key(name) for name in names]
        owners = Counter(dict(zip(names, keys, strict=True)).values())
        if self.parts:
            for name, key, part in zip(names, keys, parts, strict=False):
                if self.parts.get(key, part) != part:
                    raise UserError(
                        f"{self.path}: row {key} is of part {self.parts[key]}, but {name} of {part}: the rows of both "
                        "files must have the same order"
                    )
        nothing = [0] * len(VOTED)
        return Votes(
            np.array(
                [self.counts.get(key, nothing) if owners[key] == 1 else nothing for key in keys], np.int64
            ).reshape(-1, len(VOTED))
        )

    def require_on(self, names: Sequence[str], parts: Sequence[str] = ()) -> Votes:
        """Returns the votes on images like `on`, and refuses images of which none has votes.

        Raises:
            UserError: none of the images has votes, or a row of FER+'s own file is of another part than its image.
        """
        votes = self.on(names, parts)
        if votes.counts.any():
            return votes
        example = f", as {names[0]}" if len(names) else ""
        wanted = (
            "data=fer2013_csv, whose rows it has; names in folders do not tell the row"
            if self.parts
            else ("data=fer2013")
        )
        raise UserError(f"{self.path}: no votes on any of the {len(names):,} images{example}; FER+ is for {wanted}")

    def _key(self, name: str) -> str:
        file = name.rsplit("/", 1)[-1]
        line = _LINE.fullmatch(file) if self.parts else None
        if line:
            return str(int(line[1]) - 2)  # the votes have no header
        return name if name in self.counts else file


def open_votes(path: Path) -> VotesFile:
    """Reads a CSV file of votes: that of FER+ itself (`fer2013new.csv`), or one with the column `image`.

    Args:
        path: the file, with the columns `VOTED` and `image`, the names of files, with their folders or without; or with
            `Image name`, empty for images that are left out, `Usage`, and the rows of `fer2013.csv` in their order.

    Raises:
        UserError: the file or a column is missing, or a row is broken.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; the votes of FER+ are a CSV file with image,{','.join(VOTED)}, or fer2013new.csv, "
            "which `emotion data fetch ferplus` downloads"
        )
    return _read(path)


def with_votes(packed: "PackedImages", votes: Votes, classes: Sequence[str], *, soft: bool) -> "PackedImages":
    """Replaces the labels of images by votes.

    Args:
        packed: N images, without those of other sources.
        votes: the votes on them.
        classes: class names in the order of the class ids, each a spelling of one of `EMOTIONS`.
        soft: whether the result has the `shares` of the votes, too.

    Returns:
        The images with new labels and classes; those that cannot be used (see `Votes.labels`) have part `unused`.

    Raises:
        UserError: there are no votes for one of the classes, or no image can be used.
    """
    labels = votes.labels(classes)
    if (labels < 0).all():
        raise UserError(f"labels=ferplus: no image can be used; on none has one of {listed(classes)} the most votes")
    return replace(
        packed,
        labels=labels,
        parts=np.where(labels < 0, "unused", packed.parts),
        classes=tuple(classes),
        shares=votes.shares(classes) if soft else None,
    )


def vote_columns(classes: Sequence[str]) -> list[int]:
    """Returns the position in `VOTED` of each class.

    Raises:
        NoVotesError: there are no votes for one of the classes.
    """
    positions = {canonical(name): number for number, name in enumerate(EMOTIONS)}
    unknown = [name for name in classes if canonical(name) not in positions]
    if unknown:
        raise NoVotesError(f"votes: FER+ has none for {listed(unknown)}; it has {', '.join(EMOTIONS)}")
    return [positions[canonical(name)] for name in classes]


def _read(path: Path) -> VotesFile:
    rows = csv.reader(read_lines(path, "votes"), strict=True)
    counts: dict[str, list[int]] = {}
    parts: dict[str, str] = {}
    try:
        header = [column.strip() for column in next(rows, [])]
        own = "image" not in header and "Image name" in header  # the file of FER+ itself
        needed = ("Image name", *VOTED, "Usage") if own else ("image", *VOTED)
        missing = [column for column in needed if column not in header]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; found: {listed(header) or 'none'}")
        image, *columns = (header.index(column) for column in needed[: 1 + len(VOTED)])
        for number, row in enumerate(filter(None, rows)):
            values = [whole_number(row[column], MOST_VOTES) for column in columns]
            key = str(number) if own else row[image]
            if key in counts:
                raise UserError(
                    f"{path} line {rows.line_num}: a second row for {key}; images of one name need their folders, as "
                    f"train/happy/{key}"
                )
            if own:
                parts[key] = FER_PARTS[row[header.index("Usage")]]
            if not own or row[image].strip():  # FER+ names no image that it leaves out for want of a face
                counts[key] = values
    except (IndexError, KeyError, ValueError):
        expected = f"{'/'.join(FER_PARTS)} and" if own else "an image and"
        raise UserError(
            f"{path} line {rows.line_num}: broken row (expected {expected} ten whole numbers from 0)"
        ) from None
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num}: not CSV ({error})") from None
    return VotesFile(path, counts, parts)
