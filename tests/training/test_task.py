import copy
import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import make_augmentation, make_mix
from lightning import Callback
from omegaconf import OmegaConf
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from emotion.data.augment import RandomAffine
from emotion.data.classes import CLASSES
from emotion.data.loader import BatchLoader
from emotion.data.storage import Resident
from emotion.errors import UserError
from emotion.models.network import Network
from emotion.models.preprocess import Preprocess
from emotion.training import task as task_module
from emotion.training.meter import MERGE_EVERY, EpochMeter
from emotion.training.task import EmotionTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
WEIGHTS = [0.5, 4.0, 0.1, 1.0, 2.0, 0.7, 3.0]
SHARES = [0.14, 0.01, 0.15, 0.25, 0.17, 0.11, 0.17]
RESNET = {"family": "resnet", "blocks": [1, 1], "width": 4, "stem_stride": 1}
"""A network without dropout, so that its training can be repeated by hand."""
SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.8, "weight_decay": 0.01}


class Recorder(Callback):
    """Keeps the logits, labels and losses of the training steps, and the learning rate after each."""

    def __init__(self, network):
        self.logits, self.labels, self.losses, self.rates = [], [], [], []
        network.register_forward_hook(lambda *arguments: self.logits.append(arguments[-1].detach()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.labels.append(batch.labels)
        self.losses.append(outputs["loss"])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def read_log(folder):
    with (folder / "csv" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(folder, key):
    return [float(row[key]) for row in read_log(folder) if row[key]]


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_loss_is_divided_by_the_number_of_images_as_in_keras(
    make_task, make_trainer, make_loader, tmp_path, class_weights
):
    task = make_task(class_weights=class_weights)
    recorder = Recorder(task.network)
    # 19 images in batches of 8: the last batch is smaller.
    make_trainer(tmp_path, callbacks=[recorder]).fit(task, make_loader(19))
    weights = torch.tensor(class_weights or [1.0] * 7)
    assert [len(labels) for labels in recorder.labels] == [8, 8, 3]
    images = []
    for logits, labels, loss in zip(recorder.logits, recorder.labels, recorder.losses, strict=True):
        each = weights[labels] * F.cross_entropy(logits, labels, reduction="none")
        assert float(loss) == pytest.approx(float(each.sum()) / len(labels), rel=1e-5)
        if class_weights:
            assert float(loss) != pytest.approx(float(F.cross_entropy(logits, labels, weight=weights)), rel=1e-2)
        images.append(each)
    assert logged(tmp_path, "train/loss") == pytest.approx([float(torch.cat(images).mean())], rel=1e-5)
    right = torch.cat(recorder.logits).argmax(1) == torch.cat(recorder.labels)
    assert logged(tmp_path, "train/acc") == pytest.approx([float(right.float().mean())])


@pytest.mark.parametrize("mix", [None, make_mix(mixup=0.4)], ids=["labels", "mixed"])
def test_training_loss_has_the_changes_of_the_settings(make_task, make_trainer, make_loader, tmp_path, mix):
    changes = {"label_smoothing": 0.2, "focal_gamma": 2.0, "logit_adjustment": 0.5}
    task = make_task(class_weights=WEIGHTS, class_shares=SHARES, **changes)
    recorder = Recorder(task.network)
    make_trainer(tmp_path, callbacks=[recorder]).fit(task, make_loader(16, mix=mix))
    expected = []
    for logits, labels in zip(recorder.logits, recorder.labels, strict=True):
        assert labels.is_floating_point() == bool(mix)
        adjusted = logits + 0.5 * torch.tensor(SHARES).log()
        shares = labels if mix else F.one_hot(labels, 7)
        weighted = torch.tensor(WEIGHTS) * shares
        targets = 0.8 * weighted + 0.2 / 7 * weighted.sum(1, keepdim=True)
        each = -(targets * adjusted.log_softmax(1)).sum(1)
        expected.append(float((each * (1 - (shares * adjusted.softmax(1)).sum(1)) ** 2).mean()))
    assert [float(loss) for loss in recorder.losses] == pytest.approx(expected, rel=1e-5)
    assert logged(tmp_path, "train/loss") == pytest.approx([sum(expected) / 2], rel=1e-5)
    classes = [labels.argmax(1) if mix else labels for labels in recorder.labels]
    right = torch.cat(recorder.logits).argmax(1) == torch.cat(classes)
    assert logged(tmp_path, "train/acc") == pytest.approx([float(right.float().mean())])


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.2, "focal_gamma": 2.0, "logit_adjustment": 1.0}])
def test_validation_counts_every_image_once_without_weights(make_task, make_trainer, make_loader, tmp_path, changes):
    task = make_task(class_weights=WEIGHTS, class_shares=SHARES, **changes)
    val = make_loader(50, seed=1)
    trainer = make_trainer(tmp_path)
    trainer.fit(task, make_loader(), val)
    with torch.no_grad():
        logits = task.eval()(next(val.inputs.gather([val.rows])))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    predicted = logits.argmax(1)
    assert metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, val.labels)), rel=1e-5)
    assert metrics["val/acc"] == pytest.approx(float((predicted == val.labels).float().mean()))
    assert metrics["val/f1_macro"] == pytest.approx(f1_score(val.labels, predicted, average="macro", zero_division=0))
    recalls = recall_score(val.labels, predicted, labels=range(7), average=None, zero_division=0)
    assert [metrics[f"val_recall/{name}"] for name in CLASSES] == pytest.approx(recalls.tolist())
    assert task.val_matrix.sum() == 50
    assert logged(tmp_path, "val/loss") == pytest.approx([metrics["val/loss"]])


def test_epochs_are_shuffled_differently(make_task, make_trainer, make_loader, tmp_path):
    task, loader = make_task(), make_loader(24, shuffle=True)
    recorder = Recorder(task.network)
    make_trainer(tmp_path, max_epochs=2, callbacks=[recorder]).fit(task, loader)
    assert loader.epoch == 1
    first, second = torch.cat(recorder.labels[:3]), torch.cat(recorder.labels[3:])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize(
    ("options", "batches"),
    [({"log_every_n_steps": 2}, [1, 3, 5]), ({"log_every_n_steps": 2, "accumulate_grad_batches": 3}, [5, 11])],
    ids=["plain", "accumulated"],
)
def test_step_loss_is_in_the_log(make_task, make_trainer, make_loader, tmp_path, options, batches):
    task = make_task()
    recorder = Recorder(task.network)
    size = 8 * (batches[-1] + 1)
    make_trainer(tmp_path, callbacks=[recorder], **options).fit(task, make_loader(size))
    expected = [float(F.cross_entropy(recorder.logits[batch], recorder.labels[batch])) for batch in batches]
    assert logged(tmp_path, "train/loss_step") == pytest.approx(expected)
    steps = [int(row["step"]) for row in read_log(tmp_path) if row["train/loss_step"]]
    assert steps == [1, 3, 5][: len(batches)]


def test_logging_of_steps_can_be_switched_off(make_task, make_trainer, make_loader, tmp_path):
    make_trainer(tmp_path, log_every_n_steps=0).fit(make_task(), make_loader())
    assert not any(row.get("train/loss_step") for row in read_log(tmp_path))
    assert logged(tmp_path, "train/loss")


class TestHparams:
    def test_are_plain_and_rebuild_the_same_network(self, make_task):
        task = make_task(blocks=[2, 1], class_weights=WEIGHTS, schedule="plateau")
        values = json.loads(json.dumps(dict(task.hparams)))
        assert values == dict(task.hparams)
        again = EmotionTask.of(values)
        again.load_state_dict(task.state_dict())
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(again.eval()(images), task.eval()(images))
        assert torch.equal(again.loss.weights, torch.tensor(WEIGHTS))

    def test_checkpoint_contains_only_tensors_and_plain_values(self, make_task, make_trainer, make_loader, tmp_path):
        task = make_task(blocks=[2, 1], class_weights=WEIGHTS, schedule="plateau")
        trainer = make_trainer(tmp_path)
        trainer.fit(task, make_loader(), make_loader(seed=1))
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        content = torch.load(tmp_path / "task.ckpt", weights_only=True)
        assert type(content["hyper_parameters"]) is dict
        assert type(content["hyper_parameters"]["blocks"]) is list
        again = EmotionTask.of(content["hyper_parameters"])
        again.load_state_dict(content["state_dict"])
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(again.eval()(images), task.eval()(images))

    def test_state_contains_the_network_once_and_no_weights_of_the_loss(self, make_task):
        names = make_task(class_weights=WEIGHTS).state_dict()
        assert {name.split(".")[0] for name in names} == {"network"}

    def test_a_container_of_other_values_is_refused(self, make_task):
        """A node of OmegaConf would not be a plain value in the checkpoint."""
        with pytest.raises(UserError, match="a list of whole numbers"):
            make_task(blocks=OmegaConf.create([1]))


class TestOptimizer:
    def test_has_the_settings_of_the_task(self, make_task, make_trainer, make_loader, tmp_path):
        trainer = make_trainer(tmp_path)
        trainer.fit(make_task(**RESNET, **SGD, layer_decay=0.5), make_loader())
        (optimizer,) = trainer.optimizers
        assert type(optimizer) is torch.optim.SGD
        groups = [(group["lr"], group["momentum"], group["weight_decay"]) for group in optimizer.param_groups]
        rates = [rate for rate in (0.05, 0.025, 0.0125, 0.00625) for _ in range(2)]
        assert groups == [(rate, 0.8, decay) for rate, decay in zip(rates, [0.01, 0.0] * 4, strict=True)]

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_cosine_goes_to_zero_step_by_step(self, make_task, make_trainer, make_loader, tmp_path, accumulate):
        task = make_task(schedule="cosine", lr=0.1)
        recorder = Recorder(task.network)
        trainer = make_trainer(tmp_path, max_epochs=3, callbacks=[recorder], accumulate_grad_batches=accumulate)
        trainer.fit(task, make_loader(32))
        steps = 3 * 4 // accumulate
        assert trainer.global_step == steps
        expected = [0.05 * (1 + math.cos(math.pi * (step + 1) / steps)) for step in range(steps)]
        assert recorder.rates[accumulate - 1 :: accumulate] == pytest.approx(expected)
        assert recorder.rates[-1] == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"max_epochs": 9}, {"max_epochs": -1}])
    def test_warm_up_takes_its_epochs_with_max_epochs_and_with_max_steps(
        self, make_task, make_trainer, make_loader, tmp_path, options
    ):
        accumulate = options.get("accumulate_grad_batches", 1)
        per_epoch = 4 // accumulate
        steps, warm_up = 3 * per_epoch, round(1.5 * per_epoch)
        end = {"max_steps": steps} if "max_epochs" in options else {"max_epochs": 3}
        task = make_task(schedule="cosine", warmup_epochs=1.5, lr=0.1)
        recorder = Recorder(task.network)
        make_trainer(tmp_path, callbacks=[recorder], **end | options).fit(task, make_loader(32))
        rise = [0.1 * step / warm_up for step in range(2, warm_up + 1)]
        fall = [0.05 * (1 + math.cos(math.pi * step / (steps - warm_up))) for step in range(steps - warm_up + 1)]
        assert recorder.rates[accumulate - 1 :: accumulate] == pytest.approx([*rise, *fall])


class Steps(Callback):
    """Records the batches, and the state of the network after each batch."""

    def __init__(self):
        self.batches, self.states = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


def sam_by_hand(network, batches, rho, optimizer):
    """Two passes over each batch: up to where the loss is highest, and from there the gradient for the step."""
    losses, logits = [], []
    for images, labels, _ in batches:
        logits.append(network(images))
        loss = F.cross_entropy(logits[-1], labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        highest = copy.deepcopy(network)
        with torch.no_grad():
            for parameter, gradient in zip(highest.parameters(), gradients, strict=True):
                parameter += rho * gradient / norm
        F.cross_entropy(highest(images), labels).backward()
        for parameter, other in zip(network.parameters(), highest.parameters(), strict=True):
            parameter.grad = other.grad
        optimizer.step()
        optimizer.zero_grad()
    return losses, torch.cat(logits)


class TestSharpnessAware:
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_steps_are_those_of_two_passes_by_hand(self, make_task, make_trainer, make_loader, tmp_path, optimizer):
        task = make_task(**RESNET, **SGD | {"optimizer": optimizer}, sam_rho=0.1)
        network, steps = copy.deepcopy(task.network).train(), Steps()
        trainer = make_trainer(tmp_path, callbacks=[steps])
        trainer.fit(task, make_loader(21))
        decaying = {"params": [value for value in network.parameters() if value.ndim > 1], "weight_decay": 0.01}
        rest = {"params": [value for value in network.parameters() if value.ndim == 1], "weight_decay": 0.0}
        kinds = {
            "sgd": lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.8, nesterov=True),
            "adam": lambda groups: torch.optim.Adam(groups, 0.05, eps=1e-7),
        }
        losses, logits = sam_by_hand(network, steps.batches, 0.1, kinds[optimizer]([decaying, rest]))
        for name, value in network.state_dict().items():
            torch.testing.assert_close(task.network.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert logged(tmp_path, "train/loss_step") == pytest.approx(losses, rel=1e-4)
        mean = sum(size * loss for size, loss in zip([8, 8, 5], losses, strict=True)) / 21
        assert logged(tmp_path, "train/loss") == pytest.approx([mean], rel=1e-4)
        right = logits.argmax(1) == torch.cat([batch.labels for batch in steps.batches])
        assert logged(tmp_path, "train/acc") == pytest.approx([float(right.float().mean())])
        assert trainer.global_step == 3


def average_by_hand(first, states, decay, steps_per_epoch=1000):
    average = {name: value.clone() for name, value in first.items()}
    for done, state in enumerate(states):
        if done and done % steps_per_epoch == 0 and done < 1 / (1 - decay):
            average = {name: value.clone() for name, value in states[done - 1].items()}
        for name, value in state.items():
            average[name] = decay * average[name] + (1 - decay) * value if value.is_floating_point() else value
    return average


def assert_same_state(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **tolerance, msg=name)


class TestAverage:
    def start(self, task):
        return {name: value.clone() for name, value in task.network.state_dict().items()}

    @pytest.mark.parametrize("changes", [{}, {"sam_rho": 0.1}], ids=["plain", "sharpness-aware"])
    def test_is_the_exponential_average_of_weights_and_statistics(
        self, make_task, make_trainer, make_loader, tmp_path, changes
    ):
        task, steps = make_task(**RESNET, **SGD, **changes, ema_decay=0.8), Steps()
        first = self.start(task)
        make_trainer(tmp_path, max_epochs=3, callbacks=[steps]).fit(task, make_loader(24, shuffle=True))
        assert len(steps.states) == 9
        expected = average_by_hand(first, steps.states, 0.8, steps_per_epoch=3)
        assert_same_state(task.average.module.state_dict(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(expected["head.3.weight"], task.network.head[3].weight, atol=1e-4)

    def test_moves_with_the_steps_not_the_batches(self, make_task, make_trainer, make_loader, tmp_path):
        task, steps = make_task(**RESNET, **SGD, ema_decay=0.8), Steps()
        first = self.start(task)
        make_trainer(tmp_path, callbacks=[steps], accumulate_grad_batches=3).fit(task, make_loader(48))
        expected = average_by_hand(first, steps.states[2::3], 0.8)
        assert_same_state(task.average.module.state_dict(), expected, rtol=1e-5, atol=1e-6)

    def test_restarts_with_each_epoch_of_its_first_steps(self, make_task, make_trainer, make_loader, tmp_path):
        """Three steps an epoch, of two batches each: the five steps that the decay asks for end in the second epoch."""
        task, steps = make_task(**RESNET, **SGD, ema_decay=0.8), Steps()
        first = self.start(task)
        trainer = make_trainer(tmp_path, max_epochs=3, callbacks=[steps], accumulate_grad_batches=2)
        trainer.fit(task, make_loader(48))
        expected = average_by_hand(first, steps.states[1::2], 0.8, steps_per_epoch=3)
        assert_same_state(task.average.module.state_dict(), expected, rtol=1e-5, atol=1e-6)

    def test_restarts_as_long_with_a_limit_of_batches(self, make_task, make_trainer, make_loader, tmp_path):
        task, steps = make_task(**RESNET, **SGD, ema_decay=0.8), Steps()
        first = self.start(task)
        trainer = make_trainer(tmp_path, max_epochs=4, callbacks=[steps], limit_train_batches=2)
        trainer.fit(task, make_loader(48))
        expected = average_by_hand(first, steps.states, 0.8, steps_per_epoch=2)
        assert_same_state(task.average.module.state_dict(), expected, rtol=1e-5, atol=1e-6)

    def test_is_used_by_validation_and_inference(self, make_task, make_trainer, make_loader, tmp_path):
        task, val = make_task(lr=0.05, ema_decay=0.8), make_loader(20, seed=1)
        trainer = make_trainer(tmp_path)
        trainer.fit(task, make_loader(), val)
        assert task.inference_network is task.average.module
        images = next(val.inputs.gather([val.rows]))
        with torch.no_grad():
            averaged, last = task.average.module.eval()(images), task.network.eval()(images)
            assert torch.equal(task(images), averaged)
        losses = [float(F.cross_entropy(logits, val.labels)) for logits in (averaged, last)]
        assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(losses[0], rel=1e-5)
        assert losses[0] != pytest.approx(losses[1], rel=1e-2)

    def test_is_off_by_default(self, make_task):
        task = make_task()
        assert task.average is None
        assert task.inference_network is task.network
        task.restart_average()
        assert {name.split(".")[0] for name in task.state_dict()} == {"network"}

    def test_is_in_the_state_and_does_not_train(self, make_task, make_trainer, make_loader, tmp_path):
        task = make_task(ema_decay=0.9)
        assert {name.split(".")[0] for name in task.state_dict()} == {"network", "average"}
        assert len(task.state_dict()) == 2 * len(task.network.state_dict())
        assert not any(parameter.requires_grad for parameter in task.average.parameters())
        trainer = make_trainer(tmp_path)
        trainer.fit(task, make_loader())
        held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in task.network.parameters()}

    def test_does_not_change_the_training(self, make_task, make_trainer, make_loader, tmp_path):
        states = []
        for decay in (0.0, 0.9):
            task = make_task(ema_decay=decay)
            make_trainer(tmp_path / str(decay), max_epochs=2).fit(task, make_loader(), make_loader(seed=1))
            # Not the statistics: each validation estimates those of the network that it uses.
            states.append(dict(task.network.named_parameters()))
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    def test_restarts_with_loaded_weights(self, make_task):
        task = make_task(ema_decay=0.9)
        with torch.no_grad():
            for value in task.network.state_dict().values():
                value.fill_(3)
        task.restart_average()
        assert_same_state(task.average.module.state_dict(), task.network.state_dict(), rtol=0, atol=0)
        with torch.no_grad():
            task.network.head[1].weight.fill_(4)
        assert (task.average.module.head[1].weight == 3).all(), "the average shares its memory with the network"


def keras_plateau(losses, rate, factor, patience):
    """The learning rate after each epoch, by the rules of Keras's ReduceLROnPlateau (min_delta 1e-4, no cooldown)."""
    best, wait, rates = math.inf, 0, []
    for loss in losses:
        if loss < best - 1e-4:
            best, wait = loss, 0
        else:
            wait += 1
            if wait >= patience:
                rate, wait = rate * factor, 0
        rates.append(rate)
    return rates


class Scripted(EmotionTask):
    """Reports given validation losses."""

    def validation_step(self, batch, batch_idx):
        loss = torch.tensor(self.losses[self.current_epoch])
        self.val_meter.update(loss, torch.zeros(len(batch.labels), len(CLASSES)), batch.labels)


PLATEAU = [2.0, 1.5, 1.6, 1.5, 1.7, 1.5, 1.5, 1.4, 1.5, 1.5, 1.5, 1.5]


class TestPlateau:
    def fit(self, make_task, make_trainer, make_loader, folder, losses, patience, **options):
        values = dict(make_task(schedule="plateau", lr=0.08, lr_factor=0.5, lr_patience=patience).hparams)
        task = Scripted.of(values)
        task.losses = losses
        rates = []

        class Rates(Callback):
            def on_train_epoch_start(self, trainer, pl_module):
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        trainer = make_trainer(folder, max_epochs=len(losses), callbacks=[Rates()], **options)
        trainer.fit(task, make_loader(4), make_loader(4, seed=1))
        return [*rates[1:], trainer.optimizers[0].param_groups[0]["lr"]]

    @pytest.mark.parametrize("patience", [1, 2, 3, 4])
    def test_acts_on_the_last_bad_epoch_as_keras_does(self, make_task, make_trainer, make_loader, tmp_path, patience):
        rates = self.fit(make_task, make_trainer, make_loader, tmp_path, PLATEAU, patience)
        assert rates == pytest.approx(keras_plateau(PLATEAU, 0.08, 0.5, patience))
        assert rates[-1] < rates[0]

    def test_small_improvements_count_as_in_keras(self, make_task, make_trainer, make_loader, tmp_path):
        losses = [2.0, 1.99985, 1.9997, 1.99955]
        rates = self.fit(make_task, make_trainer, make_loader, tmp_path, losses, 1)
        assert rates == pytest.approx(keras_plateau(losses, 0.08, 0.5, 1))

    @pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val/loss")
    def test_waits_for_epochs_with_validation(self, make_task, make_trainer, make_loader, tmp_path):
        losses = [9.0, 2.0, 9.0, 2.0, 9.0, 2.0]
        rates = self.fit(make_task, make_trainer, make_loader, tmp_path, losses, 2, check_val_every_n_epoch=2)
        assert rates == [0.08] * 5 + [0.04]


class Careless(Callback):
    """Puts everything in training mode, as callbacks and Lightning itself may."""

    def on_train_start(self, trainer, pl_module):
        pl_module.train()

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.train()


class Modes(Callback):
    """Keeps the modes that some modules have in training steps."""

    def __init__(self, **modules):
        self.seen = {name: set() for name in modules}
        self.training = False
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda module, _, name=name: self.note(name, module))

    def note(self, name, module):
        if self.training:
            self.seen[name].add(module.training)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.training = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.training = False


class TestFreezing:
    @pytest.fixture
    def task(self, make_task, monkeypatch):
        """A task whose backbone has a convolution, a batch normalisation and a dropout on either side of the cut."""

        def build_network(*_):
            backbone = nn.Sequential(
                *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)),
                *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)),
            )
            head = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
            network = Network(Preprocess(1, 8, "unit"), backbone, head, list(backbone))
            network.unfreeze(1)
            return network

        monkeypatch.setattr(task_module, "build_network", build_network)
        return make_task(lr=0.01, ema_decay=0.8)

    @pytest.mark.parametrize("callbacks", [[], [Careless()]], ids=["alone", "with a careless callback"])
    def test_frozen_statistics_and_dropout_are_off_and_the_others_on(
        self, task, make_trainer, make_loader, tmp_path, callbacks
    ):
        _, early_norm, early_drop, _, norm, drop = backbone = task.network.backbone
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        modes = Modes(early_norm=early_norm, early_drop=early_drop, norm=norm, drop=drop)
        trainer = make_trainer(tmp_path, max_epochs=3, callbacks=[*callbacks, modes])
        trainer.fit(task, make_loader(), make_loader(seed=1))
        assert modes.seen == {"early_norm": {False}, "early_drop": {False}, "norm": {True}, "drop": {True}}
        same = {name for name, value in backbone.state_dict().items() if torch.equal(value, before[name])}
        assert same == {name for name in before if name.startswith(("0.", "1."))}

    def test_only_trainable_parameters_are_in_the_optimizer(self, task, make_trainer, make_loader, tmp_path):
        trainer = make_trainer(tmp_path)
        trainer.fit(task, make_loader())
        held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
        names = {name for name, parameter in task.network.named_parameters() if id(parameter) in held}
        assert names == {
            "backbone.3.weight", "backbone.3.bias", "backbone.4.weight", "backbone.4.bias",
            "head.1.weight", "head.1.bias",
        }  # fmt: skip
        assert len(held) == 6
        assert all(parameter.grad is None for parameter in task.parameters() if id(parameter) not in held)

    def test_frozen_blocks_of_a_resnet_stay_bit_by_bit(self, make_task, make_trainer, make_loader, tmp_path):
        task = make_task(family="torchvision", backbone="resnet18", blocks=None, unfreeze=2, image_size=32)
        backbone = task.network.backbone
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        trainer = make_trainer(tmp_path, max_epochs=2)
        trainer.fit(task, make_loader(16), make_loader(16, seed=1))
        moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
        last = [name for name in before if name.startswith("layer4.1.")]
        assert moved == set(last)

    def test_average_keeps_frozen_values_bit_by_bit(self, task, make_trainer, make_loader, tmp_path):
        first = {name: value.clone() for name, value in task.network.state_dict().items()}
        make_trainer(tmp_path, max_epochs=2).fit(task, make_loader())
        average = task.average.module.state_dict()
        same = {name for name, value in average.items() if torch.equal(value, first[name])}
        assert same == {name for name in first if name.startswith(("backbone.0.", "backbone.1."))}

    def test_training_on_features_equals_training_on_images(self, task, make_trainer, make_loader, tmp_path):
        twin = copy.deepcopy(task)
        steps, trainers = Steps(), [make_trainer(tmp_path / name, max_epochs=3) for name in ("images", "features")]
        torch.manual_seed(1)
        trainers[0].fit(twin, make_loader(shuffle=True), make_loader(seed=1))
        frozen = task.train_on_features().eval()

        def features(loader, **options):
            with torch.no_grad():
                values = frozen(next(loader.inputs.gather([loader.rows])))
            return BatchLoader(Resident(values.numpy(), values.device), loader.labels, loader.rows, 8, **options)

        first = {name: value.clone() for name, value in task.network.state_dict().items()}
        trainers[1].callbacks.append(steps)
        torch.manual_seed(1)
        trainers[1].fit(task, features(make_loader(), shuffle=True), features(make_loader(seed=1)))
        assert_same_state(task.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)
        expected = average_by_hand(first, steps.states, 0.8, steps_per_epoch=3)
        average = task.average.module.state_dict()
        estimated = {"backbone.4.running_mean", "backbone.4.running_var", "backbone.4.num_batches_tracked"}
        kept = [{name: state[name] for name in average.keys() - estimated} for state in (average, expected)]
        assert_same_state(*kept, rtol=1e-5, atol=1e-6)
        losses = [float(trainer.callback_metrics["val/loss"]) for trainer in trainers]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_features_of_a_task_that_trains_as_a_whole_are_refused(self, make_task):
        with pytest.raises(UserError, match="feature_views: this network has no frozen part"):
            make_task().train_on_features()


class Waits(TorchDispatchMode):
    """Counts operations that would make the CPU wait for a GPU: reading a value, or copying to the CPU."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Without the focal loss, since F.one_hot reads the values of labels on the CPU (only there).
        {"label_smoothing": 0.1, "logit_adjustment": 1.0, "class_shares": SHARES, **SGD},
        {"ema_decay": 0.9, "optimizer": "adamw"},
        {"sam_rho": 0.1},
    ],
    ids=["plain", "loss", "average", "sharpness-aware"],
)
def test_steps_do_not_wait_for_the_device(make_task, make_trainer, make_loader, tmp_path, changes):
    augmentation = make_augmentation(RandomAffine(), flip=0.5, brightness=0.2, contrast=0.2, erase=0.5)

    def waits(batches):
        task = make_task(class_weights=WEIGHTS, **changes)
        with Waits() as mode:
            trainer = make_trainer(tmp_path / str(batches), log_every_n_steps=10**6, max_epochs=1)
            train = make_loader(8 * batches, augmentation=augmentation, shuffle=True)
            trainer.fit(task, train, make_loader(8 * batches))
        return mode.calls

    assert waits(30) == waits(3) > 0


class TestEpochMeter:
    def test_weights_batches_by_their_images_and_is_cleared(self):
        meter = EpochMeter(CLASSES)
        assert meter.empty
        for _ in range(2):
            logits = torch.eye(7)[[0, 1, 2, 0]]
            meter.update(torch.tensor(1.0), logits[:3], torch.tensor([0, 1, 2]))
            meter.update(torch.tensor(5.0), logits[3:], torch.tensor([4]))
            assert not meter.empty
            metrics, matrix = meter.finish()
            assert metrics["loss"] == pytest.approx(2.0)
            assert metrics["acc"] == pytest.approx(0.75)
            assert matrix.sum() == 4
            assert matrix[4, 0] == 1
            assert meter.empty

    @pytest.mark.parametrize("batches", [1, MERGE_EVERY - 1, MERGE_EVERY, MERGE_EVERY + 1, 3 * MERGE_EVERY + 5])
    def test_counts_any_number_of_batches(self, batches):
        generator, meter = torch.Generator().manual_seed(batches), EpochMeter(CLASSES)
        logits, labels, losses = [], [], []
        for number in range(batches):
            size = 1 + number % 3
            logits.append(torch.randn(size, 7, generator=generator))
            labels.append(torch.randint(7, (size,), generator=generator))
            losses.append(F.cross_entropy(logits[-1], labels[-1]))
            meter.update(losses[-1], logits[-1], labels[-1])
        metrics, matrix = meter.finish()
        every = torch.cat(logits), torch.cat(labels)
        assert metrics["loss"] == pytest.approx(float(F.cross_entropy(*every)), rel=1e-5)
        assert np.array_equal(matrix, confusion_matrix(every[1], every[0].argmax(1), labels=range(7)))
        assert meter.empty

    def test_of_mixed_images_the_greatest_share_is_the_label(self):
        meter = EpochMeter(CLASSES)
        labels = torch.zeros(3, 7)
        labels[0, [1, 2]] = torch.tensor([0.6, 0.4])
        labels[1, [1, 2]] = torch.tensor([0.3, 0.7])
        labels[2, 5] = 1.0
        meter.update(torch.tensor(1.0), torch.eye(7)[[1, 1, 5]], labels)
        meter.update(torch.tensor(1.0), torch.eye(7)[[3]], torch.tensor([3]))
        metrics, matrix = meter.finish()
        assert metrics["acc"] == pytest.approx(3 / 4)
        found = {cell: int(matrix[cell]) for cell in zip(*matrix.nonzero(), strict=True)}
        assert found == {(1, 1): 1, (2, 1): 1, (5, 5): 1, (3, 3): 1}

    def test_keeps_no_graph(self):
        meter = EpochMeter(CLASSES)
        logits = torch.zeros(2, 7, requires_grad=True)
        meter.update(logits.sum(), logits, torch.tensor([0, 1]))
        assert not meter.empty
        kept = [*meter._batches, *meter._joined]
        assert kept
        assert not any(value.requires_grad for batch in kept for value in batch)

    def test_loss_of_a_diverged_epoch_is_infinite(self):
        meter = EpochMeter(CLASSES)
        losses = torch.tensor([0.5, math.nan])
        for loss in losses:
            meter.update(loss, torch.zeros(2, 7), torch.tensor([0, 1]))
        assert meter.finish()[0]["loss"] == math.inf
        assert losses[1].isnan(), "the meter wrote to the loss that is trained on"


@pytest.mark.parametrize(
    ("precision", "clip", "fused"),
    [
        ("32-true", None, True),
        ("32-true", 1.0, True),
        ("bf16-mixed", None, True),
        ("bf16-mixed", 1.0, False),
        ("16-mixed", None, False),
    ],
)
def test_fused_optimizers_are_for_gradients_that_lightning_leaves_alone(make_task, precision, clip, fused):
    task = make_task()
    task._trainer = SimpleNamespace(precision=precision, gradient_clip_val=clip)
    assert task._fused == fused
