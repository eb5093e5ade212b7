"""Hydra's door to `emotion.training.sweep`: Hydra takes a sweeper from this namespace only, and imports it at start."""

from functools import partial

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RunSweeper(Sweeper):
    """Plans the runs of a sweep, has a launcher run those that are not finished, and tells what became of them.

    Args:
        params: grid of an experiment or recipe, setting to comma-separated values; the command line wins.
        parts: what it consists of, as words of a command line: `experiment=<name>`, `recipe=<name> flip=0`.
    """

    def __init__(self, params: DictConfig, parts: list[str]) -> None:
        self.params, self.parts = params, parts

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.compose = partial(hydra_context.config_loader.load_sweep_config, config)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs every combination of what stands on the command line."""
        from emotion.training.sweep import sweep

        sweep(arguments, self.compose, self.launcher.launch)
