"""Tables of a document as files for other programs: CSV with exact numbers, and LaTeX for the package booktabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from emotion.analysis.document import Block, Cell, Details, Row, Table, as_cell, public_text
from emotion.files import no_formula

# ruff: noqa: RUF001
# The signs below are translated because they look like others.
_LATEX = {
    **{character: f"\\{character}" for character in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "“": "``",
    "”": "''",
    '"': "''",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "†": r"\dag{}",
}
_SIGNED = re.compile(r"[+-](?=\d)")


def find_tables(blocks: Sequence[Block]) -> Iterator[Table]:
    """Yields the tables that have a name, in their order."""
    for block in blocks:
        if isinstance(block, Details):
            yield from find_tables(block.blocks)
        elif isinstance(block, Table) and block.name:
            yield block


def file_stem(name: str) -> str:
    """Returns a name as part of a file name: lower case letters, digits, and a hyphen for everything between them."""
    return re.sub(r"[^a-z0-9]+", "-", public_text(name).lower()).strip("-")


def to_csv(table: Table) -> str:
    """Writes a table as CSV.

    A column of numbers has the exact values, without marks and thousands separators. Further numbers of its cells
    follow in columns of their own, for example `Accuracy sd`, and so do the notes of other cells, as `Run note`.
    """
    cells = [[as_cell(cell) for cell in row] for row in (*table.rows, *table.footer)]
    names_and_cells = zip(table.header, table.columns, *cells, strict=True)
    columns = [column for name, kind, *below in names_and_cells for column in _csv_columns(name, kind, below)]
    file = io.StringIO()
    rows = ([no_formula(text) for text in row] for row in zip(*columns, strict=True))
    csv.writer(file, lineterminator="\n").writerows(rows)
    return public_text(file.getvalue())


def to_latex(table: Table) -> str:
    r"""Writes a table as a LaTeX float for `\usepackage{booktabs}`, with the best number of a column in bold.

    All text is escaped. Letters beyond the Latin script need LuaLaTeX or XeLaTeX, and a font that has them.
    """
    best = _best_numbers(table)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.caption)}}}",
        rf"\label{{tab:{file_stem(table.name)}}}",
        rf"\begin{{tabular}}{{{table.columns}}}",
        r"\toprule",
        _latex_row(table.header, {}),
        r"\midrule",
        *(_latex_row(row, best) for row in table.rows),
    ]
    if table.footer:
        lines += [r"\midrule", *(_latex_row(row, {}) for row in table.footer)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def latex_text(text: str) -> str:
    """Returns text on one line, with every character escaped that means something in LaTeX."""
    line = " ".join(public_text(text).split())
    kept = "".join(character for character in line if character.isprintable())
    # Without braces between them two hyphens would become a dash.
    pairs = zip(f" {kept}", kept, strict=False)
    escaped = "".join("{}-" if before == after == "-" else _LATEX.get(after, after) for before, after in pairs)
    return _SIGNED.sub(lambda match: f"${match[0]}$", escaped, count=1) if _SIGNED.match(escaped) else escaped


def _csv_columns(name: str, kind: str, cells: Sequence[Cell]) -> Iterator[list[str]]:
    """Yields a column of a table and those that follow from it, each with its name at the top."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.numbers if key))
    texts = [_without_separators(cell.text) if kind == "r" else cell.text for cell in cells]
    yield [name, *(_exact(cell, "") or text for cell, text in zip(cells, texts, strict=True))]
    for key in keys:
        yield [f"{name} {key}", *(_exact(cell, key) for cell in cells)]
    if any(cell.note for cell in cells if not cell.numbers):
        yield [f"{name} note", *("" if cell.numbers else cell.note for cell in cells)]


def _exact(cell: Cell, key: str) -> str:
    return f"{cell.numbers[key]:.10g}" if key in cell.numbers else ""


def _without_separators(text: str) -> str:
    return text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", text) else text


def _best_numbers(table: Table) -> dict[int, float]:
    """Returns the best number of each column that has one, by the position of the column."""
    best = {}
    for column, direction in enumerate(table.best):
        cells = [as_cell(row[column]) for row in table.rows]
        numbers = [cell.numbers[""] for cell in cells if "" in cell.numbers]
        if direction != "." and len(numbers) > 1:
            best[column] = max(numbers) if direction == "+" else min(numbers)
    return best


def _latex_row(row: Row, best: Mapping[int, float]) -> str:
    cells = [_latex_cell(as_cell(cell), best.get(column)) for column, cell in enumerate(row)]
    # A bracket or star after the end of a line would be read as an argument of the line's end.
    start = "{}" if cells[0][:1] in ("[", "*") else ""
    return f"{start}{' & '.join(cells)} " + r"\\"


def _latex_cell(cell: Cell, best: float | None) -> str:
    """Returns the content of a cell; notes of numbers, such as intervals, are left out to keep the table narrow."""
    note = "" if cell.numbers or not cell.note else f"; {cell.note}"
    text = latex_text(f"{cell.text}{note}")
    bold = rf"\textbf{{{text}}}" if best is not None and cell.numbers.get("") == best else text
    return f"{bold}$^{{{latex_text(cell.mark)}}}$" if cell.mark else bold
