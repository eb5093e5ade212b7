"""The settings of a resumed run: those it was started with, except for changes on the command line."""

from omegaconf import DictConfig, OmegaConf

from emotion.config import GROUPS
from emotion.errors import UserError
from emotion.training.folder import RunFolder

KEPT = (
    *GROUPS,
    *("seed", "data", "split", "val_fraction", "group_duplicates", "synthetic_images", "pack_size", "channels"),
    *("extra_data", "optimizer", "schedule"),
)
"""Settings that a resumed run cannot change, since its result would be that of neither setting."""


def resumed_config(defaults: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    """Returns the settings of a resumed run.

    Args:
        defaults: the composed configuration; supplies the settings that are newer than the run.
        folder: folder of the run.
        overrides: arguments of the command line, `<setting>=<value>`.

    Raises:
        UserError: there is no run in the folder, its settings cannot be read, or an argument changes one of `KEPT` or
            adds or removes a setting.
    """
    stored, changed = folder.read_config(), OmegaConf.create()
    for argument in (argument for argument in overrides if not argument.startswith("resume=")):
        key, _, value = argument.partition("=")
        asked = value if key in GROUPS else OmegaConf.select(defaults, key)
        if key[0] in "+~" or (key in KEPT and asked != stored.get(key)):
            raise UserError(
                f"{argument}: a resumed run keeps its {key.lstrip('+~')}; other values can be changed, as lr= or "
                "trainer.max_epochs="
            )
        OmegaConf.update(changed, key, asked)
    config = OmegaConf.merge(defaults, stored, {"resume": None, "overwrite": False}, changed)
    assert isinstance(config, DictConfig)
    return config
