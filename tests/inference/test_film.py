import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_films import draw_film
from numpy.typing import NDArray
from PIL import Image

import emotion
from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.inference.faces import DetectionLimits, FaceDetector
from emotion.inference.film import FilmFrame, Follower, Watcher, per_second, with_faces
from emotion.inference.recognizer import Face, Recognizer
from emotion.inference.video import Video


class Still:
    """A frame of a film whose picture is given."""

    def __init__(self, number: int, second: float, pixels: NDArray[np.uint8]) -> None:
        self.number, self.second, self.pixels = number, second, pixels

    def thumbnail(self) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(self.pixels).convert("L").resize((32, 18), Image.Resampling.BOX))


def shrunken(pixels: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((round(height * 512 / 600), height), Image.Resampling.BOX))


def scene(*placed: tuple[NDArray[np.uint8], float, float], tone: int = 110, size=(360, 640)) -> NDArray[np.uint8]:
    """Returns a frame [H, W, 3] with stripes and pictures at places (left, top), the later ones in front."""
    canvas = np.full((*size, 3), tone, np.uint8)
    canvas[:, ::40] = tone - 20
    for picture, left, top in placed:
        height, width = picture.shape[:2]
        x, y = round(left), round(top)
        rows, columns = slice(max(0, y), max(0, y + height)), slice(max(0, x), max(0, x + width))
        shown = canvas[rows, columns]
        shown[:] = picture[rows.start - y :, columns.start - x :][: shown.shape[0], : shown.shape[1]]
    return canvas


def films(pictures: Sequence[NDArray[np.uint8]], rate: float = 25) -> Iterator[Still]:
    return (Still(number, number / rate, picture) for number, picture in enumerate(pictures))


@pytest.fixture(scope="module")
def head(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The face of the photograph, 150 pixels high."""
    return shrunken(pixels, 260)[30:180, 50:180]


@pytest.fixture(scope="module")
def other(head: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same face mirrored and darker."""
    return np.ascontiguousarray(head[:, ::-1] // 2)


def persons(frames: Sequence[FilmFrame]) -> list[list[int | None]]:
    return [[face.person for face in frame.faces] for frame in frames]


def test_two_faces_that_cross_keep_their_numbers(recognizer: Recognizer, head, other) -> None:
    """The dark face passes in front; the numbers must not depend on the order from left to right."""
    pictures = [scene((head, 20 + 6 * n, 100), (other, 490 - 6 * n, 120)) for n in range(80)]
    frames = list(Watcher(recognizer, frame_stride=2).watch(films(pictures)))
    assert [frame.number for frame in frames] == list(range(0, 80, 2))
    assert sum(len(frame.faces) == 2 for frame in frames) > 20
    assert {face.person for frame in frames for face in frame.faces} == {1, 2}
    for frame in frames:
        for face in frame.faces:
            moves_right = abs(face.box[0] + face.box[2] / 2 - 85 - 6 * frame.number)
            moves_left = abs(face.box[0] + face.box[2] / 2 - 555 + 6 * frame.number)
            if min(moves_right, moves_left) < 40 and abs(moves_right - moves_left) > 60:
                assert face.person == (1 if moves_right < moves_left else 2)


def test_a_face_that_leaves_and_comes_back_keeps_its_number(recognizer: Recognizer, head) -> None:
    lefts = [*range(200, -160, -20), *[-200] * 10, *range(-160, 200, 20)]
    frames = list(Watcher(recognizer, frame_stride=1).watch(films([scene((head, left, 100)) for left in lefts])))
    assert {person for row in persons(frames) for person in row} == {1}
    assert persons(frames)[0] == persons(frames)[-1] == [1]
    assert [] in persons(frames)


def test_a_cut_begins_new_persons(recognizer: Recognizer, head, other) -> None:
    """The second face lies where the first one lay."""
    first, second = scene((head, 200, 100)), scene((other, 200, 100), tone=200)
    second = np.ascontiguousarray(second[:, ::-1])
    second[:, :150] = 30
    frames = list(Watcher(recognizer, frame_stride=2).watch(films([first] * 10 + [second] * 10)))
    assert persons(frames) == [[1]] * 5 + [[2]] * 5


def test_the_first_frame_after_a_cut_is_classified(recognizer: Recognizer, head, other) -> None:
    pictures = [scene((head, 200, 100))] * 6 + [scene((other, 300, 150), tone=200)] * 6
    frames = list(Watcher(recognizer, frame_stride=5).watch(films(pictures)))
    assert [frame.number for frame in frames] == [0, 5, 6, 10]
    assert persons(frames) == [[1], [1], [2], [2]]
    shown = [[face.person for face in faces] for _, faces in with_faces(films(pictures), frames)]
    assert shown == [[1]] * 6 + [[2]] * 6


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(lambda first, second: [first * 0] * 5, id="black"),
        pytest.param(lambda first, second: [first * 0 + 255] * 5, id="white"),
        pytest.param(
            lambda first, second: [*(first * (1 - n / 12) for n in range(13)), *(second * (n / 12) for n in range(13))],
            id="fading",
        ),
    ],
)
def test_scenes_with_something_between_them_have_persons_of_their_own(recognizer, head, other, between) -> None:
    first = scene((head, 200, 100)).astype(float)
    second = scene((other, 200, 100), tone=200).astype(float)
    second[:, :150] = 30
    pictures = [picture.astype(np.uint8) for picture in [first] * 8 + between(first, second) + [second] * 8]
    frames = list(Watcher(recognizer, frame_stride=2).watch(films(pictures)))
    assert persons(frames)[0] == [1]
    assert persons(frames)[-1] == [2]


def test_a_flash_is_no_cut(recognizer: Recognizer, head) -> None:
    picture = scene((head, 200, 100))
    pictures = [picture] * 6 + [np.full_like(picture, 255)] * 2 + [picture] * 6
    frames = list(Watcher(recognizer, frame_stride=2).watch(films(pictures)))
    assert {person for row in persons(frames) for person in row} == {1}


def test_after_a_cut_faces_stand_upright_and_small_ones_are_found(recognizer: Recognizer, pixels) -> None:
    lying = scene((np.ascontiguousarray(np.rot90(shrunken(pixels, 300))), 100, 20), size=(720, 1280))
    small = shrunken(pixels, 110)  # faces of some 40 pixels
    places = ((200, 100), (900, 150), (300, 500), (1000, 520))
    second = scene(*((small, *place) for place in places), tone=220, size=(720, 1280))
    frames = list(Watcher(recognizer, frame_stride=5).watch(films([lying] * 15 + [second] * 10)))
    assert [[round(face.tilt / 90) for face in frame.faces] for frame in frames] == [[-1]] * 3 + [[0] * 4] * 2


def test_persons_keep_their_numbers_when_the_size_of_the_frames_changes(recognizer: Recognizer, head) -> None:
    """As in recordings of calls."""
    large = scene((head, 380, 180), (head, 100, 40))
    small = np.asarray(Image.fromarray(large).resize((320, 180), Image.Resampling.BOX))
    frames = list(Watcher(recognizer, frame_stride=2).watch(films([large] * 6 + [small] * 6 + [large] * 6)))
    assert persons(frames) == [[1, 2]] * 9


def test_motion_noise_and_light_are_no_cuts(recognizer: Recognizer, head) -> None:
    rng = np.random.default_rng(0)
    pictures = [scene((head, 100 + 8 * n, 100)) * (0.5 if n > 10 else 0.8) for n in range(20)]
    noisy = [(picture + rng.integers(0, 50, picture.shape)).astype(np.uint8) for picture in pictures]
    frames = list(Watcher(recognizer, frame_stride=2).watch(films(noisy)))
    assert {person for row in persons(frames) for person in row} == {1}


class Sequenced:
    """A fake network: gives the probabilities of the next row at each call."""

    name, side, channels, classes = "sequenced", 48, 1, CLASSES

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = iter(rows)

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([next(self._rows) for _ in faces], np.float32)


def alternating(number: int) -> list[list[float]]:
    """Angry in even frames and sad in odd ones, each with 0.8."""
    return [[0.8, 0, 0, 0, 0, 0.2, 0] if n % 2 == 0 else [0.2, 0, 0, 0, 0, 0.8, 0] for n in range(number)]


def watch(rows, **options) -> list[FilmFrame]:
    stills = films([np.zeros((60, 60, 3), np.uint8)] * len(rows), rate=10)
    return list(Watcher(Recognizer([Sequenced(rows)]), frame_stride=1, detect=False, **options).watch(stills))


def test_probabilities_are_averaged_around_each_frame() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(7), 12)
    frames = watch(rows.tolist(), smooth=0.4)  # two frames before and two after
    for number, frame in enumerate(frames):
        (face,) = frame.faces
        expected = rows[max(0, number - 2) : number + 3].mean(axis=0)
        assert [*face.probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-5)
        assert face.raw is not None
        assert [*face.raw.values()] == pytest.approx(rows[number].tolist(), abs=1e-6)
        assert face.label == CLASSES[expected.argmax()]
        assert face.score == max(face.probabilities.values())


def test_live_frames_are_averaged_with_those_before_them() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(7), 8)
    for number, frame in enumerate(watch(rows.tolist(), smooth=0.3, live=True)):
        expected = rows[max(0, number - 3) : number + 1].mean(axis=0)
        assert [*frame.faces[0].probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-5)


def test_live_frames_come_at_once_and_others_half_the_window_later() -> None:
    for live, behind in ((True, 0), (False, 5)):
        watcher = Watcher(Recognizer([Sequenced(alternating(30))]), frame_stride=1, smooth=1, detect=False, live=live)
        seen = []

        def stills(seen=seen):
            for still in films([np.zeros((60, 60, 3), np.uint8)] * 30, rate=10):
                seen.append(still.number)
                yield still

        first = next(watcher.watch(stills()))
        assert first.number == 0
        assert seen[-1] == behind


@pytest.mark.parametrize("smooth", [-1, 61, float("inf"), float("nan")])
def test_seconds_to_average_over_have_limits(smooth: float) -> None:
    with pytest.raises(UserError, match=r"a number of seconds from 0 to 60.0 is needed$"):
        Watcher(Recognizer([Sequenced(alternating(2))]), smooth=smooth)


def test_times_that_stand_still_wait_for_a_limited_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion.inference.film.MOST_WAITING", 10)
    watcher = Watcher(Recognizer([Sequenced(alternating(30))]), frame_stride=1, smooth=1, detect=False)
    read = []

    def stills():
        for number in range(30):
            read.append(number)
            yield Still(number, 0.0, np.zeros((60, 60, 3), np.uint8))

    for frame in watcher.watch(stills()):
        assert len(read) <= frame.number + 12
    assert frame.number == 29


def test_without_smoothing_the_values_stay() -> None:
    frames = watch(alternating(6), smooth=0)
    assert [frame.faces[0].label for frame in frames] == ["angry", "sad"] * 3
    assert all(frame.faces[0].probabilities == frame.faces[0].raw for frame in frames)


def test_a_single_odd_frame_changes_no_label() -> None:
    rows = [[0.7, 0, 0, 0, 0, 0.3, 0]] * 11
    rows[5] = [0.4, 0, 0, 0, 0, 0.6, 0]
    assert {frame.faces[0].label for frame in watch(rows, smooth=0.5)} == {"angry"}
    assert {frame.faces[0].label for frame in watch(rows, smooth=0)} == {"angry", "sad"}


@pytest.mark.parametrize("options", [{"frame_stride": 0}, {"smooth": -1}, {"smooth": float("nan")}])
def test_options_out_of_range_are_refused(recognizer: Recognizer, options) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Watcher(recognizer, **options)


def test_a_film_on_its_side_is_turned_once(pixels: NDArray[np.uint8]) -> None:
    detector, turns = FaceDetector(), []
    look = detector.look

    def record(picture, side, confidence, turn):
        turns.append(turn)
        return look(picture, side, confidence, turn)

    detector.look = record
    follower = Follower(detector)
    lying = np.ascontiguousarray(np.rot90(shrunken(pixels, 300), -1))
    expected: list = []
    for number in range(6):
        (face,) = follower(lying, number / 5, expected)
        expected = [face.box]
        assert abs(face.tilt - 90) < 8
        if number == 0:
            assert set(turns) == {0, 1, 2, 3}
            turns.clear()
    assert set(turns) == {1}


def test_followed_faces_are_searched_for_around_their_places(pixels: NDArray[np.uint8]) -> None:
    """A small face far from others is found in a small region, in pixels of the whole frame."""
    detector, shapes = FaceDetector(), []
    look = detector.look

    def record(picture, side, confidence, turn=0):
        shapes.append(picture.shape[:2])
        return look(picture, side, confidence, turn)

    detector.look = record
    small = shrunken(pixels, 120)
    frame = scene((small, 1000, 500), size=(720, 1280))
    follower = Follower(detector)
    (found,) = follower(frame, 0.0, [])
    shapes.clear()
    (again,) = follower(scene((small, 1006, 500), size=(720, 1280)), 0.2, [found.box])
    (shape,) = shapes
    assert max(shape) < 130
    assert np.abs(np.subtract(again.box, found.box) - (6, 0, 0, 0)).max() <= 3


def test_new_faces_are_found_within_half_a_second(head, other) -> None:
    follower = Follower(FaceDetector())
    expected = [face.box for face in follower(scene((head, 20, 100)), 0.0, [])]
    both = scene((head, 20, 100), (other, 400, 100))
    counts = []
    for number in range(1, 7):
        expected = [face.box for face in follower(both, number / 10, expected)]
        counts.append(len(expected))
    assert counts == [1, 1, 1, 1, 2, 2]


def test_a_lost_face_is_searched_for_in_the_whole_frame_at_once(head) -> None:
    follower = Follower(FaceDetector())
    (face,) = follower(scene((head, 20, 100)), 0.0, [])
    (moved,) = follower(scene((head, 450, 100)), 0.04, [face.box])
    assert moved.box[0] - face.box[0] == pytest.approx(430, abs=8)


def test_small_faces_do_not_flicker(pixels: NDArray[np.uint8]) -> None:
    """A search of the whole frame at 640 pixels does not see them; around their places they are found."""
    small = shrunken(pixels, 110)  # faces of some 40 pixels
    frame = scene((small, 300, 200), (small, 1500, 700), size=(1080, 1920))
    follower, expected, counts = Follower(FaceDetector()), [], []
    for number in range(20):
        expected = [face.box for face in follower(frame, 0.2 * number, expected)]
        counts.append(len(expected))
    assert counts == [2] * 20


@pytest.mark.parametrize("lean", [20, -20, 30])
def test_the_lean_of_a_followed_head_is_seen_and_does_not_flicker(pixels: NDArray[np.uint8], lean: int) -> None:
    head = Image.fromarray(shrunken(pixels, 520)).rotate(-lean, Image.Resampling.BICUBIC, fillcolor=(90, 110, 120))
    frame = scene((np.asarray(head), 700, 300), size=(1080, 1920))
    follower, expected, tilts = Follower(FaceDetector()), [], []
    for number in range(12):
        (face,) = follower(frame, 0.2 * number, expected)
        expected = [face.box]
        tilts.append(face.tilt)
    followed = np.array(tilts[1:])
    assert (followed / lean).min() > 0.4  # 0.2 at most where 192 pixels of 2.5 sides are searched
    assert np.ptp(followed) < 10


def test_small_faces_can_be_left_out_of_films(head) -> None:
    follower = Follower(FaceDetector(), DetectionLimits(min_face=0.4))
    frame = scene((head, 20, 100))
    for second in (0.0, 0.1):
        assert follower(frame, second, [(20, 100, 120, 120)]) == []


def test_boxes_move_evenly_between_classified_frames() -> None:
    def face(left: int, person: int) -> Face:
        return Face((left, 0, 10, 10), "happy", dict.fromkeys(CLASSES, 1 / 7), person=person)

    classified = [FilmFrame(0, 0.0, [face(0, 1), face(500, 2)]), FilmFrame(4, 0.4, [face(40, 1), face(900, 3)])]
    frames = list(films([np.zeros((2, 2, 3), np.uint8)] * 6, rate=10))
    shown = [[(f.person, f.box[0]) for f in faces] for _, faces in with_faces(frames, classified)]
    assert shown[:4] == [[(1, 10 * n), (2, 500)] for n in range(4)]
    assert shown[4:] == [[(1, 40), (3, 900)]] * 2


def test_seconds_hold_means() -> None:
    def frame(number: int, second: float, angry: float, person: int = 1) -> FilmFrame:
        probabilities = dict.fromkeys(CLASSES, 0.0) | {"angry": angry, "sad": 1 - angry}
        raw = probabilities | {"angry": angry / 2, "happy": angry / 2}
        return FilmFrame(number, second, [Face((number, 0, 9, 9), "angry", probabilities, 0.9, 0.0, person, raw)])

    rows = list(per_second([frame(0, 0.0, 1.0), frame(5, 0.5, 0.2), frame(9, 0.9, 0.0, 2), frame(20, 2.0, 0.4)]))
    assert [(row.number, row.second) for row in rows] == [(0, 0.0), (20, 2.0)]
    first, second = rows[0].faces
    assert (first.person, second.person) == (1, 2)
    assert first.probabilities["angry"] == pytest.approx(0.6)
    assert first.raw is not None
    assert first.raw["happy"] == pytest.approx(0.3)
    assert (first.label, second.label) == ("angry", "sad")
    assert first.box == (0, 0, 9, 9)


def test_an_interruption_loses_no_second() -> None:
    def frames():
        for number in range(14):
            yield FilmFrame(number, number / 5, [Face((0, 0, 9, 9), "happy", dict.fromkeys(CLASSES, 1 / 7), person=1)])
        raise KeyboardInterrupt

    seen: list[FilmFrame] = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(per_second(frames()))
    assert [(row.second, len(row.faces)) for row in seen] == [(0, 1), (1, 1), (2, 1)]


def test_a_damaged_film_is_analysed_as_far_as_it_can_be_read(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = draw_film(tmp_path / "film.avi", [pixels[:480, :480]] * 20, rate=10, codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"film\.avi: damaged, \d+ of 20 frames"):
        film = emotion.analyze_video(path, frame_stride=2)
    assert [person.number for person in film.persons] == [1]


def test_analyze_video(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = draw_film(tmp_path / "film.mp4", [pixels[:480, :480]] * 20, rate=10, sound=True)
    film = emotion.analyze_video(path, frame_stride=2)
    assert (film.name, len(film)) == ("film.mp4", 10)
    assert [frame.second for frame in film] == pytest.approx([0.2 * n for n in range(10)])
    (person,) = film.persons
    assert (person.number, person.first) == (1, 0)
    assert person.seconds == pytest.approx(2)
    assert person.shares["neutral"] == 1
    assert len(film.portraits[1]) == 2
    assert Image.open(io.BytesIO(film.portraits[1][0][1])).size == (72, 72)
    video = Video(path)
    assert video.frames == 20
    list(video)
    assert (film.end, film.lead) == (video.end, video.lead)
    assert film.end == pytest.approx(2, abs=0.1)
    with pytest.raises(UserError, match=r"nothing\.mp4: no such file"):
        emotion.analyze_video(tmp_path / "nothing.mp4")
