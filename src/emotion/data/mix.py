"""Mixes the images of a batch, and their labels, in pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Blends whole images (Zhang et al., "mixup", ICLR 2018) or pastes rectangles (Yun et al., "CutMix", ICCV 2019).

    With both, each batch gets one of them, at equal odds. The share of the second image is drawn from Beta(a, a), once
    for a batch; torchvision does the mixing.

    Attributes:
        mixup: a of blending; 0 is off.
        cutmix: a of pasting; 0 is off.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self != Mix()

    def __call__(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mixes float images [B, C, H, W] and labels [B, K], rows sum to 1, by numbers from a generator of the CPU."""
        from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

        kinds = {MixUp: self.mixup, CutMix: self.cutmix}
        transform = RandomChoice([kind(alpha=float(alpha)) for kind, alpha in kinds.items() if alpha])
        seed = int(torch.randint(2**62, (), generator=generator))
        # torchvision draws from PyTorch's own generator, from which dropout draws too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixed: tuple[Tensor, Tensor] = transform(inputs, labels)
        return mixed
