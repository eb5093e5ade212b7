import itertools
import json
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make_network
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from small_runs import SMALL, TINY, differences, epochs, resume, train, weights
from torch import _dynamo as dynamo
from torch import nn
from torch.nn.functional import cross_entropy

from emotion.analysis.figures import read_curves
from emotion.analysis.predictions import load_predictions
from emotion.config import compose, read, settings
from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.data.synthetic import draw_image
from emotion.errors import UserError
from emotion.models.views import Views
from emotion.report.runs import find_runs
from emotion.training.callbacks import TensorBoardFigures
from emotion.training.checkpoint import load_checkpoint
from emotion.training.evaluate import evaluate
from emotion.training.folder import RunFolder, read_json
from emotion.training.publish import publish
from emotion.training.run import run
from emotion.training.task import EmotionTask
from emotion.training.trainer import build_trainer

pytestmark = pytest.mark.training

INGREDIENTS = [
    *("balance=none", "logit_adjustment=1", "label_smoothing=0.1", "focal_gamma=1"),
    *("flip=0.5", "erase=0.5", "brightness=0.2", "contrast=0.2", "mixup=0.2", "cutmix=0.5", "plain_epochs=1"),
    *("optimizer=sgd", "lr=0.01", "weight_decay=1e-3", "layer_decay=0.8", "schedule=cosine", "warmup_epochs=1"),
    *("ema_decay=0.9", "tta=flip", "patience=null"),
]


class KilledError(Exception):
    pass


@pytest.fixture
def killer(monkeypatch):
    """Ends training with an error in the middle of an epoch."""

    def kill_in(epoch):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == epoch and batch_idx == 2:
                raise KilledError

        monkeypatch.setattr(TensorBoardFigures, "on_train_batch_start", on_train_batch_start)

    yield kill_in
    monkeypatch.undo()


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> RunFolder:
    return train(tmp_path_factory.mktemp("once") / "run", "trainer.max_epochs=1")


@pytest.fixture
def once(trained_once, tmp_path) -> RunFolder:
    """A copy of a finished run of one epoch."""
    return RunFolder(shutil.copytree(trained_once.path, tmp_path / "run"))


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["balance=weighted_sampler", "schedule=cosine"], marks=pytest.mark.check),
        ["balance=offline"],
        pytest.param(["balance=none", "augment=false", "monitor=val/acc"], marks=pytest.mark.check),
        INGREDIENTS,
        ["model=resnet_small", "width=4", "image_size=24", "sam_rho=0.05", "optimizer=adamw", "dropout=0.2"],
    ],
    ids=["weighted_sampler", "offline", "none", "ingredients", "sharpness-aware"],
)
def test_killed_run_continues_as_if_undisturbed(tmp_path, killer, monkeypatch, overrides):
    undisturbed = train(tmp_path / "undisturbed", "trainer.max_epochs=4", *overrides)
    killer(2)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", "trainer.max_epochs=4", *overrides)
    assert RunFolder(tmp_path / "killed").state == "unfinished"
    monkeypatch.undo()
    continued = train(tmp_path / "killed", "trainer.max_epochs=4", *overrides)
    assert not differences(undisturbed, continued)


def test_moved_run_keeps_its_best_epoch(tmp_path, killer, monkeypatch):
    words = ["trainer.max_epochs=3", "lr=0.5", "trainer.precision=32-true"]  # diverges: the last epoch is not the best
    undisturbed = train(tmp_path / "undisturbed", *words)
    best = read_json(undisturbed.metrics)["run"]["best_epoch"]
    assert best < 3
    killer(2)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", *words)
    monkeypatch.undo()
    (tmp_path / "killed").rename(tmp_path / "moved")
    moved = train(tmp_path / "moved", *words)
    assert load_checkpoint(moved.best).epoch == best
    assert not differences(undisturbed, moved)


def test_run_with_tta_writes_its_metrics_beside_the_others(tmp_path):
    folder = train(tmp_path, "trainer.max_epochs=1", "balance=none", "tta=shifts", "ema_decay=0.5")
    metrics = read_json(folder.metrics)
    assert list(metrics) == ["val", "test", "val_tta", "test_tta", "run"]
    best = load_checkpoint(folder.best)
    data = best.data_module()
    with np.load(folder.predictions) as file:
        for stage in ("val", "test"):
            images = torch.from_numpy(data.packed.images[getattr(data.rows, stage)])
            with torch.no_grad():
                views = Views(best.task.average.module, "shifts")(images).exp()
            np.testing.assert_allclose(file[f"{stage}_tta_probabilities"], views, atol=2e-3)
            assert f"{stage}_tta_ids" not in file, "they are those of the stage"
            predicted = file[f"{stage}_tta_probabilities"].argmax(1)
            assert metrics[f"{stage}_tta"]["acc"] == pytest.approx((predicted == file[f"{stage}_labels"]).mean())
    report = (folder.path / "report.md").read_text()
    assert "| Metric | val | test | val_tta | test_tta |" in report
    assert f"| Accuracy | {' | '.join(format(metrics[key]['acc'], '.4f') for key in list(metrics)[:4])} |" in report


def test_averaged_weights_are_tested_not_the_last_weights(tmp_path):
    words = ["trainer.max_epochs=1", "balance=none", "ema_decay=0.9", "trainer.precision=32-true"]
    folder = train(tmp_path, *words)
    task, data = load_checkpoint(folder.best).task, load_checkpoint(folder.best).data_module()
    images, labels = torch.from_numpy(data.packed.images[data.rows.val]), data.labels[data.rows.val]
    with torch.no_grad():
        averaged, last = (
            float(cross_entropy(network(images), labels)) for network in (task.average.module, task.network)
        )
    assert read_json(folder.metrics)["val"]["loss"] == pytest.approx(averaged, abs=1e-4)
    losses = read_curves(folder.csv_files())["val/loss"]
    assert losses[0][1] == pytest.approx(averaged, abs=1e-4)
    assert last != pytest.approx(averaged, abs=1e-3)


def test_average_starts_with_the_pretrained_weights(tmp_path):
    torch.manual_seed(7)
    settings = {"family": "torchvision", "backbone": "resnet18", "unfreeze": 0, "image_size": 32}
    pretrained = make_network(**settings, normalize="imagenet").backbone.state_dict()
    torch.save(pretrained, tmp_path / "weights.pt")
    words = ["model=resnet50_fe", "backbone=resnet18", "image_size=32", f"weights={tmp_path / 'weights.pt'}"]
    words += ["ema_decay=0.999", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "feature_views=0"]
    folder = train(tmp_path / "run", *words)
    average = load_checkpoint(folder.last).task.inference_network.backbone.state_dict()
    for name, value in pretrained.items():
        torch.testing.assert_close(average[name], value, msg=name)


def test_statistics_that_a_file_lacks_come_from_training_images(tmp_path, caplog):
    caplog.set_level("INFO")
    backbone = make_network(family="torchvision", backbone="resnet18", unfreeze=2, image_size=32).backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.bias, std=0.1)
    torch.save(backbone.state_dict(), tmp_path / "folded.pt")
    words = ["model=resnet50_ft", "backbone=resnet18", "image_size=32", f"weights={tmp_path / 'folded.pt'}"]
    words += ["unfreeze=2", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "feature_views=0"]
    folder = train(tmp_path / "run", *words)
    assert f"images gave {len(norms)} layers of batch normalisation their statistics" in caplog.text
    trained = load_checkpoint(folder.last).task.network.backbone
    assert trained.layer1[0].bn1.running_mean.any()  # frozen, so that the step has not changed it
    images = torch.rand(4, 3, 32, 32)
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2"):  # frozen, too: it computes the same as before
        given, images = getattr(backbone.eval(), name)(images), getattr(trained.eval(), name)(images)
        torch.testing.assert_close(images, given, rtol=1e-4, atol=1e-4)


def test_resume_extends_a_finished_run(tmp_path):
    whole = train(tmp_path / "whole", "trainer.max_epochs=3")
    part = train(tmp_path / "part", "trainer.max_epochs=2")
    resume(part.path, "trainer.max_epochs=3")
    assert not differences(whole, part)
    assert part.read_config().trainer.max_epochs == 3


def test_resume_with_fewer_epochs_than_the_run_has_had_is_refused(tmp_path):
    train(tmp_path, "trainer.max_epochs=2")
    assert resume(tmp_path, "trainer.max_epochs=null", "trainer.max_steps=1000", "trainer.max_time=00:00:00:00")
    with pytest.raises(UserError, match=r"^trainer\.max_epochs=1: the run has had 2 epochs already$"):
        resume(tmp_path, "trainer.max_epochs=1")


def test_resume_gives_new_settings_their_defaults(once):
    folder = once
    old = folder.read_config()
    del old.memory_budget, old.compile
    folder.config.write_text(OmegaConf.to_yaml(old))
    resume(folder.path, "trainer.max_epochs=2")
    assert epochs(folder) == 2
    assert folder.read_config().compile == "auto"


def test_a_resumed_run_computes_its_features_with_its_own_backbone(tmp_path):
    """Its checkpoint has the frozen part, so that its file of weights is not needed any more."""
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    for file in (first, second):
        torch.save(
            make_network(family="torchvision", backbone="resnet18", unfreeze=0, image_size=32).backbone.state_dict(),
            file,
        )
    words = ["model=resnet50_fe", "backbone=resnet18", "image_size=32", "augment=false", "feature_views=1"]
    whole, part = (
        train(tmp_path / name, *words, f"weights={first}", f"trainer.max_epochs={number}")
        for name, number in (("whole", 2), ("part", 1))
    )
    with pytest.raises(UserError, match=rf"^weights={second}: a resumed run keeps its weights;"):
        resume(part.path, "trainer.max_epochs=2", f"weights={second}")
    second.replace(first)
    resume(part.path, "trainer.max_epochs=2", f"weights={first}")
    assert not differences(whole, part)


def test_streamed_images_train_the_same_network(tmp_path, caplog):
    caplog.set_level("INFO")
    resident = train(tmp_path / "resident", "trainer.max_epochs=2")
    assert "memory_budget" not in caplog.text
    streamed = train(tmp_path / "streamed", "trainer.max_epochs=2", "memory_budget=0")
    assert "streamed, because memory_budget allows 0 MiB" in caplog.text
    assert not differences(resident, streamed)


def test_features_are_cached_automatically_without_augmentation(tmp_path, caplog, cache):
    caplog.set_level("INFO")
    words = ["model=timm", "backbone=mobilenetv3_small_050", "unfreeze=0", "image_size=32"]
    words += ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    train(tmp_path / "augmented", *words)
    assert "feature_views=8" in caplog.text
    assert not list(cache.rglob("features/*.npy"))
    train(tmp_path / "plain", *words, "augment=false")
    assert len(list(cache.rglob("features/*.npy"))) == 1
    train(tmp_path / "off", *words, "augment=false", "feature_views=0", "image_size=33")
    assert len(list(cache.rglob("features/*.npy"))) == 1


COMPILER = [pytest.mark.check, pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=COMPILER)])
def test_compiled_network_learns_the_same(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    words = [*TINY, "trainer.precision=32-true", "trainer.max_epochs=2"]
    dynamo.utils.counters.clear()
    folders = [train(tmp_path / name, *words, f"compile={name}") for name in ("false", "true")]
    plain, compiled = (read_curves(folder.csv_files()) for folder in folders)
    for tag in ("train/loss", "val/loss"):
        np.testing.assert_allclose(compiled[tag], plain[tag], rtol=1e-3)
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert weights(folders[0].best).keys() == weights(folders[1].best).keys()


def test_resume_with_more_patience_continues_after_early_stopping(tmp_path):
    stopped = train(tmp_path, "trainer.max_epochs=9", "patience=1", "min_delta=10")
    assert epochs(stopped) == 2
    resume(tmp_path, "patience=3")
    assert epochs(stopped) == 4


def test_a_run_that_stopped_early_is_not_trained_on_by_the_place_of_its_files(tmp_path):
    (tmp_path / "weights").mkdir()
    backbone = make_network(family="torchvision", backbone="resnet18", unfreeze=0, image_size=32).backbone
    state = {key: value.contiguous() for key, value in backbone.state_dict().items()}
    save_file(state, tmp_path / "weights" / "resnet18.safetensors")
    words = ["model=resnet50_fe", "backbone=resnet18", "image_size=32", "augment=false", "trainer.max_epochs=9"]
    words += [f"weights={tmp_path / 'weights'}", "patience=1", "min_delta=10"]
    stopped = train(tmp_path / "run", *words)
    assert epochs(stopped) == 2
    stopped.metrics.unlink()  # as if it had been killed during its test
    train(stopped.path, *words)
    resume(stopped.path, "memory_budget=0")
    assert epochs(stopped) == 2


def test_finished_run_is_skipped_and_overwrite_trains_again(once, caplog):
    caplog.set_level("INFO")
    folder = once
    written = folder.metrics.stat().st_mtime_ns
    train(folder.path, "trainer.max_epochs=1")
    assert "finished already" in caplog.text
    assert folder.metrics.stat().st_mtime_ns == written
    train(folder.path, "trainer.max_epochs=1", "overwrite=true")
    assert folder.metrics.stat().st_mtime_ns > written


STOPPING = {
    "early": ["patience=1", "min_delta=10", "trainer.max_epochs=6"],
    "under min_epochs": ["patience=1", "min_delta=10", "trainer.min_epochs=3", "trainer.max_epochs=6"],
    "after an improvement under min_epochs": ["patience=1", "lr=0.02", "trainer.min_epochs=4", "trainer.max_epochs=6"],
    "rare validation": ["patience=1", "min_delta=10", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=9"],
    "time": ["trainer.max_time=00:00:00:02", "trainer.max_epochs=6"],
    "time under min_epochs": ["trainer.max_time=00:00:00:02", "trainer.min_epochs=2", "trainer.max_epochs=6"],
    "steps": ["trainer.max_steps=10", "patience=null"],
}


@pytest.fixture
def slow_clock(monkeypatch):
    """A second passes between two reads of the clock; an epoch reads it three times."""
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=itertools.count().__next__))


@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("words", STOPPING.values(), ids=STOPPING)
def test_a_run_that_stopped_and_was_killed_in_its_test_trains_no_more(tmp_path, words):
    folder = train(tmp_path / "run", *words)
    shutil.copytree(folder.path, tmp_path / "killed")
    killed = RunFolder(tmp_path / "killed")
    killed.metrics.unlink()
    killed.predictions.unlink()
    train(killed.path, *words)
    assert not differences(folder, killed)
    names = ("epochs", "best_epoch", "train_images")
    first, second = (read_json(each.metrics)["run"] for each in (folder, killed))
    assert [first[name] for name in names] == [second[name] for name in names]


@pytest.mark.usefixtures("slow_clock")
def test_max_time_ends_training_after_the_epoch_that_reaches_it(tmp_path):
    folder = train(tmp_path, "trainer.max_time=00:00:00:02", "trainer.max_epochs=6")
    assert epochs(folder) == 1


@pytest.mark.parametrize("value", ["1h", "00:00:02", "soon"])
def test_a_wrong_max_time_gets_one_line(tmp_path, value):
    with pytest.raises(UserError, match=rf"^trainer.max_time={value}: not a time; use DD:HH:MM:SS, as 01:12:00:00$"):
        train(tmp_path, f"trainer.max_time={value}")


def content(root):
    return {
        path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.name != "failure.json"
    }


WRONG = [
    *("trainer.precision=fp16", "trainer.accelerator=gpu", "trainer.max_time=soon"),
    *("data=folder data_dir=typo", "extra_data=[typo]", "model=vgg16_fe weights=missing", "recipe=small dropout=7"),
    *("trainer.max_steps=1", "lr=fast", "feature_views=2 mixup=1 model=vgg16_fe", "cuda_graph=true"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="some of these are right where there is a GPU")
@pytest.mark.parametrize("word", ["overwrite=true", "resume"])
def test_a_command_that_is_refused_changes_nothing_of_a_finished_run(once, word):
    folder, before = once, content(once.path)
    for wrong in WRONG:
        words = [f"resume={folder.path}" if word == "resume" else word, *wrong.split()]
        with pytest.raises(UserError):
            run(compose(*SMALL, "trainer.max_epochs=1", *words), folder.path, words)
        assert content(folder.path) == before, wrong
    train(folder.path, "trainer.max_epochs=1")
    assert content(folder.path) == before


def test_a_run_that_breaks_before_its_first_checkpoint_leaves_the_one_it_was_to_replace(once, monkeypatch):
    folder, before = once, content(once.path)

    def break_down(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(EmotionTask, "validation_step", break_down)
        with pytest.raises(RuntimeError, match="no memory"):
            train(folder.path, "trainer.max_epochs=1", "overwrite=true", "lr=0.5")
    assert content(folder.path) == before
    train(folder.path, "trainer.max_epochs=2", "overwrite=true", "lr=0.5")
    assert (folder.read_config().lr, epochs(folder)) == (0.5, 2)
    assert len(folder.csv_files()) == 1
    assert not folder.replaced.exists()


def test_a_finished_run_with_other_settings_is_not_skipped(once, caplog):
    caplog.set_level("INFO")
    folder = once
    resume(folder.path, "lr=1e-4", "trainer.max_epochs=2")
    change = {"after_epoch": 1, "changed": {"lr": [1e-3, 1e-4], "trainer.max_epochs": [1, 2]}}
    assert read_json(folder.metrics)["run"]["changes"] == [change]
    assert (
        "| after epoch 1 | lr=0.0001 (was 0.001), trainer.max_epochs=2 (was 1) |"
        in (folder.path / "report.md").read_text()
    )
    before = content(folder.path)
    with pytest.raises(UserError, match="holds a run with other settings"):
        train(folder.path, "trainer.max_epochs=1")
    assert content(folder.path) == before
    train(folder.path, "lr=1e-4", "trainer.max_epochs=2")
    assert "finished already" in caplog.text


def test_an_early_stopped_run_with_another_rate_continues(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = train(tmp_path, "trainer.max_epochs=9", "patience=1", "min_delta=10")
    assert epochs(folder) == 2
    resume(tmp_path, "lr=1e-4")
    assert epochs(folder) == 3
    assert "nothing is left to train" not in caplog.text
    resume(tmp_path, "trainer.max_epochs=8")
    assert epochs(folder) == 3
    assert "nothing is left to train after epoch 3: it had stopped early, and a larger patience= trains" in caplog.text


def test_a_run_that_had_all_its_steps_did_not_stop_early(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = train(tmp_path, "trainer.max_epochs=9", "trainer.max_steps=10")
    assert epochs(folder) == 2
    resume(tmp_path, "trainer.max_epochs=8")
    assert "nothing is left to train" in caplog.text
    assert "stopped early" not in caplog.text


def test_a_setting_newer_than_the_run_has_its_default(once):
    folder = once
    old = folder.read_config()
    del old.mixup, old.trainer.profiler
    folder.config.write_text(OmegaConf.to_yaml(old))
    train(folder.path, "trainer.max_epochs=1")
    for word in ("mixup=0.4", "trainer.profiler=simple"):
        with pytest.raises(UserError, match="holds a run with other settings"):
            train(folder.path, "trainer.max_epochs=1", word)
    assert not folder.failure.exists()


def test_overwriting_keeps_a_file_that_a_message_names(once):
    folder = once
    with pytest.raises(UserError, match=r"diverged\.safetensors"):
        train(folder.path, "trainer.max_epochs=1", "overwrite=true", "optimizer=sgd", "lr=1e30")
    assert folder.diverged.is_file()
    assert folder.state == "finished"


def test_folder_of_another_run_is_refused(once):
    once.metrics.unlink()
    with pytest.raises(UserError, match="other settings"):
        train(once.path, "trainer.max_epochs=1", "lr=0.1")


def test_run_folder_contains_the_documented_files(tmp_path, drawn_figures):
    folder = train(tmp_path, "trainer.max_epochs=2", "name=trial")
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert names >= {
        "config.yaml",
        "environment.json",
        "checkpoints/best.ckpt",
        "checkpoints/best_acc.ckpt",
        "checkpoints/last.ckpt",
        "csv/version_0/metrics.csv",
        "metrics.json",
        "predictions.npz",
        "curves.png",
        "confusion_matrix.png",
        "report.md",
        "report.html",
    }
    assert folder.read_config().name == "trial"
    assert set(read_json(folder.environment)) >= {"command", "packages", "cpu", "gpus", "commit"}
    record = json.loads(folder.metrics.read_text())["run"]
    assert record["data"] == load_checkpoint(folder.best).data_module().packed.digest
    assert record["epochs"] == 2
    assert 1 <= record["best_epoch"] <= 2


def test_metrics_can_be_counted_again_from_the_predictions(tmp_path):
    from sklearn.metrics import accuracy_score, f1_score

    folder = train(tmp_path, "trainer.max_epochs=2", "balance=none")
    metrics = json.loads(folder.metrics.read_text())
    with np.load(folder.predictions) as file:
        for stage in ("val", "test"):
            labels, predicted = file[f"{stage}_labels"], file[f"{stage}_probabilities"].argmax(1)
            assert metrics[stage]["acc"] == pytest.approx(accuracy_score(labels, predicted))
            assert metrics[stage]["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
            assert len(set(file[f"{stage}_ids"])) == len(labels)


def test_best_checkpoint_is_tested_not_the_last(tmp_path):
    folder = train(tmp_path, "trainer.precision=32-true", "trainer.max_epochs=4", "lr=0.01", "patience=null")
    record = json.loads(folder.metrics.read_text())["run"]
    losses = [value for _, value in read_curves(folder.csv_files())["val/loss"]]
    assert record["best_epoch"] == losses.index(min(losses)) + 1 < 4
    assert json.loads(folder.metrics.read_text())["val"]["loss"] == pytest.approx(min(losses), abs=1e-5)


def test_run_that_ends_before_its_first_validation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^trainer.max_steps=2: at least 5 are needed until the first validation"):
        train(tmp_path, "trainer.max_steps=2")
    # Of 134 images in batches of 133, the last image joins the batch before.
    folder = train(tmp_path, "trainer.max_steps=1", "batch_size=133", "trainer.max_epochs=1")
    assert read_json(folder.metrics)["run"]["train_images"] == 134


def test_slurm_does_not_save_in_mid_epoch(tmp_path, monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_NAME": "array", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = build_trainer(read(compose(*SMALL)), RunFolder(tmp_path))
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue


@pytest.fixture
def read_stages(monkeypatch) -> list[tuple[str, bool]]:
    """The stages whose images a run has read in full, each with whether training had ended."""
    seen: list[tuple[str, bool]] = []
    make = EmotionDataModule.eval_loader

    def eval_loader(self, stage, **options):
        seen.append((stage, self.trainer.state.finished))
        return make(self, stage, **options)

    monkeypatch.setattr(EmotionDataModule, "eval_loader", eval_loader)
    return seen


def test_the_test_images_are_read_after_the_training(tmp_path, read_stages):
    train(tmp_path / "run", *TINY)
    assert ("test", True) in read_stages
    assert ("test", False) not in read_stages


def test_without_test_a_run_does_not_read_the_test_images(tmp_path, read_stages):
    folder = train(tmp_path / "run", "trainer.max_epochs=1", "test=false", "tta=flip")
    assert {stage for stage, _ in read_stages} == {"val"}
    assert set(read_json(folder.metrics)) == {"val", "val_tta", "run"}
    assert set(load_predictions(folder.predictions)) == {"val", "val_tta"}
    report = (folder.path / "report.md").read_text()
    assert "Val accuracy" in report
    assert "The most confident mistakes, val" in report
    ((read,), unused) = find_runs([folder.path])
    assert (len(read.test), set(read.augmented), unused) == (0, {"val"}, [])
    assert settings(compose(*SMALL, "test=false")) == settings(compose(*SMALL))


def test_a_wrong_last_checkpoint_gets_one_line(once):
    folder = once
    kept = torch.load(folder.last, weights_only=True)
    folder.metrics.unlink()
    for changed in ({"optimizer_states": [{}]}, {"callbacks": 5}, {"state_dict": {}}):
        torch.save(kept | changed, folder.last)
        refuses_to_resume(folder)
    for other in ({}, [1]):
        torch.save(other, folder.last)
        refuses_to_resume(folder)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left on device")]
)
def test_an_error_of_the_machine_is_not_blamed_on_the_checkpoint(once, monkeypatch, error):
    def setup(*_, **__):
        raise error

    monkeypatch.setattr(TensorBoardFigures, "setup", setup)
    with pytest.raises((UserError, OSError)) as caught:
        resume(once.path, "trainer.max_epochs=2")
    assert "cannot be resumed" not in str(caught.value)
    assert str(caught.value).startswith("out of memory" if isinstance(error, RuntimeError) else "[Errno 28]")


def refuses_to_resume(folder):
    with pytest.raises(UserError, match=r"last.ckpt: cannot be resumed \(.*overwrite=true starts again") as error:
        train(folder.path, "trainer.max_epochs=1")
    assert "\n" not in str(error.value)


def test_trainer_argument_that_lightning_refuses_gets_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^trainer: .*strategy"):
        train(tmp_path, "trainer.strategy=nonsense")


@pytest.mark.real
def test_a_few_steps_on_the_real_data(tmp_path, fer2013):
    words = ["data=fer2013", f"data_dir={fer2013}", "trainer.max_epochs=1", "trainer.limit_train_batches=20"]
    folder = train(tmp_path, *words)
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["val"]["num_images"] == 5742
    assert metrics["test"]["num_images"] == 7178
    assert metrics["test"]["per_class"]["disgust"]["support"] == 111


@pytest.mark.parametrize(
    "word",
    [
        *("model=cnn", "recipe=small", "experiment=table1", "seed=1", "optimizer=sgd", "schedule=cosine", "+x=1"),
        *("blocks=[2,2]", "image_size=64", "normalize=imagenet", "unfreeze=1", "ema_decay=0.9", "monitor=val/acc"),
    ],
)
def test_resume_refuses_settings_that_would_make_another_run(tmp_path, word):
    RunFolder(tmp_path).claim(read(compose(*SMALL, "seed=0")), {}, 0)
    words = [f"resume={tmp_path}", word]
    key = word.lstrip("+").split("=")[0]
    with pytest.raises(UserError, match=f"^{re.escape(word)}: a resumed run keeps its {key};"):
        run(compose(*(words[:1] if key in ("model", "recipe", "experiment", "x") else words)), tmp_path, words)


def test_resume_refuses_other_training_images(tmp_path):
    """Some of the training images would become validation images, and the metrics would be too high."""
    folder = train(tmp_path / "run", "trainer.max_epochs=1", "split=official")
    before = folder.config.read_text(), folder.metrics.read_text()
    for word in ("split=report", "synthetic_images=140", "data=fer2013"):
        with pytest.raises(UserError, match=f"^{word}: a resumed run keeps its {word.split('=')[0]};"):
            resume(folder.path, word, "trainer.max_epochs=2")
    assert (folder.config.read_text(), folder.metrics.read_text()) == before
    resume(folder.path, "seed=0", "split=official", "trainer.max_epochs=2")
    assert epochs(folder) == 2


def test_a_run_does_not_resume_with_other_training_images(tmp_path):
    folder = train(tmp_path / "run", "trainer.max_epochs=1")
    config = folder.read_config()
    config.synthetic_images = 140
    folder.metrics.unlink()
    folder.config.write_text(OmegaConf.to_yaml(config))
    with pytest.raises(UserError, match=r"^the run began with other training images \(134, now \d+\)"):
        resume(folder.path, "trainer.max_epochs=2")


def test_a_run_does_not_resume_with_other_labels(tmp_path):
    for number in range(60):
        path = tmp_path / "faces" / ("train", "val", "test")[number // 2 % 3] / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(number % 2, seed=5, index=number)).save(path)
    words = ["data=folder", f"data_dir={tmp_path / 'faces'}", "split=official", "trainer.max_epochs=1"]
    folder = train(tmp_path / "run", *words)
    resume(folder.path, "trainer.max_epochs=2")
    (tmp_path / "faces/train/a/0.png").rename(tmp_path / "faces/train/b/0.png")
    with pytest.raises(UserError, match=r"^the run began with other labels of its training images; "):
        resume(folder.path, "trainer.max_epochs=3")


@pytest.mark.parametrize(("begun", "asked"), [(0, 0.1), (0.1, 0)])
def test_a_resumed_run_keeps_the_groups_of_its_weights(tmp_path, begun, asked):
    folder = train(tmp_path, "trainer.max_epochs=1", f"weight_decay={begun}", "optimizer=sgd")
    with pytest.raises(UserError, match=rf"^weight_decay={asked}: would divide the weights into other groups; "):
        resume(folder.path, f"weight_decay={asked}", "trainer.max_epochs=2")
    resume(folder.path, f"weight_decay={2 * begun}", "trainer.max_epochs=2")


@pytest.mark.parametrize("size", [8, 16, 32])
def test_cosine_goes_to_zero_though_a_resumed_epoch_has_other_steps(tmp_path, size):
    words = ["schedule=cosine", "optimizer=sgd", "lr=0.01", "batch_size=16"]
    folder = train(tmp_path, *words, "trainer.max_epochs=1")
    resume(tmp_path, f"batch_size={size}", "trainer.max_epochs=4")
    rates = dict(read_curves(folder.csv_files())["lr"])
    expected = [0.005 * (1 + np.cos(np.pi * done / 4)) for done in (1, 2, 3)]  # at the begin of each epoch
    assert [rates[epoch] for epoch in (2, 3, 4)] == pytest.approx(expected)


def test_a_start_from_a_network_that_saw_the_held_out_images_is_refused(tmp_path, caplog):
    caplog.set_level("INFO")
    words = ["trainer.max_epochs=1", "split=random", "split_seed=0"]
    first = train(tmp_path / "first", *words)
    assert train(tmp_path / "same", *words, f"init={first.best}", "seed=1").state == "finished"
    message = (
        rf"^init={first.best}: was trained on \d+ of the images that validate or test here; give both the same split"
    )
    with pytest.raises(UserError, match=message):
        train(tmp_path / "other", *words, f"init={first.best}", "split_seed=1")
    assert RunFolder(tmp_path / "other").state == "new"


def test_a_run_remembers_the_images_of_its_start(tmp_path):
    first = train(tmp_path / "first", "trainer.max_epochs=1")
    random = np.random.default_rng(0)
    for number in range(70):
        path = tmp_path / "photos" / CLASSES[number % 7] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(path)
    words = ["data=folder", f"data_dir={tmp_path / 'photos'}", "pack_size=48", "split=random", f"init={first.best}"]
    second = train(tmp_path / "second", *words, "trainer.max_epochs=1")
    first.best.unlink()
    resume(second.path, "trainer.max_epochs=2")
    data = {"data": "synthetic", "data_dir": None, "synthetic_images": 210, "split": "test_only"}
    published = tmp_path / "second.safetensors"
    assert publish(second.best, published).card.facts["further_images"] == 134
    for path, told in ((second.best, "134 of 210, pixel for pixel"), (published, "not known (")):
        evaluate([path], data, str(tmp_path / "out"), "cpu")
        assert read_json(tmp_path / "out" / "evaluation.json")["seen"].startswith(told)


@pytest.mark.parametrize(
    ("schedule", "factor"), [("none", 1), ("plateau", 1), ("cosine", (1 + np.cos(np.pi * 2 / 3)) / 2)]
)
def test_resume_learns_at_the_rate_of_the_command(tmp_path, schedule, factor):
    words = ["optimizer=sgd", "momentum=0.9", "lr=0.01", "weight_decay=0.1", "layer_decay=0.5", f"schedule={schedule}"]
    plateau = schedule == "plateau"
    folder = train(tmp_path, "trainer.max_epochs=2", *["lr_factor=0.3"] * plateau, *words)
    words = ["lr=1e-6", "momentum=0.7", "weight_decay=0.2", "layer_decay=0.25"]
    words += ["lr_factor=0.4", "lr_patience=9"] * plateau
    before = weights(folder.last)
    resume(tmp_path, "trainer.max_epochs=3", *words)
    last = torch.load(folder.last, weights_only=True)
    groups = last["optimizer_states"][0]["param_groups"]
    assert [group["momentum"] for group in groups] == [0.7] * len(groups)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2}
    base_rates = last["lr_schedulers"][0]["base_lrs"] if schedule == "cosine" else [group["lr"] for group in groups]
    assert base_rates == pytest.approx([1e-6 * 0.25 ** (index // 2) for index in range(len(groups))])
    rates = dict(read_curves(folder.csv_files())["lr"])
    assert rates[3] == pytest.approx(1e-6 * factor)
    if schedule == "plateau":
        assert (last["lr_schedulers"][0]["factor"], last["lr_schedulers"][0]["patience"]) == (0.4, 8)
    moved = [
        float((value - before[name]).abs().max()) for name, value in weights(folder.last).items() if "weight" in name
    ]
    assert max(moved) < 1e-3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(tmp_path, precision):
    """With a gradient that is clipped to almost nothing, SGD makes almost no step."""
    words = [
        "trainer.max_epochs=1",
        f"trainer.precision={precision}",
        "optimizer=sgd",
        "trainer.limit_train_batches=1",
    ]
    folder = train(tmp_path, *words, "trainer.gradient_clip_val=1e-6", "lr=0.1")
    start, free = (weights(train(tmp_path / rate, *words, f"lr={rate}").last) for rate in ("1e-12", "0.1"))
    moves = [
        max(float((end[name] - value).abs().max()) for name, value in start.items() if "running" not in name)
        for end in (weights(folder.last), free)
    ]
    assert moves[0] < 1e-5 < 1e-4 < moves[1]


def test_an_interrupted_run_says_how_it_goes_on(tmp_path, monkeypatch, caplog):
    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupted(*words):
        handler = signal.getsignal(signal.SIGINT)  # Lightning ignores a second Ctrl-C
        with monkeypatch.context() as patch:
            patch.setattr(TensorBoardFigures, "on_train_batch_start", interrupt)
            with pytest.raises(SystemExit) as caught:
                train(tmp_path, *TINY, *words)
        signal.signal(signal.SIGINT, handler)
        assert caught.value.code == 130
        return caplog.messages[-1]

    assert interrupted() == f"interrupted in epoch 1: resume={tmp_path} continues"
    assert interrupted("test=false") == f"interrupted in epoch 1: resume={tmp_path} test=false continues"
    folder = train(tmp_path, *TINY)
    assert folder.state == "finished"
    stays = f"the run before it stays in {tmp_path}; the same command starts again"
    assert interrupted("overwrite=true") == f"interrupted in epoch 1: {stays}"
    assert folder.state == "finished"


def test_an_exit_of_the_users_code_is_no_interrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorBoardFigures, "on_train_batch_start", lambda *_: sys.exit(3))
    with pytest.raises(SystemExit) as caught:
        train(tmp_path, *TINY)
    assert caught.value.code == 3


def test_failure_is_kept_in_the_folder_until_the_run_finishes(tmp_path, monkeypatch):
    def break_down(*_, **__):
        raise RuntimeError("out of memory\nand more")

    with monkeypatch.context() as patch:
        patch.setattr("emotion.training.run.fit", break_down)
        with pytest.raises(RuntimeError):
            train(tmp_path, "trainer.max_epochs=1")
    folder = RunFolder(tmp_path)
    failure = read_json(folder.failure)
    assert failure["error"] == "out of memory"
    assert "break_down" in failure["traceback"]
    train(tmp_path, "trainer.max_epochs=1")
    assert folder.state == "finished"
    assert not folder.failure.exists()


def test_a_run_that_was_not_tested_is_tested_by_the_same_command(tmp_path, monkeypatch):
    folder = train(tmp_path, "trainer.max_epochs=1", "test=false")
    trained = weights(folder.best)
    train(tmp_path, "trainer.max_epochs=1", "test=false")
    assert "test" not in read_json(folder.metrics)
    train(tmp_path, "trainer.max_epochs=1")
    assert read_json(folder.metrics)["test"]["num_images"] == read_json(folder.metrics)["run"]["test_images"] == 42
    assert epochs(folder) == 1
    assert all(torch.equal(value, trained[name]) for name, value in weights(folder.best).items())
    content = folder.metrics.read_text()
    folder.metrics.write_text("{")
    with pytest.raises(UserError, match=r"metrics.json: cannot be read \(.*\); overwrite=true starts again$"):
        train(tmp_path, "trainer.max_epochs=1")
    folder.metrics.write_text(content)
    monkeypatch.setattr("emotion.training.run.prepare", lambda *_: pytest.fail("it is finished"))
    train(tmp_path, "trainer.max_epochs=1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as the second process, which must not wait for the first
    train(tmp_path, "trainer.max_epochs=1")


def test_a_run_knows_itself_with_weights_in_the_home_folder(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("HOME", str(tmp_path))
    network = EmotionTask.of(settings(compose("model=vgg16_fe", "image_size=32"))).network
    (tmp_path / "w").mkdir()
    state = {name: value.contiguous() for name, value in network.backbone.state_dict().items()}
    save_file(state, tmp_path / "w" / "vgg16_features.safetensors")
    words = [
        "model=vgg16_fe",
        "image_size=32",
        "augment=false",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=1",
    ]
    for place in ("~/w", f"{tmp_path}/w"):
        folder = train(tmp_path / "run", *words, f"weights='{place}'")
    assert "finished already" in caplog.text
    assert folder.read_config().weights == "~/w/vgg16_features.safetensors"
    assert str(tmp_path) not in folder.config.read_text()


def test_folder_without_the_weights_of_a_backbone_fails_the_run(tmp_path):
    with pytest.raises(UserError, match="one file vgg16"):
        train(tmp_path / "run", "model=vgg16_fe", f"weights={tmp_path}")
    assert "one file vgg16" in read_json(RunFolder(tmp_path / "run").failure)["error"]
    assert not RunFolder(tmp_path / "run").config.exists()


def test_the_recipe_for_clip_trains_a_small_transformer(tmp_path):
    words = ["recipe=clip", "backbone=test_vit", "weights=none", "image_size=32", "data=synthetic"]
    words += ["synthetic_images=140", "trainer.max_epochs=1", "trainer.accelerator=cpu", "split=official"]
    run(compose(*words), tmp_path, words)
    assert read_json(RunFolder(tmp_path).metrics)["run"]["epochs"] == 1
    backbone = load_checkpoint(RunFolder(tmp_path).best).task.network.backbone
    assert type(backbone).__name__ == "VisionTransformer"


def test_the_report_of_a_run_says_on_what_it_was_trained(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", *TINY, "seed=1")
    page = (folder.path / "report.md").read_text()
    assert "| classes | angry, disgust, fear, happy, neutral, sad, surprise |" in page
    assert re.findall(r"\| images \| (.*) \|", page) == ["134 training, 34 validation, 42 test"]
    assert "| init |" not in page
    assert "| weights |" not in page
    further = train(tmp_path / "further", *TINY, "seed=1", f"init={folder.best}")
    assert re.search(r"\| init \| .*best\\?\.ckpt \|", (further.path / "report.md").read_text())


def test_a_gpu_that_is_missing_is_named_before_the_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("emotion.training.prepared.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("emotion.training.prepared.MPSAccelerator.is_available", lambda: False)
    monkeypatch.setattr("emotion.training.prepared.EmotionDataModule", lambda *_, **__: pytest.fail("it reads"))
    message = (
        r"^trainer.accelerator=gpu: PyTorch finds no GPU on this machine; use cpu, or auto, which takes a GPU where "
        r"there is one$"
    )
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", "trainer.accelerator=gpu")


def test_few_validation_images_are_a_warning_and_a_resumed_run_says_where_it_goes_on(tmp_path, caplog):
    caplog.set_level("INFO")
    words = ["trainer.max_epochs=1", "split=random", "val_fraction=0.04", "test_fraction=0.1"]
    folder = train(tmp_path / "run", *words)
    few = (
        "only 8 images to validate: chance decides which epoch is the best; more images or a larger val_fraction= help"
    )
    assert few in caplog.messages
    assert not any("continues after" in line for line in caplog.messages)
    resume(folder.path, "trainer.max_epochs=2")
    assert "continues after epoch 1" in caplog.messages
