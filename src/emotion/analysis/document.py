"""A document of headings, paragraphs, tables and images, as GitHub markdown and as one self-contained HTML page.

All text in a document is plain: both renderers escape it, so that readers see it unchanged and it is never markup. The
home folder is written as `~`. File names can hold bytes that are no UTF-8 text; these are written as escapes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby, takewhile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from emotion.files import hide_home

Tone = Literal["plain", "good", "high", "low", "quiet"]

# Underscores inside a word are no markup. They stay as they are, so that commands can be copied from the source text.
_MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]#|~]|\b_+|_+\b")
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the content, by which tables sort.
        note: a line in smaller letters under the text.
        tone: `plain`, or the colour that shows the text as a label: `good`, `high`, `low`, `quiet`.
        target: the text of the heading or summary that the cell links to; empty for no link.
        mark: a sign above the line after the text, such as `*`, which a text beside the table explains.
        numbers: the exact numbers behind text and note, for files: the main one under the key "", others under names
            such as `sd`, `low` and `high`.
    """

    text: str
    note: str = ""
    tone: Tone = "plain"
    target: str = ""
    mark: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.text


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3; all headings and summaries of a document must differ."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; with `lead` at the start of a document it is emphasised and stands above the contents."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: the names of the columns.
        columns: one letter for each column, as in LaTeX: `l` aligns left and sorts as text, `r` right and as numbers.
        rows: the cells of each row.
        footer: rows that stay at the end when the others are sorted.
        name: name of the files that `emotion.analysis.exports` writes the table to; empty for none.
        caption: what a reader of such a file must know.
        best: one letter for each column: `+` if the highest number is the best, `-` if the lowest is, `.` if neither;
            empty if there is no best number in any column.

    Raises:
        ValueError: the header, a row and `columns` differ in length.
    """

    header: Sequence[str]
    columns: str
    rows: Sequence[Row]
    footer: Sequence[Row] = ()
    name: str = ""
    caption: str = ""
    best: str = ""

    def __post_init__(self) -> None:
        if {len(row) for row in (self.header, *self.rows, *self.footer)} != {len(self.columns)}:
            raise ValueError(f"columns={self.columns!r}: the header and every row must have {len(self.columns)} cells")
        if len(self.best) not in (0, len(self.columns)):
            raise ValueError(f"best={self.best!r}: {len(self.columns)} letters are needed")


@dataclass(frozen=True)
class ImageBlock:
    """A PNG file with its caption."""

    caption: str
    file: Path


@dataclass(frozen=True)
class Details:
    """Blocks that are folded until the reader clicks on their summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Table | ImageBlock | Details


@dataclass(frozen=True)
class Document:
    """A title and blocks; `contents` adds a list of the headings of level 2 below the lead paragraphs."""

    title: str
    blocks: Sequence[Block]
    contents: bool = False


def to_markdown(document: Document, folder: Path) -> str:
    """Writes a document as GitHub markdown.

    Args:
        document: the document to write.
        folder: the folder that the markdown file will be in; paths of images are relative to it.

    Raises:
        ValueError: an image is outside the folder.
    """
    anchors = _anchors(document)
    lead, rest = ([_markdown_block(part, folder, anchors) for part in parts] for parts in _split_lead(document.blocks))
    links = "\n".join(f"- {_markdown_link(text, text, anchors)}" for text in _sections(document))
    contents = [links] if document.contents else []
    return "\n\n".join([f"# {_markdown_text(document.title)}", *lead, *contents, *rest]) + "\n"


def to_html(document: Document) -> str:
    """Writes a document as one HTML page, which can be opened as a file and loads nothing from elsewhere.

    A click on a header sorts a table and a click on an image enlarges it; the page can be read without JavaScript.

    Returns:
        The text of the page, to be written as UTF-8. Images are read during the call and embedded.

    Raises:
        OSError: an image cannot be read.
    """
    lead, rest = _split_lead(document.blocks)
    style, script = (Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return _page().render(
        title=document.title,
        lead=lead,
        rest=rest,
        contents=document.contents,
        sections=_sections(document),
        anchors=_anchors(document),
        style=style,
        script=script,
        policy=policy,
    )


def _page() -> Template:
    """Returns the template of the page, which escapes all text that it does not mark as safe."""
    module = Path(__file__)
    environment = Environment(
        loader=FileSystemLoader(module.parent),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: public_text(value) if type(value) is str else value,
    )
    filters = {"kind": _kind, "as_cell": as_cell, "base64": _base64, "group_images": _group_images}
    environment.filters.update(filters)
    return environment.get_template(module.with_suffix(".html").name)


def _kind(block: Block) -> str:
    return type(block).__name__


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")


def _group_images(blocks: Sequence[Block]) -> Iterator[tuple[bool, Iterator[Block]]]:
    """Groups consecutive blocks by whether they are images, in their order."""
    return groupby(blocks, lambda block: isinstance(block, ImageBlock))


def _split_lead(blocks: Sequence[Block]) -> tuple[Sequence[Block], Sequence[Block]]:
    """Splits blocks into the lead paragraphs at the start, which stand above the contents, and the other blocks."""
    lead = list(takewhile(lambda block: isinstance(block, Paragraph) and block.lead, blocks))
    return lead, blocks[len(lead) :]


def _sections(document: Document) -> list[str]:
    return [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]


def _targets(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Heading):
            yield block.text
        elif isinstance(block, Details):
            yield block.summary
            yield from _targets(block.blocks)


def _anchors(document: Document) -> dict[str, str]:
    """Returns the anchor of each heading and summary by its text, in the form that GitHub gives to headings."""
    anchors: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for text in _targets(document.blocks):
        anchor = re.sub(r"[^\w\- ]", "", public_text(text).lower()).replace(" ", "-")
        anchors[text] = f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1
    return anchors


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def as_cell(cell: str | Cell) -> Cell:
    """Returns a cell that shows a text, or the cell itself."""
    return cell if isinstance(cell, Cell) else Cell(cell)


def public_text(text: str) -> str:
    """Returns text without the home folder's path and with escapes for bytes that UTF-8 cannot express."""
    return hide_home(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _markdown_text(text: str) -> str:
    """Returns text on one line, with every character escaped that means something in markdown, HTML or a table."""
    line = " ".join(public_text(text).split())
    escaped = _MARKDOWN_SPECIAL.sub(lambda match: "".join(f"\\{character}" for character in match[0]), line)
    return re.sub("[&<>$]", lambda match: _MARKDOWN_ENTITIES[match[0]], escaped)


def _markdown_link(text: str, target: str, anchors: dict[str, str]) -> str:
    anchor = anchors.get(target)
    return f"[{_markdown_text(text)}](#{quote(anchor)})" if anchor else _markdown_text(text)


def _markdown_block(block: Block, folder: Path, anchors: dict[str, str]) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_markdown_text(text)}"
        case Paragraph(text, lead):
            return f"**{_markdown_text(text)}**" if lead else _markdown_text(text)
        case ImageBlock(caption, file):
            return f"![{_markdown_text(caption)}]({quote(file.relative_to(folder).as_posix())})"
        case Details(summary, inner):
            parts = [_markdown_block(part, folder, anchors) for part in inner]
            # The summary is one line, since a blank line would end the HTML block of markdown.
            line = f'{escape(public_text(" ".join(summary.split())))}</summary><a id="{escape(anchors[summary])}"></a>'
            return "\n\n".join([f"<details><summary>{line}", *parts, "</details>"])
        case Table():
            return _markdown_table(block, anchors)


def _markdown_table(table: Table, anchors: dict[str, str]) -> str:
    rule = ["---:" if column == "r" else "---" for column in table.columns]
    rows = [[_markdown_cell(as_cell(cell), anchors) for cell in row] for row in (*table.rows, *table.footer)]
    lines = [[_markdown_text(name) for name in table.header], rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_cell(cell: Cell, anchors: dict[str, str]) -> str:
    text = _markdown_link(cell.text, cell.target, anchors) + _markdown_text(cell.mark)
    return f"{text}<br>{_markdown_text(cell.note)}" if cell.note else text
