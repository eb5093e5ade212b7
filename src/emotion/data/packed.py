"""All images of a source as one memory-mapped array on disk, written in one pass and shared by all runs."""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from emotion.data.classes import CLASSES, canonical, count_images, listed
from emotion.data.decode import BadImageError
from emotion.data.labelled import LabelledImage, Source, fingerprint
from emotion.errors import UserError
from emotion.files import flush, hide_home, make_cache_folder
from emotion.settings import OnBadImage

SHOWN_SKIPPED = 3
"""Largest number of skipped images that the warning names."""
FORMAT = 2
PIXELS, INDEX = "images.u8", "index.npz"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedImages:
    """The images of a source.

    Attributes:
        images: uint8 [N, C, S, S], mapped from disk; changes would stay in memory.
        labels: class ids, int64 [N]; -1 for images of part `unused`.
        parts: str [N], the part of the source that each image belongs to, `extra` for images of other sources, or
            `unused` for images that are in no split.
        names: str [N], unique names of the images.
        hashes: uint64 [N], equal exactly for images with identical pixels.
        skipped: one message for each image that could not be used.
        classes: class names in the order of the class ids.
        shares: float32 [N, K], the share of each class in the votes on each image; rows sum to 1, but to 0 for images
            of part `unused`. None without votes.
        left_out: sentences on the images that are left out since they are of none of the classes; empty without them.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.str_]
    names: NDArray[np.str_]
    hashes: NDArray[np.uint64]
    skipped: tuple[str, ...]
    classes: tuple[str, ...] = CLASSES
    shares: NDArray[np.float32] | None = None
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def copied(self) -> NDArray[np.bool_]:
        """Whether another image with identical pixels is in the training part, bool [N].

        Images of part `extra` do not count as training images here: `make_split` leaves out those that are identical
        to a validation or test image.
        """
        training = self.parts == "train"
        _, numbers = np.unique(self.hashes, return_inverse=True)
        copied: NDArray[np.bool_] = np.bincount(numbers[training], minlength=len(self))[numbers] > training
        return copied

    @property
    def digest(self) -> str:
        """Hash (hex) of the data: pixels, labels, parts and names of classes, but neither order nor names of images."""
        content = sorted(zip(self.hashes.tolist(), self.labels.tolist(), self.parts.tolist(), strict=True))
        text = repr(content) if self.classes == CLASSES else repr((self.classes, content))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def used(self) -> "PackedImages":
        """Returns the images that are not of part `unused`."""
        kept = self.parts != "unused"
        if kept.all():
            return self
        arrays = {name: getattr(self, name)[kept] for name in ("images", "labels", "parts", "names", "hashes")}
        return replace(self, **arrays, shares=None if self.shares is None else self.shares[kept])

    def with_classes(self, classes: Sequence[str]) -> "PackedImages":
        """Returns the images with the class ids of a network; those of other classes have part `unused`.

        Names are the same class without regard to case and in any known spelling. The log names the classes that the
        network lacks, with their numbers of images.

        Args:
            classes: names of the network's classes, in the order of its outputs.

        Raises:
            UserError: no class is common.
        """
        if tuple(classes) == self.classes:
            return self
        places = {canonical(name): index for index, name in enumerate(classes)}
        ids = np.array([places.get(canonical(name), -1) for name in self.classes])  # [K], -1: not the network's
        if (ids < 0).all():
            raise UserError(
                f"the data has the classes {listed(self.classes)}; the network knows {listed(classes)}; none is common"
            )
        labels = np.where(self.labels < 0, -1, ids[self.labels])  # [N]
        used = self.parts != "unused"
        counts = np.bincount(self.labels[used], minlength=len(self.classes))
        others = [f"{self.classes[index]} ({counts[index]:,})" for index in np.flatnonzero(ids < 0) if counts[index]]
        left_out = self.left_out
        if others:
            line = f"left out, since the network does not know their classes: images of {', '.join(others)}"
            log.warning("%s", line)
            left_out = "; ".join(filter(None, (left_out, line)))
        parts = np.where(labels < 0, "unused", self.parts)
        return replace(self, labels=labels, parts=parts, classes=tuple(classes), left_out=left_out, shares=None)

    def extended(self, others: Sequence["PackedImages"]) -> "PackedImages":
        """Returns these images followed by those of other sources as part `extra`, held in memory.

        Args:
            others: images of the same size [.., C, S, S] and classes. Beside votes, the label of each gets the share 1.
        """
        extra = [
            replace(
                other,
                parts=np.full(len(other), "extra"),
                names=np.array([f"extra{number}/{name}" for name in other.names]),
            )
            for number, other in enumerate(others)
        ]
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(packed, name) for packed in (self, *extra)])
            for name in ("images", "labels", "parts", "names", "hashes")
        }
        skipped = (*self.skipped, *(line for packed in extra for line in packed.skipped))
        shares = None
        if self.shares is not None:
            one_hot = np.eye(len(self.classes), dtype=np.float32)  # [K, K]
            shares = np.concatenate([self.shares, *(one_hot[packed.labels] for packed in extra)])
        left_out = "; ".join(filter(None, (packed.left_out for packed in (self, *extra))))
        return replace(self, **arrays, skipped=skipped, shares=shares, left_out=left_out)


def pack(source: Source, on_bad_image: OnBadImage = "error") -> PackedImages:
    """Opens the packed images of a source, after packing them if they are missing or the source has changed.

    One process packs while the others that need the same images wait.

    Raises:
        UserError: an image cannot be used and `on_bad_image` is "error", or no image can be used.
    """
    identity, content = fingerprint(source)
    root = make_cache_folder("packed")
    folder = root / f"{identity}-{content}-v{FORMAT}"
    packed = _find(folder, on_bad_image)  # without the lock, for which a shared cache may be read-only
    if packed is None:
        with FileLock(root / f"{identity}.lock"):
            packed = _find(folder, on_bad_image)
            if packed is None:
                _remove_stale(root, identity)
                _write(source, folder, on_bad_image)
                packed = _open(folder)
    if packed.skipped:
        count, shown = len(packed.skipped), "; ".join(map(hide_home, packed.skipped[:SHOWN_SKIPPED]))
        more = f"; and {count - SHOWN_SKIPPED:,} more" if count > SHOWN_SKIPPED else ""
        log.warning("%s skipped: %s%s", count_images(count), shown, more)
    return replace(packed, classes=source.classes, left_out=source.left_out)


def _write(source: Source, folder: Path, on_bad_image: OnBadImage) -> None:
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir()
    try:
        usable, skipped = _write_pixels(source, temporary / PIXELS, on_bad_image)
        if not usable:
            raise UserError(f"{source.location}: no image can be used{f'; the first: {skipped[0]}' if skipped else ''}")
        np.savez(
            temporary / INDEX,
            shape=np.array([len(usable), source.channels, source.size, source.size]),
            labels=np.array([item.label for item in usable], np.int64),
            parts=np.array([item.part for item in usable]),
            names=np.array([item.name for item in usable]),
            hashes=np.array([item.hash for item in usable], np.uint64),
            skipped=np.array(skipped, np.str_),
        )
        for name in (PIXELS, INDEX):
            flush(temporary / name)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise


@dataclass(frozen=True)
class _Entry:
    label: int
    part: str
    name: str
    hash: int


def _write_pixels(source: Source, path: Path, on_bad_image: OnBadImage) -> tuple[list[_Entry], list[str]]:
    usable: list[_Entry] = []
    skipped: list[str] = []
    with path.open("wb") as file:
        for item in _with_progress(source):
            if isinstance(item, BadImageError):
                if on_bad_image == "error":
                    raise _with_advice(str(item))
                skipped.append(str(item))
                continue
            pixels = item.pixels.tobytes()
            file.write(pixels)
            digest = int.from_bytes(hashlib.blake2b(pixels, digest_size=8).digest(), "little")
            usable.append(_Entry(item.label, item.part, item.name, digest))
    return usable, skipped


def _with_progress(source: Source) -> Iterable[LabelledImage | BadImageError]:
    console = Console(stderr=True)
    return track(source, "packing images", len(source), console=console, disable=not console.is_terminal)


def _find(folder: Path, on_bad_image: OnBadImage) -> PackedImages | None:
    """Opens a folder, or returns None if it must be packed again.

    It is incomplete after a crash or a partial clean-up of the cache. What could not be read when it was packed may be
    readable now, as with a package that was missing.
    """
    try:
        packed = _open(folder)
        complete = (folder / PIXELS).stat().st_size == packed.images.nbytes
    except Exception:
        return None  # a truncated file can make numpy raise anything
    return packed if complete and not (packed.skipped and on_bad_image == "error") else None


def _open(folder: Path) -> PackedImages:
    with np.load(folder / INDEX) as index:
        arrays = {name: index[name] for name in index.files}
    shape = tuple(arrays.pop("shape").tolist())
    # Copy-on-write, because torch.from_numpy warns about read-only arrays; nothing is written.
    images = np.memmap(folder / PIXELS, np.uint8, mode="c", shape=shape)
    return PackedImages(images=images, skipped=tuple(arrays.pop("skipped").tolist()), **arrays)


def _remove_stale(root: Path, identity: str) -> None:
    """Removes packed images of earlier states of the source and incomplete folders of killed runs."""
    for folder in root.glob(f"{identity}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _with_advice(problem: str) -> UserError:
    return UserError(f"{problem}; on_bad_image=skip leaves out images that cannot be used")
