"""The common form of all networks: pixels in, logits out, and a frozen part that may be empty."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emotion.errors import UserError
from emotion.models.preprocess import Preprocess
from emotion.settings import Unfreeze

MIN_MAP_SIZE = 5
"""Smallest width, in cells, of a feature map that can give a heatmap; a cell of a smaller map is wider than a mouth.

Measured on FER2013 with the frozen VGG16 at 48 pixels: blurring the region that its last map of 3 x 3 marks lowers the
predicted class no more than blurring the region that the map of another image marks. Its last map of 6 x 6 does better.
"""
COUNTED_LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters as Keras counts them, which includes the running statistics of batch normalisation."""

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Number of frozen parameters and running statistics."""
        return self.total - self.trainable


class Network(nn.Module):
    """Preprocessing, a backbone and a head.

    Args:
        preprocess: maps pixels to the input of the backbone.
        backbone: maps preprocessed images [B, C, S, S] to feature maps or features.
        head: maps the output of the backbone to logits [B, K].
        stages: modules of the backbone whose composition equals the backbone.
    """

    def __init__(
        self, preprocess: Preprocess, backbone: nn.Module, head: nn.Module, stages: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.preprocess, self.backbone, self.head = preprocess, backbone, head
        self._stages = list(stages)
        # Names rather than modules, since Lightning may replace modules (sync_batchnorm).
        self._frozen: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, C, H, W], uint8 (0..255) or float (0..1), to logits [B, K]."""
        logits: Tensor = self.head(self.backbone(self.preprocess(images)))
        return logits

    def unfreeze(self, count: Unfreeze) -> None:
        """Makes the last `count` layers of the backbone trainable and freezes its other layers.

        Convolutions and linear layers are counted, in the order of the forward pass; the normalisation after an
        unfrozen layer is trained with that layer. In VGG16, 3 unfreezes block 5, and 6 unfreezes blocks 4 and 5.

        Raises:
            UserError: the backbone has fewer layers, or does not call all of its layers, so that they have no order.
        """
        order = forward_order(self.backbone, self.example())
        counted = [position for position, module in enumerate(order.values()) if isinstance(module, COUNTED_LAYERS)]
        if count != "all":
            existing = sum(isinstance(layer, COUNTED_LAYERS) for layer in self.backbone.modules())
            _check_count(count, len(counted), existing)
        # Modules before the first unfrozen layer are frozen; with count=0, `len(order)` freezes all of them.
        first = 0 if count == "all" else [*counted, len(order)][len(counted) - count]
        self._frozen = list(order)[:first]
        self.backbone.requires_grad_(count == "all")
        frozen = set(list(order.values())[:first])
        for module in list(order.values())[first:]:
            # A module's own parameters, such as a position embedding, are trained only if none of its layers is frozen.
            if frozen.isdisjoint(module.modules()):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)

    def freeze_statistics(self) -> None:
        """Puts the frozen part into eval mode, which keeps its running statistics and turns off its dropout."""
        for name in self._frozen:
            self.backbone.get_submodule(name).eval()

    @property
    def frozen_stages(self) -> int:
        """Number of stages before the first stage with a trainable parameter."""
        trainable = [any(parameter.requires_grad for parameter in stage.parameters()) for stage in self._stages]
        return trainable.index(True) if True in trainable else len(trainable)

    def split(self, first: int) -> tuple[nn.Module, nn.Module]:
        """Splits the network before the stage `first`; the first part takes pixels, the second returns logits."""
        return nn.Sequential(self.preprocess, *self._stages[:first]), nn.Sequential(*self._stages[first:], self.head)

    def layers(self) -> list[list[nn.Parameter]]:
        """Returns the parameters of each layer of the backbone, followed by those of the head.

        Backbones of timm define the grouping of their parameters; what remains of their own heads, a normalisation,
        belongs to the head. In other backbones, each stage with a convolution or linear layer begins a new layer, and
        the stages after it, such as its normalisation, belong to that layer.
        """
        matcher = getattr(self.backbone, "group_matcher", None)
        if matcher is None:
            groups: list[list[nn.Parameter]] = []
            for stage in self._stages:
                if not groups or any(isinstance(module, COUNTED_LAYERS) for module in stage.modules()):
                    groups.append([])
                groups[-1] += stage.parameters()
        else:
            from timm.models import group_parameters

            parameters = dict(self.backbone.named_parameters())
            names = group_parameters(self.backbone, matcher(coarse=False))
            groups = [[parameters[name] for name in names[key]] for key in sorted(names)]
            if all(name.startswith(("head.", "fc_norm.")) for name in names[max(names)]):
                return [*filter(None, groups[:-1]), [*groups[-1], *self.head.parameters()]]
        return [group for group in (*groups, list(self.head.parameters())) if group]

    def count_parameters(self) -> ParameterCount:
        """Counts parameters as Keras does."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        statistics = sum(value.numel() for name, value in self.named_buffers() if "running_" in name)
        total = sum(size for size, _ in sizes) + statistics
        return ParameterCount(total, sum(size for size, trainable in sizes if trainable))

    def example(self) -> Tensor:
        """Returns an example input of the backbone, zeros [1, C, S, S]."""
        size = self.preprocess.image_size
        return torch.zeros(1, self.preprocess.channels, size, size)


def feature_count(backbone: nn.Module, example: Tensor, name: str) -> int:
    """Returns the number of features of one image.

    Args:
        backbone: maps images to features; its mode and its statistics are left unchanged.
        example: one preprocessed image, [1, C, S, S].
        name: name of the backbone for the message.

    Raises:
        UserError: the image is too small for this backbone.
    """
    training = backbone.training
    try:
        with torch.no_grad():
            return int(backbone.eval()(example).numel())
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"image_size={example.shape[-1]}: does not fit {name} ({str(error) or type(error).__name__})"
        ) from None
    finally:
        backbone.train(training)


def _check_count(count: int, counted: int, existing: int) -> None:
    if count and counted < existing:
        raise UserError(f"unfreeze={count}: this backbone does not call all its layers, so only 0 and all are possible")
    if not 0 <= count <= counted:
        raise UserError(f"unfreeze={count}: this backbone has {counted} layers to unfreeze (0..{counted}, all)")


def forward_order(backbone: nn.Module, example: Tensor) -> dict[str, nn.Module]:
    """Returns the modules that compute or have parameters themselves, by name, in the order in which they finish."""
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
