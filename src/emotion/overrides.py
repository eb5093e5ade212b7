"""Checks the arguments of a command line (`lr=1e-4`) before Hydra composes them, and quotes them for its grammar."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emotion.config import CONFIG_GROUPS, LAUNCHERS, choice_names, conf_dir, flatten
from emotion.errors import UserError
from emotion.extras import require_extra
from emotion.files import expand
from emotion.settings import (
    IMAGE_CHANGES,
    OWN_DATA,
    TABLE_SETTINGS,
    DataSettings,
    fields,
    lists,
    texts,
)

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Hydra's settings that are paths; Hydra does not expand `~` in them."""
LISTS = (*lists(), "ckpt")
"""Settings whose values can be lists of paths."""
PLAIN = {*texts(), *FOLDERS, *LISTS, "out"} - {*CONFIG_GROUPS}
"""Settings whose values are texts or lists of texts, even if they look like numbers or lists, as the folder `a,b`.

The names of files in `conf/` are not among them: a comma separates two of them.
"""
_AFFINE = (lambda values: values["augment"] or values["balance"] == "offline", "augment=true or balance=offline")
_AUGMENTED = (*IMAGE_CHANGES, "mixup", "cutmix", "augmentation")
_RANDOM = ("folds", "group_by")


def _learns_labels(values: Mapping[str, Any]) -> bool:
    return bool(values["teacher"] is None or values["distill"] < 1)


EFFECTS: dict[str, tuple[Callable[[Mapping[str, Any]], object], str]] = {
    "data_dir": (lambda values: values["data"] != "synthetic", "data of files"),
    "on_bad_image": (lambda values: values["data"] != "synthetic" or values["extra_data"], "data of files"),
    **dict.fromkeys(
        ("channels", "pack_size"), (lambda values: values["data"] in OWN_DATA, "data=folder or data=table")
    ),
    **dict.fromkeys(TABLE_SETTINGS, (lambda values: values["data"] == "table", "data=table")),
    **dict.fromkeys(("votes", "soft_labels"), (lambda values: values["labels"] is not None, "labels=ferplus")),
    "synthetic_images": (lambda values: values["data"] == "synthetic", "data=synthetic"),
    **dict.fromkeys(
        ("val_fraction", "group_duplicates", "split_seed"),
        (lambda values: values["split"] in ("report", "random"), "split=report or split=random"),
    ),
    **dict.fromkeys(_RANDOM, (lambda values: values["split"] == "random", "split=random")),
    "test_fraction": (
        lambda values: values["split"] == "random" and values["folds"] is None,
        "split=random without folds, which test a part of 1 / folds",
    ),
    "fold": (lambda values: values["folds"] is not None, "folds="),
    **dict.fromkeys(("distill", "distill_temperature"), (lambda values: values["teacher"] is not None, "teacher=")),
    "distill_views": (
        lambda values: values["teacher"] is not None and any(values[key] for key in IMAGE_CHANGES),
        "teacher= and augmentation that changes single images (augment=true, flip)",
    ),
    "offline_strength": (lambda values: values["balance"] == "offline", "balance=offline"),
    **dict.fromkeys(("rotation", "zoom", "shift", "shear"), _AFFINE),
    "plain_epochs": (
        lambda values: any(values[key] for key in _AUGMENTED),
        "augmentation (augment=true, flip, mixup)",
    ),
    **dict.fromkeys(
        ("label_smoothing", "focal_gamma", "loss"),
        (_learns_labels, "a share of the labels, distill below 1"),
    ),
    "logit_adjustment": (
        lambda values: values["balance"] == "none" and _learns_labels(values),
        "balance=none, since it balances the classes itself, and a share of the labels, distill below 1",
    ),
    "layer_decay": (
        lambda values: values["unfreeze"] != 0 and values["network"] is None,
        "trained layers of the backbone, as unfreeze=all, of a model other than custom",
    ),
    "weights": (lambda values: values["init"] is None, "init=null, since the network starts from that of init="),
    "feature_views": (lambda values: values["unfreeze"] not in (None, "all"), "frozen layers, as unfreeze=0"),
    "momentum": (lambda values: values["optimizer"] == "sgd", "optimizer=sgd"),
    "warmup_epochs": (lambda values: values["schedule"] == "cosine", "schedule=cosine"),
    **dict.fromkeys(("lr_factor", "lr_patience"), (lambda values: values["schedule"] == "plateau", "schedule=plateau")),
    "min_delta": (lambda values: values["patience"] is not None, "early stopping, a patience= that is not null"),
    "trainer.gradient_clip_algorithm": (
        lambda values: values["trainer.gradient_clip_val"] is not None,
        "trainer.gradient_clip_val",
    ),
}
"""Settings that act only together with others: a test of those, and their text for messages."""
SYNONYMS = {
    **dict.fromkeys(("epochs", "epoch", "max_epochs", "num_epochs"), "trainer.max_epochs"),
    "learning_rate": "lr",
    **dict.fromkeys(("bs", "batch"), "batch_size"),
    "dataset": "data",
    **dict.fromkeys(("gpus", "devices"), "trainer.devices"),
    "accelerator": "trainer.accelerator",
    "pretrained": "weights",
}
"""Names that other programs give to settings, for messages."""
FLAGS = (
    ("--help", "-h"),
    ("--hydra-help",),
    ("--version",),
    ("--resolve",),
    ("--run", "-r"),
    ("--multirun", "-m"),
    ("--shell-completion", "-sc"),
)
"""Options of Hydra's command line that take no value."""
OPTIONS = (
    ("--cfg", "-c"),
    ("--package", "-p"),
    ("--config-path", "-cp"),
    ("--config-name", "-cn"),
    ("--config-dir", "-cd"),
    ("--experimental-rerun",),
)
"""Options of Hydra's command line that take a value."""
_PARSER = OverridesParser.create()
_PIECE = re.compile(r"""(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|\[[^\]]*\])(?=,|$)|[^,]+""", re.DOTALL)


def _options() -> argparse.ArgumentParser:
    """Returns a parser that separates overrides from Hydra's own options; Hydra then interprets the options."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in FLAGS:
        parser.add_argument(*names, action="store_true")
    for names in OPTIONS:
        parser.add_argument(*names)
    parser.add_argument("--info", "-i", nargs="?")
    return parser


def quote_arguments(arguments: Iterable[str]) -> list[str]:
    """Returns a command line that Hydra reads as intended.

    Options (`-m`) are moved before the settings. A value is quoted if Hydra's grammar cannot read it, or would read a
    path as a number or a list: `data_dir=/data/ü` becomes `data_dir='/data/ü'`. `~` is expanded in the paths of Hydra
    itself; all other settings expand it where they are used.
    """
    arguments = list(arguments)
    parsed = _options().parse_intermixed_args(arguments)
    options = list(arguments)
    for argument in parsed.overrides:
        options.remove(argument)
    return [*options, *(quote_argument(argument, parsed.multirun) for argument in parsed.overrides)]


def quote_argument(argument: str, many: bool = False) -> str:
    """Returns `key=value` with the value quoted if Hydra's grammar needs it; with `many`, commas separate values."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if name == "hydra.searchpath":
        value = re.sub(r"(?<![\w./-])~(?=/)", lambda _: os.path.expanduser("~"), value)  # noqa: PTH111
    return f"{key}={_legal_value(name, value, many and name not in FOLDERS)}" if equals else argument


def quoted(text: str) -> str:
    """Returns a text in quotes, which Hydra's grammar reads as exactly this text."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def as_typed(argument: str) -> str:
    """Returns an argument without the quotes that `quote_argument` would add."""
    key, _, value = argument.partition("=")
    read = _read(key.lstrip("+"), value)
    plain = f"{key}={read.value()}" if read is not None and isinstance(_tokens(value), QuotedString) else argument
    return plain if quote_argument(plain) == argument else argument


def check_overrides(arguments: Iterable[str], remedy: str = "add -m to start them") -> None:
    """Checks the arguments of a command line before Hydra composes them.

    Args:
        arguments: arguments such as `lr=1e-4`; options (`-m`, `--cfg job`) and Hydra's own keys are left to Hydra.
        remedy: advice for several values of a setting without `-m`.

    Raises:
        UserError: a key or model does not exist (the message names similar or all ones), an argument is not
            `key=value`, or a key has several values or a launcher without `-m`.
    """
    parsed, unknown = _options().parse_known_intermixed_args(list(arguments))
    tree = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    legal = list(
        dict.fromkeys([*CONFIG_GROUPS, *(key for key in _keys(tree) if not key.startswith(("defaults", "hydra")))])
    )
    for argument in unknown:
        if "=" in argument:
            raise UserError(f"{argument}: settings are written without dashes: {argument.lstrip('-')}")
        (meant, *_) = (*_nearest(argument.lstrip("-").replace("-", "_"), legal), "key")
        raise UserError(f"{argument}: no such option; settings are written as {meant}=<value>")
    if parsed.shell_completion:
        return
    for argument in parsed.overrides:
        if "=" not in argument:
            raise UserError(f"{argument}: not a setting; settings have the form key=value")
    overrides = [_parse(quote_argument(argument, parsed.multirun)) for argument in parsed.overrides]
    folders = _choice_folders(parsed.config_dir, overrides)
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        if override.is_sweep_override() and not parsed.multirun:
            raise UserError(f"{override.input_line}: several values mean several runs; {remedy}")
        if key in ("hydra/launcher", "hydra/sweeper") and override.is_sweep_override():
            raise UserError(f"{override.input_line}: several values; give one")
        if key in CONFIG_GROUPS:
            for value in values_of(override) if folders is not None else ():
                require_known(value, choice_names(key, folders or ()), key)
        elif key == "resume":
            _require_run(override.value())
        elif key == "hydra/launcher":
            _require_launcher(override.get_value_element_as_str())
            if not parsed.multirun:
                raise UserError(f"{override.input_line}: starts the runs of a sweep; add -m")
        elif key == "runs_per_gpu" and "hydra/launcher=ray" not in parsed.overrides and not parsed.config_dir:
            raise UserError(f"{override.input_line}: needs hydra/launcher=ray")
        elif key == "hydra/sweeper" and override.get_value_element_as_str() == "search":
            require_extra("optuna", "hydra/sweeper=search")
            _require_one_seed(overrides)
            _require_trials(overrides)
        elif not key.startswith("hydra"):
            _require_setting(key, legal)


def require_effect(arguments: Iterable[str], values: Mapping[str, Any]) -> None:
    """Checks that settings on the command line have an effect together with the other settings.

    Args:
        arguments: `key=value`, as on the command line.
        values: the settings of the run; those that are missing have their defaults.

    Raises:
        UserError: a setting is changed from its default, but nothing uses it.
    """
    flat = {key: field.default for key, field in fields().items()} | flatten(values)
    for name, _, typed in (argument.partition("=") for argument in arguments):
        key = name.lstrip("+")
        if key not in EFFECTS or typed == "null":
            continue
        value, (has_effect, needed) = flat[key], EFFECTS[key]
        is_off = value is None or (value == 0 and not isinstance(value, bool))
        if value != fields()[key].default and not is_off and not has_effect(flat):
            raise UserError(f"{key}={value}: has no effect; it needs {needed}")


def parse_arguments(arguments: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the values of `key=value` arguments, read as in training.

    Args:
        arguments: arguments whose keys are settings of the data or some of `options`.
        options: further legal keys.

    Raises:
        UserError: a key is not legal, or an argument is not `key=value`.
    """
    legal = [*options, *DataSettings.model_fields, "batch_size", "memory_budget", "seed"]
    values = {}
    for argument in arguments:
        if "=" not in argument:
            network = f"; a network is named by ckpt={argument}" if "ckpt" in options else ""
            raise UserError(f"{argument}: not a setting; settings have the form key=value{network}")
        key = argument.split("=", 1)[0]
        require_known(key, legal, "key")
        override = _parse(quote_argument(argument))
        if override.is_sweep_override():
            raise UserError(f"{argument}: several values; give one")
        value = override.value()
        if key == "ckpt" and key in values:
            raise UserError("ckpt: given twice; several networks are ckpt=[a.ckpt,b.ckpt]")
        values[key] = (
            [item.text if isinstance(item, QuotedString) else item for item in value]
            if isinstance(value, list)
            else value
        )
    return values


def require_known(name: str, legal: Sequence[str], kind: str) -> None:
    """Raises a `UserError` with the closest and all legal names if `name` is not legal."""
    if name not in legal:
        close = difflib.get_close_matches(name, legal, 1)
        hint = f", did you mean {close[0]}?" if close else "."
        raise UserError(f"no {kind} {name!r}{hint} Legal: {', '.join(legal)}")


def _require_setting(key: str, legal: Sequence[str]) -> None:
    if key not in legal:
        near = _nearest(key, legal)
        hint = f", did you mean {' or '.join(near)}?" if near else ";"
        raise UserError(f"no key {key!r}{hint} emotion train --help lists all settings")


def _nearest(key: str, legal: Sequence[str]) -> list[str]:
    """Returns the setting that a key of another program stands for, or at most three with similar names."""
    keys = [name for name in legal if name != "trainer"]
    return [SYNONYMS[key]] if key in SYNONYMS else difflib.get_close_matches(key, keys, 3, 0.7)


def _legal_value(key: str, value: str, many: bool) -> str:
    read = _read(key, value)
    if read is not None and _is_read_as_text(key, value, many) and (key not in PLAIN or value == value.strip()):
        return _with_home(value, read) if key in FOLDERS else value
    pieces = _PIECE.findall(value)
    if many and len(pieces) > 1:
        return ",".join(_legal_value(key, piece, many=False) for piece in pieces)
    if value[:1] == "[" and value[-1:] == "]" and (key in LISTS or key not in PLAIN):
        kind = "data_dir" if key in LISTS else ""
        return f"[{','.join(_legal_value(kind, piece, many=False) for piece in _PIECE.findall(value[1:-1]))}]"
    return _with_home(quoted(value), value) if key in FOLDERS else quoted(value)


def _is_read_as_text(key: str, value: str, many: bool) -> bool:
    """Returns whether Hydra reads a value of a text setting as this text; True for all other settings."""
    if key not in PLAIN:
        return True
    tokens = _tokens(value)
    if "\\" in value and not isinstance(tokens, QuotedString):
        return False  # Hydra would remove some backslashes
    if isinstance(tokens, ChoiceSweep):
        return many and all(_is_text(item) for item in tokens.list)
    if isinstance(tokens, list):
        return key in LISTS and all(_is_text(item) for item in tokens)
    return _is_text(tokens)


def _tokens(value: str) -> Any:
    """Returns a value as Hydra's parser reads it; unlike `Override.value`, it shows which texts were in quotes."""
    return _PARSER.parse_rule(value, "value") if value.strip() else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str | QuotedString | None)


def _with_home(value: str, read: Override | str) -> str:
    text = read if isinstance(read, str) else read.value()
    return quoted(os.path.expanduser(text)) if isinstance(text, str) and text[:1] == "~" else value  # noqa: PTH111


def _read(key: str, value: str) -> Override | None:
    try:
        return _PARSER.parse_override(f"{key or 'item'}={value}")
    except HydraException:
        return None


def _parse(argument: str) -> Override:
    try:
        return _PARSER.parse_override(argument)
    except HydraException:
        key = argument.partition("=")[0]
        raise UserError(f"{argument}: {key!r} cannot be the name of a setting") from None


def _choice_folders(config_dir: str | None, overrides: Sequence[Override]) -> list[Path] | None:
    """Returns the further folders that Hydra searches for experiments; None if some are inside packages."""
    folders = [config_dir] if config_dir else []
    for override in overrides:
        if override.get_key_element() == "hydra.searchpath":
            value = override.value()
            folders += map(str, value if isinstance(value, list) else [value])
    if any("://" in folder and not folder.startswith("file://") for folder in folders):
        return None
    return [expand(folder.removeprefix("file://")) for folder in folders]


def _keys(tree: object, prefix: str = "") -> Iterator[str]:
    for key, child in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(child, f"{prefix}{key}.")


def values_of(override: Override) -> list[str]:
    """Returns the values of a setting on the command line.

    Raises:
        UserError: they are a range or a pattern, which is no list of values.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        raise UserError(f"{override.input_line}: not a list of values; give a list, as a,b,c")
    return list(override.sweep_string_iterator())


def _require_run(value: object) -> None:
    path = expand(str(value))
    if path.suffix == ".ckpt" and not path.exists():
        raise UserError(f"resume={value}: no such file")
    if path.is_file() and path.parts[-2:] != ("checkpoints", "last.ckpt"):
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        raise UserError(f"resume={value}: a run continues from its last epoch; give its folder, as resume={run}")


def _require_launcher(name: str) -> None:
    if name in LAUNCHERS:
        require_extra(name, f"hydra/launcher={name}")
    require_known(name, ["basic", *LAUNCHERS, "submitit_local", "submitit_slurm", "ray_aws"], "launcher")


def _require_one_seed(overrides: Sequence[Override]) -> None:
    """Checks that a search has one seed; otherwise it would choose the luckiest of a recipe's seeds."""
    if not any(override.get_key_element() == "seed" and not override.is_sweep_override() for override in overrides):
        raise UserError("hydra/sweeper=search: needs the same seed in all runs; add one, as seed=0")


def _require_trials(overrides: Sequence[Override]) -> None:
    """Checks that the trials of a search are runs of their own, each on one device."""
    for override in overrides:
        key, value = override.get_key_element().lstrip("+"), override.get_value_element_as_str()
        if key == "resume" and value != "null":
            raise UserError(f"resume={value}: continues only one run; leave out -m")
        if key in ("trainer.devices", "trainer.num_nodes") and value not in ("1", "[0]"):
            raise UserError(f"{key}={value}: in a search every run has one device")
