"""Timelines of films made by hand: their data, the page in a real browser, and the picture."""

from __future__ import annotations

import base64
import errno
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import EXECUTABLE, chromium, new_page, watch
from drawn_films import draw_film
from numpy.typing import NDArray
from other_classes import FERPLUS, STRANGE, THREE
from PIL import Image, ImageColor
from playwright.sync_api import Browser, Locator, Page, expect

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.inference.film import FilmFrame
from emotion.inference.persons import Film
from emotion.inference.recognizer import Face
from emotion.inference.timeline import MOST_POINTS, timeline_data, write_timeline
from emotion.inference.timeline_picture import CHART_HEIGHT, CHART_LEFT, CHART_WIDTH, MOST_PERSONS, WIDTH
from emotion.palette import BAND, EXPRESSIONS, INK, class_colours

HOSTILE = "</script><img src=x onerror=alert(1)> \"quoted\" 'film' & ü 映画.mp4"
RATE = 4
"""Classified frames a second."""
MANY = tuple(f"class {number}" for number in range(30))
HEAD = 250
"""Title and legend of a picture end above this row."""


def face(person: int, **probabilities: float) -> Face:
    all_of_them = dict.fromkeys(CLASSES, 0.0) | probabilities
    label = max(probabilities, key=lambda name: probabilities[name])
    return Face((0, 0, 10, 10), label, all_of_them, 0.9, 0.0, person)


def small_film(name: str = "film.mp4") -> Film:
    """Ten seconds: person 1 is happy for 5 s, then sad; 2 is seen from 2 s to 4 s and from 6 s to 9 s; 3 for 0.5 s."""
    film = Film(name)
    for index in range(10 * RATE):
        second = index / RATE
        faces = [face(1, happy=1.0) if second < 5 else face(1, sad=0.75, angry=0.25)]
        if 2 <= second < 4 or 6 <= second < 9:
            faces.append(face(2, surprise=0.6, neutral=0.4))
        if second < 0.5:
            faces.append(face(3, fear=1.0))
        portraits = [np.full((72, 72, 3), (200, 20 * number, 0), np.uint8) for number in range(len(faces))]
        film.add(FilmFrame(5 * index, second, faces, portraits))
    return film


def test_areas_end_where_frames_are_missing() -> None:
    film = Film("film.mp4")
    for number, second in enumerate((0.0, 0.5, 4.0, 4.5)):
        film.add(FilmFrame(number, second, [face(1, happy=1.0)]))
    film.gaps = [(0.75, 4.0)]
    data = timeline_data(film)
    assert data["seconds"] == [0.0, 0.5, 0.75, 4.0, 4.5]
    assert data["persons"][0]["frames"] == [0, 1, 3, 4]


def test_areas_of_a_long_film_end_where_frames_are_missing() -> None:
    film = Film("film.mp4")
    for number in range(2 * MOST_POINTS):
        film.add(FilmFrame(number, number / 4 + 60 * (number >= 400), [face(1, happy=1.0)]))
    film.gaps = [(99.875, 160.0)]
    data = timeline_data(film)
    frames, seconds = data["persons"][0]["frames"], np.array(data["seconds"])
    (place,) = np.flatnonzero(np.diff(frames) != 1)
    assert seconds[frames[place] + 1] == 99.875
    assert seconds[frames[place + 1]] == 160
    assert data["persons"][0]["seconds"] == pytest.approx(2 * MOST_POINTS / 4 - 0.125)


def crowd(persons: int) -> Film:
    film = Film("crowd.mp4")
    for second in range(persons + 1):
        film.add(FilmFrame(second, float(second), [face(number + 1, happy=1.0) for number in range(second, persons)]))
    return film


def test_data_of_a_small_film() -> None:
    film = small_film()
    data = timeline_data(film)
    assert json.loads(json.dumps(data)) == data
    assert (data["name"], data["classes"], data["colours"], data["ink"]) == ("film.mp4", [*CLASSES], EXPRESSIONS, INK)
    assert (data["duration"], data["left_out"], data["brief"]) == (10.0, 1, 1.0)
    assert data["seconds"] == [index / 4 for index in range(40)]
    first, second = data["persons"]
    assert first["frames"] == [*range(40)]
    assert first["probabilities"][19:21] == [[0, 0, 0, 1, 0, 0, 0], [0.25, 0, 0, 0, 0, 0.75, 0]]
    assert (first["shares"]["happy"], first["changes"]) == (0.5, 1)
    assert second["frames"] == [*range(8, 16), *range(24, 36)]
    assert second["longest"] == {"label": "surprise", "start": 6.0, "seconds": 3.0}
    assert [portrait["second"] for portrait in second["portraits"]] == [second for second, _ in film.portraits[2]]
    assert second["portraits"][0]["second"] == 2.0
    kind, content = second["portraits"][0]["image"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (72, 72))
        assert np.abs(np.array(image.getpixel((36, 36))) - (200, 20, 0)).max() <= 4


def test_numbers_are_rounded_to_three_digits() -> None:
    film = Film("film.mp4")
    for index in range(4):
        film.add(FilmFrame(index, index / 3, [face(1, happy=2 / 3, sad=1 / 3)]))
    data = timeline_data(film)
    assert data["seconds"] == [0.0, 0.333, 0.667, 1.0]
    assert data["duration"] == 1.333
    assert data["persons"][0]["probabilities"][0] == [0, 0, 0, 0.667, 0, 0.333, 0]


def test_frames_of_long_films_are_averaged() -> None:
    film = Film("long.mp4")
    for index in range(4 * MOST_POINTS):  # one frame of four is happy; the person leaves after half of the film
        seen = [face(1, happy=1.0) if index % 4 == 0 else face(1, sad=1.0)] if index < 2 * MOST_POINTS else []
        film.add(FilmFrame(index, index / 2, seen))
    data = timeline_data(film)
    assert data["duration"] == 2 * MOST_POINTS
    assert data["seconds"] == [2.0 * index for index in range(MOST_POINTS)]
    (person,) = data["persons"]
    assert person["frames"] == [*range(MOST_POINTS // 2)]
    assert person["probabilities"] == [[0, 0, 0, 0.25, 0, 0.75, 0]] * (MOST_POINTS // 2)
    assert len(json.dumps(data)) < 100_000


def test_times_without_frames_make_no_points() -> None:
    film = Film("slides.mp4")
    for index in range(2 * MOST_POINTS):  # a pause of as many seconds lies in the middle
        second = index / 2 if index < MOST_POINTS else index / 2 + MOST_POINTS
        film.add(FilmFrame(index, second, [face(1, happy=1.0)]))
    data = timeline_data(film)
    assert data["duration"] == 2 * MOST_POINTS
    assert len(data["seconds"]) == MOST_POINTS // 2  # of 2 s each
    assert data["persons"][0]["frames"] == [*range(MOST_POINTS // 2)]


@pytest.mark.parametrize("frames", [0, 1])
def test_films_without_persons_have_data(frames: int) -> None:
    film = Film("empty.mp4")
    for index in range(frames):
        film.add(FilmFrame(index, 0.0, []))
    data = timeline_data(film)
    assert (data["duration"], data["seconds"], data["persons"], data["left_out"]) == (0.0, [0.0] * frames, [], 0)


@pytest.mark.parametrize("name", ["timeline.pdf", "timeline", ".html"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    message = f"{tmp_path / name}: a timeline is written as .html or .png"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        small_film().timeline(tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["timeline.html", "timeline.png"])
def test_an_unwritable_file_gets_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / name
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: (File exists|Not a directory)$"):
        small_film().timeline(path)


def test_a_missing_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^gone\.mp4: no such file$"):
        small_film().timeline(tmp_path / "line.html", "gone.mp4")
    assert not [*tmp_path.iterdir()]


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "film.mp4").touch()
    small_film().timeline("~/line.html", "~/film.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "line.html"]
    assert '"address":"film.mp4"' in (tmp_path / "line.html").read_text(encoding="utf-8")


def test_a_full_disk_is_no_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        small_film().timeline(tmp_path / "timeline.html")
    assert not isinstance(caught.value, UserError)
    assert not [*tmp_path.iterdir()]


def draw(film: Film, path: Path) -> NDArray[np.uint8]:
    """Writes the picture of a timeline and returns its pixels, RGB uint8 [H, W, 3]."""
    film.timeline(path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def colours_at(pixels: NDArray[np.uint8], share: float) -> list[tuple[str, int]]:
    """Returns the colours and heights of the flat parts of the charts at a share of the film, from the top."""
    column = pixels[HEAD:, round(CHART_LEFT + share * CHART_WIDTH)]  # [H, 3]
    starts = np.flatnonzero(np.append(True, (np.diff(column, axis=0) != 0).any(axis=1)))
    parts = zip(starts, np.diff(np.append(starts, len(column))), strict=True)
    named = [("#{:02x}{:02x}{:02x}".format(*column[start]), int(length)) for start, length in parts]
    return [(colour, length) for colour, length in named if length >= 10 and colour in {BAND, *EXPRESSIONS.values()}]


def test_pixels_of_the_picture(tmp_path: Path) -> None:
    pixels = draw(small_film(), tmp_path / "new" / "timeline.png")
    assert pixels.shape[1] == WIDTH >= 1600
    happy, angry, sad = (EXPRESSIONS[name] for name in ("happy", "angry", "sad"))
    neutral, surprise = EXPRESSIONS["neutral"], EXPRESSIONS["surprise"]
    # The probability is 1: the whole height has its colour. Person 2 is not seen.
    assert colours_at(pixels, 0.15) == [(happy, CHART_HEIGHT), (BAND, CHART_HEIGHT)]
    assert colours_at(pixels, 0.55) == [(sad, CHART_HEIGHT * 3 // 4), (angry, CHART_HEIGHT // 4), (BAND, CHART_HEIGHT)]
    _, (top, high), (low, rest) = colours_at(pixels, 0.35)
    assert (top, low) == (surprise, neutral)
    assert abs(high - 0.6 * CHART_HEIGHT) <= 1
    assert high + rest >= CHART_HEIGHT - 1  # the row between them may be mixed
    # The person is seen until 4 s.
    assert [colours_at(pixels, share)[-1][0] for share in (0.398, 0.402)] == [neutral, BAND]


def test_the_title_of_the_picture_has_letters_of_other_languages(tmp_path: Path) -> None:
    first, second, broken = (draw(Film(name), tmp_path / "film.png") for name in ("ä.mp4", "ж.mp4", "li\nne.mp4"))
    assert broken.shape == first.shape
    assert not np.array_equal(first, second)


def test_the_picture_shows_the_persons_who_are_seen_longest(tmp_path: Path) -> None:
    # Person n is seen for n seconds, and there is one more person than rows.
    pixels = draw(crowd(MOST_PERSONS + 1), tmp_path / "crowd.png")
    assert len(colours_at(pixels, 0.01)) == MOST_PERSONS
    assert (
        colours_at(pixels, 1.5 / (MOST_PERSONS + 2))[0][0] == EXPRESSIONS["happy"]
    )  # person 1, seen for 1 s, is left out
    assert len(draw(crowd(MOST_PERSONS), tmp_path / "fewer.png")) < len(pixels)  # without the line on the others


def test_the_picture_of_a_film_without_persons_has_no_charts(tmp_path: Path) -> None:
    pixels = draw(Film(HOSTILE), tmp_path / "empty.png")
    assert pixels.shape[1] == WIDTH
    used = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert not used & {ImageColor.getrgb(colour) for colour in (BAND, *EXPRESSIONS.values())}
    written = (pixels < 200).any(axis=(1, 2))  # [H], the rows that hold letters
    assert np.count_nonzero(np.diff(written.astype(int)) == 1) == 2  # the name, and that no person is seen


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 10 s, in a folder whose name needs quotes in an address."""
    folder = tmp_path_factory.mktemp("films") / "new films #1 ü"
    folder.mkdir()
    return draw_film(folder / "a film?.mp4", 50, rate=5)


def write_and_open(
    browser: Browser, path: Path, film: Film, video: Path | None = None, width: int = 1200, annotated: bool = False
) -> tuple[Page, list[str], list[str]]:
    """Opens the page of a timeline; returns it with the addresses that it asks for and its messages."""
    write_timeline(film, path, video, annotated=annotated)
    page = new_page(browser, width, 900)
    addresses, messages = watch(page)
    page.goto(path.as_uri())
    expect(page.locator(".introduction")).to_be_visible()
    return page, addresses, messages


def where(track: Locator, share: float) -> tuple[float, float]:
    """Returns the place on the screen of a share of a chart's width."""
    box = track.bounding_box()
    assert box
    return box["x"] + share * box["width"], box["y"] + 50


def film_of(classes: tuple[str, ...]) -> Film:
    """A person who shows each class for two seconds, with 0.7 and the rest even."""
    film = Film("others.mp4", classes)
    for index in range(2 * RATE * len(classes)):
        label = classes[index // (2 * RATE)]
        shares = {name: 0.7 if name == label else 0.3 / (len(classes) - 1) for name in classes}
        film.add(FilmFrame(index, index / RATE, [Face((0, 0, 9, 9), label, shares, 0.9, 0.0, 1)]))
    return film


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE, MANY])
def test_data_of_other_classes(classes: tuple[str, ...]) -> None:
    data = json.loads(json.dumps(timeline_data(film_of(classes))))
    assert tuple(data["classes"]) == tuple(data["colours"]) == classes
    assert data["colours"] == class_colours(classes)
    (person,) = data["persons"]
    assert tuple(person["shares"]) == classes
    table = np.array(person["probabilities"])  # [P, K]
    assert table.argmax(axis=1).tolist() == [index // (2 * RATE) for index in range(2 * RATE * len(classes))]
    assert np.abs(table.sum(axis=1) - 1).max() < 0.01


def test_a_thousand_probabilities_are_not_rounded_to_nothing() -> None:
    film = Film("thousand.mp4", tuple(map(str, range(1000))))
    shares = dict.fromkeys(film.classes, 0.0004) | {"7": 0.6004}
    for second in range(3):
        film.add(FilmFrame(second, float(second), [Face((0, 0, 9, 9), "7", shares, 0.9, 0.0, 1)]))
    (person,) = timeline_data(film)["persons"]
    assert set(person["probabilities"][0]) == {0.0004, 0.6004}


@pytest.mark.parametrize("classes", [THREE, STRANGE, MANY, (64 * "W", 64 * "M")])
def test_a_picture_of_other_classes(classes: tuple[str, ...], tmp_path: Path) -> None:
    write_timeline(film_of(classes), tmp_path / "timeline.png")
    pixels = np.asarray(Image.open(tmp_path / "timeline.png"))
    assert pixels.shape[1] == WIDTH
    for index, (name, colour) in enumerate(class_colours(classes).items()):
        x = CHART_LEFT + round((index + 0.4) / len(classes) * CHART_WIDTH)
        column = [tuple(pixel) for pixel in pixels[:, x].tolist()]
        assert column.count(ImageColor.getrgb(colour)) > 0.6 * CHART_HEIGHT, name
    legend = {tuple(pixel) for pixel in pixels[HEAD - 70 : HEAD + 20, :].reshape(-1, 3).tolist()}
    shown = [colour for colour in class_colours(classes).values() if ImageColor.getrgb(colour) in legend]
    assert len(shown) == min(len(classes), 12)


@pytest.mark.browser
@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
class TestPage:
    @pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE])
    def test_other_classes(self, classes: tuple[str, ...], browser: Browser, tmp_path: Path) -> None:
        page, addresses, messages = write_and_open(browser, tmp_path / "timeline.html", film_of(classes))
        with page:
            colours = class_colours(classes)
            legend = page.locator(".legend li")
            expect(legend).to_have_text([*classes])
            shown = legend.evaluate_all("list => list.map(item => getComputedStyle(item).backgroundColor)")
            assert shown == ["rgb({}, {}, {})".format(*ImageColor.getrgb(colour)) for colour in colours.values()]
            paths = page.locator(".areas svg path[fill]").evaluate_all(
                "list => list.map(path => path.getAttribute('fill'))"
            )
            assert paths == [*reversed(colours.values())]
            share = f"{int(100 / len(classes) + 0.5)} %"
            expect(page.locator(".shares")).to_have_text(", ".join(f"{name} {share}" for name in classes))
            page.mouse.move(*where(page.get_by_role("slider"), 1.5 / len(classes)))
            expect(page.locator(".readout")).to_contain_text(f"{classes[1]} 70 %")
            page.locator("summary").click()
            expect(page.locator("thead tr")).to_have_text("from" + "".join(classes))
            assert [address for address in addresses if not address.startswith("data:")] == [page.url]
            assert messages == []

    def test_of_many_classes_those_with_the_largest_areas_are_named(self, browser: Browser, tmp_path: Path) -> None:
        film = film_of(MANY)
        for index in range(len(film), len(film) + 100):
            shares = {name: 0.05 if name in MANY[:12] else 0.4 / 18 for name in MANY}
            film.add(FilmFrame(index, index / RATE, [Face((0, 0, 9, 9), MANY[0], shares, 0.9, 0.0, 1)]))
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", film)
        with page:
            expect(page.locator(".legend li")).to_have_text([*MANY[:12]])
            expect(page.locator(".key .hint")).to_contain_text(
                "Of 30 expressions, the 12 with the largest areas are named."
            )
            assert messages == []

    def test_charts_of_two_persons(self, browser: Browser, tmp_path: Path) -> None:
        page, addresses, messages = write_and_open(browser, tmp_path / "timeline.html", small_film())
        with page:
            assert page.title() == "film.mp4"
            expect(page.locator(".introduction")).to_have_text(
                "0:10 long; 2 persons; 1 more is seen for less than 1 s."
            )
            expect(page.locator(".legend li")).to_have_text([*CLASSES])
            expect(page.locator("h2")).to_have_text(["Person 1, seen 10.0 s", "Person 2, seen 5.0 s"])
            expect(page.locator(".shares")).to_have_text(["happy 50 %, sad 50 %", "surprise 100 %"])
            expect(page.locator(".about .hint")).to_have_text(
                ["1 change; longest: happy 5.0 s from 0:00", "no changes; longest: surprise 3.0 s from 0:06"]
            )
            charts = page.locator(".areas svg")
            colours = charts.first.locator("path[fill]").evaluate_all(
                "list => list.map(path => path.getAttribute('fill'))"
            )
            assert colours == [*reversed(EXPRESSIONS.values())]
            # Of person 2, whom the film shows from 2 s to 4 s and from 6 s to 9 s, surprise reaches from top to bottom.
            surprise = charts.last.locator(f"path[fill='{EXPRESSIONS['surprise']}']")
            corners = re.findall(r"M([\d.]+) 100.*?L([\d.]+) 0\.00V100Z", surprise.get_attribute("d") or "")
            assert corners == [("200.00", "400.00"), ("600.00", "900.00")]
            expect(page.locator(".thumbnails").last.locator("img:visible")).to_have_count(5)
            expect(page.locator(".axis span")).to_have_text([f"0:{second:02}" for second in range(11)])
            assert [address for address in addresses if not address.startswith("data:")] == [page.url]
            assert messages == []

    def test_hover_tells_the_expressions(self, browser: Browser, tmp_path: Path) -> None:
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", small_film())
        with page:
            track, readouts = page.get_by_role("slider").last, page.locator(".readout")
            expect(readouts.last).to_be_hidden()
            page.mouse.move(*where(track, 0.7))
            expect(readouts).to_have_text(
                [re.compile(r"^0:0[67]\.\dsad 75 %angry 25 %$"), re.compile("surprise 60 %neutral 40 %$")]
            )
            page.mouse.move(*where(track, 0.5))
            expect(readouts.last).to_have_text(re.compile("not seen$"))
            page.mouse.move(5, 5)
            expect(readouts.last).to_be_hidden()
            assert messages == []

    def test_the_keyboard_moves_the_time(self, browser: Browser, tmp_path: Path) -> None:
        page, _, _ = write_and_open(browser, tmp_path / "timeline.html", small_film())
        with page:
            track = page.get_by_role("slider", name="Time, with the expressions of person 2")
            track.focus()
            expect(page.locator(".position").last).to_be_visible()
            for key, text in (
                ("ArrowRight", "0:03.0: surprise 60 %, neutral 40 %"),
                ("PageUp", "0:04.0: surprise 60 %, neutral 40 %"),
                ("ArrowUp", "0:05.0: not seen"),
                ("Home", "0:00.0: not seen"),
                ("ArrowLeft", "0:00.0: not seen"),
                ("End", "0:10.0: not seen"),
                ("PageDown", "0:09.0: surprise 60 %, neutral 40 %"),
            ):
                track.press(key)
                expect(track).to_have_attribute("aria-valuetext", text)
            page.get_by_role("button", name="surprise 3.0 s from 0:06").click()
            expect(track).to_have_attribute("aria-valuenow", "6.000")

    def test_seeking_moves_the_video_and_the_line_follows_it(
        self, browser: Browser, tmp_path: Path, video: Path
    ) -> None:
        page, addresses, messages = write_and_open(browser, tmp_path / "timeline.html", small_film(), video)
        with page:
            film, track = page.locator("video"), page.get_by_role("slider").first
            expect(film).to_be_visible()
            assert video.as_uri() in addresses
            assert all(address.startswith(("file:", "data:")) for address in addresses)
            page.mouse.click(*where(track, 0.4))
            assert abs(film.evaluate("video => video.currentTime") - 4) < 0.05
            page.mouse.down()
            page.mouse.move(*where(track, 0.7))
            page.mouse.up()
            assert abs(film.evaluate("video => video.currentTime") - 7) < 0.05
            page.mouse.click(*where(track, 0.4))
            page.keyboard.press("ArrowRight")
            assert abs(film.evaluate("video => video.currentTime") - 5) < 0.05
            film.evaluate("video => { video.currentTime = 8; }")
            expect(page.locator(".position").first).to_have_attribute("style", re.compile(r"left: 80(\.0+\d*)?%"))
            before = film.evaluate("async video => { await video.play(); return video.currentTime; }")
            page.wait_for_timeout(500)
            film.evaluate("video => video.pause()")
            line = float(page.locator(".position").first.evaluate("line => parseFloat(line.style.left)"))
            assert line > 10 * before
            assert abs(line - 10 * film.evaluate("video => video.currentTime")) < 1
            assert messages == []

    @pytest.mark.parametrize("annotated", [False, True])
    def test_the_time_of_a_film_whose_sound_begins_first(
        self, annotated: bool, browser: Browser, tmp_path: Path, video: Path
    ) -> None:
        film = small_film()
        film.lead = 2.0
        lead = 0 if annotated else 2
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", film, video, annotated=annotated)
        with page:
            player, track = page.locator("video"), page.get_by_role("slider").first
            expect(player).to_be_visible()
            track.press("Home")
            track.press("ArrowRight")
            expect(track).to_have_attribute("aria-valuenow", "1.000")
            assert abs(player.evaluate("video => video.currentTime") - lead - 1) < 0.05
            for second, shown in ((8, 80 - 10 * lead), (1, 10 - 5 * lead)):
                player.evaluate(f"video => {{ video.currentTime = {second}; }}")
                position = page.locator(".position").first
                expect(position).to_have_attribute("style", re.compile(rf"left: {shown}(\.0+\d*)?%"))
            assert messages == []

    def test_a_missing_film_can_be_opened(self, browser: Browser, tmp_path: Path, video: Path) -> None:
        page, _, _ = write_and_open(browser, tmp_path / "timeline.html", small_film(), tmp_path / "gone.mp4")
        with page:
            expect(page.get_by_role("status")).to_have_text(
                "The film is not where it was, or this browser cannot play it."
            )
            expect(page.locator("video")).to_be_hidden()
            page.set_input_files("#file", tmp_path / "timeline.html")
            expect(page.get_by_role("status")).to_contain_text("cannot play this film")
            page.set_input_files("#file", video)
            expect(page.locator("video")).to_be_visible()
            expect(page.get_by_role("status")).to_be_hidden()
            page.get_by_role("slider").first.press("End")
            assert abs(page.locator("video").evaluate("video => video.currentTime") - 10) < 0.05

    def test_hostile_names_stay_text(self, browser: Browser, tmp_path: Path) -> None:
        page, addresses, messages = write_and_open(browser, tmp_path / "timeline.html", small_film(HOSTILE))
        with page:
            assert page.title() == HOSTILE
            expect(page.locator("h1")).to_have_text(HOSTILE)
            expect(page.locator(".person")).to_have_count(2)
            assert [address for address in addresses if not address.startswith("data:")] == [page.url]
            assert messages == []

    def test_a_name_that_is_no_unicode_can_be_shown(self, browser: Browser, tmp_path: Path) -> None:
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", small_film("\udcff.mp4"))
        with page:
            assert page.title() == "\\udcff.mp4"
            expect(page.locator(".person")).to_have_count(2)
            assert messages == []

    def test_other_scripts_are_forbidden(self, browser: Browser, tmp_path: Path) -> None:
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", small_film())
        with page:
            page.evaluate(
                "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
            )
            page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
            page.wait_for_timeout(200)
            assert page.title() == "film.mp4"
            assert len(messages) == 2
            assert all("Content Security Policy" in message for message in messages)

    def test_a_film_without_persons_says_so(self, browser: Browser, tmp_path: Path) -> None:
        page, _, messages = write_and_open(browser, tmp_path / "timeline.html", Film("empty.mp4"))
        with page:
            expect(page.locator("main")).to_have_text("0:00 long; no person is seen.", use_inner_text=True)
            assert messages == []

    def test_tables_hold_a_row_for_each_second(self, browser: Browser, tmp_path: Path) -> None:
        page, _, _ = write_and_open(browser, tmp_path / "timeline.html", small_film())
        with page:
            page.get_by_text("Table of person 2").click()
            rows = page.get_by_role("row")
            expect(rows).to_have_count(1 + 5)
            expect(rows.first).to_have_text("from" + "".join(CLASSES))
            expect(rows.nth(3)).to_have_text("0:060 %0 %0 %0 %40 %0 %60 %")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_page_fits_a_phone(self, browser: Browser, tmp_path: Path, scheme: str) -> None:
        page, _, _ = write_and_open(browser, tmp_path / "timeline.html", small_film(HOSTILE), width=360)
        with page:
            page.emulate_media(color_scheme=scheme)
            for summary in page.locator("summary").all():
                summary.click()
            page.get_by_role("slider").first.press("End")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert page.locator(".track").first.evaluate("track => track.getBoundingClientRect().right") <= 360
