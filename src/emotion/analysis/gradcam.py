"""Heatmaps of the regions of an image that support a class, and figures that show them."""

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

from emotion.analysis.figures import rgb
from emotion.errors import UserError, require_choice
from emotion.models.network import MIN_MAP_SIZE, Network
from emotion.palette import SOFT_TEXT

Method = Literal["gradcam", "gradcam++", "hirescam"]

_BATCH_SIZE = 32
_COLUMNS = 4  # pairs of an image and its heatmap in a row
_GAP = 0.04  # between an image and its heatmap, in widths of the image
_OPACITY = 0.7  # of the heatmap where it is 1


def heatmaps(
    network: Network, images: NDArray[np.uint8], classes: NDArray[np.int64], method: Method = "hirescam"
) -> NDArray[np.float32]:
    """Returns for each image how much each of its pixels supports a class.

    The maps come from the last layer of the backbone that meets three conditions:

    - its output is a feature map of at least `MIN_MAP_SIZE` x `MIN_MAP_SIZE`,
    - no pooling follows the convolution that made the map: pooling adds no feature and blurs positions,
    - all paths to the head pass through the layer, so that no layer inside a residual block is taken.

    At 224 pixels these are the usual layers: the last convolution (with its ReLU) of VGG16, the last block of ResNet50.
    Each heatmap is scaled on its own, so the values of two heatmaps cannot be compared. The network, which may be
    frozen, does not change: a copy in eval mode on the same device computes the heatmaps.

    Args:
        network: a network with a convolutional backbone.
        images: uint8 [N, C, S, S], as stored.
        classes: int64 [N], the class id to explain each image for.
        method: how gradients weight the features: `hirescam` position by position (arXiv:2011.08891), `gradcam` by
            their mean over the map (arXiv:1610.02391), `gradcam++` by their positive values (arXiv:1710.11063). Means
            suit heads that average the map. The paper's heads flatten it, so that a feature may support a class at one
            position and oppose it at another. tests/analysis/test_heatmap_honesty.py measures the difference.

    Returns:
        float32 [N, S, S], from 0 to 1 at the pixel with most support; all 0 where no pixel has more than the others.

    Raises:
        UserError: no layer meets the conditions, the backbone is a transformer, or the method is unknown.
        ValueError: the numbers of classes and images differ.
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    require_choice("method", method, get_args(Method))
    if len(images) != len(classes):
        raise ValueError(f"classes: {len(classes)} for {len(images)} images: one class for each image is needed")
    maps = np.empty((len(images), *images.shape[2:]), np.float32)
    with torch.inference_mode(False), torch.enable_grad():
        explain = _explainer(network, method)
        # The library's CAM is not used as a context manager, which would hide an IndexError.
        for start in range(0, len(images), _BATCH_SIZE):
            batch = slice(start, start + _BATCH_SIZE)
            targets = [ClassifierOutputTarget(label) for label in classes[batch].tolist()]
            maps[batch] = explain(torch.tensor(images[batch]), targets)
    return maps


def heatmap_figure(images: NDArray[np.uint8], heatmaps: NDArray[np.float32], titles: Sequence[str]) -> Figure:
    """Draws pairs: each image, and beside it the image under its heatmap.

    Args:
        images: uint8 [N, C, S, S], C = 1 (grey) or 3 (RGB); N may be 0.
        heatmaps: float [N, S, S], from 0 (transparent) to 1 (bright yellow).
        titles: N titles, one for each pair.

    Returns:
        A figure of N pairs, or of the text "no images".

    Raises:
        ValueError: the shapes or lengths do not match.
    """
    if heatmaps.shape != (len(images), *images.shape[2:]) or len(titles) != len(images):
        raise ValueError(f"images {images.shape}, heatmaps {heatmaps.shape} and {len(titles)} titles do not match")
    columns = min(_COLUMNS, len(images)) or 1
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
    pixels = rgb(image)
    left, right = (0.0, width, height, 0.0), ((1.0 + _GAP) * width, (2.0 + _GAP) * width, height, 0.0)
    for extent in (left, right):
        axes.imshow(pixels, extent=extent, interpolation="nearest")
    axes.imshow(heatmap, "inferno", alpha=_OPACITY * heatmap, vmin=0.0, vmax=1.0, extent=right, interpolation="nearest")
    axes.set_xlim(0.0, right[1])


def _explainer(network: Network, method: Method) -> Any:
    """Returns the pytorch-grad-cam object for a copy of the network; a call takes images and targets."""
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM

    kind = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "hirescam": HiResCAM}[method]
    copy = deepcopy(network).eval().requires_grad_(False)
    layer = _feature_layer(copy)
    # The gradients of earlier layers are not needed, and a frozen layer's output would have none, so gradients start at
    # this layer's output.
    layer.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_().clone())
    # On the CPU the library keeps a view of the output, which a following in-place ReLU would overwrite: clone it.
    return kind(copy, [layer], reshape_transform=torch.clone)


def _feature_layer(network: Network) -> nn.Module:
    """Returns the layer described in `heatmaps`; no parameter of the network may require gradients."""
    calls = _trace(network)
    call_counts = Counter(module for module, _ in calls)
    candidates: list[int] = []
    convolved = 0  # width of the last convolution's output; a pooled map is smaller
    for position, (module, shape) in enumerate(calls):
        if len(shape) == 4 and shape[2] == shape[3] >= MIN_MAP_SIZE:
            convolved = shape[3] if isinstance(module, nn.Conv2d) else convolved
            if shape[3] == convolved and call_counts[module] == 1:
                candidates.append(position)
    for position in reversed(candidates):
        if _on_every_path(network, calls[position][0]):
            if any(len(shape) == 3 and shape[1] > 1 for _, shape in calls[position:]):
                break  # Tokens [N, T, D] follow: the map does not explain what a transformer computes from it.
            return calls[position][0]
    raise UserError(
        f"heatmaps: the backbone {type(network.backbone).__name__} has no feature map of {MIN_MAP_SIZE} x "
        f"{MIN_MAP_SIZE} at image_size={network.preprocess.image_size}: use a convolutional backbone or larger images"
    )


def _trace(network: Network) -> list[tuple[nn.Module, torch.Size]]:
    """Returns the modules of the backbone with the shapes of their outputs, in the order in which their calls end."""
    calls: list[tuple[nn.Module, torch.Size]] = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            calls.append((module, output.shape))

    handles = [module.register_forward_hook(record) for module in network.backbone.modules()]
    network.backbone(_example(network))
    for handle in handles:
        handle.remove()
    return calls


def _on_every_path(network: Network, layer: nn.Module) -> bool:
    """Returns whether all paths from images to head pass through a layer: if so, detaching it stops gradients."""
    handle = layer.register_forward_hook(lambda module, inputs, output: output.detach())
    output: Tensor = network.backbone(_example(network).requires_grad_())
    handle.remove()
    return not output.requires_grad


def _example(network: Network) -> Tensor:
    return network.example().to(network.preprocess.shift.device)
