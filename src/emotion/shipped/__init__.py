"""Finds trained networks: those shipped with the package in this folder, local files, and the Hugging Face hub."""

import os
from pathlib import Path

from emotion.errors import UserError
from emotion.files import expand

SHIPPED = Path(__file__).parent
"""The folder of the shipped networks; each has a card (`.md`), weights for PyTorch and an ONNX file."""
SUFFIXES = (".onnx", ".safetensors", ".ckpt")
"""Suffixes of network files."""


HUB = "hf://"
"""Beginning of the name of a network on the hub."""


def find_network(name: str | Path, suffix: str = ".onnx") -> Path:
    """Returns the path of a network file.

    Args:
        name: name of a shipped network, path of a file, folder of a run, which means its best checkpoint, or
            `hf://<owner>/<repository>[/<file>]`, which is downloaded.
        suffix: preferred suffix if the name stands for several files, `.onnx` or `.safetensors`.

    Raises:
        UserError: the network or file does not exist, or the file has another suffix.
    """
    shipped = sorted(path.stem for path in SHIPPED.glob("*.onnx"))
    if name in shipped:
        return SHIPPED / f"{name}{suffix}"
    if str(name).startswith(HUB):
        from emotion.shipped.hub import download

        return _require_suffix(download(str(name), suffix), shipped)
    path = best_of_run(expand(name))
    if not os.path.isfile(path):  # noqa: PTH113, Path.is_file raises for names that are too long
        if str(name) and os.path.isdir(path):  # noqa: PTH112, the empty name would be the working directory
            raise UserError(f"{name}: a folder without checkpoints/best.ckpt")
        raise UserError(f"{name}: no such file; the networks with a name are {', '.join(shipped)}")
    return _require_suffix(path, shipped)


def best_of_run(path: Path) -> Path:
    """Returns the best checkpoint in the folder of a run; any other path as it is."""
    best = path / "checkpoints" / "best.ckpt"
    return best if os.path.isfile(best) else path  # noqa: PTH113, Path.is_file raises for names that are too long


def _require_suffix(path: Path, shipped: list[str]) -> Path:
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a network ({', '.join(SUFFIXES)}, or {', '.join(shipped)})")
    return path


def find_weights(name: str | Path) -> Path:
    """Returns the path of the `.ckpt` or `.safetensors` file of a network; for an `.onnx` file, of the one beside it.

    Args:
        name: name or path of a network (see `find_network`).

    Raises:
        UserError: there is no such file.
    """
    path = find_network(name, ".safetensors")
    weights = path.with_suffix(".safetensors") if path.suffix == ".onnx" else path
    if not weights.is_file():
        raise UserError(f"{name}: PyTorch cannot run it; name the .ckpt or .safetensors file it was exported from")
    return weights
