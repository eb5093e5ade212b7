"""What is shown of a configuration: how it was run, and the pictures of its first seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from emotion.analysis.calibration import fit_temperature, reliability_figure
from emotion.analysis.document import Block, Paragraph, Picture, Table
from emotion.analysis.figures import confusion_matrix_figure, mistakes_figure, save
from emotion.analysis.gradcam import heatmap_figure, heatmaps
from emotion.analysis.predictions import Predictions, confident_mistakes, examples_per_class
from emotion.analysis.summary import class_table
from emotion.config import check
from emotion.data.classes import CLASSES
from emotion.data.datamodule import SOURCE_SETTINGS, EmotionDataModule
from emotion.data.packed import PackedImages
from emotion.errors import UserError, first_line
from emotion.files import atomic_write
from emotion.report.configurations import Configuration
from emotion.report.runs import Run
from emotion.training.checkpoint import load_checkpoint

SHOWN_MISTAKES = 16
EXPLAINED_MISTAKES = 8
MAX_PIXELS = 10_000_000
"""More than any picture that a run draws."""
_CONFUSED = [CLASSES.index("neutral"), CLASSES.index("sad")]


def configuration_blocks(ours: Configuration, folder: Path) -> list[Block]:
    """Builds the section of a configuration and writes its pictures.

    Args:
        ours: the configuration.
        folder: where the pictures go.
    """
    album = Album(folder, f"{ours.number:02d}")
    run = ours.first
    facts = [
        ("Differs from the recipe", ours.subtitle or "in nothing"),
        ("Folders", ", ".join(str(run.folder.path) for run in ours.runs)),
        ("Command", run.record.command),
    ]
    blocks: list[Block] = [Table(("Fact", "Value"), "ll", facts)]
    if len(ours.runs) > 1:
        blocks.append(Paragraph(f"Shown from here on: seed {run.seed}."))
    blocks += [class_table(ours.test_scores[0], CLASSES), _curves(run, album)]
    matrix = confusion_matrix_figure(run.test.matrix(), CLASSES)
    blocks.append(album.draw("Confusion matrix, test images", "confusion", matrix))
    reliability = reliability_figure(run.test, fit_temperature(run.val))
    blocks.append(album.draw("Reliability before and after the temperature, test images", "reliability", reliability))
    return [*blocks, *_image_blocks(run, album)]


class Album:
    """Where the pictures of a configuration go.

    Args:
        folder: it is made if missing.
        prefix: of the file names.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def path(self, name: str) -> Path:
        """Returns the file of a picture."""
        return self.folder / f"{self.prefix}-{name}.png"

    def draw(self, caption: str, name: str, figure: Figure) -> Picture:
        """Writes a figure."""
        save(figure, self.path(name))
        return self.add(caption, name, self.path(name))

    def add(self, caption: str, name: str, file: Path) -> Picture:
        """Writes a copy of a PNG file in 256 colours, which takes a quarter of the space.

        Raises:
            UserError: not a PNG file, or one of more than `MAX_PIXELS`.
        """
        try:
            with Image.open(file, formats=["PNG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
                small = image.convert("RGB").quantize()
        except Exception as error:
            # A damaged file can make the reader raise anything.
            raise UserError(f"{file} cannot be read ({first_line(error)})") from None
        with atomic_write(self.path(name)) as temporary:
            small.save(temporary)
        return Picture(caption, self.path(name))


def _curves(run: Run, album: Album) -> Block:
    """Takes the learning curves that the run drew of itself."""
    drawn = run.folder.path / "curves.png"
    if not drawn.is_file():
        return Paragraph("The learning curves were not kept with this run (curves.png is missing).")
    try:
        return album.add("Learning curves", "curves", drawn)
    except UserError as error:
        return Paragraph(f"The learning curves are not shown: {error}.")


def _image_blocks(run: Run, album: Album) -> list[Block]:
    """Shows test images; without them, says what is missing."""
    try:
        packed = _images(run.settings)
        gallery = _gallery(run, packed, album)
    except UserError as error:
        return [Paragraph(f"No images are shown, since the data is not at hand: {error}")]
    try:
        return [gallery, *_heatmaps(run, packed, album)]
    except UserError as error:
        return [gallery, Paragraph(f"No heatmaps are shown: {error}")]


def _gallery(run: Run, packed: PackedImages, album: Album) -> Picture:
    shown = run.test.subset(mistakes(run.test, SHOWN_MISTAKES))
    actual, predicted = ([CLASSES[label] for label in labels] for labels in (shown.labels, shown.predicted))
    figure = mistakes_figure(_pick(packed, shown.ids), actual, predicted, shown.probabilities.max(1).tolist())
    return album.draw("The most confident mistakes, neutral against sad first", "mistakes", figure)


def _heatmaps(run: Run, packed: PackedImages, album: Album) -> list[Block]:
    """Draws what spoke for the predicted class: in an image of each class, and in mistakes."""
    if not run.folder.best.is_file():
        raise UserError(f"the checkpoint was not kept with this run ({run.folder.best} is missing)")
    network = load_checkpoint(run.folder.best).task.inference_network
    right, wrong = examples_per_class(run.test), mistakes(run.test, EXPLAINED_MISTAKES)
    shown = {
        "classes": ("Grad-CAM (HiResCAM): the surest right answer of each class", right),
        "explained-mistakes": ("Grad-CAM (HiResCAM): mistakes, for the predicted class", wrong),
    }
    blocks: list[Block] = []
    for name, (caption, rows) in shown.items():
        test = run.test.subset(rows)
        images = _pick(packed, test.ids)
        figure = heatmap_figure(images, heatmaps(network, images, test.predicted), _titles(test))
        blocks.append(album.draw(caption, name, figure))
    return blocks


def _titles(test: Predictions) -> list[str]:
    answers = [(CLASSES[actual], CLASSES[told]) for actual, told in zip(test.labels, test.predicted, strict=True)]
    return [actual if actual == told else f"actual: {actual}\npredicted: {told}" for actual, told in answers]


def mistakes(test: Predictions, count: int) -> NDArray[np.int64]:
    """Returns the rows int64 [n] of the most confident mistakes: first neutral taken for sad or the reverse.

    Those two, which the report found hardest to tell apart, fill at most half of the places.
    """
    wrong = confident_mistakes(test, len(test))
    between = np.isin(test.labels[wrong], _CONFUSED) & np.isin(test.predicted[wrong], _CONFUSED)
    front = wrong[between][: count // 2]
    return np.concatenate([front, wrong[~np.isin(wrong, front)]])[:count]


def _images(settings: Mapping[str, Any]) -> PackedImages:
    source = {key: settings[key] for key in SOURCE_SETTINGS if key in settings}
    check(source)
    try:
        return _packed(tuple(source.items()))
    except (OSError, RuntimeError) as error:
        # A run of another machine can name places that mean nothing here, as the home of somebody else.
        raise UserError(first_line(error)) from None


@lru_cache
def _packed(source: tuple[tuple[str, Any], ...]) -> PackedImages:
    return EmotionDataModule(**dict(source)).packed


def _pick(packed: PackedImages, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.uint8]:
    """Returns the images of some names, uint8 [n, C, S, S].

    Raises:
        UserError: the data has no image of such a name.
    """
    rows = {name: row for row, name in enumerate(packed.names.tolist())}
    missing = [name for name in ids if str(name) not in rows]
    if missing:
        raise UserError(f"{missing[0]} is not among its {len(packed)} images")
    return np.asarray(packed.images[[rows[str(name)] for name in ids]])
