"""The clock that every contestant carries, and the line of JSON that it prints.

Needs Python alone, since Keras runs in an environment without PyTorch.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workloads import Job

MIB = 2**20


class Clock:
    """Times start-up and epochs.

    An epoch lasts until the next one begins, so that logging and checkpoints count; what is not validation is training.
    `stolen_share` is the part of the processors' time that the host of a virtual machine gave to others meanwhile.

    Args:
        started: when the process was started, seconds since 1970.
        synchronize: waits for the device; called before every reading.
    """

    def __init__(self, started: float, synchronize: Callable[[], object] = lambda: None) -> None:
        self._started, self._synchronize = started, synchronize
        self._begun: float | None = None
        self._ticks = (0, 0)
        self.epochs: list[dict[str, float]] = []
        self.startup_seconds: float | None = None
        self.preparation_seconds = 0.0

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Times what is done once for all later runs on the same data; start-up does not contain it."""
        begun = self._now()
        yield
        self.preparation_seconds += self._now() - begun

    def step_ends(self, *_: object) -> None:
        """Ends the start-up, at the first step of the training."""
        if self.startup_seconds is None:
            self._synchronize()
            self.startup_seconds = time.time() - self._started - self.preparation_seconds

    def epoch_begins(self, images: int) -> None:
        """Begins an epoch of so many training images, and ends the one before."""
        self.finish()
        self._begun, self._ticks = self._now(), processor_ticks()
        self.epochs.append({"train_seconds": 0.0, "val_seconds": 0.0, "images": images, "stolen_share": 0.0})

    def validation_begins(self) -> None:
        """Begins the validation of an epoch."""
        self._validation_begun = self._now()

    def validation_ends(self) -> None:
        """Ends it."""
        self.epochs[-1]["val_seconds"] += self._now() - self._validation_begun

    def finish(self) -> None:
        """Ends the last epoch."""
        if self._begun is not None:
            self.epochs[-1]["train_seconds"] = self._now() - self._begun - self.epochs[-1]["val_seconds"]
            stolen, passed = (now - then for now, then in zip(processor_ticks(), self._ticks, strict=True))
            self.epochs[-1]["stolen_share"] = stolen / passed if passed else 0.0
            self._begun = None

    def _now(self) -> float:
        self._synchronize()
        return time.perf_counter()


def measurement(
    clock: Clock, *, parameters: int, packages: Sequence[str], note: str, device_bytes: int | None = None
) -> dict[str, Any]:
    """Returns what a contestant prints.

    Args:
        clock: after its last epoch.
        parameters: values of the network as Keras counts them.
        packages: those whose versions matter.
        note: how it differs from the others, in a sentence.
        device_bytes: the most memory that was in use on a GPU; None without one.
    """
    return {
        "epochs": clock.epochs,
        "startup_seconds": clock.startup_seconds,
        "preparation_seconds": clock.preparation_seconds,
        "peak_rss_mib": peak_rss() / MIB,
        "peak_device_mib": None if device_bytes is None else device_bytes / MIB,
        "parameters": parameters,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "note": note,
    }


def processor_ticks() -> tuple[int, int]:
    """Returns how long the host gave the processors to others, and how long there were any; (0, 0) if unknown."""
    try:
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return stolen, user + nice + system + idle + waiting + irq + softirq + stolen


def peak_rss() -> int:
    """Returns the most memory, bytes, that this process had in use; those that it started count for themselves."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage there, whose figure a process inherits from the one that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_contestant(contestant: Callable[[Job], dict[str, Any]]) -> None:
    """Runs the program of a contestant: a job from the command line, its measurement as the last line of output."""
    print(json.dumps(contestant(Job.from_json(sys.argv[1]))), flush=True)
