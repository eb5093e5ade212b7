"""The configuration: its YAML files, how they are read, and the names of runs' folders."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from emotion.declarations import CONTROL, NEW
from emotion.errors import UserError
from emotion.files import expand, hide_home
from emotion.settings import FER_SIZE, OWN_DATA, Settings, as_yaml, fields, marked

CONFIG_GROUPS = ("model", "recipe", "experiment")
"""Hydra's config groups: folders of `conf/`."""
LAUNCHERS = ("joblib", "ray", "slurm")
"""Launchers beside Hydra's own; the extra of the same name installs each."""
SAME_NAME = r"\s*'hydra/launcher/.*is validated against ConfigStore schema with the same name"
"""Hydra's warning that a preset in conf/hydra/launcher has the name of the plugin's own, which is intended."""


def conf_dir() -> Path:
    """Returns the folder of the YAML files: inside the installed package, or `conf/` of a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def compose(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """Composes the configuration of a command line.

    Args:
        overrides: arguments `<setting>=<value>`.
        with_hydra: whether to keep Hydra's own settings, under `hydra`.
    """
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=with_hydra)


def choice_names(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Returns the legal values of `model=`, `recipe=` or `experiment=`, with those of further config folders."""
    roots = [folder / group for folder in (conf_dir(), *folders)]
    return sorted(
        {path.relative_to(root).with_suffix("").as_posix() for root in roots for path in root.rglob("*.yaml")}
    )


def describe_settings() -> str:
    """Returns the help of training: usage, models, recipes, experiments, and every setting with default and comment."""
    return (
        "usage: emotion train [model=<name>] [<setting>=<value> ...]\n"
        "       emotion train -m model=<name>,<name> seed=0,1,2    (every combination)\n"
        "       emotion train -m experiment=<name>                 (every run of an experiment)\n"
        "       python train.py does the same in a checkout\n\n"
        f"models: {', '.join(choice_names('model'))}\n\n"
        f"recipes, recipe=<name>: {', '.join(choice_names('recipe'))}\n\n"
        f"experiments: {', '.join(choice_names('experiment'))}\n\n"
        f"launchers of -m, hydra/launcher=<name>: basic (one run after another), {', '.join(LAUNCHERS)}\n"
        "search in place of every combination: -m hydra/sweeper=search\n\n"
        "settings, with defaults (a model, recipe or experiment changes some of them; a wrong value gets a line that "
        "names the legal ones):\n\n"
        f"{as_yaml()}"
    )


def show_help(words: Sequence[str]) -> bool:
    """Prints the help of training if a command line asks for it, and returns whether it did."""
    asked = bool({"-h", "--help"} & {*words})
    if asked:
        print(describe_settings(), flush=True)
    return asked


def read(config: DictConfig) -> Settings:
    """Returns the settings of a composed configuration.

    Raises:
        UserError: a value is not legal, or there is no setting of that name.
    """
    values = plain(config)
    unknown = [key for key in flatten(values) if key not in (*fields(), "trainer")]
    if unknown:
        raise UserError(f"{unknown[0]}: no such setting; --help lists all of them")
    return Settings.of(values)


def plain(config: DictConfig) -> dict[str, Any]:
    """Returns the values of a composed configuration, unchecked, with the home folder as `~`.

    Images of one's own lie in the folder of EMOTION_DATA, and their size and colour follow the network, unless these
    are given.
    """
    # Without Hydra's own settings, one of which is the folder of the run, whose name depends on these values.
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    values = OmegaConf.to_container(own, resolve=True)
    assert isinstance(values, dict)
    own_files = values.get("data") in OWN_DATA
    missing = {"pack_size": values.get("image_size") if own_files else FER_SIZE}
    # A network of the user's own takes colour images too, and turns them grey if it wants grey ones.
    missing["channels"] = 3 if own_files and (values.get("backbone") or values.get("family") == "custom") else 1
    if own_files:
        missing["data_dir"] = os.environ.get("EMOTION_DATA") or None
    derived = {key: value for key, value in missing.items() if key in values and values[key] is None}
    return {str(key): _portable(value) for key, value in (values | derived).items()}


def settings(config: DictConfig) -> dict[str, Any]:
    """Returns the values of a composed configuration that distinguish runs, unchecked, with the home folder as `~`."""
    return distinguishing(plain(config))


def distinguishing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of all settings that distinguish runs."""
    control = marked(CONTROL)
    return {key: value for key, value in values.items() if key not in control}


def same_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Returns whether the settings of a stored run are those of a command.

    Settings newer than the stored run count as defaults. A folder of weights equals each of its files, and a missing
    folder of images, which older runs took from EMOTION_DATA, every folder.
    """
    kept, wanted = with_defaults(stored), with_defaults(asked)
    return kept.keys() == wanted.keys() and all(is_same(key, kept[key], wanted[key]) for key in kept)


def with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flattened settings of a run, with defaults for settings that are newer than the run."""
    control = marked(CONTROL)
    return {key: field.default for key, field in fields().items() if key not in control} | flatten(stored)


def is_same(key: str, kept: Any, wanted: Any) -> bool:
    """Returns whether the value of a setting of a stored run is that of a command (see `same_settings`)."""
    if key == "data_dir" and kept is None:
        return True
    if key == "weights" and isinstance(kept, str) and isinstance(wanted, str):
        return Path(wanted) in (Path(kept), Path(kept).parent)
    return bool(kept == wanted)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with those of the Trainer as keys of their own, such as `trainer.max_epochs`."""
    trainer = values.get("trainer")
    if not isinstance(trainer, Mapping):
        return dict(values)
    others = {key: value for key, value in values.items() if key != "trainer"}
    return others | {f"trainer.{key}": value for key, value in trainer.items()}


def run_dir(config: DictConfig) -> str:
    """Returns the folder of a run: that of the resumed run, or `runs/<name>/<model>-seed<seed>-<hash>`."""
    if config.resume:
        path = expand(str(config.resume))
        return str(path.parent.parent if path.parts[-2:] == ("checkpoints", "last.ckpt") else path)
    newer = {key: fields()[key].default for key in marked(NEW)}
    values = {key: value for key, value in settings(config).items() if key not in newer or value != newer[key]}
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=4).hexdigest()
    names = (re.sub(r"[^\w.-]+", "_", str(config[key])) for key in ("name", "model"))
    return "runs/{}/{}-seed{}-{}".format(*names, config.seed, digest)


def default_weights(data: str, weights: str = "imagenet") -> str:
    """Returns the default of `weights` for a backbone: `none` for drawn faces, which thus need no download or file."""
    return "none" if data == "synthetic" else weights


def gpu_share(runs_per_gpu: int, accelerator: str = "auto") -> float:
    """Returns the share (0..1) of a GPU that a run of a sweep requests; 0 for a run on CPUs, or without a GPU here."""
    import torch

    if accelerator == "cpu" or not torch.cuda.is_available():
        return 0
    return math.floor(10_000 / runs_per_gpu) / 10_000  # Ray counts in these units, and rounding up would add up to > 1


def register_resolvers() -> None:
    """Registers `${run_dir:}`, `${default_weights:}` and `${gpu_share:}`, which the YAML files use."""
    OmegaConf.register_new_resolver("run_dir", lambda *, _root_: run_dir(_root_), replace=True)
    for resolver in (default_weights, gpu_share):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def _portable(value: Any) -> Any:
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return hide_home(value) if isinstance(value, str) else value
