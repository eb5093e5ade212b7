"""Hydra's entry point to `emotion.training.sweep`: Hydra loads sweepers from this namespace only, at its start."""

import warnings
from functools import partial
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from emotion.config import SAME_NAME


class QuietLoader:
    """Composes the settings of each run without the warning `SAME_NAME`, also in the processes of launchers.

    Args:
        loader: Hydra's loader; launchers call only its method `load_sweep_config`.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader

    def load_sweep_config(self, *arguments: Any, **named: Any) -> DictConfig:
        """Calls the method of Hydra's loader without the warning."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", SAME_NAME)
            return self.loader.load_sweep_config(*arguments, **named)


class RunSweeper(Sweeper):
    """Plans the runs of a sweep, launches those that are not finished, and reports the result of each run.

    Args:
        params: grid of an experiment or recipe, from settings to comma-separated values; the command line overrides it.
        parts: command lines of the parts of a sweep: `experiment=<name>`, `recipe=<name> flip=0`.
    """

    def __init__(self, params: DictConfig, parts: list[str]) -> None:
        self.params, self.parts = params, parts

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores the composition of configurations and the launcher (called by Hydra before `sweep`)."""
        self.compose = partial(hydra_context.config_loader.load_sweep_config, config)
        quiet = HydraContext(cast("ConfigLoader", QuietLoader(hydra_context.config_loader)), hydra_context.callbacks)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=quiet, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs every combination of the values on the command line (called by Hydra)."""
        from emotion.training.sweep import sweep

        sweep(arguments, self.compose, self.launcher.launch)
