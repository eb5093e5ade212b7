"""Rounds: each contestant runs once in a round, one process at a time; each round starts with another contestant."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from summary import MAX_STOLEN_SHARE, process_metrics, stolen_share
from workloads import Job

HERE = Path(__file__).parent
TIMEOUT = 3600
"""Seconds after which a contestant counts as failed."""


@dataclass(frozen=True)
class Contestant:
    """A program that trains.

    Attributes:
        name: name in the results.
        program: module to run.
        python: path of the interpreter that runs the module.
        script: path of an external script that the module runs; empty for none.
        missing: reason why the contestant cannot run; None if it can.
    """

    name: str
    program: str
    python: Path = Path(sys.executable)
    script: str = ""
    missing: str | None = None


def run_rounds(contestants: Sequence[Contestant], job: Job, rounds: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Yields for each round the measurement of every contestant, or `{"error": message}` if it failed.

    Stops after `rounds` undisturbed rounds (see `summary.MAX_STOLEN_SHARE`), or after twice as many rounds.
    """
    undisturbed = 0
    for number in range(2 * rounds):
        first = number % len(contestants)
        order = [*contestants[first:], *contestants[:first]]
        runs = {contestant.name: run_process(contestant, job) for contestant in order}
        yield runs
        undisturbed += stolen_share(runs.values()) <= MAX_STOLEN_SHARE
        if undisturbed == rounds:
            return


def run_process(contestant: Contestant, job: Job) -> dict[str, Any]:
    """Runs a contestant in a new process and returns its measurement, or `{"error": message}` after any failure."""
    if contestant.missing:
        return {"error": contestant.missing}
    command = [str(contestant.python), "-m", contestant.program]
    timed = replace(job, script=contestant.script, started=time.time())
    try:
        result = subprocess.run([*command, timed.to_json()], cwd=HERE, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {TIMEOUT} s"}
    if result.returncode:
        return {"error": (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]}
    return _read_measurement(result.stdout, job)


def _read_measurement(output: str, job: Job) -> dict[str, Any]:
    """Returns the measurement in the last line of output, or an error if it is of a network of another size."""
    try:
        measured: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        parameters, expected = measured["parameters"], job.network.parameters
    except (IndexError, KeyError, TypeError, ValueError):
        return {"error": "no measurement in the output"}
    if parameters != expected:
        return {"error": f"network: {parameters:,} parameters, must be {expected:,}"}
    return measured


def choose_workers(plain: Contestant, job: Job, candidates: Sequence[int]) -> dict[int, float]:
    """Returns the seconds per epoch of the plain loop by the number of loader processes, without failed runs."""
    runs = {workers: run_process(plain, replace(job, workers=workers, epochs=2)) for workers in candidates}
    measured = {workers: process_metrics(run) for workers, run in runs.items()}
    return {workers: metrics["seconds_per_epoch"] for workers, metrics in measured.items() if metrics}
