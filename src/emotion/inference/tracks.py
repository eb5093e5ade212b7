"""Follows faces through a film by their places, so that each person keeps one number; nobody is identified."""

import math
from collections.abc import Sequence

import numpy as np
from lap import lapjv
from numpy.typing import NDArray

from emotion.inference.crops import Box

LONGEST_GAP = 1.5
"""Seconds for which a face may be out of sight without becoming a new person."""
LARGEST_COST = 1.2
"""Of a match, see `_Track.cost`."""
BACK = 0.5
"""Cost of coming back where a face was seen last, in place of the expected place, in sides of the face."""
MOST_GROWTH = math.log(3)
"""A face that is larger or smaller by more is another one; faces that are half hidden seem smaller."""
JITTER, AGILITY, FASTEST = 0.05, 3.0, 3.0
"""Standard deviations in sides of the face: of detected places, of the change of speed in a second, and of the speed of
a face that appears."""


class _Track:
    """The face of a person, followed by a Kalman filter that expects constant speed.

    Attributes:
        person: number of the person.
        side: height and width of the face, pixels.
        second: when the face was seen last.
    """

    def __init__(self, person: int, place: NDArray[np.float64], side: float, second: float) -> None:
        self.person, self.side, self.second = person, side, second
        self._state = np.stack([place, np.zeros(2)])  # [2, 2]: place and speed, each across and down
        self._covariance = np.diag([JITTER, FASTEST]) ** 2 * side**2  # [2, 2] of place and speed

    def expected(self, second: float) -> NDArray[np.float64]:
        """Returns the place of the centre [2] at a later time."""
        return np.asarray(self._state[0] + (second - self.second) * self._state[1])

    def cost(self, place: NDArray[np.float64], side: float, second: float) -> float:
        """Returns how badly a detected face matches.

        This is its distance from the expected place, in sides (in twice the side after a second out of sight, and so
        on), plus half the logarithm of its growth. A face that was hidden or outside the frame may also come back where
        it was seen last.
        """
        expected, last = math.dist(self.expected(second), place), math.dist(self._state[0], place)
        reach = max(self.side, side) * (1 + second - self.second)  # the longer out of sight, the less certain the place
        distance = min(expected / reach, BACK + last / reach)
        growth = abs(math.log(side / self.side))
        return distance + growth / 2 if growth < MOST_GROWTH else 2 * LARGEST_COST

    def rescale(self, ratio: float) -> None:
        """Follows a change of the size of the frames."""
        self.side *= ratio
        self._state *= ratio
        self._covariance *= ratio**2

    def move(self, place: NDArray[np.float64], side: float, second: float) -> None:
        """Records where the face was detected."""
        passed = second - self.second
        step = np.array([[1, passed], [0, 1]])
        spread = np.array([[passed**3 / 3, passed**2 / 2], [passed**2 / 2, passed]]) * (AGILITY * side) ** 2
        state, covariance = step @ self._state, step @ self._covariance @ step.T + spread
        gain = covariance[:, :1] / (covariance[0, 0] + (JITTER * side) ** 2)  # [2, 1]
        self._state = state + gain * (place - state[0])
        self._covariance = covariance - gain @ covariance[:1]
        self.side, self.second = side, second


class Tracker:
    """Numbers the persons of a film, from 1; called with the faces of one frame after the other.

    A face belongs to the person whose expected place and size it matches best, over all faces of the frame together
    (linear assignment). A person keeps the number while hidden or outside the frame for at most `LONGEST_GAP` seconds.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._persons, self._last = 0, 0.0

    def expected(self, second: float) -> list[Box]:
        """Returns the boxes in which the faces of the last frames are expected at a time, in seconds."""
        return [
            (*(round(value - track.side / 2) for value in track.expected(second)), round(track.side), round(track.side))
            for track in self._tracks
        ]

    def forget(self) -> None:
        """Ends all tracks, as at a cut: nothing tells whether the next faces are those of the same persons."""
        self._tracks = []

    def rescale(self, ratio: float) -> None:
        """Follows a change of the size of the frames: the height of the next ones in heights of those before."""
        for track in self._tracks:
            track.rescale(ratio)

    def update(self, second: float, boxes: Sequence[Box]) -> list[int]:
        """Returns the number of the person of each face, from the squares around the faces of the next frame."""
        # A face of the frame before has no gap, however long ago that frame is.
        oldest = min(second - LONGEST_GAP, self._last)
        self._tracks = [track for track in self._tracks if track.second >= oldest]
        self._last = second
        places = [np.array([left + width / 2, top + height / 2]) for left, top, width, height in boxes]
        sides = [float(box[2]) for box in boxes]
        matched = self._match(second, places, sides)
        for face, (place, side) in enumerate(zip(places, sides, strict=True)):
            if face in matched:
                matched[face].move(place, side, second)
            else:
                self._persons += 1
                matched[face] = _Track(self._persons, place, side, second)
                self._tracks.append(matched[face])
        return [matched[face].person for face in range(len(boxes))]

    def _match(self, second: float, places: Sequence[NDArray[np.float64]], sides: Sequence[float]) -> dict[int, _Track]:
        """Returns the track of each face that has one, so that the sum of the costs is lowest."""
        if not places or not self._tracks:
            return {}
        costs = [[track.cost(*face, second) for track in self._tracks] for face in zip(places, sides, strict=True)]
        _, tracks, _ = lapjv(np.array(costs), extend_cost=True, cost_limit=LARGEST_COST)
        return {face: self._tracks[track] for face, track in enumerate(tracks) if track >= 0}
