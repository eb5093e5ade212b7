from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion.analysis.statistics import Interval
from emotion.data.classes import CLASSES
from emotion.report.configurations import group
from emotion.report.published import RUNS
from emotion.report.runs import Run
from emotion.report.verdict import best_match, compare, compare_to_published, overall, remark, verdict_cell

from .conftest import MakeRun

CNN = RUNS[4]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.63, 0.65, "agrees"),
        (0.6, 0.634, "lower"),
        (0.6, 0.636, "agrees"),
        (0.644, 0.7, "agrees"),
        (0.646, 0.7, "higher"),
        (0.638, 0.642, "agrees"),
    ],
)
def test_published_value_counts_as_a_range(low: float, high: float, verdict: str) -> None:
    assert compare(Interval(low, high), 0.64) == verdict


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.64, "agrees"), (0.61, "lower"), (0.67, "higher")])
def test_verdict_follows_the_interval(make_run: MakeRun, accuracy: float, verdict: str) -> None:
    (configuration,), _ = group([make_run(accuracy=accuracy)])
    assert configuration.published is CNN
    assert compare_to_published(configuration, CNN) == verdict
    assert verdict_cell(configuration, CNN).text == verdict


def test_drawn_faces_get_no_verdict(make_run: MakeRun) -> None:
    (configuration,), _ = group([make_run("data=synthetic", accuracy=0.64)])
    assert compare_to_published(configuration, CNN) == "not compared"
    cell = verdict_cell(configuration, CNN)
    assert (cell.text, cell.note) == ("not compared", "drawn faces")
    assert compare_to_published(None, CNN) == "not run"


def test_best_match_is_comparable_and_closest_to_the_recipe(make_run: MakeRun) -> None:
    commands = [
        ("data=synthetic", "seed=0"),
        ("data=synthetic", "seed=1"),
        ("patience=30", "lr=2e-3"),
        ("patience=31", "seed=0"),
        ("patience=32", "seed=0"),
        ("patience=32", "seed=1"),
    ]
    runs = [make_run(*arguments, name=str(number)) for number, arguments in enumerate(commands)]
    assert best_match([], CNN) is None
    for shown, expected in ((runs[:2], runs[0]), (runs[:3], runs[2]), (runs[:4], runs[3]), (runs, runs[4])):
        match = best_match(group(shown)[0], CNN)
        assert match is not None
        assert match.first is expected


def constant(make_run: MakeRun, *arguments: str, name: str) -> Run:
    """Makes a run whose network gives every image the first class."""
    run = make_run(*arguments, name=name)
    test = replace(run.test, probabilities=np.eye(len(CLASSES), dtype=np.float32)[np.zeros(len(run.test), int)])
    return replace(run, test=test)


def test_a_network_that_learned_nothing_stands_for_no_better_one(make_run: MakeRun) -> None:
    dead = constant(make_run, name="dead")
    slow = make_run("lr=1e-4", "patience=30", name="slow", accuracy=0.5)
    slower = make_run("lr=1e-5", name="slower", accuracy=0.4)
    repeated, _ = group([slower, dead, slow])
    match = best_match(repeated, CNN)
    assert match is not None
    assert match.first is slower
    assert best_match(group([dead])[0], CNN) is not None
    remarks = {one.first.folder.path.name: remark(one, repeated) for one in repeated}
    assert remarks == {
        "dead": "one class for every image",
        "slow": "the nearest recipe that learns, chosen by validation accuracy",
        "slower": "",
    }
    learned, _ = group([slow, slower])
    assert [remark(one, learned) for one in learned] == ["", ""]


def test_a_dead_network_repeats_a_dead_one_of_the_paper(make_run: MakeRun) -> None:
    resnet = next(run for run in RUNS if run.network == "ResNet50 frozen")
    assert resnet.test == 0.19
    dead = constant(make_run, "model=resnet50_fe", name="dead")
    match = best_match(group([make_run("model=resnet50_fe", "lr=1e-4", name="learns"), dead])[0], resnet)
    assert match is not None
    assert match.first is dead


def test_overall_verdict_counts_the_published_accuracies(make_run: MakeRun) -> None:
    runs = [
        make_run(accuracy=0.64, name="agrees"),
        make_run("patience=30", accuracy=0.1, name="other patience"),
        make_run("balance=offline", "seed=0", accuracy=0.7, name="higher"),
        make_run("balance=offline", "seed=1", accuracy=0.7, name="higher again"),
        make_run("model=cnn_111", "lr=0.1", accuracy=0.5, name="lower"),
        make_run("model=cnn_1111", "data=synthetic", accuracy=0.59, name="drawn"),
        make_run("balance=none", accuracy=0.64, name="other"),
    ]
    assert overall(group(runs)[0]) == (
        "Our results beside the 21 test accuracies of the paper: 1 in agreement, 1 higher, 1 lower, 1 not comparable, "
        "17 not run. Comparable with the paper: 3, of which 2 with every setting of its recipe and 2 from a single "
        "seed."
    )


def test_overall_verdict_without_runs() -> None:
    assert overall([]) == "Our results beside the 21 test accuracies of the paper: 21 not run."
