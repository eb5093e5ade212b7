"""Learning from trained networks: which may teach, what they judge, and the file that stands for them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import data_module
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_runs import SMALL, TINY, resume, train

from emotion.cli import main
from emotion.config import compose
from emotion.config import read as read_settings
from emotion.data.teaching import mean_logits
from emotion.errors import UserError
from emotion.models.classifier import load_pretrained
from emotion.settings import DistillationSettings, TrainerSettings
from emotion.training.checkpoint import load_checkpoint
from emotion.training.folder import RunFolder, read_json
from emotion.training.member import read_member
from emotion.training.prepared import prepare
from emotion.training.publish import publish
from emotion.training.start import read_start
from emotion.training.teachers import TEACHING, Mirrored, _device, read_teachers, record

pytestmark = pytest.mark.training

CPU = torch.device("cpu")
DRAWN = {"data": "synthetic", "synthetic_images": 210}
NETWORK = [*TINY, "trainer.precision=32-true", "split=official"]
LESSON = [*SMALL, *NETWORK, "flip=0.5", "distill_views=2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network; its folder."""
    return train(tmp_path_factory.mktemp("teacher"), *NETWORK).path


def read(*teachers: object, **settings: object):
    data = data_module(**{**DRAWN, "split": "official", "flip": 0.5, **settings})
    return read_teachers(DistillationSettings(teacher=[str(each) for each in teachers]), data), data


def judged(*teachers: object, views: int = 2, **settings: object):
    found, data = read(*teachers, **settings)
    return found.teaching(DistillationSettings(teacher="x", distill_views=views), data, CPU, "32-true"), data


def test_teachers_judge_each_view_and_its_mirror_image(teacher):
    teaching, data = judged(teacher)
    network = load_checkpoint(teacher / "checkpoints" / "best.ckpt").task.inference_network
    images, _, rows = data.train_set
    assert [each.shape for each in teaching.logits] == [(2, len(rows), 7)]
    for view in range(2):
        draws = data.augmentation.draw_view(len(rows), 48, 48, teaching.seed, view)
        seen = data.augmentation.apply(torch.from_numpy(images[rows]).float() / 255, draws)
        with torch.inference_mode():
            logits = (network(seen) + network(seen.flip(3))) / 2
        torch.testing.assert_close(torch.from_numpy(teaching.logits[0][view]).float(), logits, atol=2e-3, rtol=2e-3)


def test_a_pattern_names_all_teachers_that_match(teacher, tmp_path):
    publish(teacher, tmp_path / "a.safetensors")
    shutil.copytree(teacher / "checkpoints", tmp_path / "b")
    assert len(read(tmp_path / "*.safetensors")[0].names) == 1
    with pytest.raises(UserError, match=r"best\.ckpt: the network of .*best\.ckpt again; name each network once$"):
        read(tmp_path / "b/best.ckpt", teacher / "checkpoints/b*t.ckpt")


def test_teachers_see_no_mirror_images_if_the_network_does_not(teacher):
    assert isinstance(read(teacher)[0].networks[0], Mirrored)
    assert not isinstance(read(teacher, flip=0)[0].networks[0], Mirrored)


def test_plain_epochs_add_the_unchanged_images(teacher):
    (logits,) = judged(teacher, plain_epochs=1)[0].logits
    (unchanged,) = judged(teacher, augment=False, flip=0, plain_epochs=0)[0].logits
    assert (logits.shape[0], unchanged.shape[0]) == (3, 1)
    assert not np.array_equal(logits[2], logits[1])
    teaching, data = judged(teacher, augment=False, flip=0)
    network = load_checkpoint(teacher / "checkpoints" / "best.ckpt").task.inference_network
    with torch.inference_mode():
        expected = network(torch.from_numpy(data.packed.images[data.rows.train]))
    torch.testing.assert_close(torch.from_numpy(teaching.logits[0][0]).float(), expected, atol=2e-3, rtol=2e-3)


def test_other_mixing_needs_no_new_judgement(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path))
    judged(teacher)
    judged(teacher, mixup=0.2, cutmix=1.0)
    judged(teacher, seed=3)
    assert len(list(tmp_path.rglob("features/*.npy"))) == 1
    judged(teacher, rotation=20)
    assert len(list(tmp_path.rglob("features/*.npy"))) == 2


def test_the_mean_is_that_of_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (3, 5, 7)).astype(np.float16)
    shares = np.exp(logits.astype(np.float64))
    expected = (shares / shares.sum(2, keepdims=True)).mean(0)
    np.testing.assert_allclose(mean_logits(list(logits)).exp().numpy(), expected, rtol=1e-5)


def test_a_network_learns_from_its_teachers_and_says_so(teacher, tmp_path):
    folder = train(tmp_path / "run", *LESSON[len(SMALL) :], f"teacher={teacher}", "mixup=0.2", "trainer.max_epochs=2")
    (name,) = read_json(folder.metrics)["run"]["teachers"]
    assert name.startswith("resnet_small, seed 0, ")
    assert name in (folder.path / "report.html").read_text()
    again = resume(folder.path, "trainer.max_epochs=3")
    assert read_json(again.metrics)["run"]["epochs"] == 3
    facts = publish(again.best, tmp_path / "taught.safetensors").card.facts
    assert facts["teachers"] == [name]
    assert (facts["distill"], facts["distill_temperature"], facts["distill_views"]) == (0.9, 3, 2)


def test_the_loss_of_a_run_is_that_of_its_labels_and_its_teachers(teacher, tmp_path):
    words = [*LESSON, f"teacher={teacher}", "distill=0.75", "distill_temperature=2", "label_smoothing=0"]
    prepared = prepare(read_settings(compose(*words)), RunFolder(tmp_path / "run"))
    loader = prepared.data.train_dataloader()
    loader.set_epoch(0)
    batch = next(iter(loader))
    network = prepared.task.network.eval()
    torch.manual_seed(0)
    loss, logits = prepared.task._loss_and_logits(batch)
    own, judged = (logits / 2).log_softmax(1), batch.soft_targets
    divergence = (judged * (judged.log() - own)).sum(1).mean() * 4
    expected = 0.25 * torch.nn.functional.cross_entropy(logits, batch.labels) + 0.75 * divergence
    torch.testing.assert_close(loss, expected)
    assert not network.training


def test_resumed_runs_get_the_judgement_of_an_uninterrupted_run(teacher, tmp_path):
    lesson = [*LESSON[len(SMALL) :], f"teacher={teacher}", "schedule=none"]
    whole = train(tmp_path / "whole", *lesson, "trainer.max_epochs=3")
    train(tmp_path / "parts", *lesson, "trainer.max_epochs=1")
    parts = resume(tmp_path / "parts", "trainer.max_epochs=3")
    first, second = (load_checkpoint(run.last).task.network.state_dict() for run in (whole, parts))
    assert all(first[key].equal(second[key]) for key in first)


class TestRecorded:
    @pytest.fixture(scope="class")
    def file(self, teacher, tmp_path_factory):
        path = tmp_path_factory.mktemp("recorded") / "teachers.safetensors"
        assert record([*LESSON, f"teacher=[{teacher},small]"], path).shape == (2, 168, 7)
        return path

    def test_the_file_stands_for_the_networks(self, file, teacher):
        networks, _ = judged(teacher, "small")
        recorded, _ = judged(file)
        for view in range(2):
            expected = mean_logits([each[view] for each in networks.logits]).exp()
            found = mean_logits([recorded.logits[0][view]]).exp()
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
        assert read(file)[0].names == read(teacher, "small")[0].names

    def test_a_network_learns_from_it_without_the_networks(self, file, tmp_path):
        folder = train(tmp_path / "run", *LESSON[len(SMALL) :], f"teacher={file}")
        assert len(read_json(folder.metrics)["run"]["teachers"]) == 2

    @pytest.mark.parametrize(
        ("changes", "named"),
        [({"rotation": 20}, "rotation"), ({"split": "report"}, "images, held-out images"), ({"flip": 0}, "flip")],
    )
    def test_other_views_are_refused(self, file, changes, named):
        with pytest.raises(UserError, match=rf"was recorded with other {named}; record it again: emotion teach$"):
            judged(file, **changes)

    def test_another_number_of_views_is_refused(self, file):
        with pytest.raises(UserError, match="was recorded with other distill_views;"):
            judged(file, views=3)

    def test_other_held_out_images_are_refused(self, file):
        """Its teachers were compared with those images that were held out when it was recorded."""
        asked, data = DistillationSettings(teacher=str(file), distill_views=2), read(file)[1]
        data.rows = dataclasses.replace(data.rows, test=data.rows.test[1:])
        with pytest.raises(UserError, match="was recorded with other held-out images;"):
            read_teachers(asked, data).teaching(asked, data, CPU, "32-true")

    def test_unknown_teachers_are_a_warning_again(self, file, caplog):
        read(file)
        assert f"teacher={file}: not all its training images are known" in caplog.text

    def test_beside_networks_it_is_refused(self, file):
        with pytest.raises(UserError, match=r"holds the judgement of all teachers; name it alone$"):
            read(file, "small")

    @pytest.mark.parametrize("kind", ["shape", "few", "many", "dtype", "nan", "missing", "json", "list", "deep"])
    def test_a_broken_file_is_one_line(self, file, kind, tmp_path):
        from safetensors import safe_open

        with safe_open(file, "np") as opened:
            text = opened.metadata()[TEACHING]
        logits = load_file(file)["logits"]
        contents = {
            "shape": {"logits": logits[:1]},
            "few": {"logits": logits[:, :50]},
            "many": {"logits": np.concatenate([logits, logits], axis=1)},
            "dtype": {"logits": logits.astype(np.float32)},
            "nan": {"logits": np.where(np.arange(7) == 3, np.float16("nan"), logits)},
            "missing": {"other": logits},
        }
        texts = {"json": "{", "deep": "[" * 100_000, "list": json.dumps({**json.loads(text), "teachers": 5})}
        path = tmp_path / "broken.safetensors"
        save_file(contents.get(kind, {"logits": logits}), path, {TEACHING: texts.get(kind, text)})
        with pytest.raises(UserError, match=rf"^teacher={path}: ") as caught:
            judged(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("further", [np.zeros(3, np.float32), np.zeros((2, 2), np.int64)])
    def test_other_hashes_are_refused(self, file, further, tmp_path):
        with safe_open(file, "np") as stored:
            tensors, metadata = {"logits": stored.get_tensor("logits"), "further": further}, stored.metadata()
        save_file(tensors, tmp_path / "t.safetensors", metadata)
        with pytest.raises(UserError, match=r"further .*, must be int64 \[n\]$"):
            read(tmp_path / "t.safetensors")

    def test_it_is_no_network(self, file):
        with pytest.raises(UserError, match=r"\(it holds the judgement of teachers, for teacher= alone\)$"):
            load_pretrained(file)
        with pytest.raises(UserError, match=r"^init=.* \(it holds the judgement of teachers, for teacher= alone\)$"):
            read_start(str(file))

    def test_the_command_writes_it(self, teacher, tmp_path, capsys, monkeypatch):
        out = tmp_path / "new" / "t.safetensors"
        monkeypatch.setattr("sys.argv", ["emotion", "teach", *LESSON, f"teacher={teacher}", "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (None, 0)
        assert f"{out}: 168 images, 2 views, 7 classes" in capsys.readouterr().out.replace("\n", "")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "^teacher: missing;"),
            (["teacher=small", "distil=1"], "did you mean distill"),
            (["teacher=small", "augmentation=mine.py:Mine"], "cannot be repeated for the teachers"),
        ],
    )
    def test_wrong_arguments_are_one_line(self, arguments, message, tmp_path):
        with pytest.raises(UserError, match=message):
            record([*SMALL, *NETWORK, *arguments], tmp_path / "t.safetensors")

    def test_another_suffix_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"t.npz: a name that ends with .safetensors is needed$"):
            record([*LESSON, "teacher=small"], tmp_path / "t.npz")
        with pytest.raises(UserError, match=r"^seed=0,1: several values mean several runs; give one; the file serves"):
            record([*LESSON, "teacher=small", "seed=0,1"], tmp_path / "t.safetensors")


def with_origin(member, **changes):
    return dataclasses.replace(member, origin=dataclasses.replace(member.origin, **changes))


class TestRefused:
    def test_a_network_that_is_missing(self):
        with pytest.raises(UserError, match=r"^teacher=gone: no such file"):
            read("gone")

    def test_one_of_other_classes(self):
        with pytest.raises(UserError, match=r"^teacher=small: has the classes .*; the data has angry, fear, happy"):
            read("small", exclude=["disgust"])

    def test_one_that_was_trained_on_the_validation_images(self, teacher):
        with pytest.raises(UserError, match=r"was trained on \d+ of the images that validate or test here;"):
            read(teacher, split="report")

    def test_one_that_was_trained_on_images_of_another_size(self, teacher, monkeypatch):
        member = with_origin(read_member(teacher), size=(1, 96, 96))
        monkeypatch.setattr("emotion.training.teachers.read_member", lambda *_: member)
        with pytest.raises(UserError, match=r"was trained on images of 1x96x96 pixels; these have 1x48x48$"):
            read("big.ckpt")

    def test_a_published_one_of_a_split_that_held_out_other_images(self, teacher, tmp_path):
        path = tmp_path / "t.safetensors"
        publish(teacher / "checkpoints" / "best.ckpt", path)
        assert read(path)[0].names[0].startswith("resnet_small, seed 0, ")
        with pytest.raises(UserError, match=r"was trained on \d+ of the images that validate or test here;"):
            read(path, split="report")

    @pytest.mark.parametrize(
        ("own", "others"),
        [
            ({"split": "report", "seed": 1}, {"split_seed": 5, "seed": 5}),
            ({"split": "report", "val_fraction": 0.1}, {"val_fraction": 0.4}),
            ({"split": "random", "folds": 3}, {"fold": 1}),
        ],
    )
    def test_a_published_one_is_held_to_its_own_split(self, own, others, tmp_path):
        words = [f"{key}={value}" for key, value in own.items()]
        words += ["trainer.limit_train_batches=1", "test=false"]
        folder = train(tmp_path / "run", *[word for word in NETWORK if not word.startswith("split")], *words)
        publish(folder.best, tmp_path / "t.safetensors")
        for path in (folder.best, tmp_path / "t.safetensors"):
            assert read(path, **own)[0] is not None
            with pytest.raises(UserError, match=r"was trained on \d+ of the images that validate or test here;"):
                read(path, **{**own, **others})

    @pytest.mark.parametrize("facts", [{"extra_folders": 1}, {"images_hash": "0" * 16}, {"split": "report"}])
    def test_cards_that_do_not_tell_the_images_are_a_warning(self, facts, monkeypatch, caplog):
        small = read_member("small")
        told = {"data": "synthetic", "split": "official", "seed": 0, **facts}
        member = with_origin(small, facts=told, data={**small.origin.data, **told})
        monkeypatch.setattr("emotion.training.teachers.read_member", lambda *_: member)
        assert read("x.safetensors")[0].known is False
        assert "not all its training images are known" in caplog.text

    def test_an_older_checkpoint_without_sizes_counts_as_grey_faces_of_48_pixels(self, teacher, monkeypatch):
        member = read_member(teacher)
        old = with_origin(member, size=None, data={**member.origin.data, "pack_size": None, "channels": None})
        monkeypatch.setattr("emotion.training.teachers.read_member", lambda *_: old)
        assert read("old.ckpt")[0].known

    @pytest.mark.parametrize("name", ["~nobody-of-this-name/x.ckpt", "~nobody-of-this-name/x.safetensors"])
    def test_a_home_that_does_not_exist(self, name):
        with pytest.raises(UserError, match="no such file"):
            read(name)

    def test_a_teacher_that_has_moved_is_named_anew(self, teacher, tmp_path):
        for name in ("a", "b"):
            shutil.copy(teacher / "checkpoints" / "best.ckpt", tmp_path / f"{name}.ckpt")
        folder = train(tmp_path / "run", *LESSON[len(SMALL) :], f"teacher={tmp_path / 'a.ckpt'}")
        (tmp_path / "a.ckpt").unlink()
        with pytest.raises(UserError, match=r"^teacher=.*a.ckpt: no such file"):
            resume(folder.path, "trainer.max_epochs=2")
        again = resume(folder.path, "trainer.max_epochs=2", f"teacher={tmp_path / 'b.ckpt'}")
        assert read_json(again.metrics)["run"]["epochs"] == 2
        with pytest.raises(UserError, match=r"^teacher: the run began with resnet_small, .*; now it has no teacher$"):
            resume(folder.path, "trainer.max_epochs=3", "teacher=null")

    @pytest.mark.parametrize("content", [b"", b"text", None])
    def test_a_damaged_checkpoint(self, teacher, content, tmp_path):
        path, whole = tmp_path / "cut.ckpt", (teacher / "checkpoints" / "best.ckpt").read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(UserError, match=rf"^teacher={path}: not a checkpoint that can be read safely \([a-zA-Z]"):
            read(path)

    def test_another_network_in_the_place_of_the_teacher(self, teacher, tmp_path):
        place = tmp_path / "teacher.ckpt"
        shutil.copy(teacher / "checkpoints" / "best.ckpt", place)
        folder = train(tmp_path / "run", *LESSON[len(SMALL) :], f"teacher={place}")
        other = train(tmp_path / "other", *NETWORK, "seed=1", "split_seed=0")
        shutil.copy(other.best, place)
        with pytest.raises(
            UserError, match=r"^teacher: the run began with resnet_small, seed 0, .*; now it has resnet_small, seed 1"
        ):
            resume(folder.path, "trainer.max_epochs=2")

    def test_unknown_training_images_are_a_warning(self, caplog):
        read("small")
        told = "(its file says: data=fer2013 split=official)"
        assert f"teacher=small: not all its training images are known {told}; if some validate" in caplog.text

    def test_copies_of_training_images_are_not_held_out_images(self, teacher):
        """FER2013 shows 568 test images in the training set too."""
        _, data = read(teacher)
        rows = data.rows
        data.packed.hashes[rows.test[0]] = data.packed.hashes[rows.train[0]]
        asked = DistillationSettings(teacher=str(teacher))
        assert read_teachers(asked, data) is not None

    @pytest.mark.parametrize("key", ["distill=0.5", "distill_temperature=2", "distill_views=3"])
    def test_settings_without_a_teacher(self, key, tmp_path):
        with pytest.raises(
            UserError, match=r"has no effect; it needs teacher=( and augmentation that changes single images \(.*\))?$"
        ):
            train(tmp_path, *NETWORK, key)

    @pytest.mark.parametrize(
        "value", ["distill=1.5", "distill=-0.1", "distill_temperature=0", "distill_views=0", "distill_views=1.5"]
    )
    def test_illegal_values(self, value, tmp_path):
        with pytest.raises(UserError, match=value.partition("=")[0]):
            train(tmp_path, *NETWORK, "teacher=small", value)

    def test_features_in_place_of_images(self, tmp_path):
        words = ["model=vgg16_ft", "weights=none", "unfreeze=1", "teacher=small", "split=official"]
        with pytest.raises(UserError, match=r"the network would train on features; set feature_views=0$"):
            train(tmp_path, *words, "feature_views=1")


@pytest.mark.parametrize("word", ["balance=weighted_sampler", "balance=offline", "balance=class_weights"])
def test_soft_targets_are_the_judgement_of_the_very_images_of_a_batch(teacher, word):
    key, _, value = word.partition("=")
    found, data = read(teacher, **{key: value})
    asked = DistillationSettings(teacher="x", distill_views=2)
    data.learn_from(found.teaching(asked, data, CPU, "32-true"))
    loader = data.train_dataloader()
    loader.set_epoch(1)
    with torch.inference_mode():
        for batch in loader:
            expected = (found.networks[0](batch.inputs) / asked.distill_temperature).softmax(1)
            torch.testing.assert_close(batch.soft_targets, expected, atol=5e-3, rtol=0)


def test_teachers_judge_on_the_device_of_the_training(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "emotion.training.teachers.find_device", lambda name: (asked.append(name), torch.device(name or "cuda"))[1]
    )
    trainer = {"accelerator": "auto", "devices": [3]}
    assert _device(TrainerSettings(**trainer)) == torch.device("cuda:3")
    assert _device(TrainerSettings(**trainer | {"accelerator": "gpu", "devices": 2})) == torch.device("cuda")
    assert _device(TrainerSettings(**trainer | {"accelerator": "cpu"})) == torch.device("cpu")
    assert asked == [None, "cuda:3", "cuda", "cpu"]
