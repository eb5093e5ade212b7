"""Optimisers, the parameters that they treat differently, and the course of the learning rate."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from emotion.config import OptimizerName

KERAS_EPSILON = 1e-7


@dataclass(frozen=True)
class OptimizerSettings:
    """How the weights move; the defaults are the report's, which are Keras's.

    Attributes:
        optimizer: `adam` (epsilon 1e-7 as in Keras); `adamw` (Loshchilov and Hutter, ICLR 2019; epsilon 1e-8);
            `sgd`, with Nesterov's momentum (Sutskever et al., ICML 2013).
        momentum: of `sgd`.
        weight_decay: of weights with two or more dimensions; biases and normalisation have none.
        layer_decay: a layer's learning rate is this times that of the layer after it, 1 for all alike (as in ELECTRA,
            Clark et al., ICLR 2020).
        sam_rho: radius of sharpness-aware minimisation (Foret et al., ICLR 2021), which takes the gradient where the
            loss nearby is highest, at the cost of a second pass; 0 is off.
    """

    optimizer: OptimizerName = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    sam_rho: float = 0.0


def build_optimizer(
    layers: Sequence[Iterable[nn.Parameter]], lr: float | Tensor, settings: OptimizerSettings, fused: bool
) -> Optimizer:
    """Builds an optimiser over what trains.

    Args:
        layers: the parameters of each layer, the first layer first.
        lr: of the last layer.
        settings: which optimiser.
        fused: whether one kernel updates all parameters.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for index, layer in enumerate(layers, 1):
        scale = settings.layer_decay ** (len(layers) - index)
        for parameter in layer:
            if parameter.requires_grad:
                decay = settings.weight_decay if parameter.ndim > 1 else 0.0
                groups[scale, decay].append(parameter)
    # First the fastest, which learn at the rate that was asked for: learning curves show that of the first group.
    parameters = [
        {"params": groups[scale, decay], "lr": lr * scale, "weight_decay": decay}
        for scale, decay in sorted(groups, reverse=True)
    ]
    if settings.optimizer == "sgd":
        return SGD(parameters, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused)
    if settings.optimizer == "adamw":
        return AdamW(parameters, fused=fused)
    return Adam(parameters, eps=KERAS_EPSILON, fused=fused)


def cosine_factor(step: int, steps: int, warm_up: int = 0) -> float:
    """Returns what the learning rate is multiplied by: a line up to 1 over `warm_up` steps, then half a cosine to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


class SharpnessAware:
    """Moves weights to where the loss nearby is highest, and back.

    Args:
        network: all its parameters that train are moved.
        rho: how far, the norm of all moves together.
    """

    def __init__(self, network: nn.Module, rho: float) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.state, self.rho = [*self.parameters, *network.buffers()], rho

    @torch.no_grad()
    def perturb(self) -> list[Tensor]:
        """Moves along the gradients; returns the weights and running statistics as they were."""
        moves = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        scale = self.rho / (nn.utils.get_total_norm([gradient for _, gradient in moves]) + 1e-12)
        before = [value.clone() for value in self.state]
        for parameter, gradient in moves:
            parameter.addcmul_(gradient, scale)
        return before

    @torch.no_grad()
    def restore(self, before: Sequence[Tensor]) -> None:
        """Puts the weights back, and the statistics: those of the place left do not belong to the network."""
        for value, old in zip(self.state, before, strict=True):
            value.copy_(old)
