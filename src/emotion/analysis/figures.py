"""Figures of a run: confusion matrix, recall per class, learning curves and a gallery of mistakes.

The functions return a `matplotlib.figure.Figure` with the Agg canvas and do not use `pyplot` and its global state, so
that they need no display and may run in any thread.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from emotion.files import atomic_write
from emotion.palette import BLUE, GREEN, GREY, GRID, ORANGE, PURPLE, SOFT_TEXT, TEXT

History = dict[str, list[tuple[int, float]]]

_DPI = 120
_MAX_NAME = 20  # characters of a class name; longer names are cut
_CHARACTERS = 10.6  # characters of a name that fit beside each other in an inch
_MAX_COUNTED = 12  # classes of a confusion matrix with percentage and count in each cell
_MAX_NUMBERED = 40  # classes of a confusion matrix with percentages; more cells are only coloured
_MATRIX_INCHES = 20.0  # largest height and width of the cells of a confusion matrix
_MAX_BARS = 60
_MAX_TITLE_LINE = 20  # characters of a line above an image
_MAX_MARKED_EPOCHS = 25


def confusion_matrix_figure(matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "") -> Figure:
    """Draws a confusion matrix, coloured by the share of each row.

    Args:
        matrix: int64 [K, K] counts >= 0; row = actual class, column = predicted class.
        class_names: K names in the order of the rows.
        title: text above the matrix.

    Returns:
        A figure whose cells show the percentage of their row, up to 12 classes above the count; from 41 classes on
        cells are only coloured. Rows without images stay blank.

    Raises:
        ValueError: `matrix` is not [K, K] for K class names.
    """
    shares = _row_shares(matrix, class_names)
    size = len(class_names)
    # Two classes are drawn as large as three, so that the axes have room for their names.
    width, height = (0.85, 0.75) if size <= _MAX_COUNTED else (0.5, 0.42)  # of a cell, inches
    width, height = min(width, _MATRIX_INCHES / size), min(height, _MATRIX_INCHES / size)
    figure = _figure(2.6 + width * max(size, 3), 1.7 + height * max(size, 3))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    if size <= _MAX_NUMBERED:
        _write_cells(axes, matrix, shares)
    _matrix_axes(axes, class_names, width)
    axes.set_title(title, parse_math=False, pad=12)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=28, format=PercentFormatter(xmax=1.0))
    bar.set_label("share of the actual class")
    bar.outline.set_visible(False)
    return figure


def recall_figure(matrix: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Draws the recall of each class as a bar.

    Args:
        matrix: int64 [K, K] counts >= 0; row = actual class, column = predicted class.
        class_names: K names in the order of the rows.

    Returns:
        A figure with one bar for each class, labelled with the class's number of images, and a dashed line at the
        mean recall of the classes that have images. Of more than 60 classes, the 60 with the lowest recall are drawn.

    Raises:
        ValueError: `matrix` is not [K, K] for K class names.
    """
    recalls = _row_shares(matrix, class_names).diagonal()
    # Sorting puts the masked recalls of classes without images last.
    drawn = np.sort(recalls.argsort(kind="stable")[:_MAX_BARS])
    figure = _figure(7.5, 1.5 + (0.45 if len(drawn) <= _MAX_COUNTED else 0.3) * len(drawn))
    axes = figure.add_subplot()
    positions = np.arange(len(drawn))
    axes.barh(positions, recalls[drawn].filled(0.0), height=0.68, color=BLUE)
    for position, recall in zip(positions, recalls[drawn].filled(np.nan), strict=True):
        _write_recall(axes, float(position), float(recall))
    support = matrix.sum(axis=1)
    labels = [f"{short_name(class_names[row])} ({support[row]})" for row in drawn]
    axes.set_yticks(positions, labels, parse_math=False)
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    _recall_axes(axes)
    _mean_line(axes, recalls.compressed())
    if len(drawn) < len(class_names):
        axes.set_title(f"the {len(drawn)} lowest of {len(class_names)} classes", loc="left", fontsize=10)
    return figure


def curves_figure(
    history: Mapping[str, Sequence[tuple[int, float]]], best_epoch: int | None, published: float | None = None
) -> Figure:
    """Draws the learning curves of a run: loss, accuracy and learning rate.

    Args:
        history: (epoch, value) pairs by tag, epochs from 1, as `read_history` returns them. Tags drawn: 'train/loss',
            'val/loss', 'train/acc', 'val/acc', 'val/f1_macro' and 'lr'; each of them may be missing.
        best_epoch: epoch of the kept checkpoint, counted from 1 as in `history`; None draws no line.
        published: test accuracy that the paper gives for this network, 0..1; None draws no line.

    Returns:
        A figure of three panels side by side.
    """
    figure = _figure(13.0, 3.9)
    loss, accuracy, rate = figure.subplots(1, 3)
    _plot(loss, history.get("train/loss"), "train", color=BLUE)
    _plot(loss, history.get("val/loss"), "val", color=ORANGE)
    _plot(accuracy, history.get("train/acc"), "train", color=BLUE)
    _plot(accuracy, history.get("val/acc"), "val", color=ORANGE)
    _plot(accuracy, history.get("val/f1_macro"), "val macro F1", color=PURPLE, linewidth=0.9)
    if published is not None and accuracy.lines:
        accuracy.axhline(published, color=GREEN, linestyle="--", linewidth=1.1, label="published, test")
    _plot(rate, history.get("lr"), "learning rate", color=SOFT_TEXT)
    if any(value > 0 for _, value in history.get("lr") or ()):
        rate.set_yscale("log")
    for axes, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate")):
        _finish_panel(axes, title, best_epoch)
    return figure


def mistakes_figure(
    images: NDArray[np.uint8],
    actual: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    columns: int = 8,
) -> Figure:
    """Draws a gallery of misclassified images.

    Args:
        images: uint8 [N, C, H, W] with C = 1 (grey) or 3 (RGB); N may be 0.
        actual: N names of the actual classes.
        predicted: N names of the predicted classes.
        confidence: N probabilities of the predicted class, 0..1.
        columns: number of images in a row, at least 1.

    Returns:
        A figure of N images under "actual → predicted" and the confidence, or of the text "no mistakes".

    Raises:
        ValueError: the lengths differ, `images` has another shape, or `columns` is below 1.
    """
    count = len(images)
    if {len(actual), len(predicted), len(confidence)} != {count}:
        raise ValueError(f"{count} images need {count} actual names, predicted names and confidences")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if count == 0:
        return _message_figure("no mistakes")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, 1 or 3, H, W], got {list(images.shape)}")
    titles = [_mistake_title(*mistake) for mistake in zip(actual, predicted, confidence, strict=True)]
    return _gallery(images, titles, min(columns, count))


def short_name(name: str, length: int = _MAX_NAME) -> str:
    """Returns a name of at most `length` characters; a longer one loses its middle, since names often end in a number.

    Args:
        name: the name of a class.
        length: the largest number of characters, at least 4.
    """
    tail = (length - 1) // 3
    return name if len(name) <= length else f"{name[: length - 1 - tail]}…{name[-tail:]}"


def rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image uint8 [1 or 3, H, W] as Matplotlib shows it, [H, W, 3]."""
    return np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the file's suffix, at 120 dots per inch.

    Args:
        figure: the figure to write.
        path: the .png, .svg or .pdf file; a missing folder is made, an existing file is replaced.
    """
    kind = path.suffix[1:].lower()
    # Without a date and with fixed identifiers an SVG file is the same whenever it is written.
    metadata = {"Date": None} if kind == "svg" else None
    with atomic_write(path) as temporary, rc_context({"svg.hashsalt": "emotion"}):
        figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata)


def read_history(csv_path: Path) -> History:
    """Reads the learning curves from the metrics.csv that Lightning's CSVLogger writes.

    Args:
        csv_path: CSV file with the columns 'epoch' (from 0), 'step' and one for each tag; most cells may be empty.

    Returns:
        (epoch, value) pairs by tag, sorted by epoch, epochs from 1, with the last value of each epoch. The first
        'lr-*' column is named 'lr'. Tags of single steps ('*_step') and tags without values are left out.
    """
    with csv_path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        columns = _tag_columns(reader.fieldnames or ())
    epochs = _row_epochs(rows)
    history = {tag: _column_values(rows, epochs, column) for tag, column in columns.items()}
    return {tag: values for tag, values in history.items() if values}


def read_curves(csv_paths: Iterable[Path]) -> History:
    """Reads the learning curves of a run from its CSV files, one for each start, in the order of the starts.

    A start replaces all epochs from its first one on: those that a killed run had logged, but not kept.

    Returns:
        The curves, as `read_history` returns them; empty if a file cannot be read.
    """
    curves: History = {}
    try:
        for part in map(read_history, csv_paths):
            first = min((values[0][0] for values in part.values()), default=math.inf)
            kept = {tag: [pair for pair in values if pair[0] < first] for tag, values in curves.items()}
            tags = dict.fromkeys([*kept, *part])
            curves = {tag: values for tag in tags if (values := [*kept.get(tag, ()), *part.get(tag, ())])}
    except (OSError, ValueError, OverflowError, csv.Error):
        return {}
    return curves


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _message_figure(message: str) -> Figure:
    figure = _figure(4.0, 1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=13, color=SOFT_TEXT)
    return figure


def _percent(share: float) -> str:
    """Returns a share as a percentage, with a decimal below 1 and above 99 %, so that few images are not shown as 0."""
    return f"{share:.1%}" if 0.0 < share < 0.01 or 0.99 < share < 1.0 else f"{share:.0%}"


def _row_shares(matrix: NDArray[np.int64], class_names: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    """Returns each count's share of its row, float64 [K, K] in 0..1; rows without images are masked."""
    size = len(class_names)
    if matrix.shape != (size, size):
        raise ValueError(f"{size} class names need a [{size}, {size}] matrix, got {list(matrix.shape)}")
    support = matrix.sum(axis=1, keepdims=True)  # [K, 1]
    shares = matrix / np.maximum(support, 1)
    return np.ma.masked_array(shares, mask=np.broadcast_to(support == 0, shares.shape))


def _write_cells(axes: Axes, matrix: NDArray[np.int64], shares: np.ma.MaskedArray[Any, Any]) -> None:
    counted = len(matrix) <= _MAX_COUNTED
    for row, column in np.argwhere(~np.ma.getmaskarray(shares)):
        share = float(shares[row, column])
        colour = "white" if share > 0.55 else TEXT
        style: dict[str, Any] = {"ha": "center", "color": colour, "alpha": 1.0 if matrix[row, column] else 0.45}
        if counted:
            axes.text(column, row, _percent(share), va="bottom", fontsize=11, **style)
            axes.text(column, row + 0.08, str(matrix[row, column]), va="top", fontsize=8, **style)
        elif matrix[row, column]:
            axes.text(column, row, _percent(share), va="center", fontsize=7.5, **style)


def _matrix_axes(axes: Axes, class_names: Sequence[str], width: float) -> None:
    """Names the classes on both axes, of so many classes that names would overlap only every second, third, ..."""
    positions = range(0, len(class_names), math.ceil(len(class_names) / _MAX_BARS))
    labels = [short_name(class_names[position]) for position in positions]
    axes.set_xticks(positions, labels, parse_math=False)
    if max(map(len, labels)) > _CHARACTERS * width:
        axes.tick_params(axis="x", labelrotation=30 if width > 0.5 else 55)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(positions, labels, parse_math=False)
    if len(class_names) > _MAX_NUMBERED:
        axes.tick_params(labelsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    edges = np.arange(len(class_names) + 1) - 0.5
    line = 2.0 if len(class_names) <= _MAX_COUNTED else 1.0 if len(class_names) <= _MAX_NUMBERED else 0.0
    axes.hlines(edges, edges[0], edges[-1], color="white", linewidth=line)
    axes.vlines(edges, edges[0], edges[-1], color="white", linewidth=line)


def _write_recall(axes: Axes, position: float, recall: float) -> None:
    text, end = ("no images", 0.0) if math.isnan(recall) else (_percent(recall), recall)
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # hides the mean line behind the text
    axes.text(end + 0.012, position, text, va="center", fontsize=10, color=SOFT_TEXT, bbox=background)


def _recall_axes(axes: Axes) -> None:
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.12)
    axes.set_xticks(np.linspace(0.0, 1.0, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.set_xlabel("recall")
    axes.set_ylabel("class (images)")
    tidy(axes, "x")


def _mean_line(axes: Axes, recalls: NDArray[np.float64]) -> None:
    if recalls.size:
        mean = float(recalls.mean())
        line = axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.2, zorder=0)
        axes.legend([line], [f"mean {_percent(mean)}"], frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _plot(axes: Axes, values: Sequence[tuple[int, float]] | None, label: str, **style: Any) -> None:
    if values:
        epochs, heights = zip(*values, strict=True)
        marker = "o" if len(values) <= _MAX_MARKED_EPOCHS else ""
        axes.plot(epochs, heights, label=label, marker=marker, markersize=3.5, **style)


def _finish_panel(axes: Axes, title: str, best_epoch: int | None) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)
    if not axes.lines:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color=SOFT_TEXT)
        return
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, linestyle="--", linewidth=1.0, label=f"best epoch ({best_epoch})")
    axes.set_xlim(left=max(axes.get_xlim()[0], 0.5))
    axes.legend(frameon=False, fontsize=9)


def tidy(axes: Axes, grid_axis: Literal["both", "x"] = "both") -> None:
    """Draws a grid behind the content of the axes, and no frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid_axis, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _mistake_title(actual: str, predicted: str, confidence: float) -> str:
    actual, predicted = short_name(actual), short_name(predicted)
    gap = " " if len(actual) + len(predicted) + 3 <= _MAX_TITLE_LINE else "\n"
    return f"{actual}{gap}→ {predicted}\n{_percent(confidence)}"


def _gallery(images: NDArray[np.uint8], titles: Sequence[str], columns: int) -> Figure:
    rows = math.ceil(len(images) / columns)
    figure = _figure(1.5 * columns, 1.85 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, title in zip(grid, images, titles, strict=False):
        axes.imshow(rgb(image), interpolation="nearest")
        axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def _tag_columns(fieldnames: Iterable[str]) -> dict[str, str]:
    """Returns the name of the CSV column of each tag."""
    columns: dict[str, str] = {}
    for name in fieldnames:
        if name not in ("epoch", "step") and not name.endswith("_step"):
            if not name.startswith("lr-"):
                columns[name] = name
            else:
                columns.setdefault("lr", name)
    return columns


def _row_epochs(rows: Sequence[Mapping[str, str | None]]) -> list[int | None]:
    """Returns the epoch of each row, from 1.

    LearningRateMonitor writes rows without an epoch before the other rows of the same epoch. They get the epoch of the
    next row that has one, or None if the run stopped before that epoch wrote such a row.
    """
    epochs: list[int | None] = []
    following: int | None = None
    for row in reversed(rows):
        cell = row.get("epoch")
        following = int(float(cell)) + 1 if cell else following
        epochs.append(following)
    return epochs[::-1]


def _column_values(
    rows: Sequence[Mapping[str, str | None]], epochs: Sequence[int | None], column: str
) -> list[tuple[int, float]]:
    last: dict[int, float] = {}
    for row, epoch in zip(rows, epochs, strict=True):
        cell = row.get(column)
        if cell and epoch is not None:
            last[epoch] = float(cell)
    return sorted(last.items())
