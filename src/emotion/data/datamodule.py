"""The LightningDataModule, which packs, splits, balances and loads the images of a source."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from emotion.data.augment import Augmentation, RandomAffine
from emotion.data.balance import class_weights, oversample, sampling_weights
from emotion.data.classes import CLASSES, FERPLUS, ClassRule
from emotion.data.folders import FolderSource
from emotion.data.labelled import Source
from emotion.data.loader import BatchLoader, OwnAugmentation
from emotion.data.mix import Mix
from emotion.data.packed import PackedImages, pack
from emotion.data.sources import open_source
from emotion.data.splits import Split, make_split
from emotion.data.storage import Resident, Streamed, place
from emotion.data.teaching import Teaching
from emotion.data.votes import open_votes, with_votes
from emotion.declarations import SOURCE
from emotion.errors import UserError
from emotion.files import expand
from emotion.plugins import own_code
from emotion.settings import AugmentationSettings, BatchSettings, DataSettings, RunSettings, marked

Stage = Literal["train", "val", "test"]
log = logging.getLogger(__name__)
SOURCE_SETTINGS = marked(SOURCE)
"""The settings that define the source and its labels; the other settings define the use of its images."""
Pixels = NDArray[np.uint8]
Extract = Callable[[Pixels, NDArray[np.int64], Augmentation | None, int], NDArray[np.float16]]


class EmotionDataModule(LightningDataModule):
    """Images of facial expressions, split, balanced and loaded for training.

    All settings are saved in checkpoints as flat, plain values, from which `of` builds the data again.

    Args:
        data: settings of the source, its labels and its split.
        batches: settings of class imbalance and batches. With `weighted_sampler`, all classes are drawn equally often;
            with `offline`, the smaller classes are oversampled with transformed training images.
        augmentation: settings of the random changes of training images. `plain_epochs` follows He et al.,
            arXiv:1909.09148.
        seed: seed of oversampling, order and augmentation, and of the split unless `split_seed` is set.
        network_classes: classes of a trained network that the data is for, in the order of its outputs; images of other
            classes are left out with a line in the log. None takes the classes of the settings.
        guess_numbers: whether numbered classes may be guessed (see `guess` of `emotion.data.classes.ClassRule`).
        own_augmentation: the user's changes of training images (see `emotion.plugins.Plugins`).
    """

    def __init__(
        self,
        data: DataSettings = DataSettings(),  # noqa: B008, frozen
        batches: BatchSettings = BatchSettings(),  # noqa: B008
        augmentation: AugmentationSettings = AugmentationSettings(),  # noqa: B008
        seed: int = 0,
        *,
        network_classes: Sequence[str] | None = None,
        guess_numbers: bool = True,
        own_augmentation: Callable[[], OwnAugmentation] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters({**data.flat(), **batches.flat(), **augmentation.flat(), "seed": seed}, logger=False)
        self.settings, self.batches, self.plain_epochs = data, batches, augmentation.plain_epochs
        self.seed, self.network_classes, self._guess = seed, network_classes, guess_numbers
        self.affine = RandomAffine.of(augmentation)
        self.augmentation = changes if (changes := Augmentation(augmentation)).changes else None
        with own_code(f"augmentation={augmentation.augmentation}", "cannot be made"):
            self.own_augmentation = None if own_augmentation is None else own_augmentation()
        self.mix = mix if (mix := Mix(augmentation)).changes else None
        self._group: Callable[[BatchLoader], Iterable[Any]] | None = None
        self.teaching: Teaching | None = None
        self.further, self.complete = np.empty(0, np.uint64), True  # images of start and teachers: see `state_dict`
        self._features: dict[Stage, tuple[NDArray[np.float16], Tensor, Tensor]] = {}
        self._placed: dict[tuple[int, torch.device], Resident | Streamed] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any], **options: Any) -> Self:
        """Builds the data from flat values, as in a checkpoint; absent settings have their defaults.

        Args:
            values: settings of the data, batches and augmentation, and `seed`; others are ignored.
            options: `network_classes`, `guess_numbers` and `own_augmentation`.

        Raises:
            UserError: a value is not legal.
        """
        groups = (DataSettings.of(values), BatchSettings.of(values), AugmentationSettings.of(values))
        return cls(*groups, RunSettings.of(values).seed, **options)

    @cached_property
    def source(self) -> Source:
        """The source of the images.

        Raises:
            UserError: the source is missing or unusable.
        """
        asked = self.settings
        if asked.labels is not None:  # the classes are those of the votes, whatever the folders are called
            asked = asked.model_copy(update={"classes": "auto", "exclude": []})
        return open_source(asked, "error" if self.network_classes is None else "skip", guess=self._guess)

    @cached_property
    def packed(self) -> PackedImages:
        """All images of the source, followed by those of `extra_data`, with their labels or votes.

        Raises:
            UserError: the source is missing or unusable, or an image is broken.
        """
        asked = self.settings
        packed = pack(self.source, asked.on_bad_image)
        if asked.labels is not None:
            votes = open_votes(expand(asked.votes)).require_on(packed.names.tolist(), packed.parts.tolist())
            packed = with_votes(packed, votes, _vote_classes(asked), soft=asked.soft_labels)
        if self.network_classes is not None:
            packed = packed.with_classes(self.network_classes)
        paths = [expand(path) for path in asked.extra_data or ()]
        if not paths:
            return packed
        rule = ClassRule(packed.classes, others="skip", counts=False)
        others = [FolderSource(path, self.source.size, self.source.channels, rule) for path in paths]
        return packed.extended([pack(other, asked.on_bad_image) for other in others])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of their ids."""
        return self.packed.classes

    @cached_property
    def rows(self) -> Split:
        """Rows of the training, validation and test images."""
        asked, validated = self.settings, int((self.packed.parts == "val").sum())
        if asked.split == "report" and validated:
            log.warning(
                "split=report draws the validation images anew; split=official keeps your %d images of val", validated
            )
        return make_split(
            self.packed,
            asked.split,
            val_fraction=asked.val_fraction,
            test_fraction=asked.test_fraction,
            seed=self.seed if asked.split_seed is None else asked.split_seed,
            group_duplicates=asked.group_duplicates,
            groups=None if asked.group_by is None else self._groups(asked.group_by),
            folds=asked.folds,
            fold=asked.fold,
        )

    def _groups(self, group_by: str) -> NDArray[np.str_]:
        """Returns the group of each image, str [N]; images of `extra_data` have none, since they only train."""
        names = self.packed.names[self.packed.parts != "extra"].tolist()
        groups = self.source.groups(names, group_by)
        return np.array([*groups, *[""] * (len(self.packed) - len(names))])

    @cached_property
    def labels(self) -> Tensor:
        """Class ids of all images, also those of `extra_data`, int64 [N]; -1 for images of part `unused`."""
        return torch.from_numpy(self.packed.labels)

    @cached_property
    def targets(self) -> Tensor:
        """What training images are to be classified as: class ids int64 [N], or shares of votes float32 [N, K]."""
        return self.labels if self.packed.shares is None else torch.from_numpy(self.packed.shares)

    @cached_property
    def train_set(self) -> tuple[Pixels, Tensor, Tensor]:
        """Images uint8 [N, C, S, S], targets [N] or [N, K] and training rows int64 [n], with oversampled images.

        Raises:
            UserError: a class has no training image.
        """
        rows = torch.from_numpy(self.rows.train)
        labels = self.labels[rows]  # [n]
        self._require_all_classes(labels)
        if self.batches.balance != "offline":
            return self.packed.images, self.targets, rows
        images, targets = torch.from_numpy(self.packed.images[self.rows.train]), self.targets[rows]
        sources, added = self._oversampled
        targets = torch.cat([targets, targets[sources]])  # [n + m] or [n + m, K]
        return torch.cat([images, added]).numpy(), targets, torch.arange(len(targets))

    @cached_property
    def _oversampled(self) -> tuple[Tensor, Tensor]:
        """Rows of training images that are used again, int64 [m] in 0..n - 1, and the added images [m, C, S, S]."""
        images, labels = torch.from_numpy(self.packed.images[self.rows.train]), self.labels[self.rows.train]
        # Added images are transformed even with augment=false: unchanged ones would only be a costlier sampler.
        affine = self.affine.scaled(self.batches.offline_strength)
        return oversample(images, labels, len(self.classes), affine, self.seed)

    def _require_all_classes(self, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if empty and self.settings.split == "test_only":
            raise UserError("split=test_only: leaves no images to train on; it is for evaluate.py")
        if empty:
            without = ",".join([*map(str, self.settings.exclude), *empty])
            raise UserError(
                f"data={self.settings.data}: no training images of class {', '.join(empty)}; add some, or train "
                f"without: exclude=[{without}]"
            )

    @property
    def class_weights(self) -> list[float] | None:
        """The loss weight of each class, computed on the training images; None without `balance=class_weights`."""
        if self.batches.balance != "class_weights":
            return None
        weights: list[float] = class_weights(self._training_labels, len(self.classes)).tolist()
        return weights

    @property
    def _training_labels(self) -> Tensor:
        """Class ids of the training images in the order of `train_set`, int64 [n], or [n + m] with oversampled ones."""
        labels = self.labels[torch.from_numpy(self.rows.train)]
        self._require_all_classes(labels)
        return torch.cat([labels, labels[self._oversampled[0]]]) if self.batches.balance == "offline" else labels

    @property
    def class_shares(self) -> list[float]:
        """The share of each class in the training batches, in the order of `classes`, sum 1."""
        if self.batches.balance == "weighted_sampler":
            return [1 / len(self.classes)] * len(self.classes)
        counts = torch.bincount(self._training_labels, minlength=len(self.classes))
        shares: list[float] = (counts / counts.sum()).tolist()
        return shares

    def origin(self, stage: Stage) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
        """Returns the part of each image of a stage, str [n], and whether it is a duplicate, bool [n].

        A duplicate has the pixels of an image in the training part of the source; where images were drawn from that
        part, those of a training image. With `split=random` the parts of the source mean nothing: images of the test
        are `test`, all others `train`, and all are drawn.
        """
        rows, hashes = getattr(self.rows, stage), self.packed.hashes
        parts, drawn = self.packed.parts[rows], self.packed.parts[rows] == "train"
        if self.settings.split == "random":
            parts, drawn = np.full(len(rows), "test" if stage == "test" else "train"), np.full(len(rows), True)
        return parts, np.where(drawn, np.isin(hashes[rows], hashes[self.rows.train]), self.packed.copied[rows])

    def counts(self) -> dict[Stage, list[int]]:
        """Returns the number of images of each class for each stage, followed by the total."""
        stages: tuple[Stage, ...] = ("train", "val", "test")
        labels = {stage: self.packed.labels[getattr(self.rows, stage)] for stage in stages}
        number = len(self.classes)
        return {stage: [*np.bincount(ids, minlength=number).tolist(), len(ids)] for stage, ids in labels.items()}

    def train_on_features(self, extract: Extract, views: int) -> None:
        """Switches training and validation from images to features.

        Args:
            extract: function of images uint8 [N, C, S, S], the rows in use int64 [n], an augmentation or None, and a
                number of views; returns features float16 [views * n, ...], one view after the other.
            views: number of random augmentations of each training image; unused without augmentation.

        Raises:
            UserError: a setting needs the images themselves in each epoch.
        """
        if self.mix or self.own_augmentation or (self.augmentation and self.plain_epochs):
            raise UserError(
                "feature_views: mixup, cutmix, augmentation= and plain_epochs need the images; set feature_views=0"
            )
        inputs, labels, rows = self.train_set
        changed = self.augmentation is not None or self.batches.balance == "offline"
        # Without changes, training and validation images share one pass whose cached features serve the splits of all
        # seeds. With changes, features depend on the seed, and only the validation images are needed unchanged.
        pool = np.unique(self.rows.val) if changed else np.union1d(self.rows.train, self.rows.val)
        plain, pool_rows = extract(self.packed.images, pool, None, 1), torch.from_numpy(pool)
        val = torch.from_numpy(np.searchsorted(pool, self.rows.val))  # positions in the pool
        self._features["val"] = plain, self.labels[pool_rows], val
        if changed:
            features = extract(inputs, rows.numpy(), self.augmentation, views if self.augmentation else 1)
            self._features["train"] = features, labels[rows], torch.arange(len(rows))
        else:
            train = torch.from_numpy(np.searchsorted(pool, self.rows.train))
            self._features["train"] = plain, self.targets[pool_rows], train

    def learn_from(self, teaching: Teaching) -> None:
        """Adds the judgement of teachers, on the images of `train_set` in their order, to the training batches."""
        self.teaching = teaching

    def add_training_images(self, hashes: NDArray[np.uint64], known: bool) -> None:
        """Adds images that a network was trained on from which the run learns: its start, or a teacher.

        Args:
            hashes: hashes of the images, uint64 [n].
            known: whether these are all.
        """
        self.further = np.setdiff1d(np.concatenate([self.further, hashes]), self.packed.hashes[self.rows.train])
        self.complete = self.complete and known

    def prepare_data(self) -> None:
        """Packs the images, once on each machine (called by Lightning)."""
        _ = self.packed

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for checkpoints.

        Returns:
            `classes`, `size` [C, S, S] of the images, `hashes` of the training images, int64 [n], a hash of these and
            their `labels`, `further` hashes of those of start and teachers, int64 [m], and whether these are
            `complete`.
        """
        hashes = (self.packed.hashes[self.rows.train], self.further)
        own, further = (torch.from_numpy(each.view(np.int64)) for each in hashes)
        size = list(self.packed.images.shape[1:])
        found = {"size": size, "hashes": own, "labels": self.training_hash, "classes": list(self.classes)}
        return {**found, "further": further, "complete": self.complete}

    @cached_property
    def training_hash(self) -> str:
        """A hash of the training images and their labels, whatever their order, as 16 hexadecimal digits."""
        hashes, labels = (values[self.rows.train] for values in (self.packed.hashes, self.packed.labels))
        order = np.lexsort((labels, hashes))
        digest = hashlib.blake2b(hashes[order].tobytes(), digest_size=8)
        digest.update(labels[order].tobytes())
        return digest.hexdigest()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that a resumed run trains on the images it began with; older checkpoints without the state pass.

        Raises:
            UserError: the classes, the training images, which may validate or test now, or their labels have changed.
        """
        before = tuple(state_dict.get("classes", self.classes))
        if before != self.classes:
            raise UserError(
                f"the run began with the classes {', '.join(before)}; now they are {', '.join(self.classes)}"
            )
        own = self.state_dict()
        hashes = own["hashes"]
        saved = state_dict.get("hashes", hashes)
        if not torch.equal(saved.sort().values, hashes.sort().values):
            raise UserError(
                f"the run began with other training images ({len(saved):,}, now {len(hashes):,}), which may be among "
                "the validation or test images now; restore the old images, or train again with overwrite=true"
            )
        if state_dict.get("labels", own["labels"]) != own["labels"]:
            raise UserError(
                "the run began with other labels of its training images; restore the old ones, or train again with "
                "overwrite=true"
            )
        further = torch.as_tensor(state_dict.get("further", ()), dtype=torch.int64).numpy().view(np.uint64)
        self.add_training_images(further, bool(state_dict.get("complete", True)))

    def group_batches(self, group: Callable[[BatchLoader], Iterable[Any]]) -> None:
        """Makes `train_dataloader` return `group` of the loader of single batches."""
        self._group = group

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Returns the batch unchanged, since the loader assembles batches on the device (called by Lightning)."""
        return batch

    def train_dataloader(self) -> Iterable[Any]:
        """Returns shuffled, balanced and augmented batches of the training images or of their features."""
        inputs, labels, rows = self._features.get("train", self.train_set)
        weights = None
        if self.batches.balance == "weighted_sampler":
            weights = sampling_weights(self._training_labels, len(self.classes))
        loader = self._loader(
            inputs,
            labels,
            rows,
            shuffle=True,
            augmentation=None if self._features else self.augmentation,
            own_augmentation=self.own_augmentation,
            mix=self.mix,
            teaching=self.teaching,
            num_classes=len(self.classes),
            plain_from=self._plain_from(),
            sampling_weights=weights,
            seed=self.seed,
        )
        return self._group(loader) if self._group else loader

    def _plain_from(self) -> int | None:
        """Returns the first epoch (from 0) without augmentation, or None if there is none."""
        epochs = self.plain_epochs
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
        return BatchLoader(self._place(inputs, device), labels, rows, self.batches.batch_size, **options)

    def _place(self, inputs: NDArray[Any], device: torch.device) -> Resident | Streamed:
        """Places an array once for all loaders; `id` is a safe key, since the module keeps all its arrays alive."""
        key = id(inputs), device
        if key not in self._placed:
            budget: float | None = self.batches.memory_budget
            if budget is not None:
                budget -= sum(storage.bytes_held for storage in self._placed.values()) / 2**20
            self._placed[key] = place(inputs, device, budget)
        return self._placed[key]


def _vote_classes(asked: DataSettings) -> Sequence[str]:
    """Returns the classes that votes are counted for; `auto` are the seven of FER2013."""
    rule = ClassRule(CLASSES if asked.classes == "auto" else asked.classes, asked.exclude)
    return rule.resolve(dict.fromkeys(FERPLUS if asked.classes == "ferplus" else CLASSES, asked.votes)).names
