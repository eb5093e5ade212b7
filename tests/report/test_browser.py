"""The page in a real browser: it loads nothing, sorts tables, enlarges images, fits a phone, prints folded content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import EXECUTABLE, chromium, new_page, watch
from PIL import Image
from playwright.sync_api import Browser, Page

from emotion.analysis.document import (
    Cell,
    Details,
    Document,
    Heading,
    ImageBlock,
    Paragraph,
    Table,
    to_html,
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")]

ROWS = [
    ("cnn 10", "0.6243 ± 0.0021", Cell("agrees", tone="good")),
    (Cell("vgg", "a note", target="Folded section"), "-0.5", ""),
    ("cnn 9", Cell("not run", tone="quiet"), "lower"),
    ("resnet", "1,234", "higher"),
    ("dense", "< 0.001", "higher"),
]
OPEN = "document.querySelector('details').open"
FIRST_COLUMN = "[...document.querySelector('tbody').rows].map(row => row.cells[0].firstChild.textContent)"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    Image.new("RGB", (1500, 400), "orange").save(folder / "wide.png")
    document = Document(
        "Title",
        [
            Paragraph("The lead.", lead=True),
            Heading("Table"),
            Table(("Network", "Accuracy", "Verdict"), "lrl", ROWS, footer=[("mean", "0.1", "")]),
            Heading("Figures"),
            ImageBlock("A wide image", folder / "wide.png"),
            ImageBlock("Another", folder / "wide.png"),
            Details("Folded section", [Paragraph("Hidden text")]),
            *(Paragraph("word " * 200) for _ in range(5)),
        ],
        contents=True,
    )
    path = folder / "page.html"
    path.write_text(to_html(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, written: Path) -> Iterator[Callable[[int], Page]]:
    """Opens the page on a light screen of a width in pixels."""
    pages: list[Page] = []

    def open_page(width: int) -> Page:
        pages.append(new_page(browser, width, 800))
        pages[-1].goto(written.as_uri())
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture
def page(open_page: Callable[[int], Page]) -> Page:
    """The page on a large screen."""
    return open_page(1400)


def test_page_loads_nothing_and_logs_nothing(browser: Browser, written: Path) -> None:
    with new_page(browser, 1400, 800) as page:
        addresses, messages = watch(page)
        page.goto(written.as_uri())
        page.click("th button >> nth=0")
        page.click("figure button >> nth=0")
        assert {url for url in addresses if not url.startswith("data:")} == {written.as_uri()}
        assert messages == []
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:1/>')")
        page.wait_for_timeout(100)
        assert messages, "a violation of the policy is seen here"


def test_policy_stops_foreign_script(page: Page) -> None:
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.foreign = 1\">')")
    page.evaluate(
        "(() => {const s = document.createElement('script'); s.text = 'window.foreign = 1'; document.body.append(s)})()"
    )
    assert page.evaluate("new Promise(done => setTimeout(() => done(window.foreign ?? 'stopped'), 100))") == "stopped"


def test_numbers_sort_by_value_and_missing_values_come_last(page: Page) -> None:
    page.click("th:nth-child(2) button")
    assert page.evaluate(FIRST_COLUMN) == ["vgg", "dense", "cnn 10", "resnet", "cnn 9"]
    assert page.evaluate("[...document.querySelectorAll('th')].map(head => head.ariaSort)") == [
        "none",
        "ascending",
        "none",
    ]
    page.click("th:nth-child(2) button")
    assert page.evaluate(FIRST_COLUMN) == ["resnet", "cnn 10", "dense", "vgg", "cnn 9"]
    assert page.evaluate("document.querySelector('th:nth-child(2)').ariaSort") == "descending"
    assert page.evaluate("document.querySelector('tfoot').rows.length") == 1


def test_text_sorts_alphabetically_and_numbers_in_it_by_value(page: Page) -> None:
    page.click("th:nth-child(1) button")
    assert page.evaluate(FIRST_COLUMN) == ["cnn 9", "cnn 10", "dense", "resnet", "vgg"]
    page.click("th:nth-child(3) button")
    assert page.evaluate(FIRST_COLUMN) == ["cnn 10", "dense", "resnet", "cnn 9", "vgg"]
    assert page.evaluate("document.querySelector('th').ariaSort") == "none"


def test_tables_sort_by_keyboard(page: Page) -> None:
    page.focus("th:nth-child(2) button")
    page.keyboard.press("Enter")
    assert page.evaluate(FIRST_COLUMN)[0] == "vgg"


def test_image_enlarges_and_closes_by_click(page: Page) -> None:
    width = "document.querySelector('{} img').getBoundingClientRect().width"
    before = page.evaluate(width.format("figure"))
    page.click("figure button >> nth=0")
    assert page.evaluate("document.querySelector('dialog').open")
    assert page.evaluate(width.format("dialog")) > before
    assert page.get_attribute("dialog img", "alt") == "A wide image"
    page.click("dialog img")
    assert not page.evaluate("document.querySelector('dialog').open")


def test_image_enlarges_by_keyboard_and_the_focus_returns(page: Page) -> None:
    page.focus("figure button >> nth=1")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('dialog').open")
    assert page.get_attribute("dialog img", "alt") == "Another"
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('dialog').open")
    assert page.evaluate("document.activeElement === document.querySelectorAll('figure button')[1]")


def test_link_unfolds_its_target(page: Page) -> None:
    assert not page.evaluate("document.querySelector('details').open")
    page.click("td a")
    assert page.evaluate("document.querySelector('details').open")


@pytest.mark.parametrize("width", [360, 400, 800, 1400])
def test_page_is_never_wider_than_the_screen(open_page: Callable[[int], Page], width: int) -> None:
    assert open_page(width).evaluate("document.documentElement.scrollWidth") <= width


def test_enlarged_image_is_wider_than_a_phone(open_page: Callable[[int], Page]) -> None:
    phone = open_page(400)
    phone.click("figure button >> nth=0")
    assert phone.evaluate("document.querySelector('dialog img').getBoundingClientRect().width") > 800


def test_page_follows_the_dark_colour_scheme(page: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == "rgb(20, 25, 31)"


def test_contents_stand_beside_the_text_on_large_screens(page: Page, open_page: Callable[[int], Page]) -> None:
    boxes = "['nav', 'main', 'header'].map(tag => document.querySelector(tag).getBoundingClientRect())"
    right, left = page.evaluate(f"(boxes => [boxes[0].right, boxes[1].left])({boxes})")
    assert right <= left
    tops = open_page(400).evaluate(f"{boxes}.map(box => box.top)")
    assert tops[2] < tops[0] < tops[1], "below the lead, above the text"


def test_printing_unfolds_all_sections(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelector('details').open")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("document.querySelector('details').open")


def test_a_link_unfolds_its_target_in_every_browser(open_page: Callable[[int], Page]) -> None:
    """Chromium does so itself when it goes to a target; the page must not depend on it."""
    page = open_page(800)
    page.evaluate("history.replaceState(null, '', document.querySelector('td a').hash)")
    assert not page.evaluate(OPEN)
    page.evaluate("void dispatchEvent(new Event('hashchange'))")
    assert page.evaluate(OPEN)
    page.evaluate("void (document.querySelector('details').open = false)")
    page.evaluate("document.querySelector('td a').addEventListener('click', event => event.preventDefault())")
    page.click("td a")  # the same target again
    assert page.evaluate(OPEN)
