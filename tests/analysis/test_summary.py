"""Tests of the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emotion.analysis.document import Document, Heading, ImageBlock, Paragraph, Table
from emotion.analysis.summary import run_document

NAMES = ("angry", "happy")
FACTS = {"Model": "resnet18", "Command": "train.py lr=1e-3 trainer.max_epochs=3"}


def scores(**changes: Any) -> dict[str, Any]:
    values = {
        "loss": 1.23456,
        "acc": 0.61,
        "precision_macro": 0.62,
        "recall_macro": 0.63,
        "f1_macro": 0.64,
        "precision_weighted": 0.65,
        "recall_weighted": 0.66,
        "f1_weighted": 0.67,
        "balanced_acc": 0.63,
        "num_images": 3589,
        "per_class": {
            "happy": {"precision": 0.875, "recall": 0.9, "f1": 0.886, "support": 3000},
            "angry": {"precision": 0.5, "recall": 0.4, "f1": 0.444, "support": 589},
        },
    }
    return {**values, **changes}


METRICS = {"val": scores(acc=0.71, loss=0.5, num_images=100), "test": scores()}


def tables(document: Document) -> list[list[tuple[str, ...]]]:
    found = [block for block in document.blocks if isinstance(block, Table)]
    return [[tuple(row) for row in (table.header, *table.rows, *table.footer)] for table in found]


def headings(document: Document) -> list[str]:
    return [block.text for block in document.blocks if isinstance(block, Heading)]


def test_headline_comes_first() -> None:
    document = run_document("resnet18 on FER2013", FACTS, METRICS, NAMES, [])
    assert document.title == "resnet18 on FER2013"
    assert document.blocks[0] == Paragraph("Test accuracy 61.0%, macro F1 0.640, on 3,589 images.", lead=True)


def test_tables_hold_facts_results_and_classification_report() -> None:
    document = run_document("run", FACTS, METRICS, NAMES, [])
    assert headings(document) == ["Run", "Results", "Classification report (test)"]
    assert tables(document) == [
        [("Fact", "Value"), ("Model", "resnet18"), ("Command", "train.py lr=1e-3 trainer.max_epochs=3")],
        [
            ("Metric", "val", "test"),
            ("Loss", "0.5000", "1.2346"),
            ("Accuracy", "0.7100", "0.6100"),
            ("Macro precision", "0.6200", "0.6200"),
            ("Macro recall", "0.6300", "0.6300"),
            ("Macro F1", "0.6400", "0.6400"),
            ("Weighted precision", "0.6500", "0.6500"),
            ("Weighted recall", "0.6600", "0.6600"),
            ("Weighted F1", "0.6700", "0.6700"),
            ("Images", "100", "3589"),
        ],
        [
            ("Class", "Precision", "Recall", "F1", "Support"),
            ("angry", "0.50", "0.40", "0.44", "589"),
            ("happy", "0.88", "0.90", "0.89", "3000"),
            ("accuracy", "", "", "0.61", "3589"),
            ("macro avg", "0.62", "0.63", "0.64", "3589"),
            ("weighted avg", "0.65", "0.66", "0.67", "3589"),
        ],
    ]


def test_averages_stay_below_the_classes_when_sorted() -> None:
    report = [block for block in run_document("run", {}, METRICS, NAMES, []).blocks if isinstance(block, Table)][-1]
    assert [row[0] for row in report.footer] == ["accuracy", "macro avg", "weighted avg"]


def test_missing_splits_are_left_out() -> None:
    only_val = run_document("run", FACTS, {"val": METRICS["val"]}, NAMES, [])
    assert headings(only_val) == ["Run", "Results"]
    assert tables(only_val)[1][0] == ("Metric", "val")
    assert only_val.blocks[0] == Paragraph("Val accuracy 71.0%, macro F1 0.640, on 100 images.", lead=True)
    assert run_document("run", {}, {}, NAMES, []) == Document("run", [])


def test_test_time_augmentation_has_columns_of_its_own() -> None:
    metrics = {"test_tta": scores(acc=0.625), "val_tta": scores(acc=0.725), **METRICS}
    document = run_document("run", FACTS, metrics, NAMES, [])
    results, report = tables(document)[1:]
    assert results[0] == ("Metric", "val", "test", "val_tta", "test_tta")
    assert results[2] == ("Accuracy", "0.7100", "0.6100", "0.7250", "0.6250")
    assert results[-1] == ("Images", "100", "3589", "3589", "3589")
    assert all(len(row) == 5 for row in results)
    assert tables(run_document("run", FACTS, METRICS, NAMES, []))[2] == report
    assert document.blocks[0] == Paragraph("Test accuracy 61.0%, macro F1 0.640, on 3,589 images.", lead=True)
    notes = " ".join(block.text for block in document.blocks if isinstance(block, Paragraph))
    assert "tta: with test-time augmentation" in notes


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_values_that_are_no_finite_number_show_as_a_dash(value: float | None) -> None:
    results, report = tables(run_document("run", {}, {"test": scores(loss=value, per_class={})}, NAMES, []))
    assert ("Loss", "—") in results
    assert ("angry", "—", "—", "—", "—") in report


def test_figures_come_last() -> None:
    document = run_document("run", FACTS, METRICS, NAMES, [("Learning curves", Path("curves.png"))])
    assert list(document.blocks[-2:]) == [Heading("Figures"), ImageBlock("Learning curves", Path("curves.png"))]


def test_the_headline_counts_one_image_and_ends_with_the_caution() -> None:
    document = run_document("run", {}, {"test": scores(num_images=1)}, NAMES, [], caution="Too high.")
    assert document.blocks[0] == Paragraph("Test accuracy 61.0%, macro F1 0.640, on 1 image. Too high.", lead=True)
