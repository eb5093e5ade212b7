"""The runs of a sweep, and its treatment of runs that finish, fail or vanish."""

import json
import logging
import re
from functools import cache
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from emotion.config import compose, conf_dir, read, run_dir
from emotion.errors import UserError
from emotion.training.command import _further_config_folders
from emotion.training.folder import RunFolder
from emotion.training.sweep import plan, run_apart, sweep

FINISHED = {"val": {"acc": 0.6}, "test": {"acc": 0.5, "f1_macro": 0.25}, "run": {"train_seconds": 12}}


@cache
def composed(*overrides):
    return compose(*overrides, with_hydra=True)


def compose_run(overrides):
    return composed(*overrides)


def plan_runs(*arguments):
    return [compose_run(job.overrides) for job in plan(list(arguments), compose_run)]


def cells(*arguments):
    return [(config.model, config.unfreeze, config.balance) for config in plan_runs(*arguments)]


CNNS = ["cnn_111", "cnn_1111", "cnn_11111", "cnn_2111", "cnn", "cnn_2221", "cnn_2222", "cnn_3222"]
FROZEN = ["vgg16_fe", "vgg19_fe", "resnet50_fe"]
TABLES = {
    "table1": [(name, None, "class_weights") for name in CNNS],
    "table2": [(name, 0, "class_weights") for name in FROZEN],
    "table3": [("vgg16_ft", layers, "class_weights") for layers in (3, 6, 9)],
    "table4": [(name, 0, "offline") for name in FROZEN],
    "table5": [("vgg16_ft", layers, "offline") for layers in (3, 6, 9)],
    "cnn": [("cnn", None, "class_weights"), ("cnn", None, "offline")],
}


@pytest.fixture(scope="module")
def report_runs():
    return plan_runs("experiment=report")


@pytest.mark.parametrize("name", TABLES)
def test_experiment_has_the_runs_of_its_table(name):
    assert cells(f"experiment={name}") == TABLES[name]


def test_report_has_all_21_runs_once(report_runs):
    runs = [(config.model, config.unfreeze, config.balance) for config in report_runs]
    assert len(runs) == 21
    assert set(runs) == {cell for table in TABLES.values() for cell in table}


def test_runs_of_the_report_have_its_recipes(report_runs):
    recipes = {
        (config.model, config.balance): (config.lr, config.monitor, config.patience, config.min_delta, config.schedule)
        for config in report_runs
    }
    assert recipes["cnn", "offline"] == (1e-3, "val/loss", 10, 0, "none")
    assert recipes["vgg19_fe", "class_weights"] == (1e-3, "val/loss", 7, 0, "plateau")
    assert recipes["vgg16_ft", "class_weights"] == (1e-3, "val/acc", 15, 1e-5, "none")
    assert recipes["vgg16_ft", "offline"] == (1e-5, "val/loss", 5, 1e-3, "none")


def test_ablation_crosses_scaling_resolution_and_frozen_layers():
    runs = plan_runs("experiment=transfer_ablation")
    grid = {(run.backbone, run.normalize, run.image_size, run.unfreeze) for run in runs}
    assert len(grid) == len(runs) == 2 * 3 * 3 * 3
    assert {run.unfreeze for run in runs} == {0, 6, "all"}
    assert len({(run.lr, run.monitor, run.patience, run.balance) for run in runs}) == 1


def test_seeds_multiply_an_experiment_seed_after_seed():
    runs = plan_runs("experiment=table3", "seed=0,1,2")
    assert [(run.seed, run.unfreeze) for run in runs] == [(seed, layers) for seed in (0, 1, 2) for layers in (3, 6, 9)]


def test_command_line_replaces_a_key_of_the_grid():
    assert cells("experiment=table3", "unfreeze=6") == [("vgg16_ft", 6, "class_weights")]
    assert {model for model, *_ in cells("experiment=table2,table4", "model=vgg16_fe")} == {"vgg16_fe"}


def test_experiment_without_m_is_one_run_with_its_recipe():
    config = compose("experiment=table5", "unfreeze=9")
    assert (config.model, config.balance, config.lr, config.unfreeze) == ("vgg16_ft", "offline", 1e-5, 9)


def test_values_with_commas_are_distinguished_from_lists_of_values():
    runs = plan_runs("model=cnn", "blocks=[1,1],[2,2,1,1]", "data_dir='a,b'")
    assert [list(run.blocks) for run in runs] == [[1, 1], [2, 2, 1, 1]]
    assert {run.data_dir for run in runs} == {"a,b"}


@pytest.mark.parametrize(
    "word",
    [
        "trainer.devices=2",
        "trainer.devices=auto",
        "trainer.devices=null",
        "trainer.devices=[0,1]",
        "trainer.num_nodes=2",
        "resume=runs/default/cnn",
    ],
)
def test_settings_that_only_one_run_can_have_are_refused(word):
    with pytest.raises(UserError, match="leave out -m"):
        plan(["seed=0,1", word], compose_run)


@pytest.mark.parametrize("devices", ["1", "[1]"])
def test_one_device_of_several_is_one_device(devices):
    assert len(plan(["seed=0,1", f"trainer.devices={devices}"], compose_run)) == 2


def test_runs_that_would_share_a_folder_are_refused():
    with pytest.raises(UserError, match=r"^seed=1 .*: has the folder runs/fixed of another run; give each its own"):
        plan(["seed=0,1", "hydra.sweep.dir=runs", "hydra.sweep.subdir=fixed"], compose_run)
    assert len(plan(["seed=0,0", "hydra.sweep.dir=runs", "hydra.sweep.subdir=fixed"], compose_run)) == 1


def test_a_recipe_beside_an_experiment_of_several_parts_is_refused():
    with pytest.raises(UserError, match="experiment= and recipe= both choose the runs"):
        plan(["experiment=report", "recipe=small"], compose_run)


def test_runs_lie_in_the_folder_of_the_sweep():
    config = compose_run(["seed=0"])
    (job,) = plan(["seed=0", "hydra.sweep.dir=elsewhere"], compose_run)
    assert job.folder.path == Path("elsewhere", run_dir(config))


def test_bad_settings_of_one_run_stop_the_sweep_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        sweep(["seed=0,1", "lr=1e-3,-1"], compose_run, lambda *_, **__: pytest.fail("launched"))
    assert caught.value.code == 2
    assert "lr=-1" in capsys.readouterr().err


class Launcher:
    """Gives the run of each seed the outcome that a test sets, and records the launched seeds."""

    def __init__(self):
        self.outcomes, self.launched = {}, []

    def __call__(self, job_overrides, initial_job_idx):
        for word, *_ in job_overrides:
            seed = int(word.removeprefix("seed="))
            self.launched.append(seed)
            config = compose_run([word])
            folder = RunFolder(Path(run_dir(config)))
            folder.claim(read(config), {}, 0)
            self.end_run(folder, self.outcomes.get(seed, "finish"))

    def end_run(self, folder, outcome):
        if outcome == "finish":
            folder.metrics.write_text(json.dumps(FINISHED))
        elif outcome == "fail":
            folder.write_failure("no memory [left]")
        elif outcome == "raise":
            raise RuntimeError("a worker was lost\nin the middle")


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Launcher()


def test_finished_runs_are_skipped_and_failed_ones_tried_again(launcher, capsys, caplog):
    launcher.outcomes = {1: "fail", 2: "vanish"}
    with pytest.raises(SystemExit) as caught:
        sweep(["seed=0,1,2,3"], compose_run, launcher)
    assert caught.value.code == 1
    table = capsys.readouterr().err
    assert "2 ran, 1 failed, 1 unfinished" in table
    assert "0.6000" in table
    assert "0.5000" in table
    header = set(re.findall(r"\w+", "".join(table.splitlines()[1:5])))
    assert {"outcome", "validation", "test", "macro", "F1", "training"} <= header
    for seed in range(4):
        assert f"seed={seed}: {run_dir(compose_run([f'seed={seed}']))}" in table.splitlines()
    assert "no memory [left]" in caplog.text
    launcher.outcomes, launcher.launched = {}, []
    sweep(["seed=0,1,2,3"], compose_run, launcher)
    assert launcher.launched == [1, 2]
    assert "2 ran, 2 skipped" in capsys.readouterr().err


def test_a_run_with_other_settings_in_the_folder_counts_as_failed(launcher, capsys, caplog):
    config = compose_run(["seed=0"])
    folder = RunFolder(Path(run_dir(config)))
    folder.claim(read(compose_run(["seed=0", "lr=0.5"])), {}, 0)
    launcher.end_run(folder, "finish")

    with pytest.raises(SystemExit):
        sweep(["seed=0,1"], compose_run, launcher)
    assert launcher.launched == [1]
    table = capsys.readouterr().err
    assert "1 ran, 1 failed" in table
    assert table.count("0.6000") == 1, "not that of the other run in the folder"
    assert f"{folder.path}: holds a run with other settings" in caplog.text
    assert not folder.failure.exists()


@pytest.mark.parametrize("done", [[], [0, 2]])
def test_every_run_keeps_its_number_in_the_sweep(launcher, done):
    words = ["seed=3,4,5", "lr=1e-3,1e-4", "hydra.sweep.dir=numbered", "hydra.sweep.subdir=${hydra.job.num}"]
    jobs = plan(words, compose_run)
    assert [job.folder.path for job in jobs] == [Path(f"numbered/{number}") for number in range(6)]
    for number in done:
        jobs[number].folder.claim(read(compose_run(jobs[number].overrides)), {}, 0)
        launcher.end_run(jobs[number].folder, "finish")
    started = []

    def launch(job_overrides, initial_job_idx):
        for overrides in job_overrides:
            hydra = compose_run(overrides).hydra
            started.append(Path(hydra.sweep.dir, hydra.sweep.subdir))
            started[-1].mkdir(parents=True)
            launcher.end_run(RunFolder(started[-1]), "finish")

    sweep(words, compose_run, launch)
    assert started == [Path(f"numbered/{number}") for number in range(6) if number not in done]


def test_nothing_is_launched_if_all_runs_are_finished(launcher, capsys):
    sweep(["seed=0,1,2,3"], compose_run, launcher)
    launcher.launched = []
    sweep(["seed=0,1,2,3"], compose_run, launcher)
    assert launcher.launched == []
    assert "4 skipped" in capsys.readouterr().err


def test_overwrite_repeats_finished_runs(launcher):
    sweep(["seed=0,1"], compose_run, launcher)
    sweep(["seed=0,1", "overwrite=true"], compose_run, launcher)
    assert launcher.launched == [0, 1, 0, 1]


def test_old_metrics_are_no_outcome_of_an_overwriting_sweep(launcher, capsys):
    sweep(["seed=0,1"], compose_run, launcher)
    launcher.outcomes = {1: "raise"}
    with pytest.raises(SystemExit):
        sweep(["seed=0,1", "overwrite=true"], compose_run, launcher)
    assert "1 ran, 1 unfinished" in capsys.readouterr().err


def test_overwrite_repeats_a_run_whose_metrics_are_damaged(launcher, capsys):
    sweep(["seed=0,1"], compose_run, launcher)
    RunFolder(Path(run_dir(compose_run(["seed=0"])))).metrics.write_text("{")
    with pytest.raises(SystemExit):
        sweep(["seed=0,1"], compose_run, launcher)
    assert capsys.readouterr().err.endswith("overwrite=true starts again\n")
    sweep(["seed=0,1", "overwrite=true"], compose_run, launcher)
    assert launcher.launched == [0, 1, 0, 1]


def test_outcomes_are_listed_after_a_launcher_failed(launcher, capsys, caplog):
    launcher.outcomes = {1: "raise"}
    with pytest.raises(SystemExit):
        sweep(["seed=0,1,2,3"], compose_run, launcher)
    assert "1 ran, 3 unfinished" in capsys.readouterr().err
    assert "the launcher stopped: a worker was lost" in caplog.text


@pytest.fixture(autouse=True)
def all_messages(caplog):
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the process ended with signal SIGKILL"),
        ("import os; os._exit(3)", "the process ended with status 3"),
        ("pass", None),
    ],
)
def test_run_in_a_process_of_its_own_records_why_it_ended(tmp_path, monkeypatch, code, reason):
    python = tmp_path / "python"
    python.write_text(f"#!/usr/bin/env python3\n{code}\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    folder = RunFolder(tmp_path / "run")
    run_apart(["seed=1"], folder)
    if reason:
        assert json.loads(folder.failure.read_text())["error"] == reason
    else:
        assert not folder.failure.exists()


@pytest.mark.process
def test_a_run_that_is_refused_in_a_process_of_its_own_keeps_the_reason(tmp_path):
    folder = RunFolder(tmp_path / "run")
    run_apart(["model=cnn", f"data_dir={tmp_path / 'nowhere'}"], folder)
    assert json.loads(folder.failure.read_text())["error"].startswith(f"data_dir: nothing at {tmp_path / 'nowhere'}; ")


def test_a_process_that_could_not_lock_the_folder_writes_nothing_into_it(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 2\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        run_apart(["seed=1"], folder)
    assert not folder.failure.exists()


def test_run_in_a_process_of_its_own_searches_the_same_folders(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.arguments"\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    words = ["experiment=mine", "runs_per_gpu=4"]
    run_apart(words, RunFolder(tmp_path / "run"), ["file:///a b", "pkg://theirs"])
    arguments = (tmp_path / "python.arguments").read_text().splitlines()
    assert arguments[2:] == [
        "experiment=mine",
        f"hydra.run.dir='{tmp_path}/run'",
        "hydra.searchpath=['file:///a b','pkg://theirs']",
    ]


def test_further_config_folders_are_those_of_the_command_line(tmp_path, monkeypatch):
    """The folders of Hydra itself are found without being named."""
    (tmp_path / "mine/experiment").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "--config-dir", "mine", "hydra.searchpath=[file:///theirs]"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    seen = []

    def job(config):
        seen.extend(_further_config_folders(HydraConfig.get()))

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    assert seen == [f"file://{tmp_path / 'mine'}", "file:///theirs"]


def test_ingredients_change_one_thing_each():
    runs = plan_runs("experiment=ingredients", "seed=0")
    flat = [dict(_flat(OmegaConf.to_container(config))) for config in runs]
    base = flat[0]
    changed = [{key for key in run if run[key] != base[key] and not key.startswith("hydra.")} for run in flat]
    sweeper = OmegaConf.load(conf_dir() / "experiment/ingredients.yaml").hydra.sweeper
    assert changed == [{word.split("=")[0] for word in part.split()} for part in sweeper.parts]
    assert len({frozenset(keys) for keys in changed}) > 12
    assert {(run["name"], run["recipe"], run["width"], run["trainer.max_epochs"]) for run in flat} == {
        ("ingredients", "small", 24, 15)
    }
    assert sweeper.params.seed == "0,1,2"


def test_the_ensemble_is_every_seed_of_both_recipes():
    runs = plan_runs("recipe=best_ensemble", "trainer.max_epochs=1")
    members = [(config.recipe, config.name, config.seed, config.trainer.max_epochs) for config in runs]
    names = ("best_scratch", "best_pretrained")
    assert members == [(name, name, seed, 1) for name in names for seed in range(5)]


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
