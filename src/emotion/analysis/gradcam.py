"""Heatmaps of what in an image speaks for a class, and pictures of them."""

import math
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from emotion.errors import UserError, require_choice
from emotion.models.network import Network
from emotion.palette import SOFT_TEXT

Method = Literal["gradcam", "gradcam++", "hirescam"]

SMALLEST_MAP = 5
"""Fewest cells across a feature map that is fit for a heatmap; with fewer, a cell is wider than a mouth.

Measured on FER2013 with the frozen VGG16 at 48 pixels: blurring what its last map, of 3 x 3, marks costs the predicted
class no more than blurring what the map of another image marks; with its last map of 6 x 6 it costs more.
"""

_BATCH_SIZE = 32
_GAP = 0.04  # Between a picture and its heatmap, in widths of a picture.
_OPACITY = 0.7  # Of the strongest place.


def heatmaps(
    network: Network, images: NDArray[np.uint8], classes: NDArray[np.int64], method: Method = "hirescam"
) -> NDArray[np.float32]:
    """Returns how much every place of an image speaks for a class.

    The maps come from the last layer of the backbone

    - whose output is a feature map of at least `SMALLEST_MAP` x `SMALLEST_MAP`,
    - which no pooling has shrunk since its convolution: pooling finds no feature and loses its place,
    - and which all paths to the head pass, so that none inside a residual block is taken.

    At 224 pixels these are the usual ones: the last convolution (with its ReLU) of VGG16, the last block of ResNet50.
    Each heatmap is scaled by itself, so that two of them cannot be compared in height. The network, which may be
    frozen, is left as it is, for a copy does the work, in eval mode and on the same device.

    Args:
        network: its backbone must be convolutional.
        images: uint8 [N, C, S, S], as stored.
        classes: int64 [N], the class id to explain each image for.
        method: how gradients weigh the features: `hirescam` place by place (arXiv:2011.08891), `gradcam` by their mean
            over the map (arXiv:1610.02391), `gradcam++` by their positive values (arXiv:1710.11063). The two that
            average suit heads that average too; the report's flatten the map, so that a feature may speak for a class
            in one place and against it in another. tests/analysis/test_heatmap_honesty.py measures the difference.

    Returns:
        float32 [N, S, S], from 0 to 1 at the strongest place; all 0 where no place speaks more than the others.

    Raises:
        UserError: no layer is as above, the backbone is a transformer, or the method is unknown.
        ValueError: there are not as many classes as images.
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    require_choice("method", method, get_args(Method))
    if len(images) != len(classes):
        raise ValueError(f"{len(images)} images need as many classes, got {len(classes)}")
    maps = np.empty((len(images), *images.shape[2:]), np.float32)
    with torch.inference_mode(False), torch.enable_grad():
        explain = _explainer(network, method)
        # No context manager: it would hide an IndexError.
        for start in range(0, len(images), _BATCH_SIZE):
            batch = slice(start, start + _BATCH_SIZE)
            targets = [ClassifierOutputTarget(label) for label in classes[batch].tolist()]
            maps[batch] = explain(torch.tensor(images[batch]), targets)
    return maps


def heatmap_figure(
    images: NDArray[np.uint8], heatmaps: NDArray[np.float32], titles: Sequence[str], columns: int = 4
) -> Figure:
    """Draws every image beside itself under its heatmap.

    Args:
        images: uint8 [N, C, S, S], C = 1 (grey) or 3 (RGB); N may be 0.
        heatmaps: float [N, S, S], 0 (the image shows) to 1 (bright yellow).
        titles: N texts, one for each pair.
        columns: pairs in a row, at least 1.

    Returns:
        A figure of N pairs, or the words "no images".

    Raises:
        ValueError: the shapes or lengths do not go together, or `columns` is below 1.
    """
    if heatmaps.shape != (len(images), *images.shape[2:]) or len(titles) != len(images) or columns < 1:
        raise ValueError(
            f"images {images.shape}, heatmaps {heatmaps.shape} and {len(titles)} titles do not go together, "
            f"or columns={columns} is below 1"
        )
    columns = min(columns, len(images)) or 1
    rows = math.ceil(len(images) / columns) or 1
    figure = Figure((2.9 * columns, 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, heatmap, title in zip(grid, images, heatmaps, titles, strict=False):
        _draw_pair(axes, image, heatmap)
        axes.set_title(title, fontsize=8, parse_math=False)
    if not len(images):
        figure.text(0.5, 0.5, "no images", ha="center", va="center", fontsize=13, color=SOFT_TEXT)
    return figure


def _draw_pair(axes: Axes, image: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> None:
    height, width = heatmap.shape
    pixels = np.broadcast_to(image, (3, height, width)).transpose(1, 2, 0)
    left, right = (0.0, width, height, 0.0), ((1.0 + _GAP) * width, (2.0 + _GAP) * width, height, 0.0)
    for extent in (left, right):
        axes.imshow(pixels, extent=extent, interpolation="nearest")
    axes.imshow(heatmap, "inferno", alpha=_OPACITY * heatmap, vmin=0.0, vmax=1.0, extent=right, interpolation="nearest")
    axes.set_xlim(0.0, right[1])


def _explainer(network: Network, method: Method) -> Any:
    """Returns a CAM of the library for a copy of the network; it takes images and targets."""
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM

    kind = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "hirescam": HiResCAM}[method]
    copy = deepcopy(network).eval().requires_grad_(False)
    layer = _feature_layer(copy)
    # Gradients start here: what is frozen would ask for none, and those of earlier layers are not needed.
    layer.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_().clone())
    # The library records a view on the CPU, which a following in-place ReLU would overwrite, so it gets a clone.
    return kind(copy, [layer], reshape_transform=torch.clone)


def _feature_layer(network: Network) -> nn.Module:
    """Chooses the layer described in `heatmaps`; no parameter of the network may require gradients."""
    calls = _trace(network)
    times = Counter(module for module, _ in calls)
    candidates: list[int] = []
    convolved = 0
    for position, (module, shape) in enumerate(calls):
        if len(shape) == 4 and shape[2] == shape[3] >= SMALLEST_MAP:
            convolved = shape[3] if isinstance(module, nn.Conv2d) else convolved
            if shape[3] == convolved and times[module] == 1:
                candidates.append(position)
    for position in reversed(candidates):
        if _is_passed(network, calls[position][0]):
            if any(len(shape) == 3 and shape[1] > 1 for _, shape in calls[position:]):
                break  # tokens: what a transformer makes of the map is not explained by it
            return calls[position][0]
    raise UserError(
        f"heatmaps: the backbone, a {type(network.backbone).__name__}, has no feature map of {SMALLEST_MAP} x "
        f"{SMALLEST_MAP} at image_size={network.preprocess.image_size}; take a convolutional one or a larger image_size"
    )


def _trace(network: Network) -> list[tuple[nn.Module, torch.Size]]:
    """Returns the modules of the backbone in the order in which they finish, with the shapes of their outputs."""
    calls: list[tuple[nn.Module, torch.Size]] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            calls.append((module, output.shape))

    handles = [module.register_forward_hook(record) for module in network.backbone.modules()]
    network.backbone(_example(network))
    for handle in handles:
        handle.remove()
    return calls


def _is_passed(network: Network, layer: nn.Module) -> bool:
    """Whether all paths from the images to the head pass a layer: cut there, no gradient comes through."""
    handle = layer.register_forward_hook(lambda module, inputs, output: output.detach())
    output: Tensor = network.backbone(_example(network).requires_grad_())
    handle.remove()
    return not output.requires_grad


def _example(network: Network) -> Tensor:
    return network.example().to(network.preprocess.shift.device)
