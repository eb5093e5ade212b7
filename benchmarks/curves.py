"""Compares trainings with several values of one setting.

Trains on a subset of FER2013's training images (or on drawn faces) with each value and several seeds, validates on
another subset of them, and writes the accuracy after every epoch, as JSON and as a plot. The values may be those of
`feature_views`: features of K augmented views of each image, or 0, images that are augmented in each epoch.

    python benchmarks/curves.py weights=<file> --out benchmarks/results/curves.json

Contents of the JSON file: `curves`, the accuracies [epochs] of each seed by value; `dead_channels`, in the same form,
the share of the channels of the last trained convolution that are 0 on all validation images after ReLU; `images`,
`settings`; `environment`, versions and hardware.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench import data_dir
from faces import write_folders
from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

from emotion.config import compose, read
from emotion.errors import exit_on_user_error
from emotion.training import run
from emotion.training.environment import describe_environment
from emotion.training.folder import RunFolder, write_json

Curves = Mapping[str, Sequence[Sequence[float]]]


class Validations(Callback):
    """Keeps the validation accuracy of every epoch, and the share of dead channels.

    A channel of the last convolution is dead if ReLU makes it 0 in every place of all images. There is no share if this
    convolution is frozen, or if a normalisation stands between it and ReLU.
    """

    def __init__(self) -> None:
        self.accuracies: list[float] = []
        self.dead_channels: list[float] = []
        self._alive: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches the last convolution of the network."""
        pairs = [*itertools.pairwise(pl_module.modules())]
        last, after = [pair for pair in pairs if isinstance(pair[0], nn.Conv2d)][-1]
        if last.weight.requires_grad and isinstance(after, nn.ReLU):
            last.register_forward_hook(self._watch)

    def _watch(self, convolution: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        if not convolution.training:
            alive = (maps > 0).any(dim=3).any(dim=2).any(dim=0)  # [C], of maps [B, C, H, W]
            self._alive = alive if self._alive is None else self._alive | alive

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the result of the validation that ended."""
        self.accuracies.append(round(float(trainer.callback_metrics["val/acc"]), 4))
        if self._alive is not None:
            self.dead_channels.append(round(1 - self._alive.float().mean().item(), 4))
        self._alive = None


def train(arguments: Sequence[str]) -> Validations:
    """Trains as `train.py` does with these arguments, and returns the results of the validations."""
    validations = Validations()
    with tempfile.TemporaryDirectory() as folder:
        run.train(read(compose(*arguments)), RunFolder(Path(folder)), [validations])
    return validations


def curves_figure(curves: Curves, setting: str) -> Figure:
    """Draws mean and range over seeds of the accuracy, for each value of a setting."""
    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for value, seeds in curves.items():
        values, epochs = np.array(seeds), range(1, len(seeds[0]) + 1)
        (line,) = axes.plot(epochs, values.mean(0), label=f"{setting}={value}")
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
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
    vary = ("feature_views", "0", "1", "3", "8")
    add("--vary", nargs="+", default=vary, help=f"a setting and its values ({' '.join(vary)})")
    add("--seeds", type=int, default=3, help="runs of each curve (3)")
    add("--epochs", type=int, default=10, help="epochs of each run (10)")
    add("--out", type=Path, help="JSON file to write, with the plot beside it")
    options = parser.parse_args()
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        images = write_folders(Path(folder), options.data, data_dir(), options.images)
        fixed = [f"model={options.model}", "data=folder", f"data_dir={folder}", "split=official", "patience=null"]
        fixed += [f"trainer.max_epochs={options.epochs}", *options.settings]
        setting, *values = options.vary
        curves: dict[str, list[list[float]]] = {value: [] for value in values}
        dead: dict[str, list[list[float]]] = {value: [] for value in curves}
        for seed in range(options.seeds):
            for value in curves:
                trained = train([*fixed, f"seed={seed}", f"{setting}={value}"])
                curves[value].append(trained.accuracies)
                dead[value].append(trained.dead_channels)
                print(f"seed {seed}, {setting}={value}:", *trained.accuracies, flush=True)
    settings = {"model": options.model, "data": options.data, "words": options.settings}
    results = {"curves": curves, "dead_channels": dead, "images": images, "settings": settings}
    print(json.dumps({value: np.array(seeds).mean(0)[-1] for value, seeds in curves.items()}))
    if options.out:
        write_json(options.out, {**results, "environment": describe_environment()})
        curves_figure(curves, setting).savefig(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
