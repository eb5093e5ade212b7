from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion.report.configurations import Configuration, group
from emotion.report.curves import comparison_figure, mean_curve

from .conftest import MakeRun

pytestmark = pytest.mark.filterwarnings("error")

ACCURACIES = {0: (0.2, 0.4, 0.6, 0.8), 1: (0.4, 0.5, 0.6)}


def configurations(make_run: MakeRun, *settings: str, **options: Any) -> list[Configuration]:
    runs = [
        make_run(
            f"seed={seed}",
            changes={"lr": float(change.removeprefix("lr="))},
            name=f"{change}{seed}",
            images=14,
            history={"val/acc": values, "val/loss": [1 - value for value in values]},
            **options,
        )
        for change in settings
        for seed, values in ACCURACIES.items()
    ]
    return group(runs)[0]


def test_mean_and_deviation_are_over_the_epochs_that_all_runs_reached(make_run: MakeRun) -> None:
    (configuration,) = configurations(make_run, "lr=1e-3")
    curve = mean_curve(configuration, "val/acc")
    assert curve is not None
    epochs, mean, deviation = curve
    assert epochs.tolist() == [1, 2, 3]
    assert mean == pytest.approx([0.3, 0.45, 0.6])
    assert deviation == pytest.approx([np.std([0.2, 0.4], ddof=1), np.std([0.4, 0.5], ddof=1), 0])
    assert mean_curve(configuration, "val/f1_macro") is None


def test_every_configuration_has_a_line_and_a_band_in_both_panels(make_run: MakeRun) -> None:
    figure = comparison_figure(configurations(make_run, "lr=1e-3", "lr=1e-4"))
    assert figure is not None
    figure.draw_without_rendering()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["validation accuracy", "validation loss"]
    for axes, sign, start in zip(figure.axes, (1, -1), (0, 1), strict=True):
        assert len(axes.lines) == len(axes.collections) == 2
        for line in axes.lines:
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata() == pytest.approx([start + sign * value for value in (0.3, 0.45, 0.6)])
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "1. CNN 2-2-1-1, class weights, lr=0.001 (seeds 0, 1)",
        "2. CNN 2-2-1-1, class weights, lr=0.0001 (seeds 0, 1)",
    ]


def test_a_setting_that_all_share_is_not_in_the_legend(make_run: MakeRun) -> None:
    shown = [*configurations(make_run, "lr=1e-4"), *configurations(make_run, "lr=1e-5")]
    figure = comparison_figure(shown)
    assert figure is not None
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.count("lr=") for label in labels] == [1, 1]
    (alone,) = configurations(make_run, "lr=1e-6")
    figure = comparison_figure([alone])
    assert figure is not None
    assert "lr" not in figure.legends[0].get_texts()[0].get_text()


def test_lines_of_many_configurations_differ(make_run: MakeRun) -> None:
    figure = comparison_figure(configurations(make_run, *(f"lr={number}e-5" for number in range(1, 25))))
    assert figure is not None
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 24


def test_losses_that_are_no_numbers_are_drawn_without_a_warning(make_run: MakeRun) -> None:
    losses = (1.0, float("inf"), float("nan"), 2.0)
    runs = [
        make_run(f"seed={seed}", name=str(seed), images=14, history={"val/acc": (0.0,) * 4, "val/loss": losses})
        for seed in (0, 1)
    ]
    figure = comparison_figure(group(runs)[0])
    assert figure is not None
    figure.draw_without_rendering()
    assert figure.axes[1].get_ylim()[1] < 4


def test_one_extreme_loss_does_not_flatten_the_others(make_run: MakeRun) -> None:
    values = [1.0] * 40
    run = make_run(images=14, history={"val/acc": [0.5] * 41, "val/loss": [*values, 1000.0]})
    figure = comparison_figure(group([run])[0])
    assert figure is not None
    assert figure.axes[1].get_ylim()[1] == pytest.approx(1.5)


def test_without_curves_there_is_no_figure(make_run: MakeRun) -> None:
    assert comparison_figure(group([make_run(images=14, curves=False)])[0]) is None
    assert comparison_figure([]) is None
