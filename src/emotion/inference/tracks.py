"""Follows faces through a film by their places, so that each person keeps one number; nobody is identified."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lap import lapjv
from numpy.typing import NDArray

from emotion.inference.crops import Box

LONGEST_GAP = 1.5
"""Seconds for which a face may be out of sight without becoming a new person."""
LARGEST_COST = 1.2
"""Of a match, see `_Track.cost`."""
AGILITY = 0.5
"""Share of a deviation from the expected place that corrects the estimated speed."""


@dataclass
class _Track:
    """The face of a person: place and side in pixels, speed in pixels a second, and when it was seen last."""

    person: int
    place: NDArray[np.float64]  # [2], the centre
    side: float
    second: float
    speed: NDArray[np.float64]  # [2]

    def expected(self, second: float) -> NDArray[np.float64]:
        """Returns the place [2] that the face has at a later time if it keeps its speed."""
        return self.place + self.speed * (second - self.second)

    def cost(self, place: NDArray[np.float64], side: float, second: float) -> float:
        """Returns the distance of a detected face from the expected place, in sides, plus the change of size.

        A face that was hidden or outside the frame may also come back where it was seen last.
        """
        distance = min(math.dist(self.expected(second), place), math.dist(self.place, place))
        return distance / max(self.side, side) + abs(math.log(side / self.side))

    def move(self, place: NDArray[np.float64], side: float, second: float) -> None:
        """Records where the face was detected."""
        if second > self.second:
            deviation = (place - self.expected(second)) / (second - self.second)  # [2]
            self.speed = self.speed + AGILITY * deviation
        self.place, self.side, self.second = place, side, second


class Tracker:
    """Numbers the persons of a film, from 1; called with the faces of one frame after the other.

    A face belongs to the person whose expected place and size it matches best, over all faces of the frame together
    (linear assignment). A person keeps the number while hidden or outside the frame for at most `LONGEST_GAP` seconds.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._persons = 0

    def expected(self, second: float) -> list[Box]:
        """Returns the boxes in which the faces of the last frames are expected at a time, in seconds."""
        return [
            (*(round(value - track.side / 2) for value in track.expected(second)), round(track.side), round(track.side))
            for track in self._tracks
        ]

    def forget(self) -> None:
        """Ends all tracks, as at a cut: nothing tells whether the next faces are those of the same persons."""
        self._tracks = []

    def update(self, second: float, boxes: Sequence[Box]) -> list[int]:
        """Returns the number of the person of each face, from the squares around the faces of the next frame."""
        self._tracks = [track for track in self._tracks if second - track.second <= LONGEST_GAP]
        places = [np.array([left + width / 2, top + height / 2]) for left, top, width, height in boxes]
        sides = [float(box[2]) for box in boxes]
        matched = self._match(second, places, sides)
        for face, (place, side) in enumerate(zip(places, sides, strict=True)):
            if face in matched:
                matched[face].move(place, side, second)
            else:
                self._persons += 1
                matched[face] = _Track(self._persons, place, side, second, np.zeros(2))
                self._tracks.append(matched[face])
        return [matched[face].person for face in range(len(boxes))]

    def _match(self, second: float, places: Sequence[NDArray[np.float64]], sides: Sequence[float]) -> dict[int, _Track]:
        """Returns the track of each face that has one, so that the sum of the costs is lowest."""
        if not places or not self._tracks:
            return {}
        costs = [[track.cost(*face, second) for track in self._tracks] for face in zip(places, sides, strict=True)]
        _, tracks, _ = lapjv(np.array(costs), extend_cost=True, cost_limit=LARGEST_COST)
        return {face: self._tracks[track] for face, track in enumerate(tracks) if track >= 0}
