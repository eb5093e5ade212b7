from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotion.errors import UserError
from emotion.report.runs import find_runs
from emotion.training.folder import RunFolder

from .conftest import MakeRun, make_predictions


def test_runs_are_found_at_any_depth_and_once(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("seed=1", name="a/b/first", images=70)
    make_run("seed=2", name="second", images=70)
    runs, unused = find_runs([tmp_path, tmp_path / "a", tmp_path / "second"])
    assert [run.folder.path for run in runs] == [tmp_path / "a/b/first", tmp_path / "second"]
    assert [run.seed for run in runs] == [1, 2]
    assert not unused


def test_run_holds_its_predictions_and_record(make_run: MakeRun) -> None:
    run = make_run(images=70, accuracy=0.4, picked=5)
    expected = make_predictions(70, 0.4, seed=5)
    assert np.array_equal(run.test.ids, expected.ids)
    assert np.array_equal(run.test.copied, expected.copied)
    assert run.scores(run.test)["acc"] == pytest.approx(0.4)
    assert run.record["best_epoch"] == 2


def test_train_accuracy_is_that_of_the_best_epoch(make_run: MakeRun) -> None:
    assert make_run(name="with", images=70).train_accuracy() == 0.5
    assert make_run(name="without", images=70, curves=False).train_accuracy() is None


def test_runs_without_figures_say_why(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run(name=name, images=70).folder for name in ("broken", "failed", "later", "unfinished")]
    broken, failed, later, unfinished = folders
    broken.predictions.write_bytes(b"no archive")
    for folder in (failed, unfinished):
        folder.metrics.unlink()
    failed.write_failure("CUDA out of memory")
    later.write_failure("what failed first and was then resumed")
    runs, unused = find_runs([tmp_path])
    assert [run.folder.path for run in runs] == [later.path]
    assert [run.path for run in unused] == [broken.path, failed.path, unfinished.path]
    assert unused[0].reason.startswith(f"cannot be read: {broken.predictions}: not a file of predictions")
    assert [run.reason for run in unused[1:]] == ["failed: CUDA out of memory", "not finished"]


def test_other_configurations_are_no_runs(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(images=70)
    for name, text in (("conf", "defaults: [_self_]\nseed: 0\n"), ("list", "- 1\n"), ("empty", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    runs, unused = find_runs([tmp_path])
    assert len(runs) == 1
    assert not unused


@pytest.mark.parametrize(("name", "message"), [("gone", "gone: no such folder"), ("empty", "empty: no run lies there")])
def test_path_without_runs_is_refused(make_run: MakeRun, tmp_path: Path, name: str, message: str) -> None:
    run = make_run(images=70)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        find_runs([run.folder.path, tmp_path / name])
    assert "\n" not in str(caught.value)


def test_damaged_settings_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    folder: RunFolder = make_run(images=70).folder
    folder.config.write_text("model: [cnn\ndata: {")
    with pytest.raises(UserError, match=r"run/config.yaml: cannot be read") as caught:
        find_runs([tmp_path])
    assert "\n" not in str(caught.value)
