"""Trained networks by name or file: ONNX files run without PyTorch, others with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emotion.errors import UserError
from emotion.extras import require_extra
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import find_network


class FaceNetwork(Protocol):
    """What tells the expressions of faces apart.

    Attributes:
        side: height and width of the faces it takes, pixels.
    """

    side: int

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps grey faces uint8 [N, side, side], N from 1, to probabilities [N, K] in the order of `CLASSES`."""

    def heatmaps(self, faces: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns where each face speaks for a class id [N], float32 [N, side, side], 0 to 1 at the strongest place.

        Raises:
            UserError: the network cannot tell.
        """


def load_networks(names: Sequence[str | Path], views: str | None = None, device: str = "cpu") -> list[FaceNetwork]:
    """Loads networks.

    Args:
        names: of one that ships with the package, paths of `.onnx`, `.safetensors` or `.ckpt` files, or
            `hf://<owner>/<repository>[/<file>]`.
        views: whose mean counts: none, flip, shifts or ten_crop; None leaves it to each file.
        device: `cpu`, `cuda` ...

    Raises:
        UserError: no network, no such one or file, one of another kind, or views that an ONNX file was not made for.
    """
    if not names:
        raise UserError("name=[]: at least one network is needed")
    return [_load(name, views, device) for name in names]


def _load(name: str | Path, views: str | None, device: str) -> FaceNetwork:
    path = find_network(name)
    if path.suffix == ".onnx":
        network = OnnxNetwork(path, device)
        if views in (None, network.views):
            return network
        if not path.with_suffix(".safetensors").is_file():
            raise UserError(f"tta={views}: {path.name} was exported with {network.views}")
        path = path.with_suffix(".safetensors")
    require_extra("train", path.name if views is None else f"{path.name} with tta={views}")
    from emotion.inference.pytorch import TorchNetwork  # here, since PyTorch takes seconds to import

    return TorchNetwork(path, views, device)
