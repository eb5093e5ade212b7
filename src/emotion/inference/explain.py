"""A figure of the image regions that raise the score of a class, by three heatmap methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from PIL import Image

from emotion.analysis.figures import short_name
from emotion.analysis.gradcam import Method
from emotion.errors import UserError, require_choice
from emotion.inference.crops import crop_faces, crop_square
from emotion.inference.images import ImageInput, read_image
from emotion.inference.pytorch import TorchNetwork
from emotion.inference.recognizer import Face, Recognizer
from emotion.palette import LIGHT_BLUE, ORANGE
from emotion.shipped import find_weights

FACE_SIDE = 192
"""Height and width of the drawn faces, pixels."""
MOST_FACES = 20
"""Largest number of faces to draw; the title of the figure states if the image has more."""
MOST_ROWS = 200
"""Largest number of rows of the figure; a picture of more is too large."""
MOST_BARS, LONGEST_NAME, LONGEST_TITLE = 12, 22, 9
"""Classes whose probabilities are drawn, the most probable ones; characters of a class name that are drawn, and that
have room beside the name of a method."""
TITLES = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM"}


def explain(
    image: ImageInput,
    name: str | Path = "small",
    classes: Sequence[str] = (),
    *,
    detect: bool = True,
    device: str = "cpu",
) -> tuple[Figure, list[Face]]:
    """Draws the faces of an image, their probabilities, and heatmaps for the predicted class and others.

    Args:
        image: see `emotion.inference.images.ImageInput`.
        name: see `emotion.inference.recognizer.load`; not an `.onnx` file, which gives no gradients, unless a
            `.safetensors` file of the same name lies beside it.
        classes: names of classes to explain besides the predicted one.
        detect: True detects faces; False takes the central square of the image as one face.
        device: `cpu`, `cuda` ...

    Returns:
        A figure with one row for each class of each of the first `MOST_FACES` faces, or of fewer if these are more than
        `MOST_ROWS` rows, and the list of all faces.

    Raises:
        UserError: the image is unreadable or has no face, or a class, the network or its feature maps do not exist.
    """
    network = TorchNetwork(find_weights(name), device=device)
    for label in classes:
        require_choice("--class", label, network.classes)
    pixels = read_image(image)
    faces = Recognizer([network]).predict(pixels, detect)
    if not faces:
        raise UserError(f"{_title(image)}: no face detected; --no-detect classifies the central square as one face")
    shown = min(MOST_FACES, MOST_ROWS // (1 + len(dict.fromkeys(classes))))
    if not shown:
        raise UserError(f"--class: {len(classes):,} classes; at most {MOST_ROWS - 1} fit in a picture")
    rows = [(face, label) for face in faces[:shown] for label in dict.fromkeys((face.label, *classes))]
    boxes, tilts = [face.box for face, _ in rows], [face.tilt for face, _ in rows]
    cropped = crop_faces(pixels, boxes, network.side, tilts, network.channels)
    ids = np.array([network.classes.index(label) for _, label in rows], np.int64)  # [N]
    maps = [network.heatmaps(cropped, ids, method) for method in get_args(Method)]  # for each method [N, side, side]
    figure = Figure((11, 2.3 * len(rows) + 0.5), layout="constrained")
    if len(faces) > shown:
        figure.suptitle(f"the first {shown} of {len(faces)} faces, row by row from left to right")
    subfigures = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for subfigure, (face, label), *heatmaps in zip(subfigures, rows, *maps, strict=True):
        _draw_row(subfigure, crop_square(pixels, face.box, FACE_SIDE, face.tilt), face, label, heatmaps)
    return figure, faces


def _draw_row(
    row: SubFigure, pixels: NDArray[np.uint8], face: Face, label: str, heatmaps: Sequence[NDArray[np.float32]]
) -> None:
    panels = row.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.5))
    between = " " if len(label) <= LONGEST_TITLE else "\n"
    titles = ("", *(f"{TITLES[method]}:{between}{short_name(label, LONGEST_NAME)}" for method in get_args(Method)))
    for axes, title, heatmap in zip(panels, titles, (None, *heatmaps), strict=False):
        axes.imshow(pixels)
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_axis_off()
        if heatmap is not None:
            enlarged = Image.fromarray(heatmap).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC)
            smooth = np.asarray(enlarged).clip(0, 1)  # [FACE_SIDE, FACE_SIDE]
            axes.imshow(smooth, "inferno", alpha=0.75 * smooth, vmin=0, vmax=1)
    _draw_bars(panels[-1], face, label)


def _draw_bars(axes: Any, face: Face, label: str) -> None:
    highest = sorted(face.probabilities, key=lambda name: (name != label, -face.probabilities[name]))[:MOST_BARS]
    names = [name for name in face.probabilities if name in highest]
    values = [face.probabilities[name] for name in names]
    bars = axes.barh(range(len(names)), values, color=[ORANGE if name == label else LIGHT_BLUE for name in names])
    axes.set_yticks(range(len(names)), [short_name(name, LONGEST_NAME) for name in names], parse_math=False)
    axes.bar_label(bars, [f"{value:.0%}" for value in values], padding=3, fontsize=8)
    axes.set_xlim(0, 1.15)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def _title(image: ImageInput) -> str:
    return str(image) if isinstance(image, str | Path) else "image"
