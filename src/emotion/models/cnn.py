"""The paper's scratch CNN."""

from torch import nn

from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import Preprocess, require_unit
from emotion.settings import NetworkSettings

FIRST_FILTERS = 32
HIDDEN_UNITS = 256


def build_cnn(settings: NetworkSettings, num_classes: int) -> Network:
    """Builds the scratch CNN of section 3.1 of the paper.

    The blocks consist of 3x3 convolutions with ReLU, with 32 filters in the first block and twice as many in each
    further block. Batch normalisation follows each convolution except the last of a block; max-pooling, batch
    normalisation and dropout 0.2 end the block. The head is flatten, 256 units, batch normalisation, dropout 0.5 and
    the logits. Initialisation and batch normalisation are the defaults of Keras, which the paper used: Glorot uniform
    weights, momentum 0.99 (0.01 in PyTorch) and epsilon 1e-3.

    Args:
        settings: `blocks` has the number of convolutions of each block; the paper's best network has [2, 2, 1, 1].
            `normalize` must be `unit`, as in the paper; the other values are for pretrained weights.
        num_classes: number of logits.

    Raises:
        UserError: there are no blocks, a block is empty, or the blocks halve the image to nothing.
    """
    blocks, image_size = settings.blocks, settings.image_size
    if not blocks or min(blocks) < 1 or image_size >> len(blocks) < 1:
        raise UserError(
            f"blocks={blocks}: one or more blocks of one or more convolutions are needed; each block halves the "
            f"image (image_size={image_size})"
        )
    require_unit(settings.normalize)
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
        nn.Dropout(0.5 if settings.dropout is None else settings.dropout),
        nn.Linear(HIDDEN_UNITS, num_classes),
    )
    network = Network(Preprocess(1, image_size, settings.normalize), backbone, head, list(backbone))
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
