"""Batches straight from one array that already lies on the device."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emotion.data.augment import RandomAffine


class Batch(NamedTuple):
    """Inputs uint8 [B, C, S, S] (0..255), float images (0..1) once augmented, or float16 features; labels int64 [B]."""

    inputs: Tensor
    labels: Tensor


class BatchLoader:
    """Gathers, shuffles and augments batches on the device that holds the data.

    Order and augmentation are functions of (seed, epoch, step, rank) alone, so that a resumed run draws what the
    undisturbed one would have drawn. With several processes each takes its share of every global batch.

    Args:
        inputs: [N, ...], or [K * N, ...] where every input comes in K views, view after view.
        labels: int64 [N], on the same device.
        rows: int64 [n], which of the N are used.
        batch_size: of one process.
        shuffle: a new order each epoch; else the order of `rows`.
        affine: augmentation of uint8 images.
        sampling_weights: float [n]; if given, an epoch is n draws with replacement in proportion to them.
        seed: of order, draws and augmentation.
        rank: number of this process, 0..world_size - 1.
        world_size: number of processes.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        rows: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        affine: RandomAffine | None = None,
        sampling_weights: Tensor | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.labels, self.rows = inputs, labels, rows
        self.batch_size, self.shuffle, self.affine, self.seed = batch_size, shuffle, affine, seed
        self.sampling_weights, self.rank, self.world_size = sampling_weights, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0) that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._global_batches(self.rows))

    def __iter__(self) -> Iterator[Batch]:
        for step, rows in enumerate(self._global_batches(self._order())):
            rows = rows[self.rank :: self.world_size]
            places = rows.to(self.labels.device)
            inputs = self.inputs[self._choose_views(places, step)]
            if self.affine is not None:
                inputs = self.affine(inputs.float() / 255, self._generator(step, inputs.device))
            yield Batch(inputs, self.labels[places])

    def _order(self) -> Tensor:
        generator = self._generator(-1, torch.device("cpu"))
        if self.sampling_weights is not None:
            drawn = torch.multinomial(self.sampling_weights, len(self.rows), replacement=True, generator=generator)
            return self.rows[drawn]
        return self.rows[torch.randperm(len(self.rows), generator=generator)] if self.shuffle else self.rows

    def _choose_views(self, places: Tensor, step: int) -> Tensor:
        count = len(self.labels)
        views = len(self.inputs) // count
        if views == 1:
            return places
        generator = self._generator(step, places.device)
        return places + count * torch.randint(views, places.shape, generator=generator, device=places.device)

    def _global_batches(self, order: Tensor) -> list[Tensor]:
        if not len(order):
            return []
        batches = list(torch.split(order, self.batch_size * self.world_size))
        # Batch normalisation cannot train on a single image, so a smaller rest joins the batch before it.
        if len(batches) > 1 and len(batches[-1]) < 2 * self.world_size:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _generator(self, step: int, device: torch.device) -> torch.Generator:
        entropy = np.random.SeedSequence([self.seed, self.epoch, step + 1, self.rank if step >= 0 else 0])
        return torch.Generator(device).manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
