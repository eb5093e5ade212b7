"""Compares training on features of K augmented views with training on images that are augmented in each epoch.

Trains a frozen backbone on a subset of FER2013 (or on drawn faces) with several values of `feature_views` and seeds,
and writes the validation accuracy after every epoch, as JSON and as a plot.

    python benchmarks/curves.py weights=<file> --out benchmarks/results/curves.json

Contents of the JSON file: `curves`, the accuracies [epochs] of each seed by number of views (0: images); `images`,
`settings`; `environment`, versions and hardware.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench import data_dir
from faces import write_folders
from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emotion.config import compose, read
from emotion.errors import exit_on_user_error
from emotion.training import run
from emotion.training.environment import describe_environment
from emotion.training.folder import RunFolder, write_json

LABELS = {"0": "images, augmented anew", "1": "1 view"}
Curves = Mapping[str, Sequence[Sequence[float]]]


class Accuracies(Callback):
    """Keeps the validation accuracy of every epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the accuracy of the validation that ended."""
        self.values.append(round(float(trainer.callback_metrics["val/acc"]), 4))


def train(arguments: Sequence[str]) -> list[float]:
    """Trains as `train.py` does with these arguments, and returns the validation accuracy after each epoch."""
    accuracies = Accuracies()
    with tempfile.TemporaryDirectory() as folder:
        run.train(read(compose(*arguments)), RunFolder(Path(folder)), [accuracies])
    return accuracies.values


def curves_figure(curves: Curves) -> Figure:
    """Draws mean and range over seeds of the accuracy, for each number of views."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for views, seeds in curves.items():
        values, epochs = np.array(seeds), range(1, len(seeds[0]) + 1)
        (line,) = axes.plot(epochs, values.mean(0), label=LABELS.get(views, f"{views} views"))
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("settings", nargs="*", help="settings as for train.py")
    add("--model", default="vgg16_fe", help="model as for train.py (vgg16_fe)")
    add("--data", choices=("fer2013", "synthetic"), default="fer2013", help="source of the images (fer2013)")
    add("--images", type=int, default=2560, help="training images, and a quarter as many for validation (2560)")
    add("--views", type=int, nargs="+", default=[0, 1, 3, 8], help="feature_views of each curve (0 1 3 8)")
    add("--seeds", type=int, default=3, help="runs of each curve (3)")
    add("--epochs", type=int, default=10, help="epochs of each run (10)")
    add("--out", type=Path, help="JSON file to write, with the plot beside it")
    options = parser.parse_args()
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        images = write_folders(Path(folder), options.data, data_dir(), options.images)
        fixed = [f"model={options.model}", "data=folder", f"data_dir={folder}", "split=official", "patience=null"]
        fixed += [f"trainer.max_epochs={options.epochs}", *options.settings]
        curves: dict[str, list[list[float]]] = {str(views): [] for views in options.views}
        for seed in range(options.seeds):
            for views in options.views:
                curves[str(views)].append(train([*fixed, f"seed={seed}", f"feature_views={views}"]))
                print(f"seed {seed}, feature_views={views}:", *curves[str(views)][-1], flush=True)
    settings = {"model": options.model, "data": options.data, "words": options.settings}
    result = {"curves": curves, "images": images, "settings": settings, "environment": describe_environment()}
    print(json.dumps({views: np.array(seeds).mean(0)[-1] for views, seeds in curves.items()}))
    if options.out:
        write_json(options.out, result)
        curves_figure(curves).savefig(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
