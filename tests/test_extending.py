"""The changes of docs/extending.md, applied to a copy of the code and run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (ROOT / "docs/extending.md").read_text(), re.M | re.S))


@pytest.fixture(params=[name for name, text in SECTIONS.items() if "```diff" in text])
def section(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a section, whose change is made in a copy of the code in `tmp_path`."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["git", "apply", "-"]  # outside a repository, git applies to the files
    done = subprocess.run(command, cwd=tmp_path, input=blocks(request.param)["diff"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return str(request.param)


def blocks(section: str) -> dict[str, str]:
    """The code of a section: `diff` and `sh`."""
    return dict(re.findall(r"^```(diff|sh)\n(.*?)^```", SECTIONS[section], re.M | re.S))


def test_the_changes_fit_the_code(section: str, tmp_path: Path) -> None:
    for path in (tmp_path / "src").rglob("*.py"):
        compile(path.read_text(), path, "exec")


@pytest.mark.check
def test_the_changes_work(section: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "train.py", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "200"}
    for line in blocks(section)["sh"].splitlines():
        words = line.replace("python ", f"{sys.executable} ").replace("emotion ", f"{sys.executable} -m emotion ")
        done = subprocess.run(words.split(), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    expected = {
        "A network": ("runs/default/plain-*/config.yaml", "family: plain"),
        "A loss": ("runs/default/*/config.yaml", "poly_epsilon: 1"),
        "An augmentation": ("runs/default/*/config.yaml", "gamma: 0.3"),
        "A data source": ("runs/default/*/report.md", "| digits |"),
        "A column of the report page": ("runs/report-page/report.md", "Weighted F1"),
    }
    pattern, content = expected[section]
    (file,) = tmp_path.glob(pattern)
    assert content in file.read_text()


@pytest.mark.check
def test_the_classes_of_ones_own_work(tmp_path: Path) -> None:
    (text,) = (text for name, text in SECTIONS.items() if name.startswith("Your own network"))
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "mine.py").write_text(code)
    train, use = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    assert run(tmp_path, train) == 0
    (folder,) = (tmp_path / "runs/default").glob("custom-seed0-*")
    for line in use.replace("<hash>", folder.name.rpartition("-")[2]).splitlines():
        assert run(tmp_path, line) == 0
    assert (tmp_path / "mine.onnx").is_file()


def run(folder: Path, line: str) -> int:
    words = shlex.split(line)
    start = ["-m", "emotion"] if words[0] == "emotion" else [str(ROOT / words[1])]
    rest = words[1:] if words[0] == "emotion" else words[2:]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, *start, *rest], cwd=folder, env=environment, check=False).returncode
