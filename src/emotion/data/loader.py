"""Shuffled, augmented batches, made on the device that trains."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from emotion.data.augment import Augmentation
from emotion.data.classes import CLASSES
from emotion.data.mix import Mix
from emotion.data.storage import Storage

CPU_CHUNK, DEVICE_CHUNK = 2 * 2**20, 128 * 2**20
"""Bytes that are gathered and augmented at once: what a CPU's cache holds; on a GPU many, to start few kernels."""


class Batch(NamedTuple):
    """A step's images.

    Attributes:
        inputs: uint8 [B, C, S, S] (0..255), float images (0..1) where a run augments or mixes, or float16 features.
        labels: int64 [B], or where a run mixes float [B, K], rows sum to 1.
    """

    inputs: Tensor
    labels: Tensor


class BatchLoader:
    """Gathers, shuffles and augments batches on the device.

    Order and augmentation of an epoch are drawn at once, on the CPU, from (seed, epoch) alone. So a resumed run draws
    what the undisturbed one would have drawn, and the kind of device, the number of processes and how the data is
    stored do not matter. With several processes each takes its share of every global batch.

    Args:
        inputs: [N, ...], or [K * N, ...] where every input comes in K views, view after view.
        labels: int64 [N].
        rows: int64 [n], which of the N are used.
        batch_size: of one process.
        shuffle: a new order each epoch; else the order of `rows`.
        augmentation: of uint8 images, each by itself.
        mix: of the images that a process has of a batch.
        plain_from: the epoch (from 0) from which images stay as they are; None: never.
        sampling_weights: float [n]; if given, an epoch is n draws with replacement in proportion to them.
        seed: of order, draws and augmentation.
        rank: number of this process, 0..world_size - 1.
        world_size: number of processes.
    """

    def __init__(
        self,
        inputs: Storage,
        labels: Tensor,
        rows: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        mix: Mix | None = None,
        plain_from: int | None = None,
        sampling_weights: Tensor | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.labels, self.rows = inputs, labels.to(inputs.device), rows
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.augmentation, self.mix, self.plain_from = augmentation, mix, plain_from
        self.sampling_weights, self.rank, self.world_size = sampling_weights, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0) that the next iteration draws."""
        self.epoch = epoch

    @property
    def batch_bytes(self) -> int:
        """The memory that the inputs of a full batch take."""
        itemsize = 4 if self._makes_floats else self.inputs.itemsize
        return int(np.prod(self.inputs.shape[1:])) * itemsize * self.batch_size

    def __len__(self) -> int:
        return len(self._batch_sizes())

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self._epoch_seed())
        rows = self._order(generator)
        drawn = rows + len(self.labels) * self._draw_views(generator)
        plain = self.plain_from is not None and self.epoch >= self.plain_from
        augmentation, mix = (None, None) if plain else (self.augmentation, self.mix)
        height, width = self.inputs.shape[-2:] if augmentation else (0, 0)
        draws = augmentation.draw(len(rows), height, width, generator) if augmentation else None
        chunks = list(self._chunks())
        values = self.inputs.gather(drawn[positions] for positions, _ in chunks)
        for (positions, sizes), inputs in zip(chunks, values, strict=True):
            if self._makes_floats:
                inputs = inputs.float() / 255
            if augmentation and draws:
                inputs = augmentation.apply(inputs, draws.of(positions, self.inputs.device))
            labels = self.labels[rows[positions].to(self.inputs.device)]
            for batch in map(Batch, torch.split(inputs, sizes), torch.split(labels, sizes)):
                yield self._mixed(batch, mix, generator)

    @property
    def _makes_floats(self) -> bool:
        return self.augmentation is not None or self.mix is not None

    def _mixed(self, batch: Batch, mix: Mix | None, generator: torch.Generator) -> Batch:
        """Mixes, or gives the batch the form that mixed ones have."""
        if self.mix is None:
            return batch
        inputs, labels = batch.inputs, one_hot(batch.labels, len(CLASSES)).float()
        return Batch(*mix(inputs, labels, generator)) if mix else Batch(inputs, labels)

    def _epoch_seed(self) -> int:
        entropy = np.random.SeedSequence([self.seed, self.epoch])
        return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.sampling_weights is not None and len(self.rows):
            drawn = torch.multinomial(self.sampling_weights, len(self.rows), replacement=True, generator=generator)
            return self.rows[drawn]
        return self.rows[torch.randperm(len(self.rows), generator=generator)] if self.shuffle else self.rows

    def _draw_views(self, generator: torch.Generator) -> Tensor:
        views = self.inputs.shape[0] // max(len(self.labels), 1)
        return torch.randint(max(views, 1), (len(self.rows),), generator=generator)

    def _batch_sizes(self) -> list[int]:
        """The sizes of the global batches."""
        size, count = self.batch_size * self.world_size, len(self.rows)
        sizes = [size] * (count // size) + [count % size] * (count % size > 0)
        # Batch normalisation cannot train on a single image, so a smaller rest joins the batch before it.
        if len(sizes) > 1 and sizes[-1] < 2 * self.world_size:
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        return sizes

    def _chunks(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Yields the positions in the epoch that this process takes at once, int64 [n], and the sizes of its batches.

        A chunk is several batches, whose images are gathered and augmented together.
        """
        chunk_bytes = CPU_CHUNK if self.inputs.device.type == "cpu" else DEVICE_CHUNK
        step = max(1, chunk_bytes // self.batch_bytes)
        batches = torch.split(torch.arange(len(self.rows)), self._batch_sizes())
        own = [batch[self.rank :: self.world_size] for batch in batches]
        for start in range(0, len(own), step):
            chunk = own[start : start + step]
            yield torch.cat(chunk), [len(batch) for batch in chunk]


class BatchGroups:
    """Hands out the batches of a loader as lists of several.

    Args:
        loader: makes the batches.
        size: how many there are in a list, if so many do not take much memory; fewer in the last of an epoch.
    """

    def __init__(self, loader: BatchLoader, size: int) -> None:
        self.loader, self.size = loader, max(1, min(size, DEVICE_CHUNK // loader.batch_bytes))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0) that the next iteration draws."""
        self.loader.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.loader) // self.size)

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = iter(self.loader)
        while group := list(islice(batches, self.size)):
            yield group
