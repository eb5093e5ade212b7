"""The section of a configuration on the page: its settings, and the figures of its first seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from emotion.analysis.calibration import fit_temperature, reliability_figure
from emotion.analysis.document import Block, ImageBlock, Paragraph, Table
from emotion.analysis.figures import confusion_matrix_figure, curves_figure, mistakes_figure, save, short_name
from emotion.analysis.gradcam import heatmap_figure, heatmaps
from emotion.analysis.predictions import Predictions, confident_mistakes, examples_per_class
from emotion.analysis.summary import class_table
from emotion.data.datamodule import SOURCE_SETTINGS, EmotionDataModule
from emotion.data.packed import PackedImages
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, expand
from emotion.report.commands import repeated_command
from emotion.report.configurations import Configuration
from emotion.report.runs import Run
from emotion.settings import OWN_DATA
from emotion.training.checkpoint import load_checkpoint

SHOWN_MISTAKES = 16
EXPLAINED_MISTAKES = 8
EXPLAINED_CLASSES = 32
_FOLDS = (
    "{folds}. The table and the confusion matrix count the held-out images of all folds of seed {seed} together. The "
    "other figures are those of fold {fold}."
)
_CONFUSED = ("neutral", "sad")
"""The two classes that the paper found hardest to tell apart; shown first where the data has both."""


def configuration_blocks(configuration: Configuration, folder: Path) -> list[Block]:
    """Builds the section of a configuration and writes its figures.

    Args:
        configuration: the configuration to show.
        folder: the folder for the figures.
    """
    album = Album(folder, f"{configuration.number:02d}")
    run = configuration.first
    facts = [
        ("Differs from the recipe", configuration.subtitle or "in nothing"),
        ("Folders", ", ".join(str(run.folder.path) for run in configuration.runs)),
        *([("Teachers", "; ".join(run.record.teachers))] if run.record.teachers else []),
        ("Command", repeated_command(configuration)),
    ]
    blocks: list[Block] = [Table(("Fact", "Value"), "ll", facts)]
    if configuration.folds:
        blocks.append(Paragraph(_FOLDS.format(folds=configuration.folds, seed=run.seed, fold=run.fold)))
    elif len(configuration.runs) > 1:
        blocks.append(Paragraph(f"The following tables and figures are those of seed {run.seed}."))
    pooled = configuration.pooled[0]
    blocks += [_classes(configuration, pooled, album), _curves(configuration, album)]
    matrix = confusion_matrix_figure(pooled.matrix(), pooled.classes)
    blocks.append(album.draw("Confusion matrix, test images", "confusion", matrix))
    reliability = reliability_figure(run.test, fit_temperature(run.val))
    blocks.append(album.draw("Reliability before and after the temperature, test images", "reliability", reliability))
    return [*blocks, *_image_blocks(run, album)]


def _classes(configuration: Configuration, predictions: Predictions, album: Album) -> Table:
    table = class_table(predictions.metrics(), predictions.classes)
    caption = f"Classification report on the test images: {configuration.title}, seed {configuration.first.seed}."
    return replace(table, name=f"{album.prefix}-classes", caption=caption)


class Album:
    """The image files of a configuration.

    Args:
        folder: the folder for the files, made if missing.
        prefix: start of the file names.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def path(self, name: str) -> Path:
        """Returns the path of an image."""
        return self.folder / f"{self.prefix}-{name}.png"

    def draw(self, caption: str, name: str, figure: Figure) -> ImageBlock:
        """Writes a figure as PNG with 256 colours, in which it needs a quarter of the space, and returns its block."""
        save(figure, self.path(name))
        with Image.open(self.path(name)) as image:
            quantized = image.convert("RGB").quantize()
        with atomic_write(self.path(name)) as temporary:
            quantized.save(temporary)
        return ImageBlock(caption, self.path(name))


def _curves(configuration: Configuration, album: Album) -> Block:
    """Draws the learning curves of the first run, or returns a paragraph with the reason why there are none."""
    run, published = configuration.first, configuration.published
    if not run.history:
        return Paragraph("No learning curves are shown: the run has no logs that can be read.")
    compared = published.test if published and not configuration.not_comparable_because else None
    figure = curves_figure(run.history, run.record.best_epoch, compared)
    return album.draw("Learning curves", "curves", figure)


def _image_blocks(run: Run, album: Album) -> list[Block]:
    """Returns figures of test images, or a paragraph with the reason why there are none."""
    try:
        packed = _images(run.settings)
        gallery = _gallery(run, packed, album)
    except UserError as error:
        return [Paragraph(f"No images are shown, since the data is missing: {error}")]
    try:
        return [gallery, *_heatmaps(run, packed, album)]
    except UserError as error:
        return [gallery, Paragraph(f"No heatmaps are shown: {error}")]


def _gallery(run: Run, packed: PackedImages, album: Album) -> ImageBlock:
    shown = run.test.subset(mistakes(run.test, SHOWN_MISTAKES))
    actual, predicted = ([shown.classes[label] for label in ids] for ids in (shown.labels, shown.predicted))
    figure = mistakes_figure(_select(packed, shown.ids), actual, predicted, shown.probabilities.max(1).tolist())
    order = f", {' against '.join(_CONFUSED)} first" if _confused(run.test) else ""
    return album.draw(f"The most confident mistakes{order}", "mistakes", figure)


def _heatmaps(run: Run, packed: PackedImages, album: Album) -> list[Block]:
    """Draws heatmaps for the predicted class: of a correct prediction of each class, and of mistakes."""
    if not run.folder.best.is_file():
        raise UserError(f"{run.folder.best}: the checkpoint is missing")
    network = load_checkpoint(run.folder.best).task.inference_network
    correct, wrong = examples_per_class(run.test), mistakes(run.test, EXPLAINED_MISTAKES)
    which = "each class" if len(correct) <= EXPLAINED_CLASSES else f"the first {EXPLAINED_CLASSES} classes"
    shown = {
        "classes": (
            f"Grad-CAM (HiResCAM): the most confident correct prediction of {which}",
            correct[:EXPLAINED_CLASSES],
        ),
        "explained-mistakes": ("Grad-CAM (HiResCAM): mistakes, for the predicted class", wrong),
    }
    blocks: list[Block] = []
    for name, (caption, rows) in shown.items():
        test = run.test.subset(rows)
        images = _select(packed, test.ids)
        figure = heatmap_figure(images, heatmaps(network, images, test.predicted), _titles(test))
        blocks.append(album.draw(caption, name, figure))
    return blocks


def _titles(test: Predictions) -> list[str]:
    names = [short_name(name, 28) for name in test.classes]
    pairs = [(names[label], names[predicted]) for label, predicted in zip(test.labels, test.predicted, strict=True)]
    return [
        actual if actual == predicted else f"actual: {actual}\npredicted: {predicted}" for actual, predicted in pairs
    ]


def mistakes(test: Predictions, count: int) -> NDArray[np.int64]:
    """Returns the rows, int64 [n], of the most confident mistakes, with confusions of neutral and sad first.

    These confusions, which the paper found to be the hardest, are at most half of the rows. Data without both classes
    has none.
    """
    wrong = confident_mistakes(test, len(test))
    classes = _confused(test)
    confused = np.isin(test.labels[wrong], classes) & np.isin(test.predicted[wrong], classes)
    front = wrong[confused][: count // 2]
    return np.concatenate([front, wrong[~np.isin(wrong, front)]])[:count]


def _confused(test: Predictions) -> list[int]:
    """Returns the ids of `_CONFUSED`, none if the data lacks one of them."""
    known = set(_CONFUSED) <= set(test.classes)
    return [test.classes.index(name) for name in _CONFUSED] if known else []


def _images(settings: Mapping[str, Any]) -> PackedImages:
    source = {key: settings[key] for key in SOURCE_SETTINGS if key in settings}
    try:
        folder = settings.get("data_dir") if settings["data"] in OWN_DATA else None
        if folder and not expand(folder).exists():
            raise UserError(f"{folder}: no such folder or file on this machine")
        return _packed(json.dumps(source))
    except (OSError, RuntimeError) as error:
        # A run of another machine can name paths that are invalid here, for example another user's home folder.
        raise UserError(first_line(error)) from None


@lru_cache
def _packed(source: str) -> PackedImages:
    return EmotionDataModule.of(json.loads(source)).packed


def _select(packed: PackedImages, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.uint8]:
    """Returns the images with some names, uint8 [n, C, S, S].

    Raises:
        UserError: the data has no image with one of the names.
    """
    rows = {name: row for row, name in enumerate(packed.names.tolist())}
    missing = [name for name in ids if str(name) not in rows]
    if missing:
        raise UserError(f"{missing[0]}: not among the {len(packed)} images of the data")
    return np.asarray(packed.images[[rows[str(name)] for name in ids]])
