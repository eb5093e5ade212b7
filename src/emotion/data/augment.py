"""What is done to training images at random, batched, with own parameters for every image.

The affine transforms are in the report's (Keras's) terms.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emotion.errors import UserError

ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 10 / 3)
"""Share of the image that an erased rectangle takes, and its height over its width."""
ERASED_TONE = 0.5
"""Of the rectangle: about the mean of FER2013, 0.508."""


@dataclass(frozen=True)
class RandomAffine:
    """Keras's ImageDataGenerator: rotation, shift, shear and zoom about the image's centre, nearest fill.

    Each image gets its own parameters, drawn uniformly. The defaults are the report's.

    Attributes:
        rotation: largest angle, degrees either way.
        zoom: factors are drawn from 1 - zoom to 1 + zoom, one for each axis.
        shift: largest shift, as a share of height and width.
        shear: largest shear angle, degrees either way (degrees in Keras too).
    """

    rotation: float = 10.0
    zoom: float = 0.15
    shift: float = 0.1
    shear: float = 0.15

    def scaled(self, factor: float) -> "RandomAffine":
        """Returns transforms that vary so many times as much.

        Args:
            factor: above 0.

        Raises:
            UserError: images would be zoomed or shifted away.
        """
        zoom, shift = factor * self.zoom, factor * self.shift
        if max(zoom, shift) >= 1:
            raise UserError(f"zoom={zoom:g} shift={shift:g}, {factor:g} times what is set: both below 1 are needed")
        return RandomAffine(factor * self.rotation, zoom, shift, factor * self.shear)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draws the transforms of `count` images of this size: see `affine_matrices`, on the generator's device."""
        draws = torch.rand(count, 6, generator=generator, device=generator.device).T * 2 - 1
        return affine_matrices(
            rotation=draws[0] * math.radians(self.rotation),
            shift=torch.stack([draws[1] * self.shift * height, draws[2] * self.shift * width]),
            shear=draws[3] * math.radians(self.shear),
            zoom=1 + draws[4:6] * self.zoom,
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Transforms float images [B, C, H, W] with parameters from a generator of the CPU."""
        count, _, height, width = images.shape
        return warp(images, self.draw(count, height, width, generator).to(images.device))


class Draws(NamedTuple):
    """What was drawn for N images.

    Attributes:
        matrices: of the affine transforms, mirroring among them: see `affine_matrices`.
        tones: [N, 2], factors of contrast and brightness.
        boxes: [N, 4], first and last row, first and last column of the erased rectangle, as shares; all 0 for none.
    """

    matrices: Tensor
    tones: Tensor
    boxes: Tensor

    def of(self, images: Tensor, device: torch.device) -> "Draws":
        """Returns the draws of some images, int64 [n], on a device."""
        return Draws(*(values[images].to(device) for values in self))


@dataclass(frozen=True)
class Augmentation:
    """Changes every image by itself: affine transform, mirroring, tone, erased rectangle, in this order.

    Mirroring is that of Krizhevsky et al., NeurIPS 2012, brightness and contrast those of Howard, arXiv:1312.5402,
    random erasing that of Zhong et al., AAAI 2020, filled with mid grey.

    Attributes:
        affine: the transform, or None.
        flip: share of the images that are mirrored left to right.
        brightness: factors are drawn from 1 - brightness to 1 + brightness.
        contrast: factors of the distance from the image's mean tone are drawn from 1 - contrast to 1 + contrast.
        erase: share of the images that lose a rectangle.
    """

    affine: RandomAffine | None = None
    _: KW_ONLY
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erase: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self != Augmentation()

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draws for `count` images of this size, from a generator of the CPU."""
        affine = self.affine or RandomAffine(0, 0, 0, 0)
        matrices = affine.draw(count, height, width, generator)
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < self.flip
            matrices[mirrored, :, 1] *= -1
        tones, boxes = torch.ones(count, 2), torch.zeros(count, 4)
        if self.brightness or self.contrast:
            tones += torch.tensor([self.contrast, self.brightness]) * (
                torch.rand(count, 2, generator=generator) * 2 - 1
            )
        if self.erase:
            boxes = _draw_boxes(torch.rand(5, count, generator=generator), self.erase)
        return Draws(matrices, tones, boxes)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Changes float images [B, C, H, W], 0..1, by the draws of each."""
        if self.affine or self.flip:
            images = warp(images, draws.matrices)
        if self.brightness or self.contrast:
            contrast, brightness = draws.tones.to(images.dtype)[:, :, None, None, None].unbind(1)
            mean = images.mean((1, 2, 3), keepdim=True)
            images = ((images - mean) * contrast + mean).mul_(brightness).clamp_(0, 1)
        return erase(images, draws.boxes) if self.erase else images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changes float images [B, C, H, W], 0..1, by parameters from a generator of the CPU."""
        count, _, height, width = images.shape
        draws = self.draw(count, height, width, generator)
        return self.apply(images, draws.of(torch.arange(count), images.device))


def affine_matrices(rotation: Tensor, shift: Tensor, shear: Tensor, zoom: Tensor) -> Tensor:
    """Builds Keras's transforms, which map output to input places.

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
    rows = torch.stack([cos * zoom[0], first * zoom[1], down])
    columns = torch.stack([sin * zoom[0], second * zoom[1], right])
    return torch.stack([rows, columns]).permute(2, 0, 1)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Samples float images [B, C, H, W] bilinearly through matrices [B, 2, 3]; outside, the nearest pixel."""
    height, width = images.shape[-2:]
    # grid_sample counts (x, y) in half extents, the matrices (row, column) in pixels from the centre.
    extent = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=images.device)
    theta = matrices.flip(1) / extent[:, None]
    rows = torch.arange(height, device=images.device) - (height - 1) / 2
    columns = torch.arange(width, device=images.device) - (width - 1) / 2
    # The grid is a sum of a row's share and a column's share, a third of the work of F.affine_grid's product.
    by_row = theta[:, :, 0, None] * rows + theta[:, :, 2, None]
    by_column = theta[:, :, 1, None] * columns
    grid = (by_row[:, :, :, None] + by_column[:, :, None, :]).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=True)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fills a rectangle of each image [B, C, H, W] with mid grey; `boxes` as in `Draws`."""
    height, width = images.shape[-2:]
    first_row, last_row, first_column, last_column = boxes[:, :, None].unbind(1)
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    down = (rows > first_row) & (rows < last_row)
    across = (columns > first_column) & (columns < last_column)
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], ERASED_TONE)


def _draw_boxes(draws: Tensor, share: float) -> Tensor:
    """Makes boxes [N, 4] of uniform draws [5, N]: whether, area, aspect, and the place down and across."""
    area = ERASED_AREA[0] + draws[1] * (ERASED_AREA[1] - ERASED_AREA[0])
    low, high = (math.log(aspect) for aspect in ERASED_ASPECT)
    aspect = (low + draws[2] * (high - low)).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).clamp(max=1.0)
    first = draws[3:] * (1 - sides)
    boxes = torch.stack([first[0], first[0] + sides[0], first[1], first[1] + sides[1]], 1)
    return boxes * (draws[0] < share)[:, None]
