"""Rounds of processes: every contestant once a round, one at a time, each round beginning with another one."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from summary import MOST_STOLEN, figures, stolen_share
from workloads import Job

HERE = Path(__file__).parent
LONGEST = 3600
"""Seconds after which a contestant counts as failed."""


@dataclass(frozen=True)
class Contestant:
    """A program that trains.

    Attributes:
        name: what it is called in the results.
        program: its module.
        python: what runs it.
        script: the script of others that it runs, if it does.
        missing: why it cannot take part; None if it can.
    """

    name: str
    program: str
    python: Path = Path(sys.executable)
    script: str = ""
    missing: str | None = None


def run_rounds(contestants: Sequence[Contestant], job: Job, rounds: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Yields for each round the measurement of every contestant, or `{"error": why there is none}`.

    Stops after `rounds` rounds that nobody disturbed (`summary.MOST_STOLEN`), or else after twice as many.
    """
    calm = 0
    for number in range(2 * rounds):
        first = number % len(contestants)
        order = [*contestants[first:], *contestants[:first]]
        runs = {contestant.name: run_process(contestant, job) for contestant in order}
        yield runs
        calm += stolen_share(runs.values()) <= MOST_STOLEN
        if calm == rounds:
            return


def run_process(contestant: Contestant, job: Job) -> dict[str, Any]:
    """Runs a contestant in a process of its own; whatever goes wrong there is returned as `{"error": ...}`."""
    if contestant.missing:
        return {"error": contestant.missing}
    command = [str(contestant.python), "-m", contestant.program]
    timed = replace(job, script=contestant.script, started=time.time())
    try:
        result = subprocess.run([*command, timed.to_json()], cwd=HERE, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {LONGEST} s"}
    if result.returncode:
        return {"error": (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]}
    return _checked(result.stdout, job)


def _checked(output: str, job: Job) -> dict[str, Any]:
    """Reads the measurement in the last line; one of another network does not count."""
    try:
        measured: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        parameters, expected = measured["parameters"], job.network.parameters
    except (IndexError, KeyError, TypeError, ValueError):
        return {"error": "it printed no measurement"}
    if parameters != expected:
        return {"error": f"it trained a network of {parameters:,} parameters, not {expected:,}"}
    return measured


def choose_workers(plain: Contestant, job: Job, candidates: Sequence[int]) -> dict[int, float]:
    """Returns seconds per epoch of the plain loop for each number of loader processes that works."""
    tried = {workers: figures(run_process(plain, replace(job, workers=workers, epochs=2))) for workers in candidates}
    return {workers: own["seconds_per_epoch"] for workers, own in tried.items() if own}
