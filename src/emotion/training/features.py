"""Computes the output of the frozen part of a network once, and maps it from disk."""

import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from emotion.data.augment import Augmentation
from emotion.errors import UserError
from emotion.files import atomic_write, make_cache_folder, remove_stale_temporaries

FORMAT = 3
"""Number that is raised when the same settings would give other features, so that old files are not found."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The half precision of each `trainer.precision` that has one."""
LIBRARIES = ("emotion", "torch", "torchvision", "timm")
"""Packages whose classes make up all networks but those of a user."""
HASH_BATCH = 4096
"""Images that are read and hashed together."""
log = logging.getLogger(__name__)


class FeatureCache:
    """Computes and caches the features of images, in half precision.

    The name of a cached file is a hash of the function's weights and settings and of the pixels, so that all runs that
    share them share the file.

    Args:
        frozen: the fixed function, from uint8 or float images [B, C, S, S] to features [B, ...].
        device: device that computes.
        seed: seed of the augmentation of the views.
        precision: as `trainer.precision`; if it has a half precision, the features are computed in it.
        batch_size: number of images per batch; None: 256, or 64 on a CPU, whose cache then holds the feature maps.
    """

    def __init__(
        self,
        frozen: nn.Module,
        device: torch.device,
        seed: int = 0,
        precision: str = "32-true",
        batch_size: int | None = None,
    ) -> None:
        self.frozen = frozen.eval().to(device)
        self.device, self.seed = device, seed
        self.batch_size = batch_size or (64 if device.type == "cpu" else 256)
        self.half = AUTOCAST.get(precision)

    def __call__(
        self,
        images: NDArray[np.uint8],
        rows: NDArray[np.int64],
        augmentation: Augmentation | None = None,
        views: int = 1,
    ) -> NDArray[np.float16]:
        """Returns features of the used images, float16 [views * n, ...], view after view, mapped from disk.

        Args:
            images: all images, uint8 [N, C, S, S].
            rows: indices of the used images, int64 [n].
            augmentation: random changes, drawn for each view; None leaves the images unchanged.
            views: number of augmented versions of each image.

        Raises:
            UserError: a feature is too large for half precision, or the cache folder cannot be made.
        """
        root = make_cache_folder("features")
        path = root / f"{self._digest(images, rows, augmentation, views)}.npy"
        with FileLock(path.with_suffix(".lock")):
            features = _find(path)
            if features is None:
                remove_stale_temporaries(root, path.stem)
                log.info("running a network over %d images, %d views; kept in the cache", len(rows), views)
                self._write(path, images, rows, augmentation, views)
                features = _open(path)
        return features

    def _write(
        self,
        path: Path,
        images: NDArray[np.uint8],
        rows: NDArray[np.int64],
        augmentation: Augmentation | None,
        views: int,
    ) -> None:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            count = views * -(-len(rows) // self.batch_size)
            batches = self._compute(self._inputs(images, rows, augmentation, views), count)
            for index, features in enumerate(batches):
                if index == 0:  # the header of a .npy file holds the shape, which the first batch shows
                    shape = (views * len(rows), *features.shape[1:])
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(features.numpy().tobytes())

    @torch.inference_mode()
    def _compute(self, inputs: Iterable[Tensor], count: int) -> Iterator[Tensor]:
        console = Console(stderr=True)
        shown = track(inputs, "computing", count, console=console, disable=not console.is_terminal)
        for images in shown:  # [B, C, S, S]
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                features = self.frozen(images).half().cpu()
            if not features.isfinite().all():
                raise UserError(
                    "the output of a network exceeds the range of half precision; use feature_views=0 and no teacher"
                )
            yield features

    def _inputs(
        self, images: NDArray[np.uint8], rows: NDArray[np.int64], augmentation: Augmentation | None, views: int
    ) -> Iterator[Tensor]:
        """Yields batches [B, C, S, S] of the used images, view after view, uint8 or, if augmented, float."""
        height, width = images.shape[-2:]
        for view in range(views):
            draws = augmentation.draw_view(len(rows), height, width, self.seed, view) if augmentation else None
            for part in torch.split(torch.arange(len(rows)), self.batch_size):
                inputs = torch.from_numpy(images[rows[part.numpy()]]).to(self.device)
                if augmentation and draws:
                    inputs = augmentation.apply(inputs.float() / 255, draws.select(part, self.device))
                yield inputs

    def _digest(
        self, images: NDArray[np.uint8], rows: NDArray[np.int64], augmentation: Augmentation | None, views: int
    ) -> str:
        draws = (augmentation.of_images, views, self.seed) if augmentation else None
        settings = (FORMAT, self.frozen, self.half, draws)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        for name, value in self.frozen.state_dict(keep_vars=True).items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        for file in own_files(self.frozen):
            digest.update(file.read_bytes())
        digest.update(images_digest(images, rows).encode())
        return digest.hexdigest()


def own_files(network: nn.Module) -> list[Path]:
    """Returns the files that hold a user's classes of a network, whose code can change while their weights stay."""
    names = {type(part).__module__ for part in network.modules()}
    own = [name for name in names if name.partition(".")[0] not in LIBRARIES]
    return sorted({Path(file) for name in own if (file := getattr(sys.modules[name], "__file__", None))})


def images_digest(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> str:
    """Returns a hash of the pixels of some images, in the order of their rows, as 32 hexadecimal digits.

    Args:
        images: all images, uint8 [N, C, S, S].
        rows: indices of those to hash, int64 [n].
    """
    digest = hashlib.blake2b(repr((len(rows), images.shape[1:])).encode(), digest_size=16)
    for batch in np.array_split(rows, range(HASH_BATCH, len(rows), HASH_BATCH)):
        digest.update(images[batch].tobytes())
    return digest.hexdigest()


def _open(path: Path) -> NDArray[np.float16]:
    features: NDArray[np.float16] = np.load(path, mmap_mode="c")
    return features


def _find(path: Path) -> NDArray[np.float16] | None:
    """Opens a file; returns None if it is missing or incomplete, as after a crash of the machine."""
    try:
        return _open(path)
    except (OSError, EOFError, ValueError):
        return None
