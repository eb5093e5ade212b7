"""One run in two processes on the CPU is the run of one process with batches twice as large."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_runs import call

from emotion.analysis.figures import read_curves
from emotion.analysis.predictions import load_predictions

pytestmark = pytest.mark.process

SCRIPT = str(Path(__file__).with_name("two_processes.py"))
MORE = pytest.mark.check
IMAGES = 400
SETTINGS = [
    "model=cnn_111",
    "data=synthetic",
    f"synthetic_images={IMAGES}",
    "lr=1e-4",  # at a larger one Adam turns rounding into steps
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
]


def train(folder, *words, settings=SETTINGS):
    """Trains in a process of its own; returns the learning curves, the predictions and the rows of each batch."""
    drawn = folder.parent / f"{folder.name}.jsonl"
    result = call(SCRIPT, *settings, *words, f"hydra.run.dir={folder}", DRAWN=str(drawn))
    assert result.returncode == 0, result.stderr
    history = read_curves(folder.glob("csv/version_*/metrics.csv"))
    lines = [json.loads(line) for line in drawn.read_text().splitlines()]
    return history, load_predictions(folder / "predictions.npz"), [line for line in lines if line["train"]]


TWO = ["balance=class_weights", "batch_size=16", "trainer.devices=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("two") / "whole", *TWO)


@pytest.mark.parametrize(
    "balance",
    ["class_weights", *(pytest.param(name, marks=MORE) for name in ("none", "offline", "weighted_sampler"))],
)
def test_two_processes_train_like_one(tmp_path, balance, undisturbed):
    one = train(tmp_path / "one", f"balance={balance}", "batch_size=32")
    two = undisturbed if TWO[0] == f"balance={balance}" else train(tmp_path / "two", *TWO, f"balance={balance}")
    curves, predictions, drawn = two
    for tag in ("train/loss", "val/loss"):
        np.testing.assert_allclose(curves[tag], one[0][tag], rtol=1e-3, err_msg=tag)
    for tag in ("train/acc", "val/acc"):
        np.testing.assert_allclose(curves[tag], one[0][tag], atol=1.5 / 64, err_msg=tag)  # an image may be a near tie
    for stage in ("val", "test"):
        assert len(predictions[stage]) == len(one[1][stage])
        np.testing.assert_allclose(predictions[stage].probabilities, one[1][stage].probabilities, atol=2e-3)
    for epoch in (0, 1):
        shares = Counter(row for line in drawn if line["epoch"] == epoch for row in line["rows"])
        whole = Counter(row for line in one[2] if line["epoch"] == epoch for row in line["rows"])
        assert shares == whole
        assert balance == "weighted_sampler" or set(shares.values()) == {1}


@pytest.mark.parametrize(
    "command",
    [
        [Path(sys.executable).with_name("emotion")],
        pytest.param([sys.executable, "-m", "emotion"], marks=MORE),
    ],
)
def test_the_command_starts_further_processes(tmp_path, command):
    words = [*SETTINGS, "synthetic_images=140", "trainer.max_epochs=1", "trainer.devices=2"]
    words = ["train", *words, "trainer.limit_train_batches=1", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    assert "MEMBER: 1/2" in result.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["command"].startswith("emotion train model=")


def test_two_processes_resume_as_if_undisturbed(tmp_path, undisturbed):
    train(tmp_path / "parts", *TWO, "trainer.max_epochs=1")
    resumed = train(tmp_path / "parts", f"resume={tmp_path / 'parts'}", "trainer.max_epochs=2", settings=[])
    for stage in ("val", "test"):
        np.testing.assert_array_equal(resumed[1][stage].probabilities, undisturbed[1][stage].probabilities)
