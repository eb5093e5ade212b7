"""The report's scratch CNN in its eight variants."""

from collections.abc import Sequence

from torch import nn

from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import NormalizeName, Preprocess, require_unit

FIRST_FILTERS = 32
HIDDEN_UNITS = 256


def build_cnn(
    blocks: Sequence[int], image_size: int, normalize: NormalizeName, num_classes: int, dropout: float = 0.5
) -> Network:
    """Builds the scratch CNN of section 3.1 of the report.

    Blocks of 3x3 convolutions with ReLU, 32 filters in the first block and twice as many in each further one; a block
    ends with max-pooling, batch normalisation and dropout 0.2, and inside it a batch normalisation follows each
    convolution but the last. Then flatten, 256 units, batch normalisation, dropout 0.5, and the classes.
    The defaults are those of Keras, which the report used: Glorot uniform weights, batch normalisation with
    momentum 0.99 (0.01 in PyTorch's terms) and epsilon 1e-3.

    Args:
        blocks: number of convolutions of each block; the report chose [2, 2, 1, 1].
        image_size: height and width of the input, pixels.
        normalize: `unit` is the report's; the others are for pretrained weights.
        num_classes: number of logits.
        dropout: before the last layer; 0.5 is the report's.

    Raises:
        UserError: no blocks, an empty block, or more halvings than the image allows.
    """
    if not blocks or min(blocks) < 1 or image_size >> len(blocks) < 1:
        raise UserError(
            f"blocks={list(blocks)}: one or more blocks of one or more convolutions are needed, each halves the image "
            f"(image_size={image_size})"
        )
    require_unit(normalize)
    filters = [FIRST_FILTERS * 2**number for number in range(len(blocks))]
    backbone = nn.Sequential(
        *(
            _block(inputs, outputs, depth)
            for inputs, outputs, depth in zip([1, *filters], filters, blocks, strict=False)
        )
    )
    head = nn.Sequential(
        nn.Flatten(),
        nn.Linear(filters[-1] * (image_size >> len(blocks)) ** 2, HIDDEN_UNITS),
        nn.ReLU(),
        _batch_norm(nn.BatchNorm1d, HIDDEN_UNITS),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN_UNITS, num_classes),
    )
    network = Network(Preprocess(1, image_size, normalize), backbone, head, list(backbone))
    return network.apply(init_keras)


def init_keras(module: nn.Module) -> None:
    """Initialises a convolution or linear layer as Keras does: Glorot uniform weights, zero bias."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _block(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, padding=1), nn.ReLU()]
        if number < depth - 1:
            layers.append(_batch_norm(nn.BatchNorm2d, outputs))
    return nn.Sequential(*layers, nn.MaxPool2d(2), _batch_norm(nn.BatchNorm2d, outputs), nn.Dropout(0.2))


def _batch_norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], features: int) -> nn.Module:
    return kind(features, eps=1e-3, momentum=0.01)
