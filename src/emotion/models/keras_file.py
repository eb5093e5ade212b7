"""Reads the weights that Keras publishes for VGG, `.h5` files without classifier, in torchvision's names and layout."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from emotion.errors import UserError, first_line
from emotion.extras import require_extra

if TYPE_CHECKING:
    import h5py

KERAS_SUFFIXES = (".h5", ".hdf5")


def read_keras(path: Path, name: str) -> dict[str, Tensor]:
    """Reads a file as `vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5`, without following its links to other files.

    Args:
        path: the file, whose groups are called `block1_conv1` and so on, each with a kernel [H, W, in, out] and a bias.
        name: name of the backbone in torchvision, a VGG without batch normalisation.

    Returns:
        The state dict of torchvision's network without classifier, float32; kernels are [out, in, H, W].

    Raises:
        UserError: the file is missing, not of this kind, or of another network, or h5py is not installed.
    """
    require_extra("keras", f"weights={path}")
    import h5py

    if not path.is_file():
        raise UserError(f"weights={path}: no such file")
    layers = _layers(path, name)
    try:
        with h5py.File(path, "r") as file:
            found = {str(key) for key in file if "conv" in str(key)}
            if differing := sorted(found.symmetric_difference(layers)):
                raise ValueError(f"{name} and the file differ in {', '.join(differing[:3])}")
            state: dict[str, Tensor] = {}
            for key, (place, module) in layers.items():
                kernel, bias = _arrays(file, key, module)
                state[f"{place}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
                state[f"{place}.bias"] = torch.from_numpy(bias)
            return state
    except Exception as error:
        # A damaged or hostile file can make h5py raise any exception.
        raise UserError(f"weights={path}: not Keras's weights of {name} ({first_line(error)})") from None


def _layers(path: Path, name: str) -> dict[str, tuple[str, nn.Conv2d]]:
    """Returns the convolutions of a VGG by Keras's names: their names in torchvision, and their shapes."""
    from torchvision.models import get_model

    if not (name.startswith("vgg") and name.isalnum()):
        raise UserError(f"weights={path}: Keras's files are read for vgg16 and vgg19; {name} takes other files")
    layers: dict[str, tuple[str, nn.Conv2d]] = {}
    block, number = 1, 0
    with torch.device("meta"):
        features = get_model(name).features
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            block, number = block + 1, 0
        if isinstance(module, nn.Conv2d):
            number += 1
            layers[f"block{block}_conv{number}"] = f"features.{index}", module
    return layers


def _arrays(file: "h5py.File", key: str, layer: nn.Conv2d) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns kernel and bias of a layer, float32, after checking that they lie in the file and have its shapes."""
    datasets = list(_datasets(file, key))
    height, width = layer.kernel_size
    shapes = [(height, width, layer.in_channels, layer.out_channels), (layer.out_channels,)]
    if sorted(dataset.shape for dataset in datasets) != sorted(shapes):
        raise ValueError(f"{key} has {[dataset.shape for dataset in datasets]}, must be {shapes}")
    kernel, bias = sorted(datasets, key=lambda dataset: -dataset.ndim)
    return np.asarray(kernel, np.float32), np.asarray(bias, np.float32)


def _datasets(group: "h5py.Group", key: str, depth: int = 3) -> "list[h5py.Dataset]":
    """Returns the arrays below a name; links to other places and arrays that lie in other files are refused.

    Args:
        group: the group that has the name.
        key: the name.
        depth: number of levels that a file of Keras has at most; a hostile one can refer to itself without end.
    """
    import h5py

    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is a link")
    item = group[key]
    if isinstance(item, h5py.Dataset):
        if item.external or item.is_virtual:
            raise ValueError(f"{key} lies in another file")
        return [item]
    if depth == 0 or len(item) > 2:
        raise ValueError(f"{key} holds more than a kernel and a bias")
    return [dataset for child in item for dataset in _datasets(item, child, depth - 1)]
