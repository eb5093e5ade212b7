"""The page in a real browser with a fake camera."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import EXECUTABLE, chromium, new_page, watch
from drawn_films import draw_film, noise
from numpy.typing import NDArray
from other_classes import STRANGE, THREE, write_onnx
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

import emotion
from emotion.data.classes import CLASSES
from emotion.files import no_formula
from emotion.inference.recognizer import Recognizer
from emotion.inference.records import CsvWriter, Record, columns_of
from emotion.inference.video import Video
from emotion.palette import EXPRESSIONS, INK, class_colours
from emotion.shipped import SHIPPED

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")]
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
GREEN = (0, 255, 0)
SAMPLES = {1: "happy 9. %", 2: "neutral 8. %", 3: r"sad\? 4. %", 4: "neutral 6. %"}
expect.set_options(timeout=30_000)


@contextmanager
def app(*arguments: str) -> Iterator[str]:
    """Runs the command as a user would, and yields the address of the page."""
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with app() as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Iterator[Browser]:
    """A browser whose camera shows the portrait with a green stripe at its left edge."""
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with camera.open("wb") as file:
        for step in range(10):
            frame = np.roll(pixels, 3 * step, 1)[:480, :510].copy()
            frame[:, :60] = GREEN
            Image.fromarray(frame).save(file, "JPEG")
    with chromium(*FAKE_CAMERA, f"--use-file-for-fake-video-capture={camera}") as browser:
        yield browser


def open_app(browser: Browser, address: str, width: int = 1200, height: int = 1000) -> Page:
    page = new_page(browser, width, height)
    page.goto(address)
    expect(page.locator("#samples img")).to_have_count(4)
    until(page, "[...document.images].every(image => image.complete)")
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with open_app(browser, address) as page:
        yield page


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Path:
    """A photograph of six faces, in two rows."""
    path = tmp_path_factory.mktemp("group") / "group.png"
    Image.fromarray(np.tile(pixels[::2, ::2], (2, 3, 1))).save(path)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Path:
    """A film of two seconds with one person."""
    frames = [np.roll(pixels, 2 * index, 1)[100:400, 80:480] for index in range(50)]
    return draw_film(tmp_path_factory.mktemp("film") / "walk.webm", frames, codec="libvpx")


def until(page: Page, condition: str, seconds: float = 30) -> None:
    """Waits for a condition, in the test, since the page's content policy forbids evaluating code in the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, f"{condition}: {page.inner_text('body')}"
        page.wait_for_timeout(100)


def upload(page: Page, *paths: Path) -> None:
    page.set_input_files("#file", list(paths))


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Returns name and content of the file that a button saves."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def drawing(page: Page, canvas: str = "#image") -> NDArray[np.uint8]:
    """Returns the pixels of a canvas, uint8 [H, W, 4]."""
    content = page.evaluate(f"document.querySelector('{canvas}').toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))


# Photographs.


def test_a_photograph_gets_a_numbered_box_and_a_card(page: Page, portrait: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    expect(page.locator("#summary")).to_have_text(re.compile(r"^One face: neutral 8\d %\.$"))
    card = page.locator(".face")
    assert card.locator(".badge").inner_text() == "1"
    assert re.fullmatch(r"neutral 8\d %", card.locator("h3").inner_text().strip())
    assert card.locator(".confidence").inner_text() == "face 93 %"
    assert card.locator(".card > table th").all_inner_texts() == ["neutral", "sad"]
    assert not card.locator("details table").is_visible()
    card.locator("summary").click()
    names = card.locator("th").all_inner_texts()
    assert sorted(names) == list(CLASSES)
    shares = [int(text.removesuffix(" %")) for text in card.locator("td.mean").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=3)
    assert card.locator("tr").first.locator("i").evaluate("bar => bar.style.backgroundColor") == rgb("neutral")


def rgb(name: str, classes: tuple[str, ...] = CLASSES) -> str:
    return "rgb({}, {}, {})".format(*bytes.fromhex(class_colours(classes)[name][1:]))


def test_boxes_have_the_colours_of_the_palette(page: Page, portrait: Path, recognizer: Recognizer) -> None:
    strokes = page.eval_on_selector_all("#legend line", "lines => lines.map(line => line.getAttribute('stroke'))")
    assert strokes == [stroke for colour in EXPRESSIONS.values() for stroke in (INK, colour)]
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    picture, (face,) = drawing(page), recognizer.predict(portrait)
    scale = picture.shape[1] / 512
    left, middle = round(scale * face.box[0]), round(scale * (face.box[1] + face.box[3] / 2))
    assert tuple(picture[middle, left, :3]) == tuple(bytes.fromhex(EXPRESSIONS["neutral"][1:]))


def test_heatmaps_are_asked_for_when_they_are_wanted(page: Page, portrait: Path) -> None:
    addresses, _ = watch(page)
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    plain = drawing(page)
    page.click("#heatmap")
    expect(page.locator(".face")).to_have_count(1)
    until(page, "document.getElementById('result').getAttribute('aria-busy') === 'false'")
    assert (drawing(page) != plain).any()
    asked = [re.search(r"heatmap=(\w+)", url)[1] for url in addresses if "/predict" in url]
    assert asked == ["false", "true"]
    page.click("#heatmap")
    assert (drawing(page) == plain).all()


def test_samples_are_classified_and_credited(page: Page) -> None:
    for number, label in SAMPLES.items():
        page.click(f"#samples li:nth-child({number}) button")
        expect(page.locator("#summary")).to_have_text(re.compile(f"^One face: {label}\\.$"))
        expect(page.locator("#credit")).to_contain_text("in the public domain")


def test_low_probabilities_look_uncertain(page: Page) -> None:
    page.click("#samples li:nth-child(1) button")
    expect(page.locator(".face .name")).to_have_text("happy")
    assert not page.is_visible(".unsure")
    page.click("#samples li:nth-child(3) button")
    expect(page.locator(".face .name")).to_have_text("sad?")
    assert page.inner_text(".unsure") == "unsure"
    colours = [
        page.eval_on_selector(name, "part => getComputedStyle(part).color") for name in (".face .name", "#credit")
    ]
    assert colours[0] == colours[1]  # that of less important text


def boxes(page: Page, address: str, path: Path) -> list[tuple[float, float]]:
    """Returns the centres of the faces on the page, from the service's answer."""
    answer = httpx.post(f"{address}/predict", files={"image": path.read_bytes()}).json()
    place = page.locator("#image").bounding_box()
    assert place
    scale = place["width"] / answer["width"]
    return [
        (place["x"] + scale * (left + width / 2), place["y"] + scale * (top + height / 2))
        for left, top, width, height in (face["box"] for face in answer["faces"])
    ]


def test_boxes_and_cards_light_up_together(page: Page, address: str, group: Path) -> None:
    upload(page, group)
    cards = page.locator(".face")
    expect(cards).to_have_count(6)
    assert cards.locator(".badge").all_inner_texts() == list("123456")
    expect(page.locator("#summary")).to_have_text(re.compile("^6 faces: "))
    columns = {round(box["x"]) for box in (card.bounding_box() for card in cards.all()) if box}
    assert len(columns) == 2  # a grid
    plain = drawing(page)
    for number, (x, y) in enumerate(boxes(page, address, group), 1):
        page.mouse.move(x, y)
        expect(page.locator(".face.active .badge")).to_have_text(str(number))
        assert (drawing(page) != plain).any()
    page.mouse.move(0, 0)
    expect(page.locator(".face.active")).to_have_count(0)
    assert (drawing(page) == plain).all()
    cards.nth(3).hover()
    expect(page.locator(".face.active .badge")).to_have_text("4")
    by_card = drawing(page)
    page.mouse.move(*boxes(page, address, group)[3])
    expect(page.locator(".face.active .badge")).to_have_text("4")
    assert (drawing(page) == by_card).all()
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Face 4"


def test_the_keyboard_reaches_everything(page: Page, portrait: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    page.evaluate("document.activeElement.blur()")
    page.locator("body").press("Tab")
    reached = []
    for _ in range(15):
        reached.append(
            page.evaluate(
                "(at => at.id || at.getAttribute('aria-label') || at.querySelector('img')?.alt || at.innerText)"
                "(document.activeElement)"
            )
        )
        if reached[-1] == "Face 1":
            assert page.locator(".face.active").count() == 1
        page.keyboard.press("Tab")
    start = reached.index("file")
    assert reached[start : start + 2] == ["file", "webcam"]
    assert [
        name for name in reached if name in ("heatmap", "single-face", "csv", "json", "png", "Face 1", "5 more")
    ] == [*("heatmap", "single-face", "csv", "json", "png", "Face 1", "5 more")]
    page.focus("#heatmap")
    page.keyboard.press(" ")
    assert page.is_checked("#heatmap")


def test_the_summary_counts_the_faces_beyond_the_limit(page: Page, portrait: Path, tmp_path: Path) -> None:
    with Image.open(portrait) as image:
        one = np.asarray(image.convert("RGB").resize((90, 105)))
    Image.fromarray(np.tile(one, (6, 10, 1))).save(tmp_path / "many.png")
    with page.expect_response("**/predict?*") as answer:
        upload(page, tmp_path / "many.png")
    expect(page.locator("#summary")).to_contain_text(re.compile("^60 faces: 60 neutral"))
    limited = answer.value.json() | {"found": 70}
    page.route("**/predict?*", lambda route: route.fulfill(json=limited))
    shutil.copy(tmp_path / "many.png", tmp_path / "again.png")
    upload(page, tmp_path / "again.png")
    expect(page.locator("#summary")).to_contain_text(re.compile("^The 60 largest of 70 faces are classified: "))


def test_the_old_answer_goes_at_once(page: Page, portrait: Path, group: Path) -> None:
    upload(page, group)
    expect(page.locator(".face")).to_have_count(6)
    held: list[Route] = []
    page.route("**/predict?*", lambda route: held.append(route))
    with page.expect_request("**/predict?*"):  # or it may come after the loop that lets it go
        upload(page, portrait)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#spinner")).to_be_visible()
    expect(page.locator("#summary")).to_have_text("Looking for faces …")
    assert page.locator(".face").count() == 0
    until(page, "document.getElementById('image').height > document.getElementById('image').width")  # the new picture
    for route in held:
        route.continue_()
    expect(page.locator(".face")).to_have_count(1)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
    assert not page.is_visible("#spinner")


def test_an_unreadable_file_gets_a_message_and_no_result(page: Page, portrait: Path, tmp_path: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    bad = tmp_path / "<img src=x onerror=document.title=1>.png"
    bad.write_bytes(b"no image")
    upload(page, bad)
    expect(page.locator("#message")).to_have_text(f"{bad.name}: not an image that can be read")
    expect(page.locator("#message")).to_be_visible()
    expect(page.locator("#result")).to_be_hidden()
    assert page.title().startswith("emotion")


def test_too_large_a_file_is_not_sent(page: Page, tmp_path: Path) -> None:
    addresses, _ = watch(page)
    (tmp_path / "large.png").write_bytes(bytes(15_000_001))
    upload(page, tmp_path / "large.png")
    expect(page.locator("#message")).to_have_text("large.png: more than 15 MB")
    assert not any("/predict" in url for url in addresses)


def test_a_photograph_without_faces_offers_what_may_help(page: Page, tmp_path: Path) -> None:
    addresses, _ = watch(page)
    Image.new("RGB", (200, 100), "#336699").save(tmp_path / "blue.png")
    upload(page, tmp_path / "blue.png")
    expect(page.locator("#summary")).to_have_text("No face was found.")
    page.click("#closer")
    expect(page.locator("#summary")).to_have_text("No face was found.")
    until(page, "document.getElementById('result').getAttribute('aria-busy') === 'false'")
    assert page.evaluate("document.activeElement.id") == "summary"  # the button is hidden while the answer is awaited
    assert "confidence=0.3" in addresses[-1]
    page.click("#cropped")
    expect(page.locator(".face .confidence")).to_have_text("cropped face")
    assert page.is_checked("#single-face")
    assert not page.is_visible("#hints")


def test_formats_that_browsers_do_not_show_are_shown(page: Page, portrait: Path, tmp_path: Path) -> None:
    addresses, _ = watch(page)
    with Image.open(portrait) as image:
        image.convert("RGB").save(tmp_path / "scan.tif")
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    expected = drawing(page).astype(int)
    upload(page, tmp_path / "scan.tif")
    expect(page.locator(".face")).to_have_count(1)
    assert any("preview=true" in url for url in addresses)
    assert np.abs(drawing(page).astype(int) - expected).mean() < 5  # it was a JPEG once more


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photographs_that_lie_on_their_side_are_shown_upright(
    kind: str, page: Page, portrait: Path, tmp_path: Path
) -> None:
    path, exif = tmp_path / f"side.{kind.lower()}", Image.Exif()
    exif[0x0112] = 6
    with Image.open(portrait) as image:
        image.rotate(90, expand=True).save(path, kind, exif=exif)
        upright = np.asarray(image.convert("RGB"), float)
    upload(page, path)
    expect(page.locator(".face")).to_have_count(1)
    picture = drawing(page)[..., :3].astype(float)
    shown = np.asarray(Image.fromarray(upright.astype(np.uint8)).resize(picture.shape[1::-1]), float)
    assert picture.shape[0] > picture.shape[1]
    assert np.abs(picture - shown).mean() < 12


# Several files, and downloads.


def test_several_files_are_listed_and_saved_together(
    page: Page, portrait: Path, group: Path, tmp_path: Path, recognizer: Recognizer
) -> None:
    (tmp_path / "text.png").write_bytes(b"no image")
    Image.new("RGB", (200, 100), "#336699").save(tmp_path / 'a "blue", one.png')
    paths = [group, portrait, tmp_path / "text.png", tmp_path / 'a "blue", one.png']
    upload(page, *paths)
    expect(page.locator("#status")).to_have_text("4 files")
    tiles = page.locator(".tile")
    assert tiles.locator("b").all_inner_texts() == [path.name for path in paths]
    texts = tiles.locator(".text").all_inner_texts()
    assert re.fullmatch(r"neutral 8\d %", texts.pop(1))
    assert texts == ["6 faces", "not an image that can be read", "no face"]
    expect(page.locator(".face")).to_have_count(6)
    tiles.nth(1).click()
    expect(page.locator(".face")).to_have_count(1)
    expect(tiles.nth(1)).to_have_attribute("aria-current", "true")

    name, content = saved(page, "#csv")
    assert name == "faces.csv"
    expected = io.StringIO()
    writer = CsvWriter(expected, False, CLASSES)
    for path in (group, portrait, paths[3]):
        writer.write(Record(path.name, recognizer.predict(path)))
    assert content.decode().splitlines()[0].split(",") == list(columns_of(CLASSES, films=False))
    assert numbers(content.decode()) == numbers(expected.getvalue())

    name, content = saved(page, "#json")
    answers = json.loads(content)
    assert name == "faces.json"
    assert [answer["file"] for answer in answers] == [path.name for path in paths]
    assert [len(answer.get("faces", ())) for answer in answers] == [6, 1, 0, 0]
    assert answers[2] == {"file": "text.png", "detail": "text.png: not an image that can be read"}

    name, content = saved(page, "#png")
    assert name == "grace_hopper-faces.png"
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (512, 600)
        left, top, _, height = recognizer.predict(portrait)[0].box
        assert image.convert("RGB").getpixel((left, top + height // 2)) == tuple(
            bytes.fromhex(EXPRESSIONS["neutral"][1:])
        )


def numbers(text: str) -> list[list[str | float]]:
    """Returns the cells of CSV, numbers as such, rounded to three digits."""

    def value(cell: str) -> str | float:
        try:
            return round(float(cell), 3)
        except ValueError:
            return cell

    return [[value(cell) for cell in row] for row in csv.reader(io.StringIO(text))]


DROP = """
([target, names]) => {
  const data = new DataTransfer();
  for (const name of names) data.items.add(new File([window.content], name, { type: "image/png" }));
  const at = document.querySelector(target);
  const send = (name) => at.dispatchEvent(new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
  return ["dragenter", "dragover", "drop"].map(send);
}
"""


def test_files_that_are_dropped_anywhere_are_taken(page: Page, portrait: Path) -> None:
    page.evaluate("bytes => void (window.content = new Uint8Array(bytes))", [*portrait.read_bytes()])
    for target in ("footer", "h1", "html"):
        _, over, dropped = page.evaluate(DROP, [target, ["a.png", "b.png"]])
        assert (over, dropped) == (False, False)  # prevented: the browser does not leave the page
        assert not page.is_visible("#shade")
        expect(page.locator(".tile")).to_have_count(2)
        expect(page.locator(".face")).to_have_count(1)


def test_files_that_are_pasted_are_taken(page: Page, portrait: Path) -> None:
    page.evaluate("bytes => void (window.content = new Uint8Array(bytes))", [*portrait.read_bytes()])
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([window.content], "pasted.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    expect(page.locator(".face")).to_have_count(1)


# Films.


def test_a_film_gets_progress_boxes_a_timeline_and_downloads(page: Page, film: Path, recognizer: Recognizer) -> None:
    upload(page, film)
    expect(page.locator("#film")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#timeline .person")).to_have_count(1)
    expect(page.locator("#film")).to_have_attribute("aria-busy", "false")
    assert page.inner_text("#film-name") == "walk.webm"
    assert page.inner_text("#timeline h2").startswith("Person 1, seen 2.0 s")
    assert page.locator("#timeline summary").all_inner_texts() == ["Table of person 1"]
    assert not page.is_visible("#progress")
    until(page, "document.querySelector('#film video').readyState > 1")
    page.evaluate("void (document.querySelector('#film video').currentTime = 1)")
    until(page, "Math.abs(document.querySelector('#film video').currentTime - 1) < 0.01")
    page.wait_for_timeout(300)
    expected = emotion.analyze_video(film, recognizer)
    overlay = drawing(page, "#film-stage canvas")
    (face,) = next(frame.faces for frame in expected if frame.second >= 1)
    scale = overlay.shape[1] / 400
    middle = overlay[round(scale * (face.box[1] + face.box[3] / 2))]  # a row of pixels through the box
    columns = np.flatnonzero(middle[:, 3])
    assert columns[0] == pytest.approx(scale * face.box[0], abs=6)
    assert columns[-1] == pytest.approx(scale * (face.box[0] + face.box[2]), abs=6)

    name, content = saved(page, "#film-csv")
    assert name == "walk.csv"
    assert content.decode().splitlines()[0].split(",") == list(columns_of(CLASSES, films=True))
    text = io.StringIO()
    writer = CsvWriter(text, True, CLASSES)
    for frame in expected:
        writer.write(Record(film.name, frame.faces, frame.number, frame.second))
    assert numbers(content.decode()) == numbers(text.getvalue())

    name, content = saved(page, "#film-jsonl")
    rows = [json.loads(line) for line in content.splitlines()]
    assert (name, len(rows)) == ("walk.jsonl", 10)
    assert rows[1]["file"] == "walk.webm"
    assert (rows[1]["frame"], rows[1]["second"]) == (5, 0.2)

    name, content = saved(page, "#film-timeline")
    assert name == "walk.html"
    path = film.with_name(name)
    path.write_bytes(content)
    addresses, messages = watch(page)
    page.goto(path.as_uri())
    assert page.inner_text(".person h2").startswith("Person 1, seen 2.0 s")
    assert (page.inner_text("h1"), messages) == ("walk.webm", [])
    assert all(url.startswith(("file:", "data:")) for url in addresses)


def test_boxes_of_a_film_whose_sound_begins_first(page: Page, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    times = [2 + index / 25 for index in range(25)]
    upload(page, draw_film(tmp_path / "late.mp4", [pixels[:400, :400]] * 25, times=times, sound=True))
    expect(page.locator("#timeline .person")).to_have_count(1)
    for second, visible in ((1, False), (2.5, True)):
        page.evaluate(f"void (document.querySelector('#film video').currentTime = {second})")
        until(page, f"Math.abs(document.querySelector('#film video').currentTime - {second}) < 0.01")
        page.wait_for_timeout(300)
        assert drawing(page, "#film-stage canvas")[..., 3].any() == visible
    page.click("#timeline .jump")
    until(page, "Math.abs(document.querySelector('#film video').currentTime - 2) < 0.01")


@pytest.mark.parametrize("ratio", [Fraction(8, 9), Fraction(4, 3)])
def test_boxes_of_a_film_whose_pixels_are_not_square(
    page: Page, pixels: NDArray[np.uint8], tmp_path: Path, ratio: Fraction
) -> None:
    """The boxes count the pixels of the frame that the browser shows."""
    path = draw_film(tmp_path / "dvd.mp4", [pixels[:480, :504]] * 40, pixel_aspect=ratio)
    upload(page, path)
    expect(page.locator("#timeline .person")).to_have_count(1)
    until(page, "document.querySelector('#film video').readyState > 0")
    height, width = next(iter(Video(path))).pixels.shape[:2]
    shown = [page.evaluate(f"document.querySelector('#film video').video{side}") for side in ("Width", "Height")]
    assert shown == pytest.approx([width, height], abs=1)


def test_a_film_that_the_browser_cannot_play_has_results(page: Page, tmp_path: Path) -> None:
    upload(page, draw_film(tmp_path / "old.avi", noise(20), codec="mpeg4"))
    expect(page.locator("#unplayable")).to_be_visible()
    expect(page.locator("#timeline")).to_contain_text("no person is seen")
    assert not page.is_visible("#film-stage")


def test_an_unreadable_film_gets_a_message(page: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    upload(page, tmp_path / "bad.mp4")
    expect(page.locator("#message")).to_have_text("bad.mp4: not a video that can be read")
    assert not page.is_visible("#film")


def test_a_film_can_be_stopped(page: Page, tmp_path: Path, address: str) -> None:
    upload(page, draw_film(tmp_path / "long.mp4", 3000))
    expect(page.locator("#rows tr")).to_have_count(5)
    page.click("#stop")
    expect(page.locator("#film-summary")).to_have_text(re.compile(r"^Stopped: \d+ frames are classified\.$"))
    assert page.evaluate("document.activeElement.id") == "film-name"  # the button is hidden
    assert page.locator("#film-timeline").is_disabled()
    _, content = saved(page, "#film-csv")
    assert len(content.decode().splitlines()) - 1 == int(re.findall(r"\d+", page.inner_text("#film-summary"))[0])
    end = time.monotonic() + 10
    while httpx.post(f"{address}/film", files={"video": b""}).status_code == 503:  # until the service stops
        assert time.monotonic() < end


def test_films_and_photographs_are_taken_together(page: Page, film: Path, portrait: Path) -> None:
    upload(page, film, portrait)
    expect(page.locator("#status")).to_have_text("2 files")
    assert page.locator(".tile .text").first.inner_text() == "1 person"
    page.evaluate("document.querySelector('#film video').play()")
    page.locator(".tile").nth(1).click()
    expect(page.locator(".face")).to_have_count(1)
    assert not page.is_visible("#film")
    assert page.evaluate("document.querySelector('#film video').paused")  # its sound would go on
    page.locator(".tile").first.click()
    expect(page.locator("#timeline .person")).to_have_count(1)
    assert page.inner_text("#film-summary") == "Done."


# The webcam.


def test_the_picture_of_each_photograph_is_shown_again(page: Page, portrait: Path, group: Path) -> None:
    """Only the open one keeps its picture; the others are decoded anew."""
    upload(page, portrait, group)
    expect(page.locator("#status")).to_have_text("2 files")
    expect(page.locator(".face")).to_have_count(1)
    page.wait_for_timeout(300)  # until the picture has its place beside the list
    first = drawing(page)
    page.locator(".tile").nth(1).click()
    expect(page.locator(".face")).to_have_count(6)
    assert not np.array_equal(drawing(page), first)
    page.locator(".tile").first.click()
    expect(page.locator(".face")).to_have_count(1)
    page.wait_for_timeout(300)
    assert np.array_equal(drawing(page), first)


def test_a_sample_that_comes_late_is_dropped(page: Page, portrait: Path) -> None:
    held: list[Route] = []
    page.route("**/samples/einstein.jpg", lambda route: held.append(route))
    page.locator("#samples button").last.click()
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    (route,) = held
    with page.expect_response("**/samples/einstein.jpg"):
        route.continue_()
    page.wait_for_timeout(300)
    assert page.inner_text("#credit") == ""


def test_a_timeline_that_cannot_be_built_gets_a_message(page: Page, film: Path) -> None:
    upload(page, film)
    expect(page.locator("#timeline .person")).to_have_count(1)
    page.route("**/page/timeline.css", lambda route: route.abort())
    page.click("#film-timeline")
    expect(page.locator("#message")).to_have_text(re.compile("^The service does not answer"))


def test_a_file_that_is_gone_gets_a_message(page: Page) -> None:
    message = page.evaluate(
        """async () => {
          const { askAll } = await import("/page/service.js");
          const gone = { size: 9, slice: () => ({ arrayBuffer: () => Promise.reject(new DOMException()) }) };
          return askAll({ blob: gone, name: "old.jpg" }, {}).catch(({ message }) => message);
        }"""
    )
    assert message.startswith("old.jpg: cannot be read; choose it again")


def test_the_answers_of_networks_are_joined(page: Page) -> None:
    """The label of one network stays though its rounded probabilities are equal; a heatmap explains its own label."""
    alone, joint = page.evaluate(
        """async () => {
          const { about } = await import("/page/service.js");
          const { joined } = await import("/page/faces.js");
          const answer = (label, score, heatmap) => {
            const others = Object.fromEntries(about.classes.map((name) => [name, 0]));
            const probabilities = { ...others, sad: 1 - score, [label]: score };
            return { faces: [{ label, score, probabilities, heatmap: [[heatmap]] }] };
          };
          const tie = { ...answer("angry", 0.5, 1).faces[0], label: "sad" };
          const pictures = [[{ faces: [tie] }], [answer("happy", 0.8, 0.25), answer("sad", 1, 1)]];
          return pictures.map((answers) => joined(answers).faces[0]);
        }"""
    )
    assert (alone["label"], alone["heatmap"]) == ("sad", [[1]])
    assert (joint["label"], joint["heatmap"]) == ("sad", [[1]])


def test_a_face_stays_lit_while_pictures_follow(page: Page) -> None:
    active = page.evaluate(
        """async () => {
          const { Picture } = await import("/page/drawing.js");
          const canvas = document.createElement("canvas");
          document.body.append(canvas);
          const picture = new Picture(canvas, { onPoint() {}, onPick() {} });
          const face = (number) => ({ number, box: [0, 0, 9, 9], label: "happy", score: 1 });
          const shown = [[1, 2], [2], [1]].map((numbers) => {
            picture.show(document.createElement("canvas"), { width: 300, faces: numbers.map(face) });
            if (numbers.length === 2) picture.activate(2);
            return picture.active;
          });
          return shown;
        }"""
    )
    assert active == [2, 2, None]


def test_without_a_camera_results_stay(page: Page, portrait: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    page.evaluate(
        "void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')))"
    )
    page.click("#webcam")
    expect(page.locator("#message")).to_have_text(re.compile("^The browser does not allow"))
    expect(page.locator(".face")).to_have_count(1)


def test_a_missing_webcam_gets_a_message(page: Page) -> None:
    missing = "Promise.reject(new DOMException('', 'NotFoundError'))"
    page.evaluate(f"void (navigator.mediaDevices.getUserMedia = () => {missing})")
    page.click("#webcam")
    expect(page.locator("#message")).to_have_text("No webcam was found.")


def test_the_webcam_is_a_mirror_and_runs_until_it_is_stopped(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    expect(page.locator("#summary")).to_contain_text("%")
    picture = drawing(page).astype(int)[..., :3]
    assert np.abs(picture[5:-5, -10] - GREEN).mean() < 60  # the stripe is at the left edge of the camera's picture
    assert np.abs(picture[5:-5, 10] - GREEN).mean() > 60
    before = drawing(page, "#curve")
    wait_for_change(page, before)
    expect(page.locator("#webcam")).to_have_text("Stop the webcam")
    page.click("#webcam")
    expect(page.locator("#webcam")).to_have_text("Start the webcam")
    assert_still(page)


def wait_for_change(page: Page, before: NDArray[np.uint8]) -> None:
    end = time.monotonic() + 30
    while np.array_equal(drawing(page, "#curve"), before):
        assert time.monotonic() < end
        page.wait_for_timeout(100)


def assert_still(page: Page) -> None:
    end, before = time.monotonic() + 30, drawing(page, "#curve")
    page.wait_for_timeout(1000)
    while not np.array_equal(stopped := drawing(page, "#curve"), before):  # the last answer has arrived meanwhile
        assert time.monotonic() < end
        before = stopped
        page.wait_for_timeout(1000)


def test_the_webcam_pauses_and_goes_on(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Go on")
    assert_still(page)
    before = drawing(page, "#curve")
    page.click("#pause")
    wait_for_change(page, before)


def test_the_webcam_records(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    assert page.locator("#live-csv").is_disabled()
    page.click("#record")
    expect(page.locator("#recorded")).to_have_text(re.compile(r"^recording: ([2-9]|\d\d) s"))
    page.click("#record")
    number = int(re.findall(r"(\d+) pictures recorded", page.inner_text("#recorded"))[0])
    page.click("#webcam")
    name, content = saved(page, "#live-csv")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert name == "webcam.csv"
    assert content.decode().splitlines()[0].split(",") == list(columns_of(CLASSES, films=True))
    assert len(rows) == number > 2
    assert {row["person"] for row in rows} == {"1"}
    assert rows[0]["second"] == "0"
    assert [int(row["frame"]) for row in rows] == [*range(number)]
    assert float(rows[-1]["second"]) >= 2
    assert all(sum(float(row[name]) for name in CLASSES) == pytest.approx(1, abs=0.001) for row in rows)


def test_another_camera_ends_the_recording(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    page.click("#record")
    expect(page.locator("#recorded")).to_have_text(re.compile(r"^recording: [1-9]\d* s"))
    page.evaluate("document.getElementById('camera').dispatchEvent(new Event('change'))")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#recorded")).to_have_text(re.compile("^[1-9][0-9]* pictures? recorded$"))
    expect(page.locator("#webcam")).to_have_text("Stop the webcam")


def test_a_camera_that_goes_away_gets_a_message(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    page.evaluate("document.getElementById('video').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.locator("#webcam")).to_have_text("Start the webcam")
    expect(page.locator("#message")).to_have_text("This camera is gone. Choose another one.")


def test_without_a_secure_page_there_is_no_webcam(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.click("#webcam")
    expect(page.locator("#message")).to_have_text(re.compile("^Browsers allow the webcam on secure pages only:"))


def test_the_nearest_face_keeps_its_number(page: Page) -> None:
    """A newcomer on the left takes the number of nobody."""
    numbers = page.evaluate(
        """async () => {
          const { Tracks } = await import("/page/tracks.js");
          const face = (left) => ({ box: [left, 0, 100, 100], probabilities: { happy: 1 } });
          const tracks = new Tracks();
          tracks.update([face(200), face(290)], 0, 0.5);
          return tracks.update([face(105), face(200), face(290)], 0.1, 0.5).map(({ number }) => number);
        }"""
    )
    assert numbers == [3, 1, 2]


def test_a_service_that_does_not_say_what_it_is_gets_a_message_and_is_asked_again(
    browser: Browser, address: str, portrait: Path
) -> None:
    refusals = [{"status": 503}, {"status": 503}]
    with new_page(browser, 1200, 1000) as page:
        page.route("**/health", lambda route: route.fulfill(**refusals.pop()) if refusals else route.continue_())
        page.goto(address)
        expect(page.locator("#message")).to_have_text(re.compile("^The service does not answer"))
        upload(page, portrait)
        until(page, "document.querySelector('#message').textContent")
        assert refusals == []
        upload(page, portrait)
        expect(page.locator(".face")).to_have_count(1)
        expect(page.locator("#message")).to_have_text("")


def test_tables_have_the_names_that_the_command_writes(page: Page) -> None:
    """A spreadsheet would take some texts for formulas."""
    names = ["-1 to 2", "-1", "+0.5", "-3e-05", "=1", "@a", "-x", "-", "happy", "-1 to x"]
    table = page.evaluate(
        """async (names) => {
          const { imageTable } = await import("/page/downloads.js");
          return imageTable(names.map((name) => ({ name, answer: { faces: [] } })));
        }""",
        names,
    )
    assert [row["file"] for row in csv.DictReader(table.splitlines())] == [no_formula(name) for name in names]


def test_a_busy_service_is_asked_again(page: Page, portrait: Path) -> None:
    refusals = [{"status": 503, "headers": {"Retry-After": "1"}, "json": {"detail": "busy"}}] * 2
    page.route("**/predict?*", lambda route: route.fulfill(**refusals.pop()) if refusals else route.continue_())
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    assert refusals == []


def test_answers_are_saved_before_all_are_there(page: Page, portrait: Path, group: Path) -> None:
    asked = []

    def answer(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    page.route("**/predict?*", answer)
    upload(page, portrait, group)
    expect(page.locator("#status")).to_have_text("1 of 2 done")
    _, content = saved(page, "#json")
    (entry,) = json.loads(content)  # of the photograph that the browser has decoded first
    for number, path in enumerate((portrait, group)):
        page.click(f".tile >> nth={number}")
        expect(page.locator("#png")).to_be_enabled(enabled=entry["file"] == path.name)


def test_smoothing_averages_over_time(page: Page) -> None:
    """Answers that jump between two classes are shown as they are, or averaged."""
    labels = iter([*("happy", "sad") * 1000])
    page.route("**/predict?*", lambda route: route.fulfill(json=answer_of(next(labels))))
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    assert page.inner_text("#smooth-value") == "0.5 s"
    page.fill("#smooth", "0")
    page.wait_for_timeout(500)
    assert {share_of_happy(page) for _ in range(30)} == {0, 100}
    page.fill("#smooth", "2")
    assert any({30 < share_of_happy(page) < 70 for _ in range(30)} == {True} for _ in range(30))


def answer_of(label: str) -> dict[str, object]:
    face = {"box": [100, 100, 200, 200], "label": label, "score": 1, "confidence": 0.9, "tilt": 0, "heatmap": None}
    face["probabilities"] = {name: float(name == label) for name in CLASSES}
    return {"width": 510, "height": 480, "found": 1, "faces": [face], "milliseconds": 1}


def share_of_happy(page: Page) -> int:
    page.wait_for_timeout(30)
    return int(page.inner_text("#legend b[data-name=happy]").removesuffix(" %"))


def test_the_camera_can_be_chosen(page: Page) -> None:
    cameras = "[['a', 'Front'], ['b', 'Back']].map(([deviceId, label]) => ({ kind: 'videoinput', deviceId, label }))"
    page.evaluate(
        f"""() => {{
          const media = navigator.mediaDevices, own = media.getUserMedia.bind(media);
          window.asked = [];
          media.enumerateDevices = async () => {cameras};
          media.getUserMedia = (wanted) => {{
            window.asked.push(wanted.video.deviceId?.exact);
            return own({{ video: true }});
          }};
        }}"""
    )
    page.click("#webcam")
    expect(page.locator("#camera")).to_be_visible()
    assert page.locator("#camera option").all_inner_texts() == ["Front", "Back"]
    page.select_option("#camera", "b")
    until(page, "window.asked.length === 2")
    assert page.evaluate("window.asked") == [None, "b"]
    expect(page.locator(".face")).to_have_count(1)


# Comparison, sizes, addresses.


def test_networks_are_compared_by_short_names(browser: Browser, portrait: Path, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        shutil.copy(SHIPPED / "small.onnx", tmp_path / folder / "best.onnx")
    networks = [str(tmp_path / "first/best.onnx"), "small", str(tmp_path / "second/best.onnx")]
    with app("--ckpt", networks[0], "--compare", networks[1], "--compare", networks[2]) as address:
        assert httpx.get(f"{address}/health").json()["networks"] == ["best", "small", "best (2)"]
        wrong = httpx.post(f"{address}/predict?network=x", files={"image": b""}).json()["detail"]
        assert wrong == "network=x: not one of best, small, best (2)"
        with open_app(browser, address) as page:
            upload(page, portrait)
            expect(page.locator(".face")).to_have_count(1)
            assert page.locator(".card > table thead th").all_inner_texts() == ["mean", "best", "small", "best (2)"]
            rows = page.locator(".card > table tbody tr").all_inner_texts()
            for name, row in zip(("neutral", "sad"), rows, strict=True):
                assert row.split()[0] == name
                assert len({*re.findall(r"\d+ %", row)}) == 1  # the networks are the same
            assert str(tmp_path) not in page.content() + wrong
            _, content = saved(page, "#json")
            (answer,) = json.loads(content)
            assert list(answer["networks"]) == ["best", "small", "best (2)"]
            _, content = saved(page, "#csv")
            assert len(content.decode().splitlines()) == 2


def test_the_mean_of_different_networks_comes_first(portrait: Path, browser: Browser) -> None:
    with app("--compare", str(SHIPPED / "small.onnx")) as address, new_page(browser, 1200, 1000) as page:
        labels = {"small": "happy", "small (2)": "sad"}

        def answer(route: Route) -> None:
            name = httpx.URL(route.request.url).params["network"]
            content = answer_of(labels[name])
            (face,) = content["faces"]
            face["probabilities"] = dict.fromkeys(CLASSES, 0.0) | {"neutral": 0.4, labels[name]: 0.6}
            route.fulfill(json=content)

        page.goto(address)
        page.route("**/predict?*", answer)
        upload(page, portrait)
        expect(page.locator(".face h3")).to_contain_text("neutral? 40 %")
        page.click(".face summary")
        rows = page.locator(".card tbody tr").all_inner_texts()
        assert [row.split(maxsplit=1) for row in rows[:3]] == [
            ["neutral", "40 %\t40 %\t40 %"],
            ["happy", "30 %\t60 %\t0 %"],
            ["sad", "30 %\t0 %\t60 %"],
        ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(
    browser: Browser, address: str, portrait: Path, group: Path, film: Path, scheme: str
) -> None:
    with open_app(browser, address, 360, 740) as page:
        page.emulate_media(color_scheme=scheme)
        for files, shown in (([portrait], ".face"), ([film, portrait], "#timeline .person"), ([group], ".face")):
            upload(page, *files)
            expect(page.locator(shown).last).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.locator(".face")).to_have_count(6)
        assert page.evaluate("document.getElementById('image').getBoundingClientRect().right") <= 360
        top = page.evaluate("document.getElementById('result').getBoundingClientRect().top")
        assert top < 370  # the answer is in sight
        drawn, shown = page.evaluate(
            "(at => [at.width, at.clientWidth * devicePixelRatio])(document.querySelector('#image'))"
        )
        assert drawn == pytest.approx(shown, abs=1)  # letters are not scaled down


def test_links_and_version(page: Page, address: str) -> None:
    assert page.inner_text("h1") == "Facial expressions in photographs and films"
    assert page.inner_text("#version") == emotion.__version__
    links = page.eval_on_selector_all("a", "links => links.map(link => link.href)")
    assert links == [f"{address}/card", f"{address}/docs"]
    assert httpx.get(f"{address}/card").text == (SHIPPED / "small.md").read_text()
    assert httpx.get(f"{address}/docs").status_code == 200


def test_no_console_messages_and_no_requests_to_other_hosts(
    browser: Browser, portrait: Path, film: Path, address: str
) -> None:
    with new_page(browser, 1200, 1000) as page:
        addresses, messages = watch(page)
        page.goto(address)
        upload(page, portrait)
        expect(page.locator(".face")).to_have_count(1)
        assert f"{address}/predict?network=small&detect=true&heatmap=false" in addresses
        upload(page, film)
        expect(page.locator("#timeline .person")).to_have_count(1)
        page.click("#webcam")
        expect(page.locator(".face")).to_have_count(1)
        assert all(url.startswith((address, "data:", f"blob:{address}")) for url in addresses)
        assert messages == []


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "on this machine"), ("127.0.0.2", "at 127.0.0.2:{port}")])
def test_the_page_says_where_files_go(browser: Browser, host: str, where: str) -> None:
    with app("--host", host) as address, browser.new_page() as page:
        page.goto(address)
        expect(page.locator("#where")).to_have_text(where.format(port=address.rsplit(":", 1)[1]))


MANY = tuple(f"class {number}" for number in range(30))


@pytest.mark.parametrize("classes", [("2", "10", "1"), STRANGE, MANY])
def test_other_classes(browser: Browser, classes: tuple[str, ...], portrait: Path, film: Path, tmp_path: Path) -> None:
    """Photographs, films and the webcam of a network whose probabilities are all but even."""
    path = write_onnx(tmp_path / "own.onnx", classes)
    recognizer = emotion.load(path)
    (face,) = recognizer.predict(portrait)
    ranked = sorted(classes, key=lambda name: -face.probabilities[name])
    with app("--ckpt", str(path)) as address, open_app(browser, address) as page:
        _, messages = watch(page)
        upload(page, portrait)
        expect(page.locator(".face .name")).to_have_text(face.title)
        bars = page.locator(".face .bars").first
        expect(bars.locator("th")).to_have_text(ranked[:2])
        colours = bars.locator("i").evaluate_all("list => list.map(bar => getComputedStyle(bar).backgroundColor)")
        assert colours == [rgb(name, classes) for name in ranked[:2]]
        expect(page.locator(".face summary")).to_have_text(f"{len(classes) - 2} more")
        expect(page.locator(".face details th")).to_have_count(0 if len(classes) > 26 else len(classes) - 2)
        page.locator(".face summary").click()
        expect(page.locator(".face details th")).to_have_text(ranked[2:])
        expect(page.locator("#used")).to_contain_text(f"Expressions: {', '.join(classes)}.")
        expect(page.locator("a", has_text="Model card")).to_be_hidden()
        _, content = saved(page, "#csv")
        expected = io.StringIO()
        writer = CsvWriter(expected, False, classes)
        writer.write(Record(portrait.name, [face]))
        assert numbers(content.decode()) == numbers(expected.getvalue())
        upload(page, film)
        expect(page.locator("#timeline .person")).to_have_count(1)
        if len(classes) <= 12:
            expect(page.locator("#timeline .legend li")).to_have_text([*classes])
        _, content = saved(page, "#film-csv")
        expected = io.StringIO()
        writer = CsvWriter(expected, True, classes)
        for frame in emotion.analyze_video(film, recognizer):
            writer.write(Record(film.name, frame.faces, frame.number, frame.second))
        assert numbers(content.decode()) == numbers(expected.getvalue())
        page.click("#webcam")
        expect(page.locator(".face")).to_have_count(1)
        expect(page.locator("#legend li")).to_have_count(min(len(classes), 12))
        if len(classes) <= 12:
            shown = page.locator("#legend li").all_inner_texts()
            assert [re.sub(r"\s*\d+ %$", "", text) for text in shown] == [*classes]
        page.click("#webcam")
        assert messages == []


def test_a_webcam_that_is_ended_while_it_starts_stays_ended(browser: Browser) -> None:
    with app() as address, open_app(browser, address) as page:
        _, messages = watch(page)
        page.evaluate(
            "() => { const list = navigator.mediaDevices.enumerateDevices.bind(navigator.mediaDevices);"
            " navigator.mediaDevices.enumerateDevices = () => new Promise(done => setTimeout(done, 500)).then(list); }"
        )
        page.click("#webcam")
        # The page's Content-Security-Policy forbids Playwright's own waiting for an expression.
        page.evaluate(
            "async () => { const video = document.getElementById('video');"
            " for (let turn = 0; turn < 500 && video.srcObject === null; turn++)"
            " await new Promise(done => setTimeout(done, 20)); }"
        )
        page.click("#webcam")
        page.wait_for_timeout(1000)
        expect(page.locator("#webcam")).to_have_text("Start the webcam")
        assert page.evaluate("document.getElementById('video').srcObject.getTracks()[0].readyState") == "ended"
        assert messages == []


def test_two_classes_are_unsure_unless_one_is_twice_as_probable(
    browser: Browser, portrait: Path, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "two.onnx", ("yes", "no"))
    (face,) = emotion.load(path).predict(portrait)
    assert 0.5 < face.score < 0.66
    with app("--ckpt", str(path)) as address, open_app(browser, address) as page:
        upload(page, portrait)
        expect(page.locator(".face .name")).to_have_text(f"{face.label}?")
        expect(page.locator(".face .unsure")).to_be_visible()
        expect(page.locator(".face details")).to_be_hidden()


def test_networks_of_different_classes_are_not_compared(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "own.onnx", THREE)
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--ckpt", str(path), "--compare", "small"]
    result = subprocess.run(command, capture_output=True, text=True)
    expected = f"error: {path} and small have different classes: {', '.join(THREE)}; {', '.join(CLASSES)}\n"
    assert (result.returncode, result.stderr) == (2, expected)
