"""The page in a real browser: it loads nothing, sorts, enlarges, fits a phone, prints what is folded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Chromium
from PIL import Image

from emotion.analysis.document import (
    Cell,
    Details,
    Document,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")]

ROWS = [
    ("cnn 10", "0.6243 ± 0.0021", Cell("agrees", tone="good")),
    (Cell("vgg", "a note", target="In the depth"), "-0.5", ""),
    ("cnn 9", Cell("not run", tone="quiet"), "lower"),
    ("resnet", "1,234", "higher"),
    ("dense", "< 0.001", "higher"),
]
FIRST_COLUMN = "[...document.querySelector('tbody').rows].map(row => row.cells[0].firstChild.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    Image.new("RGB", (1500, 400), "orange").save(folder / "wide.png")
    document = Document(
        "Title",
        [
            Paragraph("The lead.", lead=True),
            Heading("Table"),
            Table(("Network", "Accuracy", "Verdict"), "lrl", ROWS, footer=[("mean", "0.1", "")]),
            Heading("Pictures"),
            Picture("A wide picture", folder / "wide.png"),
            Picture("Another", folder / "wide.png"),
            Details("In the depth", [Paragraph("Hidden words")]),
            *(Paragraph("word " * 200) for _ in range(5)),
        ],
        contents=True,
    )
    path = folder / "page.html"
    path.write_text(to_html(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium, page: Path) -> Chromium:
    """The page, loaded anew on a large light screen."""
    chromium.resize(1400, 900)
    chromium.scheme("light")
    chromium.open(page)
    return chromium


def test_page_loads_nothing_and_complains_of_nothing(browser: Chromium, page: Path) -> None:
    browser.click("th button")
    browser.click("figure button")
    requested = [event["params"]["request"]["url"] for event in browser.events if "request" in event["params"]]
    assert {url for url in requested if not url.startswith("data:")} == {page.as_uri()}
    assert not [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled")]
    assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]


def test_policy_stops_foreign_script(browser: Chromium) -> None:
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.foreign = 1\">')")
    browser.run(
        "(() => {const s = document.createElement('script'); s.text = 'window.foreign = 1'; document.body.append(s)})()"
    )
    assert browser.run("new Promise(done => setTimeout(() => done(window.foreign ?? 'stopped'), 100))") == "stopped"


def test_numbers_sort_by_value_and_what_is_missing_comes_last(browser: Chromium) -> None:
    browser.click("th:nth-child(2) button")
    assert browser.run(FIRST_COLUMN) == ["vgg", "dense", "cnn 10", "resnet", "cnn 9"]
    assert browser.run("[...document.querySelectorAll('th')].map(head => head.ariaSort)") == [
        "none",
        "ascending",
        "none",
    ]
    browser.click("th:nth-child(2) button")
    assert browser.run(FIRST_COLUMN) == ["resnet", "cnn 10", "dense", "vgg", "cnn 9"]
    assert browser.run("document.querySelector('th:nth-child(2)').ariaSort") == "descending"
    assert browser.run("document.querySelector('tfoot').rows.length") == 1


def test_text_sorts_by_the_alphabet_and_the_numbers_in_it(browser: Chromium) -> None:
    browser.click("th:nth-child(1) button")
    assert browser.run(FIRST_COLUMN) == ["cnn 9", "cnn 10", "dense", "resnet", "vgg"]
    browser.click("th:nth-child(3) button")
    assert browser.run(FIRST_COLUMN) == ["cnn 10", "dense", "resnet", "cnn 9", "vgg"]
    assert browser.run("document.querySelector('th').ariaSort") == "none"


def test_keyboard_sorts_too(browser: Chromium) -> None:
    browser.run("document.querySelector('th:nth-child(2) button').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.run(FIRST_COLUMN)[0] == "vgg"


def test_picture_enlarges_by_click_and_closes_by_click(browser: Chromium) -> None:
    width = "document.querySelector('{} img').getBoundingClientRect().width"
    before = browser.run(width.format("figure"))
    browser.click("figure button")
    assert browser.run("document.querySelector('dialog').open")
    assert browser.run(width.format("dialog")) > before
    assert browser.run("document.querySelector('dialog img').alt") == "A wide picture"
    browser.click("dialog img")
    assert not browser.run("document.querySelector('dialog').open")


def test_picture_enlarges_by_keyboard_and_the_focus_returns(browser: Chromium) -> None:
    browser.run("document.querySelectorAll('figure button')[1].focus()")
    browser.press("Enter", 13, "\r")
    assert browser.run("document.querySelector('dialog').open")
    assert browser.run("document.querySelector('dialog img').alt") == "Another"
    browser.press("Escape", 27)
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.run("document.activeElement === document.querySelectorAll('figure button')[1]")


def test_link_unfolds_what_it_leads_to(browser: Chromium) -> None:
    assert not browser.run("document.querySelector('details').open")
    browser.click("td a")
    assert browser.run("document.querySelector('details').open")


@pytest.mark.parametrize("width", [360, 400, 800, 1400])
def test_page_is_never_wider_than_the_screen(browser: Chromium, width: int) -> None:
    browser.resize(width, 800)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_phone_shows_an_enlarged_picture_larger_than_itself(browser: Chromium) -> None:
    browser.resize(400, 800)
    browser.click("figure button")
    assert browser.run("document.querySelector('dialog img').getBoundingClientRect().width") > 800


def test_page_is_dark_for_those_who_like_it_dark(browser: Chromium) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(background) == "rgb(255, 255, 255)"
    browser.scheme("dark")
    assert browser.run(background) == "rgb(20, 25, 31)"


def test_contents_stand_beside_the_text_on_large_screens(browser: Chromium) -> None:
    boxes = "['nav', 'main', 'header'].map(tag => document.querySelector(tag).getBoundingClientRect())"
    right, left = browser.run(f"(boxes => [boxes[0].right, boxes[1].left])({boxes})")
    assert right <= left
    browser.resize(400, 800)
    tops = browser.run(f"{boxes}.map(box => box.top)")
    assert tops[2] < tops[0] < tops[1], "below the lead, above the text"


def test_print_unfolds_everything(browser: Chromium) -> None:
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelector('details').open")
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert not browser.run("document.querySelector('details').open")
