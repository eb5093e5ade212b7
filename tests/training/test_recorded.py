import copy
import csv

import pytest
import torch
from builders import data_module, make_mix
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from small_runs import resume, train

from emotion.config import compose, read
from emotion.data.loader import Batch
from emotion.errors import UserError
from emotion.settings import OptimizerSettings
from emotion.training.callbacks import RandomState
from emotion.training.folder import read_json
from emotion.training.recorded import (
    WARM_UP,
    BatchGroups,
    Outcome,
    RecordedStep,
    RecordedTask,
    group_steps,
    records_steps,
)
from emotion.training.task import EmotionTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Recorder:
    """Replaces a CUDA graph: recording runs nothing, replaying repeats the step on the present values of its inputs."""

    def __init__(self):
        self.recordings = self.replays = 0

    def __call__(self, step):
        self.recordings += 1

        def replay():
            self.replays += 1
            fresh = step()
            for output, value in zip(outputs, fresh, strict=True):
                output.resize_(value.shape).copy_(value)

        outputs = Outcome(torch.empty(0), torch.empty(0))
        return replay, outputs


def batch_of(size, value):
    return Batch(torch.full((size, 1), float(value)), torch.full((size,), value))


def test_the_soft_targets_of_each_batch_are_copied_in():
    batches = [Batch(torch.rand(4, 1, 8, 8), torch.arange(4), torch.rand(4, 7).softmax(1)) for _ in range(6)]
    record = Recorder()
    recorded = RecordedStep(lambda batch: Outcome(batch.soft_targets.sum(), batch.soft_targets + 0), record)
    for batch in batches:
        assert torch.equal(recorded(batch).logits, batch.soft_targets)
    assert (record.recordings, record.replays) == (1, 3)


class TestRecordedStep:
    def steps(self, record=None):
        self.seen = []

        def step(batch):
            self.seen.append((len(batch.labels), int(batch.labels[0])))
            return Outcome(batch.inputs.mean(), batch.inputs * 2)

        self.recorder = record or Recorder()
        return RecordedStep(step, self.recorder)

    def test_every_batch_is_run_once_whatever_its_shape(self):
        recorded = self.steps()
        sizes = ([4, 4, 3] * 5 + [5])[1:]
        outcomes = [recorded(batch_of(size, number)) for number, size in enumerate(sizes)]
        assert self.seen == [(size, number) for number, size in enumerate(sizes)]
        for number, (loss, logits) in enumerate(outcomes):
            assert float(loss) == number, "an outcome was overwritten by a later step"
            assert logits.tolist() == [[2 * number]] * sizes[number]
        assert self.recorder.recordings == 2
        assert self.recorder.replays == 9 - WARM_UP + 5 - WARM_UP

    @pytest.mark.parametrize(
        ("error", "expected", "message"),
        [
            (
                RuntimeError("operation not permitted when stream is capturing\nmore"),
                UserError,
                r"cannot be recorded \(operation .* capturing\); use cuda_graph=false",
            ),
            (torch.OutOfMemoryError("no memory"), torch.OutOfMemoryError, "^no memory$"),
        ],
    )
    def test_a_failed_recording_tells_the_error_of_the_step(self, error, expected, message):
        """CUDA raises a second error when the failed recording ends."""

        def fail(step):
            try:
                raise error
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

        recorded = self.steps(fail)
        for number in range(WARM_UP):
            recorded(batch_of(4, number))
        with pytest.raises(expected, match=message):
            recorded(batch_of(4, 9))


@pytest.fixture
def make_recorded(make_task):
    """Builds a task like `make_task`, whose steps a `Recorder` records."""

    def make(recorder=None, **changes):
        task = make_task(RecordedTask, **changes)
        task.recorded_step = RecordedStep(task.run_step, recorder or Recorder())
        return task

    return make


@pytest.fixture
def make_fit(make_task, make_recorded, make_trainer, make_loader):
    """Trains with recorded steps or plain ones and returns task, trainer and recorder."""

    def fit(folder, groups, epochs=3, ckpt=None, precision="32-true", mix=None, **changes):
        # The learning rate is exact in single precision, in which a recorded step reads it.
        changes = {"class_weights": [0.5, 1.0, 1.5, 1.0, 2.0, 1.0, 0.5], "lr": 2**-13} | changes
        loader, recorder = make_loader(100, shuffle=True, mix=mix), Recorder()
        task = make_recorded(recorder, **changes) if groups else make_task(**changes)
        if groups:
            loader = BatchGroups(loader, groups)
        saving = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
        monitor = LearningRateMonitor(logging_interval="epoch")
        options = {
            "callbacks": [RandomState(), saving, monitor],
            "enable_checkpointing": True,
            "log_every_n_steps": 1,
            "precision": precision,
        }
        trainer = make_trainer(folder, max_epochs=epochs, **options)
        trainer.fit(task, loader, make_loader(20, seed=1), ckpt_path=ckpt, weights_only=True)
        return task, trainer, recorder

    return fit


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("schedule", ["none", "cosine", "plateau"])
def test_recorded_steps_train_as_the_trainer_does(make_fit, tmp_path, schedule, precision):
    options = {"schedule": schedule, "lr_patience": 1, "precision": precision}
    plain, trainer, _ = make_fit(tmp_path / "plain", 0, **options)
    task, recorded, recorder = make_fit(tmp_path / "recorded", 5, **options)
    # 13 batches an epoch, the last of them smaller.
    assert recorder.replays == 3 * 12 - WARM_UP
    assert recorded.global_step == trainer.global_step == 39
    assert recorded.callback_metrics.keys() == trainer.callback_metrics.keys()
    # Adam's two forms round differently, by how much depends on the processor: 6e-5 on an AMD EPYC.
    for name in ("train/loss", "train/acc", "val/loss"):
        torch.testing.assert_close(recorded.callback_metrics[name], trainer.callback_metrics[name], rtol=5e-4, atol=0)
    rates = [float(fitted.optimizers[0].param_groups[0]["lr"]) for fitted in (recorded, trainer)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-5, abs=1e-9)
    if schedule == "cosine":
        return  # its rates are rounded, which Adam turns into steps where a gradient is next to nothing
    for (name, value), other in zip(task.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


INGREDIENTS = {
    "optimizer": "sgd",
    "lr": 2**-4,
    "weight_decay": 1e-3,
    "layer_decay": 0.5,
    "ema_decay": 0.8,
    "focal_gamma": 1.0,
    "mix": make_mix(mixup=0.2),
}


@pytest.mark.parametrize(
    "options",
    [{"ema_decay": 0.8}, {"optimizer": "adamw"}, INGREDIENTS | {"schedule": "cosine", "warmup_epochs": 1.0}],
    ids=["average", "adamw", "many"],
)
def test_recorded_steps_train_with_every_ingredient(make_fit, tmp_path, options):
    plain, *_ = make_fit(tmp_path / "plain", 0, **options)
    task, recorded, recorder = make_fit(tmp_path / "recorded", 5, **options)
    assert recorder.replays == 3 * 12 - WARM_UP
    assert recorded.global_step == 39
    assert task.state_dict().keys() == plain.state_dict().keys()
    for (name, value), other in zip(task.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)


def test_recorded_steps_move_the_average(make_recorded, make_trainer, make_loader, tmp_path):
    task = make_recorded(ema_decay=0.8, lr=0.01)
    expected, move = {name: value.clone() for name, value in task.network.state_dict().items()}, task._move_average

    def follow():
        move()
        for name, value in task.network.state_dict().items():
            floats = value.is_floating_point()
            expected[name] = 0.8 * expected[name] + 0.2 * value if floats else value.clone()

    task._move_average = follow
    make_trainer(tmp_path).fit(task, BatchGroups(make_loader(100), 5))
    for name, value in task.average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert int(expected["backbone.0.3.num_batches_tracked"]) == 13
    assert not torch.allclose(task.network.head[1].weight, expected["head.1.weight"], atol=1e-3)


@pytest.mark.parametrize("options", [{}, INGREDIENTS], ids=["plain", "many"])
@pytest.mark.parametrize(("before", "after"), [(5, 5), (5, 0), (0, 5)])
def test_a_run_resumes_whether_or_not_its_steps_are_recorded(make_fit, tmp_path, before, after, options):
    whole, *_ = make_fit(tmp_path / "whole", before, epochs=4, **options)
    make_fit(tmp_path / "first", before, epochs=2, **options)
    rest, *_ = make_fit(tmp_path / "rest", after, epochs=4, ckpt=tmp_path / "first" / "last.ckpt", **options)
    for (name, value), other in zip(rest.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=name)


def test_a_recorded_run_resumes_at_the_rate_of_the_command(make_fit, tmp_path):
    options = {"optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 1.0}
    make_fit(tmp_path / "first", 0, epochs=2, lr=2**-4, **options)
    plain, recorded = (
        make_fit(
            tmp_path / f"rest{groups}", groups, epochs=4, ckpt=tmp_path / "first" / "last.ckpt", lr=2**-6, **options
        )
        for groups in (0, 5)
    )
    for (name, value), other in zip(recorded[0].state_dict().items(), plain[0].state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


def test_half_precision_weights_are_cast_again_in_every_step(make_recorded):
    """The cache of autocast would give all steps of a group the weights of the first."""
    task = make_recorded()
    batch = Batch(torch.rand(8, 1, 8, 8), torch.arange(8) % 7)
    optimizer = torch.optim.SGD(task.parameters(), 1.0)
    task._optimizer = lambda: optimizer

    def loss(step):
        torch.manual_seed(0)  # of the dropout
        return float(step(batch)[0].detach())

    with torch.autocast("cpu", torch.bfloat16):
        first = loss(task.run_step)
        alone = copy.deepcopy(task)
        second = loss(task.run_step)
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss(alone._loss_and_logits)
    assert second == pytest.approx(expected, rel=1e-6)
    assert first != pytest.approx(expected, rel=1e-3)


def settings(**changes):
    return read(compose(*(f"{key}={value}" for key, value in changes.items())))


def test_steps_are_recorded_on_one_cuda_device():
    assert records_steps(settings(), CUDA, "bf16-mixed")
    assert records_steps(settings(cuda_graph="true"), CUDA, "32-true")
    assert not records_steps(settings(cuda_graph="false"), CUDA, "bf16-mixed")
    assert not records_steps(settings(), CPU, "32-true")
    for devices in ("[3]", "[0]", "1"):
        assert records_steps(settings(**{"trainer.devices": devices}), CUDA, "32-true")
    assert not records_steps(settings(**{"trainer.devices": "[0,1]"}), CUDA, "32-true")


@pytest.mark.parametrize("own", [{"loss": "own.py:Loss"}, {"model": "custom", "network": "own.py:Network"}])
def test_code_of_a_user_is_recorded_on_request_only(own):
    """A recording repeats what Python computed in its step, as a weight that grows from step to step."""
    assert not records_steps(settings(**own), CUDA, "32-true")
    assert records_steps(settings(cuda_graph="true", **own), CUDA, "32-true")


@pytest.mark.parametrize("key", ["num_nodes", "max_steps", "strategy", "overfit_batches"])
def test_steps_are_recorded_with_lightnings_defaults(key):
    assert records_steps(settings(**{f"trainer.{key}": "null"}), CUDA, "32-true")


def test_steps_that_need_a_loss_scaler_are_not_recorded():
    """On GPUs without bf16, trainer.precision=auto means 16-mixed."""
    assert not records_steps(settings(), CUDA, "16-mixed")
    with pytest.raises(UserError, match=r"cuda_graph=true: .*trainer\.precision=16-mixed"):
        records_steps(settings(cuda_graph="true"), CUDA, "16-mixed")


@pytest.mark.parametrize(
    "word",
    [
        "trainer.devices=2",
        "trainer.num_nodes=2",
        "trainer.max_steps=10",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=1.0",
        "trainer.limit_train_batches=10",
        "trainer.limit_train_batches=1",
        "trainer.strategy=ddp",
        "trainer.overfit_batches=3",
        "sam_rho=0.05",
    ],
)
def test_settings_that_need_the_trainer_between_steps_are_named(word):
    key, value = word.split("=")
    assert not records_steps(settings(**{key: value}), CUDA, "32-true")
    with pytest.raises(UserError, match=f"cuda_graph=true: .*{key}={value}"):
        records_steps(settings(**{key: value, "cuda_graph": "true"}), CUDA, "32-true")
    with pytest.raises(UserError, match="no CUDA device"):
        records_steps(settings(cuda_graph="true"), CPU, "32-true")


def test_groups_are_logged_at_the_steps_they_end_at(make_recorded, make_trainer, make_loader, tmp_path):
    task = make_recorded()
    trainer = make_trainer(tmp_path, max_epochs=2, log_every_n_steps=1)
    trainer.fit(task, BatchGroups(make_loader(100), 5), make_loader(8))
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        logged = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    assert logged == [4, 9, 12, 17, 22, 25]
    assert trainer.global_step == 26


def test_short_groups_are_logged_once_an_interval(make_recorded, make_trainer, make_loader, tmp_path):
    """13 steps an epoch in groups that end after 3, 6, 9, 12, 13, 16, 19, 22 ... steps."""
    for interval, expected in ((10, [11, 21]), (0, [])):
        task = make_recorded()
        task.log_interval = interval
        trainer = make_trainer(tmp_path / str(interval), max_epochs=2, log_every_n_steps=50)
        trainer.fit(task, BatchGroups(make_loader(100), 3), make_loader(8))
        with (tmp_path / str(interval) / "csv" / "metrics.csv").open() as file:
            logged = [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss_step")]
        assert logged == expected


def test_groups_take_no_more_memory_than_a_chunk(make_loader, monkeypatch):
    monkeypatch.setattr("emotion.training.recorded.DEVICE_CHUNK", 3 * 8 * 8 * 8)
    groups = BatchGroups(make_loader(100), 50)
    assert [len(group) for group in groups] == [3, 3, 3, 3, 1]
    assert len(groups) == 5


def test_whole_runs_are_those_of_ordinary_steps(tmp_path, monkeypatch):
    """A run can also resume with steps of the other kind. Adam's two forms round differently."""
    words = ["trainer.precision=32-true", "lr=0.0001220703125", "trainer.log_every_n_steps=3"]

    def fit(name, recorded, action, epochs):
        with monkeypatch.context() as patch:
            patch.setattr("emotion.training.prepared.records_steps", lambda *_: recorded)
            patch.setattr(RecordedStep, "__call__", lambda step, batch: step._step(batch))
            return action(tmp_path / name, *words, f"trainer.max_epochs={epochs}")

    plain = fit("plain", False, train, 2)
    for name, kinds in {"recorded": (True, None), "first": (True, False), "last": (False, True)}.items():
        first, last = kinds
        folder = fit(name, first, train, 2 if last is None else 1)
        if last is not None:
            folder = fit(name, last, resume, 2)
        results = [read_json(each.metrics) for each in (folder, plain)]
        counts = [{key: own["run"][key] for key in ("epochs", "best_epoch", "train_images")} for own in results]
        assert counts[0] == counts[1]
        assert results[0]["val"]["loss"] == pytest.approx(results[1]["val"]["loss"], rel=1e-3)
    assert fit("recorded", True, resume, 2).state == "finished"


def test_optimizer_of_an_older_checkpoint_takes_the_settings_of_this_run(make_fit, tmp_path):
    make_fit(tmp_path / "first", 0, epochs=1)
    path = tmp_path / "first" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        group["fused"] = None
    torch.save(content, path)
    _, trainer, _ = make_fit(tmp_path / "rest", 5, epochs=2, ckpt=path)
    assert trainer.optimizers[0].param_groups[0]["fused"] is True


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ({"schedule": "none"}, "32-true"),
        ({"schedule": "cosine", "optimizer": "sgd", "ema_decay": 0.9}, "bf16-mixed"),
        ({"schedule": "plateau", "lr_patience": 1, "mixup": 0.2, "memory_budget": 0}, "bf16-mixed"),
    ],
)
def test_cuda_graphs_train_as_the_trainer_does(make_task, make_trainer, tmp_path, words, precision):
    """The last of 15 batches is smaller than the others."""

    def fit(groups):
        data = data_module(data="synthetic", synthetic_images=710, batch_size=32, **words)
        kind = RecordedTask if groups else EmotionTask
        own = {key: value for key, value in words.items() if key in OptimizerSettings.model_fields}
        task = make_task(kind, blocks=[1, 1], image_size=48, lr=2**-13, **own)
        options = {"max_epochs": 6, "log_every_n_steps": groups or 1, "precision": precision}
        trainer = make_trainer(tmp_path, accelerator="cuda", devices=1, **options)
        if groups:
            group_steps(data, trainer)
        trainer.fit(task, data)
        return trainer

    plain, recorded = fit(0), fit(5)
    assert recorded.global_step == plain.global_step
    assert float(recorded.optimizers[0].param_groups[0]["lr"]) == pytest.approx(
        float(plain.optimizers[0].param_groups[0]["lr"]), rel=1e-5, abs=1e-9
    )
    for name in ("train/loss", "val/loss"):
        torch.testing.assert_close(recorded.callback_metrics[name], plain.callback_metrics[name], rtol=0.05, atol=0)
