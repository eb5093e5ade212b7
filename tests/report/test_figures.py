"""The figures of all configurations."""

from __future__ import annotations

import io

import pytest

from emotion.report.configurations import group
from emotion.report.figures import pairs_figure, published_figure
from emotion.report.measures import compare_pairs

from .conftest import MakeRun


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("recipe", ["best_pretrained", "clip"])
def test_two_configurations_of_long_names_have_room(make_run: MakeRun, recipe: str) -> None:
    runs = [
        make_run(f"recipe={recipe}", f"lr={lr}", name=lr, images=700, accuracy=accuracy)
        for lr, accuracy in (("1e-3", 0.5), ("1e-4", 0.7))
    ]
    figure = pairs_figure(compare_pairs(group(runs)[0]))
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    assert axes.get_window_extent().width > 40
    assert all(label.get_window_extent().x0 >= 0 for label in axes.get_yticklabels())


def test_of_several_configurations_that_repeat_a_run_one_is_filled(make_run: MakeRun) -> None:
    """It is the one that the summary counts: with the fewest differences from the recipe of the paper."""
    runs = [
        make_run("experiment=table1", f"lr={lr}", name=lr, accuracy=accuracy)
        for lr, accuracy in (("1e-4", 0.7), ("1e-3", 0.5))
    ]
    (axes,) = published_figure(group(runs)[0]).axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    filled = [line for line in points if line.get_markerfacecolor() != "white"]
    assert len(points) == 2
    assert [float(line.get_xdata()[0]) for line in filled] == pytest.approx([0.5], abs=0.01)
    assert {str(line.get_label()) for line in points} == {"ours: lower", "ours, with other settings"}
