"""Optimisers, their parameter groups, sharpness-aware steps, and the cosine schedule of the learning rate."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from emotion.settings import OptimizerSettings

KERAS_EPSILON = 1e-7


def build_optimizer(
    layers: Sequence[Iterable[nn.Parameter]], lr: float | Tensor, settings: OptimizerSettings, fused: bool
) -> Optimizer:
    """Builds an optimiser of the trainable parameters, grouped by learning rate and weight decay.

    Args:
        layers: the parameters of each layer, the first layer first.
        lr: learning rate of the last layer.
        settings: `adam` has epsilon 1e-7 as in Keras, `adamw` (Loshchilov and Hutter, ICLR 2019) 1e-8, and `sgd` has
            Nesterov's momentum (Sutskever et al., ICML 2013). Weights with two or more dimensions decay, biases and
            normalisation do not. `layer_decay` is the ratio of a layer's rate to that of the next layer (as in ELECTRA,
            Clark et al., ICLR 2020).
        fused: whether one kernel updates all parameters; otherwise PyTorch chooses.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for index, layer in enumerate(layers, 1):
        scale = settings.layer_decay ** (len(layers) - index)
        for parameter in layer:
            if parameter.requires_grad:
                decay = settings.weight_decay if parameter.ndim > 1 else 0.0
                groups[scale, decay].append(parameter)
    kernel = fused or None  # False would update the parameters one by one
    # The group with the highest rate comes first: logs and learning curves show the first group, whose rate is `lr`.
    parameters = [
        {"params": groups[scale, decay], "lr": lr * scale, "weight_decay": decay}
        for scale, decay in sorted(groups, reverse=True)
    ]
    if settings.optimizer == "sgd":
        return SGD(parameters, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=kernel)
    if settings.optimizer == "adamw":
        return AdamW(parameters, fused=kernel)
    return Adam(parameters, eps=KERAS_EPSILON, fused=kernel)


def cosine_factor(step: int, steps: int, warm_up: int = 0) -> float:
    """Returns the factor (0..1) of the learning rate: linear up to 1 over `warm_up` steps, then half a cosine to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (min(step, steps) - warm_up) / max(1, steps - warm_up))) / 2


class SharpnessAware:
    """Moves the weights to the highest loss nearby (to first order), and back (Foret et al., ICLR 2021).

    Args:
        network: network whose trainable parameters are moved.
        rho: Euclidean norm of the move over all parameters together.
    """

    def __init__(self, network: nn.Module, rho: float) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.state, self.rho = [*self.parameters, *network.buffers()], rho

    @torch.no_grad()
    def perturb(self) -> list[Tensor]:
        """Moves the weights along their gradients; returns the previous weights and running statistics.

        Infinite gradients move nothing: float16 has them until the scaler of the gradients has found its scale.
        """
        moves = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        scale = self.rho / (nn.utils.get_total_norm([gradient for _, gradient in moves]) + 1e-12)
        scale = scale.nan_to_num(0)
        before = [value.clone() for value in self.state]
        for parameter, gradient in moves:
            parameter.addcmul_(gradient.nan_to_num(0, 0, 0), scale)
        return before

    @torch.no_grad()
    def restore(self, before: Sequence[Tensor]) -> None:
        """Restores weights and running statistics: statistics of the moved weights do not describe the network."""
        for value, previous in zip(self.state, before, strict=True):
            value.copy_(previous)
