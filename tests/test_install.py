"""The package as a stranger installs it: without extras, in an environment of its own."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from PIL import Image

from emotion.data.synthetic import draw_image
from emotion.extras import EXTRAS

ROOT = Path(__file__).parents[1]
# Megabytes of the base install in a new environment, without the 26 of the empty one; 331 were measured.
LARGEST_INSTALL = 350


def test_each_extra_is_checked_by_the_modules_of_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        extra: {re.split(r"[>=<;]", package)[0].strip() for package in packages if not package.startswith("emotion[")}
        for extra, packages in project["optional-dependencies"].items()
    }
    modules = packages_distributions()
    for extra, names in EXTRAS.items():
        if extra in ("joblib", "ray", "slurm", "optuna"):  # parts of one namespace
            assert len(names) == len(declared[extra]) == 1
            continue
        found = {re.sub("_", "-", package).lower() for name in names for package in modules.get(name, [name])}
        assert {re.sub("_", "-", package).lower() for package in declared[extra]} <= found, extra


def test_without_extras_it_predicts_serves_and_says_which_extra_is_missing(tmp_path: Path) -> None:
    python = install(tmp_path)
    face = tmp_path / "face.png"
    Image.fromarray(draw_image(3, seed=0, index=0)).save(face)

    def emotion(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "emotion", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path)

    done = emotion("predict", str(face), "--no-detect", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["faces"][0]["label"] in ("happy", "surprise")
    weights = python.parents[1] / "small.safetensors"
    weights.touch()
    for words, extra, start in (
        (["train"], "train", "emotion train"),
        (["train", "hydra/launcher=ray"], "train", "emotion train"),
        (["evaluate", "ckpt=x.ckpt"], "train", "emotion evaluate"),
        (["explain", str(face)], "train", "emotion explain"),
        (["report", str(tmp_path)], "train", "emotion report"),
        (["audit", "data=synthetic"], "train", "emotion audit"),
        (["publish", "x.ckpt"], "train", "emotion publish"),
        (["export"], "export", "emotion export"),
        (["data", "info"], "train", "emotion data info"),
        (["predict", str(face), "--ckpt", str(weights)], "train", "small.safetensors"),
        (["predict", str(face), "--tta", "shifts"], "train", "small.safetensors with tta=shifts"),
        (["predict", str(face), "--ckpt", "hf://a/b"], "hub", "the Hugging Face hub"),
        (["data", "fetch"], "fetch", "emotion data fetch"),
    ):
        done = emotion(*words)
        assert (done.returncode, done.stdout) == (2, ""), (words, done)
        expected = rf"error: {re.escape(start)} needs the package \w+: pip install 'emotion\[{extra}\]'(; .*)?\n"
        assert re.fullmatch(expected, done.stderr), (words, done.stderr)
    for script in ("train.py", "evaluate.py"):
        command = [str(python), str(ROOT / script)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {script} needs the package torch: pip install 'emotion[train]'\n"
    command = [str(python), "-c", "import emotion; emotion.load(); emotion.load_pretrained()"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path)
    assert "emotion.load_pretrained needs the package torch: pip install 'emotion[train]'" in done.stderr
    answers(python, tmp_path, face)


def environment(home: Path) -> dict[str, str]:
    """This one without the paths of the checkout, with a cache of its own."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return own | {"EMOTION_CACHE": str(home / "cache"), "COLUMNS": "200"}


def install(folder: Path) -> Path:
    """Builds the wheel and installs it without extras; returns the Python of the new environment."""
    pip = [sys.executable, "-m", "pip"]
    wheel = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True, env=environment(folder), cwd=folder)
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    empty = size(folder / "venv")
    words = ["--quiet", "--constraint", str(ROOT / "constraints.txt"), *map(str, folder.glob("emotion-*.whl"))]
    command = [*pip, "--python", str(python), "install", *words]
    subprocess.run(command, check=True, env=environment(folder), cwd=folder)
    assert size(folder / "venv") - empty < LARGEST_INSTALL
    return python


def size(folder: Path) -> float:
    """Megabytes on disk."""
    blocks = sum(path.lstat().st_blocks for path in folder.rglob("*"))
    return blocks * 512 / 2**20


def answers(python: Path, home: Path, face: Path) -> None:
    """Asks the page of `emotion app`, and its service, in the new environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "emotion", "app", "--no-open", "--port", str(port)]
    with subprocess.Popen(command, env=environment(home), cwd=home, stdout=subprocess.DEVNULL) as process:
        try:
            page = wait_for(f"http://127.0.0.1:{port}/", process)
            assert b"<html" in page
            assert b"emotion" in page
            body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="face.png"\r\n\r\n'
            body += face.read_bytes() + b"\r\n--b--\r\n"
            header = {"Content-Type": "multipart/form-data; boundary=b"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/predict?detect=false", body, header)
            with urllib.request.urlopen(request) as answer:
                assert len(json.load(answer)["faces"]) == 1
        finally:
            process.terminate()
    assert process.returncode in (0, -15)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> bytes:
    """Returns the answer of a server that is starting."""
    for _ in range(300):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(address) as answer:
                return bytes(answer.read())
        except OSError:
            time.sleep(0.1)
    return pytest.fail(f"no answer from {address}")
