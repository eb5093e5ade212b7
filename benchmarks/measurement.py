"""The clock of every contestant, and the measurement that it prints as a line of JSON.

The module needs only Python, since Keras runs in an environment without PyTorch.
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
    """Measures the times of start-up, epochs and validations.

    An epoch ends when the next one begins, so that it includes logging and checkpoints; its time without validation is
    training time. `stolen_share` is the share of processor time that the host gave to other virtual machines.

    Args:
        started: start time of the process, seconds since 1970.
        synchronize: waits until the device has finished; called before every reading.
    """

    def __init__(self, started: float, synchronize: Callable[[], object] = lambda: None) -> None:
        self._started, self._synchronize = started, synchronize
        self._began: float | None = None
        self._ticks = (0, 0)
        self.epochs: list[dict[str, float]] = []
        self.startup_seconds: float | None = None
        self.preparation_seconds = 0.0

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Measures work that later runs on the same data reuse; it is not part of start-up."""
        began = self._now()
        yield
        self.preparation_seconds += self._now() - began

    def step_ends(self, *_: object) -> None:
        """Ends the start-up when the first training step has ended."""
        if self.startup_seconds is None:
            self._synchronize()
            self.startup_seconds = time.time() - self._started - self.preparation_seconds

    def epoch_begins(self, images: int) -> None:
        """Ends the previous epoch and begins an epoch of `images` training images."""
        self.finish()
        self._began, self._ticks = self._now(), processor_ticks()
        self.epochs.append({"train_seconds": 0.0, "val_seconds": 0.0, "images": images, "stolen_share": 0.0})

    def validation_begins(self) -> None:
        """Begins the validation of an epoch."""
        self._validation_began = self._now()

    def validation_ends(self) -> None:
        """Ends the validation of an epoch."""
        self.epochs[-1]["val_seconds"] += self._now() - self._validation_began

    def finish(self) -> None:
        """Ends the last epoch."""
        if self._began is not None:
            self.epochs[-1]["train_seconds"] = self._now() - self._began - self.epochs[-1]["val_seconds"]
            stolen, passed = (now - then for now, then in zip(processor_ticks(), self._ticks, strict=True))
            self.epochs[-1]["stolen_share"] = stolen / passed if passed else 0.0
            self._began = None

    def _now(self) -> float:
        self._synchronize()
        return time.perf_counter()


def measurement(
    clock: Clock, *, parameters: int, packages: Sequence[str], note: str, device_bytes: int | None = None
) -> dict[str, Any]:
    """Returns the measurement that a contestant prints.

    Args:
        clock: the clock after the last epoch.
        parameters: number of parameters of the network as Keras counts them.
        packages: names of the packages whose versions are recorded.
        note: the differences from the other contestants.
        device_bytes: peak GPU memory, bytes; None without a GPU.
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
    """Returns the ticks that the host gave to other virtual machines, and all ticks; (0, 0) if unknown."""
    try:
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return stolen, user + nice + system + idle + waiting + irq + softirq + stolen


def peak_rss() -> int:
    """Returns the peak memory of this process in bytes, without the processes that it started."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux, getrusage would return the peak of the parent process if that is larger.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_contestant(contestant: Callable[[Job], dict[str, Any]]) -> None:
    """Runs a contestant on the job in the command line, and prints its measurement as the last line of output."""
    print(json.dumps(contestant(Job.from_json(sys.argv[1]))), flush=True)
