import numpy as np
import pytest

from emotion.inference.tracks import Tracker


def box(x: float, y: float = 200, side: float = 100) -> tuple[int, int, int, int]:
    return round(x - side / 2), round(y - side / 2), round(side), round(side)


def follow(frames: list[list[tuple[int, int, int, int]]], step: float = 0.2) -> list[list[int]]:
    tracker = Tracker()
    return [tracker.update(step * index, boxes) for index, boxes in enumerate(frames)]


def test_persons_are_numbered_in_the_order_in_which_they_appear() -> None:
    assert follow([[box(100)], [box(105), box(600)], [box(110), box(595), box(900)]]) == [[1], [1, 2], [1, 2, 3]]


def test_numbers_stay_with_the_faces_whatever_their_order() -> None:
    assert follow([[box(100), box(600)], [box(600), box(100)], [box(110)]]) == [[1, 2], [2, 1], [1]]


@pytest.mark.parametrize("hidden", [0, 1, 3, 5])
@pytest.mark.parametrize("step", [0.04, 0.2])
def test_faces_that_cross_keep_their_numbers(hidden: int, step: float) -> None:
    """Two faces walk through each other at one height; near the crossing one of them may be hidden for some frames."""
    speed = 300 * step
    half = round(2.4 / step)
    for seed in range(20):
        jitter = np.random.default_rng(seed).normal(0, 4, (2 * half + 1, 2))
        tracker, first = Tracker(), {}
        for index in range(-half, half + 1):
            left, right = 700 + speed * index, 700 - speed * index
            faces = [("a", box(left + jitter[index + half, 0])), ("b", box(right + jitter[index + half, 1], 205, 104))]
            if abs(index) <= hidden // 2 and hidden:
                faces = faces[:1]
            persons = tracker.update(step * (index + half), [place for _, place in faces])
            if abs(left - right) > 50:  # nearer than half a face they cannot be told apart
                for (name, _), person in zip(faces, persons, strict=True):
                    assert first.setdefault(name, person) == person, (seed, index)


def test_a_face_that_leaves_and_comes_back_within_a_second_keeps_its_number() -> None:
    leaving = [[box(150 - 40 * index)] for index in range(4)]  # walks out of the frame at the left
    assert follow([*leaving, [], [], [], [], [box(40)], [box(90)]]) == [[1]] * 4 + [[]] * 4 + [[1]] * 2


def test_a_face_that_stays_away_is_a_new_person() -> None:
    tracker = Tracker()
    assert tracker.update(0, [box(100)]) == [1]
    assert tracker.update(1.5, [box(100)]) == [1]
    assert tracker.update(1.6, []) == []
    assert tracker.update(3.01, [box(100)]) == [2]


@pytest.mark.parametrize("step", [2.0, 30.0])
def test_frames_far_apart_are_no_gaps(step: float) -> None:
    """As with a large stride, or in a film of few frames a second."""
    assert follow([[box(100), box(500)]] * 4, step) == [[1, 2]] * 4
    assert follow([[box(100)], [], [box(100)]], step) == [[1], [], [2]]


def test_the_longer_out_of_sight_the_farther_a_face_may_be() -> None:
    assert follow([[box(100)], [box(100)], [], [], [], [box(290)]]) == [[1], [1], [], [], [], [1]]
    assert follow([[box(100)], [box(100)], [box(290)]]) == [[1], [1], [2]]


def test_after_a_cut_nobody_is_known() -> None:
    tracker = Tracker()
    tracker.update(0, [box(100), box(500)])
    tracker.forget()
    assert tracker.expected(0.2) == []
    assert tracker.update(0.2, [box(100), box(500)]) == [3, 4]


def test_a_face_elsewhere_or_of_another_size_is_another_person() -> None:
    assert follow([[box(100)], [box(300)]]) == [[1], [2]]
    assert follow([[box(100, side=40)], [box(100, side=160)]]) == [[1], [2]]
    assert follow([[box(100, side=100)], [box(130, side=120)]]) == [[1], [1]]


def test_the_sum_of_all_distances_decides_not_the_nearest_pair() -> None:
    """The nearest pair, 100 and 90, would leave 180 without its person."""
    assert follow([[box(100), box(30)], [box(165), box(90)]]) == [[1, 2], [1, 2]]


def test_boxes_are_expected_where_the_faces_move() -> None:
    tracker = Tracker()
    for index in range(10):
        tracker.update(0.1 * index, [box(100 + 20 * index)])
    ((left, top, width, height),) = tracker.expected(1.0)
    assert (top, width, height) == (150, 100, 100)
    assert left == pytest.approx(100 + 200 - 50, abs=3)


def test_no_faces_at_all() -> None:
    assert follow([[], [], []]) == [[], [], []]
    assert Tracker().expected(1) == []
