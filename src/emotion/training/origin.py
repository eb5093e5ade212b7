"""The images that a trained network has learned from, and the check that none of them validates or tests another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError
from emotion.models.classifier import Card
from emotion.settings import DataSettings

FURTHER = "further_images"
"""The fact on a card that counts the images of start and teachers that the network itself was not trained on."""
UNKNOWN = "%s: not all its training images are known (%s); if some validate or test here, the accuracy is too high"
"""The message for a network of which `require_unseen` returns False, with its `Origin.told`."""
_FER2013 = ("fer2013", "fer2013_csv")
_FILES = ("data", "data_dir", "on_bad_image", "votes", "images", "synthetic_images")
"""Settings that say where images and labels lie."""


@dataclass(frozen=True)
class Origin:
    """What a file tells of the training images of its network, and of the networks that it started or learned from.

    Attributes:
        classes: names of the K classes.
        data: settings of the data, as flat values.
        size: shape (C, S, S) of the training images; None if it is not known.
        hashes: hashes of the training images, uint64 [N], see `emotion.data.packed.PackedImages`; none if the file has
            only the settings of its split.
        complete: whether those of start and teachers are known too.
        facts: the facts on the card of a published file; nothing for a checkpoint.
    """

    classes: tuple[str, ...]
    data: Mapping[str, Any]
    size: tuple[int, ...] | None = None
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    complete: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_checkpoint(cls, classes: Sequence[str], content: Mapping[str, Any]) -> "Origin":
        """Reads the content of a checkpoint; those of older versions have no hashes."""
        data = dict(content["datamodule_hyper_parameters"])
        state = content.get(EmotionDataModule.__qualname__, {})
        size = tuple(map(int, state["size"])) if state else None
        parts = [torch.as_tensor(state.get(key, ()), dtype=torch.int64) for key in ("hashes", "further")]
        hashes = torch.cat(parts).numpy().view(np.uint64)
        taught = bool(content["hyper_parameters"].get("teachers"))  # older versions kept no images of teachers
        return cls(tuple(classes), data, size, hashes, bool(state.get("complete", not taught)))

    @classmethod
    def of_card(cls, card: Card, classes: Sequence[str]) -> "Origin":
        """Reads the card of a published file."""
        known = {key: value for key, value in card.facts.items() if key in (*DataSettings.model_fields, "seed")}
        data = {"pack_size": card.side, "channels": card.channels, **known}
        return cls(tuple(classes), data, complete=FURTHER not in card.facts, facts=card.facts)

    @property
    def told(self) -> str:
        """What the file tells of the training images, for messages."""
        settings = " ".join(f"{key}={self.data[key]}" for key in ("data", "split") if self.data.get(key))
        return f"its file says: {settings}" if settings else "its file says nothing of them"

    def known_hashes(self, data: EmotionDataModule) -> NDArray[np.uint64] | None:
        """Returns the hashes of the training images; of a published file, those of its split of the same images.

        Args:
            data: the data that they are compared with.

        Returns:
            uint64 [N]; None if they cannot be told, or are those of images of another size.
        """
        if self.size not in (None, data.packed.images.shape[1:]):
            return None
        if len(self.hashes):
            return self.hashes
        kinds = [_FER2013 if kind in _FER2013 else (kind,) for kind in (self.facts.get("data"), data.settings.data)]
        if kinds[0] != kinds[1] or "extra_folders" in self.facts:
            return None
        # The files are those of the run; its classes, labels and further images may be others than the network's.
        trained = EmotionDataModule.of({**self.data, **{key: getattr(data.settings, key) for key in _FILES}})
        try:
            told = trained.packed.images.shape[1:] == data.packed.images.shape[1:] and self._tells(trained)
            return trained.packed.hashes[trained.rows.train] if told else None
        except UserError:  # the images cannot be split as the card says, so they are others
            return None

    def _tells(self, trained: EmotionDataModule) -> bool:
        """Whether the card of a published file tells that the network was trained on the training images of some data.

        A split that is drawn depends on the order of the images, so only a hash of the training images tells it. Cards
        of older versions have a hash of all images, or none.
        """
        if self.facts.get("training_hash") == trained.training_hash:
            return True
        if self.facts.get("split") not in ("official", "clean"):
            return False
        # The names of the files tell the parts of FER2013, whatever changed beside them.
        fer2013 = trained.settings.data in _FER2013 and {"public", "private"} <= {*trained.packed.parts}
        return fer2013 or self.facts.get("images_hash") == trained.packed.digest


def require_unseen(setting: str, origin: Origin, data: EmotionDataModule) -> bool:
    """Checks that a network has not seen the images that validate or test in a run that learns from it.

    Its training images are added to those that the run has learned from (`EmotionDataModule.add_training_images`).

    Args:
        setting: the setting that names the network, as `init=small`, for the message.
        origin: what is known of its images.
        data: the data of the run.

    Returns:
        Whether all the images are known.

    Raises:
        UserError: some of them validate or test in the run.
    """
    hashes = origin.known_hashes(data)
    known = hashes is not None and origin.complete
    data.add_training_images(hashes if hashes is not None else origin.hashes, known)
    if hashes is None:
        return False
    if seen := _count_seen(hashes, data):
        raise UserError(
            f"{setting}: was trained on {seen:,} of the images that validate or test here; give both the same split "
            "and split_seed"
        )
    return known


def require_own_split(name: str, origin: Origin, data: EmotionDataModule, advice: str) -> None:
    """Checks that the split of a network's own data, which is made anew, is that of its training.

    Args:
        name: what the message calls the network, as `ckpt=best.ckpt`.
        origin: what is known of its images.
        data: its data.
        advice: end of the message.

    Raises:
        UserError: it was trained on images that validate or test now, since images or settings have changed.
    """
    if (
        len(origin.hashes)
        and origin.size == data.packed.images.shape[1:]
        and (seen := _count_seen(origin.hashes, data))
    ):
        raise UserError(
            f"{name}: was trained on {seen:,} of the images that validate or test now, since images or settings of the "
            f"split={data.settings.split} have changed; {advice}"
        )


def _count_seen(hashes: NDArray[np.uint64], data: EmotionDataModule) -> int:
    """Counts the held-out images among those with some hashes.

    Images that have a copy among the training images of the data do not count, since a training there sees the copy.
    """
    held_out = data.packed.hashes[np.concatenate([data.rows.val, data.rows.test])]
    seen = np.isin(held_out, hashes) & ~np.isin(held_out, data.packed.hashes[data.rows.train])
    return int(seen.sum())
