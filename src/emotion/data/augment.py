"""Random augmentation of training images, in batches, with separate parameters for every image.

The affine transforms are parametrised as in Keras, which the paper used.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emotion.settings import IMAGE_CHANGES, AugmentationSettings, check_zoom

ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 10 / 3)
"""Ranges of an erased rectangle: its area as a share of the image, and its height divided by its width."""
ERASED_TONE = 0.5
"""Tone (0..1) of an erased rectangle, close to the mean of FER2013, 0.508."""


@dataclass(frozen=True)
class RandomAffine:
    """Rotates, shifts, shears and zooms images about their centre as Keras's ImageDataGenerator with nearest fill does.

    Each image gets its own parameters, drawn uniformly. The defaults are those of the paper.

    Attributes:
        rotation: largest rotation in both directions, degrees.
        zoom: half-width of the range of zoom factors, 1 - zoom to 1 + zoom; each axis has its own factor.
        shift: largest shift in both directions, as a share of height and width.
        shear: largest shear angle in both directions, degrees (as in Keras).
    """

    rotation: float = 10.0
    zoom: float = 0.15
    shift: float = 0.1
    shear: float = 0.15

    def scaled(self, factor: float) -> "RandomAffine":
        """Returns transforms whose ranges are multiplied by a factor.

        Args:
            factor: multiplier of all four ranges, above 0.

        Raises:
            UserError: the scaled zoom or shift is 1 or more, which would move images out of sight.
        """
        check_zoom(factor, self.zoom, self.shift)
        return RandomAffine(factor * self.rotation, factor * self.zoom, factor * self.shift, factor * self.shear)

    @classmethod
    def of(cls, settings: AugmentationSettings) -> "RandomAffine":
        """Returns the transforms of these settings, whether they are on or off."""
        return cls(settings.rotation, settings.zoom, settings.shift, settings.shear)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws matrices [count, 2, 3] as in `affine_matrices` for images of this size, on the generator's device."""
        draws = torch.rand(count, 6, generator=generator, device=generator.device).T * 2 - 1  # [6, count] in -1..1
        return affine_matrices(
            rotation=draws[0] * math.radians(self.rotation),
            shift=torch.stack([draws[1] * self.shift * height, draws[2] * self.shift * width]),
            shear=draws[3] * math.radians(self.shear),
            zoom=1 + draws[4:6] * self.zoom,
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transforms float images [B, C, H, W] with parameters drawn from a CPU generator."""
        count, _, height, width = images.shape
        return warp(images, self.draw(count, height, width, generator).to(images.device))


class Draws(NamedTuple):
    """Random parameters of the augmentation of N images.

    Attributes:
        matrices: [N, 2, 3], affine transforms including mirroring, as in `affine_matrices`.
        tones: [N, 2], factors of contrast and brightness.
        boxes: [N, 4], first and last row, first and last column of the erased rectangle, as shares of height and width;
            all 0 without a rectangle.
    """

    matrices: Tensor
    tones: Tensor
    boxes: Tensor

    def select(self, images: Tensor, device: torch.device) -> "Draws":
        """Returns the parameters of the images at these positions, int64 [n], on a device."""
        return Draws(*(values[images].to(device) for values in self))


@dataclass(frozen=True)
class Augmentation:
    """Augments each image independently: affine transform, mirroring, tone, erased rectangle, in this order.

    Mirroring follows Krizhevsky et al., NeurIPS 2012, brightness and contrast follow Howard, arXiv:1312.5402, and
    random erasing follows Zhong et al., AAAI 2020, with mid grey as fill.

    Attributes:
        settings: ranges and probabilities; those of mixing (see `emotion.data.mix.Mix`) are not used here.
    """

    settings: AugmentationSettings

    @property
    def of_images(self) -> AugmentationSettings:
        """The settings that act on single images; the others, which mix images, have their defaults."""
        others = ("mixup", "cutmix", "plain_epochs", "augmentation")
        fields = AugmentationSettings.model_fields
        return self.settings.model_copy(update={key: fields[key].default for key in others})

    @property
    def changes(self) -> bool:
        """Whether any augmentation is on."""
        return any(getattr(self.settings, key) for key in IMAGE_CHANGES)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draws the parameters of `count` images of this size from a CPU generator."""
        settings = self.settings
        affine = RandomAffine.of(settings) if settings.augment else RandomAffine(0, 0, 0, 0)
        matrices = affine.draw(count, height, width, generator)
        if settings.flip:
            mirrored = torch.rand(count, generator=generator) < settings.flip
            matrices[mirrored, :, 1] *= -1  # the column of the width
        tones, boxes = torch.ones(count, 2), torch.zeros(count, 4)
        if settings.brightness or settings.contrast:
            widths = torch.tensor([settings.contrast, settings.brightness])
            tones += widths * (torch.rand(count, 2, generator=generator) * 2 - 1)
        if settings.erase:
            boxes = _draw_boxes(torch.rand(5, count, generator=generator), settings.erase)
        return Draws(matrices, tones, boxes)

    def draw_view(self, count: int, height: int, width: int, seed: int, number: int) -> Draws:
        """Draws the parameters of one of several fixed views of `count` images, from the seed and its number alone."""
        return self.draw(count, height, width, torch.Generator().manual_seed(mixed_seed(seed, number)))

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Applies the parameters of each image to float images [B, C, H, W] in 0..1."""
        settings = self.settings
        if settings.augment or settings.flip:
            images = warp(images, draws.matrices)
        if settings.brightness or settings.contrast:
            contrast, brightness = draws.tones.to(images.dtype)[:, :, None, None, None].unbind(1)  # [B, 1, 1, 1] each
            mean = images.mean((1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
            images = ((images - mean) * contrast + mean).mul_(brightness).clamp_(0, 1)
        return erase(images, draws.boxes) if settings.erase else images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augments float images [B, C, H, W] in 0..1 with parameters drawn from a CPU generator."""
        count, _, height, width = images.shape
        draws = self.draw(count, height, width, generator)
        return self.apply(images, draws.select(torch.arange(count), images.device))


def mixed_seed(*numbers: int) -> int:
    """Returns a seed of 63 bits for PyTorch that depends on all numbers, from 0."""
    entropy = np.random.SeedSequence(list(numbers))
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def affine_matrices(rotation: Tensor, shift: Tensor, shear: Tensor, zoom: Tensor) -> Tensor:
    """Builds Keras's transforms, which map output positions to input positions.

    The product rotation x shift x shear x zoom acts on (row, column) relative to the centre.

    Args:
        rotation: [B], radians.
        shift: [2, B], pixels down and to the right.
        shear: [B], radians.
        zoom: [2, B], factors of rows and columns.

    Returns:
        [B, 2, 3], the last column in pixels.
    """
    cos, sin = rotation.cos(), rotation.sin()
    shear_column = (-shear.sin(), shear.cos())
    first = cos * shear_column[0] - sin * shear_column[1]
    second = sin * shear_column[0] + cos * shear_column[1]
    down = cos * shift[0] - sin * shift[1]
    right = sin * shift[0] + cos * shift[1]
    rows = torch.stack([cos * zoom[0], first * zoom[1], down])  # [3, B]
    columns = torch.stack([sin * zoom[0], second * zoom[1], right])  # [3, B]
    return torch.stack([rows, columns]).permute(2, 0, 1)  # [B, 2, 3]


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Samples float images [B, C, H, W] bilinearly through matrices [B, 2, 3]; outside, the nearest pixel is taken."""
    height, width = images.shape[-2:]
    # grid_sample expects (x, y) in units of half the image, the matrices hold (row, column) in pixels from the centre.
    extent = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=images.device)
    theta = matrices.flip(1) / extent[:, None]  # [B, 2, 3], x before y
    rows = torch.arange(height, device=images.device) - (height - 1) / 2
    columns = torch.arange(width, device=images.device) - (width - 1) / 2
    # The grid is the sum of a term per row and a term per column, a third of the work of F.affine_grid's product.
    by_row = theta[:, :, 0, None] * rows + theta[:, :, 2, None]  # [B, 2, H]
    by_column = theta[:, :, 1, None] * columns  # [B, 2, W]
    grid = (by_row[:, :, :, None] + by_column[:, :, None, :]).permute(0, 2, 3, 1)  # [B, H, W, 2]
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=True)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fills a rectangle of each image [B, C, H, W] with mid grey; `boxes` as in `Draws`."""
    height, width = images.shape[-2:]
    first_row, last_row, first_column, last_column = boxes[:, :, None].unbind(1)  # [B, 1] each
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    down = (rows > first_row) & (rows < last_row)  # [B, H]
    across = (columns > first_column) & (columns < last_column)  # [B, W]
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], ERASED_TONE)  # mask [B, 1, H, W]


def _draw_boxes(draws: Tensor, share: float) -> Tensor:
    """Turns uniform draws [5, N] (erased or not, area, aspect, position down, position across) into boxes [N, 4]."""
    area = ERASED_AREA[0] + draws[1] * (ERASED_AREA[1] - ERASED_AREA[0])  # [N]
    low, high = (math.log(aspect) for aspect in ERASED_ASPECT)
    aspect = (low + draws[2] * (high - low)).exp()  # [N], log-uniform
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).clamp(max=1.0)  # [2, N], height and width
    first = draws[3:] * (1 - sides)  # [2, N], first row and first column
    boxes = torch.stack([first[0], first[0] + sides[0], first[1], first[1] + sides[1]], 1)  # [N, 4]
    return boxes * (draws[0] < share)[:, None]
