"""The command line of training: Hydra composes the settings of one run or of a sweep, and calls `_job` for each run."""

import gc
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

import hydra
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from emotion.config import SAME_NAME, conf_dir, register_resolvers
from emotion.errors import MISSING_GLYPH, UserError, disk_is_full, exit_on_user_error, first_line
from emotion.files import hide_home
from emotion.overrides import check_overrides, quote_arguments
from emotion.privacy import keep_private
from emotion.training.folder import RunFolder, read_json
from emotion.training.run import run
from emotion.training.start import with_implied_model
from emotion.training.sweep import APART, run_apart

log = logging.getLogger(__name__)
SHARED_PROCESS_LAUNCHERS = ("basic", "joblib")
"""Launchers that start several runs in one process; with any other launcher each run gets a process of its own."""


def main() -> None:
    """Runs the command line: one run, or with `-m` a sweep."""
    keep_private()
    # On a full disk, logging and TensorBoard's thread would print tracebacks; the run itself ends with one message.
    logging.raiseExceptions = False
    threading.excepthook = _excepthook
    # Hydra then raises its errors in place of printing them, so that `exit_on_user_error` can print one line.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", SAME_NAME)
    warnings.filterwarnings("ignore", MISSING_GLYPH)
    register_resolvers()
    with exit_on_user_error():
        if APART not in os.environ:  # for the runs of a sweep, the sweep has decided on it
            sys.argv[1:] = with_implied_model(sys.argv[1:])
        check_overrides(sys.argv[1:])
        sys.argv[1:] = quote_arguments(sys.argv[1:])
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
        except (HydraException, OmegaConfBaseException) as error:
            lines = [first_line(cause).rstrip(".") for cause in (error, error.__cause__) if cause]
            raise UserError(": ".join(lines)) from None


def _excepthook(arguments: threading.ExceptHookArgs) -> None:
    if not disk_is_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _job(config: DictConfig) -> float | None:
    """Trains and tests a run; returns its validation accuracy (0..1), which a search maximises, or None if unfinished.

    Raises:
        Exception: the error of the run, if it is the only run or belongs to a search; other sweeps log it and go on.
    """
    hydra_config = HydraConfig.get()
    path, overrides = _relative(Path(hydra_config.runtime.output_dir)), list(hydra_config.overrides.task)
    folder, choices = RunFolder(path), hydra_config.runtime.choices
    searches = choices["hydra/sweeper"] != "runs"
    if hydra_config.mode == RunMode.RUN:
        # Handled here, since Hydra would print a line of its own before the message.
        with exit_on_user_error():
            if searches or hydra_config.sweeper.parts:
                folder.discard_unused()
                raise UserError(f"{' '.join(sys.argv[1:])}: several values mean several runs; add -m to start them")
            try:
                run(config, path, overrides)
            except UserError:
                if APART not in os.environ:
                    folder.discard_unused()  # a pattern for runs would match it
                raise
    elif choices["hydra/launcher"] not in SHARED_PROCESS_LAUNCHERS:
        run_apart(overrides, folder, _further_config_folders(hydra_config))
        if searches and folder.failure.is_file():
            raise UserError(read_json(folder.failure)["error"])
    else:
        try:
            run(config, path, overrides)
        except Exception as error:
            # The other runs go on, unless they depend on this one's result; `run` has kept the error in its folder.
            if searches:
                raise
            log.error("failed: %s", hide_home(first_line(error)))
        finally:
            # Networks contain reference cycles, so only the collector frees their device memory for the next run.
            gc.collect()
            torch.cuda.empty_cache()
    return float(read_json(folder.metrics)["val"]["acc"]) if folder.state == "finished" else None


def _further_config_folders(hydra_config: HydraConf) -> list[str]:
    """Returns the folders of `--config-dir` and `hydra.searchpath`."""
    own = ("hydra", "main", "schema")
    sources = hydra_config.runtime.config_sources
    return [f"{one.schema}://{one.path}" for one in sources if one.provider not in own and one.path]


def _relative(path: Path) -> Path:
    """Returns a path inside the working directory as a relative one; a run's files then do not reveal its location."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
