"""The report of a run, as GitHub markdown (`report.md`) and as one self-contained HTML page.

Both hold the same sections: the rows are built once, as text, and two small renderers write them.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

_MISSING = "—"
_SPLITS = ("val", "test")
_RESULTS = (
    ("Loss", "loss"),
    ("Accuracy", "acc"),
    ("Macro precision", "precision_macro"),
    ("Macro recall", "recall_macro"),
    ("Macro F1", "f1_macro"),
    ("Weighted precision", "precision_weighted"),
    ("Weighted recall", "recall_weighted"),
    ("Weighted F1", "f1_weighted"),
)
_RESULTS_NOTE = (
    "Macro: the mean over the classes, each counting the same. "
    "Weighted: the mean over the classes, each counting by its number of images."
)
_REPORT_NOTE = (
    "Precision: the share of the images predicted as a class that are of it. "
    "Recall: the share of a class's images that are found. "
    "F1: the harmonic mean of the two. Support: the number of images."
)
# Underscores inside a word are no markup; left alone, commands can be copied from the source text.
_MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]#|~]|\b_+|_+\b")
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}

_STYLE = """
:root { color-scheme: light dark; --text: #1d2733; --soft: #5b6775; --line: #dde3ea; --back: #ffffff;
  --band: #f5f7fa; --accent: #2f6db3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e9ef; --soft: #9aa7b5; --line: #323c48; --back: #14191f; --band: #1c232b; --accent: #6aa5e6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; }
p { margin: 0 0 .75rem; color: var(--soft); }
.lead { padding-left: .8rem; border-left: 4px solid var(--accent); color: var(--text); font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td:first-child { font-weight: 500; }
tbody tr:nth-child(even) { background: var(--band); }
.facts th:first-child, .facts td:first-child { width: 1%; padding-right: 1.5rem; white-space: nowrap; }
.facts td + td { overflow-wrap: anywhere; }
.numbers th + th, .numbers td + td { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; padding: .5rem;
  background: #ffffff; border: 1px solid var(--line); border-radius: .5rem; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem; text-align: center; }
@media (max-width: 36rem) {
  body { padding: 1.25rem .8rem 3rem; font-size: 15px; }
  th, td { padding: .35rem .4rem; }
  .numbers { font-size: .85rem; }
  figure img { max-width: 40rem; }
}
"""


@dataclass(frozen=True)
class _Section:
    """A table of unescaped text under a heading; `numeric` aligns all columns but the first to the right."""

    heading: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool


def run_summary(
    title: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    pictures: Sequence[tuple[str, str]],
) -> str:
    """Write the report of a run as GitHub markdown.

    Args:
        title: The heading.
        facts: What was run, name to value: model, data, seed, epochs, hardware, command and the like.
        metrics: {"val": S, "test": S}, either may be missing. S holds "loss", "acc", "precision_macro",
            "recall_macro", "f1_macro", "precision_weighted", "recall_weighted", "f1_weighted" (floats), "num_images"
            (int) and "per_class", class name to {"precision", "recall", "f1" (floats in [0, 1]), "support" (int)}.
            A missing or not finite value shows as a dash.
        class_names: The classes in the order of the rows of the classification report.
        pictures: (caption, file) pairs; a file is a path relative to the report's folder, with "/" between folders.

    Returns:
        The text of `report.md`. Every given text is escaped, so it shows as it is and is never markup.
    """
    parts = [f"# {_markdown_text(title)}", _markdown_text(_headline(metrics))]
    parts += [_markdown_section(section) for section in _sections(facts, metrics, class_names)]
    if pictures:
        parts.append("## Pictures")
    parts += [f"![{_markdown_text(caption)}]({quote(file)})" for caption, file in pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


def run_page(
    title: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    pictures: Sequence[tuple[str, Path]],
) -> str:
    """Write the report of a run as one HTML page that opens by double click and loads nothing from elsewhere.

    Args:
        title: The heading.
        facts: As for `run_summary`.
        metrics: As for `run_summary`.
        class_names: As for `run_summary`.
        pictures: (caption, PNG file) pairs; the files are read now and embedded.

    Returns:
        The text of the page, to be written as UTF-8. Every given text is escaped.

    Raises:
        OSError: A picture cannot be read.
    """
    headline = _headline(metrics)
    body = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(headline)}</p>' if headline else ""]
    body += [_html_section(section) for section in _sections(facts, metrics, class_names)]
    if pictures:
        body.append("<h2>Pictures</h2>")
    body += [_html_picture(caption, path) for caption, path in pictures]
    return _html_document(title, "\n".join(part for part in body if part))


def _headline(metrics: Mapping[str, Any]) -> str:
    for split in reversed(_SPLITS):
        if split in metrics:
            scores = metrics[split]
            accuracy, f1 = _number(scores.get("acc"), ".1%"), _number(scores.get("f1_macro"), ".3f")
            images = _number(scores.get("num_images"), ",d")
            return f"{split.capitalize()} accuracy {accuracy}, macro F1 {f1}, on {images} images."
    return ""


def _sections(facts: Mapping[str, str], metrics: Mapping[str, Any], class_names: Sequence[str]) -> list[_Section]:
    sections = []
    if facts:
        sections.append(_Section("Run", "", ("Fact", "Value"), tuple(facts.items()), numeric=False))
    if any(split in metrics for split in _SPLITS):
        sections.append(_results_section(metrics))
    if "test" in metrics:
        sections.append(_report_section(metrics["test"], class_names))
    return sections


def _results_section(metrics: Mapping[str, Any]) -> _Section:
    splits = [split for split in _SPLITS if split in metrics]
    rows = [(label, *(_number(metrics[split].get(key), ".4f") for split in splits)) for label, key in _RESULTS]
    rows.append(("Images", *(_number(metrics[split].get("num_images"), "d") for split in splits)))
    return _Section("Results", _RESULTS_NOTE, ("Metric", *splits), tuple(rows), numeric=True)


def _report_section(scores: Mapping[str, Any], class_names: Sequence[str]) -> _Section:
    per_class = scores.get("per_class", {})
    images = _number(scores.get("num_images"), "d")
    rows = [_class_row(name, per_class.get(name, {})) for name in class_names]
    rows.append(("accuracy", "", "", _number(scores.get("acc"), ".2f"), images))
    rows += [_average_row(scores, average, images) for average in ("macro", "weighted")]
    header = ("Class", "Precision", "Recall", "F1", "Support")
    return _Section("Classification report (test)", _REPORT_NOTE, header, tuple(rows), numeric=True)


def _class_row(name: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    values = (_number(scores.get(key), ".2f") for key in ("precision", "recall", "f1"))
    return (name, *values, _number(scores.get("support"), "d"))


def _average_row(scores: Mapping[str, Any], average: str, images: str) -> tuple[str, ...]:
    values = (_number(scores.get(f"{key}_{average}"), ".2f") for key in ("precision", "recall", "f1"))
    return (f"{average} avg", *values, images)


def _number(value: float | None, spec: str) -> str:
    if value is None or not math.isfinite(value):
        return _MISSING
    return format(int(value) if spec.endswith("d") else float(value), spec)


def _markdown_text(text: str) -> str:
    """Return text on one line in which every character that markdown, HTML or a table could read is escaped."""
    line = " ".join(text.split())
    escaped = _MARKDOWN_SPECIAL.sub(lambda match: "".join(f"\\{mark}" for mark in match[0]), line)
    return re.sub("[&<>$]", lambda match: _MARKDOWN_ENTITIES[match[0]], escaped)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_section(section: _Section) -> str:
    rule = ("---", *("---:" if section.numeric else "---" for _ in section.header[1:]))
    rows = [[_markdown_text(cell) for cell in row] for row in (section.header, *section.rows)]
    table = "\n".join(_markdown_row(row) for row in (rows[0], rule, *rows[1:]))
    parts = (f"## {_markdown_text(section.heading)}", _markdown_text(section.note), table)
    return "\n\n".join(part for part in parts if part)


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _html_section(section: _Section) -> str:
    note = f"<p>{escape(section.note)}</p>\n" if section.note else ""
    rows = "\n".join(_html_row(row, "td") for row in section.rows)
    kind = "numbers" if section.numeric else "facts"
    return (
        f"<h2>{escape(section.heading)}</h2>\n{note}"
        f'<div class="scroll"><table class="{kind}">\n<thead>{_html_row(section.header, "th")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _html_picture(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure><div class="scroll">{image}</div><figcaption>{text}</figcaption></figure>'


def _html_document(title: str, body: str) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
