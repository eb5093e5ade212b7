"""The LightningDataModule, which packs, splits, balances and loads the images of a source."""

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
"""The legal values of the data settings that have only a few."""
SOURCE_SETTINGS = ("data", "data_dir", "on_bad_image", "pack_size", "channels", "synthetic_images")
"""The settings that define the source; the other settings define the use of its images."""
Pixels = NDArray[np.uint8]
Extract = Callable[[Pixels, NDArray[np.int64], Augmentation | None, int], NDArray[np.float16]]


class EmotionDataModule(LightningDataModule):
    """Images of facial expressions, split, balanced and loaded for training.

    Every argument is a plain value and is saved in checkpoints, so that the data can be rebuilt from a checkpoint.

    Args:
        data: kind of source.
        data_dir: path of the source; None is the default path (see `emotion.data.sources.open_source`).
        split: assignment of the images to training, validation and test (see `emotion.data.splits.make_split`).
        val_fraction: share of the validation images in `split=report`, in (0, 1).
        group_duplicates: whether `split=report` keeps identical images together.
        balance: `none`; `class_weights`, a weighted loss; `weighted_sampler`, which draws all classes equally often;
            `offline`, which oversamples the smaller classes with transformed training images.
        offline_strength: factor on rotation, zoom, shift and shear of the oversampled images; 1 is the paper's value.
        augment: whether training images get a random affine transform, drawn again in each epoch.
        rotation: largest rotation, degrees (see `emotion.data.augment.RandomAffine`); oversampled images have it too,
            as they have zoom, shift and shear.
        zoom: half-width of the range of zoom factors of each axis.
        shift: largest shift, as a share of height and width.
        shear: largest shear angle, degrees.
        flip: share of mirrored images (see `emotion.data.augment.Augmentation`).
        brightness: half-width of the range of brightness factors.
        contrast: half-width of the range of contrast factors.
        erase: share of images with an erased rectangle.
        mixup: alpha of mixup, 0 for none (see `emotion.data.mix.Mix`).
        cutmix: alpha of CutMix, 0 for none.
        plain_epochs: number of last epochs, before `trainer.max_epochs`, without augmentation and mixing (He et al.,
            arXiv:1909.09148).
        batch_size: number of images in a batch of one process.
        seed: seed of split, oversampling, order and augmentation.
        on_bad_image: `error` to stop at an unusable image, `skip` to leave it out.
        pack_size: stored height and width of the images of `data=folder`, pixels.
        channels: 1 (grey) or 3 (RGB), for `data=folder`.
        synthetic_images: number of drawn faces of `data=synthetic`.
        extra_data: folders of class folders whose images are added to training, resized like the others; folders of
            other classes are left out with a warning in the log.
        memory_budget: MiB that images may take on the device, None for half of the free memory (see
            `emotion.data.storage.place`).

    Raises:
        UserError: an argument has an illegal value.
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
        """All images of the source, followed by those of `extra_data`.

        Raises:
            UserError: the source is missing or unusable, or an image is broken.
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
        """Rows of the training, validation and test images."""
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
        """Images uint8 [N, C, S, S], labels int64 [N] and training rows int64 [n], including oversampled images.

        Raises:
            UserError: a class has no training image.
        """
        rows = torch.from_numpy(self.rows.train)
        labels = self.labels[rows]  # [n]
        empty = [
            name
            for name, count in zip(CLASSES, torch.bincount(labels, minlength=len(CLASSES)), strict=True)
            if not count
        ]
        if empty:
            raise UserError(f"data={self.hparams['data']}: no training images of class {', '.join(empty)}; add some")
        if self.balance != "offline":
            return self.packed.images, self.labels, rows
        images = torch.from_numpy(self.packed.images[self.rows.train])  # [n, C, S, S]
        # Added images are transformed even with augment=false: unchanged ones would only be a costlier sampler.
        affine = self.affine.scaled(self.hparams["offline_strength"])
        sources, added = oversample(images, labels, len(CLASSES), affine, self.seed)
        labels = torch.cat([labels, labels[sources]])  # [n + m]
        return torch.cat([images, added]).numpy(), labels, torch.arange(len(labels))

    @property
    def class_weights(self) -> list[float] | None:
        """The loss weight of each class, computed on the training images; None without `balance=class_weights`."""
        if self.balance != "class_weights":
            return None
        _, labels, rows = self.train_set
        weights: list[float] = class_weights(labels[rows], len(CLASSES)).tolist()
        return weights

    @property
    def class_shares(self) -> list[float]:
        """The share of each class in the training batches, in the order of `CLASSES`, sum 1."""
        if self.balance == "weighted_sampler":
            return [1 / len(CLASSES)] * len(CLASSES)
        _, labels, rows = self.train_set
        counts = torch.bincount(labels[rows], minlength=len(CLASSES))
        shares: list[float] = (counts / counts.sum()).tolist()
        return shares

    def counts(self) -> dict[Stage, list[int]]:
        """Returns the number of images of each class for each stage, followed by the total."""
        stages: tuple[Stage, ...] = ("train", "val", "test")
        labels = {stage: self.packed.labels[getattr(self.rows, stage)] for stage in stages}
        return {stage: [*np.bincount(ids, minlength=len(CLASSES)).tolist(), len(ids)] for stage, ids in labels.items()}

    def train_on_features(self, extract: Extract, views: int) -> None:
        """Switches training and validation from images to features.

        Args:
            extract: function of images uint8 [N, C, S, S], the rows in use int64 [n], an augmentation or None, and a
                number of views; returns features float16 [views * n, ...], one view after the other.
            views: number of random augmentations of each training image; unused without augmentation.

        Raises:
            UserError: a setting needs the images themselves in each epoch.
        """
        if self.mix or (self.augmentation and self.hparams["plain_epochs"]):
            raise UserError("feature_views: mixup, cutmix and plain_epochs need the images; set feature_views=0")
        inputs, labels, rows = self.train_set
        changed = self.augmentation is not None or self.balance == "offline"
        # Without changes, training and validation images share one pass whose cached features serve the splits of all
        # seeds. With changes, features depend on the seed, and only the validation images are needed unchanged.
        pool = np.unique(self.rows.val) if changed else np.union1d(self.rows.train, self.rows.val)
        plain, pool_labels = extract(self.packed.images, pool, None, 1), self.labels[torch.from_numpy(pool)]
        val = torch.from_numpy(np.searchsorted(pool, self.rows.val))  # positions in the pool
        self._features["val"] = plain, pool_labels, val
        if changed:
            features = extract(inputs, rows.numpy(), self.augmentation, views if self.augmentation else 1)
            self._features["train"] = features, labels[rows], torch.arange(len(rows))
        else:
            train = torch.from_numpy(np.searchsorted(pool, self.rows.train))
            self._features["train"] = plain, pool_labels, train

    def prepare_data(self) -> None:
        """Packs the images, once on each machine (called by Lightning)."""
        _ = self.packed

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for checkpoints: image size [C, S, S] and hashes of the training images, int64 [n]."""
        hashes = self.packed.hashes[self.rows.train]
        return {"size": list(self.packed.images.shape[1:]), "hashes": torch.from_numpy(hashes.view(np.int64))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that a resumed run trains on the images it began with; checkpoints without hashes always pass.

        Raises:
            UserError: the training images have changed, so earlier training images may validate or test now.
        """
        hashes = self.state_dict()["hashes"]
        saved = state_dict.get("hashes", hashes)
        if not torch.equal(saved.sort().values, hashes.sort().values):
            raise UserError(
                f"the run began with other training images ({len(saved):,}, now {len(hashes):,}), which may be among "
                "the validation or test images now; restore the old images, or train again with overwrite=true"
            )

    def group_batches(self, size: int) -> None:
        """Makes the training loader yield lists of `size` batches."""
        self.group_size = size

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Returns the batch unchanged, since the loader assembles batches on the device (called by Lightning)."""
        return batch

    def train_dataloader(self) -> BatchLoader | BatchGroups:
        """Returns shuffled, balanced and augmented batches of the training images or of their features."""
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
        """Returns the first epoch (from 0) without augmentation, or None if there is none."""
        epochs: int = self.hparams["plain_epochs"]
        if not epochs or self.trainer is None:
            return None
        if self.trainer.max_epochs is None or self.trainer.max_epochs < 0:
            raise UserError(f"plain_epochs={epochs}: trainer.max_epochs has no limit to count back from; set a limit")
        return max(0, self.trainer.max_epochs - epochs)

    def val_dataloader(self) -> BatchLoader:
        """Returns batches of the validation images or of their features, in one shuffled order for all epochs.

        Sources list their images class by class, so without shuffling `trainer.limit_val_batches` would leave images of
        one class only.
        """
        images = self.packed.images, self.labels, torch.from_numpy(self.rows.val)
        inputs, labels, rows = self._features.get("val", images)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        return self._loader(inputs, labels, rows[order])

    def test_dataloader(self) -> BatchLoader:
        """Returns batches of the test images, in the order of `rows`."""
        return self.eval_loader("test", shared=True)

    def eval_loader(self, stage: Stage, shared: bool = False) -> BatchLoader:
        """Returns batches of the unchanged images of one stage, in the order of `rows`.

        Args:
            stage: `train`, `val` or `test`.
            shared: whether the processes of a training share the images; otherwise each process gets all of them.
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
        """Places an array once for all loaders; `id` is a safe key, since the module keeps all its arrays alive."""
        key = id(inputs), device
        if key not in self._placed:
            budget = self.hparams["memory_budget"]
            if budget is not None:
                budget -= sum(storage.bytes_held for storage in self._placed.values()) / 2**20
            self._placed[key] = place(inputs, device, budget)
        return self._placed[key]
