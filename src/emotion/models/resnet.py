"""Residual networks for small grey images, trained from scratch."""

from collections.abc import Sequence

from torch import nn

from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import NormalizeName, Preprocess, require_unit


def build_resnet(
    blocks: Sequence[int],
    width: int,
    stem_stride: int,
    image_size: int,
    normalize: NormalizeName,
    num_classes: int,
    dropout: float = 0.0,
) -> Network:
    """Builds a ResNet (He et al., CVPR 2016) whose stem is one 3x3 convolution, which keeps small images large.

    The stages consist of torchvision's basic blocks; each stage after the first halves height and width and doubles
    the filters. Shortcuts are pooled before their 1x1 convolution (ResNet-D of He et al., "Bag of Tricks", CVPR 2019),
    and each block begins as the identity. The head is global average pooling, dropout and the logits.

    Args:
        blocks: number of blocks of each stage; [2, 2, 2, 2] with 64 filters is ResNet18.
        width: number of filters of the first stage.
        stem_stride: 1, or 2 to halve the image in the stem, at a quarter of the cost.
        image_size: height and width of the input, pixels.
        normalize: must be `unit`; the other values are for pretrained weights.
        num_classes: number of logits.
        dropout: probability of the dropout before the last layer.

    Raises:
        UserError: width or stride is illegal, there are no stages, a stage is empty, or the stages halve the image to
            nothing.
    """
    require_unit(normalize)
    if width < 1 or stem_stride not in (1, 2):
        raise UserError(f"width={width}, stem_stride={stem_stride}: filters from 1, and a stride of 1 or 2 are needed")
    if not blocks or min(blocks) < 1 or image_size // stem_stride >> (len(blocks) - 1) < 1:
        raise UserError(
            f"blocks={list(blocks)}: one or more stages of one or more blocks are needed; all but the first halve the "
            f"image (image_size={image_size}, stem_stride={stem_stride})"
        )
    filters = [width * 2**number for number in range(len(blocks))]
    stem = nn.Sequential(nn.Conv2d(1, width, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    stages = [
        _stage(inputs, outputs, depth)
        for inputs, outputs, depth in zip([width, *filters], filters, blocks, strict=False)
    ]
    backbone = nn.Sequential(stem, *stages)
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(filters[-1], num_classes)
    )
    network = Network(Preprocess(1, image_size, normalize), backbone, head, list(backbone))
    return network.apply(init_torchvision).apply(_zero_residual)


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
