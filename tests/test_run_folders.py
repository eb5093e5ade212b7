"""Runs keep their folders: the hash of their settings is the same in every version."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from keep import NAMES, keep
from omegaconf import DictConfig, OmegaConf

from emotion.config import choice_names, compose, distinguishing, read, run_dir, same_settings, settings
from emotion.errors import UserError

RESULTS = Path(__file__).parents[1] / "results"
GOLDEN = Path(__file__).with_suffix(".json")


def found() -> dict[str, dict[str, str]]:
    """The names that the folders of kept runs would get today (those typed with a folder of weights kept its file), and
    those of each model and recipe."""
    kept = {}
    for file in sorted(RESULTS.rglob("config.yaml")):
        stored = OmegaConf.merge(OmegaConf.load(file), {"resume": None})
        assert isinstance(stored, DictConfig)
        kept[str(file.parent.relative_to(RESULTS))] = Path(run_dir(stored)).name
    words = [f"{group}={name}" for group in ("model", "recipe") for name in choice_names(group)]
    composed = {word: Path(run_dir(compose(word, "weights=none"))).name for word in words if "ensemble" not in word}
    return {"kept runs": kept, "command lines": composed}


def test_hashes_of_runs_never_move() -> None:
    assert found() == json.loads(GOLDEN.read_text())


def test_the_default_run_is_the_one_of_the_documentation() -> None:
    assert run_dir(compose()) == "runs/default/cnn-seed0-2ab08c0c"


def test_settings_of_kept_runs_read_as_the_same_settings() -> None:
    defaults, files = compose(), sorted(RESULTS.rglob("config.yaml"))
    assert len(files) > 50
    for file in files:
        stored = OmegaConf.load(file)
        config = OmegaConf.merge(defaults, stored)
        assert isinstance(config, DictConfig)
        values = OmegaConf.to_container(stored)
        assert isinstance(values, dict)
        assert same_settings({str(key): value for key, value in values.items()}, settings(config)), file
        assert distinguishing(read(config).flat()) == settings(config), file


def test_a_run_is_kept_as_the_others_are(tmp_path: Path) -> None:
    kept = RESULTS / "table1/cnn_111/cnn_111-seed0-22096597"
    run = shutil.copytree(kept, tmp_path / "runs/report" / kept.name)
    (run / "checkpoints").mkdir()
    (run / "checkpoints/best.ckpt").touch()
    curves = run / "csv/version_0/metrics.csv"
    columns = curves.read_text().splitlines()[0].split(",")
    single = {"epoch": "3", "step": "9", "train/loss_step": "1.5"}
    with curves.open("a", newline="") as file:
        csv.writer(file).writerow([single.get(column, "") for column in columns])
    (tmp_path / NAMES).parent.mkdir()
    names = json.loads(GOLDEN.read_text())
    (tmp_path / NAMES).write_text(json.dumps(names | {"kept runs": {}}))
    folder = keep(run, "table1/cnn_111", tmp_path)
    # An earlier training can have left the curves of a part that the later one does not have.
    (folder / "csv/version_9").mkdir()
    (folder / "csv/version_9/metrics.csv").touch()
    assert keep(run, "table1/cnn_111", tmp_path) == folder
    files = {file.relative_to(kept): file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    assert {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()} == files
    assert json.loads((tmp_path / NAMES).read_text())["kept runs"] == {f"table1/cnn_111/{kept.name}": kept.name}
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match="not a finished run"):
        keep(run, "table1/cnn_111", tmp_path)
