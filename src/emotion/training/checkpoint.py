"""How checkpoints are written, and the way back from a file to its network and data."""

import io
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from numpy.typing import NDArray
from torch import Tensor

from emotion.config import check
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, check_unpacked_size
from emotion.models.weights import describe_load_error, state_shapes, validate_state
from emotion.training.task import EmotionTask


@dataclass(frozen=True)
class Checkpoint:
    """What a file of a training holds.

    Attributes:
        task: trained, in eval mode.
        data: the settings of its data.
        epoch: it was saved after, from 1.
        size: of the images that trained it [C, S, S]; None in older files.
        hashes: of these images, uint64; see `emotion.data.packed.PackedImages`.
    """

    task: EmotionTask
    data: dict[str, Any]
    epoch: int
    size: tuple[int, ...] | None
    hashes: NDArray[np.uint64]

    def data_module(self, **changes: Any) -> EmotionDataModule:
        """Builds the data it was trained on, with some settings changed."""
        return EmotionDataModule(**(self.data | changes))


class ThrottledCheckpointIO(TorchCheckpointIO):
    """Writes each file as a whole, at most once in a while, and at the end what is still due.

    On a fast device an epoch takes less time than its checkpoints take to write. A killed run loses what it did since
    the last write, at most these seconds and an epoch, and goes on from that file as if undisturbed.

    Args:
        seconds: between two writes of the same file; in between, the latest content waits in the device's memory.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._waiting: dict[str, dict[str, Any]] = {}
        self._written: dict[str, float] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Takes a checkpoint; writes all that wait if this file is due, so that they stay of the same time."""
        self._waiting[str(path)] = apply_to_collection(checkpoint, Tensor, lambda value: value.detach().clone())
        if time.monotonic() - self._written.get(str(path), -math.inf) >= self.seconds:
            self._write()

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Reads a file in its latest state, without running any code in it.

        Raises:
            UserError: a file that cannot be read, or holds more than tensors and plain values.
        """
        self._write()
        return _read(Path(path))

    def teardown(self) -> None:
        """Writes what waits; Lightning calls this at the end of a run, also of one that fails."""
        self._write()

    def _write(self) -> None:
        while self._waiting:
            path = next(iter(self._waiting))
            content = io.BytesIO()
            torch.save(self._waiting.pop(path), content)
            # Beside the file: where Lightning writes first, on another disk, moving is copying, and can be cut off.
            with atomic_write(Path(path)) as temporary:
                temporary.write_bytes(content.getbuffer())
            self._written[path] = time.monotonic()


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without running any code in it.

    Raises:
        UserError: no such file, a file that holds more than tensors and plain values, or no checkpoint of this project.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file")
    if path.suffix != ".ckpt":
        raise UserError(f"ckpt={path}: a .ckpt file is needed")
    content = _read(path)
    try:
        task = _task(content["hyper_parameters"], content["state_dict"])
        data = _data_settings(content["datamodule_hyper_parameters"])
        trained_on = content.get(EmotionDataModule.__qualname__, {})
        size = tuple(map(int, trained_on["size"])) if trained_on else None
        hashes = torch.as_tensor(trained_on.get("hashes", ()), dtype=torch.int64).numpy().view(np.uint64)
        return Checkpoint(task.eval(), data, int(content["epoch"]) + 1, size, hashes)
    except Exception as error:
        # Whatever a file of another origin holds, building from it can raise anything.
        raise UserError(f"ckpt={path}: not a checkpoint of this project ({first_line(error)})") from None


def read_progress(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns after how many epochs a `last.ckpt` was saved, and the state of its `EmotionDataModule`.

    Raises:
        UserError: a file that cannot be read, or is not a checkpoint.
    """
    try:
        content = _read(path)
        return int(content["epoch"]) + 1, dict(content.get(EmotionDataModule.__qualname__, {}))
    except Exception as error:
        raise UserError(f"{path}: cannot be gone on from ({first_line(error)}); overwrite=true trains anew") from None


def _task(settings: dict[str, Any], state: dict[str, Tensor]) -> EmotionTask:
    """Builds a task with its weights, after what the file says of itself has proved true."""
    if any(isinstance(value, Tensor) for value in settings.values()):
        raise ValueError("hyper_parameters: plain values are needed")
    # Without the average, which is made on a real device only; its tensors are those of the network.
    expected = dict(state_shapes(partial(EmotionTask, **settings | {"ema_decay": 0.0})))
    if settings.get("ema_decay"):
        expected |= {key.replace("network.", "average.module.", 1): value for key, value in expected.items()}
    validate_state(expected, state)
    task = EmotionTask(**settings)
    task.load_state_dict(state)
    return task


def _data_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """Checks the settings of the data; those that came later get their defaults."""
    given = {key: value for key, value in stored.items() if not key.startswith("_")}
    check(given)
    return dict(EmotionDataModule(**given).hparams)


def _read(path: Path) -> dict[str, Any]:
    try:
        check_unpacked_size(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make the reader raise anything.
        raise UserError(
            f"ckpt={path}: refused, not a checkpoint that can be read safely ({describe_load_error(error)})"
        ) from None
    return content
