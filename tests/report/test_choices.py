from __future__ import annotations

from pathlib import Path

import pytest

from emotion.analysis.document import Heading, Table
from emotion.report.choices import base_of, choice_blocks, seed_differences
from emotion.report.configurations import Configuration, group
from emotion.report.page import write_report

from .conftest import MakeRun

SMALL = ("recipe=small", "width=24")
VARIANTS = {"": 0.6, "flip=0": 0.58, "mixup=0.2": 0.62, "balance=class_weights": 0.5}


@pytest.fixture
def ablation(make_run: MakeRun) -> list[Configuration]:
    """Four variants of a recipe, two seeds each; the second seed of all has 0.02 more."""
    runs = [
        make_run(
            *SMALL,
            *word.split(),
            f"seed={seed}",
            name=f"{word or 'base'}{seed}",
            tested=False,
            accuracy=accuracy + 0.02 * seed,
        )
        for word, accuracy in VARIANTS.items()
        for seed in (0, 1)
    ]
    return group(runs)[0]


def test_others_are_compared_with_the_one_that_changes_least_seed_by_seed(ablation: list[Configuration]) -> None:
    base = base_of(ablation)
    assert base.differences == {"width": "24"}
    assert base.first.settings["balance"] == "none"
    (mixed,) = (one for one in ablation if "mixup" in one.differences)
    difference = seed_differences(mixed, base)
    assert difference is not None
    assert (difference.mean, difference.deviation) == pytest.approx((0.02, 0), abs=0.003)
    assert difference.count == 2


def test_the_best_comes_first_and_what_all_share_is_said_once(ablation: list[Configuration]) -> None:
    paragraph, table = choice_blocks(ablation)
    assert isinstance(table, Table)
    assert "All have width=24." in paragraph.text  # type: ignore[union-attr]
    assert [row[0].note for row in table.rows] == ["mixup=0.2", "", "flip=0", ""]  # type: ignore[union-attr]
    assert [row[2] for row in table.rows] == ["+2.0 ± 0.0", "", "-2.0 ± 0.0", "-10.0 ± 0.0"]
    assert "class weights" in table.rows[3][0].text  # type: ignore[union-attr]
    assert table.rows[0][4] == "seeds 0, 1"


def test_without_a_shared_seed_there_is_no_difference(make_run: MakeRun) -> None:
    runs = [
        make_run(*SMALL, name="base", tested=False),
        make_run(*SMALL, "flip=0", "seed=7", name="other", tested=False),
    ]
    base, other = group(runs)[0]
    assert seed_differences(other, base) is None
    assert choice_blocks([base, other])[1].rows[1][2] == ""  # type: ignore[union-attr]


def test_the_page_keeps_them_apart_from_tested_runs(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("recipe=small", name="runs/tested")
    make_run("recipe=small", "seed=1", name="runs/choosing", tested=False)
    make_run("recipe=small", "seed=1", "flip=0", name="runs/other", tested=False)
    write_report([tmp_path / "runs"], tmp_path / "page")
    text = (tmp_path / "page/report.md").read_text()
    assert "## What validation prefers" in text
    before, after = text.split("## What validation prefers")
    assert "flip=0" in after
    assert "flip=0" not in before
    assert "seed 0" in before


def test_a_page_of_choices_alone(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("recipe=small", name="runs/choosing", tested=False)
    write_report([tmp_path / "runs"], tmp_path / "page")
    text = (tmp_path / "page/report.md").read_text()
    assert "## What validation prefers" in text
    assert Heading("Calibration").text not in text
