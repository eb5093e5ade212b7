"""The configuration: its YAML files, the legal values of settings, and the names of runs' folders."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import hydra
from omegaconf import DictConfig, OmegaConf

from emotion.data.augment import RandomAffine
from emotion.data.datamodule import DATA_CHOICES
from emotion.errors import UserError, require_choice
from emotion.files import hide_home
from emotion.models.onnx import MAX_SIDE, ViewsName
from emotion.models.preprocess import NormalizeName
from emotion.models.registry import Family

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["none", "plateau", "cosine"]
CHOICES: dict[str, Sequence[object]] = {
    **DATA_CHOICES,
    "family": get_args(Family),
    "normalize": get_args(NormalizeName),
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(ScheduleName),
    "monitor": ("val/loss", "val/acc", "val/f1_macro"),
    "tta": get_args(ViewsName),
    "trainer.profiler": ("simple", "advanced", "pytorch"),
    "compile": ("auto", True, False),
    "cuda_graph": ("auto", True, False),
    "test": (True, False),
    "overwrite": (True, False),
    **dict.fromkeys(("trainer.detect_anomaly", "trainer.sync_batchnorm", "trainer.benchmark"), (True, False)),
}
AT_LEAST: dict[str, int] = {
    "seed": 0,
    "pack_size": 8,
    "synthetic_images": 1,
    "batch_size": 2,
    "memory_budget": 0,
    "runs_per_gpu": 1,
    "image_size": 8,
    "feature_views": 0,
    "plain_epochs": 0,
    "lr_patience": 1,
    "patience": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 0,
    "trainer.accumulate_grad_batches": 1,
}
AT_MOST: dict[str, int] = {"seed": 2**32 - 1, "pack_size": MAX_SIDE, "synthetic_images": 10**6}
OPTIONAL: dict[str, object] = {
    "patience": None,
    "memory_budget": None,
    "feature_views": "auto",
    "dropout": None,
    "trainer.benchmark": None,
    "trainer.profiler": None,
}
"""Legal values of numeric settings that are not numbers."""
TEXTS = ("data_dir", "backbone", "weights")
"""Settings that are names or paths."""
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("val_fraction", "lr_factor"), (lambda value: 0 < value < 1, "between 0 and 1")),
    **dict.fromkeys(("lr", "offline_strength"), (lambda value: value > 0, "above 0")),
    "layer_decay": (lambda value: 0 < value <= 1, "above 0, at most 1,"),
    **dict.fromkeys(("flip", "erase"), (lambda value: 0 <= value <= 1, "from 0 to 1")),
    **dict.fromkeys(
        ("zoom", "shift", "brightness", "contrast", "label_smoothing", "momentum", "ema_decay", "dropout"),
        (lambda value: 0 <= value < 1, "from 0, below 1,"),
    ),
    **dict.fromkeys(
        ("rotation", "shear", "mixup", "cutmix", "focal_gamma", "logit_adjustment", "weight_decay", "sam_rho"),
        (lambda value: value >= 0, "from 0"),
    ),
    **dict.fromkeys(("warmup_epochs", "min_delta"), (lambda value: value >= 0, "from 0")),
}
"""Legal ranges of numeric settings: a test, and its text for messages."""
GROUPS = ("model", "recipe", "experiment")
"""Hydra's config groups: folders of `conf/`."""
LAUNCHERS = ("joblib", "ray", "slurm")
"""Launchers beside Hydra's own; the extra of the same name installs each."""
SAME_NAME = r"\s*'hydra/launcher/.*is validated against ConfigStore schema with the same name"
"""Hydra's warning that a preset in conf/hydra/launcher has the name of the plugin's own, which is intended."""
NOT_SETTINGS = ("test", "resume", "overwrite", "runs_per_gpu", "hydra")
"""Keys that control how a run is carried out; runs that differ only in them are the same run."""


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
    text = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
    parameters = text[text.index("name:") : text.index("\nhydra:")]
    return (
        "usage: train.py [model=<name>] [<setting>=<value> ...]\n"
        "       train.py -m model=<name>,<name> seed=0,1,2    (every combination)\n"
        "       train.py -m experiment=<name>                 (every run of an experiment)\n\n"
        f"models: {', '.join(choice_names('model'))}\n\n"
        f"recipes, recipe=<name>: {', '.join(choice_names('recipe'))}\n\n"
        f"experiments: {', '.join(choice_names('experiment'))}\n\n"
        f"launchers of -m, hydra/launcher=<name>: basic (one run after another), {', '.join(LAUNCHERS)}\n\n"
        "settings, with defaults and legal values (a model, recipe or experiment changes some of the defaults):\n\n"
        f"{parameters}"
    )


def check(values: Mapping[str, Any]) -> None:
    """Checks settings as far as possible without data; settings that are absent are not checked.

    Raises:
        UserError: a value is not legal; the message names the legal ones.
    """
    for key, value in flatten(values).items():
        if key in OPTIONAL and value == OPTIONAL[key]:
            continue
        other = f" or {OPTIONAL[key] or 'null'}" if key in OPTIONAL else ""
        if key in CHOICES:
            require_choice(key, value, CHOICES[key])
        if key in AT_LEAST and not _is_whole(value, AT_LEAST[key]):
            raise UserError(f"{key}={value}: a whole number from {AT_LEAST[key]}{other} is needed")
        if key in AT_MOST and value > AT_MOST[key]:
            raise UserError(f"{key}={value}: at most {AT_MOST[key]} is legal")
        if key in NUMBERS:
            is_legal, range_text = NUMBERS[key]
            if not (_is_number(value) and is_legal(value)):
                raise UserError(f"{key}={value}: a number {range_text}{other} is needed")
        if key in TEXTS and not isinstance(value, str | None):
            raise UserError(f"{key}={value}: a name or path is needed")
        if key == "extra_data" and not (value is None or _is_texts(value)):
            raise UserError(f"extra_data={value}: a list of folders is needed, as extra_data=[photos]")
        if key == "trainer" and not isinstance(value, Mapping):
            raise UserError(f"trainer={value}: not a setting itself; set its parts, as trainer.max_epochs=5")
        if key == "trainer.limit_val_batches" and value == 0:
            raise UserError("trainer.limit_val_batches=0: validation chooses the best checkpoint; use at least 1 batch")
        if key == "trainer.limit_train_batches" and value == 0:
            raise UserError("trainer.limit_train_batches=0: nothing would be trained; use at least 1 batch")
        if key == "trainer.max_epochs" and value not in (None, -1) and not _is_whole(value, 1):
            raise UserError(f"trainer.max_epochs={value}: a whole number from 1 is needed, or -1 for no limit")
        if key == "unfreeze" and value not in (None, "all") and not _is_whole(value, 0):
            raise UserError(f"unfreeze={value}: a whole number from 0 or all is needed")
    _check_epochs(values)
    if values.get("weights", "none") not in (None, "none") and values.get("backbone", "?") is None:
        raise UserError(
            f"weights={values['weights']}: models of family {values['family']} have no backbone; use weights=none, or "
            "a model of family torchvision, timm or face"
        )
    if values.get("balance") == "offline":
        RandomAffine(zoom=values.get("zoom", 0), shift=values.get("shift", 0)).scaled(values.get("offline_strength", 1))


def _check_epochs(values: Mapping[str, Any]) -> None:
    """Checks settings that depend on the number of epochs."""
    flat = flatten(values)
    epochs, plain = flat.get("trainer.max_epochs"), flat.get("plain_epochs")
    if plain and epochs == -1:
        raise UserError(f"plain_epochs={plain}: needs a last epoch; set trainer.max_epochs")
    for key in ("trainer.min_epochs", "trainer.check_val_every_n_epoch"):
        if type(flat.get(key)) is type(epochs) is int and flat[key] > epochs > 0:
            raise UserError(f"{key}={flat[key]}: at most trainer.max_epochs={epochs} is legal")


def settings(config: DictConfig) -> dict[str, Any]:
    """Returns the settings that distinguish runs, as plain values, with the home folder as `~`."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_SETTINGS])
    container = OmegaConf.to_container(kept, resolve=True)
    assert isinstance(container, dict)
    return {str(key): _portable(value) for key, value in container.items()}


def same_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Returns whether the settings of a stored run are those of a command.

    Settings newer than the stored run count as defaults. A folder of weights equals each of its files.
    """
    kept, wanted = with_defaults(stored), flatten(asked)
    return kept.keys() == wanted.keys() and all(_same(key, kept[key], wanted[key]) for key in kept)


def with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flattened settings of a run, with defaults for settings that are newer than the run."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    assert isinstance(defaults, dict)
    known = {str(key): value for key, value in defaults.items() if key not in ("defaults", *NOT_SETTINGS)}
    return flatten(known) | flatten(stored)


def _same(key: str, kept: Any, wanted: Any) -> bool:
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
        path = Path(str(config.resume)).expanduser()
        return str(path.parent.parent if path.parts[-2:] == ("checkpoints", "last.ckpt") else path)
    digest = hashlib.blake2b(json.dumps(settings(config), sort_keys=True).encode(), digest_size=4).hexdigest()
    names = (re.sub(r"[^\w.-]+", "_", str(config[key])) for key in ("name", "model"))
    return "runs/{}/{}-seed{}-{}".format(*names, config.seed, digest)


def default_weights(data: str, weights: str = "imagenet") -> str:
    """Returns the default of `weights` for a backbone: `none` for drawn faces, which thus need no download or file."""
    return "none" if data == "synthetic" else weights


def gpu_share(runs_per_gpu: int) -> float:
    """Returns the share (0..1) of a GPU that a run of a sweep requests; 0 if this machine has no GPU."""
    import torch

    return 1 / runs_per_gpu if torch.cuda.is_available() else 0


def register_resolvers() -> None:
    """Registers `${run_dir:}`, `${default_weights:}` and `${gpu_share:}`, which the YAML files use."""
    OmegaConf.register_new_resolver("run_dir", lambda *, _root_: run_dir(_root_), replace=True)
    for resolver in (default_weights, gpu_share):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def _portable(value: Any) -> Any:
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return hide_home(value) if isinstance(value, str) else value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
