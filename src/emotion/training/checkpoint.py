"""From a checkpoint file back to its network and data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError, first_line
from emotion.training.task import EmotionTask


@dataclass(frozen=True)
class Checkpoint:
    """A trained task, the settings of its data, and the epoch (from 1) it was saved after."""

    task: EmotionTask
    data: dict[str, Any]
    epoch: int

    def data_module(self, **changes: Any) -> EmotionDataModule:
        """Builds the data it was trained on, with some settings changed."""
        return EmotionDataModule(**(self.data | changes))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without running any code in it.

    Raises:
        UserError: no such file, a file that holds more than tensors and plain values, or no checkpoint of this project.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make the reader raise anything.
        raise UserError(
            f"ckpt={path}: refused, not a checkpoint that can be read safely ({first_line(error)})"
        ) from None
    try:
        task = EmotionTask(**content["hyper_parameters"])
        task.load_state_dict(content["state_dict"])
        data = {key: value for key, value in content["datamodule_hyper_parameters"].items() if not key.startswith("_")}
        return Checkpoint(task.eval(), data, int(content["epoch"]) + 1)
    except Exception as error:
        # Whatever a file of another origin holds, building from it can raise anything.
        raise UserError(f"ckpt={path}: not a checkpoint of this project ({first_line(error)})") from None
