import io

import numpy as np
import pytest
from other_classes import THREE
from PIL import Image

import emotion
from emotion.data.classes import CLASSES
from emotion.inference.film import FilmFrame
from emotion.inference.persons import MOST_PORTRAITS, Film, Stretch
from emotion.inference.recognizer import Face


def face(label: str, person: int = 1, confidence: float | None = 0.9) -> Face:
    probabilities = dict.fromkeys(CLASSES, 0.05) | {label: 0.7}
    raw = dict.fromkeys(CLASSES, 0.1) | {label: 0.4}
    return Face((person, -2, 30, 30), label, probabilities, confidence, -12.5, person, raw)


def film(*frames: tuple[float, list[Face]]) -> Film:
    made = Film("film.mp4")
    for number, (second, faces) in enumerate(frames):
        made.add(FilmFrame(5 * number, second, faces))
    return made


def test_frames_come_back_as_they_were_added() -> None:
    frames = [(0.0, [face("happy"), face("sad", 2)]), (0.2, []), (0.4, [face("fear", 2, None)])]
    made = film(*frames)
    assert len(made) == 3
    assert [(frame.number, frame.second, list(frame.faces)) for frame in made] == [
        (5 * number, second, faces) for number, (second, faces) in enumerate(frames)
    ]
    assert repr(made) == "Film(film.mp4, 3 frames, 2 persons)"


def test_a_person_is_summarised_by_true_times() -> None:
    """The rate varies: a frame counts for as long as it is shown."""
    happy, sad = [face("happy")], [face("sad")]
    made = film((0.0, happy), (0.5, happy), (1.0, sad), (4.0, []), (4.5, sad), (5.0, happy), (5.5, []))
    (person,) = made.persons
    assert (person.number, person.first, person.last) == (1, 0.0, 5.5)
    assert person.seconds == pytest.approx(5.0)
    assert person.shares["happy"] == pytest.approx(1.5 / 5)
    assert person.shares["sad"] == pytest.approx(3.5 / 5)
    assert sum(person.shares.values()) == pytest.approx(1)
    assert person.stretches == [
        Stretch("happy", 0.0, 1.0),
        Stretch("sad", 1.0, 3.0),
        Stretch("sad", 4.5, 0.5),
        Stretch("happy", 5.0, 0.5),
    ]
    assert person.longest == Stretch("sad", 1.0, 3.0)
    assert person.changes == 2
    assert person.as_dict() == {
        "person": 1,
        "first": 0.0,
        "last": 5.5,
        "seconds": 5.0,
        "shares": dict.fromkeys(CLASSES, 0.0) | {"happy": 0.3, "sad": 0.7},
        "changes": 2,
        "longest": {"label": "sad", "start": 1.0, "seconds": 3.0},
    }


def test_time_without_readable_frames_is_not_seen() -> None:
    happy = [face("happy")]
    made = film((0.0, happy), (0.5, happy), (4.0, happy), (4.5, happy))
    made.gaps = [(0.75, 4.0)]
    (person,) = made.persons
    assert (person.first, person.last, person.seconds) == (0.0, 5.0, 1.75)
    assert person.stretches == [Stretch("happy", 0.0, 0.75), Stretch("happy", 4.0, 1.0)]


def test_a_film_is_given_as_a_path() -> None:
    with pytest.raises(emotion.UserError, match=r"^bytes: the path of a film is needed$"):
        emotion.analyze_video(b"abc")  # type: ignore[arg-type]
    with pytest.raises(emotion.UserError, match=r"^gone\.mp4: no such file$"):
        emotion.analyze_video("gone.mp4")


def test_persons_are_summarised_apart() -> None:
    made = film((0.0, [face("happy"), face("sad", 2)]), (1.0, [face("fear", 2)]), (2.0, [face("happy", 3)]))
    assert [person.number for person in made.persons] == [1, 2, 3]
    assert [person.seconds for person in made.persons] == pytest.approx([1, 2, 1])
    indices, probabilities = made.series(2)
    assert indices.tolist() == [0, 1]
    assert probabilities.argmax(axis=1).tolist() == [CLASSES.index("sad"), CLASSES.index("fear")]


@pytest.mark.parametrize(("end", "last"), [(None, 15.0), (12.0, 12.0), (9.0, 10.0)])
def test_the_last_frame_lasts_to_the_end(end: float | None, last: float) -> None:
    made = film((0.0, [face("happy")]), (5.0, [face("happy")]), (10.0, [face("happy")]))
    made.end = end
    (person,) = made.persons
    assert (person.last, person.seconds) == (last, last)
    one = film((0.0, [face("sad")]))
    one.end = end
    assert one.persons[0].seconds == (end or 0)


def test_films_of_no_frame_and_of_one() -> None:
    assert (film().persons, list(film()), len(film())) == ([], [], 0)
    (person,) = film((0.0, [face("happy")])).persons
    assert (person.seconds, person.shares["happy"]) == (0, 1)


def test_portraits_are_spread_over_the_film() -> None:
    made = Film("long.mp4")
    for index in range(5000):
        portrait = np.full((8, 8, 3), index % 256, np.uint8)
        made.add(FilmFrame(index, 0.2 * index, [face("happy")], [portrait]))
    kept = made.portraits[1]
    assert MOST_PORTRAITS / 2 <= len(kept) <= MOST_PORTRAITS
    seconds = [second for second, _ in kept]
    assert seconds[0] == 0
    assert seconds[-1] > 700
    assert max(np.diff(seconds)) < 3 * min(np.diff(seconds))
    for second, portrait in kept:
        grey = Image.open(io.BytesIO(portrait)).getpixel((0, 0))
        assert grey == pytest.approx([round(second / 0.2) % 256] * 3, abs=2)


def test_persons_who_are_seen_briefly_leave_no_portraits() -> None:
    """A film of many cuts would fill the memory with them."""
    made, portrait = Film("cuts.mp4"), np.zeros((8, 8, 3), np.uint8)
    for index in range(200):  # 20 s, in which person 500 comes and goes
        faces = [face("happy", 1 + index), *([face("sad", 500)] if index % 8 < 6 else [])]
        made.add(FilmFrame(index, 0.1 * index, faces, [portrait] * len(faces)))
    assert {*made.portraits} == {200, 500}
    made.add(FilmFrame(200, 25.0, []))  # the last one was seen for 5.1 s
    assert {*made.portraits} == {200, 500}


def test_an_hour_of_two_faces_is_small() -> None:
    made = Film("hour.mp4")
    faces = [face("happy"), face("sad", 2)]
    for index in range(18_000):
        made.add(FilmFrame(5 * index, 0.2 * index, faces))
    assert made._faces.buffer_info()[1] * 8 < 10_000_000
    assert [round(person.seconds) for person in made.persons] == [3600, 3600]


def test_films_of_other_classes() -> None:
    def shown(label: str, raw: str) -> Face:
        shares = [{name: 0.8 if name == own else 0.1 for name in THREE} for own in (label, raw)]
        return Face((0, 0, 9, 9), label, shares[0], None, 0.0, 1, shares[1])

    faces = [shown("confused", "engaged"), shown("engaged", "bored"), shown("engaged", "engaged")]
    made = Film("three.mp4", THREE)
    for second, own in enumerate(faces):
        made.add(FilmFrame(second, float(second), [own]))
    assert made.classes == THREE
    assert [frame.faces for frame in made] == [[own] for own in faces]
    (person,) = made.persons
    assert [*person.shares.items()] == [("engaged", 2 / 3), ("bored", 0.0), ("confused", 1 / 3)]
    assert [(part.label, part.seconds) for part in person.stretches] == [("confused", 1.0), ("engaged", 2.0)]
    assert made.series(1)[1].tolist() == [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]
