"""The commands as a user types them, each in its own process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_runs import call

import emotion

ROOT = Path(__file__).parents[1]
SMALL = ["data=synthetic", "synthetic_images=210", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]


def start(*words, folder=ROOT, **environment):
    """Starts a new Python, as a user does."""
    program = [sys.executable] if words[0].endswith(".py") else []
    name = words[0] if program else Path(sys.executable).with_name(words[0])
    return subprocess.run(
        [*program, name, *words[1:]], cwd=folder, capture_output=True, text=True, env=os.environ | environment
    )


@pytest.mark.process
def test_version():
    shown = start("emotion", "--version")
    assert (shown.stdout, shown.stderr) == (f"{emotion.__version__}\n", "")


@pytest.mark.process
def test_train_evaluate_and_resume_from_the_command_line(tmp_path):
    words = [
        *SMALL,
        "synthetic_images=140",
        "batch_size=16",
        f"hydra.run.dir={tmp_path}/run",
    ]
    first = start("train.py", *words)
    assert first.returncode == 0, first.stderr
    assert "cnn: 1,029,223 parameters, 1,027,559 of them trainable" in first.stderr
    assert (tmp_path / "run/report.html").is_file()
    checkpoint = f"ckpt={tmp_path}/run/checkpoints/best.ckpt"
    tested = call("evaluate.py", checkpoint, f"out={tmp_path}/out")
    assert tested.returncode == 0, tested.stderr
    accuracy = re.search(r"test accuracy (\S+),", first.stderr)
    assert accuracy is not None
    assert accuracy[1] in tested.stdout
    resumed = call("emotion", "train", f"resume={tmp_path}/run", "trainer.max_epochs=2", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 2/2" in resumed.stderr
    assert "epoch 1/2" not in resumed.stderr


@pytest.mark.process
def test_a_run_in_the_home_folder_is_complete_and_its_stored_command_can_be_repeated(tmp_path, fer_tree):
    shutil.copytree(fer_tree, tmp_path / "it's 😀, (1)")
    paths = ["data_dir=~/it's 😀, (1)", "hydra.run.dir='~/a, run'"]
    words = ["model=cnn_111", "batch_size=4", "trainer.max_epochs=1", *paths]
    first = call("emotion", "train", *words, folder=tmp_path, HOME=str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert not (tmp_path / "~").exists()
    assert {"run.log", "config.yaml", "metrics.json", "csv"} <= {path.name for path in (tmp_path / "a, run").iterdir()}
    stored = json.loads((tmp_path / "a, run" / "environment.json").read_text())["command"]
    assert str(tmp_path) not in stored
    assert stored.startswith("emotion train ")
    script = stored.replace("emotion", r"printf '%s\0'", 1)  # the words as a shell reads them
    words = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    again = call("emotion", *words.split("\0")[:-1], folder=tmp_path, HOME=str(tmp_path))
    assert again.returncode == 0, stored + again.stderr
    assert "finished already" in again.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train.py", "model=nonsense"], ["nonsense", "vgg16_ft"]),
        (["train.py", "data_dir=/nowhere"], ["/nowhere", "emotion data fetch", "data_dir=", "data=synthetic"]),
        (["train.py", "model=cnn", "unfreeze=3", *SMALL], ["unfreeze=3", "random weights", "init="]),
        (["train.py", "recipe=smal"], ["'smal'", "did you mean small?", "best_scratch"]),
        (["train.py", "recipe=best_ensemble"], ["recipe=best_ensemble", "several runs", "-m"]),
        (["train.py", "hydra/sweeper=search", "seed=0"], ["hydra/sweeper=search", "several runs", "-m"]),
        (["train.py", "hydra.run.dirr=runs"], ["hydra.run.dirr", "not in 'RunDir'"]),
        (["train.py", "hydra.job.num=x"], ["hydra.job.num=x", "Integer"]),
        (["train.py", "name=${nme}"], ["'nme' not found"]),
        (["train.py", f"hydra.run.dir={__file__}/run"], [f"{__file__}/run: Not a directory"]),
        (["emotion", "publish", "none.ckpt"], ["none.ckpt", "no such file"]),
        (["emotion", "publish", "none.ckpt", "--tta", "all"], ["--tta=all", "ten_crop"]),
        (["evaluate.py", "ckpt=/nowhere.ckpt"], ["/nowhere.ckpt", "no such file"]),
        (["emotion", "data", "info", "data=synthetic", "synthetic_images=5"], ["synthetic_images=5"]),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(words, parts, tmp_path):
    run_dir = [f"hydra.run.dir={tmp_path}"] if words[0] == "train.py" else []
    result = call(words[0], *run_dir, *words[1:])
    assert result.returncode == 2
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert all(part in error for part in parts)
    assert "Traceback" not in result.stderr


@pytest.mark.process
@pytest.mark.parametrize("words", [["data_dir=/nowhere"], ["experiment=report", "data=synthetic"]])
def test_a_refused_run_leaves_no_folder(words, tmp_path):
    result = call("emotion", "train", *words, folder=tmp_path)
    assert result.returncode == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or "seed" in path.name]


@pytest.mark.process
def test_a_reader_of_the_help_may_end_early():
    with subprocess.Popen(
        [sys.executable, "-u", "train.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1  # as of a program that could not print


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["data", "info", "data=synthetic", "fold=1"], "fold=1: has no effect; it needs folds="),
        (
            ["data", "info", "photos", "data=folder", "path_column=x"],
            "path_column=x: has no effect; it needs data=table",
        ),
        (["audit", "photos", "data=folder", "synthetic_images=200"], "synthetic_images=200: has no effect"),
    ],
)
def test_settings_without_effect_are_refused(words, part):
    result = call("emotion", *words)
    assert result.returncode == 2
    assert part in result.stderr


def test_info_counts_splits_and_classes():
    result = call("emotion", "data", "info", "data=synthetic", "synthetic_images=210", "split=official")
    assert result.returncode == 0, result.stderr
    assert re.search(r"all\W+168\W+21\W+21\W+210", result.stdout)


def test_info_shows_names_as_they_are(tmp_path):
    for name in ("happy [new]", "n[b]"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("L", (48, 48)).save(tmp_path / "photos" / name / "a.png")
    result = call("emotion", "data", "info", str(tmp_path / "photos"), "data=folder", "split=test_only")
    assert result.returncode == 0, result.stderr
    assert "happy [new]" in result.stdout
    assert "n[b]" in result.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--help"], "evaluate"),
        (["train", "--help"], "usage: emotion train [model=<name>] "),
        (["evaluate", "--help"], "usage: emotion evaluate ckpt=<network> "),
        (["train", "--help"], "lr: 0.001                    # learning rate"),
        (["evaluate", "--help"], "split=test_only"),
    ],
)
def test_help_has_examples(words, part):
    result = call("emotion", *words)
    assert result.returncode == 0, result.stderr
    assert part in result.stdout


@pytest.mark.check
@pytest.mark.process
def test_optuna_searches_and_continues_without_repeating_runs(tmp_path):
    words = ["-m", "hydra/sweeper=search", "recipe=small", "width=8", "seed=0", *SMALL]
    first = call("emotion", "train", *words, "hydra.sweeper.n_trials=2", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    runs = sorted(tmp_path.glob("runs/search/*/metrics.json"))
    accuracies = [json.loads(path.read_text())["val"]["acc"] for path in runs]
    assert len(runs) == 2
    assert f"Best value: {max(accuracies)}" in first.stdout
    wrong = call("emotion", "train", *words, "flip=2", folder=tmp_path)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    assert wrong.stderr.splitlines()[-1] == "error: flip=2: a number from 0 to 1 is needed"
    longer = call("emotion", "train", *words, "hydra.sweeper.n_trials=3", folder=tmp_path)
    assert longer.stderr.count("finished already") == 2
    assert len(list(tmp_path.glob("runs/search/*/metrics.json"))) == 3
