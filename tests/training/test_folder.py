import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_runs import SMALL

from emotion.config import compose, read, settings
from emotion.errors import UserError
from emotion.settings import Settings
from emotion.training import folder as folder_module
from emotion.training.folder import (
    LARGEST,
    RunFolder,
    make_results_folder,
    read_json,
    read_yaml,
    write_json,
    write_text,
)

RUN_FILES = [
    *("metrics.json", "predictions.npz", "environment.json", "diverged.safetensors"),
    *("report.md", "report.html", "curves.png", "confusion_matrix.png", "mistakes.png", "recall.png"),
    *("checkpoints/best.ckpt", "checkpoints/best_acc.ckpt", "checkpoints/last.ckpt", "csv/version_0/metrics.csv"),
    *("tensorboard/events.out.tfevents.1", "tensorboard/hparams.yaml", "events.out.tfevents.1", "loggers.json"),
]
OTHER_FILES = [
    *("README.md", "package.json", "photo.png", "weights.safetensors", "notes.yaml", "run.log"),
    *("csv/mine.csv", "checkpoints/notes.txt"),
]


def settings_of(*overrides: str) -> Settings:
    return read(compose(*SMALL, *overrides))


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def contents(root: Path) -> dict[str, str]:
    """Returns the files of a run in a folder, by their relative paths."""
    return {name: (root / name).read_text() for name in files(root) - {*OTHER_FILES, ".lock"}}


@pytest.fixture(params=[RUN_FILES, ["checkpoints/last.ckpt"], []], ids=["finished", "interrupted", "begun"])
def old_run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.claim(settings_of(), {}, 0)
    fill(tmp_path, [*request.param, *OTHER_FILES, ".lock"])
    return folder


def test_only_the_files_of_a_run_are_set_aside(old_run: RunFolder) -> None:
    before = contents(old_run.path)
    old_run.set_aside()
    assert files(old_run.path) == {*OTHER_FILES, ".lock", *(f".replaced/{name}" for name in before)}
    assert old_run.state == "new"


def test_a_run_comes_back_unless_its_successor_has_a_checkpoint(old_run: RunFolder) -> None:
    before = contents(old_run.path)
    old_run.set_aside()
    old_run.claim(settings_of("seed=5"), {}, 0)
    fill(old_run.path, ["csv/version_7/metrics.csv", "checkpoints/best.ckpt"])
    old_run.drop_replaced()
    old_run.settle()
    assert contents(old_run.path) == before
    old_run.set_aside()
    fill(old_run.path, ["checkpoints/last.ckpt"])
    (old_run.path / "checkpoints" / "last.ckpt").write_text("new")
    old_run.drop_replaced()
    old_run.settle()
    assert contents(old_run.path) == {"checkpoints/last.ckpt": "new"}


def test_a_kill_at_any_move_loses_neither_run(old_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(old_run.path)
    moves = 0

    def strike(event: str) -> None:
        nonlocal moves
        moves -= 1
        if moves == 0:
            raise KeyboardInterrupt(event)

    replace, rename, rmtree = Path.replace, Path.rename, folder_module.shutil.rmtree
    monkeypatch.setattr(Path, "replace", lambda self, target: (strike("replace"), replace(self, target))[1])
    monkeypatch.setattr(Path, "rename", lambda self, target: (strike("rename"), rename(self, target))[1])
    monkeypatch.setattr(
        folder_module.shutil, "rmtree", lambda path, **options: (strike("remove"), rmtree(path, **options))
    )
    for count in range(1, 3 * len(before) + 6):
        moves = count
        with suppress(KeyboardInterrupt):
            old_run.set_aside()
            fill(old_run.path, ["config.yaml", "csv/version_9/metrics.csv"])
            old_run.settle()
        moves = 0
        RunFolder(old_run.path).settle()
        assert contents(old_run.path) == before, count


@pytest.mark.parametrize("config", [None, "name: my program\nscripts: {}\n", "a: [", "- 1"])
def test_a_folder_without_a_run_is_not_set_aside(tmp_path: Path, config: str | None) -> None:
    fill(tmp_path, OTHER_FILES)
    RunFolder(tmp_path).set_aside()
    if config is None:
        fill(tmp_path, ["report.md"])
    else:
        (tmp_path / "config.yaml").write_text(config)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"report.md|config.yaml") as caught:
        RunFolder(tmp_path).set_aside()
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_a_new_folder_has_nothing_to_set_aside(tmp_path: Path) -> None:
    RunFolder(tmp_path / "gone").set_aside()
    folder = RunFolder(tmp_path)
    folder.write_failure("no such weights")
    folder.set_aside()
    folder.settle()
    assert files(tmp_path) == {"failure.json"}


def test_changes_of_settings_are_recorded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(settings_of(), {"command": "first"}, 0)
    folder.metrics.write_text("{}")
    folder.claim(settings_of(), {"command": "again"}, 4)
    assert read_json(folder.environment) == {"command": "again"}
    assert folder.state == "finished"
    folder.claim(settings_of("lr=0.5", "trainer.max_epochs=7"), {"command": "other"}, 5)
    assert not folder.metrics.exists()
    folder.claim(settings_of("lr=0.5", "trainer.max_epochs=8"), {"command": "last"}, 7)
    assert read_json(folder.environment) == {
        "command": "last",
        "changes": [
            {"after_epoch": 5, "changed": {"lr": [1e-3, 0.5], "trainer.max_epochs": [200, 7]}},
            {"after_epoch": 7, "changed": {"trainer.max_epochs": [7, 8]}},
        ],
    }


def test_settings_of_another_program_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: my program\n")
    with pytest.raises(UserError, match=r"config.yaml: not the settings of a run"):
        RunFolder(tmp_path).require_same_run(settings_of())
    assert (tmp_path / "config.yaml").read_text() == "name: my program\n"


def alias_bomb() -> str:
    """Nine levels of nine aliases stand for 387 million values."""
    levels = [f"{name}: &{name} [{','.join(['x' if name == 'a' else f'*{below}'] * 9)}]" for below, name in LEVELS]
    return "\n".join(levels)


LEVELS = list(zip(" abcdefgh", "abcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (alias_bomb(), "aliases"),
        ("data_dir: ${oc.env:SECRET_TOKEN}", "interpolations"),
        ('data_dir: "\\x24{oc.env:SECRET_TOKEN}"', "interpolations"),
        ("trainer: {a: [1, '${data}']}", "interpolations"),
        ("a: [1]\n" * (LARGEST // 6), "more than 128 KiB"),
        ("[" * 30_000, "more than 16 levels"),
    ],
)
def test_settings_are_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    folder = RunFolder(tmp_path)
    folder.config.write_text(text)
    for reader in (lambda: read_yaml(folder.config), folder.read_config):
        with pytest.raises(UserError, match=message) as caught:
            reader()
        assert str(folder.config) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_settings_of_a_run_are_read_back(tmp_path: Path) -> None:
    config = compose(*SMALL, "data_dir='a &b *c'")
    folder = RunFolder(tmp_path)
    folder.claim(read(config), {}, 0)
    assert read_yaml(folder.config) == settings(config)
    assert OmegaConf.to_container(folder.read_config()) == settings(config)
    assert settings(config)["blocks"] == [1, 1, 1]
    assert not {"hydra", "resume"} & settings(config).keys()


def test_logs_are_listed_by_their_number(tmp_path: Path) -> None:
    fill(tmp_path, [f"csv/version_{name}/metrics.csv" for name in ("10", "9", "x", "")])
    assert [path.parent.name for path in RunFolder(tmp_path).csv_files()] == ["version_9", "version_10"]


@pytest.mark.parametrize("name", ["file/below", "file", "nul\0"])
def test_a_folder_that_cannot_be_made_gets_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the folder cannot be made \([A-Za-z ]+\)$"):
        make_results_folder(tmp_path / name)


def test_a_name_that_is_not_utf8_gets_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r": the name is not UTF-8; choose another folder \(hydra.run.dir=\)$"),
        RunFolder(tmp_path / os.fsdecode(b"by\xff")).locked(),
    ):
        pass
    assert not files(tmp_path)


def test_other_results_do_not_replace_those_of_a_run(tmp_path: Path) -> None:
    RunFolder(tmp_path).claim(settings_of(), {}, 0)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"holds a run, .*; name another folder$"):
        make_results_folder(tmp_path)
    assert files(tmp_path) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("title: a site\n")
    make_results_folder(tmp_path / "other")


def test_written_files_hide_the_home_folder_and_are_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zoë")
    name = os.fsdecode(b"n\xff.png")
    write_json(tmp_path / "a.json", {"files": [f"/home/zoë/data/{name}"], "count": 1})
    assert read_json(tmp_path / "a.json") == {"files": [f"~/data/{name}"], "count": 1}
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    write_text(tmp_path / "a.csv", f"file\n{name}\n")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "file\nn\\udcff.png\n"


def test_the_folder_of_a_refused_run_goes_unless_it_holds_more_or_is_in_use(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.discard_unused()
    with folder.locked():
        folder.write_failure("no data")
        folder.discard_unused()
        assert folder.failure.is_file()
    folder.discard_unused()
    assert not folder.path.exists()
    folder.path.mkdir()
    for file in (folder.failure, folder.config):
        file.touch()
    folder.discard_unused()
    assert folder.failure.is_file()
