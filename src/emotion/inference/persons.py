"""The persons of a film: their expressions over time, and a summary of each."""

import io
import os
import warnings
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.classes import CLASSES
from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.files import expand
from emotion.inference.film import FRAME_STRIDE, SMOOTH, TICK, FilmFrame, Watcher
from emotion.inference.recognizer import Face, Recognizer, load, most_probable, rounded
from emotion.inference.video import Video

BRIEF = 1.0
"""Persons who are seen for less than so many seconds are left out of tables and timelines."""
MOST_PORTRAITS, LEAST_APART = 12, 1.0
"""Portraits of a person, and seconds between two of them."""
PORTRAIT_QUALITY = 85
"""Quality of the portraits as JPEG, of 100."""
_PLACE = 8
"""Numbers that are kept of a face besides its probabilities: index of the frame, person, box, confidence and tilt."""


@dataclass(frozen=True)
class Stretch:
    """A time during which a person showed one expression without a break: the class, start and length in seconds."""

    label: str
    start: float
    seconds: float


@dataclass(frozen=True)
class Person:
    """What a person showed in a film.

    Attributes:
        number: number of the person, from 1.
        first: when the person is seen first, seconds after the first frame.
        last: when the person is seen last: the end of that frame.
        seconds: seconds for which the person is seen.
        shares: the share of these seconds for which each class is the most probable one, by class; the sum is 1.
        stretches: the expressions in order.
    """

    number: int
    first: float
    last: float
    seconds: float
    shares: dict[str, float]
    stretches: list[Stretch]

    @property
    def changes(self) -> int:
        """How often the expression changed while the person was seen."""
        return sum(before.label != after.label for before, after in pairwise(self.stretches))

    @property
    def longest(self) -> Stretch:
        """The longest stretch of one expression."""
        return max(self.stretches, key=lambda stretch: stretch.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary, ready for JSON; numbers are rounded to three digits."""
        values = {
            "person": self.number,
            "first": self.first,
            "last": self.last,
            "seconds": self.seconds,
            "shares": self.shares,
            "changes": self.changes,
            "longest": asdict(self.longest),
        }
        return {name: rounded(value, 3) for name, value in values.items()}


class Film:
    """The classified frames of a film; an hour of two faces at five frames a second takes less than 10 MB.

    Attributes:
        classes: names of the K classes, in the order of the probabilities.
        end: end of the film, seconds; None if it is not known.
        lead: second at which players show the first frame: sound may begin before the pictures.
        gaps: where frames of a damaged film are missing, see `emotion.inference.video.Video`.
        portraits: of each person by number, up to `MOST_PORTRAITS` times in seconds with small copies of the face as
            JPEG files, where the frames hold them; none of persons who were seen for less than `BRIEF`.

    Args:
        name: name of the file.
        classes: names of the K classes.
    """

    def __init__(self, name: str, classes: Sequence[str] = CLASSES) -> None:
        self.name, self.classes = name, tuple(classes)
        self.end: float | None = None
        self.lead = 0.0
        self.gaps: Sequence[tuple[float, float]] = ()
        self.portraits: dict[int, list[tuple[float, bytes]]] = {}
        self._seen: dict[int, float] = {}  # seconds for which each person was seen, without the last frame
        self._shown: set[int] = set()  # persons in the last frame
        self._times = array("d")  # number and second of each frame
        self._faces = array("d")  # of each face the `_PLACE` numbers and the probabilities, averaged and raw

    def finish(self, video: Video) -> None:
        """Takes over what is known of a film when its frames were read."""
        self.end, self.lead, self.gaps = video.end, video.lead, video.gaps

    def add(self, frame: FilmFrame) -> None:
        """Adds the next frame."""
        index = len(self)
        self._drop_brief(frame)
        self._times.extend((frame.number, frame.second))
        for face in frame.faces:
            confidence = np.nan if face.confidence is None else face.confidence
            raw = face.raw or face.probabilities
            self._faces.extend((index, face.person or 0, *face.box, confidence, face.tilt))
            self._faces.extend((*face.probabilities.values(), *raw.values()))
        for face, portrait in zip(frame.faces, frame.portraits, strict=False):
            self._keep(face.person or 0, frame.second, portrait)

    def _drop_brief(self, following: FilmFrame) -> None:
        """Drops the portraits of persons whom the next frame shows no more, if they were seen for less than `BRIEF`."""
        shown = {face.person or 0 for face in following.faces}
        for person in self._shown:
            seen = self._seen[person] = self._seen.get(person, 0.0) + following.second - self._times[-1]
            if seen < BRIEF and person not in shown:
                self.portraits.pop(person, None)
        self._shown = shown

    def _keep(self, person: int, second: float, portrait: NDArray[np.uint8]) -> None:
        """Keeps portraits at even distances in time: if there are too many, every other one goes."""
        kept = self.portraits.setdefault(person, [])
        least = min((after - before for (before, _), (after, _) in pairwise(kept)), default=LEAST_APART)
        if not kept or second - kept[-1][0] >= least:
            content = io.BytesIO()
            Image.fromarray(portrait).save(content, "JPEG", quality=PORTRAIT_QUALITY)
            kept.append((second, content.getvalue()))
        if len(kept) > MOST_PORTRAITS:
            del kept[1::2]

    def __len__(self) -> int:
        return len(self._times) // 2

    def __repr__(self) -> str:
        """Names the film, and counts frames and persons."""
        return f"Film({self.name}, {len(self)} frames, {len(self.persons)} persons)"

    def __iter__(self) -> Iterator[FilmFrame]:
        """Yields the frames in order."""
        table, times = self._table(), np.array(self._times).reshape(-1, 2)
        ends = np.searchsorted(table[:, 0], np.arange(len(times) + 1))
        for (number, second), start, end in zip(times, ends[:-1], ends[1:], strict=True):
            yield FilmFrame(int(number), float(second), [self._face(row) for row in table[start:end]])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """When each of the T frames is shown, seconds, float64 [T]."""
        return np.array(self._times).reshape(-1, 2)[:, 1]

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds for which each frame counts, float64 [T]: until the next one, or until frames are missing.

        The last one counts to the end, if that is known, or as long as the one before it.
        """
        seconds = self.seconds
        steps = np.diff(seconds)
        for start, _ in self.gaps:
            shown = np.flatnonzero((seconds[:-1] < start) & (start < seconds[1:]))
            steps[shown] = start - seconds[shown]
        if self.end is not None:
            return np.append(steps, np.maximum(0, self.end - seconds[-1:]))
        return np.append(steps, steps[-1:])[: len(self)] if len(steps) else np.zeros(len(self))

    @property
    def persons(self) -> list[Person]:
        """A summary of each person, in the order of their numbers."""
        seconds, durations = self.seconds, self.durations
        return [
            _summary(number, self.classes, *series, seconds, durations) for number, series in self.all_series().items()
        ]

    def series(self, person: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the indices of the F frames that show a person, int64 [F], and the probabilities, float64 [F, K]."""
        none = np.empty(0, np.int64), np.empty((0, len(self.classes)))
        return self.all_series().get(person, none)

    def all_series(self) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Returns the `series` of each person, by their numbers in order."""
        table = self._table()
        order = table[:, 1].argsort(kind="stable")
        numbers, firsts = np.unique(table[order, 1], return_index=True)
        values = slice(_PLACE, _PLACE + len(self.classes))
        parts = zip(numbers, np.split(order, firsts[1:]), strict=False)  # without persons, one part is empty
        return {int(number): (table[rows, 0].astype(np.int64), table[rows, values]) for number, rows in parts}

    def timeline(self, path: str | Path, video: str | Path | None = None, *, annotated: bool = False) -> None:
        """Writes a timeline of the persons, see `emotion.inference.timeline.write_timeline`.

        Raises:
            UserError: there is no such video, the suffix is wrong, or the file cannot be written.
        """
        from emotion.inference.timeline import write_timeline

        shown = None if video is None else expand(video)
        if shown is not None and not shown.is_file():
            raise UserError(f"{video}: no such file")
        write_timeline(self, expand(path), shown, annotated=annotated)

    def _table(self) -> NDArray[np.float64]:
        return np.array(self._faces).reshape(-1, _PLACE + 2 * len(self.classes))  # [faces, numbers]

    def _face(self, row: NDArray[np.float64]) -> Face:
        _, person, left, top, width, height, confidence, tilt, *values = row.tolist()
        probabilities = dict(zip(self.classes, values[: len(self.classes)], strict=True))
        raw = dict(zip(self.classes, values[len(self.classes) :], strict=True))
        return Face(
            (int(left), int(top), int(width), int(height)),
            most_probable(probabilities),
            probabilities,
            None if np.isnan(confidence) else confidence,
            tilt,
            int(person) or None,
            raw,
        )


def _summary(
    number: int,
    classes: tuple[str, ...],
    frames: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    seconds: NDArray[np.float64],
    durations: NDArray[np.float64],
) -> Person:
    """Summarises a person who is seen in F frames, int64 [F], with probabilities [F, K], of a film of T frames.

    Args:
        number: number of the person.
        classes: names of the K classes.
        frames: indices of the F frames, int64 [F].
        probabilities: float64 [F, K].
        seconds: when each frame of the film is shown, float64 [T].
        durations: see `Film.durations`, float64 [T].
    """
    labels, lengths = probabilities.argmax(axis=1), durations[frames]  # [F], [F]
    totals = np.bincount(labels, lengths, minlength=len(classes))  # [K]
    shares = totals / totals.sum() if totals.any() else np.bincount(labels, minlength=len(classes)) / len(labels)
    # A stretch ends where the label changes, a frame without the person follows, or frames are missing.
    is_gap = (np.diff(frames) != 1) | (np.diff(seconds[frames]) > lengths[:-1] + TICK)
    breaks = np.flatnonzero((np.diff(labels) != 0) | is_gap) + 1
    stretches = [
        Stretch(classes[labels[part[0]]], float(seconds[frames[part[0]]]), float(lengths[part].sum()))
        for part in np.split(np.arange(len(frames)), breaks)
    ]
    return Person(
        number,
        float(seconds[frames[0]]),
        float(seconds[frames[-1]] + lengths[-1]),
        float(lengths.sum()),
        dict(zip(classes, shares.tolist(), strict=True)),
        stretches,
    )


def analyze_video(
    path: str | Path,
    recognizer: Recognizer | None = None,
    *,
    frame_stride: int = FRAME_STRIDE,
    smooth: float = SMOOTH,
    detect: bool = True,
) -> Film:
    """Classifies the faces of a film and follows its persons.

    Args:
        path: the film.
        recognizer: from `emotion.load`; None loads the network that ships with the package.
        frame_stride: every Nth frame is classified.
        smooth: seconds over which the probabilities of a person are averaged; 0 for none.
        detect: False takes the central square of each frame as one face.

    Returns:
        The frames with their faces, and a summary of each person.

    Raises:
        UserError: the film cannot be read, or `path` is no path. A film that is damaged is read as far as possible,
            with a warning.

    Examples:
        >>> import emotion
        >>> film = emotion.analyze_video("interview.mp4")  # doctest: +SKIP
        >>> [(person.number, person.longest.label) for person in film.persons]  # doctest: +SKIP
        [(1, 'happy'), (2, 'neutral')]
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{type(path).__name__}: the path of a film is needed")
    video = Video(expand(path))
    recognizer = recognizer or load()
    watcher = Watcher(recognizer, frame_stride=frame_stride, smooth=smooth, detect=detect, portraits=True)
    film = Film(Path(path).name, recognizer.classes)
    for frame in watcher.watch(video):
        film.add(frame)
    film.finish(video)
    try:
        video.require_whole()
    except BadImageError as error:
        warnings.warn(str(error), stacklevel=2)
    return film
