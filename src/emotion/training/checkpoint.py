"""Writes checkpoints, and rebuilds network and data from them."""

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from emotion.data.datamodule import EmotionDataModule
from emotion.declarations import SOURCE
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, check_unpacked_size, expand, hide_home
from emotion.models.weights import describe_load_error, state_shapes, validate_state
from emotion.overrides import require_effect
from emotion.plugins import Plugins, load_plugin
from emotion.settings import OWN_DATA, fields, marked
from emotion.shipped import best_of_run
from emotion.training.origin import Origin
from emotion.training.task import STORED, EmotionTask

LAST = "last.ckpt"
"""The checkpoint that each epoch saves after all others."""
_GROUPED = ("group_by", "folds", "fold")
_OF_EVERY_SOURCE = ("data", "data_dir", "on_bad_image", "pack_size", "channels", "synthetic_images")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        task: the trained task, in eval mode; a loss of the user's own is replaced by the cross-entropy.
        origin: its classes and training images.
        epoch: the epoch after which the file was written, from 1.
    """

    task: EmotionTask
    origin: Origin
    epoch: int

    @property
    def data(self) -> Mapping[str, Any]:
        """The settings of the data that it was trained on, as flat values."""
        return self.origin.data

    def data_module(self, **changes: Any) -> EmotionDataModule:
        """Returns the data that the task was trained on, with some settings changed (see `data_for`)."""
        return data_for(self.task.classes, self.data, changes)


def data_for(classes: Sequence[str], stored: Mapping[str, Any], changes: Mapping[str, Any]) -> EmotionDataModule:
    """Returns data for a trained network; images of other classes than its own are left out.

    Args:
        classes: classes of the network, in the order of its outputs.
        stored: settings of the data that it was trained on. Where `data` changes, those that describe one source
            (its classes, labels and columns, and its folder if only one of the two is the user's own data) do not hold.
            Further training images do not on other data, and with another split groups and folds do not.
        changes: settings that replace them.

    Raises:
        UserError: a value is not legal, or a change has no effect.
    """
    gone = [*_GROUPED] if changes.get("split", "random") != "random" else []
    before, after = stored.get("data"), changes.get("data", stored.get("data"))
    if after != before:
        gone += [*_GROUPED, *(key for key in marked(SOURCE) if key not in _OF_EVERY_SOURCE)]
        gone += ["data_dir"] if (before in OWN_DATA) != (after in OWN_DATA) else []
    other = after != before or "data_dir" in changes
    if other:
        gone.append("extra_data")
    values = {**{key: value for key, value in stored.items() if key not in gone}, **changes}
    # Of other images, the labels may be a part of those of the training, which showed from where their numbers count.
    data = EmotionDataModule.of(values, network_classes=classes, guess_numbers=not other)
    # The votes of people also serve to compare the predictions with them, whatever the labels are.
    require_effect([f"{key}={value}" for key, value in changes.items() if key != "votes"], values)
    return data


class ThrottledCheckpointIO(TorchCheckpointIO):
    """Writes the checkpoints of an epoch atomically, at most once per interval, and pending ones at the end of a run.

    They are written once the last of an epoch, `last.ckpt`, is there, and in the order of saving, so that all hold the
    same epoch, and a run that is killed between two of them cannot lose its best epoch.

    On a fast device an epoch takes less time than writing its checkpoints. A killed run loses the epochs since the last
    write (at most `seconds` and one epoch); resumed from that file, it repeats them with the same result.

    Args:
        seconds: shortest time between writes; the latest content of each file stays in the device's memory.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._pending: dict[str, dict[str, Any]] = {}
        self._written = -math.inf

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Stores a checkpoint; after the last one of an epoch, writes all pending files if they are due."""
        content = apply_to_collection(checkpoint, Tensor, lambda value: value.detach().clone())
        self._pending.pop(str(path), None)  # the last that was saved is the last to be written
        self._pending[str(path)] = content
        if Path(path).name == LAST and time.monotonic() - self._written >= self.seconds:
            self._write()

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint, after writing the pending ones; runs no code that the file may contain.

        Raises:
            UserError: the file cannot be read, or contains more than tensors and plain values.
        """
        self._write()
        return read_content(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint, or forgets it if it is not written yet."""
        self._pending.pop(str(path), None)
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Writes the pending checkpoints; Lightning calls this at the end of a run, even if the run fails."""
        self._write()

    def _write(self) -> None:
        while self._pending:
            path, checkpoint = next(iter(self._pending.items()))
            content = io.BytesIO()
            torch.save(checkpoint, content)
            # Lightning's temporary file may lie on another disk; moving it is a copy, which a kill can cut off.
            with atomic_write(Path(path)) as temporary:
                temporary.write_bytes(content.getbuffer())
            del self._pending[path]  # if the write fails or is interrupted, `teardown` writes the file
            self._written = time.monotonic()


def load_checkpoint(path: Path, network: str | None = None) -> Checkpoint:
    """Reads a checkpoint, without running any code that the file may contain or name.

    Args:
        path: the file, or the folder of a run, whose best checkpoint is read.
        network: name of the user's network in the file (see `emotion.plugins`), if its code is trusted.

    Raises:
        UserError: there is no such file, it contains more than tensors and plain values, it is not a checkpoint of this
            project, or its network is a user's that `network` does not name.
    """
    path = best_of_run(expand(path))
    if not path.is_file():
        raise UserError(f"ckpt={path}: {'a folder without checkpoints/best.ckpt' if path.is_dir() else 'no such file'}")
    if path.suffix != ".ckpt":
        raise UserError(f"ckpt={path}: wrong suffix; give a .ckpt file")
    content = read_content(path)
    plugins = _plugins(path, content, network)
    try:
        task = _task(content["hyper_parameters"], content["state_dict"], plugins)
        origin = Origin.of_checkpoint(task.classes, content)
        origin = replace(origin, data=_data_settings(origin.data))
        return Checkpoint(task.eval(), origin, int(content["epoch"]) + 1)
    except Exception as error:
        # A file of another origin can hold anything, so building a network from it can raise any exception.
        raise UserError(f"ckpt={path}: not a checkpoint of this project ({first_line(error)})") from None


def read_progress(path: Path) -> tuple[int, dict[str, Any], list[str]]:
    """Returns what a resumed run must go on with, from its `last.ckpt`.

    Returns:
        The number of epochs after which it was written, the state of its `EmotionDataModule`, and its teachers.

    Raises:
        UserError: the file cannot be read, or is not a checkpoint.
    """
    try:
        content = read_content(path)
        teachers = list(content["hyper_parameters"].get("teachers", ()))
        return int(content["epoch"]) + 1, dict(content.get(EmotionDataModule.__qualname__, {})), teachers
    except Exception as error:
        raise UserError(f"{path}: cannot be resumed ({first_line(error)}); overwrite=true starts again") from None


def _plugins(path: Path, content: dict[str, Any], network: str | None) -> Plugins:
    """Imports the user's network of a checkpoint if it is named by the caller, not only by the file."""
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    stored = settings.get("network") if isinstance(settings, dict) else None
    if not isinstance(stored, str):
        return Plugins()
    if network is None or hide_home(network) != hide_home(stored):
        raise UserError(
            f"ckpt={path}: its network is code of a user; if you trust it, train.py, evaluate.py and emotion export "
            f"take network={stored[:200]}, and emotion predict, webcam, app and serve take the file that emotion "
            "export writes"
        )
    return Plugins(load_plugin("network", stored))


def _task(settings: dict[str, Any], state: dict[str, Tensor], plugins: Plugins) -> EmotionTask:
    """Builds a task with its weights, after checking that the weights in the file fit the settings in the file."""
    if any(isinstance(value, Tensor) for value in settings.values()):
        raise ValueError("hyper_parameters: plain values are needed")
    _require_known(settings, *STORED)
    # Only training needs a loss of the user's own, with its tensors.
    settings, state = {**settings, "loss": None}, {k: v for k, v in state.items() if not k.startswith("loss.")}
    if plugins.network:  # the user's code, which is trusted, and need not run on the meta device
        task = EmotionTask.of(settings, plugins)
        validate_state(task.state_dict(), state)
    else:
        validate_state(_expected_state(settings), state)
        task = EmotionTask.of(settings, plugins)
    task.load_state_dict(state)
    return task


def _expected_state(settings: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors that a task of these settings has, without their memory."""
    # The average of the weights cannot be built on the meta device; its tensors have the shapes of the network's.
    expected = dict(state_shapes(partial(EmotionTask.of, {**settings, "ema_decay": 0.0}, Plugins())))
    if settings.get("ema_decay"):
        expected |= {key.replace("network.", "average.module.", 1): value for key, value in expected.items()}
    return expected


def _data_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the settings of the data, and adds the defaults of settings that are newer than the file."""
    _require_known(stored)
    return dict(EmotionDataModule.of(stored).hparams)


def _require_known(stored: Mapping[str, Any], *others: str) -> None:
    """Checks that a file has no setting of a newer version, without which its network or data would be other ones."""
    unknown = [str(key) for key in stored if key not in fields() and key not in others and not key.startswith("_")]
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)} in this version")


def read_content(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint: tensors and plain values, unchecked.

    Raises:
        UserError: the file cannot be read, or contains anything else.
    """
    try:
        check_unpacked_size(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make the reader raise any exception.
        raise UserError(
            f"ckpt={path}: not a checkpoint that can be read safely ({describe_load_error(error)})"
        ) from None
    return content
