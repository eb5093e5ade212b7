"""Prepares what only the peers need: an environment with Keras, and timm's training script."""

import hashlib
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from emotion.errors import UserError
from emotion.files import cache_folder
from emotion.training.folder import write_text

KERAS_PINS = ("keras==3.15.1", "scipy==1.17.1", "pillow==13.0.0")
TENSORFLOW = "2.21.0"
SCRIPT_ADDRESS = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{}/train.py"


def keras_python(gpu: bool) -> Path:
    """Returns the path of Python in an environment with Keras, which the first call makes in the project's cache.

    Args:
        gpu: whether TensorFlow shall use a GPU.

    Raises:
        UserError: the environment cannot be made.
    """
    pins = [f"tensorflow[and-cuda]=={TENSORFLOW}" if gpu else f"tensorflow-cpu=={TENSORFLOW}", *KERAS_PINS]
    digest = hashlib.blake2b(repr((pins, sys.version)).encode(), digest_size=4).hexdigest()
    folder = cache_folder() / "benchmarks" / f"keras-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, complete = folder / "bin" / "python", folder / "complete"
    with FileLock(folder.with_suffix(".lock")):
        if not complete.is_file():
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            _run(str(python), "-m", "pip", "install", "--quiet", *pins)
            complete.touch()
    return python


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


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise UserError(f"Keras: its environment cannot be made ({lines[-1]})")
