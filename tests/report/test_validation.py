from __future__ import annotations

import csv
from pathlib import Path

import pytest

from emotion.analysis.document import Cell, Heading, Table
from emotion.analysis.exports import to_csv
from emotion.report.configurations import Configuration, group
from emotion.report.page import write_report
from emotion.report.validation import baseline, seed_differences, validation_blocks

from .conftest import MakeRun

SMALL = ("recipe=small", "width=24", "warmup_epochs=1")
VARIANTS = {"": 0.6, "flip=0": 0.58, "width=48": 0.62, "balance=class_weights": 0.5, "warmup_epochs=2 lr=0.02": 0.56}


@pytest.fixture
def ablation(make_run: MakeRun) -> list[Configuration]:
    """Variants of a recipe, two seeds each; the accuracy of each second seed is 0.02 higher."""
    runs = [
        make_run(
            *SMALL,
            *change.split(),
            f"seed={seed}",
            name=f"{change}{seed}",
            tested=False,
            accuracy=accuracy + 0.02 * seed,
        )
        for change, accuracy in VARIANTS.items()
        for seed in (0, 1)
    ]
    return group(runs)[0]


def tables(configurations: list[Configuration]) -> list[Table]:
    return [block for block in validation_blocks(configurations) if isinstance(block, Table)]


def note(row: tuple[Cell | str, ...]) -> str:
    assert isinstance(row[0], Cell)
    return row[0].note


def test_runs_are_compared_seed_by_seed_with_the_one_that_differs_least(ablation: list[Configuration]) -> None:
    base = baseline(ablation)
    # A variant that has the recipe's width differs less from the recipe than the baseline does.
    assert base.differences == {"width": "24", "warmup_epochs": "1"}
    assert base.first.settings["balance"] == "none"
    (wide,) = (configuration for configuration in ablation if "width" not in configuration.differences)
    difference = seed_differences(wide, base)
    assert difference is not None
    assert (difference.mean, difference.deviation) == pytest.approx((0.02, 0), abs=0.003)
    assert difference.count == 2


def test_the_best_comes_first_and_rows_name_only_changed_settings(ablation: list[Configuration]) -> None:
    (table,) = tables(ablation)
    assert [note(row) for row in table.rows] == [
        "width=48",
        "width=24, warmup_epochs=1",
        "flip=0",
        "lr=0.02, warmup_epochs=2",
        "balance=class_weights",
    ]
    expected = ["+2.0 ± 0.0", "baseline", "-2.0 ± 0.0", "-4.0 ± 0.0", "-10.0 ± 0.0"]
    assert [str(row[2]) for row in table.rows] == expected
    written = list(csv.DictReader(to_csv(table).splitlines()))
    assert [row["Difference"] for row in written if row["Difference"] != "baseline"] == ["2", "-2", "-4", "-10"]
    assert [row["Difference sd"] and round(float(row["Difference sd"]), 9) for row in written] == [0, "", 0, 0, 0]
    assert table.rows[0][4] == "seeds 0, 1"
    assert str(table.rows[0][5]).endswith("width=480")


def test_a_row_names_a_setting_that_changed_while_a_run_was_trained(make_run: MakeRun) -> None:
    change = {"changes": [{"after_epoch": 10, "changed": {"lr": [0.5, 0.1]}}]}
    runs = [
        make_run("recipe=small", f"flip={flip}", name=name, tested=False, record=record)
        for name, flip, record in (("a", 0.5, {}), ("b", 0.5, change), ("c", 0, {}))
    ]
    (table,) = tables(group(runs)[0])
    assert sorted(note(row) for row in table.rows) == ["", "", "lr until epoch 10=0.5"]
    assert sorted(row[0].text.split(", ")[-1] for row in table.rows) == ["flip=0", "flip=0.5", "flip=0.5"]


def test_runs_with_other_validation_images_have_a_separate_table(make_run: MakeRun) -> None:
    variants = {"plain": (), "no flip": ("flip=0",), "drawn": ("data=synthetic", "weights=none")}
    runs = [
        make_run("recipe=small", *arguments, name=name, tested=False, val_images=350 if name != "drawn" else 70)
        for name, arguments in variants.items()
    ]
    first, second = tables(group(runs)[0])
    assert sorted(len(table.rows) for table in (first, second)) == [1, 2]
    (drawn,) = min(first.rows, second.rows, key=len)
    assert note(drawn) == ""
    headings = [block.text for block in validation_blocks(group(runs)[0]) if isinstance(block, Heading)]
    assert headings == ["Validation: FER2013, split=official", "Validation: drawn faces, split=official"]


def test_without_a_seed_on_the_same_images_there_is_no_difference(make_run: MakeRun) -> None:
    other_seed = make_run("recipe=small", "flip=0", "seed=7", name="seed", tested=False)
    other_images = make_run("recipe=small", "erase=0", name="images", tested=False, val_images=70)
    base = make_run("recipe=small", name="base", tested=False)
    (first,), (seed,), (images,) = (group([run])[0] for run in (base, other_seed, other_images))
    assert seed_differences(seed, first) is None
    assert seed_differences(images, first) is None
    (table,) = tables(group([base, other_seed])[0])
    assert [row[2] for row in table.rows].count("") == 1


@pytest.mark.usefixtures("undrawn")
def test_the_page_separates_untested_from_tested_runs(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("recipe=small", name="runs/tested")
    make_run("recipe=small", "seed=1", name="runs/again", tested=False)
    make_run("recipe=small", "seed=1", "flip=0", name="runs/other", tested=False)
    write_report([tmp_path / "runs"], tmp_path / "page")
    before, after = (tmp_path / "page/report.md").read_text().split("## Validation results")
    assert "flip=0" in after
    assert "runs/again" in after
    for text in ("flip=0", "seed 1"):
        assert text not in before
    assert "## Calibration" in before


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_untested_runs_alone_has_no_published_tables(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("recipe=small", name="runs/alone", tested=False)
    write_report([tmp_path / "runs"], tmp_path / "page")
    text = (tmp_path / "page/report.md").read_text()
    assert "were not evaluated on the test images" in text
    assert "## Validation results" in text
    assert "## Table 1" not in text
    assert "## Calibration" not in text


def test_runs_with_other_classes_have_a_separate_table(make_run: MakeRun) -> None:
    runs = [
        make_run("recipe=small", name=str(number), tested=False, classes=classes)
        for number, classes in enumerate((("a", "b"), ("a", "c"), ("a", "b", "c")))
    ]
    blocks = validation_blocks(group(runs)[0])
    assert [block.text for block in blocks if isinstance(block, Heading)] == [
        "Validation: FER2013, split=official, 2 classes",
        "Validation: FER2013, split=official, 3 classes",
        "Validation: FER2013, split=official, 2 classes (2)",
    ]
    found = [block for block in blocks if isinstance(block, Table)]
    assert [len(table.rows) for table in found] == [1, 1, 1]
    assert len({table.name for table in found}) == 3


def test_folds_are_compared_fold_by_fold(make_run: MakeRun) -> None:
    runs = [
        make_run(
            "recipe=small",
            f"flip={flip}",
            name=f"{flip}{fold}",
            tested=False,
            accuracy=accuracy + fold / 10,
            prefix=f"{fold}/",
            changes={"folds": 2, "fold": fold},
        )
        for flip, accuracy in ((0, 0.5), (0.5, 0.54))
        for fold in (0, 1)
    ]
    configurations, _ = group(runs)
    assert [shown.folds for shown in configurations] == ["2 folds", "2 folds"]
    difference = seed_differences(configurations[1], configurations[0])
    assert difference is not None
    assert (abs(difference.mean), difference.deviation) == pytest.approx((0.04, 0), abs=0.003)
    assert difference.count == 2
