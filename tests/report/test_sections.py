from __future__ import annotations

from typing import Any

import pytest

from emotion.data.classes import CLASSES
from emotion.report.configurations import group
from emotion.report.sections import Section, make_sections

from .conftest import MakeRun

FOLDER = ("data=folder", "model=cnn_111")
MOODS = ("bored", "calm", "engaged")
Facts = tuple[tuple[str, ...], dict[str, Any]]


def sections(make_run: MakeRun, *runs: Facts) -> list[Section]:
    made = [
        make_run(*arguments, **{"name": str(number), "images": 42, **facts})
        for number, (arguments, facts) in enumerate(runs)
    ]
    return make_sections(group(made)[0])


def numbers(found: list[Section]) -> dict[str, list[int]]:
    return {section.name: [shown.number for shown in section.configurations] for section in found}


def test_data_and_split_divide_the_page(make_run: MakeRun) -> None:
    found = sections(
        make_run,
        ((*FOLDER, "data_dir=own/a"), {}),
        ((*FOLDER, "data_dir=own/b"), {}),
        ((*FOLDER, "data_dir=own/a", "split=official"), {}),
        ((*FOLDER, "data_dir=own/a", "lr=1e-4"), {}),
        (("data=synthetic",), {}),
        ((), {}),
    )
    assert {name: len(shown) for name, shown in numbers(found).items()} == {
        "FER2013, split=report": 1,
        "drawn faces, split=report": 1,
        "own/a, split=report": 2,
        "own/b, split=report": 1,
        "own/a, split=official": 1,
    }
    assert not any(section.only for section in found)


def test_the_same_folder_with_other_classes_is_another_section(make_run: MakeRun) -> None:
    arguments = (*FOLDER, "data_dir=own/a")
    found = sections(make_run, (arguments, {}), (arguments, {"classes": MOODS}), (arguments, {"classes": CLASSES[:6]}))
    assert {section.name: section.configurations[0].classes for section in found} == {
        "own/a, split=report, 7 classes": CLASSES,
        "own/a, split=report, 3 classes": MOODS,
        "own/a, split=report, 6 classes": CLASSES[:6],
    }


def test_as_many_other_classes_get_a_number(make_run: MakeRun) -> None:
    arguments = (*FOLDER, "data_dir=own/a")
    found = sections(make_run, (arguments, {"classes": MOODS}), (arguments, {"classes": ("x", "y", "z")}))
    assert [section.name for section in found] == [
        "own/a, split=report, 3 classes",
        "own/a, split=report, 3 classes (2)",
    ]


def test_changed_images_in_the_same_folder_are_other_data(make_run: MakeRun) -> None:
    arguments = (*FOLDER, "data_dir=own/a")
    assert len(sections(make_run, (arguments, {"data": "1"}), (arguments, {"data": "2"}))) == 2


def test_the_same_photographs_at_another_size_are_the_same_data(make_run: MakeRun) -> None:
    small, large = ((*FOLDER, "data_dir=own/a"), (*FOLDER, "data_dir=own/a/", "pack_size=96", "lr=1e-4"))
    (section,) = sections(make_run, (small, {"data": "1"}), (large, {"data": "2"}))
    assert section.name == "own/a, split=report"
    assert section.only
    other = (*FOLDER, "data_dir=own/b", "pack_size=96")
    assert len(sections(make_run, (small, {"data": "1", "name": "x"}), (other, {"data": "2", "name": "y"}))) == 2


@pytest.mark.parametrize("only", [True, False])
def test_names_of_a_section_are_left_out_where_there_is_one(make_run: MakeRun, only: bool) -> None:
    (alone,) = sections(make_run, ((*FOLDER, "data_dir=own/a"), {"classes": MOODS}))
    section = Section(alone.name, alone.stem, alone.configurations, only)
    assert section.heading("Calibration") == ("Calibration" if only else "Calibration: own/a, split=report")
    assert section.file("pairs") == ("pairs" if only else "own-a-split-report-pairs")
    assert section.facts == "own/a, split=report: 1 configuration, 1 run. 3 classes: bored, calm, engaged."


def test_other_labels_are_another_section_without_a_run_of_the_paper(make_run: MakeRun) -> None:
    votes = {"changes": {"labels": "ferplus", "votes": "votes.csv"}, "data": "2"}
    plain, voted = sections(make_run, ((), {"data": "1"}), ((), votes))
    assert (plain.name, voted.name) == ("FER2013, split=report", "FER2013, labels=ferplus, split=report")
    assert [section.configurations[0].published is None for section in (plain, voted)] == [False, True]
    assert voted.configurations[0].note == ""


def test_seeds_with_test_images_of_their_own_say_so(make_run: MakeRun) -> None:
    arguments = (*FOLDER, "data_dir=own/a")
    (section,) = sections(
        make_run, ((*arguments, "seed=0"), {"prefix": "a/", "data": "1"}), ((*arguments, "seed=1"), {"data": "1"})
    )
    notes = [shown.note for shown in section.configurations]
    assert notes == ["other test images: split_seed=<number> gives all seeds the same"] * 2
    (alone,) = sections(make_run, (arguments, {"name": "alone"}))
    assert alone.configurations[0].note == ""
