"""The configuration: where it lies, what is legal in it, and what a run is called."""

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
from emotion.models.onnx import MAX_SIDE
from emotion.models.preprocess import NormalizeName
from emotion.models.registry import Family
from emotion.models.views import ViewsName

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
"""Values beside the numbers."""
TEXTS = ("data_dir", "backbone", "weights")
"""Names and paths."""
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
"""What numbers can be, and how to say it."""
GROUPS = ("model", "recipe", "experiment")
LAUNCHERS = ("joblib", "ray", "slurm")
"""The launchers beside Hydra's own; an extra of the same name installs each."""
SAME_NAME = r"\s*'hydra/launcher/.*is validated against ConfigStore schema with the same name"
"""Hydra's warning that a preset of ours is named like the plugin's own, on purpose: `hydra/launcher=joblib`."""
NOT_SETTINGS = ("test", "resume", "overwrite", "runs_per_gpu", "hydra")
"""Keys that say how to run, not what: they do not tell one run from another."""


def conf_dir() -> Path:
    """Returns the folder of the YAML files: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def compose(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """Composes the configuration that a command line stands for.

    Args:
        overrides: the arguments `<setting>=<value>`.
        with_hydra: whether Hydra's own settings are kept, under `hydra`.
    """
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", list(overrides), return_hydra_config=with_hydra)


def choice_names(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Returns the legal values of `model=`, `recipe=` or `experiment=`: ours, and those of further config folders."""
    roots = [folder / group for folder in (conf_dir(), *folders)]
    return sorted(
        {path.relative_to(root).with_suffix("").as_posix() for root in roots for path in root.rglob("*.yaml")}
    )


def describe_settings() -> str:
    """Returns the help of training: how to call it, the models, and every setting with its default and comment."""
    text = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
    knobs = text[text.index("name:") : text.index("\nhydra:")]
    return (
        "usage: train.py [model=<name>] [<setting>=<value> ...]\n"
        "       train.py -m model=<name>,<name> seed=0,1,2    (every combination)\n"
        "       train.py -m experiment=<name>                 (every run of an experiment)\n\n"
        f"models: {', '.join(choice_names('model'))}\n\n"
        f"recipes, recipe=<name>: {', '.join(choice_names('recipe'))}\n\n"
        f"experiments: {', '.join(choice_names('experiment'))}\n\n"
        f"what -m starts runs with, hydra/launcher=<name>: basic (one after another), {', '.join(LAUNCHERS)}\n\n"
        f"settings, their defaults and what they can be:\n\n{knobs}"
    )


def check(values: Mapping[str, Any]) -> None:
    """Checks settings that can be checked without data; those that are absent are not.

    Raises:
        UserError: a value that is not legal, with what is.
    """
    for key, value in one_by_one(values).items():
        if key in OPTIONAL and value == OPTIONAL[key]:
            continue
        other = f" or {OPTIONAL[key] or 'null'}" if key in OPTIONAL else ""
        if key in CHOICES:
            require_choice(key, value, CHOICES[key])
        if key in AT_LEAST and not _is_whole(value, AT_LEAST[key]):
            raise UserError(f"{key}={value}: a whole number from {AT_LEAST[key]}{other} is needed")
        if key in AT_MOST and value > AT_MOST[key]:
            raise UserError(f"{key}={value}: at most {AT_MOST[key]} is possible")
        if key in NUMBERS:
            legal, range_ = NUMBERS[key]
            if not (_is_number(value) and legal(value)):
                raise UserError(f"{key}={value}: a number {range_}{other} is needed")
        if key in TEXTS and not isinstance(value, str | None):
            raise UserError(f"{key}={value}: a name or path is needed")
        if key == "extra_data" and not (value is None or _is_texts(value)):
            raise UserError(f"extra_data={value}: a list of folders is needed, as extra_data=[photos]")
        if key == "trainer" and not isinstance(value, Mapping):
            raise UserError(f"trainer={value}: its arguments are set one by one, as trainer.max_epochs=5")
        if key == "trainer.limit_val_batches" and value == 0:
            raise UserError(
                "trainer.limit_val_batches=0: validation chooses the best checkpoint, it cannot be left out"
            )
        if key == "trainer.limit_train_batches" and value == 0:
            raise UserError("trainer.limit_train_batches=0: without training there is no best checkpoint")
        if key == "trainer.max_epochs" and value not in (None, -1) and not _is_whole(value, 1):
            raise UserError(f"trainer.max_epochs={value}: a whole number from 1 is needed, or -1 for no limit")
        if key == "unfreeze" and value not in (None, "all") and not _is_whole(value, 0):
            raise UserError(f"unfreeze={value}: a whole number from 0, or all, is needed")
    _check_epochs(values)
    if values.get("weights", "none") not in (None, "none") and values.get("backbone", "?") is None:
        raise UserError(
            f"weights={values['weights']}: they are for a backbone, and a model of family {values['family']} has none "
            "(those of torchvision, timm, face have one)"
        )
    if values.get("balance") == "offline":
        RandomAffine(zoom=values.get("zoom", 0), shift=values.get("shift", 0)).scaled(values.get("offline_strength", 1))


def _check_epochs(values: Mapping[str, Any]) -> None:
    """Checks what depends on the number of epochs."""
    own = one_by_one(values)
    epochs, plain = own.get("trainer.max_epochs"), own.get("plain_epochs")
    if plain and epochs == -1:
        raise UserError(f"plain_epochs={plain}: the last epochs are those before trainer.max_epochs, which is open")
    for key in ("trainer.min_epochs", "trainer.check_val_every_n_epoch"):
        if type(own.get(key)) is type(epochs) is int and own[key] > epochs > 0:
            raise UserError(f"{key}={own[key]}: at most trainer.max_epochs={epochs} is possible")


def settings(config: DictConfig) -> dict[str, Any]:
    """Returns what tells one run from another, as plain values, with the home folder as `~`."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_SETTINGS])
    container = OmegaConf.to_container(kept, resolve=True)
    assert isinstance(container, dict)
    return {str(key): _portable(value) for key, value in container.items()}


def same_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Tells whether a run that keeps some settings is the one that is asked for.

    Settings that came later have their defaults; a folder of weights is any of its files.
    """
    kept, wanted = completed(stored), one_by_one(asked)
    return kept.keys() == wanted.keys() and all(_same(key, kept[key], wanted[key]) for key in kept)


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run one by one, with the defaults of those that there were not when it began."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    assert isinstance(defaults, dict)
    known = {str(key): value for key, value in defaults.items() if key not in ("defaults", *NOT_SETTINGS)}
    return one_by_one(known) | one_by_one(stored)


def _same(key: str, kept: Any, wanted: Any) -> bool:
    if key == "weights" and isinstance(kept, str) and isinstance(wanted, str):
        return Path(wanted) in (Path(kept), Path(kept).parent)
    return bool(kept == wanted)


def one_by_one(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with those of the Trainer one by one, as `trainer.max_epochs`."""
    trainer = values.get("trainer")
    if not isinstance(trainer, Mapping):
        return dict(values)
    own = {key: value for key, value in values.items() if key != "trainer"}
    return own | {f"trainer.{key}": value for key, value in trainer.items()}


def run_dir(config: DictConfig) -> str:
    """Returns the folder of a run: the one to resume, or `runs/<name>/<model>-seed<seed>-<hash>`."""
    if config.resume:
        path = Path(str(config.resume)).expanduser()
        return str(path.parent.parent if path.parts[-2:] == ("checkpoints", "last.ckpt") else path)
    digest = hashlib.blake2b(json.dumps(settings(config), sort_keys=True).encode(), digest_size=4).hexdigest()
    names = (re.sub(r"[^\w.-]+", "_", str(config[key])) for key in ("name", "model"))
    return "runs/{}/{}-seed{}-{}".format(*names, config.seed, digest)


def default_weights(data: str, weights: str = "imagenet") -> str:
    """Returns the default of `weights` for a backbone: drawn faces are for trying out, without a download or file."""
    return "none" if data == "synthetic" else weights


def gpu_share(runs_per_gpu: int) -> float:
    """Returns what part of a GPU a run of a sweep asks for; 0 where this machine has none."""
    import torch

    return 1 / runs_per_gpu if torch.cuda.is_available() else 0


def register_resolvers() -> None:
    """Makes `${run_dir:}`, `${default_weights:}` and `${gpu_share:}` known to the YAML files."""
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
