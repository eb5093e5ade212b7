"""Gets what the peers need and the project does not: Keras's own environment, timm's training script."""

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
    """Returns the Python of an environment with Keras, made in the project's cache at the first call.

    Args:
        gpu: whether TensorFlow is to use a GPU.

    Raises:
        UserError: it could not be made; the message says why.
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
    """Returns timm's training script of the installed version: the given file, or one downloaded into the cache.

    Raises:
        UserError: no such file, or the download failed.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(f"--timm-script: no file {path}")
        return path.resolve()
    address = SCRIPT_ADDRESS.format(version("timm"))
    script = _downloaded_script()
    if not script.is_file():
        try:
            with urllib.request.urlopen(address, timeout=30) as response:
                write_text(script, response.read().decode())
        except (OSError, urllib.error.URLError) as error:
            raise UserError(f"{address} could not be downloaded ({error}); give a copy with --timm-script") from None
    return script


def describe_script(script: Path) -> str:
    """Says which of timm's training scripts it is; one that the user gave by its name and git's hash of its content."""
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
        raise UserError(f"Keras's environment could not be made ({lines[-1]})")
