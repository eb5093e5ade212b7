"""Tests of tables as CSV and LaTeX; the LaTeX is read by a strict parser."""

from __future__ import annotations

import csv
import io

import pytest
from latex import parse_latex

from emotion.analysis.document import Cell, Details, Heading, Paragraph, Table
from emotion.analysis.exports import file_stem, find_tables, latex_text, to_csv, to_latex

HOSTILE = r"""# $ % & _ { } ~ ^ \ < > | " ` -- [ ] * \end{table} é … ±"""
TABLE = Table(
    ("Run", "Accuracy", "NLL", "Images", "Seeds"),
    "lrrrl",
    [
        (
            Cell("a_b", "lr=0.1"),
            Cell("0.6000 ± 0.1000", "0.500 to 0.700", mark="*", numbers={"": 0.6, "sd": 0.1, "low": 0.5, "high": 0.7}),
            Cell("1.2000", numbers={"": 1.2}),
            "1,234",
            "seeds 0, 1",
        ),
        (
            Cell("[c]"),
            Cell("0.7000", "0.600 to 0.800", numbers={"": 0.7, "low": 0.6, "high": 0.8}),
            Cell("1.3000", numbers={"": 1.3}),
            "56",
            "seed 0",
        ),
        ("*d", Cell("not kept", tone="quiet"), "", "", ""),
    ],
    footer=[("mean", "", "", "", "")],
    name="My results",
    caption="100 % of A & B.",
    best=".+-..",
)


def test_csv_has_exact_numbers_and_notes() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == {
        "Run": "a_b",
        "Run note": "lr=0.1",
        "Accuracy": "0.6",
        "Accuracy sd": "0.1",
        "Accuracy low": "0.5",
        "Accuracy high": "0.7",
        "NLL": "1.2",
        "Images": "1234",
        "Seeds": "seeds 0, 1",
    }
    assert (rows[1]["Accuracy sd"], rows[1]["Accuracy high"], rows[1]["Images"]) == ("", "0.8", "56")
    assert rows[2]["Accuracy"] == "not kept"
    assert [row["Run"] for row in rows] == ["a_b", "[c]", "*d", "mean"]


def test_csv_keeps_ten_digits() -> None:
    table = Table(("x",), "r", [(Cell("0.3333", numbers={"": 1 / 3}),)])
    assert to_csv(table) == "x\n0.3333333333\n"


def test_latex_has_the_best_in_bold_and_marks_above_the_line() -> None:
    text = to_latex(TABLE)
    assert parse_latex(text) == [
        ["Run", "Accuracy", "NLL", "Images", "Seeds"],
        [r"a\_b; lr=0.1", r"0.6000 $\pm$ 0.1000$^{*}$", r"\textbf{1.2000}", "1,234", "seeds 0, 1"],
        ["{}[c]", r"\textbf{0.7000}", "1.3000", "56", "seed 0"],
        ["{}*d", "not kept", "", "", ""],
        ["mean", "", "", "", ""],
    ]
    assert r"\caption{100 \% of A \& B.}" in text
    assert r"\label{tab:my-results}" in text


def test_hostile_text_is_escaped_everywhere() -> None:
    table = Table((HOSTILE, "x"), "lr", [(Cell(HOSTILE, HOSTILE), HOSTILE)] * 2, name=HOSTILE, caption=HOSTILE)
    rows = parse_latex(to_latex(table))
    assert len(rows) == 3
    assert list(csv.reader(io.StringIO(to_csv(table))))[1] == [HOSTILE, HOSTILE, HOSTILE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.02", "$-$0.02"),
        ("+0.02", "$+$0.02"),
        ("a-b--c", "a-b-{}-c"),
        ("---", "-{}-{}-"),
        ("{}", r"\{\}"),
        ("a\nb\tc\x07", "a b c"),
        ("“x” \u2013 y", "``x'' -- y"),
        ("†", r"\dag{}"),
    ],
)
def test_signs_keep_their_look(text: str, expected: str) -> None:
    assert latex_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        to_latex(TABLE).replace(r"a\_b", "a_b"),
        to_latex(TABLE).replace(r"\%", "%"),
        to_latex(TABLE).replace("{}[c]", "[c]"),
        to_latex(TABLE).replace(" & 56", ""),
        to_latex(TABLE).replace(r"\textbf{0.7000}", r"\textbf{0.7000"),
        to_latex(TABLE).replace(r"\toprule", r"\hline"),
        to_latex(TABLE).replace(r"\end{tabular}", ""),
    ],
)
def test_the_parser_refuses_what_latex_would(text: str) -> None:
    with pytest.raises((AssertionError, AttributeError)):
        parse_latex(text)


def test_one_number_alone_is_not_the_best() -> None:
    table = Table(("a", "x"), "lr", [("only", Cell("1", numbers={"": 1.0}))], name="t", best=".+")
    assert parse_latex(to_latex(table))[1] == ["only", "1"]


def test_named_tables_are_found_in_folded_blocks_too() -> None:
    named, inner = Table(("a",), "l", [], name="x"), Table(("a",), "l", [], name="y")
    blocks = [Heading("h"), named, Paragraph("p"), Table(("a",), "l", []), Details("d", [Details("e", [inner])])]
    assert [table.name for table in find_tables(blocks)] == ["x", "y"]


def test_names_of_files_are_plain() -> None:
    assert file_stem("FER2013, split=report") == "fer2013-split-report"
    assert file_stem("../a b/ü") == "a-b"
