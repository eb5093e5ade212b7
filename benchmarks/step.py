"""Measures the overhead of training: the time of a step beyond the network's computations.

Trains the CNN with the Trainer, including loading, shuffling, augmentation, metrics and logging, and adds up the time
of the forward pass, the backward pass and the optimiser within the same steps; the rest is overhead. Both are measured
in one process, so that a busy machine slows both down equally. Writes JSON with versions and hardware.

    python benchmarks/step.py --out benchmarks/results/step.json

The data are drawn faces unless the settings contain data=fer2013. Only for CPUs: GPU work is asynchronous, and these
clocks do not wait for it.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import resolve_precision
from lightning import Callback

from emotion.config import compose, read
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import exit_on_user_error
from emotion.settings import Settings
from emotion.training.environment import describe_environment
from emotion.training.folder import RunFolder
from emotion.training.prepared import build_task
from emotion.training.trainer import build_trainer

STEPS = 100
WARM_UP = 10


class Clock(Callback):
    """Adds up the time of the network's computations, and of whole steps, after a warm-up."""

    def __init__(self) -> None:
        self.network, self.total, self.began = 0.0, 0.0, 0.0

    def start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.network += time.perf_counter() - self.began

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.network.register_forward_pre_hook(self.start)
        pl_module.network.register_forward_hook(self.stop)
        trainer.optimizers[0].register_step_post_hook(self.stop)

    def on_before_backward(self, *_: Any) -> None:
        self.start()

    def on_after_backward(self, *_: Any) -> None:
        self.stop()

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.start()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.network, self.total = 0.0, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP + STEPS - 1:
            self.total = time.perf_counter() - self.total
            self.measured = self.network


def measure(settings: Settings, data: EmotionDataModule) -> tuple[float, float]:
    """Returns the seconds of a step, and those of the network's computations in it."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(settings, RunFolder(Path(folder)), [clock])
        trainer.fit(build_task(settings, data), data)
    return clock.total / STEPS, clock.measured / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings as for train.py")
    parser.add_argument("--rounds", type=int, default=3, help="number of trainings to measure (3)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    limits = ["trainer.max_epochs=1", f"trainer.limit_train_batches={WARM_UP + STEPS}", "trainer.limit_val_batches=2"]
    words = ["data=synthetic", "balance=none", *limits, *options.settings]
    # Enough for all steps: more than half of the drawn faces train.
    images = max(12_000, 2 * (WARM_UP + STEPS) * read(compose(*words)).batches.batch_size)
    settings = read(compose(f"synthetic_images={images}", *words))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = EmotionDataModule(settings.data, settings.batches, settings.augmentation, settings.run.seed)
    rounds = [measure(settings, data) for _ in range(options.rounds)]
    result = {
        "batch_size": settings.batches.batch_size,
        "precision": resolve_precision(str(settings.trainer.precision)),
        "step_ms": [round(1e3 * total, 2) for total, _ in rounds],
        "network_ms": [round(1e3 * network, 2) for _, network in rounds],
        "images_per_second": round(settings.batches.batch_size / statistics.median(total for total, _ in rounds), 1),
        "overhead_share": round(statistics.median(1 - network / total for total, network in rounds), 4),
        "peak_memory_above_imports_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
        "environment": describe_environment(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
