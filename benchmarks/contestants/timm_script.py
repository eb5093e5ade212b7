"""timm's training script on the same folders, with the project's network in timm's registry.

The script has no class weights and no affine augmentation; its random crop is the closest: shift and zoom, no rotation.

Older scripts without --device and --input-img-mode run too: the defaults of their functions get the job's values here.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from environments import describe_script
from measurement import Clock, run_contestant
from timm.models import register_model
from torch.optim.optimizer import register_optimizer_step_post_hook
from workloads import EPSILON, IMAGE_SIZE, LEARNING_RATE, ZOOM, Job

from contestants.limit import count_images
from contestants.pytorch import DEVICE, build, measured, start_clock
from emotion.data.classes import CLASSES
from emotion.models.network import Network

IMAGE_MODES = {1: "L", 3: "RGB"}
"""Pillow's image mode by number of channels."""


def main(job: Job) -> dict[str, Any]:
    """Trains for the epochs of the job and returns the measurement."""
    clock = start_clock(job)
    register_optimizer_step_post_hook(clock.step_ends)
    network = build(job.network)
    register(network, job.network.channels)
    script = load_script(Path(job.script))
    # The script leaves out the last batch of an epoch if it is not full.
    images = count_images(Path(job.data, "train")) // job.batch_size * job.batch_size
    script.create_dataset = with_defaults(script.create_dataset, input_img_mode=IMAGE_MODES[job.network.channels])
    epoch = with_defaults(script.train_one_epoch, device=DEVICE)
    script.train_one_epoch = _before(lambda: clock.epoch_begins(images), epoch)
    script.validate = _timed_validation(clock, with_defaults(script.validate, device=DEVICE))
    with tempfile.TemporaryDirectory() as output:
        # The device is in a configuration file, since older scripts have no --device.
        config = Path(output, "config.yaml")
        config.write_text(f"device: {DEVICE.type}\n")
        sys.argv = ["train.py", *script_options(job), "--config", str(config), "--output", output]
        script.main()
        clock.finish()
    return measured(clock, network, describe(job), ["timm", "torchvision"])


def describe(job: Job) -> str:
    """Returns a note on the origin of the script and its differences from the recipe."""
    return (
        f"{describe_script(Path(job.script))}; {job.workers} loader processes; no class weights; "
        "augmented by random crops of 72 to 100 % of the area"
    )


def register(network: Network, channels: int) -> None:
    """Registers the network in timm under the name `emotion`."""
    network.num_classes = len(CLASSES)  # type: ignore[assignment]
    network.pretrained_cfg = {"input_size": (channels, IMAGE_SIZE, IMAGE_SIZE)}  # type: ignore[assignment]

    def emotion(pretrained: bool = False, **options: Any) -> Network:
        return network

    register_model(emotion)


def load_script(path: Path) -> Any:
    """Imports a script as a module, without running its main function."""
    spec = importlib.util.spec_from_file_location("timm_train", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def with_defaults(function: Callable[..., Any], **defaults: Any) -> Callable[..., Any]:
    """Returns the function with new defaults; defaults of parameters that it does not have are ignored."""
    parameters = signature(function).parameters
    return partial(function, **{name: value for name, value in defaults.items() if name in parameters})


def script_options(job: Job) -> list[str]:
    """Returns the script's arguments for the recipe of the other contestants, as far as the script supports it."""
    channels = job.network.channels
    options: dict[str, Any] = {
        "--data-dir": job.data,
        "--train-split": "train",
        "--val-split": "val",
        "--model": "emotion",
        "--num-classes": len(CLASSES),
        "--input-size": [channels, IMAGE_SIZE, IMAGE_SIZE],
        "--mean": [0.0] * channels,
        "--std": [1.0] * channels,
        "--crop-pct": 1.0,
        "--interpolation": "bilinear",
        "--train-interpolation": "bilinear",
        "--scale": [(1 - ZOOM) ** 2, 1.0],
        "--ratio": [1.0, 1.0],
        "--hflip": 0.0,
        "--color-jitter": 0.0,
        "--smoothing": 0.0,
        "--batch-size": job.batch_size,
        "--epochs": job.epochs,
        "--opt": "adam",
        "--opt-eps": EPSILON,
        "--opt-kwargs": "fused=True",
        "--weight-decay": 0.0,
        "--lr": LEARNING_RATE,
        "--sched": "step",
        "--decay-epochs": 1000,
        "--warmup-epochs": 0,
        "--cooldown-epochs": 0,
        "--checkpoint-hist": 1,
        "--workers": job.workers,
    }
    values = {key: value if isinstance(value, list) else [value] for key, value in options.items()}
    arguments = [str(argument) for key, value in values.items() for argument in (key, *value)]
    return [*arguments, "--channels-last", *["--amp", "--amp-dtype", "bfloat16"] * job.mixed]


def _before(action: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        action()
        return function(*arguments, **options)

    return wrapped


def _timed_validation(clock: Clock, validate: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        clock.validation_begins()
        result = validate(*arguments, **options)
        clock.validation_ends()
        return result

    return timed


if __name__ == "__main__":
    run_contestant(main)
