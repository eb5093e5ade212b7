"""How the cost of an epoch grows with the number of images, resident in memory and streamed from disk.

Trains on the same images repeated 1, 4 and 16 times, every measurement in a process of its own: seconds of the second
epoch (training alone) and the most memory above what the process had before its data, looked at after every step.
Pages of mapped files count where images are resident, since training needs them; where they are streamed the process
unmaps a chunk once it is copied. Streaming is forced with memory_budget=0; the file was just written, so the system
still holds it in memory. Writes a JSON and a plot.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

The JSON: `measurements` is a list of {storage, factor, images, seconds, memory_mib}, `environment` the versions and the
hardware.
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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measurement import MIB, Clock

from emotion.data.packed import PackedImages
from emotion.palette import BLUE, ORANGE

FACTORS = (1, 4, 16)
BUDGETS = {"resident": "null", "streamed": "0"}
COLOURS = {"resident": BLUE, "streamed": ORANGE}


def measure(model: str, images: int, factor: int, storage: str) -> dict[str, Any]:
    """Trains two epochs in this process, as `train.py` does, on drawn faces that are repeated."""
    from lightning import Callback

    from emotion.config import compose
    from emotion.data.datamodule import EmotionDataModule
    from emotion.training import run
    from emotion.training.folder import RunFolder

    class Epochs(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            clock.epoch_begins(images * factor)

        def on_train_batch_end(self, *_: Any) -> None:
            held.append(process.memory_info().rss)

        def on_validation_start(self, *_: Any) -> None:
            clock.finish()

    clock, process, held = Clock(time.time()), psutil.Process(), []
    words = [f"model={model}", "data=synthetic", f"synthetic_images={2 * images}", "split=official"]
    limits = ["trainer.max_epochs=2", "trainer.limit_val_batches=2", f"memory_budget={BUDGETS[storage]}"]
    config = compose(*words, *limits)
    source = EmotionDataModule(data="synthetic", synthetic_images=2 * images).packed
    before = process.memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        repeated = repeat(source, images, factor, Path(folder))
        with patch.object(EmotionDataModule, "packed", repeated):
            run.train(config, RunFolder(Path(folder)), [Epochs()])
    return {
        "storage": storage,
        "factor": factor,
        "images": int((repeated.parts == "train").sum()),
        "seconds": round(clock.epochs[-1]["train_seconds"], 2),
        "memory_mib": round((max(held) - before) / MIB),
    }


def repeat(source: PackedImages, images: int, factor: int, folder: Path) -> PackedImages:
    """Writes the training images so often, and the others once, and maps them as training does."""
    train, rest = (np.flatnonzero((source.parts == "train") == is_train) for is_train in (True, False))
    rows = np.concatenate([np.resize(train[:images], images * factor), rest])
    path = folder / "images.u8"
    with path.open("wb") as file:
        for part in np.array_split(rows, len(rows) // 4096 + 1):
            file.write(source.images[part].tobytes())
    pixels = np.memmap(path, np.uint8, "c", shape=(len(rows), *source.images.shape[1:]))
    arrays = {name: getattr(source, name)[rows] for name in ("labels", "parts", "names", "hashes")}
    return PackedImages(images=pixels, skipped=(), **arrays)


def scaling_figure(measurements: list[dict[str, Any]]) -> Figure:
    """Draws seconds and memory against the number of images, with the line through the origin that fits the first."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for storage, colour in COLOURS.items():
        own = [one for one in measurements if one["storage"] == storage]
        images = [one["images"] for one in own]
        for axes, key in zip(panels, ("seconds", "memory_mib"), strict=True):
            axes.plot(images, [one[key] for one in own], "o-", color=colour, label=storage)
        panels[0].plot(
            [0, images[-1]],
            [0, own[0]["seconds"] / images[0] * images[-1]],
            ":",
            color=colour,
            label=f"{storage}, 1x scaled",
        )
    for axes, title in zip(panels, ("seconds of an epoch", "MiB above the start, at most"), strict=True):
        axes.set(title=title, xlabel="training images", xlim=(0, None), ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn_111", help="as for train.py (default: cnn_111)")
    parser.add_argument("--images", type=int, default=7000, help="training images at 1x (default: 7000)")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--one", nargs=2, metavar=("FACTOR", "STORAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.images, int(options.one[0]), options.one[1])))
        return
    from emotion.training.environment import describe_environment

    measurements = []
    for factor in FACTORS:
        for storage in BUDGETS:
            words = ["--model", options.model, "--images", str(options.images), "--one", str(factor), storage]
            done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
            measurements.append(json.loads(done.stdout.splitlines()[-1]))
            print(measurements[-1], flush=True)
    result = {"model": options.model, "measurements": measurements, "environment": describe_environment()}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        scaling_figure(measurements).savefig(options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
