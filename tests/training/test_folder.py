import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_runs import SMALL, compose_config

from emotion.config import settings
from emotion.errors import UserError
from emotion.training.folder import LARGEST, RunFolder, make_folder, read_json, read_yaml, write_json, write_text

LEFT = [
    *("metrics.json", "predictions.npz", "environment.json", "failure.json", "diverged.safetensors"),
    *("report.md", "report.html", "curves.png", "confusion_matrix.png", "mistakes.png", "recall.png"),
    *("checkpoints/best.ckpt", "checkpoints/best_acc.ckpt", "checkpoints/last.ckpt", "csv/version_0/metrics.csv"),
    *("tensorboard/events.out.tfevents.1", "tensorboard/hparams.yaml"),
]
OWN = [
    *("README.md", "package.json", "photo.png", "weights.safetensors", "notes.yaml", "run.log"),
    *("csv/mine.csv", "checkpoints/notes.txt"),
]


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("left", [LEFT, ["checkpoints/last.ckpt"], []], ids=["finished", "interrupted", "begun"])
def test_clearing_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path, left: list[str]) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(compose_config(SMALL))
    fill(tmp_path, [*left, *OWN, ".lock"])
    folder.clear()
    assert files(tmp_path) == {*OWN, ".lock"}
    assert folder.state == "new"


@pytest.mark.parametrize("config", [None, "name: my program\nscripts: {}\n", "a: [", "- 1"])
def test_a_folder_of_something_else_is_not_cleared(tmp_path: Path, config: str | None) -> None:
    fill(tmp_path, OWN)
    RunFolder(tmp_path).clear()
    if config is None:
        fill(tmp_path, ["report.md"])
    else:
        (tmp_path / "config.yaml").write_text(config)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"report.md|config.yaml") as caught:
        RunFolder(tmp_path).clear()
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_new_folder_and_one_that_failed_at_once_are_cleared(tmp_path: Path) -> None:
    RunFolder(tmp_path / "gone").clear()
    folder = RunFolder(tmp_path)
    folder.write_failure("no such weights")
    folder.clear()
    assert files(tmp_path) == set()


def test_settings_of_another_program_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: my program\n")
    with pytest.raises(UserError, match=r"config.yaml: not the settings of a run"):
        RunFolder(tmp_path).claim(compose_config(SMALL))
    assert (tmp_path / "config.yaml").read_text() == "name: my program\n"


def bomb() -> str:
    """Nine levels of nine aliases stand for 387 million values."""
    levels = [f"{name}: &{name} [{','.join(['x' if name == 'a' else f'*{below}'] * 9)}]" for below, name in LEVELS]
    return "\n".join(levels)


LEVELS = list(zip(" abcdefgh", "abcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "aliases"),
        ("data_dir: ${oc.env:SECRET_TOKEN}", "interpolations"),
        ('data_dir: "\\x24{oc.env:SECRET_TOKEN}"', "interpolations"),
        ("trainer: {a: [1, '${data}']}", "interpolations"),
        ("a: [1]\n" * (LARGEST // 6), "more than 32 KiB"),
        ("[" * 30_000, "more than 16 levels"),
    ],
)
def test_settings_are_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    folder = RunFolder(tmp_path)
    folder.config.write_text(text)
    for read in (lambda: read_yaml(folder.config), folder.read_config):
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert str(folder.config) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_settings_of_a_run_are_read_back(tmp_path: Path) -> None:
    config = compose_config([*SMALL, "data_dir='a &b *c'"])
    folder = RunFolder(tmp_path)
    folder.claim(config)
    assert read_yaml(folder.config) == settings(config)
    assert OmegaConf.to_container(folder.read_config()) == settings(config)


def test_logs_are_listed_by_their_number(tmp_path: Path) -> None:
    fill(tmp_path, [f"csv/version_{name}/metrics.csv" for name in ("10", "9", "x", "")])
    assert [path.parent.name for path in RunFolder(tmp_path).csv_files()] == ["version_9", "version_10"]


@pytest.mark.parametrize("name", ["file/below", "file", "nul\0"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the folder cannot be made \([A-Za-z ]+\)$"):
        make_folder(tmp_path / name)


def test_what_is_written_hides_the_home_folder_and_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zoë")
    name = os.fsdecode(b"n\xff.png")
    write_json(tmp_path / "a.json", {"files": [f"/home/zoë/data/{name}"], "count": 1})
    assert read_json(tmp_path / "a.json") == {"files": [f"~/data/{name}"], "count": 1}
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    write_text(tmp_path / "a.csv", f"file\n{name}\n")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "file\nn\\udcff.png\n"
