import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import data_module
from lightning.pytorch.callbacks import ModelCheckpoint
from peak import Peak
from traps import Trap

from emotion.data.classes import CLASSES
from emotion.declarations import NEW
from emotion.errors import UserError
from emotion.models.weights import state_shapes
from emotion.settings import fields, marked
from emotion.training.checkpoint import ThrottledCheckpointIO, data_for, load_checkpoint
from emotion.training.task import EmotionTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
]
DATA = {
    "data": "synthetic",
    "synthetic_images": 140,
    "split": "report",
    "val_fraction": 0.3,
    "balance": "class_weights",
    "batch_size": 32,
    "seed": 4,
}


FIRST_VERSION = {
    "hyper_parameters": {
        *("model", "family", "backbone", "blocks", "unfreeze", "image_size", "normalize", "weights", "class_weights"),
        *("lr", "schedule", "lr_factor", "lr_patience"),
    },
    "datamodule_hyper_parameters": {
        *("data", "data_dir", "split", "val_fraction", "group_duplicates", "balance", "augment", "batch_size", "seed"),
        *("on_bad_image", "pack_size", "channels", "synthetic_images"),
    },
}
"""The arguments in the first checkpoints."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, own_cache, make_task, make_trainer):
    """A task after two epochs, and its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    data = data_module(**DATA)
    task = make_task(blocks=[2, 1], image_size=16, class_weights=data.class_weights, schedule="plateau")
    saver = ModelCheckpoint(
        folder / "saved", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    make_trainer(folder, max_epochs=2, enable_checkpointing=True, callbacks=[saver]).fit(task, data)
    return task.eval(), folder / "saved" / "last.ckpt"


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, own_cache, make_task, make_trainer):
    """A task with an average of its weights after an epoch, and its checkpoint."""
    folder = tmp_path_factory.mktemp("averaged")
    task = make_task(blocks=[1, 1], image_size=16, ema_decay=0.8, lr=0.01)
    trainer = make_trainer(folder)
    trainer.fit(task, data_module(**DATA | {"balance": "none"}))
    trainer.save_checkpoint(folder / "last.ckpt")
    return task.eval(), folder / "last.ckpt"


@pytest.fixture
def change(trained, tmp_path):
    """Writes a copy of the checkpoint with something changed."""

    def write(action):
        content = torch.load(trained[1], weights_only=True)
        action(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


def refused(path, *parts):
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(f"ckpt={path}")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_network_gives_the_same_outputs(trained):
    task, path = trained
    checkpoint = load_checkpoint(path)
    images = torch.randint(256, (5, 1, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(checkpoint.task(images), task(images))
    assert not any(module.training for module in checkpoint.task.modules())
    assert dict(checkpoint.task.hparams) == dict(task.hparams)


class TestAverage:
    def test_is_read_and_used(self, averaged):
        task, path = averaged
        again = load_checkpoint(path).task
        images = torch.rand(5, 1, 48, 48)
        with torch.no_grad():
            expected = task.average.module(images)
            assert torch.equal(again(images), expected)
            assert torch.equal(again.inference_network(images), expected)
            assert torch.equal(again.network(images), task.network(images))
            assert not torch.allclose(again.network(images), expected, atol=1e-3)
        assert not any(module.training for module in again.modules())

    @pytest.mark.parametrize("part", ["average", "network"])
    def test_a_checkpoint_without_it_is_refused(self, averaged, tmp_path, part):
        content = torch.load(averaged[1], weights_only=True)
        content["state_dict"] = {
            name: value for name, value in content["state_dict"].items() if not name.startswith(part)
        }
        torch.save(content, tmp_path / "part.ckpt")
        refused(tmp_path / "part.ckpt", "not a checkpoint of this project", f"it lacks {part}.")


@pytest.mark.parametrize(
    "kept",
    [
        FIRST_VERSION,
        {"hyper_parameters": {*fields(), "class_weights", "class_shares"} - {*marked(NEW)}}
        | {"datamodule_hyper_parameters": {*fields()} - {*marked(NEW)}},
    ],
    ids=["first version", "seven classes only"],
)
def test_older_checkpoints_are_read(trained, change, kept):
    """Newer settings have defaults that change nothing."""

    def age(content):
        for part, first in kept.items():
            content[part] = {key: value for key, value in content[part].items() if key in first}
        del content["EmotionDataModule"]["classes"]

    task, checkpoint = trained[0], load_checkpoint(change(age))
    assert checkpoint.task.hparams == task.hparams
    assert checkpoint.task.classes == checkpoint.data_module().classes == CLASSES
    images = torch.rand(5, 1, 48, 48)
    with torch.no_grad():
        assert torch.equal(checkpoint.task(images), task(images))
    labels = torch.arange(5)
    logits = torch.randn(5, 7)
    assert torch.equal(checkpoint.task.loss(logits, labels), task.loss(logits, labels))
    data, original = checkpoint.data_module(), data_module(**DATA)
    assert dict(data.hparams) == dict(original.hparams)
    for stage in ("train", "val", "test"):
        assert np.array_equal(getattr(data.rows, stage), getattr(original.rows, stage))


def test_epoch_counts_from_one(trained):
    assert load_checkpoint(trained[1]).epoch == 2


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(trained, tmp_path):
    with pytest.raises(UserError, match=f"^ckpt={tmp_path}: a folder without checkpoints/best.ckpt$"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained[1], tmp_path / "checkpoints/best.ckpt")
    assert load_checkpoint(tmp_path).epoch == 2


def test_data_is_rebuilt_with_its_split(trained):
    data, original = load_checkpoint(trained[1]).data_module(), data_module(**DATA)
    assert dict(data.hparams) == dict(original.hparams)
    for stage in ("train", "val", "test"):
        assert np.array_equal(getattr(data.rows, stage), getattr(original.rows, stage))


def test_settings_of_the_data_can_be_replaced(trained):
    checkpoint = load_checkpoint(trained[1])
    data = checkpoint.data_module(split="test_only", batch_size=7)
    assert data.hparams == checkpoint.data | {"split": "test_only", "batch_size": 7}
    assert len(data.rows.test) == 140


@pytest.mark.parametrize(
    ("stored", "changes", "kept"),
    [
        ({"data": "folder"}, {}, ("/photos", ["/more"])),
        ({"data": "folder"}, {"split": "test_only"}, ("/photos", ["/more"])),
        ({"data": "folder"}, {"data_dir": "/others"}, ("/others", [])),
        ({"data": "folder"}, {"data": "table"}, ("/photos", [])),
        ({"data": "folder"}, {"data": "fer2013"}, (None, [])),
        ({"data": "fer2013"}, {"data": "fer2013_csv"}, ("/photos", [])),
        ({"data": "fer2013"}, {"data": "folder", "data_dir": "/others"}, ("/others", [])),
    ],
)
def test_folders_of_the_training_are_not_those_of_other_data(stored, changes, kept):
    stored = stored | {"data_dir": "/photos", "extra_data": ["/more"], "split": "random"}
    settings = data_for(CLASSES, stored, changes).settings
    assert (settings.data_dir, list(settings.extra_data or ())) == kept


def test_pretrained_weights_are_not_downloaded_again(make_task, make_trainer, tmp_path, monkeypatch):
    from torchvision.models import _api

    def offline(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    task = make_task(
        family="torchvision", backbone="resnet18", blocks=None, unfreeze=2, image_size=32, weights="imagenet"
    )
    trainer = make_trainer(tmp_path, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(task, data_module(**DATA | {"balance": "none", "batch_size": 8}))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = load_checkpoint(tmp_path / "last.ckpt").task
    images = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        assert torch.equal(again(images), task.eval()(images))
    assert [name for name, value in again.named_parameters() if value.requires_grad] == [
        name for name, value in task.named_parameters() if value.requires_grad
    ]


def test_missing_file_is_refused(tmp_path):
    refused(tmp_path / "missing.ckpt", "no such file")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused(trained, tmp_path, share):
    content = trained[1].read_bytes()
    (tmp_path / "part.ckpt").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / "part.ckpt", "read safely")


@pytest.mark.parametrize("content", [b"hello\n" * 20, b"\x80\x02(((((.", b"G" * 40], ids=["text", "stack", "number"])
def test_other_file_is_refused(tmp_path, content):
    (tmp_path / "other.ckpt").write_bytes(content)
    refused(tmp_path / "other.ckpt", "read safely")


@pytest.mark.parametrize("how", ["inside a checkpoint", "alone", "legacy", "pickle"])
def test_hostile_file_is_refused_and_does_not_run(change, tmp_path, how):
    path, canary = tmp_path / "hostile.ckpt", tmp_path / "canary"
    if how == "inside a checkpoint":
        path = change(lambda content: content["hyper_parameters"].update(model=Trap(canary)))
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Trap(canary)}))
    else:
        torch.save({"state_dict": Trap(canary)}, path, _use_new_zipfile_serialization=how == "alone")
    refused(path, "read safely")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists(), "the trap does not work, so the test above shows nothing"


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        [1, 2],
        {"features.0.weight": torch.zeros(3)},
        {"hyper_parameters": {}, "state_dict": {}, "epoch": 1},
        {"hyper_parameters": 3, "state_dict": {}, "epoch": 1},
        "text",
        None,
    ],
    ids=["tensor", "list", "state dict", "no settings", "number", "text", "nothing"],
)
def test_file_that_is_not_a_checkpoint_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", "not a checkpoint of this project")


@pytest.mark.parametrize(
    ("action", "part"),
    [
        (lambda content: content["hyper_parameters"].pop("blocks"), "blocks is missing"),
        (lambda content: content["hyper_parameters"].update(novelty=1), "novelty"),
        (lambda content: content["hyper_parameters"].update(blocks=[]), "blocks=[]"),
        (lambda content: content["hyper_parameters"].update(blocks=[1, 1]), "network.backbone"),
        (lambda content: content["state_dict"].popitem(), "it lacks network.head"),
        (lambda content: content["state_dict"].update(more=torch.zeros(1)), "it has unknown more"),
        (lambda content: content["hyper_parameters"].update(class_weights=torch.zeros(7)), "plain values"),
        (lambda content: content["hyper_parameters"].update(image_size=20_000), "image_size=20000"),
        (lambda content: content["hyper_parameters"].update(blocks=[1_000_000]), "blocks=[1000000]"),
        (lambda content: content["state_dict"]["network.backbone.0.0.weight"].fill_(float("nan")), "not finite"),
        *(
            (lambda content, wrong=wrong: content["datamodule_hyper_parameters"].update(wrong), part)
            for wrong, part in (
                ({"novelty": 1}, "novelty"),
                ({"batch_size": "x"}, "batch_size=x"),
                ({"batch_size": "auto"}, "batch_size=auto"),
                ({"split": "nope"}, "split=nope"),
                ({"data_dir": ["x"]}, "data_dir=['x']"),
            )
        ),
        (lambda content: content.pop("datamodule_hyper_parameters"), "datamodule_hyper_parameters"),
        (lambda content: content.pop("epoch"), "epoch"),
    ],
)
def test_checkpoint_that_does_not_fit_says_why(change, action, part):
    refused(change(action), "not a checkpoint of this project", part)


def test_tensors_take_no_memory_before_their_shapes_are_checked(change):
    """Few kilobytes claim a network of 1.7 GB: by the settings alone, and with one number for each tensor."""
    claimed = {"family": "resnet", "blocks": [1, 1, 1], "width": 1024, "stem_stride": 1, "image_size": 48}

    def claim(content, honest):
        content["hyper_parameters"].update(claimed)
        if not honest:
            shapes = state_shapes(lambda: EmotionTask.of(content["hyper_parameters"]))
            claims = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in shapes.items()}
            content["state_dict"] = claims

    peak = Peak()
    refused(change(lambda content: claim(content, honest=True)), "it lacks network.backbone")
    refused(change(lambda content: claim(content, honest=False)), "claim more numbers than it holds")
    assert peak.growth() < 500


def test_only_checkpoints_are_read_and_no_message_advises_to_trust_them(trained, tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(trained[1].read_bytes())
    refused(photo, "wrong suffix; give a .ckpt file")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"\xff\xd8 no pickle")
    refused(broken, "it is damaged, or holds more than tensors and plain values")


def test_type_of_the_task_is_that_of_the_project(trained):
    assert type(load_checkpoint(trained[1]).task) is EmotionTask


class TestThrottledCheckpointIO:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Gives the time, in seconds, that the writer reads."""
        now = [100.0]
        monkeypatch.setattr("emotion.training.checkpoint.time.monotonic", lambda: now[0])
        return now

    def save(self, writer, path, value):
        tensor = torch.tensor(value)
        writer.save_checkpoint({"weights": [tensor]}, path)
        tensor.add_(1000)  # training goes on

    def on_disk(self, path):
        return int(torch.load(path, weights_only=True)["weights"][0])

    def test_a_file_is_written_at_most_once_per_interval(self, tmp_path, clock):
        writer, path = ThrottledCheckpointIO(30.0), tmp_path / "last.ckpt"
        for seconds, value, expected in ((0, 1, 1), (10, 2, 1), (19.9, 3, 1), (0.2, 4, 4), (29, 5, 4), (40, 6, 6)):
            clock[0] += seconds
            self.save(writer, path, value)
            assert self.on_disk(path) == expected

    def test_no_file_is_older_than_one_that_was_written_after_it(self, tmp_path, clock):
        writer, best, last = ThrottledCheckpointIO(30.0), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
        written = []
        for epoch, (improved, expected) in enumerate(((1, (1, 1)), (0, (1, 1)), (1, (3, 3)), (1, (3, 3)), (0, (4, 5)))):
            if improved:
                self.save(writer, best, epoch + 1)
            self.save(writer, last, epoch + 1)
            written.append((self.on_disk(best), self.on_disk(last)) == expected)
            clock[0] += 20
        assert written == [True] * 5

    def test_a_kill_between_two_files_leaves_the_best_epoch(self, tmp_path, clock, monkeypatch):
        writer, best, last = ThrottledCheckpointIO(30.0), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
        self.save(writer, best, 1)
        self.save(writer, last, 1)
        self.save(writer, last, 2)
        clock[0] += 40
        self.save(writer, best, 3)
        order, write = [], torch.save
        monkeypatch.setattr(
            torch, "save", lambda value, file: (order.append(int(value["weights"][0])), write(value, file))
        )
        self.save(writer, last, 4)
        assert order == [3, 4]

    def test_an_interrupted_write_is_repeated_at_the_end(self, tmp_path, clock, monkeypatch):
        writer, best, last = ThrottledCheckpointIO(30.0), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
        self.save(writer, best, 1)
        self.save(writer, last, 1)
        clock[0] += 40
        self.save(writer, best, 2)

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.save(writer, last, 2)
        monkeypatch.undo()
        assert (self.on_disk(best), self.on_disk(last)) == (1, 1)
        writer.teardown()
        assert (self.on_disk(best), self.on_disk(last)) == (2, 2)

    def test_a_file_that_is_removed_before_it_is_written_stays_removed(self, tmp_path, clock):
        writer, old, last = ThrottledCheckpointIO(30.0), tmp_path / "epoch=1.ckpt", tmp_path / "last.ckpt"
        self.save(writer, last, 1)
        self.save(writer, old, 2)
        writer.remove_checkpoint(old)
        writer.teardown()
        assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]

    def test_pending_files_are_written_at_the_end_and_before_reading(self, tmp_path, clock):
        writer, path = ThrottledCheckpointIO(30.0), tmp_path / "last.ckpt"
        self.save(writer, path, 1)
        self.save(writer, path, 2)
        assert int(writer.load_checkpoint(path, weights_only=True)["weights"][0]) == 2
        self.save(writer, path, 3)
        writer.teardown()
        assert self.on_disk(path) == 3

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_run_leaves_its_latest_state(self, make_task, make_trainer, make_loader, tmp_path, fails):
        class Failing(EmotionTask):
            def on_train_epoch_start(self):
                if fails and self.current_epoch == 3:
                    raise RuntimeError("device lost")
                super().on_train_epoch_start()

        saver = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        options = {"enable_checkpointing": True, "callbacks": [saver], "plugins": [ThrottledCheckpointIO(30.0)]}
        trainer = make_trainer(tmp_path, max_epochs=5, **options)
        try:
            trainer.fit(Failing.of(make_task().hparams), make_loader(), make_loader(8))
        except RuntimeError:
            assert fails
        assert load_checkpoint_epoch(tmp_path / "last.ckpt") == (3 if fails else 5)


def load_checkpoint_epoch(path):
    return torch.load(path, weights_only=True)["epoch"] + 1
