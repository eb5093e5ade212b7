"""Describes the environment of a run: command, commit, versions, hardware."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from emotion.files import hide_home
from emotion.overrides import as_typed

PACKAGES = (
    *("emotion", "torch", "torchvision", "lightning", "torchmetrics", "timm", "hydra-core", "numpy", "scikit-learn"),
)


def describe_environment() -> dict[str, Any]:
    """Returns command, commit, versions and hardware as plain values, the content of `environment.json`."""
    return {
        "command": _command(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }


def describe_hardware(environment: dict[str, Any], device: torch.device, count: int = 1) -> str:
    """Returns a short text on the hardware that was used.

    Args:
        environment: as from `describe_environment`, on this machine.
        device: the device of this process.
        count: number of devices.

    Returns:
        The name of the GPU, after the number of GPUs if there are several, or the CPU and the number of its cores.
    """
    if device.type == "cuda":
        name = environment["gpus"][device.index or 0]
        return f"{count} x {name}" if count > 1 else name
    return f"{environment['cpu']}, {environment['cores']} cores"


def cpu_flags() -> set[str]:
    """Returns the instruction sets of the CPU in the spelling of Linux (`/proc/cpuinfo`); empty on other systems."""
    return set(_cpu_info("flags").split())


def _command() -> str:
    name = Path(sys.argv[0]).name
    # `emotion train`, and launchers that give each run a process of its own, start the module command.py.
    program = ["emotion", "train"] if name == "command.py" else ["python"] * name.endswith(".py") + name.split()
    return shlex.join([*program, *(as_typed(hide_home(argument)) for argument in sys.argv[1:])])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns the commit of a checkout, with `-dirty` if files differ from it; None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _cpu() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
