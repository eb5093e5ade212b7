"""The output of the frozen part of a network, computed once and mapped from disk."""

import hashlib
import logging
from collections.abc import Iterator
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

FORMAT = 2
"""Goes up when the same settings would give other features."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The half precision of the Trainer's settings that have one."""
HASHED_AT_ONCE = 4096
log = logging.getLogger(__name__)


class FeatureCache:
    """Features of images under a fixed function, in half precision.

    What was computed is found again by a hash of the function's weights and settings and of the pixels, so that it
    serves every run that shares both.

    Args:
        frozen: the fixed function, from uint8 or float images to features.
        device: where it runs.
        seed: of the random transforms.
        precision: as the Trainer's; one with a half precision computes in it.
        batch_size: images at a time.
    """

    def __init__(
        self,
        frozen: nn.Module,
        device: torch.device,
        seed: int = 0,
        precision: str = "32-true",
        batch_size: int = 256,
    ) -> None:
        self.frozen = frozen.eval().to(device)
        self.device, self.seed, self.batch_size = device, seed, batch_size
        self.half = AUTOCAST.get(precision)

    def __call__(
        self,
        images: NDArray[np.uint8],
        rows: NDArray[np.int64],
        augmentation: Augmentation | None = None,
        views: int = 1,
    ) -> NDArray[np.float16]:
        """Returns features [views * n, ...], mapped from disk, of the images in use, view after view.

        Args:
            images: uint8 [N, C, S, S].
            rows: which of them are in use, int64 [n].
            augmentation: drawn anew for every view; None leaves the images as they are.
            views: how many of each image.
        """
        root = make_cache_folder("features")
        path = root / f"{self._digest(images, rows, augmentation, views)}.npy"
        with FileLock(path.with_suffix(".lock")):
            features = _find(path)
            if features is None:
                remove_stale_temporaries(root, path.stem)
                log.info("computing features of %d images, %d views: done once, then kept", len(rows), views)
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
            for number, features in enumerate(self._compute(images, np.tile(rows, views), augmentation)):
                if number == 0:
                    shape = (views * len(rows), *features.shape[1:])
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(features.numpy().tobytes())

    @torch.inference_mode()
    def _compute(
        self, images: NDArray[np.uint8], rows: NDArray[np.int64], augmentation: Augmentation | None
    ) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        batches = np.array_split(rows, range(self.batch_size, len(rows), self.batch_size))
        console = Console(stderr=True)
        for batch in track(batches, "computing features", console=console, disable=not console.is_terminal):
            inputs = torch.from_numpy(images[batch]).to(self.device)
            inputs = augmentation(inputs.float() / 255, generator) if augmentation else inputs
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                features = self.frozen(inputs).half().cpu()
            if not features.isfinite().all():
                raise UserError("feature_views: features are larger than half precision holds; use feature_views=0")
            yield features

    def _digest(
        self, images: NDArray[np.uint8], rows: NDArray[np.int64], augmentation: Augmentation | None, views: int
    ) -> str:
        drawing = (augmentation, views, self.seed) if augmentation else None
        facts = (FORMAT, self.frozen, self.half, len(rows), images.shape[1:], drawing)
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
        for name, value in self.frozen.state_dict(keep_vars=True).items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        for batch in np.array_split(rows, range(HASHED_AT_ONCE, len(rows), HASHED_AT_ONCE)):
            digest.update(images[batch].tobytes())
        return digest.hexdigest()


def _open(path: Path) -> NDArray[np.float16]:
    features: NDArray[np.float16] = np.load(path, mmap_mode="c")
    return features


def _find(path: Path) -> NDArray[np.float16] | None:
    """Opens a file if it is there and whole; a machine that crashed may have left half of one."""
    try:
        return _open(path)
    except (OSError, EOFError, ValueError):
        return None
