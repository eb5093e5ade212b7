"""The LightningDataModule: a source, packed, split, balanced and loaded."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from emotion.data.augment import Augmentation, RandomAffine
from emotion.data.balance import BalanceName, class_weights, oversample
from emotion.data.classes import CLASSES
from emotion.data.loader import BatchGroups, BatchLoader
from emotion.data.mix import Mix
from emotion.data.packed import OnBadImage, PackedImages, pack
from emotion.data.sources import FolderSource, SourceName, open_source
from emotion.data.splits import Split, SplitName, make_split
from emotion.data.storage import Resident, Streamed, place
from emotion.errors import UserError, require_choice

Stage = Literal["train", "val", "test"]
DATA_CHOICES: dict[str, Sequence[object]] = {
    "data": get_args(SourceName),
    "on_bad_image": get_args(OnBadImage),
    "channels": (1, 3),
    "split": get_args(SplitName),
    "group_duplicates": (True, False),
    "balance": get_args(BalanceName),
    "augment": (True, False),
}
"""What the settings of the data can be, for those with a few legal values."""
SOURCE_SETTINGS = ("data", "data_dir", "on_bad_image", "pack_size", "channels", "synthetic_images")
"""The settings that say which images there are; the others say what is done with them."""
Pixels = NDArray[np.uint8]
Extract = Callable[[Pixels, NDArray[np.int64], Augmentation | None, int], NDArray[np.float16]]


class EmotionDataModule(LightningDataModule):
    """Images of facial expressions, ready to train on.

    Every argument is a plain value and is kept in checkpoints, so that a checkpoint rebuilds its data.

    Args:
        data: the kind of source.
        data_dir: where it lies; None is the default place.
        split: which images train, validate and test (see `emotion.data.splits.make_split`).
        val_fraction: the share that validates in `split=report`.
        group_duplicates: keep identical images on one side of that cut.
        balance: `none`; `class_weights`: weighted loss; `weighted_sampler`: classes drawn equally often;
            `offline`: augmented copies of the training images of smaller classes.
        offline_strength: how many times as much as training images the copies of `offline` are turned, zoomed, shifted
            and sheared; 1 is the report's.
        augment: random affine transforms of the training images, anew each epoch.
        rotation: see `emotion.data.augment.RandomAffine`, as for the next three; the copies of `offline` have them too.
        zoom: factors of both axes.
        shift: share of height and width.
        shear: degrees.
        flip: see `emotion.data.augment.Augmentation`, as for the next three.
        brightness: factors.
        contrast: factors.
        erase: share of the images.
        mixup: see `emotion.data.mix.Mix`, as for the next one.
        cutmix: parameter of the Beta distribution.
        plain_epochs: the last so many of `trainer.max_epochs` see the images as they are (He et al., arXiv:1909.09148).
        batch_size: of one process.
        seed: of the split, the copies, the order and the augmentation.
        on_bad_image: `error` or `skip`.
        pack_size: stored height and width of `data=folder`, pixels.
        channels: 1 (grey) or 3 (RGB), for `data=folder`.
        synthetic_images: number of drawn faces of `data=synthetic`.
        extra_data: folders with a folder for each class, whose images are added to training, resized as the others;
            folders of other classes are left out, with a line in the log.
        memory_budget: see `emotion.data.storage.place`.

    Raises:
        UserError: a value that is none of the legal ones.
    """

    def __init__(
        self,
        *,
        data: SourceName = "fer2013",
        data_dir: str | None = None,
        split: SplitName = "report",
        val_fraction: float = 0.2,
        group_duplicates: bool = False,
        balance: BalanceName = "class_weights",
        offline_strength: float = 1.0,
        augment: bool = True,
        rotation: float = 10.0,
        zoom: float = 0.15,
        shift: float = 0.1,
        shear: float = 0.15,
        flip: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        erase: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        plain_epochs: int = 0,
        batch_size: int = 64,
        seed: int = 0,
        on_bad_image: OnBadImage = "error",
        pack_size: int = 48,
        channels: int = 1,
        synthetic_images: int = 3500,
        extra_data: Sequence[str] | None = None,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        for key, legal in DATA_CHOICES.items():
            require_choice(key, self.hparams[key], legal)
        self.balance, self.batch_size, self.seed = balance, batch_size, seed
        self.affine = RandomAffine(rotation=rotation, zoom=zoom, shift=shift, shear=shear)
        augmentation = Augmentation(
            self.affine if augment else None, flip=flip, brightness=brightness, contrast=contrast, erase=erase
        )
        self.augmentation = augmentation if augmentation.changes else None
        mix = Mix(mixup=mixup, cutmix=cutmix)
        self.mix = mix if mix.changes else None
        self.group_size = 0
        self._features: dict[Stage, tuple[NDArray[np.float16], Tensor, Tensor]] = {}
        self._placed: dict[tuple[int, torch.device], Resident | Streamed] = {}

    @cached_property
    def packed(self) -> PackedImages:
        """All images of the source.

        Raises:
            UserError: nothing usable at `data_dir`, or a broken image.
        """
        options = self.hparams
        source = open_source(
            options["data"],
            options["data_dir"],
            pack_size=options["pack_size"],
            channels=options["channels"],
            synthetic_images=options["synthetic_images"],
        )
        packed = pack(source, options["on_bad_image"])
        paths = [Path(path).expanduser() for path in options["extra_data"] or ()]
        if not paths:
            return packed
        others = [FolderSource(path, source.size, source.channels, other_classes=True) for path in paths]
        return packed.extended([pack(other, options["on_bad_image"]) for other in others])

    @cached_property
    def rows(self) -> Split:
        """Which images train, validate and test."""
        options = self.hparams
        return make_split(
            self.packed,
            options["split"],
            val_fraction=options["val_fraction"],
            seed=self.seed,
            group_duplicates=options["group_duplicates"],
        )

    @cached_property
    def labels(self) -> Tensor:
        """Class ids of all images of the source, int64 [N]."""
        return torch.from_numpy(self.packed.labels)

    @cached_property
    def train_set(self) -> tuple[Pixels, Tensor, Tensor]:
        """Training images [N, C, S, S], their labels [N] and the rows [n] in use, with the copies of `offline`.

        Raises:
            UserError: a class has no training image.
        """
        rows = torch.from_numpy(self.rows.train)
        labels = self.labels[rows]
        empty = [
            name
            for name, count in zip(CLASSES, torch.bincount(labels, minlength=len(CLASSES)), strict=True)
            if not count
        ]
        if empty:
            raise UserError(f"no training images of class {', '.join(empty)} (data={self.hparams['data']})")
        if self.balance != "offline":
            return self.packed.images, self.labels, rows
        images = torch.from_numpy(self.packed.images[self.rows.train])
        # Duplicates are augmented even where training is not: unchanged copies would be a sampler at higher cost.
        affine = self.affine.scaled(self.hparams["offline_strength"])
        sources, copies = oversample(images, labels, len(CLASSES), affine, self.seed)
        labels = torch.cat([labels, labels[sources]])
        return torch.cat([images, copies]).numpy(), labels, torch.arange(len(labels))

    @property
    def class_weights(self) -> list[float] | None:
        """The loss weight of each class with `balance=class_weights`, counted on the training images."""
        if self.balance != "class_weights":
            return None
        _, labels, rows = self.train_set
        weights: list[float] = class_weights(labels[rows], len(CLASSES)).tolist()
        return weights

    @property
    def class_shares(self) -> list[float]:
        """The share of each class among the training images, as they are drawn."""
        if self.balance == "weighted_sampler":
            return [1 / len(CLASSES)] * len(CLASSES)
        _, labels, rows = self.train_set
        counts = torch.bincount(labels[rows], minlength=len(CLASSES))
        shares: list[float] = (counts / counts.sum()).tolist()
        return shares

    def counts(self) -> dict[Stage, list[int]]:
        """Returns for each stage the number of images of each class, and last of all of them."""
        stages: tuple[Stage, ...] = ("train", "val", "test")
        labels = {stage: self.packed.labels[getattr(self.rows, stage)] for stage in stages}
        return {stage: [*np.bincount(own, minlength=len(CLASSES)).tolist(), len(own)] for stage, own in labels.items()}

    def train_on_features(self, extract: Extract, views: int) -> None:
        """Trains and validates on features in place of images.

        Args:
            extract: from images uint8 [N, C, S, S], the rows int64 [n] of them in use, their augmentation or None,
                and a number of views, to features [views * n, ...], view after view.
            views: how many transforms of each training image there are, if training is augmented.
        """
        if self.mix or (self.augmentation and self.hparams["plain_epochs"]):
            raise UserError("feature_views: mixup, cutmix and plain_epochs need the images (feature_views=0)")
        inputs, labels, rows = self.train_set
        changed = self.augmentation is not None or self.balance == "offline"
        # Images that train unchanged come along with those that validate, so that all seeds' cuts share one pass;
        # where they are changed, no seed's pass serves another, and only its own validation images are needed plain.
        pool = np.unique(self.rows.val) if changed else np.union1d(self.rows.train, self.rows.val)
        plain, pool_labels = extract(self.packed.images, pool, None, 1), self.labels[torch.from_numpy(pool)]
        val = torch.from_numpy(np.searchsorted(pool, self.rows.val))
        self._features["val"] = plain, pool_labels, val
        if changed:
            features = extract(inputs, rows.numpy(), self.augmentation, views if self.augmentation else 1)
            self._features["train"] = features, labels[rows], torch.arange(len(rows))
        else:
            train = torch.from_numpy(np.searchsorted(pool, self.rows.train))
            self._features["train"] = plain, pool_labels, train

    def prepare_data(self) -> None:
        """Packs the images, once on each machine."""
        _ = self.packed

    def state_dict(self) -> dict[str, Any]:
        """Returns what checkpoints keep: the size [C, S, S] of the images, and the hashes, as int64, of what trains."""
        hashes = self.packed.hashes[self.rows.train]
        return {"size": list(self.packed.images.shape[1:]), "hashes": torch.from_numpy(hashes.view(np.int64))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares the images of a run that goes on with those it began with; older checkpoints do not know them.

        Raises:
            UserError: others train now, so that some of those that trained before may validate or test.
        """
        now = self.state_dict()["hashes"]
        began = state_dict.get("hashes", now)
        if not torch.equal(began.sort().values, now.sort().values):
            raise UserError(
                f"the run began with other training images ({len(began):,}, now {len(now):,}), some of which may "
                "validate or test now: bring those back, or train anew (overwrite=true)"
            )

    def group_batches(self, size: int) -> None:
        """Makes training get lists of so many batches."""
        self.group_size = size

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves batches where they are: the loader makes them on the device."""
        return batch

    def train_dataloader(self) -> BatchLoader | BatchGroups:
        """Shuffled, balanced, augmented batches of the training images (or batches of their features)."""
        inputs, labels, rows = self._features.get("train", self.train_set)
        sampled = self.balance == "weighted_sampler"
        loader = self._loader(
            inputs,
            labels,
            rows,
            shuffle=True,
            augmentation=None if self._features else self.augmentation,
            mix=self.mix,
            plain_from=self._plain_from(),
            sampling_weights=class_weights(labels[rows], len(CLASSES))[labels[rows]] if sampled else None,
            seed=self.seed,
        )
        return BatchGroups(loader, self.group_size) if self.group_size else loader

    def _plain_from(self) -> int | None:
        """The first epoch (from 0) whose images stay as they are."""
        epochs: int = self.hparams["plain_epochs"]
        if not epochs or self.trainer is None:
            return None
        if self.trainer.max_epochs is None or self.trainer.max_epochs < 0:
            raise UserError(
                f"plain_epochs={epochs}: the last epochs are those before trainer.max_epochs, which is open"
            )
        return max(0, self.trainer.max_epochs - epochs)

    def val_dataloader(self) -> BatchLoader:
        """Batches of the validation images (or of their features), in the same mixed order in every epoch.

        Sources list their images class by class: the first batches, all that `trainer.limit_val_batches` leaves, would
        hold a single one.
        """
        images = self.packed.images, self.labels, torch.from_numpy(self.rows.val)
        inputs, labels, rows = self._features.get("val", images)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        return self._loader(inputs, labels, rows[order])

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test images, in order."""
        return self.eval_loader("test", shared=True)

    def eval_loader(self, stage: Stage, shared: bool = False) -> BatchLoader:
        """Batches of the images of one stage as they are, in the order of `rows`.

        Args:
            stage: which images.
            shared: whether the processes of a training divide them among themselves; else each process gets all.
        """
        rows = torch.from_numpy(getattr(self.rows, stage))
        return self._loader(self.packed.images, self.labels, rows, shared=shared)

    def _loader(
        self, inputs: NDArray[Any], labels: Tensor, rows: Tensor, *, shared: bool = True, **options: Any
    ) -> BatchLoader:
        device = torch.device("cpu")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            if shared:
                options |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return BatchLoader(self._place(inputs, device), labels, rows, self.batch_size, **options)

    def _place(self, inputs: NDArray[Any], device: torch.device) -> Resident | Streamed:
        """Puts an array on the device once for all loaders; all of them live as long as this module."""
        key = id(inputs), device
        if key not in self._placed:
            budget = self.hparams["memory_budget"]
            if budget is not None:
                budget -= sum(one.bytes_held for one in self._placed.values()) / 2**20
            self._placed[key] = place(inputs, device, budget)
        return self._placed[key]
