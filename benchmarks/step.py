"""What training costs beyond the network's own work.

Times the scratch CNN at the report's batch of 64 two ways, in turn: the bare forward, backward and optimiser step on
one fixed batch that already lies in place, and whole epochs under the Trainer with loading, shuffling, augmentation,
metrics and logging. Prints medians and writes them as JSON, with versions and hardware.

    python benchmarks/step.py --out benchmarks/step.json
    python benchmarks/step.py trainer.precision=bf16-mixed --out benchmarks/step_bf16.json

Data is drawn unless data=fer2013 is among the settings. The reference runs on the CPU.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning import Callback
from omegaconf import DictConfig

from emotion.config import conf_dir, register_resolvers
from emotion.data.datamodule import EmotionDataModule
from emotion.training.environment import describe_environment
from emotion.training.folder import RunFolder
from emotion.training.run import build_task, build_trainer

STEPS = 100
WARM_UP = 10


class Clock(Callback):
    """Times the steps of an epoch after a warm-up."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP + STEPS - 1:
            self.seconds = (time.perf_counter() - self.start) / STEPS


def bare_step(config: DictConfig, data: EmotionDataModule) -> float:
    """Returns seconds of a step on one fixed batch, already augmented."""
    task = build_task(config, data)
    batch = next(iter(data.train_dataloader()))
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
            loss = F.cross_entropy(task.network(batch.inputs), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / STEPS


def trained_step(config: DictConfig, data: EmotionDataModule) -> float:
    """Returns seconds of a step under the Trainer, from batch to batch."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, RunFolder(Path(folder)), [clock])
        trainer.fit(build_task(config, data), data)
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    register_resolvers()
    limits = ["trainer.max_epochs=1", f"trainer.limit_train_batches={WARM_UP + STEPS}", "trainer.limit_val_batches=2"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = ["data=synthetic", "synthetic_images=12000", "trainer.accelerator=cpu", "balance=none", *limits]
        config = compose("config", [*words, *options.settings])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = EmotionDataModule(data=config.data, data_dir=config.data_dir, synthetic_images=12000, balance="none")
    pairs = [(bare_step(config, data), trained_step(config, data)) for _ in range(options.rounds)]
    trained = statistics.median(times[1] for times in pairs)
    result = {
        "batch_size": config.batch_size,
        "bare_step_ms": [round(1e3 * times[0], 2) for times in pairs],
        "trained_step_ms": [round(1e3 * times[1], 2) for times in pairs],
        "images_per_second": round(config.batch_size / trained, 1),
        "overhead": round(statistics.median(trained / bare for bare, trained in pairs) - 1, 4),
        "peak_memory_above_imports_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
        "environment": describe_environment(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
