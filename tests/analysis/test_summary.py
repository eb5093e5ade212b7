"""Tests of the report of a run."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from emotion.analysis.summary import run_page, run_summary

NAMES = ("angry", "happy")
FACTS = {"Model": "resnet18", "Command": "emotion-train optimizer.lr=1e-3 trainer.max_epochs=3"}
HOSTILE = "a|b`c`<img src=x onerror=alert(1)>\n\n# d [e](javascript:1) *f* __g__ $h$ \\| &amp; \"i\" 'j'"


def scores(**changes: Any) -> dict[str, Any]:
    values = {
        "loss": 1.23456,
        "acc": 0.61,
        "precision_macro": 0.62,
        "recall_macro": 0.63,
        "f1_macro": 0.64,
        "precision_weighted": 0.65,
        "recall_weighted": 0.66,
        "f1_weighted": 0.67,
        "balanced_acc": 0.63,
        "num_images": 3589,
        "per_class": {
            "happy": {"precision": 0.875, "recall": 0.9, "f1": 0.886, "support": 3000},
            "angry": {"precision": 0.5, "recall": 0.4, "f1": 0.444, "support": 589},
        },
    }
    return {**values, **changes}


METRICS = {"val": scores(acc=0.71, loss=0.5, num_images=100), "test": scores()}


class Page(HTMLParser):
    """Collects the tags, the rows of cells and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.tags and self.tags[-1][0] in ("td", "th"):
            self.rows[-1][-1] += data.strip()


def markdown_rows(text: str) -> list[list[str]]:
    table = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def test_summary_has_the_heading_and_the_headline_first() -> None:
    lines = run_summary("resnet18 on FER2013", FACTS, METRICS, NAMES, []).splitlines()
    assert lines[0] == "# resnet18 on FER2013"
    assert lines[2] == "Test accuracy 61.0%, macro F1 0.640, on 3,589 images."


def test_summary_tables_hold_facts_results_and_classification_report() -> None:
    rows = markdown_rows(run_summary("run", FACTS, METRICS, NAMES, []))
    assert rows == [
        ["Fact", "Value"],
        ["Model", "resnet18"],
        ["Command", "emotion-train optimizer.lr=1e-3 trainer.max_epochs=3"],
        ["Metric", "val", "test"],
        ["Loss", "0.5000", "1.2346"],
        ["Accuracy", "0.7100", "0.6100"],
        ["Macro precision", "0.6200", "0.6200"],
        ["Macro recall", "0.6300", "0.6300"],
        ["Macro F1", "0.6400", "0.6400"],
        ["Weighted precision", "0.6500", "0.6500"],
        ["Weighted recall", "0.6600", "0.6600"],
        ["Weighted F1", "0.6700", "0.6700"],
        ["Images", "100", "3589"],
        ["Class", "Precision", "Recall", "F1", "Support"],
        ["angry", "0.50", "0.40", "0.44", "589"],
        ["happy", "0.88", "0.90", "0.89", "3000"],
        ["accuracy", "", "", "0.61", "3589"],
        ["macro avg", "0.62", "0.63", "0.64", "3589"],
        ["weighted avg", "0.65", "0.66", "0.67", "3589"],
    ]


def test_page_has_the_same_rows_as_the_summary() -> None:
    page = Page(run_page("run", FACTS, METRICS, NAMES, []))
    assert page.rows == markdown_rows(run_summary("run", FACTS, METRICS, NAMES, []))


def test_every_markdown_table_has_a_rule_of_its_width_under_the_header() -> None:
    lines = run_summary("run", FACTS, METRICS, NAMES, []).splitlines()
    rules = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) == 3
    for index in rules:
        assert lines[index].count("|") == lines[index - 1].count("|")
        assert lines[index - 2] == ""
    assert lines[rules[0]] == "| --- | --- |"
    assert lines[rules[1]] == "| --- | ---: | ---: |"


def test_missing_splits_are_left_out() -> None:
    only_val = run_summary("run", FACTS, {"val": METRICS["val"]}, NAMES, [])
    assert ["Metric", "val"] in markdown_rows(only_val)
    assert "Val accuracy 71.0%" in only_val
    assert "Classification report" not in only_val
    nothing = run_summary("run", {}, {}, NAMES, [])
    assert nothing == "# run\n"
    assert not Page(run_page("run", {}, {}, NAMES, [])).rows


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_values_that_are_no_number_show_as_a_dash(value: float | None) -> None:
    rows = markdown_rows(run_summary("run", {}, {"test": scores(loss=value, per_class={})}, NAMES, []))
    assert ["Loss", "—"] in rows
    assert ["angry", "—", "—", "—", "—"] in rows


def test_summary_shows_pictures_by_quoted_name() -> None:
    pictures = [("Curves", "figures/curves.png"), ("x](y", "a b)|<c>.png")]
    lines = run_summary("run", FACTS, METRICS, NAMES, pictures).splitlines()
    assert "![Curves](figures/curves.png)" in lines
    assert r"![x\](y](a%20b%29%7C%3Cc%3E.png)" in lines


def test_hostile_text_stays_in_its_markdown_cell() -> None:
    metrics = {"test": scores(per_class={HOSTILE: {"support": 1}})}
    text = run_summary(HOSTILE, {HOSTILE: HOSTILE}, metrics, [HOSTILE], [(HOSTILE, "a.png")])
    escaped = (
        r"a\|b\`c\`&lt;img src=x onerror=alert(1)&gt; \# d \[e\](javascript:1) \*f\* \_\_g\_\_ &#36;h&#36; "
        r"\\\| &amp;amp; " + "\"i\" 'j'"
    )
    assert text.startswith(f"# {escaped}\n\n")
    assert f"\n| {escaped} | {escaped} |\n" in text
    assert f"\n| {escaped} | — | — | — | 1 |\n" in text
    assert text.endswith(f"![{escaped}](a.png)\n")
    assert "<" not in text


def test_hostile_text_is_no_markup_in_the_page(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    metrics = {"test": scores(per_class={HOSTILE: {"support": 1}})}
    hostile = HOSTILE + "</title></style><script>alert(1)</script>"
    page = Page(run_page(hostile, {hostile: hostile}, metrics, [hostile], [(hostile, picture)]))
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert dict(page.tags)["img"] == {"alt": hostile, "src": "data:image/png;base64,"}
    assert page.words.count(hostile) == 6, "title, heading, two cells, a class and a caption"


def test_page_embeds_its_pictures_and_loads_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    picture.write_bytes(bytes(range(256)))
    text = run_page("run", FACTS, METRICS, NAMES, [("Learning curves", picture)])
    page = Page(text)
    (source,) = (attributes["src"] for tag, attributes in page.tags if tag == "img")
    assert source is not None
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == bytes(range(256))
    assert "Learning curves" in page.words
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_page_fits_phones_and_dark_screens() -> None:
    text = run_page("run", FACTS, METRICS, NAMES, [])
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert text.startswith("<!doctype html>")
    assert '<meta charset="utf-8">' in text


def test_page_needs_its_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_page("run", FACTS, METRICS, NAMES, [("gone", tmp_path / "gone.png")])
