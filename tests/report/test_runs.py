from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from emotion.analysis.predictions import load_predictions, save_predictions
from emotion.errors import UserError
from emotion.report.runs import find_runs
from emotion.training.folder import RunFolder

from .conftest import MakeRun, make_predictions

Damage = Callable[[RunFolder], object]


def test_runs_are_found_at_any_depth_and_once(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("seed=1", name="a/b/first", images=70)
    make_run("seed=2", name="second", images=70)
    runs, skipped = find_runs([tmp_path, tmp_path / "a", tmp_path / "second"])
    assert [run.folder.path for run in runs] == [tmp_path / "a/b/first", tmp_path / "second"]
    assert [run.seed for run in runs] == [1, 2]
    assert not skipped


def test_run_holds_its_predictions_and_record(make_run: MakeRun) -> None:
    run = make_run(images=70, accuracy=0.4, draw=5)
    expected = make_predictions(70, 0.4, seed=5)
    assert np.array_equal(run.test.ids, expected.ids)
    assert np.array_equal(run.test.copied, expected.copied)
    assert run.scores(run.test)["acc"] == pytest.approx(0.4)
    assert run.record.best_epoch == 2


def test_train_accuracy_is_that_of_the_best_epoch(make_run: MakeRun) -> None:
    assert make_run(name="with", images=70).train_accuracy() == 0.5
    assert make_run(name="without", images=70, curves=False).train_accuracy() is None


def test_untested_run_has_no_predictions_for_test_images(make_run: MakeRun) -> None:
    run = make_run(tested=False)
    assert len(run.test) == 0
    assert len(run.val) == 350
    assert not run.augmented


@pytest.mark.parametrize(
    "content", [b"\xff", b"epoch,train/acc\nx,y\n", b"epoch,train/acc\ninf,1\n", b'"' + b"x" * 200_000]
)
def test_damaged_curves_count_as_missing(make_run: MakeRun, content: bytes) -> None:
    run = make_run(images=70)
    (run.folder.csv / "version_0" / "metrics.csv").write_bytes(content)
    assert run.train_accuracy() is None


def test_skipped_runs_have_a_reason(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run(name=name, images=70).folder for name in ("broken", "failed", "later", "unfinished")]
    broken, failed, later, unfinished = folders
    broken.predictions.write_bytes(b"no archive")
    for folder in (failed, unfinished):
        folder.metrics.unlink()
    failed.write_failure("CUDA out of memory")
    later.write_failure("failed before it was resumed")
    runs, skipped = find_runs([tmp_path])
    assert [run.folder.path for run in runs] == [later.path]
    assert [run.path for run in skipped] == [broken.path, failed.path, unfinished.path]
    assert skipped[0].reason.startswith(f"cannot be read: {broken.predictions}: not a file of predictions")
    assert [run.reason for run in skipped[1:]] == ["failed: CUDA out of memory", "not finished"]


def test_config_files_of_other_programs_are_no_runs(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(images=70)
    for name, text in (("conf", "seed: ${other}\n"), ("bad", "{"), ("list", "- 1\n"), ("empty", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    runs, skipped = find_runs([tmp_path])
    assert len(runs) == 1
    assert not skipped


@pytest.mark.parametrize(
    ("name", "message"), [("gone", "gone: no such folder"), ("empty", "empty: no run in this folder")]
)
def test_path_without_runs_is_refused(make_run: MakeRun, tmp_path: Path, name: str, message: str) -> None:
    run = make_run(images=70)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        find_runs([run.folder.path, tmp_path / name])
    assert "\n" not in str(caught.value)


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder.path / name).write_text(content)


def setting(**changes: object) -> Damage:
    def change(folder: RunFolder) -> None:
        folder.config.write_text(yaml.safe_dump(yaml.safe_load(folder.config.read_text()) | changes))

    return change


def arrays(change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]) -> Damage:
    def damage(folder: RunFolder) -> None:
        stored = dict(np.load(folder.predictions))
        np.savez(folder.predictions, **stored | change(stored))

    return damage


def _keep_val(folder: RunFolder, other: str | None = None) -> None:
    stages = load_predictions(folder.predictions)
    kept = {"val": stages["val"]} | ({other: stages["test"]} if other else {})
    save_predictions(folder.predictions, kept)


def failed(content: str) -> Damage:
    def change(folder: RunFolder) -> None:
        folder.metrics.unlink()
        folder.failure.write_text(content)

    return change


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no metrics": (text("metrics.json", "[1]"), "metrics.json: Input should be an object"),
    "depth": (text("metrics.json", "[" * 100_000), "metrics.json: Invalid JSON: recursion limit exceeded"),
    "size": (text("metrics.json", " " * 2**21), "metrics.json: more than 1 MiB"),
    "no record": (text("metrics.json", '{"run": null}'), "metrics.json: run: "),
    "epochs": (text("metrics.json", '{"run": {"epochs": "y"}}'), "metrics.json: run.epochs: "),
    "infinity": (text("metrics.json", '{"run": {"train_seconds": Infinity}}'), "metrics.json: run.train_seconds: "),
    "failure": (failed("[]"), "failure.json: Input should be an object"),
    "error": (failed('{"error": 1}'), "failure.json: error: Input should be a valid string"),
    "seed": (setting(seed="abc"), "config.yaml: seed: Input should be a valid integer"),
    "negative seed": (setting(seed=-1), "config.yaml: seed: "),
    "data_dir": (setting(data="folder", data_dir=5), "config.yaml: data_dir: "),
    "family": (setting(family="gone"), "config.yaml: family: "),
    "blocks": (setting(blocks=5), "config.yaml: blocks: "),
    "balance": (setting(balance=["x"]), "config.yaml: balance: "),
    "backbone": (setting(backbone="**/"), "config.yaml: backbone: "),
    "folds": (setting(folds=1, fold=0), "config.yaml: folds: "),
    "fold": (setting(folds=3, fold=3), "config.yaml: fold=3 of folds=3"),
    "negative fold": (setting(folds=3, fold=-1), "config.yaml: fold: "),
    "faces": (setting(synthetic_images=10**12), "config.yaml: synthetic_images: "),
    "yaml": (text("config.yaml", "model: [cnn\ndata: {"), "config.yaml: cannot be read"),
    "aliases": (text("config.yaml", "a: &a [x]\nb: [*a, *a]"), "config.yaml: cannot be read (it contains aliases"),
    "tag": (setting(data_dir=b"x"), "config.yaml: cannot be read (it contains the tag tag:yaml.org,2002:binary"),
    "no images": (
        arrays(lambda stored: {name: stored[name][:0] for name in stored if name.startswith("test")}),
        "predictions.npz: no predictions for test images",
    ),
    "labels": (
        arrays(lambda stored: {"test_labels": stored["test_labels"].astype(int) - 1}),
        "predictions.npz: not a file of predictions (test_labels: must be from 0 to 6)",
    ),
    "test images": (
        lambda folder: (folder.metrics.write_text('{"test": {}}'), _keep_val(folder)),
        "predictions.npz: no predictions for test images",
    ),
    "views of test images": (
        lambda folder: (folder.metrics.write_text("{}"), _keep_val(folder, "test_tta")),
        "predictions.npz: no predictions for test images",
    ),
    "views": (
        arrays(lambda stored: {"test_tta_ids": stored["test_ids"]}),
        "predictions.npz: not a file of predictions",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_runs_are_skipped_with_a_message(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    good, damaged = make_run(name="good", images=70).folder, make_run(name="damaged", images=70).folder
    damage, reason = DAMAGES[name]
    damage(damaged)
    runs, skipped = find_runs([tmp_path])
    assert [run.folder.path for run in runs] == [good.path]
    assert [run.path for run in skipped] == [damaged.path]
    assert skipped[0].reason.startswith(f"cannot be read: {damaged.path}/{reason}")
    assert "\n" not in skipped[0].reason


def test_settings_that_train_are_read(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(images=70).folder
    for values in ({"weights": None}, {"seed": 2**32 - 1}):
        setting(**values)(folder)
        runs, skipped = find_runs([tmp_path])
        assert (len(runs), skipped) == (1, [])


def test_augmented_predictions_of_other_images_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(images=70).folder
    stored = load_predictions(folder.predictions)
    for views in ({"val_tta": stored["val"]}, {"val_tta": stored["val"], "test_tta": stored["val"]}):
        save_predictions(folder.predictions, stored | views)
        runs, skipped = find_runs([tmp_path])
        assert not runs
        assert skipped[0].reason.endswith(
            "predictions.npz: predictions with test-time augmentation are for other images"
        )
