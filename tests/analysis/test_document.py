"""Tests of the two renderers; `tests/report/test_browser.py` tries the page in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from emotion.analysis.document import (
    Block,
    Cell,
    Details,
    Document,
    Heading,
    ImageBlock,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)

HOSTILE = "a|b`c`<img src=x onerror=alert(1)> # d [e](javascript:1) *f* __g__ $h$ \\| &amp; \"i\" 'j'"
HOSTILE_MARKDOWN = (
    r"a\|b\`c\`&lt;img src=x onerror=alert(1)&gt; \# d \[e\](javascript:1) \*f\* \_\_g\_\_ &#36;h&#36; "
    r"\\\| &amp;amp; " + "\"i\" 'j'"
)
TABLE = Table(
    ("Run", "Accuracy"),
    "lr",
    [("cnn", Cell("0.6100", "3 seeds")), (Cell("vgg", target="VGG16, unfrozen"), Cell("-0.5", tone="low"))],
    footer=[("mean", "0.1")],
)


class Page(HTMLParser):
    """Collects the tags, the text, and the rows of cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(*blocks: Block, title: str = "Title", contents: bool = False) -> Page:
    return Page(to_html(Document(title, blocks, contents)))


def markdown(*blocks: Block, title: str = "Title", contents: bool = False, folder: Path = Path()) -> str:
    return to_markdown(Document(title, blocks, contents), folder)


def rendered(text: str) -> Page:
    """Reads markdown with a parser that follows CommonMark and GitHub's tables."""
    return Page(MarkdownIt("commonmark").enable("table").render(text))


def test_markdown_of_every_block() -> None:
    blocks = [
        Paragraph("First.", lead=True),
        Heading("VGG16, unfrozen"),
        TABLE,
        Details("More", [Heading("Inner", 3), Paragraph("Last.")]),
    ]
    assert markdown(*blocks) == (
        "# Title\n\n**First.**\n\n## VGG16, unfrozen\n\n"
        "| Run | Accuracy |\n| --- | ---: |\n| cnn | 0.6100<br>3 seeds |\n| [vgg](#vgg16-unfrozen) | -0.5 |\n"
        "| mean | 0.1 |\n\n"
        '<details><summary>More</summary><a id="more"></a>\n\n### Inner\n\nLast.\n\n</details>\n'
    )


def test_both_renderers_show_the_same_rows() -> None:
    expected = [["Run", "Accuracy"], ["cnn", "0.61003 seeds"], ["vgg", "-0.5"], ["mean", "0.1"]]
    assert page(TABLE).rows == expected
    assert rendered(markdown(TABLE)).rows == expected


def test_private_paths_and_undecodable_bytes_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers the home folder's path, and bytes that UTF-8 cannot express."""
    monkeypatch.setenv("HOME", "/home/al_ice")
    text = "/home/al_ice/runs/n\udcff"
    inner = [Table((text,), "l", [(Cell(text, text, target=text),)]), Paragraph(text)]
    blocks = [Paragraph(text, lead=True), Heading(text), Details(f"{text} more", inner)]
    for written in (markdown(*blocks, title=text, contents=True), to_html(Document(text, blocks, contents=True))):
        written.encode()
        assert written.count("runs/n") >= 9
        assert "al_ice" not in written
        assert "~/runs/n" in written.replace("\\~", "~")


def test_hostile_text_is_escaped_in_markdown(tmp_path: Path) -> None:
    text = markdown(
        Heading(HOSTILE),
        Table((HOSTILE,), "l", [(Cell(HOSTILE, HOSTILE),)]),
        ImageBlock(HOSTILE, tmp_path / "a b)|<c>.png"),
        title=HOSTILE,
        folder=tmp_path,
    )
    assert text == (
        f"# {HOSTILE_MARKDOWN}\n\n## {HOSTILE_MARKDOWN}\n\n| {HOSTILE_MARKDOWN} |\n| --- |\n"
        f"| {HOSTILE_MARKDOWN}<br>{HOSTILE_MARKDOWN} |\n\n![{HOSTILE_MARKDOWN}](a%20b%29%7C%3Cc%3E.png)\n"
    )


def test_readers_see_hostile_text_unchanged() -> None:
    blocks = [Heading(HOSTILE), Paragraph(HOSTILE), Table((HOSTILE,), "l", [(HOSTILE,)])]
    for shown in (page(*blocks, title=HOSTILE), rendered(markdown(*blocks, title=HOSTILE))):
        assert "".join(shown.texts).count(HOSTILE) == len(shown.attributes("title")) + 5
        assert not shown.attributes("img")[1:], "the only image is that of the dialog"
    assert shown.rows == [[HOSTILE], [HOSTILE]]


def test_line_breaks_in_text_end_neither_a_cell_nor_a_heading() -> None:
    assert "\n## a b\n" in markdown(Heading("a\n\nb"))
    assert "\n| a \\# b |" in markdown(Table(("x",), "l", [("a\n# b",)]))


def test_summary_stays_one_line_of_html() -> None:
    text = markdown(Details("a\n\n**b** <script>", [Paragraph("inside")]))
    assert "<details><summary>a **b** &lt;script&gt;</summary>" in text
    assert "script" not in [tag for tag, _ in rendered(text).tags]


def test_table_without_rows_keeps_its_body() -> None:
    assert len(page(Table(("Run", "Accuracy"), "lr", [])).attributes("tbody")) == 1, "sorting needs it"


def test_text_cannot_close_the_page_s_own_tags(tmp_path: Path) -> None:
    hostile = '</title></style></summary></details><script>alert(1)</script>"><img src=x onerror=alert(1)>'
    file = tmp_path / "a.png"
    file.write_bytes(b"")
    shown = page(
        Heading(hostile),
        Details(hostile, [Paragraph(hostile)]),
        Table((hostile,), "r", [(Cell(hostile, hostile, "low", hostile),)]),
        ImageBlock(hostile, file),
        title=hostile,
        contents=True,
    )
    assert len(shown.attributes("script")) == 1
    assert shown.attributes("img") == [{"alt": hostile, "src": "data:image/png;base64,"}, {"alt": ""}]
    assert shown.texts.count(hostile) == 10


def test_page_embeds_its_images_and_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "curves.png"
    file.write_bytes(bytes(range(256)))
    text = to_html(Document("Title", [ImageBlock("Learning curves", file)]))
    source = Page(text).attributes("img")[0]["src"]
    assert source is not None
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == bytes(range(256))
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    assert [link["href"] for link in Page(text).attributes("link")] == ["data:,"]


def test_only_the_page_s_own_style_and_script_may_run() -> None:
    text = to_html(Document("Title", [TABLE]))
    policy = next(tag["content"] for tag in Page(text).attributes("meta") if "http-equiv" in tag)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<[^>]* (style|on\w+)=", text), "the policy would block it"


def test_consecutive_images_stand_side_by_side(tmp_path: Path) -> None:
    image = ImageBlock("a", tmp_path / "a.png")
    image.file.write_bytes(b"")
    text = to_html(Document("Title", [image, image, Paragraph("between"), image]))
    groups = re.findall(r'<div class="images">(.*?)</div>', text, re.DOTALL)
    assert [group.count("<figure>") for group in groups] == [2, 1]


def test_only_tables_with_numbers_sort() -> None:
    assert [header["aria-sort"] for header in page(TABLE).attributes("th")] == ["none", "none"]
    assert "aria-sort" not in page(Table(("Fact", "Value"), "ll", [("seed", "0")])).attributes("th")[0]


def test_contents_link_to_every_section() -> None:
    blocks = [
        Heading("Table 2: a + b (c_d)"),
        Heading("Inner", 3),
        Heading("Table 2: a  b (c_d)"),
        Details("More", [Heading("Hidden", 3)]),
        Heading("Ähnlich"),
    ]
    anchors = ["table-2-a--b-c_d", "table-2-a--b-c_d-1", "%C3%A4hnlich"]
    text = markdown(*blocks, contents=True)
    assert re.findall(r"^- \[.*\]\(#(.*)\)$", text, re.MULTILINE) == anchors
    shown = page(*blocks, contents=True)
    assert [link["href"] for link in shown.attributes("a")] == [f"#{anchor}" for anchor in anchors]
    assert [heading["id"] for heading in shown.attributes("h2")] == [*anchors[:2], "ähnlich"]
    assert not page(*blocks).attributes("nav")


def test_cell_links_to_folded_content() -> None:
    blocks = [Table(("x",), "l", [(Cell("a", target="More: rows"),)]), Details("More: rows", [Paragraph("text")])]
    assert page(*blocks).attributes("a") == [{"href": "#more-rows"}]
    assert {"id": "more-rows"} in page(*blocks).attributes("div"), "inside <details>, so that a link unfolds it"
    assert "| [a](#more-rows) |" in markdown(*blocks)
    assert '<a id="more-rows"></a>' in markdown(*blocks)


def test_cell_with_a_missing_target_is_no_link() -> None:
    table = Table(("x",), "l", [(Cell("a", target="Gone"),)])
    assert not page(table).attributes("a")
    assert "| a |" in markdown(table)


@pytest.mark.parametrize("row", [("a",), ("a", "b", "c")])
def test_row_of_another_length_is_refused(row: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table(("x", "y"), "lr", [row])


def test_image_must_exist_and_be_in_the_folder_of_the_markdown(tmp_path: Path) -> None:
    missing = ImageBlock("gone", tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError):
        page(missing)
    with pytest.raises(ValueError, match="not in the subpath"):
        markdown(missing, folder=tmp_path / "other")


def test_marks_stand_above_the_line_and_are_escaped(tmp_path: Path) -> None:
    document = Document(
        "t", [Table(("a",), "r", [(Cell("0.5", mark="**", target="none"),), (Cell("0.6", mark="<†"),)])]
    )
    html = to_html(document)
    assert "0.5<sup>**</sup>" in html
    assert "0.6<sup>&lt;†</sup>" in html
    assert r"| 0.5\*\* |" in to_markdown(document, tmp_path)


@pytest.mark.parametrize("best", ["+", "+++"])
def test_best_needs_a_letter_for_each_column(best: str) -> None:
    with pytest.raises(ValueError, match="2 letters are needed"):
        Table(("a", "b"), "lr", [], best=best)
