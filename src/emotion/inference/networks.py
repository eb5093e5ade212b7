"""Loads trained networks by name or file: `.onnx` files run in onnxruntime, the others in PyTorch."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import require_same_classes
from emotion.errors import UserError, require_choice
from emotion.extras import require_extra
from emotion.models.onnx import OnnxNetwork, ViewsName
from emotion.privacy import import_onnxruntime
from emotion.shipped import find_network


class FaceNetwork(Protocol):
    """A network that classifies the expressions of cropped faces.

    Attributes:
        name: name of its file, without folders and suffix.
        side: height and width of its input, pixels.
        channels: 1 if it takes grey faces, 3 if RGB.
        classes: names of the K classes, in the order of the probabilities.
    """

    name: str
    side: int
    channels: int
    classes: tuple[str, ...]

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps N >= 1 faces to probabilities float32 [N, K] in the order of `classes`.

        Args:
            faces: uint8 [N, side, side] for 1 channel, [N, side, side, 3] for 3.
        """

    def heatmaps(self, faces: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns heatmaps, float32 [N, side, side], of the regions that raise the score of each face's class id [N].

        The strongest pixel of each heatmap is 1, the weakest 0.

        Raises:
            UserError: the network gives no heatmaps.
        """


def load_networks(names: Sequence[str | Path], views: str | None = None, device: str = "cpu") -> list[FaceNetwork]:
    """Loads networks.

    Args:
        names: for each network the name of one that ships with the package, the path of an `.onnx`, `.safetensors` or
            `.ckpt` file, or `hf://<owner>/<repository>[/<file>]`.
        views: test-time augmentation: none, flip, shifts or ten_crop; None takes that of each file.
        device: `cpu`, `cuda` ...

    Raises:
        UserError: `names` is empty, a network does not exist, a file is of another format, an `.onnx` file holds
            another test-time augmentation and has no `.safetensors` file beside it, or the classes differ.
    """
    if not names:
        raise UserError("name=[]: at least one network is needed")
    if views is not None:
        require_choice("tta", views, get_args(ViewsName))
    networks = [_load(name, views, device) for name in names]
    require_same_classes(names, [network.classes for network in networks])
    return networks


def _load(name: str | Path, views: str | None, device: str) -> FaceNetwork:
    path = find_network(name)
    if path.suffix == ".onnx":
        beside = path.with_suffix(".safetensors")
        if not (beside.is_file() and _only_pytorch_has(device)):
            network = OnnxNetwork(path, device)
            if views in (None, network.views):
                return network
            if not beside.is_file():
                raise UserError(
                    f"tta={views}: {path.name} was exported with {network.views}; take its .safetensors or .ckpt file"
                )
        path = beside
    require_extra("train", path.name if views is None else f"{path.name} with tta={views}")
    from emotion.inference.pytorch import TorchNetwork  # imported here, since PyTorch takes seconds to load

    return TorchNetwork(path, views, device)


def _only_pytorch_has(device: str) -> bool:
    """Returns whether a GPU is asked for that PyTorch can use and this onnxruntime, made for CPUs only, cannot."""
    if not device.startswith("cuda") or find_spec("torch") is None:
        return False
    if "CUDAExecutionProvider" in import_onnxruntime().get_available_providers():
        return False
    import torch  # imported here, since it takes seconds to load

    return torch.cuda.is_available()
