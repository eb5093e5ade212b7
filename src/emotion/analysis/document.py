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
    anchors = _anchors(document)
    lead, rest = (_html_blocks(blocks, anchors) for blocks in _split_lead(document.blocks))
    style, script = (Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    links = "".join(f"<li>{_html_link(text, text, anchors)}</li>" for text in _sections(document))
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if document.contents else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{_html_text(document.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_html_text(document.title)}</h1>\n{lead}\n</header>\n{contents}<main>\n{rest}\n</main>\n"
        '<dialog aria-label="Enlarged picture"><button type="button">Close</button><img alt=""></dialog>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


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


def _html_text(text: str) -> str:
    return escape(_shown(text))


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
            line = f'{_html_text(" ".join(summary.split()))}</summary><a id="{escape(anchors[summary])}"></a>'
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


def _html_link(text: str, target: str, anchors: dict[str, str]) -> str:
    anchor = anchors.get(target)
    return f'<a href="#{quote(anchor)}">{_html_text(text)}</a>' if anchor else _html_text(text)


def _html_blocks(blocks: Sequence[Block], anchors: dict[str, str]) -> str:
    """Writes blocks one below the other, but pictures that follow each other side by side."""
    parts = []
    for side_by_side, group in groupby(blocks, lambda block: isinstance(block, Picture)):
        text = "\n".join(_html_block(block, anchors) for block in group)
        parts.append(f'<div class="pictures">\n{text}\n</div>' if side_by_side else text)
    return "\n".join(parts)


def _html_block(block: Block, anchors: dict[str, str]) -> str:
    match block:
        case Heading(text, level):
            return f'<h{level} id="{escape(anchors[text])}">{_html_text(text)}</h{level}>'
        case Paragraph(text, lead):
            return f'<p class="lead">{_html_text(text)}</p>' if lead else f"<p>{_html_text(text)}</p>"
        case Picture(caption, file):
            return _html_picture(_html_text(caption), file)
        case Details(summary, inner):
            # A link to what is inside, unlike one to the element itself, opens it.
            inside = f'<div id="{escape(anchors[summary])}">\n{_html_blocks(inner, anchors)}\n</div>'
            return f"<details>\n<summary>{_html_text(summary)}</summary>\n{inside}\n</details>"
        case Table():
            return _html_table(block, anchors)


def _html_picture(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f'<figure><button type="button" title="Enlarge">{image}</button><figcaption>{caption}</figcaption></figure>'


def _html_table(table: Table, anchors: dict[str, str]) -> str:
    """Writes a table; one without numbers is a list of facts, which nobody sorts."""
    kind = "numbers" if "r" in table.columns else "facts"
    columns = zip(table.header, table.columns, strict=True)
    head = "".join(_html_header(name, column, sorts=kind == "numbers") for name, column in columns)
    parts = {"tbody": table.rows, "tfoot": table.footer}
    texts = {part: "\n".join(_html_row(row, table.columns, anchors) for row in rows) for part, rows in parts.items()}
    body = "\n".join(f"<{part}>\n{text}\n</{part}>" for part, text in texts.items() if text or part == "tbody")
    return f'<div class="scroll"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n{body}\n</table></div>'


def _html_header(name: str, column: str, sorts: bool) -> str:
    text, state = _html_text(name), ""
    if sorts:
        text, state = f'<button type="button">{text}</button>', ' aria-sort="none"'
    return f'<th class="{column}" scope="col"{state}>{text}</th>'


def _html_row(row: Row, columns: str, anchors: dict[str, str]) -> str:
    cells = zip(columns, map(_as_cell, row), strict=True)
    return (
        "<tr>" + "".join(f'<td class="{column}">{_html_cell(cell, anchors)}</td>' for column, cell in cells) + "</tr>"
    )


def _html_cell(cell: Cell, anchors: dict[str, str]) -> str:
    text = _html_link(cell.text, cell.target, anchors)
    label = text if cell.tone == "plain" else f'<span class="{cell.tone}">{text}</span>'
    return f"{label}<small>{_html_text(cell.note)}</small>" if cell.note else label
