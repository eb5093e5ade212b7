"""The folder of one run: what lies where, and whether the run is new, unfinished or finished."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc
from typing import Any, Literal

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from emotion.config import settings
from emotion.errors import UserError, first_line
from emotion.files import hide_home, remove_rests, replacing

State = Literal["new", "unfinished", "finished"]


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

    @property
    def state(self) -> State:
        """`metrics.json` is written last and makes a run finished; `last.ckpt` is what it can go on from."""
        if self.metrics.is_file():
            return "finished"
        return "unfinished" if self.last.is_file() else "new"

    def csv_files(self) -> list[Path]:
        """Lists the CSV logs, one for each start of the run, the first start first."""
        return sorted(self.csv.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training here, until this one leaves or dies.

        Raises:
            UserError: another process is training here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.lock, timeout=0):
                remove_rests(self.path)
                remove_rests(self.checkpoints)
                yield
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training there; wait for it, or choose another folder "
                "(hydra.run.dir=)"
            ) from None

    def claim(self, config: DictConfig) -> None:
        """Writes down the settings of a run that is about to start or go on here.

        Raises:
            UserError: the folder holds a run with other settings, or such that cannot be read.
        """
        if self.config.is_file() and read_yaml(self.config) != settings(config):
            raise UserError(
                f"{self.path} holds a run with other settings; choose another folder (hydra.run.dir=), continue that "
                "run (resume=), or replace it (overwrite=true)"
            )
        write_text(self.config, OmegaConf.to_yaml(settings(config)))

    def clear(self) -> None:
        """Removes what an earlier run left; the log stays, since it is being written."""
        for folder in (self.checkpoints, self.tensorboard, self.csv):
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in ("*.yaml", "*.json", "*.npz", "*.safetensors", "*.png", "*.md", "*.html"):
            for file in self.path.glob(pattern):
                file.unlink()

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


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads settings; a file of something else has none.

    Raises:
        UserError: a file that cannot be read.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        # A damaged file can make the reader raise anything.
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object of JSON."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON that no reader sees half of."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text that no reader sees half of."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
