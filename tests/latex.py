"""A strict parser of the LaTeX that the project writes, since no LaTeX is at hand."""

import re

COMMANDS = {
    *("begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "textbf", "dag", "ldots"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textasciigrave", "textless", "textgreater", "textbar"),
    *("pm", "times", "rightarrow"),
}
TOKEN = re.compile(r"\\([a-zA-Z]+|.)|([{}$&#%_^~])|([^\\{}$&#%_^~]+)", re.DOTALL)


def parse_latex(text: str) -> list[list[str]]:
    """Returns the rows of a table as cells in LaTeX.

    Raises:
        AssertionError: the text is not one balanced float with a booktabs table of equally long rows, uses a command
            that is not known, or a special character outside its place.
    """
    text = re.sub(r"^%.*\n", "", text, flags=re.MULTILINE)  # comments
    assert "".join(match[0] for match in TOKEN.finditer(text)) == text
    depth, math, opened = 0, False, []
    for command, special, _ in TOKEN.findall(text):
        if command.isalpha():
            assert command in COMMANDS, command
        elif command:
            assert command in r"#$%&_{}" or command == "\\", command
        if special in ("{", "}"):
            depth += 1 if special == "{" else -1
            assert depth >= 0
        elif special == "$":
            math = not math
        elif special in ("^", "_"):
            assert math, special
        elif special == "&":
            assert depth == 0, "a separator of cells inside a group"
            assert not math
        else:
            assert special == "", f"{special} must be escaped"
    assert (depth, math) == (0, False)
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    columns, body = re.fullmatch(
        r"\\begin\{table\}\n\\centering\n\\caption\{.*\}\n\\label\{tab:[a-z0-9-]+\}\n"
        r"\\begin\{tabular\}\{([lr]+)\}\n\\toprule\n(.*)\\bottomrule\n\\end\{tabular\}\n\\end\{table\}\n",
        text,
        re.DOTALL,
    ).groups()
    lines = body.splitlines()
    assert lines[1] == r"\midrule"
    rows = [line for line in lines if line != r"\midrule"]
    for row in rows:
        assert row.endswith(r" \\")
        assert not row.startswith(("[", "*")), "an argument of the end of the line before"
    cells = [re.split(r"(?<!\\)&", row.removesuffix(r" \\")) for row in rows]
    assert {len(row) for row in cells} == {len(columns)}
    return [[cell.strip() for cell in row] for row in cells]
