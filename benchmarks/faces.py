"""The images that all contestants read: a subset of FER2013 or drawn faces, as class folders of JPEG files."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.data.synthetic import MIN_IMAGES
from emotion.errors import UserError
from emotion.settings import DataSettings

DataName = Literal["fer2013", "synthetic"]


def write_folders(root: Path, data: DataName, data_dir: Path, images: int) -> dict[str, int]:
    """Writes `train/<class>/`, `val/<class>/` and, since our loader needs it, `test/<class>/` with one image each.

    Args:
        root: the folder to fill.
        data: the source; the classes keep their shares.
        data_dir: the folder of FER2013.
        images: number of training images; a quarter of it is the number of validation images.

    Returns:
        The number of images of each part.

    Raises:
        UserError: the source has too few images, or `images` is too small for one image of each class.
    """
    parts = {"train": images, "val": images // 4, "test": len(CLASSES)}
    drawn = max(3 * sum(parts.values()), MIN_IMAGES)
    packed = EmotionDataModule(DataSettings(data=data, data_dir=str(data_dir), synthetic_images=drawn)).packed
    # Accuracies on these images may choose settings, so none of them is a test image.
    rows = np.random.default_rng(0).permutation(np.flatnonzero(packed.parts == "train"))
    for part, size in parts.items():
        chosen = _choose(packed.labels[rows], size)
        for row in rows[chosen]:
            path = root / part / CLASSES[packed.labels[row]] / f"{row}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(packed.images[row, 0]).save(path)
        rows = np.delete(rows, chosen)
    return parts


def _choose(labels: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Returns the indices int64 [size] of images whose classes have the shares of `labels`, but one image at least."""
    available = np.bincount(labels, minlength=len(CLASSES))  # [K]
    counts = np.maximum(1, size * available // len(labels))
    counts[counts.argmax()] += size - counts.sum()
    if (counts < 1).any() or (counts > available).any():
        raise UserError(f"images: {size} of {len(labels)} cannot be chosen with one of each class: give another number")
    return np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(counts)])
