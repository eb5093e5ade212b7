"""The votes of FER+, in which ten people each named the expression of an image of FER2013.

The votes replace the labels of FER2013 (Barsoum et al., arXiv:1608.01041).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import canonical, listed
from emotion.data.lines import read_lines
from emotion.data.packed import PackedImages
from emotion.errors import UserError

EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTED = (*EMOTIONS, "unknown", "NF")
"""The columns of votes; NF stands for an image without a face."""


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
        ids[_columns(classes)] = np.arange(len(classes))
        winners = ids[self.counts.argmax(1)]  # [N]
        return np.where(self.counts.any(1), winners, -1)

    def shares(self, classes: Sequence[str]) -> NDArray[np.float32]:
        """Returns the share of each class in the votes on each image, float32 [N, K].

        Votes for `unknown`, `NF` and other expressions do not count. Rows sum to 1, those of images that cannot be
        used (see `labels`) to 0.

        Raises:
            UserError: there are no votes for one of the classes.
        """
        counts = self.counts[:, _columns(classes)] * (self.labels(classes) >= 0)[:, np.newaxis]  # [N, K]
        shares: NDArray[np.float32] = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
        return shares


def read_votes(path: Path, names: Sequence[str]) -> Votes:
    """Reads the votes on images from a CSV file with the columns `image` and `VOTED`.

    Args:
        path: the file; its column `image` holds names of files without folders.
        names: names of N images, which may begin with folders.

    Raises:
        UserError: the file or a column is missing, a row is broken, or none of the images has votes.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the votes of FER+ are a CSV file with image,{','.join(VOTED)}")
    counts = _read_counts(path)
    nothing = [0] * len(VOTED)
    rows = [counts.get(name.rsplit("/", 1)[-1]) for name in names]
    if not any(rows):
        example = f", as {names[0]}" if len(names) else ""
        raise UserError(f"{path}: no votes on any of the {len(names):,} images{example}; FER+ is for data=fer2013")
    return Votes(np.array([row or nothing for row in rows], np.int64))


def with_votes(packed: PackedImages, votes: Votes, classes: Sequence[str], *, soft: bool) -> PackedImages:
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
        raise UserError(f"labels=ferplus: on no image one of the classes {listed(classes)} has the most votes")
    return replace(
        packed,
        labels=labels,
        parts=np.where(labels < 0, "unused", packed.parts),
        classes=tuple(classes),
        shares=votes.shares(classes) if soft else None,
    )


def _columns(classes: Sequence[str]) -> list[int]:
    """Returns the position in `VOTED` of each class."""
    positions = {canonical(name): number for number, name in enumerate(EMOTIONS)}
    unknown = [name for name in classes if canonical(name) not in positions]
    if unknown:
        raise UserError(f"labels=ferplus: no votes for {listed(unknown)}; FER+ has {', '.join(EMOTIONS)}")
    return [positions[canonical(name)] for name in classes]


def _read_counts(path: Path) -> dict[str, list[int]]:
    """Returns the ten counts of each image in the file."""
    rows = csv.reader(read_lines(path, "votes"), strict=True)
    counts: dict[str, list[int]] = {}
    try:
        header = [column.strip() for column in next(rows, [])]
        missing = [column for column in ("image", *VOTED) if column not in header]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)}; found: {listed(header) or 'none'}")
        image, *columns = (header.index(column) for column in ("image", *VOTED))
        for row in filter(None, rows):
            values = [_count(row[column]) for column in columns]
            if row[image] in counts:
                raise UserError(f"{path} line {rows.line_num}: a second row for {row[image]}")
            counts[row[image]] = values
    except (IndexError, ValueError):
        expected = "an image and ten whole numbers from 0"
        raise UserError(f"{path} line {rows.line_num}: broken row (expected {expected})") from None
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num}: not CSV ({error})") from None
    return counts


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value < 10_000:
        raise ValueError(text)
    return value
