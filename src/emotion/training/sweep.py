"""A sweep: lists its runs, launches those that are not finished, and reports the outcome of each."""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, Literal, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emotion.config import distinguishing, read
from emotion.errors import UserError, exit_on_user_error, first_line
from emotion.overrides import quote_argument, quoted, require_effect, values_of
from emotion.settings import Settings, TrainerSettings
from emotion.training.folder import RunFolder, read_json

Compose = Callable[[list[str]], DictConfig]
Launch = Callable[..., Sequence[Any]]
Outcome = Literal["ran", "skipped", "failed", "unfinished"]
log = logging.getLogger(__name__)
APART = "EMOTION_RUN_APART"
"""The variable by which a process knows that it runs one run of a sweep, which reads the error in the run's folder."""


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Attributes:
        overrides: the arguments of its command line.
        folder_override: the further argument that sets its folder.
        folder: its folder.
        finished: whether it was finished, with these settings, before the sweep began, and stays as it is.
        blocked: why it must not start, as its folder holds a run with other settings; empty if it may.
        written: when the metrics in its folder were written, in nanoseconds; 0 without metrics.
    """

    overrides: list[str]
    folder_override: str
    folder: RunFolder
    finished: bool
    blocked: str
    written: int

    @property
    def starts(self) -> bool:
        """Whether the sweep starts it."""
        return not (self.finished or self.blocked)


def sweep(arguments: list[str], compose: Compose, launch: Launch) -> None:
    """Runs every combination of settings, except finished runs, and prints a table of their outcomes.

    Args:
        arguments: arguments of the command line, some with several values.
        compose: composes the configuration of one run from its overrides.
        launch: Hydra's launcher, called with the overrides of all runs to start.

    Raises:
        SystemExit: the settings of a run are wrong, and none was started (status 2), or a run did not finish (1).
    """
    with exit_on_user_error():
        jobs = plan(arguments, compose)
    todo = [job for job in jobs if job.starts]
    for job in todo:
        job.folder.failure.unlink(missing_ok=True)
    log.info("%d runs, %d of them finished already", len(jobs), sum(job.finished for job in jobs))
    if todo:
        try:
            launch([[*job.overrides, job.folder_override] for job in todo], initial_job_idx=0)
        except Exception as error:
            # A launcher that loses a process raises the errors of its engine; the folders hold the outcome of each run.
            log.error("the launcher stopped: %s", first_line(error))
    outcomes = {job.folder.path: _outcome(job) for job in jobs}
    console = Console(stderr=True)
    console.print(_table(jobs, outcomes))
    for job in jobs:
        console.print(f"{_name(job, jobs)}: {job.folder.path}".removeprefix(": "), soft_wrap=True, markup=False)
    _log_failures(jobs)
    if set(outcomes.values()) & {"failed", "unfinished"}:
        log.error("not every run finished; the same command starts the unfinished ones again")
        raise SystemExit(1)


def plan(arguments: list[str], compose: Compose) -> list[Job]:
    """Returns the runs of a sweep, each once.

    The runs are all combinations of the values on the command line and those in the grid of an experiment or recipe
    (`hydra.sweeper.params`); a key on the command line replaces that of the grid. An experiment with
    `hydra.sweeper.parts` stands for the runs of its parts.

    Raises:
        UserError: the settings of a run are not legal, ask for several devices, or put it into the folder of another.
    """
    jobs: dict[Path, Job] = {}
    kept: dict[Path, dict[str, Any]] = {}
    every = (expanded for combination in _product(arguments) for expanded in _expand(combination, compose))
    for number, overrides in enumerate(every):
        # The launcher counts only the runs that it starts, so each run's number in the sweep is written in here.
        numbered = [override.replace("${hydra.job.num}", str(number)) for override in overrides]
        config = compose(numbered)
        config.hydra.job.num = number
        if config.resume:
            raise UserError(f"resume={config.resume}: continues only one run; leave out -m")
        settings = read(config)
        require_effect(numbered, settings.flat())
        _require_one_device(settings.trainer)
        path = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        values = distinguishing(settings.flat())
        if kept.setdefault(path, values) != values:
            raise UserError(
                f"{' '.join(overrides)}: has the folder {path} of another run; give each its own, as "
                "hydra.sweep.subdir='${hydra.job.num}'"
            )
        folder_override = f"hydra.sweep.subdir={quoted(str(config.hydra.sweep.subdir))}"
        folder = RunFolder(path)
        blocked = "" if config.overwrite else _why_blocked(folder, settings)
        finished = not config.overwrite and folder.is_finished(settings)
        job = Job(numbered, folder_override, folder, finished, blocked, _written(folder))
        jobs.setdefault(path, job)
    return list(jobs.values())


def _why_blocked(folder: RunFolder, settings: Settings) -> str:
    try:
        folder.require_same_run(settings)
    except UserError as error:
        return str(error)
    return ""


def _written(folder: RunFolder) -> int:
    return folder.metrics.stat().st_mtime_ns if folder.metrics.is_file() else 0


def run_apart(overrides: Sequence[str], folder: RunFolder, searched: Sequence[str] = ()) -> None:
    """Runs one run in a process of its own: an error that ends this process ends neither the launcher nor the sweep.

    Args:
        overrides: the arguments of its command line.
        folder: its folder.
        searched: further folders in which Hydra looks for models, recipes and experiments.
    """
    # The share of a GPU is the launcher's, without which the setting is refused.
    own = [override for override in overrides if _key(override) != "runs_per_gpu"]
    arguments = [*own, f"hydra.run.dir={quoted(str(folder.path))}"]
    if searched:
        arguments.append(f"hydra.searchpath=[{','.join(map(quoted, searched))}]")
    command = [sys.executable, "-m", "emotion.training.command", *arguments]
    status = subprocess.run(command, check=False, env=os.environ | {APART: "1"}).returncode
    if status and not folder.failure.is_file():
        # In a folder that is locked, another process trains this run.
        with suppress(UserError), folder.locked():
            folder.write_failure(f"the process ended with {_describe_exit(status)}")


def _expand(overrides: list[str], compose: Compose) -> list[list[str]]:
    sweeper = compose(overrides).hydra.sweeper
    given = {_key(override) for override in overrides}
    grid = [f"{key}={value}" for key, value in sweeper.params.items() if key not in given]
    if not sweeper.parts:
        return _product([*grid, *overrides])
    if {"experiment", "recipe"} <= given:
        raise UserError(f"{' '.join(overrides)}: experiment= and recipe= both choose the runs; give one of them")
    others = [override for override in overrides if _key(override) not in ("experiment", "recipe")]
    runs = (run for part in sweeper.parts for run in _product([*grid, *part.split(), *others]))
    return [expanded for run in runs for expanded in _expand(run, compose)]


def _product(arguments: Sequence[str]) -> list[list[str]]:
    overrides = OverridesParser.create().parse_overrides([quote_argument(text, many=True) for text in arguments])
    return [list(combination) for combination in itertools.product(*map(_choices, overrides))]


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        assert override.input_line is not None
        return [override.input_line]
    return [f"{override.get_key_element()}={value}" for value in values_of(override)]


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _require_one_device(trainer: TrainerSettings) -> None:
    several = len(trainer.devices) > 1 if isinstance(trainer.devices, list) else trainer.devices not in (1, "1")
    if several or trainer.num_nodes not in (1, None):
        raise UserError(
            f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}: in a sweep (-m) every run "
            "has one device; leave out -m to train one run on several"
        )


def _describe_exit(status: int) -> str:
    return f"signal {Signals(-status).name}" if status < 0 else f"status {status}"


def _outcome(job: Job) -> Outcome:
    if job.blocked:
        return "failed"
    if job.finished:
        return "skipped"
    if job.folder.failure.is_file():
        return "failed"
    return "ran" if _written(job.folder) != job.written else "unfinished"


def _table(jobs: Sequence[Job], outcomes: dict[Path, Outcome]) -> Table:
    counts = {name: list(outcomes.values()).count(name) for name in get_args(Outcome)}
    title = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    header = ("run", "outcome", "validation accuracy", "test accuracy", "test macro F1", "training time")
    table = Table(*header, title=title, title_justify="left")
    for job in jobs:
        outcome = outcomes[job.folder.path]
        metrics = _metrics(job.folder) if outcome in ("ran", "skipped") else ("",) * 4
        table.add_row(escape(_name(job, jobs)), outcome, *metrics)
    return table


def _name(job: Job, jobs: Sequence[Job]) -> str:
    """Returns the settings of a run that some other does not have."""
    common = set.intersection(*(set(one.overrides) for one in jobs))
    return " ".join(override for override in job.overrides if override not in common)


def _log_failures(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.blocked:
            log.error("%s", job.blocked)
        elif job.starts and job.folder.failure.is_file():
            log.error("%s failed: %s", job.folder.path, read_json(job.folder.failure)["error"])


def _metrics(folder: RunFolder) -> tuple[str, ...]:
    metrics = read_json(folder.metrics)
    test = (f"{metrics['test'][name]:.4f}" if "test" in metrics else "" for name in ("acc", "f1_macro"))
    return f"{metrics['val']['acc']:.4f}", *test, f"{metrics['run']['train_seconds']:.0f} s"
