"""Sources of labelled images by name: FER2013, class folders, tables, synthetic faces.

`emotion.data.packed` iterates over a source once; the order of its images is fixed.
"""

import inspect
import os
from collections import Counter
from collections.abc import Iterator
from typing import assert_never

import numpy as np

from emotion.data import synthetic
from emotion.data.classes import AUTO, CLASSES, ClassRule, Others
from emotion.data.decode import BadImageError
from emotion.data.fer_csv import Fer2013Csv
from emotion.data.folders import Fer2013Folders, FolderSource
from emotion.data.labelled import LabelledImage, Source, digest
from emotion.data.table import TableSource
from emotion.errors import UserError
from emotion.files import expand
from emotion.settings import FER_SIZE, OWN_DATA, DataSettings


class SyntheticFaces(Source):
    """Synthetic faces, drawn while iterating, with FER2013's parts and class imbalance.

    Args:
        num_images: number of images in all parts together, those that the rule leaves out included.
        seed: seed of the drawing; it is not the seed of a run, so that runs of all seeds share the images.
        rule: which classes are used; `auto` means the seven. Classes that it skips are named in the log.

    Raises:
        UserError: fewer than `emotion.data.synthetic.MIN_IMAGES` images, or the rule refuses one of the seven classes.
    """

    def __init__(self, num_images: int, seed: int = 0, rule: ClassRule = AUTO) -> None:
        try:
            self.labels, self.parts = synthetic.draw_labels(num_images, seed)
        except ValueError as error:
            raise UserError(f"synthetic_images={num_images}: {error}") from None
        self.seed = seed
        classes = self._apply(rule.of_seven(), dict.fromkeys(CLASSES, "data=synthetic"))
        self._ids = [classes.ids[name] for name in CLASSES]
        self._leave_out(classes, Counter(CLASSES[label] for label in self.labels.tolist()), "data=synthetic")

    @property
    def location(self) -> str:
        """Seed and number of the images."""
        return f"seed {self.seed}, {len(self.labels)} images"

    def stamp(self) -> object:
        """Returns a hash of the drawing code, since a change of the code may change the images of a seed."""
        return digest(inspect.getsource(synthetic))

    def __len__(self) -> int:
        return sum(self._ids[label] is not None for label in self.labels.tolist())

    def __iter__(self) -> Iterator[LabelledImage | BadImageError]:
        for index, (drawn, part) in enumerate(zip(self.labels.tolist(), self.parts.tolist(), strict=True)):
            label = self._ids[drawn]
            if label is not None:
                pixels = synthetic.draw_image(drawn, self.seed, index)[np.newaxis]
                yield LabelledImage(pixels, label, part, f"drawn/{part}/{CLASSES[drawn]}_{index}")


def open_source(settings: DataSettings, others: Others = "error", *, guess: bool = True) -> Source:
    """Opens the source that the settings name; see `ClassRule` for labels that are none of its classes, and numbers.

    Raises:
        UserError: the source is missing or unusable, or has labels that are none of the classes; the message names the
            alternatives.
    """
    rule = ClassRule(settings.classes, settings.exclude, others, guess=guess)
    if settings.data == "synthetic":
        return SyntheticFaces(settings.synthetic_images, rule=rule)
    path = expand(settings.data_dir or os.environ.get("EMOTION_DATA") or "data/fer2013")
    if settings.data in OWN_DATA and settings.data_dir and not path.exists():
        raise UserError(f"data_dir={settings.data_dir}: no such folder or file")
    if not path.exists():
        raise UserError(
            f"data_dir: nothing at {path}; download FER2013 with `emotion data fetch`, name its path with "
            "data_dir=<path> or EMOTION_DATA, or use drawn faces with data=synthetic"
        )
    match settings.data:
        case "fer2013":
            return Fer2013Folders(path, rule)
        case "fer2013_csv":
            return Fer2013Csv(path, rule)
        case "folder":
            return FolderSource(path, settings.pack_size or FER_SIZE, settings.channels or 1, rule)
        case "table":
            return TableSource(path, settings, rule)
        case _:
            assert_never(settings.data)
