"""The command line of training: Hydra composes the settings of one run, or of many, and each is done here."""

import gc
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from emotion.config import SAME_NAME, conf_dir, describe_settings, register_resolvers
from emotion.errors import UserError, disk_is_full, exit_on_user_error, first_line
from emotion.files import hide_home
from emotion.overrides import check_overrides, quote_arguments
from emotion.privacy import keep_private
from emotion.training.folder import RunFolder, read_json
from emotion.training.run import run
from emotion.training.sweep import run_apart

log = logging.getLogger(__name__)
SHARED_PROCESS_LAUNCHERS = ("basic", "joblib")
"""Launchers whose processes do run after run; under any other a run has a process of its own."""


def main() -> None:
    """Runs the command line: Hydra composes the configuration of one run, or of many with `-m`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(describe_settings())
        return
    keep_private()
    # Where a full disk keeps a line of the log or a point of a curve from being written, the run says so itself.
    logging.raiseExceptions = False
    threading.excepthook = _excepthook
    # Hydra then leaves its errors, and a folder that cannot be made, to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", SAME_NAME)
    register_resolvers()
    with exit_on_user_error():
        check_overrides(sys.argv[1:])
        sys.argv[1:] = quote_arguments(sys.argv[1:])
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
        except (HydraException, OmegaConfBaseException) as error:
            lines = [first_line(one).rstrip(".") for one in (error, error.__cause__) if one]
            raise UserError(": ".join(lines)) from None


def _excepthook(arguments: threading.ExceptHookArgs) -> None:
    if not disk_is_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _job(config: DictConfig) -> float | None:
    """Does a run; returns its validation accuracy, for sweepers that search for the best settings.

    Raises:
        Exception: whatever failed, where it is the only run or one of a search.
    """
    hydra_config = HydraConfig.get()
    path, overrides = _below(Path(hydra_config.runtime.output_dir)), list(hydra_config.overrides.task)
    folder, choices = RunFolder(path), hydra_config.runtime.choices
    searches = choices["hydra/sweeper"] != "runs"
    if hydra_config.mode == RunMode.RUN:
        # Before Hydra sees the error, which it would put a line of its own before.
        with exit_on_user_error():
            if searches or hydra_config.sweeper.parts:
                raise UserError(f"{' '.join(sys.argv[1:])}: these are several runs, which -m starts")
            run(config, path, overrides)
    elif choices["hydra/launcher"] not in SHARED_PROCESS_LAUNCHERS:
        run_apart(overrides, folder)
        if searches and folder.failure.is_file():
            raise UserError(read_json(folder.failure)["error"])
    else:
        try:
            run(config, path, overrides)
        except Exception as error:
            # Whatever fails in one run, the others go on, unless they depend on it; `run` has kept it in its folder.
            if searches:
                raise
            log.error("failed: %s", hide_home(first_line(error)))
        finally:
            # Networks refer to themselves in circles; what one held on the device must not stay into the next run.
            gc.collect()
            torch.cuda.empty_cache()
    return float(read_json(folder.metrics)["val"]["acc"]) if folder.state == "finished" else None


def _below(path: Path) -> Path:
    """Returns a path as seen from here, where it lies below; the run's files then do not say where they were made."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
