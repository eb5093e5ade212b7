"""Real sweeps under every launcher: runs that fail or are killed, and a sweep that is killed itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from small_runs import call

from emotion.overrides import quoted

pytestmark = pytest.mark.process

SMALL = ["data=synthetic", "synthetic_images=210", "augment=false", "trainer.accelerator=cpu", "name=small"]
# Python imports this at start: it ends the process of one seed's run like a crash or a machine short of memory.
DEATHS = """
import os, signal, sys
words = sys.orig_argv
if "emotion.training.command" in words and "seed=1" in words:
    os.kill(os.getpid(), signal.SIGKILL)
if "emotion.training.command" in words and "seed=2" in words:
    os._exit(3)
"""


# Their processes start slowly; `make test` has basic.
SLOW = [pytest.param(name, marks=pytest.mark.check) for name in ("ray", "submitit_local")]


def sweep(folder, *words, launcher="basic", **environment):
    words = ["-m", f"hydra/launcher={launcher}", *words]
    if launcher == "basic":
        done = call("emotion", "train", *words, folder=folder, **environment)
    else:  # a fork would wait for the processes of joblib until these have been idle for minutes
        command = [sys.executable, "-m", "emotion.training.command", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)
    return done.returncode, done.stdout + done.stderr


def summary(output):
    return re.search(r"^\d+ (ran|skipped|failed|unfinished).*?$", output, re.MULTILINE)[0].strip()


def failures(folder):
    return {
        int(re.search(r"seed(\d)", path.parent.name)[1]): json.loads(path.read_text())["error"]
        for path in folder.glob("runs/small/*/failure.json")
    }


ODD = "~ü 😀 it's a&b (1),[x]{y}=$z#%\\"
"""The name of a folder with characters that are special in shells, paths or Hydra's grammar."""


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.check), *SLOW])
def test_any_name_of_a_folder_works_in_a_sweep(tmp_path, launcher, fer_tree):
    shutil.copytree(fer_tree, tmp_path / "data" / ODD)
    words = ["model=cnn_111", "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "seed=0"]
    words += ["data=fer2013", f"data_dir={quoted(f'data/{ODD}')}", f"hydra.sweep.dir=runs/{ODD}"]
    for expected in ("1 ran", "1 skipped"):
        status, output = sweep(tmp_path, *words, launcher=launcher)
        assert status == 0, output
        assert expected in output
        assert "ConfigStore" not in output, "a warning of Hydra's on our presets"
    (metrics,) = (tmp_path / "runs" / ODD).rglob("metrics.json")
    assert yaml.safe_load((metrics.parent / "config.yaml").read_text())["data_dir"] == f"data/{ODD}"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_the_name_of_a_data_folder_need_not_be_utf8(tmp_path, fer_tree):
    folder = os.fsencode(tmp_path) + b"/by\xff"
    shutil.copytree(os.fsencode(fer_tree), folder)
    words = ["model=cnn_111", "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run"]
    for expected in ("report: run/report.html", "finished already"):
        done = call("emotion", "train", *words, os.fsdecode(b"data_dir=" + folder), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr


@pytest.mark.parametrize("launcher", SLOW)
def test_sweep_survives_killed_processes(tmp_path, launcher):
    (tmp_path / "sitecustomize.py").write_text(DEATHS)
    words = [*SMALL, "model=cnn_111", "seed=0,1,2", "trainer.max_epochs=1"]
    # Beside what lies there already, so that a checkout that is not installed is found too.
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, output = sweep(tmp_path, *words, launcher=launcher, PYTHONPATH=path)
    assert status == 1, output
    assert summary(output) == "1 ran, 2 failed"
    assert failures(tmp_path) == {
        1: "the process ended with signal SIGKILL",
        2: "the process ended with status 3",
    }
    status, output = sweep(tmp_path, *words, launcher=launcher)
    assert status == 0, output
    assert summary(output) == "2 ran, 1 skipped"
    assert failures(tmp_path) == {}


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.check)])
def test_sweep_continues_after_a_run_that_raises(tmp_path, launcher):
    # Four times halved, 8 pixels leave none.
    words = [*SMALL, "model=cnn_1111", "image_size=8,48", "trainer.max_epochs=1"]
    status, output = sweep(tmp_path, *words, launcher=launcher)
    assert status == 1, output
    assert summary(output) == "1 ran, 1 failed"
    assert "image_size=8" in failures(tmp_path)[0]
    assert "Traceback" in json.loads(next(tmp_path.glob("runs/small/*/failure.json")).read_text())["traceback"]


def test_killed_sweep_started_again_ends_like_an_undisturbed_one(tmp_path):
    words = [*SMALL, "model=cnn_111", "seed=0,1", "trainer.max_epochs=3"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert sweep(undisturbed, *words)[0] == 0
    command = [sys.executable, "-m", "emotion.training.command", "-m", *words]
    process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(killed.glob("runs/small/*seed1*/checkpoints/last.ckpt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("runs/small/*seed1*/metrics.json"))
    status, output = sweep(killed, *words)
    assert status == 0, output
    assert summary(output) == "1 ran, 1 skipped"
    files = sorted(path.relative_to(killed) for path in killed.glob("runs/small/*/predictions.npz"))
    assert len(files) == 2
    for file in files:
        with np.load(killed / file) as resumed, np.load(undisturbed / file) as expected:
            for name in expected.files:
                np.testing.assert_array_equal(resumed[name], expected[name])
