"""The statistics of batch normalisation where the running means are too slow, in short epochs, or missing in a file."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH_IMAGES = 4096
"""Number of images from which statistics are estimated, if an epoch has more (arXiv:2105.07576: 1,000 to 10,000)."""
FEW_IMAGES = 1024
"""Number of images from which the statistics of a file's layers are restored, before the first step."""


def slow_statistics(network: nn.Module, batches: int) -> list[str]:
    """Returns the names of the layers in training mode whose running statistics remember more steps than an epoch has.

    A layer with momentum m (PyTorch's meaning) remembers about 1 / m steps: 10 by PyTorch's default, 100 by Keras's,
    which the paper's CNN has.

    Args:
        network: the trained network.
        batches: number of batches of an epoch.
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and module.running_mean is not None
        and module.momentum
        and batches * module.momentum < 1
    ]


def folded_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Returns the layers that have a trained bias but no statistics: a file has folded these into the convolutions."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
    return [norm for norm in norms if norm.bias.any() and norm.running_mean is not None and not norm.running_mean.any()]


@torch.no_grad()
def restore_statistics(
    layers: Sequence[nn.BatchNorm2d], forward: Callable[[Tensor], object], inputs: Iterable[Tensor]
) -> None:
    """Gives folded layers the statistics of images, so that they can be trained; the network computes the same.

    In training mode, a folded layer would scale every channel by statistics that its weights do not expect.

    Args:
        layers: the layers; all modules are in eval mode, before and after the call.
        forward: the pass through the network that contains them.
        inputs: batches [B, ...].
    """
    # In training mode, a layer without weights measures the statistics of its input.
    meters: dict[nn.Module, nn.Module] = {
        layer: nn.BatchNorm2d(layer.num_features, affine=False, momentum=None) for layer in layers
    }

    def measure(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        meters[layer](inputs[0])  # [B, C, H, W]

    handles = [layer.register_forward_pre_hook(measure) for layer in layers]
    for batch in inputs:
        forward(batch)
    for layer, handle in zip(layers, handles, strict=True):
        handle.remove()
        old, new = layer.state_dict(), meters[layer].state_dict()
        before, after = ((each["running_var"] + layer.eps).sqrt() for each in (old, new))  # [C]
        weight = old["weight"] * after / before
        bias = old["bias"] + old["weight"] * (new["running_mean"] - old["running_mean"]) / before
        layer.load_state_dict({"weight": weight, "bias": bias, **new})


@torch.no_grad()
def estimate_statistics(
    layers: Sequence[nn.Module], forward: Callable[[Tensor], object], inputs: Iterable[Tensor]
) -> None:
    """Sets the statistics of layers to their mean over images, with the present weights (arXiv:2105.07576).

    Dropout stays off, so that no random number is drawn.

    Args:
        layers: the layers; all modules are in eval mode, before and after the call.
        forward: the pass through the network that contains them.
        inputs: batches [B, ...].
    """
    norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    for batch in inputs:
        seen += len(batch)
        for layer in norms:
            layer.momentum = len(batch) / seen  # the mean over all images so far
        forward(batch)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
