"""The folder of one run: the paths in it, and whether the run is new, unfinished or finished."""

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exc
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from emotion.config import distinguishing, flatten, is_same, same_settings, with_defaults
from emotion.errors import UserError, first_line
from emotion.files import atomic_write, hide_home, remove_stale_temporaries
from emotion.settings import Settings

State = Literal["new", "unfinished", "finished"]
LARGEST = 2**17
"""Largest size of a file of settings in bytes; the settings of a run take about 3,000, and 1,000 names of
classes 67,000."""
DEEPEST = 16
"""Deepest nesting of collections in a file of settings; the settings of a run have two levels."""
EVALUATION = "evaluation.json"
"""The file that `evaluate.py` writes, with its checkpoints and data; it marks the folder of an evaluation."""
_REQUIRED_SETTINGS = {"model", "family", "weights", "data", "split", "balance", "seed"}
_WRITTEN = (
    "metrics.json",
    "checkpoints/*.ckpt",
    "csv/version_*",
    "events.out.tfevents.*",
    "tensorboard/events.out.*",
    "tensorboard/hparams.yaml",
    "wandb/*run-*",
    "wandb/debug*.log",
    "mlflow",
    "loggers.json",
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
"""Patterns of the files of a run. The settings come last: while they exist, the folder is recognised as a run's."""


class RunFolder:
    """The paths of a run, and its state.

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
        self.csv = path / "csv"
        self.mlflow = path / "mlflow"
        self.loggers = path / "loggers.json"
        self.predictions = path / "predictions.npz"
        self.metrics = path / "metrics.json"
        self.failure = path / "failure.json"
        self.diverged = path / "diverged.safetensors"
        self.lock = path / ".lock"
        self.replaced = path / ".replaced"
        self._moving = path / ".moving"

    @property
    def state(self) -> State:
        """The state: a run with `metrics.json`, written last, is finished; one with `last.ckpt` can be resumed."""
        if self.metrics.is_file():
            return "finished"
        return "unfinished" if self.last.is_file() else "new"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files: the run's, after which TensorBoard names it; that of older runs."""
        older = self.path / "tensorboard"
        return older if older.is_dir() else self.path

    def csv_files(self) -> list[Path]:
        """Returns the CSV logs, one for each start of the run, in order of the starts."""
        numbers = {path: path.parent.name.removeprefix("version_") for path in self.csv.glob("version_*/metrics.csv")}
        return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda p: int(numbers[p]))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other processes until the block or this process ends; makes the folder first.

        Raises:
            UserError: another process is training in this folder, or the folder cannot be made.
        """
        try:
            str(self.path).encode()  # TensorBoard accepts UTF-8 only
        except UnicodeEncodeError:
            raise UserError(f"{self.path}: the name is not UTF-8; choose another folder (hydra.run.dir=)") from None
        _make_folder(self.path)
        try:
            with FileLock(self.lock, timeout=0):
                remove_stale_temporaries(self.path)
                remove_stale_temporaries(self.checkpoints)
                yield
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training in it; wait for it, or choose another folder "
                "(hydra.run.dir=)"
            ) from None

    def holds(self, settings: Settings) -> bool:
        """Returns whether the folder holds a run with these settings; those newer than that run count as defaults."""
        return self.config.is_file() and same_settings(read_yaml(self.config), distinguishing(settings.flat()))

    def is_finished(self, settings: Settings) -> bool:
        """Returns whether the folder holds a run with these settings: trained and, unless `test=false`, tested.

        Raises:
            UserError: its metrics cannot be read.
        """
        if self.state != "finished" or not self.holds(settings):
            return False
        try:
            metrics = read_json(self.metrics)
            left = metrics.get("run", {}).get("test_images", 0)  # older runs do not say how many there are
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{self.metrics}: cannot be read ({first_line(error)}); overwrite=true starts again"
            ) from None
        return not settings.training.test or "test" in metrics or not left

    def require_same_run(self, settings: Settings) -> None:
        """Checks that a run with these settings can start or be resumed in this folder.

        Raises:
            UserError: the settings in the folder are those of another run, cannot be read, or are not those of a run.
        """
        if self.config.is_file() and not is_run(read_yaml(self.config)):
            raise UserError(f"{self.config}: not the settings of a run; choose another folder (hydra.run.dir=)")
        if self.config.is_file() and not self.holds(settings):
            raise UserError(
                f"{self.path}: holds a run with other settings; choose another folder (hydra.run.dir=), continue that "
                "run (resume=), or replace it (overwrite=true)"
            )

    def claim(self, settings: Settings, environment: Mapping[str, Any], epochs: int) -> None:
        """Writes the settings and the environment of a run that starts or is resumed in this folder.

        If a run is resumed with other settings, the changes and their epoch are added to the environment, and the
        metrics of the finished run are removed.

        Args:
            settings: the settings of the run.
            environment: see `emotion.training.environment.describe_environment`.
            epochs: number of epochs that the run has been trained for.
        """
        kept = distinguishing(settings.flat())
        changes = read_json(self.environment).get("changes", []) if self.environment.is_file() else []
        if self.config.is_file():
            before, now = with_defaults(read_yaml(self.config)), flatten(kept)
            changed = {key: [before.get(key), now[key]] for key in now if not is_same(key, before.get(key), now[key])}
            if changed:
                changes = [*changes, {"after_epoch": epochs, "changed": changed}]
                self.metrics.unlink(missing_ok=True)
        write_text(self.config, OmegaConf.to_yaml(kept))
        write_json(self.environment, {**environment, **({"changes": changes} if changes else {})})

    def set_aside(self) -> None:
        """Moves the files of an earlier run, and no others, to `replaced`; the log stays, since it is being written.

        Raises:
            UserError: the folder contains files with the names of a run's, but not the settings of a run.
        """
        files = self._run_files()
        if files and not (self.config.is_file() and is_run(read_yaml(self.config))):
            raise UserError(
                f"{files[0]}: overwrite=true replaces only runs, and the folder has no config.yaml of a run; choose "
                "another folder (hydra.run.dir=)"
            )
        for path in files:
            _move(path, self.path, self._moving)
        if files:
            self._moving.rename(self.replaced)

    def drop_replaced(self) -> None:
        """Removes a run that was set aside, if the run that replaces it has its first checkpoint."""
        if self.replaced.is_dir() and self.last.is_file():
            shutil.rmtree(self.replaced, ignore_errors=True)  # several processes may train this run

    def settle(self) -> None:
        """Keeps either a run that was set aside or the run that was to replace it.

        If the new run has no checkpoint, its files are removed and the old run is restored unchanged. A call completes
        earlier calls of `settle` and `set_aside` that were interrupted.
        """
        self.drop_replaced()
        if self.replaced.is_dir():
            for path in self._run_files():
                if path != self.diverged:  # the error message names this file
                    _remove(path)
            self.replaced.rename(self._moving)
        if self._moving.is_dir():
            for path in sorted(self._moving.rglob("*")):
                if path.is_file():
                    _move(path, self._moving, self.path)
            shutil.rmtree(self._moving)

    def _run_files(self) -> list[Path]:
        return [path for pattern in _WRITTEN for path in sorted(self.path.glob(pattern))]

    def read_config(self) -> DictConfig:
        """Returns the settings of the run in this folder.

        Raises:
            UserError: there is no run, or its settings cannot be read.
        """
        if not self.config.is_file():
            raise UserError(f"resume={self.path}: no run in this folder (config.yaml is missing)")
        return OmegaConf.create(read_yaml(self.config))

    @contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """Writes an exception that the block raises to `failure.json`, and raises it again."""
        try:
            yield
        except Exception as error:
            self.write_failure(first_line(error), format_exc())
            raise

    def discard_unused(self) -> None:
        """Removes the folder of a run that was refused before it wrote a file beside its log and its error.

        The folder of a run that another process has just begun stays.
        """
        files = [self.path / "run.log", self.failure, self.lock]
        if not self.path.is_dir() or not {*self.path.iterdir()} <= {*files}:
            return
        with suppress(UserError, OSError), self.locked():  # OSError: the working directory
            for file in files:
                file.unlink(missing_ok=True)
            self.path.rmdir()

    def write_failure(self, error: str, traceback: str = "") -> None:
        """Writes why the run failed to `failure.json`: the message, and the traceback."""
        write_json(self.failure, {"error": hide_home(error), "traceback": hide_home(traceback)})


def _move(path: Path, root: Path, other: Path) -> None:
    """Moves a file or folder to another root, where it keeps its relative path."""
    target = other / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_run(values: Mapping[str, Any]) -> bool:
    """Returns whether these are the settings of a run; other programs write a config.yaml too."""
    return values.keys() >= _REQUIRED_SETTINGS


def make_results_folder(path: Path) -> None:
    """Makes a folder for results that are not a run's, if it is missing.

    Raises:
        UserError: the folder cannot be made, or contains a run, whose results would be replaced.
    """
    config = path / "config.yaml"
    if config.is_file() and is_run(read_yaml(config)):
        raise UserError(f"{path}: holds a run, whose report and metrics would be replaced; name another folder")
    _make_folder(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the folder cannot be made ({getattr(error, 'strerror', error)})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads settings, which are plain values; returns none if the file holds something other than a mapping.

    Raises:
        UserError: the file cannot be read, is larger than `LARGEST` or deeper than `DEEPEST`, or contains aliases, of
            which a few can stand for billions of values, tags, which make values of other types, or interpolations,
            which can read variables of this machine.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST // 2**10} KiB")
        text = path.read_text(encoding="utf-8")
        _require_plain(text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
        if "${" in repr(content):
            raise ValueError("it contains interpolations (${...}); settings must be plain values")
    except Exception as error:
        # A damaged file can make the reader raise any exception.
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _require_plain(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it contains aliases; settings must be plain values")
        if getattr(event, "tag", None):
            raise ValueError(f"it contains the tag {event.tag}; settings must be plain values")
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file that holds an object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON atomically, with the home folder as `~`."""
    write_text(path, hide_home(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text atomically; characters that UTF-8 cannot encode, as in names of files, become escapes."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
