"""Keeps the packages that we use from reporting to their makers, and from writing outside our own cache folder."""

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
}
"""Variables that switch reports off, whatever they were before."""


def keep_private() -> None:
    """Switches reports off for this process and all that it starts; commands call it before they do anything."""
    os.environ.update(NO_TELEMETRY)
    try:
        # Matplotlib lists the fonts of a machine in a file.
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    except UserError:
        return  # without a home folder Matplotlib makes a temporary one


def import_onnxruntime() -> Any:
    """Imports onnxruntime, which looks only then whether it may report; the environment stays as it was."""
    with _silent():
        import onnxruntime  # noqa: TID251
    return onnxruntime


@contextmanager
def _silent() -> Iterator[None]:
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
