"""The page in a real browser with a camera that is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import EXECUTABLE, Chromium
from numpy.typing import NDArray
from PIL import Image

from emotion.pretrained import SHIPPED

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")]
FAKE_CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream --use-file-for-fake-video-capture="


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
def chromium(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Iterator[Chromium]:
    folder = tmp_path_factory.mktemp("browser")
    camera = folder / "camera.mjpeg"
    with camera.open("wb") as file:
        for step in range(10):
            Image.fromarray(np.roll(pixels, 3 * step, 1)[:480, :510]).save(file, "JPEG")
    with Chromium(folder / "profile", f"{FAKE_CAMERA}{camera}") as browser:
        yield browser


@pytest.fixture
def page(chromium: Chromium, address: str) -> Chromium:
    chromium.resize(1200, 1000)
    chromium.scheme("light")
    chromium.open(address)
    until(chromium, "document.querySelectorAll('#samples img').length === 4 && document.images[3].complete")
    return chromium


def until(page: Chromium, condition: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not page.run(f"Boolean({condition})"):
        assert time.monotonic() < end, f"{condition}: {page.run('document.body.innerText')}"
        time.sleep(0.1)


def text(page: Chromium, selector: str) -> str:
    return str(page.run(f"document.querySelector({selector!r}).innerText"))


def upload(page: Chromium, path: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def test_a_picture_gets_its_boxes_bars_and_heatmap(page: Chromium, portrait: Path) -> None:
    upload(page, portrait)
    until(page, "document.querySelector('.face')")
    assert re.fullmatch(r"One face: neutral \d\d %\.", text(page, "#summary"))
    rows = text(page, ".bars").split("\n")
    assert rows[0::2] == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    for shown in rows[1::2]:
        first, second = (int(value) for value in re.findall(r"(\d+) %", shown))
        assert abs(first - second) <= 1  # the two networks are the same
    assert text(page, ".key").split() == ["small", "small.safetensors"]
    drawn = "document.getElementById('picture').toDataURL()"
    plain = page.run(drawn)
    page.click("#heatmap")
    assert page.run(drawn) != plain


def test_samples(page: Chromium) -> None:
    for number, word in ((1, "happy"), (2, "surprise")):
        page.click(f"#samples li:nth-child({number}) button")
        until(page, f"document.getElementById('summary').textContent.includes('One face: {word}')")
        assert page.run("document.getElementById('whole').checked") is (number == 2)


@pytest.mark.parametrize("own", [False, True])
def test_samples_leave_the_users_own_choice_alone(page: Chromium, portrait: Path, own: bool) -> None:
    if own:
        page.click("#whole")
    page.click("#samples li:nth-child(2) button")
    until(page, "document.getElementById('credit').textContent.includes('surprised')")
    upload(page, portrait)
    until(page, "!document.getElementById('credit').textContent")
    assert page.run("document.getElementById('whole').checked") is own
    asked = [event for event in page.events if event["method"] == "Network.requestWillBeSent"]
    assert f"detect={str(not own).lower()}" in asked[-1]["params"]["request"]["url"]


def test_the_webcam_keeps_the_users_own_choice(page: Chromium) -> None:
    page.click("#samples li:nth-child(2) button")
    until(page, "document.querySelector('.face')")
    page.click("#webcam")
    until(page, "document.getElementById('webcam').textContent.startsWith('Stop')")
    assert page.run("document.getElementById('whole').checked") is False
    page.click("#webcam")


def test_without_a_webcam_it_says_so(page: Chromium) -> None:
    missing = "Promise.reject(new DOMException('', 'NotFoundError'))"
    page.run(f"void (navigator.mediaDevices.getUserMedia = () => {missing})")
    page.click("#webcam")
    until(page, "document.getElementById('message').textContent === 'No webcam was found.'")


def test_of_very_many_faces_it_says_how_many_are_judged(page: Chromium, portrait: Path, tmp_path: Path) -> None:
    with Image.open(portrait) as image:
        one = np.asarray(image.convert("RGB").resize((90, 105)))
    Image.fromarray(np.tile(one, (6, 10, 1))).save(tmp_path / "many.png")
    upload(page, tmp_path / "many.png")
    until(page, "document.querySelector('.face')")
    assert text(page, "#summary").startswith("The 50 largest of 60 faces are judged: ")


def test_the_webcam_is_watched_until_it_is_stopped(page: Chromium) -> None:
    page.click("#webcam")
    until(page, "document.querySelector('.face') && document.getElementById('summary').textContent.includes('%')")
    curve = "document.getElementById('curve').toDataURL()"
    before = page.run(curve)
    until(page, f"{curve} !== {json.dumps(before)}")
    assert text(page, "#webcam") == "Stop the webcam"
    page.click("#webcam")
    assert text(page, "#webcam") == "Start the webcam"
    time.sleep(2)  # for the last answer to come
    stopped = page.run(curve)
    time.sleep(1)
    assert page.run(curve) == stopped


def test_what_is_no_picture_gets_a_sentence_and_no_result(page: Chromium, portrait: Path, tmp_path: Path) -> None:
    upload(page, portrait)
    until(page, "document.querySelector('.face')")
    bad = tmp_path / "<img src=x onerror=document.title=1>.png"
    bad.write_bytes(b"no image")
    upload(page, bad)
    until(page, "!document.getElementById('message').hidden")
    assert text(page, "#message") == f"{bad.name}: not an image that can be read"
    assert page.run("document.getElementById('result').hidden")
    assert page.run("document.title") == "emotion"


def test_a_picture_without_faces_says_so(page: Chromium, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), "#336699").save(tmp_path / "blue.png")
    upload(page, tmp_path / "blue.png")
    until(page, "document.getElementById('summary').textContent.startsWith('No face found')")
    page.click("#whole")
    until(page, "document.querySelector('.face')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Chromium, portrait: Path, scheme: str) -> None:
    page.scheme(scheme)
    page.resize(360, 740)
    upload(page, portrait)
    until(page, "document.querySelector('.face')")
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("document.getElementById('picture').getBoundingClientRect().right") <= 360


def test_the_keyboard_reaches_everything(page: Chromium) -> None:
    reached = []
    for _ in range(8):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id || document.activeElement.querySelector('img')?.alt"))
    assert reached[:2] == ["file", "webcam"]
    assert reached[-2:] == ["whole", "heatmap"]
    assert all(reached)
    page.press(" ", 32, " ")
    assert page.run("document.getElementById('heatmap').checked")


def test_it_complains_of_nothing_and_asks_no_other_host(page: Chromium, portrait: Path, address: str) -> None:
    upload(page, portrait)
    until(page, "document.querySelector('.face')")
    asked = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert f"{address}/predict?network=small&detect=true&heatmap=true" in asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    kinds = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    assert [event for event in page.events if event["method"] in kinds] == []


@pytest.mark.parametrize(("host", "where"), [("127.0.0.1", "on this machine"), ("127.0.0.2", "at 127.0.0.2:{port}")])
def test_the_page_says_where_pictures_go(chromium: Chromium, host: str, where: str) -> None:
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0", "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        chromium.open(address)
        expected = where.format(port=address.rsplit(":", 1)[1])
        until(chromium, f"document.getElementById('where').textContent === '{expected}'")
        process.terminate()
