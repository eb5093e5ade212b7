"""The folder of one run: what lies where, and whether the run is new, unfinished or finished."""

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from emotion.config import completed, one_by_one, same_settings, settings
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, hide_home, remove_stale_temporaries

State = Literal["new", "unfinished", "finished"]
LARGEST = 2**15
"""Bytes of a file of settings; those of a run take about 3,000."""
DEEPEST = 16
"""Levels of collections in a file of settings; those of a run have two."""
EVALUATION = "evaluation.json"
"""The file that marks a folder that `evaluate.py` wrote, with its checkpoints and data."""
_SETTINGS_OF_A_RUN = {"model", "family", "weights", "data", "split", "balance", "seed"}
_WRITTEN = (
    "metrics.json",
    "checkpoints/*.ckpt",
    "csv/version_*",
    "tensorboard/events.out.*",
    "tensorboard/hparams.yaml",
    "environment.json",
    "predictions.npz",
    "diverged.safetensors",
    "report.md",
    "report.html",
    "confusion_matrix.png",
    "curves.png",
    "fit-profile.*",
    "mistakes.png",
    "recall.png",
    "config.yaml",
)
"""What a run writes, the settings last: while they are there, the folder is known to be a run's."""


class RunFolder:
    """Paths of a run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.tensorboard = path / "tensorboard"
        self.csv = path / "csv"
        self.predictions = path / "predictions.npz"
        self.metrics = path / "metrics.json"
        self.failure = path / "failure.json"
        self.diverged = path / "diverged.safetensors"
        self.lock = path / ".lock"
        self.replaced = path / ".replaced"
        self._moving = path / ".moving"

    @property
    def state(self) -> State:
        """`metrics.json` is written last and makes a run finished; `last.ckpt` is what it can go on from."""
        if self.metrics.is_file():
            return "finished"
        return "unfinished" if self.last.is_file() else "new"

    def csv_files(self) -> list[Path]:
        """Lists the CSV logs, one for each start of the run, the first start first."""
        numbers = {path: path.parent.name.removeprefix("version_") for path in self.csv.glob("version_*/metrics.csv")}
        return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda p: int(numbers[p]))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training here, until this one leaves or dies.

        Raises:
            UserError: another process is training here, or the folder cannot be made.
        """
        try:
            str(self.path).encode()  # TensorBoard needs that
        except UnicodeEncodeError:
            raise UserError(f"{self.path}: the names of folders of runs must be UTF-8") from None
        _make_folder(self.path)
        try:
            with FileLock(self.lock, timeout=0):
                remove_stale_temporaries(self.path)
                remove_stale_temporaries(self.checkpoints)
                yield
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training there; wait for it, or choose another folder "
                "(hydra.run.dir=)"
            ) from None

    def holds(self, config: DictConfig) -> bool:
        """Tells whether a run with these settings lies here; those that it does not know have their defaults."""
        return self.config.is_file() and same_settings(read_yaml(self.config), settings(config))

    def require_own(self, config: DictConfig) -> None:
        """Checks that a run with these settings can start or go on here.

        Raises:
            UserError: the folder holds a run with other settings, or such that cannot be read, or no run's.
        """
        if self.config.is_file() and not is_run(read_yaml(self.config)):
            raise UserError(f"{self.config}: not the settings of a run; choose another folder (hydra.run.dir=)")
        if self.config.is_file() and not self.holds(config):
            raise UserError(
                f"{self.path} holds a run with other settings; choose another folder (hydra.run.dir=), continue that "
                "run (resume=), or replace it (overwrite=true)"
            )

    def claim(self, config: DictConfig, environment: Mapping[str, Any], epochs: int) -> None:
        """Writes down the settings and the environment of a run that starts or goes on here.

        Of a run that goes on with other settings, the environment keeps which ones changed after how many epochs, and
        its figures, if it was finished, are removed.

        Args:
            config: the composed configuration.
            environment: see `emotion.training.environment`.
            epochs: how many the run has been trained for.
        """
        changes = read_json(self.environment).get("changes", []) if self.environment.is_file() else []
        if self.config.is_file():
            before, now = completed(read_yaml(self.config)), one_by_one(settings(config))
            changed = {key: [before.get(key), now[key]] for key in now if before.get(key) != now[key]}
            if changed:
                changes = [*changes, {"after_epoch": epochs, "changed": changed}]
                self.metrics.unlink(missing_ok=True)
        write_text(self.config, OmegaConf.to_yaml(settings(config)))
        write_json(self.environment, {**environment, **({"changes": changes} if changes else {})})

    def set_aside(self) -> None:
        """Moves what an earlier run left out of the way, and nothing else; the log stays, since it is being written.

        Raises:
            UserError: the folder holds files that are called like those of a run, but not the settings of one.
        """
        left = self._left()
        if left and not (self.config.is_file() and is_run(read_yaml(self.config))):
            raise UserError(
                f"{left[0]}: overwrite=true replaces runs only, and there is no config.yaml of one; choose another "
                "folder (hydra.run.dir=)"
            )
        for path in left:
            _move(path, self.path, self._moving)
        if left:
            self._moving.rename(self.replaced)

    def drop_replaced(self) -> None:
        """Removes a run that was set aside, once the one that replaces it has its first checkpoint."""
        if self.replaced.is_dir() and self.last.is_file():
            shutil.rmtree(self.replaced, ignore_errors=True)  # several processes may train this run

    def settle(self) -> None:
        """Decides between a run that was set aside and the one that was to replace it.

        Without a checkpoint of the new one, the old one comes back as it was. Whatever ended an earlier call, or
        `set_aside`, is made good.
        """
        self.drop_replaced()
        if self.replaced.is_dir():
            for path in self._left():
                if path != self.diverged:  # an error message names it
                    _remove(path)
            self.replaced.rename(self._moving)
        if self._moving.is_dir():
            for path in sorted(self._moving.rglob("*")):
                if path.is_file():
                    _move(path, self._moving, self.path)
            shutil.rmtree(self._moving)

    def _left(self) -> list[Path]:
        return [path for pattern in _WRITTEN for path in sorted(self.path.glob(pattern))]

    def read_config(self) -> DictConfig:
        """Reads the settings of the run that lies here.

        Raises:
            UserError: no run lies here, or its settings cannot be read.
        """
        if not self.config.is_file():
            raise UserError(f"resume={self.path}: no run lies there (config.yaml is missing)")
        return OmegaConf.create(read_yaml(self.config))

    @contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """Keeps an exception that passes through, as `write_failure` does."""
        try:
            yield
        except Exception as error:
            self.write_failure(first_line(error), format_exc())
            raise

    def write_failure(self, error: str, traceback: str = "") -> None:
        """Keeps why the run failed: a line, and where in the code."""
        write_json(self.failure, {"error": hide_home(error), "traceback": hide_home(traceback)})


def _move(path: Path, root: Path, other: Path) -> None:
    """Moves a file or folder from below one folder to the same place below another."""
    target = other / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_run(values: Mapping[str, Any]) -> bool:
    """Tells whether these are the settings of a run; other programs have a config.yaml too."""
    return values.keys() >= _SETTINGS_OF_A_RUN


def make_results_folder(path: Path) -> None:
    """Makes a folder for what is not a run, if it is missing.

    Raises:
        UserError: it cannot be made, or a run lies there, whose results would be replaced.
    """
    config = path / "config.yaml"
    if config.is_file() and is_run(read_yaml(config)):
        raise UserError(f"{path}: a run lies there, whose report and figures would be replaced; name another folder")
    _make_folder(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the folder cannot be made ({getattr(error, 'strerror', error)})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads settings, which are plain values; a file of something else has none.

    Raises:
        UserError: a file that cannot be read, is larger than `LARGEST` or deeper than `DEEPEST`, or has aliases or
            interpolations. A few aliases stand for billions of values, and an interpolation for what only this
            machine knows.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST // 2**10} KiB")
        text = path.read_text(encoding="utf-8")
        _refuse_nesting(text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
        if "${" in repr(content):
            raise ValueError("it has interpolations (${...}), and settings are plain values")
    except Exception as error:
        # A damaged file can make the reader raise anything.
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _refuse_nesting(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, and settings are plain values")
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object of JSON."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON that no reader sees half of, with the home folder as `~`."""
    write_text(path, hide_home(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text that no reader sees half of; what is no text, as in names of files, as an escape."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
