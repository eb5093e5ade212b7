"""Settings of a run that is gone on with: its own, but for those that may change on the way."""

from omegaconf import DictConfig, OmegaConf

from emotion.config import GROUPS
from emotion.errors import UserError
from emotion.training.folder import RunFolder

KEPT = (
    *GROUPS,
    *("seed", "data", "split", "val_fraction", "group_duplicates", "synthetic_images", "pack_size", "channels"),
    *("extra_data", "optimizer", "schedule"),
)
"""Settings that a run cannot change on the way: it would be neither the one nor the other."""


def resumed_config(defaults: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    """Returns the settings that a run goes on with.

    Args:
        defaults: the composed configuration, which has the settings that did not exist when the run began.
        folder: the run's.
        overrides: what stood on the command line.

    Raises:
        UserError: no run lies there or its settings cannot be read; a word changes one of `KEPT`, adds or removes.
    """
    changes = [word for word in overrides if not word.startswith("resume=")]
    stored, changed = folder.read_config(), OmegaConf.create()
    for word in changes:
        key, _, value = word.partition("=")
        asked = value if key in GROUPS else OmegaConf.select(defaults, key)
        if key[0] in "+~" or (key in KEPT and asked != stored.get(key)):
            raise UserError(
                f"{word}: a resumed run keeps its {key.lstrip('+~')}; other values can be changed, as lr= or "
                "trainer.max_epochs="
            )
        OmegaConf.update(changed, key, asked)
    config = OmegaConf.merge(defaults, stored, {"resume": None, "overwrite": False}, changed)
    assert isinstance(config, DictConfig)
    return config
