"""The statistics of batch normalisation in short epochs, of which a running mean over many steps knows too little."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH_IMAGES = 4096
"""Number of images from which statistics are estimated, if an epoch has more (arXiv:2105.07576: 1,000 to 10,000)."""


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
