"""A document of headings, paragraphs, tables and pictures, as GitHub markdown and as one self-contained HTML page.

All text in a document is plain: both renderers escape it, so that it shows as it is and is never markup. In it the home
folder is `~`, and what is no text, as names of files can hold it, is written as an escape.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, takewhile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from emotion.files import hide_home

Tone = Literal["plain", "good", "high", "low", "quiet"]

# Underscores inside a word are no markup; left alone, commands can be copied from the source text.
_MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]#|~]|\b_+|_+\b")
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says; tables sort by it.
        note: a smaller line under the text.
        tone: `plain`, or the colour of the text as a label: `good`, `high`, `low`, `quiet`.
        target: the text of the heading, or the summary, that the cell leads to; or nothing.
    """

    text: str
    note: str = ""
    tone: Tone = "plain"
    target: str = ""


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3; headings and summaries of a document are all different."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; the `lead` is what a reader should see first."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: the names of its columns.
        columns: a letter a column, as in LaTeX: `l` holds text, `r` numbers, which align and sort as such.
        rows: its cells.
        footer: rows that stay at the end when the others are sorted.

    Raises:
        ValueError: a row, the header or `columns` has another length.
    """

    header: Sequence[str]
    columns: str
    rows: Sequence[Row]
    footer: Sequence[Row] = ()

    def __post_init__(self) -> None:
        if {len(row) for row in (self.header, *self.rows, *self.footer)} != {len(self.columns)}:
            raise ValueError(f"every row must have {len(self.columns)} cells, as columns={self.columns!r} says")


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption."""

    caption: str
    file: Path


@dataclass(frozen=True)
class Details:
    """Blocks that a reader opens by a click on their summary."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Table | Picture | Details


@dataclass(frozen=True)
class Document:
    """A title and what stands under it; `contents` lists the headings of level 2, below the lead."""

    title: str
    blocks: Sequence[Block]
    contents: bool = False


def to_markdown(document: Document, folder: Path) -> str:
    """Writes a document as GitHub markdown.

    Args:
        document: what to write.
        folder: where the text will lie; pictures are named by their path relative to it.

    Raises:
        ValueError: a picture lies outside the folder.
    """
    anchors = _anchors(document)
    lead, rest = ([_markdown_block(part, folder, anchors) for part in parts] for parts in _split_lead(document.blocks))
    links = "\n".join(f"- {_markdown_link(text, text, anchors)}" for text in _sections(document))
    contents = [links] if document.contents else []
    return "\n\n".join([f"# {_markdown_text(document.title)}", *lead, *contents, *rest]) + "\n"


def to_html(document: Document) -> str:
    """Writes a document as one HTML page that opens by double click and loads nothing from elsewhere.

    Tables sort by a click on a header, pictures enlarge by a click; neither is needed to read the page.

    Returns:
        The text of the page, to be written as UTF-8. Pictures are read now and embedded.

    Raises:
        OSError: a picture cannot be read.
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
    """Returns the template of the page, which escapes all text that it does not call safe."""
    here = Path(__file__)
    environment = Environment(
        loader=FileSystemLoader(here.parent),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: _shown(value) if type(value) is str else value,
    )
    filters = {"kind": _kind, "as_cell": _as_cell, "base64": _base64, "by_pictures": _by_pictures}
    environment.filters.update(filters)
    return environment.get_template(here.with_suffix(".html").name)


def _kind(block: Block) -> str:
    return type(block).__name__


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")


def _by_pictures(blocks: Sequence[Block]) -> Iterator[tuple[bool, Iterator[Block]]]:
    """Parts blocks into those that are pictures and those that are not, in order."""
    return groupby(blocks, lambda block: isinstance(block, Picture))


def _split_lead(blocks: Sequence[Block]) -> tuple[Sequence[Block], Sequence[Block]]:
    """Divides what stands above the contents from what they list."""
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
    """Maps the text of each heading and summary to its anchor, formed as GitHub does for headings."""
    anchors: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for text in _targets(document.blocks):
        anchor = re.sub(r"[^\w\- ]", "", _shown(text).lower()).replace(" ", "-")
        anchors[text] = f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1
    return anchors


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _as_cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _shown(text: str) -> str:
    """Returns text that can be passed on and be written as UTF-8."""
    return hide_home(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _markdown_text(text: str) -> str:
    """Returns text on one line in which every character that markdown, HTML or a table could read is escaped."""
    line = " ".join(_shown(text).split())
    escaped = _MARKDOWN_SPECIAL.sub(lambda match: "".join(f"\\{mark}" for mark in match[0]), line)
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
        case Picture(caption, file):
            return f"![{_markdown_text(caption)}]({quote(file.relative_to(folder).as_posix())})"
        case Details(summary, inner):
            parts = [_markdown_block(part, folder, anchors) for part in inner]
            # On one line, since a blank one would end what markdown takes for HTML.
            line = f'{escape(_shown(" ".join(summary.split())))}</summary><a id="{escape(anchors[summary])}"></a>'
            return "\n\n".join([f"<details><summary>{line}", *parts, "</details>"])
        case Table():
            return _markdown_table(block, anchors)


def _markdown_table(table: Table, anchors: dict[str, str]) -> str:
    rule = ["---:" if column == "r" else "---" for column in table.columns]
    rows = [[_markdown_cell(_as_cell(cell), anchors) for cell in row] for row in (*table.rows, *table.footer)]
    lines = [[_markdown_text(name) for name in table.header], rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_cell(cell: Cell, anchors: dict[str, str]) -> str:
    text = _markdown_link(cell.text, cell.target, anchors)
    return f"{text}<br>{_markdown_text(cell.note)}" if cell.note else text
