"""Every key of `trainer` in conf/config.yaml has an effect."""

import csv
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from small_runs import SMALL, epochs, train

from emotion.analysis.figures import read_history
from emotion.config import compose, conf_dir, read
from emotion.errors import UserError
from emotion.models.device import exact_float32
from emotion.training import prepared
from emotion.training.folder import RunFolder
from emotion.training.task import EmotionTask
from emotion.training.trainer import best_precision, build_trainer

pytestmark = pytest.mark.training

STEPS = 5
"""Number of steps in an epoch of the small run."""


class Seen:
    """Records the course of a training.

    Attributes:
        labels: the labels of each batch.
        validated: number of validated images.
        gradients: norm and largest value of the optimiser's gradients in each step except the last.
        state: settings of PyTorch and the Trainer in the last step.
    """

    def __init__(self) -> None:
        self.labels: list[list[int]] = []
        self.state: dict[str, Any] = {}
        self.validated = 0
        self.gradients: list[tuple[float, float]] = []


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., tuple[RunFolder, Seen]]:
    seen = Seen()
    step, validate = EmotionTask.training_step, EmotionTask.validation_step

    def training_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        seen.labels.append(batch.labels.tolist())
        trainer: Trainer = self.trainer
        seen.state |= {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "anomaly": torch.is_anomaly_enabled(),
            "steps": trainer.global_step + 1,
            "autocast": torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            "accelerator": type(trainer.accelerator).__name__,
            "devices": trainer.num_devices,
            "nodes": trainer.num_nodes,
            "strategy": type(trainer.strategy).__name__,
        }
        return loss

    def validation_step(self, batch, batch_idx):
        seen.validated += len(batch.labels)
        return validate(self, batch, batch_idx)

    def on_before_zero_grad(self, optimizer):
        gradients = [value.grad for value in self.parameters() if value.grad is not None]
        if gradients:
            norm = float(torch.stack([value.norm() for value in gradients]).norm())
            seen.gradients.append((norm, max(float(value.abs().max()) for value in gradients)))

    monkeypatch.setattr(EmotionTask, "training_step", training_step)
    monkeypatch.setattr(EmotionTask, "validation_step", validation_step)
    monkeypatch.setattr(EmotionTask, "on_before_zero_grad", on_before_zero_grad)

    def call(*words: str) -> tuple[RunFolder, Seen]:
        return train(tmp_path / "run", "trainer.max_epochs=1", "patience=null", "test=false", *words), seen

    return call


def rows(folder: RunFolder, column: str) -> list[tuple[int, str]]:
    """Returns the steps of the CSV log at which a column has a value, and the values."""
    with folder.csv_files()[0].open() as file:
        return [(int(row["step"]), row[column]) for row in csv.DictReader(file) if row.get(column)]


def validations(folder: RunFolder) -> list[int]:
    return [int(step) for step, _ in read_history(folder.csv_files()[0])["val/loss"]]


ACTS: dict[str, tuple[list[str], Callable[[RunFolder, Seen], bool]]] = {
    "max_epochs": (["trainer.max_epochs=2"], lambda folder, seen: epochs(folder) == 2),
    "min_epochs": (
        ["trainer.min_epochs=3", "trainer.max_epochs=5", "patience=1", "min_delta=10"],
        lambda folder, seen: epochs(folder) == 3,
    ),
    "max_steps": (["trainer.max_steps=7", "trainer.max_epochs=9"], lambda folder, seen: len(seen.labels) == 7),
    # test_run.py tests it with a fake clock.
    "max_time": (["trainer.max_time=00:00:00:01", "trainer.max_epochs=99"], lambda folder, seen: epochs(folder) < 99),
    "accelerator": (["trainer.accelerator=cpu"], lambda folder, seen: seen.state["accelerator"] == "CPUAccelerator"),
    "strategy": (
        ["trainer.strategy=ddp_find_unused_parameters_false"],
        lambda folder, seen: seen.state["strategy"] == "DDPStrategy",
    ),
    "precision": (
        ["trainer.precision=bf16-mixed"],
        lambda folder, seen: seen.state["autocast"] == torch.bfloat16,
    ),
    "limit_train_batches": (["trainer.limit_train_batches=2"], lambda folder, seen: len(seen.labels) == 2),
    "limit_val_batches": (["trainer.limit_val_batches=1"], lambda folder, seen: seen.validated == 32),
    "overfit_batches": (
        ["trainer.overfit_batches=2", "trainer.max_epochs=3"],
        lambda folder, seen: len(seen.labels) == 6 and seen.labels[:2] == seen.labels[2:4] == seen.labels[4:],
    ),
    "check_val_every_n_epoch": (
        ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5"],
        lambda folder, seen: validations(folder) == [2, 4],
    ),
    "log_every_n_steps": (
        ["trainer.log_every_n_steps=2"],
        lambda folder, seen: [step for step, _ in rows(folder, "train/loss_step")] == [1, 3],
    ),
    "gradient_clip_val": (
        ["trainer.gradient_clip_val=1e-3"],
        lambda folder, seen: max(norm for norm, _ in seen.gradients) == pytest.approx(1e-3, rel=1e-3),
    ),
    "gradient_clip_algorithm": (
        ["trainer.gradient_clip_val=1e-3", "trainer.gradient_clip_algorithm=value"],
        lambda folder, seen: max(largest for _, largest in seen.gradients) == pytest.approx(1e-3),
    ),
    "accumulate_grad_batches": (
        ["trainer.accumulate_grad_batches=2"],
        lambda folder, seen: (len(seen.labels), len(seen.gradients)) == (STEPS, 2),
    ),
    "deterministic": (["trainer.deterministic=true"], lambda folder, seen: seen.state["deterministic"]),
    "benchmark": (["trainer.benchmark=true"], lambda folder, seen: seen.state["benchmark"]),
    "detect_anomaly": (["trainer.detect_anomaly=true"], lambda folder, seen: seen.state["anomaly"]),
    "profiler": (
        ["trainer.profiler=simple"],
        lambda folder, seen: "run_training_epoch" in (folder.path / "fit-profile.txt").read_text(),
    ),
}
OF_SEVERAL_PROCESSES = {"devices", "num_nodes", "sync_batchnorm"}
"""test_processes.py trains in two processes; sync_batchnorm works on GPUs only."""


def test_every_key_is_tested():
    assert set(ACTS) | OF_SEVERAL_PROCESSES == set(OmegaConf.load(conf_dir() / "config.yaml").trainer)


@pytest.mark.parametrize("key", ACTS)
def test_a_key_of_the_trainer_has_an_effect(run, key):
    words, acts = ACTS[key]
    folder, seen = run(*words)
    assert acts(folder, seen)


def test_without_the_keys_their_effects_are_absent(run):
    folder, seen = run("trainer.max_epochs=3", "trainer.precision=32-true")
    others = set(ACTS) - {"accelerator", "max_time"}
    acting = set()
    for key in others:
        try:
            acting |= {key} if ACTS[key][1](folder, seen) else set()
        except FileNotFoundError:
            assert key == "profiler"
    assert acting == {"min_epochs"}  # which three epochs fulfil


@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_profilers_write_into_the_runs_folder(run, profiler):
    folder, _ = run(f"trainer.profiler={profiler}", "trainer.limit_train_batches=1")
    assert list(folder.path.glob("fit-profile*"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.check_val_every_n_epoch=5", "trainer.max_epochs=3"], "trainer.check_val_every_n_epoch=5: "),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches=0: "),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: "),
        (["trainer.max_epochs=-2"], "trainer.max_epochs=-2: "),
        (["trainer.max_epochs=two"], "trainer.max_epochs=two: "),
        (["plain_epochs=1", "trainer.max_epochs=-1"], "plain_epochs=1: "),
        (["trainer.min_epochs=4", "trainer.max_epochs=3"], "trainer.min_epochs=4: "),
        (["trainer.sync_batchnorm=true", "trainer.strategy=ddp"], "trainer.sync_batchnorm=true: "),
        (["trainer.profiler=fast"], "trainer.profiler=fast: "),
    ],
)
def test_settings_that_cannot_train_are_refused_at_once(run, words, line):
    with pytest.raises(UserError) as error:
        run(*words)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2", "amx_bf16"}, "bf16-mixed"), ({"avx512_bf16"}, "bf16-mixed"), ({"avx2", "avx512f"}, "32-true")],
)
def test_a_cpu_with_instructions_for_bf16_trains_in_it(flags, expected, monkeypatch):
    monkeypatch.setattr("emotion.training.trainer.cpu_flags", lambda: flags)
    assert best_precision("cpu") == expected


def test_the_chosen_gpu_decides_on_bf16(monkeypatch):
    current = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device", lambda index: (current.append(index), nullcontext())[1])
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert best_precision("auto", [1]) == "bf16-mixed"
    assert best_precision("gpu", 2) == "16-mixed"
    assert current == [1, 0]


@pytest.mark.parametrize(
    ("device", "words", "compiled"),
    [
        ("cuda", ["patience=null", "trainer.max_epochs=50"], True),  # 100 batches an epoch, so 5,000 steps
        ("cuda", ["patience=null", "trainer.max_epochs=-1"], True),
        ("cuda", ["patience=null", "trainer.max_epochs=49"], False),
        ("cuda", ["patience=5", "trainer.max_epochs=50"], False),
        ("cpu", ["patience=null", "trainer.max_epochs=50"], False),
    ],
)
def test_long_runs_of_fixed_length_are_compiled_on_gpus(device, words, compiled):
    data = SimpleNamespace(train_set=(None, None, range(6391)), batches=SimpleNamespace(batch_size=64))
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), world_size=1)
    assert prepared._repays_compilation(read(compose(*words)), data, trainer) == compiled


def test_a_machine_without_a_compiler_trains_uncompiled(monkeypatch, caplog):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert prepared.missing_for_compilation(torch.device("cpu")) == ""
    data = SimpleNamespace(train_set=(None, None, range(64_000)), batches=SimpleNamespace(batch_size=64))
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda")), world_size=1, precision="bf16-mixed"
    )
    compiled = []
    task = SimpleNamespace(compile_network=lambda: compiled.append(True))

    def configure(*words):
        prepared._configure_speed(read(compose("recipe=small", "feature_views=0", *words)), task, data, trainer)

    with pytest.raises(UserError, match=r"^compile=true: Triton needs a C compiler \(gcc or clang\)$"):
        configure("compile=true")
    configure()
    assert caplog.messages == ["compile=auto: not compiled: Triton needs a C compiler (gcc or clang)"]
    monkeypatch.setattr(prepared, "missing_for_compilation", lambda device: "")
    configure("compile=false")
    assert not compiled
    configure()
    assert compiled


def test_float32_is_not_rounded_on_gpus():
    torch.backends.cudnn.allow_tf32 = True
    exact_float32()
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/acc", "max"), ("val/f1_macro", "max")])
def test_the_monitor_chooses_the_best_checkpoint_and_ends_the_training(monitor, mode, tmp_path):
    trainer = build_trainer(read(compose(f"monitor={monitor}", "patience=7", "min_delta=0.01")), RunFolder(tmp_path))
    chosen = {each.filename: (each.monitor, each.mode) for each in trainer.checkpoint_callbacks}
    accuracy = {} if monitor == "val/acc" else {"best_acc": ("val/acc", "max")}
    assert chosen == {"best": (monitor, mode), **accuracy, "last": (None, "min")}
    (patience,) = trainer.early_stopping_callbacks
    assert (patience.monitor, patience.mode, patience.patience) == (monitor, mode, 7)
    assert abs(patience.min_delta) == 0.01


def test_logit_adjustment_has_the_shares_of_the_training_images(tmp_path):
    words = [*SMALL, "balance=none", "logit_adjustment=0.5", "split=official"]
    made = prepared.prepare(read(compose(*words)), RunFolder(tmp_path / "run"))
    labels = made.data.packed.labels[made.data.rows.train]
    shares = torch.bincount(torch.from_numpy(labels), minlength=7) / len(labels)
    torch.testing.assert_close(made.task.loss.offsets, 0.5 * shares.log())
    assert len(shares.unique()) > 1


def test_an_experiment_decides_over_a_recipe():
    """Both set the learning rate."""
    assert compose("recipe=small").lr != compose("experiment=table5", "recipe=small").lr == 1e-5
