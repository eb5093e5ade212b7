"""Residual networks for small grey images, trained from scratch."""

from itertools import pairwise

from torch import nn

from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import Preprocess, require_unit
from emotion.settings import NetworkSettings


def build_resnet(settings: NetworkSettings, num_classes: int) -> Network:
    """Builds a ResNet (He et al., CVPR 2016) whose stem is one 3x3 convolution, which keeps small images large.

    The stages consist of torchvision's basic blocks; each stage after the first halves height and width and doubles
    the filters. Shortcuts are pooled before their 1x1 convolution (ResNet-D of He et al., "Bag of Tricks", CVPR 2019),
    and each block begins as the identity. The head is global average pooling, dropout and the logits.

    Args:
        settings: `blocks` has the number of blocks of each stage, [2, 2, 2, 2] with `width` 64 is ResNet18;
            `stem_stride` is 1, or 2 to halve the image in the stem, at a quarter of the cost; `stem_width` puts two
            narrow convolutions before that, which see the image at its full resolution; `normalize` must be `unit`,
            since the other values are for pretrained weights.
        num_classes: number of logits.

    Raises:
        UserError: there are no stages, a stage is empty, or the stages halve the image to nothing.
    """
    require_unit(settings.normalize)
    blocks, width, stem_stride, image_size = settings.blocks, settings.width, settings.stem_stride, settings.image_size
    assert width is not None
    assert stem_stride is not None
    if not blocks or min(blocks) < 1 or image_size // stem_stride >> (len(blocks) - 1) < 1:
        raise UserError(
            f"blocks={blocks}: one or more stages of one or more blocks are needed; all but the first halve the "
            f"image (image_size={image_size}, stem_stride={stem_stride})"
        )
    filters = [width * 2**number for number in range(len(blocks))]
    stem = _stem(settings.stem_width, width, stem_stride)
    stages = [
        _stage(inputs, outputs, depth)
        for inputs, outputs, depth in zip([width, *filters], filters, blocks, strict=False)
    ]
    backbone = nn.Sequential(stem, *stages)
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout or 0), nn.Linear(filters[-1], num_classes)
    )
    network = Network(Preprocess(1, image_size, settings.normalize), backbone, head, list(backbone))
    return network.apply(init_torchvision).apply(_zero_residual)


def _stem(narrow: int | None, width: int, stride: int) -> nn.Sequential:
    """Builds 3x3 convolutions, each with batch normalisation and ReLU; only the last has the stride."""
    filters = [1, *([narrow] * 2 if narrow else []), width]
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(filters), 2):
        step = stride if number == len(filters) else 1
        layers += [nn.Conv2d(inputs, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    stride = 1 if inputs == outputs else 2
    shortcut = None
    if stride == 2:
        shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut), *(BasicBlock(outputs, outputs) for _ in range(depth - 1))
    )


def init_torchvision(module: nn.Module) -> None:
    """Initialises a convolution or batch normalisation as torchvision's VGG and ResNet do; for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


def _zero_residual(module: nn.Module) -> None:
    from torchvision.models.resnet import BasicBlock

    if isinstance(module, BasicBlock):
        nn.init.zeros_(module.bn2.weight)
