import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import train

from emotion.errors import UserError
from emotion.training.folder import RunFolder
from emotion.training.loss import EmotionLoss
from emotion.training.recorded import RecordedStep
from emotion.training.task import EmotionTask

pytestmark = pytest.mark.training


def break_from(monkeypatch, step, value, part="train"):
    """Makes the loss infinite or NaN from a step (from 0) on, or in every validation."""
    done = [0]
    forward = EmotionLoss.forward

    def broken(self, *values):
        loss = forward(self, *values)
        done[0] += 1
        return loss * value if done[0] > step else loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch.inputs)
        self.val_meter.update(torch.tensor(value), logits, batch.labels)

    if part == "train":
        monkeypatch.setattr(EmotionLoss, "forward", broken)
    else:
        monkeypatch.setattr(EmotionTask, "validation_step", validation_step)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path, monkeypatch, value):
    """134 images in batches of 32: the seventh step is the second of the second epoch."""
    break_from(monkeypatch, 6, value)
    message = rf"the loss is {value} at step 6, epoch 2, learning rate 0.002: .*lr=.* is in .*diverged.safetensors"
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", "trainer.max_epochs=3", "lr=0.002")
    batch = load_file(tmp_path / "run/diverged.safetensors")
    assert batch["inputs"].shape == (32, 1, 48, 48)
    assert batch["labels"].shape == (32,)
    assert "at step 6" in json.loads((tmp_path / "run/failure.json").read_text())["error"]
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 0
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_the_message_names_the_rate_of_the_last_layer(tmp_path, monkeypatch):
    break_from(monkeypatch, 0, float("nan"))
    with pytest.raises(UserError, match=r"step 0, epoch 1, learning rate 0.002: "):
        train(tmp_path / "run", "trainer.max_epochs=1", "lr=0.002", "layer_decay=0.5")


def test_the_message_names_the_rate_of_the_step_itself(tmp_path, monkeypatch):
    """134 images in batches of 32 make five steps an epoch: of ten of warm-up the third has 3/10 of the rate."""
    break_from(monkeypatch, 2, float("nan"))
    words = ["schedule=cosine", "warmup_epochs=2", "trainer.max_epochs=9", "lr=0.01"]
    with pytest.raises(UserError, match=r"step 2, epoch 1, learning rate 0.003: "):
        train(tmp_path / "run", *words)


def test_the_run_resumes_when_the_cause_is_gone(tmp_path, monkeypatch):
    break_from(monkeypatch, 6, float("nan"))
    words = ["trainer.max_epochs=2"]
    with pytest.raises(UserError):
        train(tmp_path / "run", *words)
    monkeypatch.undo()
    folder = train(tmp_path / "run", *words)
    assert folder.state == "finished"
    assert not folder.diverged.exists()
    whole = train(tmp_path / "whole", *words)
    with np.load(folder.predictions) as resumed, np.load(whole.predictions) as other:
        assert np.array_equal(resumed["test_probabilities"], other["test_probabilities"])


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    break_from(monkeypatch, 0, float("inf"), "validation")
    with pytest.raises(UserError, match=r"val/loss is inf after epoch 1: .*lr="):
        train(tmp_path / "run", "trainer.max_epochs=2")
    assert not RunFolder(tmp_path / "run").last.exists()


def test_the_step_is_named_among_several_recorded_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("emotion.training.prepared.records_steps", lambda *_: True)
    monkeypatch.setattr(RecordedStep, "__call__", lambda step, batch: step._step(batch))
    break_from(monkeypatch, 1, float("nan"))
    with pytest.raises(UserError, match="the loss is nan at step 1, epoch 1"):
        train(tmp_path / "run", "trainer.max_epochs=1", "patience=null")
