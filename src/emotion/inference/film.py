"""Detects, follows and classifies the faces of a film, frame by frame."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emotion.errors import UserError
from emotion.inference.crops import Box, center_square, crop_square
from emotion.inference.faces import ANY_FACE, PASSES, Detection, DetectionLimits, FaceDetector, without_repetitions
from emotion.inference.recognizer import Face, Recognizer, most_probable
from emotion.inference.tracks import Tracker
from emotion.inference.video import Frame

FRAME_STRIDE, SMOOTH = 5, 1.0
"""Defaults: every Nth frame is classified, and the seconds over which the probabilities of a person are averaged."""
MOST_SMOOTH, MOST_WAITING = 60.0, 5_000
"""Largest number of seconds to average over, and of frames that wait for later ones."""
TICK = 1e-4
"""Seconds by which times that should be equal may differ."""
SEARCH_EVERY, THOROUGH_EVERY = 0.5, 2.0
"""Seconds after which a frame is searched for new faces, and after which small and turned ones are searched for."""
AROUND, AROUND_SIDE = 2.0, 288
"""Side of the square that is searched around a followed face, in sides of the face and in pixels. The detector sees
how far a face leans if it has some 130 pixels; of faces of 80 pixels it sees a fifth."""
PORTRAIT_SIDE = 72
"""Height and width of small copies of faces, pixels."""
CUT_DIFFERENCE, CUT_CORRELATION = 20, 0.6
"""At a cut, the grey values of two frames differ by more than this on average, of 255, and correlate less."""
FLAT = 2
"""Standard deviation of the grey values of a frame of one colour, as between two scenes, is less than this."""


@dataclass(frozen=True)
class FilmFrame:
    """The classified faces of a frame of a film.

    Attributes:
        number: number of the frame, from 0.
        second: when the frame is shown, seconds after the first frame.
        faces: the N faces, from left to right, with the numbers of their persons.
        portraits: small copies of the N faces, RGB uint8 [`PORTRAIT_SIDE`, `PORTRAIT_SIDE`, 3], if asked for.
    """

    number: int
    second: float
    faces: list[Face]
    portraits: Sequence[NDArray[np.uint8]] = ()


class Watcher:
    """Classifies the faces of frames that come one after the other.

    Args:
        recognizer: detects and classifies the faces.
        frame_stride: every Nth frame is classified, and the first after each cut.
        smooth: seconds over which the probabilities of a person are averaged: half of them before a frame and half
            after it; 0 averages nothing.
        live: True averages over the seconds before a frame only, so that each frame is returned at once.
        detect: False takes the central square of each frame as one face.
        portraits: whether frames hold small copies of the faces.
        limits: which faces count as detected; None takes those of the recogniser.

    Raises:
        UserError: `frame_stride` is less than 1, or `smooth` is negative or more than `MOST_SMOOTH`.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        frame_stride: int = FRAME_STRIDE,
        smooth: float = SMOOTH,
        live: bool = False,
        detect: bool = True,
        portraits: bool = False,
        limits: DetectionLimits | None = None,
    ) -> None:
        if frame_stride < 1:
            raise UserError(f"frame_stride={frame_stride}: a whole number from 1 is needed")
        if not 0 <= smooth <= MOST_SMOOTH:
            raise UserError(f"smooth={smooth}: a number of seconds from 0 to {MOST_SMOOTH} is needed")
        self._recognizer, self._stride, self._portraits = recognizer, frame_stride, portraits
        self._follower = Follower(recognizer.detector, limits or recognizer.limits) if detect else None
        self._tracker, self._smoother = Tracker(), _Smoother(smooth, live)
        self._pattern: NDArray[np.float32] | None = None  # grey values of the last frame that is not flat
        self._is_after_flat, self._height = False, 0

    def watch(self, frames: Iterable[Frame]) -> Iterator[FilmFrame]:
        """Yields every Nth frame and the first after each cut with their faces, in order.

        A frame comes some frames later if probabilities are averaged.
        """
        for frame in frames:
            is_cut = self._is_cut(frame.thumbnail())
            if is_cut:
                self._tracker.forget()
                if self._follower is not None:
                    self._follower.forget()
            if is_cut or frame.number % self._stride == 0:
                yield from self._smoother.push(self._classify(frame))
        yield from self.rest()

    def rest(self) -> Iterator[FilmFrame]:
        """Yields the frames that still wait for later ones; needed only if `watch` was interrupted."""
        return self._smoother.rest()

    def _classify(self, frame: Frame) -> FilmFrame:
        pixels = frame.pixels
        self._tracker.rescale(len(pixels) / (self._height or len(pixels)))  # as of a call whose connection gets worse
        self._height = len(pixels)
        if self._follower is None:
            detections = [Detection(center_square(pixels), None)]
        else:
            detections = self._follower(pixels, frame.second, self._tracker.expected(frame.second))
        persons = self._tracker.update(frame.second, [detection.box for detection in detections])
        (faces,) = self._recognizer.classify([self._recognizer.crop(pixels, detections)])
        numbered = [replace(face, person=person) for face, person in zip(faces, persons, strict=True)]
        shown = numbered if self._portraits else []
        portraits = [crop_square(pixels, face.box, PORTRAIT_SIDE, face.tilt) for face in shown]
        return FilmFrame(frame.number, frame.second, numbered, portraits)

    def _is_cut(self, thumbnail: NDArray[np.uint8]) -> bool:
        """Compares a frame with the last one that is not of one colour by small grey copies, uint8 [H, W].

        Scenes may be separated by black frames or by fading, with which no frame differs much from the one before.
        """
        new = thumbnail.astype(np.float32)
        if new.std() < FLAT:
            self._is_after_flat = True
            return False
        old, self._pattern = self._pattern, new
        is_after_flat, self._is_after_flat = self._is_after_flat, False
        if old is None or (np.abs(old - new).mean() < CUT_DIFFERENCE and not is_after_flat):
            return False
        return bool(np.corrcoef(old.ravel(), new.ravel())[0, 1] < CUT_CORRELATION)


class Follower:
    """Detects faces in frames: around the faces that are followed, and at times in the whole frame.

    A film that lies on its side is turned once: the turn in which the surest face stood upright is kept until a cut.
    """

    def __init__(self, detector: FaceDetector, limits: DetectionLimits = ANY_FACE) -> None:
        self._detector, self._limits = detector, limits
        self.forget()

    def forget(self) -> None:
        """Begins anew, as at a cut: the next frame is upright, for all that is known, and is searched thoroughly."""
        self._turn = 0
        self._searched = self._searched_thoroughly = -np.inf

    def __call__(self, picture: NDArray[np.uint8], second: float, expected: Sequence[Box]) -> list[Detection]:
        """Returns the faces of a frame, RGB uint8 [H, W, 3], from left to right; `expected` are the followed ones."""
        faces: list[Detection] = []
        if expected:
            faces = self._around(picture, expected)  # also finds faces that are too small for a search of the frame
        if len(faces) < max(1, len(expected)) or second - self._searched >= SEARCH_EVERY:
            # A search sees faces smaller, and their lean less well, so that its boxes and tilts would flicker.
            faces = without_repetitions(self._search(picture, second), faces)
        return sorted(faces, key=lambda face: face.box)

    def _search(self, picture: NDArray[np.uint8], second: float) -> list[Detection]:
        self._searched = second
        if second - self._searched_thoroughly < THOROUGH_EVERY:
            return self._detector.search(picture, self._limits, self._turn, PASSES[:2])
        self._searched_thoroughly = second
        faces = self._detector(picture, self._limits, self._turn)
        if faces:
            surest = max(faces, key=lambda face: face.confidence or 0)
            self._turn = round(surest.tilt / 90) % 4
        return faces

    def _around(self, picture: NDArray[np.uint8], expected: Sequence[Box]) -> list[Detection]:
        found: list[Detection] = []
        for left, top, side, _ in expected:
            margin = round((AROUND - 1) / 2 * side)
            x, y = max(0, left - margin), max(0, top - margin)
            region = picture[y : max(0, top + side + margin), x : max(0, left + side + margin)]
            if region.size:
                faces = self._detector.look(region, AROUND_SIDE, self._limits.confidence, self._turn)
                found += [replace(face, box=(face.box[0] + x, face.box[1] + y, *face.box[2:])) for face in faces]
        smallest = self._limits.min_face * max(picture.shape[:2])
        return without_repetitions([face for face in found if face.box[2] >= smallest])


class _Smoother:
    """Averages the probabilities of each person over time."""

    def __init__(self, seconds: float, live: bool) -> None:
        self._before, self._after = (seconds, 0.0) if live else (seconds / 2, seconds / 2)
        self._frames: deque[FilmFrame] = deque()  # those within the window of the next frame to return, and later ones
        self._next = 0  # index of that frame

    def push(self, frame: FilmFrame) -> Iterator[FilmFrame]:
        """Adds a frame, and yields those whose window has passed."""
        self._frames.append(frame)
        while self._next < len(self._frames) and (
            self._frames[self._next].second <= frame.second - self._after + TICK or len(self._frames) > MOST_WAITING
        ):
            yield self._pop()

    def rest(self) -> Iterator[FilmFrame]:
        """Yields the frames whose window has not passed."""
        while self._next < len(self._frames):
            yield self._pop()

    def _pop(self) -> FilmFrame:
        frame = self._frames[self._next]
        start, end = frame.second - self._before - TICK, frame.second + self._after + TICK
        while self._frames[0].second < start or (self._next and len(self._frames) > MOST_WAITING):
            self._frames.popleft()
            self._next -= 1
        self._next += 1
        window = [face for other in self._frames if other.second <= end for face in other.faces]
        return replace(frame, faces=[_averaged(face, window) for face in frame.faces])


def _averaged(face: Face, window: Sequence[Face]) -> Face:
    """Returns a face with the mean of its person's probabilities in a window of time."""
    mean = _mean([other.probabilities for other in window if other.person == face.person])
    return replace(face, label=most_probable(mean), probabilities=mean, raw=face.probabilities)


def _mean(probabilities: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the mean probability of each class."""
    rows = [[*face.values()] for face in probabilities]  # [N, K]
    return dict(zip(probabilities[0], np.mean(rows, axis=0).tolist(), strict=True))


def with_faces(frames: Iterable[Frame], classified: Iterable[FilmFrame]) -> Iterator[tuple[Frame, list[Face]]]:
    """Yields all frames of a film with the faces of the classified frames; boxes move evenly between these."""
    following = iter(classified)
    before, after = FilmFrame(-1, 0.0, []), next(following, None)
    for frame in frames:
        while after is not None and after.number <= frame.number:
            before, after = after, next(following, None)
        yield frame, [_moved(face, before, after, frame.second) for face in before.faces]


def _moved(face: Face, before: FilmFrame, after: FilmFrame | None, second: float) -> Face:
    """Returns a face of a frame with the box of its person between this and the next classified frame."""
    same = [] if after is None else [other for other in after.faces if other.person == face.person]
    if after is None or not same or after.second <= before.second:
        return face
    share = (second - before.second) / (after.second - before.second)
    left, top, width, height = (round(a + share * (b - a)) for a, b in zip(face.box, same[0].box, strict=True))
    return replace(face, box=(left, top, width, height))


def per_second(frames: Iterable[FilmFrame]) -> Iterator[FilmFrame]:
    """Yields a frame for each second of a film: the first one, with the mean of each person's probabilities.

    Box, tilt and confidence are those of the person's first face in that second. An exception is raised after the
    second in which it happens.
    """
    members: list[FilmFrame] = []
    try:
        for frame in frames:
            if members and int(frame.second) != int(members[0].second):
                yield _second(members)
                members = []
            members.append(frame)
    except (Exception, KeyboardInterrupt):
        if members:
            yield _second(members)
        raise
    if members:
        yield _second(members)


def _second(frames: Sequence[FilmFrame]) -> FilmFrame:
    """Returns the mean of the frames of a second."""
    persons: dict[int | None, list[Face]] = {}
    for face in (face for frame in frames for face in frame.faces):
        persons.setdefault(face.person, []).append(face)
    means = sorted(map(_mean_face, persons.values()), key=lambda face: face.box)
    return FilmFrame(frames[0].number, float(int(frames[0].second)), means)


def _mean_face(faces: Sequence[Face]) -> Face:
    """Returns the first of a person's faces with the mean of their probabilities."""
    mean, raw = _mean([face.probabilities for face in faces]), _mean([face.raw or face.probabilities for face in faces])
    return replace(faces[0], label=most_probable(mean), probabilities=mean, raw=raw)
