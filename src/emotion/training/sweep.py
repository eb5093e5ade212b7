"""A sweep: which runs it consists of, what is left to do of them, and what became of each."""

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
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

from emotion.config import check, settings
from emotion.errors import UserError, exit_on_user_error, first_line
from emotion.overrides import quote_argument, quoted, require_effect
from emotion.training.folder import RunFolder, read_json

Compose = Callable[[list[str]], DictConfig]
Launch = Callable[..., Sequence[Any]]
Outcome = Literal["ran", "skipped", "failed", "unfinished"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Attributes:
        overrides: the words of its command line.
        place: the word that gives its folder.
        folder: where it lies.
        anew: whether it is done again where it is finished.
        done: whether it was finished, with these settings, before the sweep began.
        foreign: whether a run with other settings lay there, which it does not replace.
    """

    overrides: list[str]
    place: str
    folder: RunFolder
    anew: bool
    done: bool
    foreign: bool


def sweep(arguments: list[str], compose: Compose, launch: Launch) -> None:
    """Runs every combination of settings, but for runs that are finished, and prints what became of them.

    Args:
        arguments: words of the command line, some with several values.
        compose: makes the configuration of one run from its overrides.
        launch: Hydra's launcher, called with the overrides of all runs to do.

    Raises:
        SystemExit: with status 2, a run has bad settings, and none was started; with 1, a run did not finish.
    """
    with exit_on_user_error():
        jobs = plan(arguments, compose)
    todo = [job for job in jobs if job.anew or not job.done]
    for job in todo:
        job.folder.failure.unlink(missing_ok=True)
    log.info("%d runs, %d of them finished already", len(jobs), len(jobs) - len(todo))
    if todo:
        try:
            launch([[*job.overrides, job.place] for job in todo], initial_job_idx=0)
        except Exception as error:
            # A launcher raises whatever its engine does when it loses a process; the folders tell what became of each.
            log.error("the launcher stopped: %s", first_line(error))
    outcomes = {job.folder.path: _outcome(job, todo) for job in jobs}
    Console(stderr=True).print(_table(jobs, outcomes))
    _log_failures(todo)
    if set(outcomes.values()) & {"failed", "unfinished"}:
        log.error("not every run finished; the same command starts those again")
        raise SystemExit(1)


def plan(arguments: list[str], compose: Compose) -> list[Job]:
    """Lists the runs of a sweep, each once.

    An experiment or recipe multiplies what stands on the command line by its own grid (`hydra.sweeper.params`), and
    stands for others where it has `hydra.sweeper.parts`; a key on the command line replaces the same key of the grid.

    Raises:
        UserError: a run has settings that are not legal, or asks for several devices.
    """
    jobs: dict[Path, Job] = {}
    every = (expanded for overrides in _product(arguments) for expanded in _expand(overrides, compose))
    for number, words in enumerate(every):
        # The launcher numbers the runs that are left to do, and every run keeps the number that it has in the sweep.
        numbered = [word.replace("${hydra.job.num}", str(number)) for word in words]
        config = compose(numbered)
        config.hydra.job.num = number
        if config.resume:
            raise UserError(f"resume={config.resume}: continues one run; leave -m out")
        values = settings(config)
        check(values)
        require_effect(numbered, values)
        _refuse_many_devices(values["trainer"])
        path = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        place = f"hydra.sweep.subdir={quoted(str(config.hydra.sweep.subdir))}"
        folder = RunFolder(path)
        same = folder.holds(config)
        done, foreign = same and folder.state == "finished", folder.config.is_file() and not (same or config.overwrite)
        jobs.setdefault(path, Job(numbered, place, folder, config.overwrite, done, foreign))
    return list(jobs.values())


def run_apart(overrides: Sequence[str], folder: RunFolder) -> None:
    """Does a run in a process of its own, so that whatever ends that process ends neither the worker nor the sweep."""
    command = [
        sys.executable,
        "-m",
        "emotion.training.command",
        *overrides,
        f"hydra.run.dir={quoted(str(folder.path))}",
    ]
    status = subprocess.run(command, check=False).returncode
    if status and not folder.failure.is_file():
        folder.write_failure(f"its process ended with {_describe_exit(status)}")


def _expand(overrides: list[str], compose: Compose) -> list[list[str]]:
    sweeper = compose(overrides).hydra.sweeper
    given = {_key(word) for word in overrides}
    grid = [f"{key}={value}" for key, value in sweeper.params.items() if key not in given]
    if not sweeper.parts:
        return _product([*grid, *overrides])
    others = [word for word in overrides if _key(word) not in ("experiment", "recipe")]
    runs = (run for part in sweeper.parts for run in _product([*grid, *part.split(), *others]))
    return [expanded for run in runs for expanded in _expand(run, compose)]


def _product(words: Sequence[str]) -> list[list[str]]:
    overrides = OverridesParser.create().parse_overrides([quote_argument(word, many=True) for word in words])
    return [list(combination) for combination in itertools.product(*map(_choices, overrides))]


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        assert override.input_line is not None
        return [override.input_line]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: a sweep needs a list of values, as a,b,c")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _refuse_many_devices(trainer: dict[str, Any]) -> None:
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        raise UserError(
            f"trainer.devices={trainer['devices']} trainer.num_nodes={trainer['num_nodes']}: in a sweep (-m) every run "
            "has one device; leave -m out to train one run on several"
        )


def _describe_exit(status: int) -> str:
    return f"signal {Signals(-status).name}" if status < 0 else f"status {status}"


def _outcome(job: Job, todo: Sequence[Job]) -> Outcome:
    if job not in todo:
        return "skipped"
    if job.foreign or job.folder.failure.is_file():
        return "failed"
    return "ran" if job.folder.state == "finished" else "unfinished"


def _table(jobs: Sequence[Job], outcomes: dict[Path, Outcome]) -> Table:
    counts = {name: list(outcomes.values()).count(name) for name in get_args(Outcome)}
    title = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    table = Table("run", "", "validation", "test", "F1", "time", "folder", title=title, title_justify="left")
    common = set.intersection(*(set(job.overrides) for job in jobs))
    for job in jobs:
        own = " ".join(word for word in job.overrides if word not in common)
        figures = _figures(job.folder) if job.folder.state == "finished" else ("",) * 4
        table.add_row(escape(own), outcomes[job.folder.path], *figures, escape(job.folder.path.name))
    return table


def _log_failures(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.folder.failure.is_file():
            log.error("%s failed: %s", job.folder.path, read_json(job.folder.failure)["error"])


def _figures(folder: RunFolder) -> tuple[str, ...]:
    metrics = read_json(folder.metrics)
    test = (f"{metrics['test'][name]:.4f}" if "test" in metrics else "" for name in ("acc", "f1_macro"))
    return f"{metrics['val']['acc']:.4f}", *test, f"{metrics['run']['train_seconds']:.0f} s"
