"""The words of a command line (`lr=1e-4`): checked before Hydra composes them, written as its grammar wants them."""

import argparse
import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emotion.config import GROUPS, LAUNCHERS, TEXTS, choice_names, conf_dir, one_by_one
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError
from emotion.extras import require_extra

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Hydra's settings that are paths; Hydra takes `~` in them for a name."""
LISTS = ("extra_data", "ckpt")
"""Settings whose values can be lists of paths."""
PLAIN = {*TEXTS, *FOLDERS, *LISTS, "resume", "name", "out"}
"""Settings whose values are texts, or lists of texts, whatever they look like: a folder may be called 2023 or a,b."""
_AFFINE = (lambda own: own["augment"] or own["balance"] == "offline", "augment=true or balance=offline")
_CHANGED = ("augment", "flip", "brightness", "contrast", "erase", "mixup", "cutmix")
EFFECTS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    **dict.fromkeys(("data_dir", "on_bad_image"), (lambda own: own["data"] != "synthetic", "data of files")),
    **dict.fromkeys(("channels", "pack_size"), (lambda own: own["data"] == "folder", "data=folder")),
    "synthetic_images": (lambda own: own["data"] == "synthetic", "data=synthetic"),
    **dict.fromkeys(("val_fraction", "group_duplicates"), (lambda own: own["split"] == "report", "split=report")),
    "offline_strength": (lambda own: own["balance"] == "offline", "balance=offline"),
    **dict.fromkeys(("rotation", "zoom", "shift", "shear"), _AFFINE),
    "plain_epochs": (lambda own: any(own[key] for key in _CHANGED), "images that change (augment=true, flip, mixup)"),
    "feature_views": (lambda own: own["backbone"] is not None, "a model that has a backbone"),
    "momentum": (lambda own: own["optimizer"] == "sgd", "optimizer=sgd"),
    "warmup_epochs": (lambda own: own["schedule"] == "cosine", "schedule=cosine"),
    **dict.fromkeys(("lr_factor", "lr_patience"), (lambda own: own["schedule"] == "plateau", "schedule=plateau")),
    "min_delta": (lambda own: own["patience"] is not None, "patience"),
    "trainer.gradient_clip_algorithm": (
        lambda own: own["trainer.gradient_clip_val"] is not None,
        "trainer.gradient_clip_val",
    ),
}
"""Settings that act only beside others: whether those are there, and which they are."""
FLAGS = (
    ("--help", "-h"),
    ("--hydra-help",),
    ("--version",),
    ("--resolve",),
    ("--run", "-r"),
    ("--multirun", "-m"),
    ("--shell-completion", "-sc"),
)
"""Options of Hydra's command line without a value."""
OPTIONS = (
    ("--cfg", "-c"),
    ("--package", "-p"),
    ("--config-path", "-cp"),
    ("--config-name", "-cn"),
    ("--config-dir", "-cd"),
    ("--experimental-rerun",),
)
"""Options with a value."""
_PARSER = OverridesParser.create()
_PIECE = re.compile(r"""(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|\[[^\]]*\])(?=,|$)|[^,]+""", re.DOTALL)


def _options() -> argparse.ArgumentParser:
    """Returns a parser of a command line with Hydra's own options, to which Hydra itself gives their meaning."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in FLAGS:
        parser.add_argument(*names, action="store_true")
    for names in OPTIONS:
        parser.add_argument(*names)
    parser.add_argument("--info", "-i", nargs="?")
    return parser


def quote_arguments(arguments: Iterable[str]) -> list[str]:
    """Returns a command line as Hydra understands it.

    Options (`-m`) come before the settings. A value that Hydra's grammar cannot read, or takes for a number or a list
    where a path is meant, is quoted: `data_dir=/data/ü` becomes `data_dir='/data/ü'`. `~` in Hydra's own folders is
    expanded; all other settings expand it where they are used.
    """
    arguments = list(arguments)
    parsed = _options().parse_intermixed_args(arguments)
    options = list(arguments)
    for word in parsed.overrides:
        options.remove(word)
    return [*options, *(quote_argument(word, parsed.multirun) for word in parsed.overrides)]


def quote_argument(word: str, many: bool = False) -> str:
    """Returns `key=value` with the value written as Hydra's grammar wants it; with `many`, commas separate values."""
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if name == "hydra.searchpath":
        value = re.sub(r"(?<![\w./-])~(?=/)", lambda _: os.path.expanduser("~"), value)  # noqa: PTH111
    return f"{key}={_legal_value(name, value, many and name not in FOLDERS)}" if equals else word


def quoted(text: str) -> str:
    """Returns a text that Hydra's grammar reads as it is."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def as_typed(word: str) -> str:
    """Returns a word without the quotes that `quote_argument` puts around its value again."""
    key, _, value = word.partition("=")
    read = _read(key.lstrip("+"), value)
    plain = f"{key}={read.value()}" if read is not None and isinstance(_parts(value), QuotedString) else word
    return plain if quote_argument(plain) == word else word


def check_overrides(arguments: Iterable[str]) -> None:
    """Checks the words of a command line before Hydra composes them.

    Args:
        arguments: words such as `lr=1e-4`; options (`-m`, `--cfg job`) and Hydra's own keys are left to Hydra.

    Raises:
        UserError: a key or model that does not exist, with what is legal, a word that is no `key=value`, or several
            values without `-m`.
    """
    parsed = _options().parse_intermixed_args(list(arguments))
    if parsed.shell_completion:
        return
    for word in parsed.overrides:
        if "=" not in word:
            raise UserError(f"{word}: settings are given as key=value")
    words = [quote_argument(word, parsed.multirun) for word in parsed.overrides]
    overrides = [_parse(word) for word in words]
    tree = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    legal = list(dict.fromkeys([*GROUPS, *(key for key in _keys(tree) if not key.startswith(("defaults", "hydra")))]))
    folders = _choice_folders(parsed.config_dir, overrides)
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        if override.is_sweep_override() and not parsed.multirun:
            raise UserError(f"{override.input_line}: several values are several runs, which -m starts")
        if key in GROUPS:
            for value in _values(override) if folders is not None else ():
                require_known(value, choice_names(key, folders or ()), key)
        elif key == "resume":
            _require_run(override.value())
        elif key == "hydra/launcher":
            _require_launcher(override.get_value_element_as_str())
        elif key == "hydra/sweeper" and override.get_value_element_as_str() == "search":
            require_extra("optuna", "hydra/sweeper=search")
            _require_one_seed(overrides)
        elif not key.startswith("hydra"):
            group = key.rpartition(".")[0]
            require_known(key, [name for name in legal if name.rpartition(".")[0] == group] or legal, "key")


def require_effect(words: Iterable[str], values: Mapping[str, Any]) -> None:
    """Checks that settings which somebody gave can act beside the others.

    Args:
        words: `key=value`, as on the command line.
        values: all settings of the run.

    Raises:
        UserError: a setting with another value than its default, which nothing would ask for.
    """
    all_values = one_by_one(values)
    defaults = OmegaConf.load(conf_dir() / "config.yaml")
    for key in (word.partition("=")[0].lstrip("+") for word in words):
        if key in EFFECTS and all_values[key] not in (OmegaConf.select(defaults, key), 0, None):
            acts, needed = EFFECTS[key]
            if not acts(all_values):
                raise UserError(f"{key}={all_values[key]}: without effect here; it acts with {needed} only")


def parse_arguments(words: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
    """Reads `key=value` words that set the data or one of some options, as training reads them.

    Raises:
        UserError: a key that is not legal.
    """
    legal = [*options, *inspect.signature(EmotionDataModule).parameters]
    values = {}
    for word in words:
        key = word.split("=", 1)[0]
        require_known(key, legal, "key")
        if "=" not in word:
            raise UserError(f"{word}: settings are given as key=value")
        value = _parse(quote_argument(word)).value()
        values[key] = (
            [item.text if isinstance(item, QuotedString) else item for item in value]
            if isinstance(value, list)
            else value
        )
    return values


def require_known(name: str, legal: Sequence[str], kind: str) -> None:
    """Raises a `UserError` with the nearest and all legal names if `name` is none of them."""
    if name not in legal:
        close = difflib.get_close_matches(name, legal, 1)
        hint = f", did you mean {close[0]}?" if close else "."
        raise UserError(f"no {kind} {name!r}{hint} Legal: {', '.join(legal)}")


def _legal_value(key: str, value: str, many: bool) -> str:
    read = _read(key, value)
    if read is not None and _is_meant(key, value, many) and (key not in PLAIN or value == value.strip()):
        return _with_home(value, read) if key in FOLDERS else value
    pieces = _PIECE.findall(value)
    if many and len(pieces) > 1:
        return ",".join(_legal_value(key, piece, many=False) for piece in pieces)
    if value[:1] == "[" and value[-1:] == "]" and (key in LISTS or key not in PLAIN):
        kind = "data_dir" if key in LISTS else ""
        return f"[{','.join(_legal_value(kind, piece, many=False) for piece in _PIECE.findall(value[1:-1]))}]"
    return _with_home(quoted(value), value) if key in FOLDERS else quoted(value)


def _is_meant(key: str, value: str, many: bool) -> bool:
    """Tells whether Hydra would read a value as a person means it; only those that are texts can be mistaken."""
    if key not in PLAIN:
        return True
    parts = _parts(value)
    if isinstance(parts, ChoiceSweep):
        return many and all(_is_text(item) for item in parts.list)
    if isinstance(parts, list):
        return key in LISTS and all(_is_text(item) for item in parts)
    return _is_text(parts)


def _parts(value: str) -> Any:
    """Returns a value that Hydra can read, with what `Override.value` leaves out: which texts stood in quotes."""
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


def _parse(word: str) -> Override:
    try:
        return _PARSER.parse_override(word)
    except HydraException:
        key = word.partition("=")[0]
        raise UserError(f"{word}: {key!r} cannot be the name of a setting") from None


def _choice_folders(config_dir: str | None, overrides: Sequence[Override]) -> list[Path] | None:
    """Lists the folders beside ours in which Hydra looks for experiments; None where some are inside packages."""
    places = [config_dir] if config_dir else []
    for override in overrides:
        if override.get_key_element() == "hydra.searchpath":
            value = override.value()
            places += map(str, value if isinstance(value, list) else [value])
    if any("://" in place and not place.startswith("file://") for place in places):
        return None
    return [Path(place.removeprefix("file://")).expanduser() for place in places]


def _keys(tree: object, prefix: str = "") -> Iterator[str]:
    for key, child in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(child, f"{prefix}{key}.")


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def _require_run(value: object) -> None:
    path = Path(str(value)).expanduser()
    if path.suffix == ".ckpt" and not path.exists():
        raise UserError(f"resume={value}: no such file")
    if path.is_file() and path.parts[-2:] != ("checkpoints", "last.ckpt"):
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        raise UserError(f"resume={value}: a run goes on from its last epoch; give its folder, as resume={run}")


def _require_launcher(name: str) -> None:
    if name in LAUNCHERS:
        require_extra(name, f"hydra/launcher={name}")
    require_known(name, ["basic", *LAUNCHERS, "submitit_local", "submitit_slurm", "ray_aws"], "launcher")


def _require_one_seed(overrides: Sequence[Override]) -> None:
    """A recipe's seeds would be values to choose among, and the search would look for the luckiest."""
    if not any(one.get_key_element() == "seed" and not one.is_sweep_override() for one in overrides):
        raise UserError("hydra/sweeper=search: the same seed is needed in all runs, as seed=0")
