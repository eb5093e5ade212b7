"""Stops third-party packages from sending telemetry and from writing outside the cache folder of this package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emotion.errors import UserError
from emotion.files import cache_folder

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: an identifier in the home folder, and a report of each session
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray: a report of each cluster
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: versions and an identifier with each request
    "WANDB_ERROR_REPORTING": "false",  # wandb: reports of its own errors and of its use
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow: a report of each session
}
"""Environment variables that switch telemetry off; they override the user's values."""


def keep_private() -> None:
    """Switches telemetry off for this process and its child processes; each command calls it first."""
    os.environ.update(NO_TELEMETRY)
    try:
        # Matplotlib writes a list of the machine's fonts to this folder.
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    except UserError:
        return  # without a home folder Matplotlib creates a temporary one


def import_onnxruntime() -> Any:
    """Imports and returns onnxruntime, which reads the variable for telemetry only then; it is restored afterwards."""
    with _no_telemetry():
        import onnxruntime  # noqa: TID251
    return onnxruntime


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Sets the variables of `NO_TELEMETRY` until the block ends."""
    before = {name: os.environ.get(name) for name in NO_TELEMETRY}
    os.environ.update(NO_TELEMETRY)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
