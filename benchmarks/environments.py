"""Prepares what only other people's programs need: an environment for each, and timm's training script."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from emotion.errors import UserError
from emotion.files import cache_folder
from emotion.training.folder import write_text

KERAS_PINS = ("keras==3.15.1", "scipy==1.17.1", "pillow==13.0.0")
TENSORFLOW = "2.21.0"
SCRIPT_ADDRESS = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{}/train.py"


@dataclass(frozen=True)
class Environment:
    """An installation of some packages with all that they depend on.

    Attributes:
        folder: what the environment consists of.
        interpreter: path or name of Python or Node.
        modules: the folder with the installed packages.
    """

    folder: Path
    interpreter: str
    modules: Path

    @property
    def installed(self) -> dict[str, Any]:
        """`megabytes` (10**6 bytes) that the installation added, and the `versions` of all packages by name."""
        content: dict[str, Any] = json.loads((self.folder / "installed.json").read_text(encoding="utf-8"))
        return content


def python_environment(name: str, pins: Sequence[str], fresh: bool = False) -> Environment:
    """Returns an environment of Python, which the first call makes in the project's cache.

    Args:
        name: begin of the folder's name, and the name in an error.
        pins: arguments of `pip install`.
        fresh: whether to make it again.

    Raises:
        UserError: the environment cannot be made.
    """
    folder = _folder(name, [*pins, sys.version])
    python = folder / "bin" / "python"
    modules = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def make() -> dict[str, object]:
        _run(name, sys.executable, "-m", "venv", "--clear", str(folder))
        before = size(modules)
        # Without pip's cache, which would hold gigabytes a second time.
        _run(name, str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *pins)
        lines = _run(name, str(python), "-m", "pip", "list", "--format=json").splitlines()
        versions = {one["name"]: one["version"] for one in json.loads(lines[0])}
        return {"megabytes": round((size(modules) - before) / 1e6), "versions": versions}

    return _made(Environment(folder, str(python), modules), make, fresh)


def node_environment(name: str, pins: Sequence[str]) -> Environment:
    """Returns an environment of Node, which the first call makes in the project's cache.

    Args:
        name: begin of the folder's name, and the name in an error.
        pins: packages as name@version.

    Raises:
        UserError: the environment cannot be made; or there is no Node.
    """
    if not (node := shutil.which("node")):
        raise UserError(f"{name}: needs Node and npm: install them")
    folder = _folder(name, pins)

    def make() -> dict[str, object]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Without the scripts of the packages, which could download something.
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder))
        _run(name, "npm", "install", *options, *pins)
        lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
        versions = {path.removeprefix("node_modules/"): one["version"] for path, one in lock.items() if path}
        return {"megabytes": round(size(folder / "node_modules") / 1e6), "versions": versions}

    return _made(Environment(folder, node, folder / "node_modules"), make, fresh=False)


def size(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def keras_python(gpu: bool) -> Path:
    """Returns the path of Python in an environment with Keras, which the first call makes in the project's cache.

    Args:
        gpu: whether TensorFlow shall use a GPU.

    Raises:
        UserError: the environment cannot be made.
    """
    tensorflow = f"tensorflow[and-cuda]=={TENSORFLOW}" if gpu else f"tensorflow-cpu=={TENSORFLOW}"
    return Path(python_environment("Keras", [tensorflow, *KERAS_PINS]).interpreter)


def timm_script(path: Path | None) -> Path:
    """Returns the path of timm's training script: the given file, or that of the installed version from the cache.

    Raises:
        UserError: the file does not exist, or the download failed.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(f"--timm-script={path}: no such file")
        return path.resolve()
    address = SCRIPT_ADDRESS.format(version("timm"))
    script = _downloaded_script()
    if not script.is_file():
        try:
            with urllib.request.urlopen(address, timeout=30) as response:
                write_text(script, response.read().decode())
        except (OSError, urllib.error.URLError) as error:
            raise UserError(f"{address}: download failed ({error}): give the file with --timm-script") from None
    return script


def describe_script(script: Path) -> str:
    """Returns the origin of timm's training script; a given file is identified by its name and git's hash of it."""
    if script == _downloaded_script():
        return f"train.py of timm {version('timm')}"
    content = script.read_bytes()
    blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
    return f"{script.name} given by --timm-script (git blob {blob[:10]}) with timm {version('timm')}"


def _downloaded_script() -> Path:
    return cache_folder() / "benchmarks" / f"timm-{version('timm')}-train.py"


def _folder(name: str, pins: Sequence[str]) -> Path:
    digest = hashlib.blake2b(repr(pins).encode(), digest_size=4).hexdigest()
    return cache_folder() / "benchmarks" / f"{name.lower()}-{digest}"


def _made(environment: Environment, make: Callable[[], dict[str, object]], fresh: bool) -> Environment:
    """Returns the environment; an interrupted or failed installation leaves no `installed.json` and is made again."""
    folder = environment.folder
    complete = folder / "installed.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if fresh or not complete.is_file():
            write_text(complete, json.dumps(make()))
    return environment


def _run(name: str, *command: str) -> str:
    # A test runner's own path would put its packages before those of the environment.
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(command, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise UserError(f"{name}: its environment cannot be made ({lines[-1]})")
    return result.stdout
