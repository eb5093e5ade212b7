import subprocess
import sys
from pathlib import Path

import measurement
import pytest
from measurement import MIB, Clock, peak_rss, processor_ticks

BENCHMARKS = Path(measurement.__file__).parent


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which tests change."""
    time = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: time[0])
    monkeypatch.setattr("time.time", lambda: 1000.0 + time[0])
    monkeypatch.setattr(measurement, "processor_ticks", lambda: (0, 0))
    return time


def test_an_epoch_lasts_until_the_next(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(7, 100), (9, 108), (9, 108), (9, 120)])
    monkeypatch.setattr(measurement, "processor_ticks", lambda: next(ticks))
    clock = Clock(started=1000.0)
    clock.epoch_begins(64)
    now[0] += 5
    clock.validation_begins()
    now[0] += 2
    clock.validation_ends()
    now[0] += 1  # a checkpoint
    clock.epoch_begins(32)
    now[0] += 3
    clock.finish()
    now[0] += 9
    clock.finish()
    assert clock.epochs == [
        {"train_seconds": 6.0, "val_seconds": 2.0, "images": 64, "stolen_share": 0.25},
        {"train_seconds": 3.0, "val_seconds": 0.0, "images": 32, "stolen_share": 0.0},
    ]


def test_start_up_ends_with_the_first_step_and_leaves_preparation_out(now: list[float]) -> None:
    clock = Clock(started=1090.0)
    now[0] += 1
    with clock.preparing():
        now[0] += 20
    now[0] += 2
    clock.step_ends()
    now[0] += 50
    clock.step_ends()
    assert clock.startup_seconds == 13.0
    assert clock.preparation_seconds == 20.0


def test_every_reading_waits_for_the_device(now: list[float]) -> None:
    def wait() -> None:
        now[0] += 10  # work that the device has not finished

    clock = Clock(started=1100.0, synchronize=wait)
    clock.epoch_begins(1)
    clock.step_ends()
    clock.validation_begins()
    clock.validation_ends()
    clock.finish()
    assert clock.startup_seconds == 20.0
    assert clock.epochs == [{"train_seconds": 30.0, "val_seconds": 10.0, "images": 1, "stolen_share": 0.0}]


def test_peak_memory_excludes_parent_and_child_processes() -> None:
    ballast = bytearray(300 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "import measurement; block = bytearray(50 * 2**20); print(measurement.peak_rss())"
    parent = peak_rss()
    child = int(subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, check=True).stdout)
    assert parent > 300 * MIB
    assert 50 * MIB < child < 200 * MIB


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="needs Linux's /proc/stat")
def test_stolen_ticks_are_a_part_of_all_ticks() -> None:
    stolen, passed = processor_ticks()
    assert 0 <= stolen < passed


@pytest.mark.parametrize("text", [None, "", "cpu 1 2", "intr 1 2 3 4 5 6 7 many"])
def test_without_statistics_of_the_system_nothing_was_stolen(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(measurement, "Path", lambda _: path)
    assert processor_ticks() == (0, 0)
