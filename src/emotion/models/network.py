"""What all networks have in common: pixels in, logits out, and a frozen part that may be empty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from emotion.errors import UserError
from emotion.models.preprocess import Preprocess

Unfreeze = int | Literal["all"]
COUNTED = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of values as Keras counts them: the running statistics of batch normalisation are parameters too."""

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Values that training leaves alone or that are statistics."""
        return self.total - self.trainable


class Network(nn.Module):
    """Preprocessing, a backbone and a head.

    Args:
        preprocess: pixels to what the backbone expects.
        backbone: images to feature maps or features.
        head: these to logits.
        stages: the modules of the backbone that, applied in turn, equal it.
    """

    def __init__(
        self, preprocess: Preprocess, backbone: nn.Module, head: nn.Module, stages: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.preprocess, self.backbone, self.head = preprocess, backbone, head
        self._stages = list(stages)
        # Names, since Lightning replaces modules (sync_batchnorm).
        self._frozen: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 (0..255) or float (0..1), to logits [B, K]."""
        logits: Tensor = self.head(self.backbone(self.preprocess(images)))
        return logits

    def unfreeze(self, count: Unfreeze) -> None:
        """Makes the last `count` layers of the backbone trainable and freezes the rest of it.

        Counted are convolutions (and the linear layers inside backbones that have them), in the order of the forward
        pass; the normalisation after an unfrozen layer is trained with it. VGG16: 3 is block 5, 6 are blocks 4 and 5.

        Raises:
            UserError: the backbone has fewer layers, or uses some in a way that has no order.
        """
        order = _forward_order(self.backbone, self.example())
        counted = [position for position, module in enumerate(order.values()) if isinstance(module, COUNTED)]
        if count != "all":
            _check_count(count, len(counted), sum(isinstance(module, COUNTED) for module in self.backbone.modules()))
        first = 0 if count == "all" else [*counted, len(order)][len(counted) - count]
        self._frozen = list(order)[:first]
        self.backbone.requires_grad_(count == "all")
        frozen = set(list(order.values())[:first])
        for module in list(order.values())[first:]:
            # What a module holds besides its layers, such as the position embedding, trains if all of these do.
            if frozen.isdisjoint(module.modules()):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)

    def freeze_statistics(self) -> None:
        """Puts the frozen part in eval mode: its running statistics stay, its dropout is off."""
        for name in self._frozen:
            self.backbone.get_submodule(name).eval()

    @property
    def frozen_stages(self) -> int:
        """How many stages there are before the first one that trains."""
        trains = [any(parameter.requires_grad for parameter in stage.parameters()) for stage in self._stages]
        return trains.index(True) if True in trains else len(trains)

    def split(self, first: int) -> tuple[nn.Module, nn.Module]:
        """Divides the network before a stage: a function of the pixels, and the rest."""
        return nn.Sequential(self.preprocess, *self._stages[:first]), nn.Sequential(*self._stages[first:], self.head)

    def layers(self) -> list[list[nn.Parameter]]:
        """Returns the parameters of each layer of the backbone, and last those of the head.

        The backbones of timm say themselves which of their parameters belong together; others have a layer for each
        stage that convolves, with the normalisation behind it.
        """
        matcher = getattr(self.backbone, "group_matcher", None)
        if matcher is None:
            groups: list[list[nn.Parameter]] = []
            for stage in self._stages:
                if not groups or any(isinstance(module, COUNTED) for module in stage.modules()):
                    groups.append([])
                groups[-1] += stage.parameters()
        else:
            from timm.models import group_parameters

            parameters = dict(self.backbone.named_parameters())
            names = group_parameters(self.backbone, matcher(coarse=False))
            groups = [[parameters[name] for name in names[key]] for key in sorted(names)]
        return [own for own in (*groups, list(self.head.parameters())) if own]

    def count_parameters(self) -> ParameterCount:
        """Counts parameters as Keras does."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        statistics = sum(value.numel() for name, value in self.named_buffers() if "running_" in name)
        total = sum(size for size, _ in sizes) + statistics
        return ParameterCount(total, sum(size for size, trains in sizes if trains))

    def example(self) -> Tensor:
        """Returns an input of the backbone, zeros [1, C, S, S]."""
        size = self.preprocess.image_size
        return torch.zeros(1, self.preprocess.channels, size, size)


def feature_count(backbone: nn.Module, example: Tensor, name: str) -> int:
    """Returns how many values a backbone makes of one image.

    Raises:
        UserError: the image is too small for this backbone.
    """
    training = backbone.training
    try:
        with torch.no_grad():
            return int(backbone.eval()(example).numel())
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"image_size={example.shape[-1]} does not fit {name} ({str(error) or type(error).__name__})"
        ) from None
    finally:
        backbone.train(training)


def _check_count(count: int, counted: int, existing: int) -> None:
    if count and counted < existing:
        raise UserError(f"unfreeze={count}: this backbone does not call all its layers, so none is the last (0, all)")
    if not 0 <= count <= counted:
        raise UserError(f"unfreeze={count}: this backbone has {counted} layers to unfreeze (0..{counted}, all)")


def _forward_order(backbone: nn.Module, example: Tensor) -> dict[str, nn.Module]:
    """Maps names to the modules that compute or hold parameters themselves, in the order in which they first finish."""
    order: dict[str, nn.Module] = {}
    handles = [
        module.register_forward_hook(lambda module, *_, name=name: order.update({name: module}))
        for name, module in backbone.named_modules()
        if not list(module.children()) or list(module.parameters(recurse=False))
    ]
    training = backbone.training
    with torch.no_grad():
        backbone.eval()(example)
    backbone.train(training)
    for handle in handles:
        handle.remove()
    return order
