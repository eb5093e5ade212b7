"""Shuffled and augmented batches, assembled on the training device."""

from collections.abc import Callable, Iterator
from itertools import starmap
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from emotion.data.augment import Augmentation, Draws, mixed_seed
from emotion.data.mix import Mix
from emotion.data.storage import Storage
from emotion.data.teaching import Teaching
from emotion.errors import UserError
from emotion.plugins import own_code

CPU_CHUNK, DEVICE_CHUNK = 2 * 2**20, 128 * 2**20
"""Bytes gathered and augmented at once: about a CPU's cache, and on a GPU more, so that fewer kernels start."""


OwnAugmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Changes images float [B, C, S, S] in 0..1 with values drawn from a CPU generator."""


class Batch(NamedTuple):
    """The inputs and labels of one step.

    Attributes:
        inputs: images [B, C, S, S], uint8 (0..255), or float32 (0..1) if the run augments or mixes; or float16 features
            [B, ...].
        labels: class ids, int64 [B], or if the run mixes or its labels are votes, probabilities float32 [B, K].
        soft_targets: probabilities of the teachers, float32 [B, K]; None without teachers.
    """

    inputs: Tensor
    labels: Tensor
    soft_targets: Tensor | None = None


def global_batch_sizes(images: int, batch_size: int, world_size: int) -> list[int]:
    """Returns the sizes of the batches of an epoch, those of all processes together.

    Args:
        images: number of images of an epoch.
        batch_size: number of images of a process's batch.
        world_size: number of processes.
    """
    size = batch_size * world_size
    sizes = [size] * (images // size) + [images % size] * (images % size > 0)
    # Batch normalisation cannot train on one image: a last batch that small is merged into the batch before.
    if len(sizes) > 1 and sizes[-1] < 2 * world_size:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes


class BatchLoader:
    """Gathers, shuffles and augments batches on the device.

    The order and the augmentation of an epoch are drawn at its start, on the CPU, from (seed, epoch) alone. A resumed
    run therefore draws the same values as an uninterrupted run, on any device, with any number of processes and with
    any storage of the data. With several processes, each takes its share of every global batch.

    Args:
        inputs: [N, ...], or [V * N, ...] if every input has V views: all inputs of the first view, of the second ...
        labels: class ids, int64 [N], or probabilities, float32 [N, K].
        rows: the rows in use, int64 [n] in 0..N - 1.
        batch_size: number of inputs in a batch of one process.
        shuffle: whether each epoch has a new order; otherwise the order of `rows`.
        augmentation: random changes of single uint8 images.
        own_augmentation: the user's changes of a batch, after the others (see `emotion.plugins.Plugins`).
        mix: random mixing of the images in this process's share of a batch.
        teaching: the judgement of teachers on fixed views of the inputs in use, which replace the random ones.
        num_classes: number of classes K; needed for `mix`.
        plain_from: first epoch (from 0) without augmentation and mixing; None for none.
        sampling_weights: float [n]; if given, an epoch is n draws with replacement in proportion to the weights.
        seed: seed of order, sampling and augmentation.
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
        own_augmentation: OwnAugmentation | None = None,
        mix: Mix | None = None,
        teaching: Teaching | None = None,
        num_classes: int = 0,
        plain_from: int | None = None,
        sampling_weights: Tensor | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.labels, self.rows = inputs, labels.to(inputs.device), rows
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.augmentation, self.own_augmentation = augmentation, own_augmentation
        self.mix, self.teaching, self.num_classes, self.plain_from = mix, teaching, num_classes, plain_from
        self.sampling_weights, self.rank, self.world_size = sampling_weights, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch (from 0) of the next iteration."""
        self.epoch = epoch

    @property
    def batch_bytes(self) -> int:
        """Size of the inputs of a full batch in bytes."""
        itemsize = 4 if self._makes_floats else self.inputs.itemsize
        return int(np.prod(self.inputs.shape[1:])) * itemsize * self.batch_size

    def __len__(self) -> int:
        return len(global_batch_sizes(len(self.rows), self.batch_size, self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        # Every random value of the epoch is drawn before the first batch, so the chunk size changes no value.
        order = self._order(generator)  # [n]
        rows = self.rows[order]  # [n]
        input_rows = rows + len(self.labels) * self._draw_views(generator)  # [n], rows of the drawn views
        plain = self.plain_from is not None and self.epoch >= self.plain_from
        augmentation, own, mix = (None,) * 3 if plain else (self.augmentation, self.own_augmentation, self.mix)
        draws = self._draw(augmentation, order, generator) if augmentation else None
        soft_targets = None if self.teaching is None else self.teaching.targets(self._view(plain), order)  # [n, K]
        if self.world_size > 1:  # each process changes images of its own
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch, self.rank + 1))
        chunks = list(self._chunks())
        values = self.inputs.gather(input_rows[positions] for positions, _ in chunks)
        for (positions, sizes), inputs in zip(chunks, values, strict=True):  # inputs [m, ...]
            if self._makes_floats:
                inputs = inputs.float() / 255
            if augmentation and draws:
                inputs = augmentation.apply(inputs, draws.select(positions, self.inputs.device))
            labels = self.labels[rows[positions].to(self.inputs.device)]  # [m]
            taught = () if soft_targets is None else (soft_targets[positions].to(self.inputs.device),)
            parts = (torch.split(each, sizes) for each in (inputs, labels, *taught))
            for batch in starmap(Batch, zip(*parts, strict=True)):
                yield self._mixed(self._changed(batch, own, generator) if own else batch, mix, generator)

    def _draw(self, augmentation: Augmentation, order: Tensor, generator: torch.Generator) -> Draws:
        """Draws the augmentation of an epoch; with teachers, that of the view which they have judged."""
        count, (height, width) = len(order), self.inputs.shape[-2:]
        if self.teaching is None:
            return augmentation.draw(count, height, width, generator)
        view = augmentation.draw_view(count, height, width, self.teaching.seed, self._view())
        return view.select(order, torch.device("cpu"))

    def _view(self, plain: bool = False) -> int:
        """Returns the number of this epoch's view in `teaching`, whose last view is the unchanged one."""
        assert self.teaching is not None
        return self.teaching.views if plain or not self.teaching.views else self.epoch % self.teaching.views

    @property
    def _makes_floats(self) -> bool:
        return any(change is not None for change in (self.augmentation, self.own_augmentation, self.mix))

    @staticmethod
    def _changed(batch: Batch, own: OwnAugmentation, generator: torch.Generator) -> Batch:
        with own_code("augmentation", f"fails on images {list(batch.inputs.shape)}"):
            changed = own(batch.inputs, generator)
        before, after = (f"{list(each.shape)} {each.dtype} {each.device}" for each in (batch.inputs, changed))
        if before != after:
            raise UserError(
                f"augmentation: maps images {before} to {after}; the same shape, dtype and device are needed"
            )
        return batch._replace(inputs=changed)

    def _mixed(self, batch: Batch, mix: Mix | None, generator: torch.Generator) -> Batch:
        """Mixes a batch; in epochs without mixing, only turns its labels into probabilities, as in all other epochs."""
        if self.mix is None:
            return batch
        inputs, labels, soft_targets = batch
        if not labels.is_floating_point():
            labels = one_hot(labels, self.num_classes).float()  # [B, K]
        if mix is None:
            return Batch(inputs, labels, soft_targets)
        if soft_targets is None:
            return Batch(*mix(inputs, labels, generator))
        inputs, both = mix(inputs, torch.cat([labels, soft_targets], 1), generator)  # both [B, 2 K]
        return Batch(inputs, *both.chunk(2, 1))

    def _order(self, generator: torch.Generator) -> Tensor:
        """Returns the positions in `rows` of the inputs of an epoch, int64 [n]."""
        count = len(self.rows)
        if self.sampling_weights is not None and count:
            return torch.multinomial(self.sampling_weights, count, replacement=True, generator=generator)
        return torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)

    def _draw_views(self, generator: torch.Generator) -> Tensor:
        views = self.inputs.shape[0] // max(len(self.labels), 1)
        return torch.randint(max(views, 1), (len(self.rows),), generator=generator)

    def _chunks(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Yields chunks of batches: the positions in the epoch, int64 [m], and the sizes of the batches, sum m.

        The images of a chunk, all of this process, are gathered and augmented together.
        """
        chunk_bytes = CPU_CHUNK if self.inputs.device.type == "cpu" else DEVICE_CHUNK
        step = max(1, chunk_bytes // self.batch_bytes)
        sizes = global_batch_sizes(len(self.rows), self.batch_size, self.world_size)
        global_batches = torch.split(torch.arange(len(self.rows)), sizes)
        batches = [batch[self.rank :: self.world_size] for batch in global_batches]
        for start in range(0, len(batches), step):
            chunk = batches[start : start + step]
            yield torch.cat(chunk), [len(batch) for batch in chunk]
