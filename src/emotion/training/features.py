"""The output of the frozen part of a network, computed once and mapped from disk."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from emotion.data.augment import RandomAffine
from emotion.data.packed import cache_folder

FORMAT = 1
"""Goes up when the same settings would give other features."""
log = logging.getLogger(__name__)


class FeatureCache:
    """Features of images under a fixed function, in half precision.

    What was computed is found again by a hash of the function's weights and settings and of the pixels, so that it
    serves every run that shares both.

    Args:
        frozen: the fixed function, from uint8 or float images to features.
        device: where it runs.
        seed: of the random transforms.
        batch_size: images at a time.
    """

    def __init__(self, frozen: nn.Module, device: torch.device, seed: int = 0, batch_size: int = 256) -> None:
        self.frozen = frozen.eval().to(device)
        self.device, self.seed, self.batch_size = device, seed, batch_size

    def __call__(self, images: Tensor, affine: RandomAffine | None = None, views: int = 1) -> Tensor:
        """Returns features float16 [views * N, ...] of images uint8 [N, C, S, S], view after view.

        Args:
            images: the images.
            affine: random transform, drawn anew for every view; None leaves the images as they are.
            views: how many transforms of each image.
        """
        root = cache_folder() / "features"
        root.mkdir(parents=True, exist_ok=True)
        path = root / f"{self._digest(images, affine, views)}.npy"
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                log.info("computing features of %d images, %d views: done once, then kept", len(images), views)
                self._write(path, images, affine, views)
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    def _write(self, path: Path, images: Tensor, affine: RandomAffine | None, views: int) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            for number, features in enumerate(self._compute(images, affine, views)):
                if number == 0:
                    shape = (views * len(images), *features.shape[1:])
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(features.numpy().tobytes())
        os.replace(temporary, path)

    @torch.inference_mode()
    def _compute(self, images: Tensor, affine: RandomAffine | None, views: int) -> Iterator[Tensor]:
        generator = torch.Generator(self.device).manual_seed(self.seed)
        batches = [batch for _ in range(views) for batch in torch.split(images, self.batch_size)]
        console = Console(stderr=True)
        for batch in track(batches, "computing features", console=console, disable=not console.is_terminal):
            inputs = batch.to(self.device)
            inputs = affine(inputs.float() / 255, generator) if affine else inputs
            yield self.frozen(inputs).half().cpu()

    def _digest(self, images: Tensor, affine: RandomAffine | None, views: int) -> str:
        drawing = (affine, views, self.seed, self.device.type, self.batch_size) if affine else None
        digest = hashlib.blake2b(repr((FORMAT, self.frozen, tuple(images.shape), drawing)).encode(), digest_size=16)
        for name, value in self.frozen.state_dict(keep_vars=True).items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        digest.update(images.numpy().tobytes())
        return digest.hexdigest()
