"""The settings of a resumed run: those it was started with, except for changes on the command line."""

from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from emotion.config import CONFIG_GROUPS, is_same
from emotion.declarations import FIXED
from emotion.errors import UserError
from emotion.files import hide_home
from emotion.plugins import Plugins
from emotion.settings import marked
from emotion.training.folder import RunFolder

UNDIVIDED = {"weight_decay": 0, "layer_decay": 1}
"""Settings that divide the weights into groups, unless they have this value; a checkpoint keeps the groups."""
NAMED_AGAIN = [plugin.name for plugin in fields(Plugins)]
"""Settings that import code: a run's folder can come from a stranger, so they must be named again."""


def resumed_config(defaults: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    """Returns the settings of a resumed run.

    Args:
        defaults: the composed configuration; supplies the settings that are newer than the run.
        folder: folder of the run.
        overrides: arguments of the command line, `<setting>=<value>`.

    Raises:
        UserError: there is no run in the folder, its settings cannot be read, an argument changes a setting that is
            fixed or adds or removes one, or one of `NAMED_AGAIN` in the folder is not named again.
    """
    stored, changed, kept = folder.read_config(), OmegaConf.create(), [*CONFIG_GROUPS, *marked(FIXED)]
    for key in NAMED_AGAIN:
        if stored.get(key) is not None and hide_home(str(OmegaConf.select(defaults, key))) != stored[key]:
            raise UserError(f"resume={folder.path}: runs your own code; add {key}={stored[key]} to allow it")
    for argument in (argument for argument in overrides if not argument.startswith("resume=")):
        key, _, value = argument.partition("=")
        asked = value if key in CONFIG_GROUPS else OmegaConf.select(defaults, key)
        stated = hide_home(asked) if isinstance(asked, str) else asked
        if key[0] in "+~" or (key in kept and not is_same(key, stored.get(key), stated)):
            raise UserError(
                f"{argument}: a resumed run keeps its {key.lstrip('+~')}; other values can be changed, as lr= or "
                "trainer.max_epochs="
            )
        if key in UNDIVIDED and (asked == UNDIVIDED[key]) != (stored.get(key, UNDIVIDED[key]) == UNDIVIDED[key]):
            raise UserError(
                f"{argument}: would divide the weights into other groups; a resumed run that begins with "
                f"{key}={UNDIVIDED[key]} keeps it, and one with another value can get other values but not this"
            )
        OmegaConf.update(changed, key, asked)
    config = OmegaConf.merge(defaults, stored, {"resume": None, "overwrite": False}, changed)
    assert isinstance(config, DictConfig)
    return config
