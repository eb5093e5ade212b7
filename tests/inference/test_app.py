"""The page in a real browser with a fake camera."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import EXECUTABLE, chromium, new_page, watch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from emotion.palette import EXPRESSIONS, INK
from emotion.shipped import SHIPPED

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")]
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The app with two networks, run as a user would."""
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0"]
    compared = ["--compare", str(SHIPPED / "small.safetensors")]
    with subprocess.Popen([*command, *compared], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Iterator[Browser]:
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with camera.open("wb") as file:
        for step in range(10):
            Image.fromarray(np.roll(pixels, 3 * step, 1)[:480, :510]).save(file, "JPEG")
    with chromium(*FAKE_CAMERA, f"--use-file-for-fake-video-capture={camera}") as browser:
        yield browser


def open_app(browser: Browser, address: str, width: int = 1200, height: int = 1000) -> Page:
    page = new_page(browser, width, height)
    page.goto(address)
    expect(page.locator("#samples img")).to_have_count(4)
    until(page, "document.images[3].complete")
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with open_app(browser, address) as page:
        yield page


def until(page: Page, condition: str, seconds: float = 30) -> None:
    """Waits for a condition, in the test, since the page's content policy forbids evaluating code in the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, f"{condition}: {page.inner_text('body')}"
        page.wait_for_timeout(100)


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)


def test_an_image_gets_boxes_bars_and_a_heatmap(page: Page, portrait: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    expect(page.locator("#summary")).to_have_text(re.compile(r"^One face: neutral \d\d %\.$"))
    rows = page.inner_text(".bars").split("\n")
    assert rows[0::2] == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    for shown in rows[1::2]:
        first, second = (int(value) for value in re.findall(r"(\d+) %", shown))
        assert abs(first - second) <= 1  # the two networks are the same
    assert page.inner_text(".key").split() == ["small", "small.safetensors"]
    drawn = "document.getElementById('image').toDataURL()"
    plain = page.evaluate(drawn)
    page.click("#heatmap")
    assert page.evaluate(drawn) != plain


def test_colours_are_those_of_the_palette(page: Page) -> None:
    strokes = page.eval_on_selector_all("#legend line", "lines => lines.map(line => line.getAttribute('stroke'))")
    assert strokes == [stroke for colour in EXPRESSIONS.values() for stroke in (INK, colour)]


def test_samples_are_classified(page: Page) -> None:
    for number, label in ((1, "happy"), (2, "surprise")):
        page.click(f"#samples li:nth-child({number}) button")
        expect(page.locator("#summary")).to_contain_text(f"One face: {label}")
        assert page.is_checked("#single-face") is (number == 2)


@pytest.mark.parametrize("single_face", [False, True])
def test_samples_keep_the_users_choice(page: Page, portrait: Path, single_face: bool) -> None:
    addresses, _ = watch(page)
    if single_face:
        page.click("#single-face")
    page.click("#samples li:nth-child(2) button")
    expect(page.locator("#credit")).to_contain_text("surprised")
    upload(page, portrait)
    expect(page.locator("#credit")).to_be_empty()
    assert page.is_checked("#single-face") is single_face
    assert f"detect={str(not single_face).lower()}" in addresses[-1]


def test_the_webcam_keeps_the_users_choice(page: Page) -> None:
    page.click("#samples li:nth-child(2) button")
    expect(page.locator(".face")).to_have_count(1)
    page.click("#webcam")
    expect(page.locator("#webcam")).to_contain_text("Stop")
    assert not page.is_checked("#single-face")


def test_a_missing_webcam_gets_a_message(page: Page) -> None:
    missing = "Promise.reject(new DOMException('', 'NotFoundError'))"
    page.evaluate(f"void (navigator.mediaDevices.getUserMedia = () => {missing})")
    page.click("#webcam")
    expect(page.locator("#message")).to_have_text("No webcam was found.")


def test_the_summary_counts_the_faces_beyond_the_limit(page: Page, portrait: Path, tmp_path: Path) -> None:
    with Image.open(portrait) as image:
        one = np.asarray(image.convert("RGB").resize((90, 105)))
    Image.fromarray(np.tile(one, (6, 10, 1))).save(tmp_path / "many.png")
    upload(page, tmp_path / "many.png")
    expect(page.locator("#summary")).to_contain_text(re.compile("^The 50 largest of 60 faces are classified: "))


def test_webcam_frames_are_classified_until_it_is_stopped(page: Page) -> None:
    page.click("#webcam")
    expect(page.locator(".face")).to_have_count(1)
    expect(page.locator("#summary")).to_contain_text("%")
    curve = "document.getElementById('curve').toDataURL()"
    before = page.evaluate(curve)
    end = time.monotonic() + 30
    while page.evaluate(curve) == before:
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    expect(page.locator("#webcam")).to_have_text("Stop the webcam")
    page.click("#webcam")
    expect(page.locator("#webcam")).to_have_text("Start the webcam")
    page.wait_for_timeout(2000)  # until the last answer has arrived
    stopped = page.evaluate(curve)
    page.wait_for_timeout(1000)
    assert page.evaluate(curve) == stopped


def test_an_unreadable_file_gets_a_message_and_no_result(page: Page, portrait: Path, tmp_path: Path) -> None:
    upload(page, portrait)
    expect(page.locator(".face")).to_have_count(1)
    bad = tmp_path / "<img src=x onerror=document.title=1>.png"
    bad.write_bytes(b"no image")
    upload(page, bad)
    expect(page.locator("#message")).to_have_text(f"{bad.name}: not an image that can be read")
    expect(page.locator("#message")).to_be_visible()
    expect(page.locator("#result")).to_be_hidden()
    assert page.title() == "emotion"


def test_an_image_without_faces_gets_a_message(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), "#336699").save(tmp_path / "blue.png")
    upload(page, tmp_path / "blue.png")
    expect(page.locator("#summary")).to_contain_text(re.compile("^No face detected"))
    page.click("#single-face")
    expect(page.locator(".face")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(browser: Browser, address: str, portrait: Path, scheme: str) -> None:
    with open_app(browser, address, 360, 740) as page:
        page.emulate_media(color_scheme=scheme)
        upload(page, portrait)
        expect(page.locator(".face")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.getElementById('image').getBoundingClientRect().right") <= 360


def test_the_keyboard_reaches_everything(page: Page) -> None:
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.querySelector('img')?.alt"))
    assert reached[:2] == ["file", "webcam"]
    assert reached[-2:] == ["single-face", "heatmap"]
    assert all(reached)
    page.keyboard.press(" ")
    assert page.is_checked("#heatmap")


def test_no_console_messages_and_no_requests_to_other_hosts(browser: Browser, portrait: Path, address: str) -> None:
    with new_page(browser, 1200, 1000) as page:
        addresses, messages = watch(page)
        page.goto(address)
        upload(page, portrait)
        expect(page.locator(".face")).to_have_count(1)
        assert f"{address}/predict?network=small&detect=true&heatmap=true" in addresses
        assert all(url.startswith((address, "data:", "blob:")) for url in addresses)
        assert messages == []


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "on this machine"), ("127.0.0.2", "at 127.0.0.2:{port}")])
def test_the_page_says_where_images_go(browser: Browser, host: str, where: str) -> None:
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0", "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, browser.new_page() as page:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        page.goto(address)
        expect(page.locator("#where")).to_have_text(where.format(port=address.rsplit(":", 1)[1]))
        process.terminate()
