"""Random affine augmentation in the report's (Keras's) terms, batched, with own parameters for every image."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
