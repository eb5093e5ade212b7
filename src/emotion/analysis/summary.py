"""The report of a run: what was run, its figures, its classification report and its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion.analysis.document import Block, Document, Heading, Paragraph, Picture, Row, Table
from emotion.analysis.protocol import METRICS

MISSING = "—"
_SPLITS = ("val", "test", "val_tta", "test_tta")
_RESULTS = (
    ("Loss", "loss"),
    ("Accuracy", "acc"),
    ("Macro precision", "precision_macro"),
    ("Macro recall", "recall_macro"),
    ("Macro F1", "f1_macro"),
    ("Weighted precision", "precision_weighted"),
    ("Weighted recall", "recall_weighted"),
    ("Weighted F1", "f1_weighted"),
)
_RESULTS_NOTE = (
    "Macro: the mean over the classes that have images, each counting the same. "
    "Weighted: the mean over the same classes, each counting by its number of images. "
    "tta: the mean over several views of each image."
)
_PROTOCOL_NOTE = "NLL and ECE: after the temperature that the validation images fit. Duplicates are of training images."
_REPORT_NOTE = (
    "Precision: the share of the images predicted as a class that are of it. "
    "Recall: the share of a class's images that are found. "
    "F1: the harmonic mean of the two. Support: the number of images."
)


def run_document(
    title: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    pictures: Sequence[tuple[str, Path]],
    protocol: Iterable[tuple[str, str, int, Mapping[str, float]]] = (),
) -> Document:
    """Builds the report of a run.

    Args:
        title: The heading.
        facts: What was run, name to value: model, data, seed, epochs, hardware, command and the like.
        metrics: any of "val", "test", "val_tta", "test_tta", each to S. S holds "loss", "acc", "precision_macro",
            "recall_macro", "f1_macro", "precision_weighted", "recall_weighted", "f1_weighted" (floats), "num_images"
            (int) and "per_class", class name to {"precision", "recall", "f1" (floats in [0, 1]), "support" (int)}.
            A missing or not finite value shows as a dash.
        class_names: The classes in the order of the rows of the classification report.
        pictures: (caption, PNG file) pairs.
        protocol: see `emotion.analysis.protocol.protocol_rows`.
    """
    headline = _headline(metrics)
    blocks: list[Block] = [Paragraph(headline, lead=True)] if headline else []
    if facts:
        blocks += [Heading("Run"), Table(("Fact", "Value"), "ll", list(facts.items()))]
    if any(split in metrics for split in _SPLITS):
        blocks += [Heading("Results"), Paragraph(_RESULTS_NOTE), _results_table(metrics)]
    if "test" in metrics:
        blocks += [Heading("Classification report (test)"), Paragraph(_REPORT_NOTE)]
        blocks.append(class_table(metrics["test"], class_names))
    if rows := [_protocol_row(*row) for row in protocol]:
        blocks += [Heading("Held-out images"), Paragraph(_PROTOCOL_NOTE)]
        blocks.append(Table(("Views", "Images", "Number", *METRICS.values()), "llrrrrr", rows))
    if pictures:
        blocks += [Heading("Pictures"), *(Picture(caption, file) for caption, file in pictures)]
    return Document(title, blocks)


def class_table(scores: Mapping[str, Any], class_names: Sequence[str]) -> Table:
    """Builds a classification report: precision, recall, F1 and support of each class, then the averages.

    Args:
        scores: as S in `run_document`.
        class_names: The classes in the order of the rows.
    """
    per_class = scores.get("per_class", {})
    images = format_number(scores.get("num_images"), "d")
    accuracy = ("accuracy", "", "", format_number(scores.get("acc"), ".2f"), images)
    return Table(
        ("Class", "Precision", "Recall", "F1", "Support"),
        "lrrrr",
        [_class_row(name, per_class.get(name, {})) for name in class_names],
        footer=[accuracy, *(_average_row(scores, average, images) for average in ("macro", "weighted"))],
    )


def format_number(value: float | None, spec: str) -> str:
    """Formats a number, and one that is missing or not finite as a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return format(int(value) if spec.endswith("d") else float(value), spec)


def _headline(metrics: Mapping[str, Any]) -> str:
    for split in ("test", "val"):
        if split in metrics:
            scores = metrics[split]
            accuracy, f1 = format_number(scores.get("acc"), ".1%"), format_number(scores.get("f1_macro"), ".3f")
            images = format_number(scores.get("num_images"), ",d")
            return f"{split.capitalize()} accuracy {accuracy}, macro F1 {f1}, on {images} images."
    return ""


def _results_table(metrics: Mapping[str, Any]) -> Table:
    splits = [split for split in _SPLITS if split in metrics]
    rows = [(label, *(format_number(metrics[split].get(key), ".4f") for split in splits)) for label, key in _RESULTS]
    images = ("Images", *(format_number(metrics[split].get("num_images"), "d") for split in splits))
    return Table(("Metric", *splits), "l" + "r" * len(splits), rows, footer=[images])


def _protocol_row(views: str, part: str, images: int, figures: Mapping[str, float]) -> Row:
    return (views, part, format_number(images, ",d"), *(format_number(figures[name], ".4f") for name in METRICS))


def _class_row(name: str, scores: Mapping[str, Any]) -> Row:
    values = (format_number(scores.get(key), ".2f") for key in ("precision", "recall", "f1"))
    return (name, *values, format_number(scores.get("support"), "d"))


def _average_row(scores: Mapping[str, Any], average: str, images: str) -> Row:
    values = (format_number(scores.get(f"{key}_{average}"), ".2f") for key in ("precision", "recall", "f1"))
    return (f"{average} avg", *values, images)
