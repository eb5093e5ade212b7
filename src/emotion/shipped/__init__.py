"""Where trained networks come from: the files in this folder, which are part of the package, others, and the hub."""

import os
from pathlib import Path

from emotion.errors import UserError

SHIPPED = Path(__file__).parent
"""The folder of the files that are part of the package: a card, weights for PyTorch, and the whole function as ONNX."""
SUFFIXES = (".onnx", ".safetensors", ".ckpt")
"""Of files that hold networks."""


def find_network(name: str | Path, suffix: str = ".onnx") -> Path:
    """Returns the file that a name stands for.

    Args:
        name: of a network that ships with the package, a path, or `hf://<owner>/<repository>[/<file>]`.
        suffix: of the file to take where a name stands for several: `.onnx` or `.safetensors`.

    Raises:
        UserError: there is none, or it is another kind of file.
    """
    shipped = sorted(path.stem for path in SHIPPED.glob("*.onnx"))
    if name in shipped:
        return SHIPPED / f"{name}{suffix}"
    if str(name).startswith("hf://"):
        from emotion.shipped.hub import download

        return _checked(download(str(name), suffix), shipped)
    path = Path(os.path.expanduser(name))  # noqa: PTH111, leaves ~nobody as it is
    if not os.path.isfile(path):  # noqa: PTH113, False for names that are too long
        raise UserError(f"{name}: no such network ({', '.join(shipped)}) and no such file")
    return _checked(path, shipped)


def _checked(path: Path, shipped: list[str]) -> Path:
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a network ({', '.join(SUFFIXES)}, or {', '.join(shipped)})")
    return path


def find_weights(name: str | Path) -> Path:
    """Returns the `.ckpt` or `.safetensors` file that a name stands for; that beside an `.onnx` file does, too.

    Raises:
        UserError: there is none.
    """
    path = find_network(name, ".safetensors")
    weights = path.with_suffix(".safetensors") if path.suffix == ".onnx" else path
    if not weights.is_file():
        raise UserError(f"{name}: PyTorch is needed here; take the .ckpt or .safetensors file it was exported from")
    return weights
