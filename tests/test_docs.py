"""README and docs: generated tables, links, commands, and the site that is built from them."""

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import accuracy
import numpy as np
import pytest
import tables
import trials
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from emotion.cli import app
from emotion.config import compose, read, run_dir, settings
from emotion.data.datamodule import EmotionDataModule
from emotion.overrides import check_overrides, parse_arguments, quote_argument, require_effect
from emotion.report.configurations import Configuration
from emotion.shipped import SHIPPED
from emotion.training.evaluate import OPTIONS

ROOT = Path(__file__).parents[1]
TEXTS = [*tables.PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
NAMES = [path.relative_to(ROOT).as_posix() for path in TEXTS]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_writing_the_tables_again_changes_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert tables.write_tables(text) == text, "make tables"


def test_every_table_has_its_page() -> None:
    named = [name for path in tables.PAGES for _, name, _ in tables.MARKED.findall(path.read_text(encoding="utf-8"))]
    assert sorted(named) == sorted(tables.TABLES)


def test_a_table_is_replaced_and_the_text_around_it_stays() -> None:
    text = "before\n<!-- table: curves -->\n| stale |\n<!-- end -->\nafter\n"
    written = tables.write_tables(text)
    assert "stale" not in written
    assert written.startswith("before\n<!-- table: curves -->\n| `feature_views` |")
    assert written.endswith("|\n<!-- end -->\nafter\n")


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            linked = (path.parent / file).resolve() if file else path
            assert linked.exists(), target
            assert linked.is_relative_to(ROOT), target
            assert not anchor or anchor in anchors(linked), target


def anchors(path: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("one", accuracy.configurations("."), ids=lambda one: one.title)
def test_the_command_of_a_row_gives_the_settings_of_its_runs(one: Configuration) -> None:
    words = [word for word in accuracy.command(one).split()[2:] if word != "-m" and not word.startswith("seed=")]
    typed = settings(compose(*words, f"seed={one.first.seed}"))
    # Where it lies and runs differs, and so do settings that are chosen for the hardware or named by a path.
    other = {"name", "experiment", "data_dir", "resume", "weights", "trainer"}
    kept = {key: value for key, value in one.first.settings.items() if key not in other}
    assert kept == {key: typed.get(key) for key in kept}
    assert typed["trainer"]["max_epochs"] == one.first.settings["trainer"]["max_epochs"]


def commands() -> list[list[str]]:
    """Finds the commands in README and docs, as arguments of `emotion`; those of extending.md need its changes."""
    pages = [path for path in TEXTS[:-1] if path.name != "extending.md"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages).replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(python (?:train|evaluate)\.py .*|emotion .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(python (?:train|evaluate)\.py [^`<]*[^`<.]|emotion [^`]*[^`.])`", text)
    words = [re.sub(r"\s(#|>\s).*", "", line).split() for line in dict.fromkeys([*lines, *inline])]
    # `python train.py` and `emotion train` are the same.
    return [["emotion", own[1].removesuffix(".py"), *own[2:]] if own[0] == "python" else own for own in words]


def require_settings(arguments: list[str]) -> None:
    """Checks the settings of a training."""
    check_overrides(arguments)
    overrides = [word for word in arguments if not word.startswith(("-", "hydra", "resume")) and "," not in word]
    require_effect(overrides, read(compose(*map(quote_argument, overrides))).flat())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_legal(words: list[str]) -> None:
    command, arguments = get_command(app), words[1:]
    while arguments and isinstance(command, TyperGroup) and not arguments[0].startswith("-"):
        command = command.commands[arguments.pop(0)]
    if command.name == "train":
        require_settings(arguments)
    elif command.name == "evaluate":
        EmotionDataModule.of(parse_arguments(arguments, OPTIONS))
    elif isinstance(command, TyperGroup):
        assert set(arguments) < {"--help", *(name for option in command.params for name in option.opts)}
    elif arguments:  # without, it is only mentioned
        context = command.make_context(command.name, arguments)  # an option that it does not have would be an error
        if command.name == "teach":
            require_settings(context.params["settings"])
            return
        settings = [word for word in context.params.get("settings") or () if "=" in word]
        values = parse_arguments(settings, ["network"] if command.name == "export" else [])
        EmotionDataModule.of({key: value for key, value in values.items() if key != "network"})


def test_every_command_is_shown() -> None:
    named = {words[1] for words in commands()}
    assert named >= {command.name or command.callback.__name__ for command in app.registered_commands}


def test_the_folder_of_the_default_run_is_named() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in tables.PAGES)
    assert set(re.findall(r"runs/default/cnn-seed0-\w+", text)) == {run_dir(compose())}


@pytest.mark.process
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//", page.read_text()), page
    for name in ("SECURITY.html", "src/emotion/shipped/small.html", "benchmarks/results/two-cores-cnn.png"):
        assert (tmp_path / name).is_file(), "linked from a page"
    assert "emotion.load" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_trust_adds_up() -> None:
    kept = json.loads((ROOT / "results/trust.json").read_text(encoding="utf-8"))
    assert kept["nightly"]
    cells = [line.strip("|").split("|") for line in trials.trust().splitlines()[2:]]
    for column, name in ((1, "tried"), (2, "lost")):
        assert sum(int(row[column].replace(",", "")) for row in cells) == sum(row[name] for row in kept["rows"])


def python_of(page: str, word: str) -> str:
    """Returns the block of Python on a page that contains a word."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (block,) = (block for block in blocks if word in block)
    return block


def test_the_onnx_file_is_read_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SHIPPED / "small.onnx", "network.onnx")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save("face.jpg")
    names: dict[str, object] = {}
    exec(python_of("images.md", "onnxruntime"), names)
    assert capsys.readouterr().out.startswith("{'angry': ")
    outputs = names["session"].get_outputs()  # type: ignore[attr-defined]
    assert [(output.name, len(output.shape)) for output in outputs] == [("probabilities", 2), ("evidence", 4)]


def test_the_client_of_the_page_asks_a_busy_service_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    face = {"label": "happy", "score": 0.9, "box": [1, 2, 3, 4]}
    answers = [(503, {"detail": "busy"}), (200, {"faces": [face]}), (422, {"detail": "image: not an image"})]
    asked: list[bytes] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = answers[len(asked) - 1]
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"pixels")
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        code = python_of("serving.md", "find_faces").replace("http://localhost:8000", address)
        names: dict[str, object] = {}
        exec(code, names)
        assert capsys.readouterr().out == "happy 0.9 [1, 2, 3, 4]\n"
        with pytest.raises(ValueError, match=r"^photo\.jpg: 422, image: not an image$"):
            names["find_faces"]("photo.jpg")  # type: ignore[operator]
        server.shutdown()
    assert asked == [b"pixels"] * 3
