"""The configuration: where it lies, what is legal in it, and what a run is called."""

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from emotion.data.balance import BalanceName
from emotion.data.packed import OnBadImage
from emotion.data.sources import SourceName
from emotion.data.splits import SplitName
from emotion.errors import UserError
from emotion.models.preprocess import NormalizeName
from emotion.models.registry import Family

CHOICES: dict[str, Sequence[object]] = {
    "data": get_args(SourceName),
    "on_bad_image": get_args(OnBadImage),
    "channels": (1, 3),
    "split": get_args(SplitName),
    "group_duplicates": (True, False),
    "balance": get_args(BalanceName),
    "augment": (True, False),
    "family": get_args(Family),
    "normalize": get_args(NormalizeName),
    "schedule": ("none", "plateau", "cosine"),
    "monitor": ("val/loss", "val/acc", "val/f1_macro"),
    "overwrite": (True, False),
}
AT_LEAST: dict[str, int] = {
    "seed": 0,
    "pack_size": 8,
    "synthetic_images": 1,
    "batch_size": 2,
    "image_size": 8,
    "feature_views": 0,
    "lr_patience": 1,
    "patience": 1,
}
SHARES = ("val_fraction", "lr_factor")
NOT_SETTINGS = ("resume", "overwrite", "hydra")
"""Keys that say how to run, not what: they do not tell one run from another."""


def conf_dir() -> Path:
    """Returns the folder of the YAML files: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a `UserError` into one line on standard error and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def check_overrides(arguments: Iterable[str]) -> None:
    """Checks what stands on the command line before Hydra composes it.

    Args:
        arguments: words such as `lr=1e-4`; options (`-m`, `--cfg job`) and Hydra's own keys are left to Hydra.

    Raises:
        UserError: a key or model that does not exist, with what is legal, or a word that is no `key=value`.
    """
    words = [word for word in arguments if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from None
    config = OmegaConf.load(conf_dir() / "config.yaml")
    assert isinstance(config, DictConfig)
    legal = [key for key in _keys(config) if not key.startswith(("defaults", "hydra"))]
    models = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        if key == "model":
            for value in _values(override):
                _require_known(value, models, "model")
        elif not key.startswith("hydra"):
            _require_known(key, ["model", *legal], "key")


def check(config: DictConfig) -> None:
    """Checks the values of a composed configuration that can be checked without data.

    Raises:
        UserError: a value that is not legal, with what is.
    """
    for key, legal in CHOICES.items():
        if config[key] not in legal:
            raise UserError(f"{key}={config[key]}: not one of {', '.join(map(_plain, legal))}")
    for key, least in AT_LEAST.items():
        value = config[key]
        if not (value is None and key == "patience") and not (type(value) is int and value >= least):
            raise UserError(f"{key}={value}: a whole number from {least} is needed")
    for key in SHARES:
        if not (_is_number(config[key]) and 0 < config[key] < 1):
            raise UserError(f"{key}={config[key]}: a number between 0 and 1 is needed")
    if not (_is_number(config.lr) and config.lr > 0):
        raise UserError(f"lr={config.lr}: a number above 0 is needed")
    if config.unfreeze not in (None, "all") and not (type(config.unfreeze) is int and config.unfreeze >= 0):
        raise UserError(f"unfreeze={config.unfreeze}: a whole number from 0, or all, is needed")
    if OmegaConf.is_missing(config, "backbone"):
        raise UserError(f"model={config.model} needs backbone=<a name that timm knows>")


def settings(config: DictConfig) -> dict[str, Any]:
    """Returns what tells one run from another, as plain values."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_SETTINGS])
    container = OmegaConf.to_container(kept, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def run_dir(config: DictConfig) -> str:
    """Returns the folder of a run: the one to resume, or `runs/<experiment>/<model>-seed<seed>-<hash>`."""
    if config.resume:
        return str(config.resume)
    digest = hashlib.blake2b(json.dumps(settings(config), sort_keys=True).encode(), digest_size=4).hexdigest()
    names = (re.sub(r"[^\w.-]+", "_", str(config[key])) for key in ("experiment", "model"))
    return "runs/{}/{}-seed{}-{}".format(*names, config.seed, digest)


def register_resolvers() -> None:
    """Makes `${run_dir:}` known to the YAML files."""
    OmegaConf.register_new_resolver("run_dir", lambda *, _root_: run_dir(_root_), replace=True)


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield f"{prefix}{key}"
        child = config._get_node(key)
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{prefix}{key}.")


def _values(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]


def _require_known(name: str, legal: Sequence[str], kind: str) -> None:
    if name not in legal:
        close = difflib.get_close_matches(name, legal, 1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UserError(f"no {kind} {name!r}{hint} Legal: {', '.join(legal)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
