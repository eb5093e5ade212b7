"""Mixes pairs of images of a batch and their labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emotion.settings import AugmentationSettings


@dataclass(frozen=True)
class Mix:
    """Blends whole images (Zhang et al., "mixup", ICLR 2018) or pastes rectangles (Yun et al., "CutMix", ICCV 2019).

    If both are on, each batch gets one of them at random, with equal probability. The share of the second image is
    drawn from Beta(alpha, alpha) once per batch; torchvision does the mixing.

    Attributes:
        settings: the alphas `mixup` and `cutmix`; 0 turns the one or the other off.
    """

    settings: AugmentationSettings

    @property
    def changes(self) -> bool:
        """Whether mixup or CutMix is on."""
        return bool(self.settings.mixup or self.settings.cutmix)

    def __call__(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mixes float images [B, C, H, W] and label probabilities [B, K] with values drawn from a CPU generator."""
        from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

        kinds = {MixUp: self.settings.mixup, CutMix: self.settings.cutmix}
        transform = RandomChoice([kind(alpha=float(alpha)) for kind, alpha in kinds.items() if alpha])
        seed = int(torch.randint(2**62, (), generator=generator))
        # torchvision draws from PyTorch's global generator; its state is kept, since dropout draws from it too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixed: tuple[Tensor, Tensor] = transform(inputs, labels)
        return mixed
