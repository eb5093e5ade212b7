"""Tests of the figures of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from emotion.analysis import figures

pytestmark = pytest.mark.filterwarnings("error")

NAMES = ("angry", "happy", "sad")
MATRIX = np.array([[6, 3, 1], [0, 0, 0], [0, 1, 199]], dtype=np.int64)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Rows as CSVLogger and LearningRateMonitor write them: the rows of the learning rate have no epoch.
METRICS_CSV = """\
epoch,lr-AdamW,lr-AdamW-momentum,step,test/loss,train/loss,train/loss_step,val/acc,val/loss
,0.001,0.9,0,,,,,
0,,,49,,,2.5,,
0,,,99,,,,0.25,1.75
0,,,99,,1.875,,,
,0.0005,0.9,100,,,,,
1,,,149,,,1.5,,
1,,,199,,,,0.375,9.0
1,,,199,,,,0.5,1.25
1,,,199,,1.375,,,
,0.00025,0.9,200,,,,,
"""


def drawn_axes(figure: Figure) -> list[Any]:
    figure.draw_without_rendering()
    return list(figure.axes)


def texts(artists: Iterable[Text]) -> list[str]:
    return [artist.get_text() for artist in artists]


def lines(axes: Any) -> dict[str, Any]:
    return {str(line.get_label()): line for line in axes.lines}


def read(tmp_path: Path, text: str) -> figures.History:
    path = tmp_path / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    return figures.read_history(path)


def test_confusion_matrix_shows_percent_and_count_of_each_cell() -> None:
    axes = drawn_axes(figures.confusion_matrix_figure(MATRIX, NAMES, "test split"))[0]
    cells = defaultdict(list)
    for text in axes.texts:
        cells[tuple(round(coordinate) for coordinate in text.get_position())].append(text.get_text())
    assert cells[0, 0] == ["60%", "6"]
    assert cells[1, 0] == ["30%", "3"]
    assert cells[0, 2] == ["0%", "0"]
    assert cells[1, 2] == ["0.5%", "1"], "rounding must not turn a mistake into 0 %"
    assert cells[2, 2] == ["99.5%", "199"], "rounding must not hide a mistake"


def test_confusion_matrix_leaves_rows_without_images_blank() -> None:
    axes = drawn_axes(figures.confusion_matrix_figure(MATRIX, NAMES))[0]
    assert {round(text.get_position()[1]) for text in axes.texts} == {0, 2}
    colours = axes.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(colours), [[False] * 3, [True] * 3, [False] * 3])
    np.testing.assert_allclose(colours[0], [0.6, 0.3, 0.1])


def test_confusion_matrix_names_its_axes() -> None:
    axes = drawn_axes(figures.confusion_matrix_figure(MATRIX, NAMES, "test split"))[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "actual", "test split")
    assert texts(axes.get_xticklabels()) == list(NAMES)
    assert texts(axes.get_yticklabels()) == list(NAMES)


def test_matrix_figures_draw_hostile_and_long_names_as_they_are() -> None:
    names = ("$\\frac{", "x" * 300, "a_b")
    for figure in (figures.confusion_matrix_figure(MATRIX, names, "$\\x$"), figures.recall_figure(MATRIX, names)):
        labels = texts(drawn_axes(figure)[0].get_yticklabels())
        assert labels[0].startswith("$\\frac{")
        assert "…" in labels[1]
        assert len(labels[1]) < 30


@pytest.mark.parametrize("draw", [figures.confusion_matrix_figure, figures.recall_figure])
def test_matrix_figures_reject_another_number_of_classes(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"2 class names need a \[2, 2\] matrix, got \[3, 3\]"):
        draw(MATRIX, NAMES[:2])


def test_recall_bars_are_the_diagonal_over_the_support() -> None:
    axes = drawn_axes(figures.recall_figure(MATRIX, NAMES))[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.6, 0.0, 0.995])
    assert texts(axes.get_yticklabels()) == ["angry (10)", "happy (0)", "sad (200)"]
    assert texts(axes.texts) == ["60%", "no images", "99.5%"]


def test_recall_mean_is_over_the_classes_with_images() -> None:
    axes = drawn_axes(figures.recall_figure(MATRIX, NAMES))[0]
    assert axes.lines[0].get_xdata()[0] == pytest.approx((0.6 + 0.995) / 2)
    empty = drawn_axes(figures.recall_figure(np.zeros_like(MATRIX), NAMES))[0]
    assert not empty.lines
    assert texts(empty.texts) == ["no images"] * 3


def test_curves_show_each_tag_in_its_panel() -> None:
    tags = ("train/loss", "val/loss", "train/acc", "val/acc", "val/f1_macro", "lr")
    history = {tag: [(1, 0.5), (2, 0.25)] for tag in tags}
    panels = drawn_axes(figures.curves_figure(history, best_epoch=2))
    assert [axes.get_title(loc="left") for axes in panels] == ["loss", "accuracy", "learning rate"]
    assert [list(lines(axes)) for axes in panels] == [
        ["train", "val", "best epoch (2)"],
        ["train", "val", "val macro F1", "best epoch (2)"],
        ["learning rate", "best epoch (2)"],
    ]
    assert [axes.get_yscale() for axes in panels] == ["linear", "linear", "log"]
    accuracy = lines(panels[1])
    assert accuracy["val macro F1"].get_linewidth() < accuracy["val"].get_linewidth()
    best = accuracy["best epoch (2)"]
    assert (list(best.get_xdata()), best.get_linestyle()) == ([2, 2], "--")


def test_curves_stand_beside_the_published_accuracy() -> None:
    history = {"val/acc": [(1, 0.5), (2, 0.625)], "val/loss": [(1, 1.5), (2, 1.25)]}
    loss, accuracy, _ = drawn_axes(figures.curves_figure(history, best_epoch=None, published=0.64))
    assert list(lines(loss)) == ["val"]
    assert list(lines(accuracy)["published, test"].get_ydata()) == [0.64, 0.64]
    empty = drawn_axes(figures.curves_figure({"val/loss": [(1, 1.5)]}, None, published=0.64))[1]
    assert texts(empty.texts) == ["not logged"]


def test_curves_of_one_epoch_have_markers_and_a_whole_epoch_axis() -> None:
    axes = drawn_axes(figures.curves_figure({"val/loss": [(1, 1.5)]}, best_epoch=None))[0]
    line = lines(axes)["val"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1], [1.5])
    assert line.get_marker() == "o"
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
    assert list(lines(axes)) == ["val"]


def test_long_curves_have_no_markers_and_no_epoch_zero() -> None:
    axes = drawn_axes(figures.curves_figure({"val/loss": [(epoch, 1.0) for epoch in range(1, 101)]}, None))[0]
    assert axes.lines[0].get_marker() == ""
    assert axes.get_xlim()[0] > 0


@pytest.mark.parametrize("history", [{}, {"lr": [(1, 0.0)]}, {"val/loss": [(1, float("nan"))]}, {"val/acc": []}])
def test_curves_draw_with_missing_zero_or_nan_values(history: dict[str, list[tuple[int, float]]]) -> None:
    panels = drawn_axes(figures.curves_figure(history, best_epoch=1))
    logged = [bool(axes.lines) for axes in panels]
    assert ["not logged" in texts(axes.texts) for axes in panels] == [not value for value in logged]
    assert sum(logged) == sum(bool(values) for values in history.values())


@pytest.mark.parametrize("channels", [1, 3])
def test_mistakes_show_each_image_with_its_names_and_confidence(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 4, 5), dtype=np.uint8)
    figure = figures.mistakes_figure(images, ["sad", "$\\frac{", "sad"], ["fear", "a", "x" * 20], [0.9, 0.5, 1], 2)
    shown = [axes for axes in drawn_axes(figure) if axes.images]
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in shown] == [
        "sad → fear\n90%",
        "$\\frac{ → a\n50%",
        f"sad\n→ {'x' * 20}\n100%",
    ]
    for axes, image in zip(shown, images, strict=True):
        expected = np.broadcast_to(image.transpose(1, 2, 0), (4, 5, 3))
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)


def test_figure_of_no_mistakes_has_a_message() -> None:
    figure = figures.mistakes_figure(np.zeros((0, 1, 48, 48), np.uint8), [], [], [])
    figure.draw_without_rendering()
    assert texts(figure.texts) == ["no mistakes"]


@pytest.mark.parametrize(
    ("shape", "names", "columns", "message"),
    [
        ((2, 1, 4, 4), ["sad"], 8, "2 images need 2 actual names"),
        ((1, 2, 4, 4), ["sad"], 8, r"\[N, 1 or 3, H, W\]"),
        ((1, 4, 4), ["sad"], 8, r"\[N, 1 or 3, H, W\]"),
        ((1, 1, 4, 4), ["sad"], 0, "columns must be at least 1"),
    ],
)
def test_mistakes_reject_bad_arguments(shape: tuple[int, ...], names: list[str], columns: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.mistakes_figure(np.zeros(shape, np.uint8), names, names, [0.5], columns)


def test_save_writes_a_png_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "empty.png"
    path.parent.mkdir()
    path.write_bytes(b"old")
    figures.save(Figure(figsize=(1, 2)), path)
    content = path.read_bytes()
    assert content.startswith(PNG_SIGNATURE)
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (120, 240)
    assert list(path.parent.iterdir()) == [path]


def test_save_makes_the_folder(tmp_path: Path) -> None:
    figures.save(Figure(figsize=(1, 1)), tmp_path / "a" / "b" / "figure.png")
    assert (tmp_path / "a" / "b" / "figure.png").read_bytes().startswith(PNG_SIGNATURE)


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_written(_figure: Figure, file: Path, **_options: object) -> None:
        assert file.parent == tmp_path
        file.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        figures.save(Figure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_history_has_one_value_per_epoch_and_tag(tmp_path: Path) -> None:
    assert read(tmp_path, METRICS_CSV) == {
        "lr": [(1, 0.001), (2, 0.0005)],
        "train/loss": [(1, 1.875), (2, 1.375)],
        "val/acc": [(1, 0.25), (2, 0.5)],
        "val/loss": [(1, 1.75), (2, 1.25)],
    }


def test_history_is_sorted_by_epoch_after_a_resumed_run(tmp_path: Path) -> None:
    text = "epoch,step,val/loss\n0,9,1.0\n2,29,3.0\n1,19,2.0\n2,29,2.5\n"
    assert read(tmp_path, text) == {"val/loss": [(1, 1.0), (2, 2.0), (3, 2.5)]}


def test_a_start_replaces_the_epochs_that_a_killed_one_had_logged(tmp_path: Path) -> None:
    texts = [
        "epoch,step,lr,val/loss\n0,9,0.1,1.0\n1,19,,2.0\n2,29,,9.0\n3,39,,9.5\n",
        "epoch,step,val/loss\n2,29,3.0\n",
    ]
    paths = [tmp_path / name for name in ("a.csv", "b.csv", "none.csv")]
    for path, text in zip(paths, [*texts, "epoch,step,val/loss\n"], strict=True):
        path.write_text(text)
    assert figures.read_curves(paths) == {"lr": [(1, 0.1)], "val/loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}
    paths[1].write_text("epoch,step,val/loss\nx,29,3.0\n")
    assert figures.read_curves(paths) == {}
    assert figures.read_curves([]) == {}


@pytest.mark.parametrize("text", ["", "epoch,step,val/loss\n"])
def test_history_of_a_run_without_rows_is_empty(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == {}


def long_names(count: int) -> tuple[str, ...]:
    return tuple(f"a compound emotion with the long name {number}" for number in range(count))


def crowded(count: int) -> tuple[Any, Figure]:
    """Returns a matrix of some classes, three quarters correct, and its figure."""
    matrix = np.eye(count, dtype=np.int64) * 6 + np.roll(np.eye(count, dtype=np.int64), 1, axis=1) * 2
    return matrix, figures.confusion_matrix_figure(matrix, long_names(count))


def overlap(artists: Iterable[Text]) -> bool:
    """Returns whether the boxes of some drawn texts overlap."""
    boxes = [artist.get_window_extent() for artist in artists if artist.get_text()]
    pairs = ((one, two) for place, one in enumerate(boxes) for two in boxes[place + 1 :])
    return any(one.overlaps(two) for one, two in pairs)


@pytest.mark.parametrize("count", [2, 3, 7, 8, 12, 13, 26, 30])
def test_cells_and_names_of_any_number_of_classes_stay_apart(count: int) -> None:
    _, figure = crowded(count)
    axes = drawn_axes(figure)[0]
    assert not overlap(axes.texts)
    assert not overlap(axes.get_yticklabels())
    labels = texts(axes.get_yticklabels())
    assert len(set(labels)) == count, "names that differ at their end only stay different"
    assert max(map(len, labels)) <= 20
    for label in (*axes.get_yticklabels(), *axes.get_xticklabels()):
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
    recall = drawn_axes(figures.recall_figure(crowded(count)[0], long_names(count)))[0]
    assert not overlap(recall.get_yticklabels())
    assert not overlap(recall.texts)


@pytest.mark.parametrize(("count", "lines"), [(12, ["75%", "6"]), (13, ["75%"]), (40, ["75%"]), (41, [])])
def test_crowded_cells_lose_their_counts_and_then_their_percentages(count: int, lines: list[str]) -> None:
    axes = drawn_axes(crowded(count)[1])[0]
    cell = [text.get_text() for text in axes.texts if tuple(map(round, text.get_position())) == (0, 0)]
    assert cell == lines


def test_a_thousand_classes_make_figures_of_a_few_megapixels() -> None:
    matrix, figure = crowded(1000)
    width, height = figure.get_size_inches()
    assert width * height * 120**2 < 10_000_000
    axes = drawn_axes(figure)[0]
    assert len(axes.get_yticklabels()) <= 60
    matrix[500] = 0
    matrix[500, 501] = 8
    recall = drawn_axes(figures.recall_figure(matrix, long_names(1000)))[0]
    assert len(recall.patches) == 60
    assert 0.0 in [bar.get_width() for bar in recall.patches]
    assert recall.get_title(loc="left") == "the 60 lowest of 1000 classes"


def test_short_names_keep_their_start_and_end() -> None:
    assert figures.short_name("happy", 5) == "happy"
    assert figures.short_name("surprise", 7) == "surp…se"
    assert figures.short_name("happily surprised 12") == "happily surprised 12"
    assert figures.short_name("happily surprised 123") == "happily surpr…ed 123"


def test_an_svg_file_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        figures.save(figures.recall_figure(MATRIX, NAMES), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
