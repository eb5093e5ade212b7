"""The report of a run: its settings, metrics, classification report and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion.analysis.document import Block, Document, Heading, ImageBlock, Paragraph, Row, Table
from emotion.analysis.protocol import METRICS
from emotion.data.classes import count_images

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
    "Macro: the mean over the classes that have images, with equal weights. "
    "Weighted: the mean over the same classes, weighted by their numbers of images. "
    "tta: with test-time augmentation, the mean over several views of each image."
)
_PROTOCOL_NOTE = (
    "NLL and ECE: at the temperature fitted on the validation images. "
    "Without duplicates: without the images that are pixel-identical to one of the training part."
)
_REPORT_NOTE = (
    "Precision: the share of the images predicted as a class that belong to it. "
    "Recall: the share of a class's images that are predicted as this class. "
    "F1: the harmonic mean of precision and recall. Support: the number of images."
)


def run_document(
    title: str,
    facts: Mapping[str, str],
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    figures: Sequence[tuple[str, Path]],
    protocol: Iterable[tuple[str, str, int, Mapping[str, float]]] = (),
    sections: Mapping[str, Sequence[Block]] | None = None,
    caution: str = "",
) -> Document:
    """Builds the report of a run.

    Args:
        title: the heading.
        facts: model, data, seed, epochs, hardware, command and the like, by name.
        metrics: the metrics of any of "val", "test", "val_tta", "test_tta", as `Predictions.metrics` returns them.
            Metrics that are missing or not finite are shown as a dash.
        class_names: the classes in the order of the rows of the classification report.
        figures: (caption, PNG file) pairs.
        protocol: rows of `emotion.analysis.protocol.protocol_rows`.
        sections: further blocks by their heading, before the figures; None for none.
        caution: sentence after the headline that limits what it says.
    """
    headline = " ".join(filter(None, (_headline(metrics), caution)))
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
        header = ("Test-time augmentation", "Images", "Number", *METRICS.values())
        blocks.append(Table(header, "llrrrrr", rows))
    for heading, content in (sections or {}).items():
        blocks += [Heading(heading), *content]
    if figures:
        blocks += [Heading("Figures"), *(ImageBlock(caption, file) for caption, file in figures)]
    return Document(title, blocks)


def class_table(scores: Mapping[str, Any], class_names: Sequence[str]) -> Table:
    """Builds a classification report: precision, recall, F1 and support of each class, then the averages.

    Args:
        scores: metrics as `Predictions.metrics` returns them.
        class_names: the classes in the order of the rows.
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
    """Returns a number in a format; a number that is missing or not finite becomes a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return format(int(value) if spec.endswith("d") else float(value), spec)


def _headline(metrics: Mapping[str, Any]) -> str:
    for split in ("test", "val"):
        if split in metrics:
            scores = metrics[split]
            accuracy, f1 = format_number(scores.get("acc"), ".1%"), format_number(scores.get("f1_macro"), ".3f")
            images = count_images(scores["num_images"]) if "num_images" in scores else f"{MISSING} images"
            return f"{split.capitalize()} accuracy {accuracy}, macro F1 {f1}, on {images}."
    return ""


def _results_table(metrics: Mapping[str, Any]) -> Table:
    splits = [split for split in _SPLITS if split in metrics]
    rows = [(label, *(format_number(metrics[split].get(key), ".4f") for split in splits)) for label, key in _RESULTS]
    images = ("Images", *(format_number(metrics[split].get("num_images"), "d") for split in splits))
    return Table(("Metric", *splits), "l" + "r" * len(splits), rows, footer=[images])


def _protocol_row(views: str, part: str, images: int, metrics: Mapping[str, float]) -> Row:
    return (views, part, format_number(images, ",d"), *(format_number(metrics[name], ".4f") for name in METRICS))


def _class_row(name: str, scores: Mapping[str, Any]) -> Row:
    absent = ("recall", "f1") if scores.get("support") == 0 else ()  # a class without images has neither
    keys = ("precision", "recall", "f1")
    values = (format_number(None if key in absent else scores.get(key), ".2f") for key in keys)
    return (name, *values, format_number(scores.get("support"), "d"))


def _average_row(scores: Mapping[str, Any], average: str, images: str) -> Row:
    values = (format_number(scores.get(f"{key}_{average}"), ".2f") for key in ("precision", "recall", "f1"))
    return (f"{average} avg", *values, images)
