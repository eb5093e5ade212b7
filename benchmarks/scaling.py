"""Measures how the cost of an epoch grows with the number of images, resident in memory and streamed from disk.

Trains on the same images repeated 1, 4 and 16 times, each in a new process. It measures the seconds of the second epoch
without validation, and the largest memory after any step beyond that before the data was loaded. Memory includes pages
of mapped files: of resident images all, since training needs them; of streamed images few, since a chunk is unmapped
once it is copied. memory_budget=0 forces streaming. The file was just written, so the system still caches it. Writes
JSON and a plot.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Contents of the JSON file: `measurements`, a list of {storage, factor, images, seconds, memory_mib}; `environment`,
versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from matplotlib.figure import Figure
from measurement import MIB, Clock

from emotion.data.packed import PackedImages
from emotion.errors import exit_on_user_error
from emotion.palette import BLUE, ORANGE

FACTORS = (1, 4, 16)
BUDGETS = {"resident": "null", "streamed": "0"}
COLOURS = {"resident": BLUE, "streamed": ORANGE}


def measure(model: str, images: int, factor: int, storage: str) -> dict[str, Any]:
    """Trains two epochs in this process, as `train.py` does, on repeated drawn faces, and returns the measurement."""
    from lightning import Callback

    from emotion.config import compose, read
    from emotion.data.datamodule import EmotionDataModule
    from emotion.training import run
    from emotion.training.folder import RunFolder

    class Epochs(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            clock.epoch_begins(images * factor)

        def on_train_batch_end(self, *_: Any) -> None:
            memory.append(process.memory_info().rss)

        def on_validation_start(self, *_: Any) -> None:
            clock.finish()

    clock, process = Clock(time.time()), psutil.Process()
    memory: list[int] = []
    arguments = [f"model={model}", "data=synthetic", f"synthetic_images={2 * images}", "split=official"]
    limits = ["trainer.max_epochs=2", "trainer.limit_val_batches=2", f"memory_budget={BUDGETS[storage]}"]
    settings = read(compose(*arguments, *limits))
    source = EmotionDataModule(settings.data).packed
    before = process.memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        repeated = repeat(source, images, factor, Path(folder))
        with patch.object(EmotionDataModule, "packed", repeated):
            run.train(settings, RunFolder(Path(folder)), [Epochs()])
    return {
        "storage": storage,
        "factor": factor,
        "images": int((repeated.parts == "train").sum()),
        "seconds": round(clock.epochs[-1]["train_seconds"], 2),
        "memory_mib": round((max(memory) - before) / MIB),
    }


def repeat(source: PackedImages, images: int, factor: int, folder: Path) -> PackedImages:
    """Writes `images` training images `factor` times and the other images once, and maps the file as training does."""
    train, others = (np.flatnonzero((source.parts == "train") == is_train) for is_train in (True, False))
    rows = np.concatenate([np.resize(train[:images], images * factor), others])
    path = folder / "images.u8"
    with path.open("wb") as file:
        for part in np.array_split(rows, len(rows) // 4096 + 1):
            file.write(source.images[part].tobytes())
    pixels = np.memmap(path, np.uint8, "c", shape=(len(rows), *source.images.shape[1:]))
    arrays = {name: getattr(source, name)[rows] for name in ("labels", "parts", "names", "hashes")}
    return PackedImages(images=pixels, skipped=(), **arrays)


def scaling_figure(measurements: list[dict[str, Any]]) -> Figure:
    """Draws seconds and memory against the number of images, with the line through origin and first measurement."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2)
    for storage, colour in COLOURS.items():
        selected = [measured for measured in measurements if measured["storage"] == storage]
        images = [measured["images"] for measured in selected]
        for axes, key in zip(panels, ("seconds", "memory_mib"), strict=True):
            axes.plot(images, [measured[key] for measured in selected], "o-", color=colour, label=storage)
        panels[0].plot(
            [0, images[-1]],
            [0, selected[0]["seconds"] / images[0] * images[-1]],
            ":",
            color=colour,
            label=f"{storage}, 1x scaled",
        )
    for axes, title in zip(panels, ("seconds of an epoch", "largest memory above the start, MiB"), strict=True):
        axes.set(title=title, xlabel="training images", xlim=(0, None), ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn_111", help="model as for train.py (default: cnn_111)")
    parser.add_argument("--images", type=int, default=7000, help="training images without repetition (default: 7000)")
    parser.add_argument("--out", type=Path, help="JSON file to write, with the plot beside it")
    parser.add_argument("--one", nargs=2, metavar=("FACTOR", "STORAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.images, int(options.one[0]), options.one[1])))
        return
    from emotion.training.environment import describe_environment

    measurements = []
    for factor in FACTORS:
        for storage in BUDGETS:
            arguments = ["--model", options.model, "--images", str(options.images), "--one", str(factor), storage]
            done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
            measurements.append(json.loads(done.stdout.splitlines()[-1]))
            print(measurements[-1], flush=True)
    result = {"model": options.model, "measurements": measurements, "environment": describe_environment()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        scaling_figure(measurements).savefig(options.out.with_suffix(".png"))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
