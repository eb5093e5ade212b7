"""Runs on one's own images: other classes, tables, folds, votes, a network of one's own, a trained network as start."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import ROOT, SMALL, train

from emotion.analysis.predictions import load_predictions
from emotion.config import compose, read
from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.data.synthetic import draw_image
from emotion.errors import UserError
from emotion.overrides import quote_argument
from emotion.training.checkpoint import load_checkpoint
from emotion.training.evaluate import evaluate
from emotion.training.folder import RunFolder, read_json
from emotion.training.resume import resumed_config
from emotion.training.run import run

pytestmark = pytest.mark.training

THREE = ("engaged", "bored", "confused")
"""Not in alphabetical order."""
QUICK = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "batch_size=16", "model=cnn_111")
NETWORK = """
from torch import nn
from pathlib import Path

Path(__file__).with_name("canary").touch()


class TinyNet(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, num_classes))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 30 drawn faces of each of `THREE`: 10 images of each of 9 persons; and a table of them."""
    root = tmp_path_factory.mktemp("own") / "photos"
    rows = ["path,label,person"]
    for label, name in enumerate(THREE):
        (root / name).mkdir(parents=True)
        for index in range(30):
            person = (index + label) % 9
            path = Path(name, f"p{person}_{index}.png")
            Image.fromarray(draw_image(2 * label, 0, index)).save(root / path)
            rows.append(f"{path.as_posix()},{name},{person}")
    (root.parent / "labels.csv").write_text("\n".join(rows))
    return root


def start(folder: Path, *words: str) -> RunFolder:
    run(compose(*map(quote_argument, (*QUICK, *words))), folder, [*QUICK, *words])
    return RunFolder(folder)


def data_of(*words: str) -> EmotionDataModule:
    return EmotionDataModule.of(read(compose(*map(quote_argument, (*QUICK, *words)))).flat())


def own(photos: Path, *words: str) -> list[str]:
    return ["data=folder", f"data_dir={photos}", f"classes=[{','.join(THREE)}]", "split=random", *words]


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(tmp_path_factory.mktemp("run"), *own(photos, r"group_by=p(\d+)_"))


def test_classes_are_in_everything_that_a_run_writes(finished: RunFolder) -> None:
    metrics = json.loads(finished.metrics.read_text())
    assert list(metrics["test"]["per_class"]) == list(THREE)
    predictions = load_predictions(finished.predictions)
    assert all(stage.classes == THREE for stage in predictions.values())
    checkpoint = load_checkpoint(finished.best)
    assert checkpoint.task.classes == THREE
    assert checkpoint.task.network.head[-1].out_features == 3
    header = finished.csv_files()[0].read_text().splitlines()[0].split(",")
    assert {f"val_recall/{name}" for name in THREE} <= {*header}


def test_persons_are_on_one_side_of_a_random_split(finished: RunFolder) -> None:
    data = load_checkpoint(finished.best).data_module()
    persons = [{name.split("/p")[1][0] for name in data.packed.names[rows]} for rows in vars(data.rows).values()]
    assert [len(side) for side in persons] == [len(side - set().union(*persons[:i])) for i, side in enumerate(persons)]
    assert sum(map(len, persons)) == 9
    assert {len(rows) for rows in (data.rows.val, data.rows.test)} <= {*range(15, 23)}  # a fifth of 90 images each


def test_a_network_is_tested_on_the_common_classes_of_other_data(
    finished: RunFolder, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The ids of the network hold, in whatever order the folders are, and in any spelling."""
    for name, folder in (("Confused", "confused"), ("engaged", "engaged"), ("asleep", "bored")):
        target = tmp_path / "other" / name
        target.mkdir(parents=True)
        for path in sorted((photos / folder).iterdir())[:4]:
            (target / path.name).write_bytes(path.read_bytes())
    changes = {"data": "folder", "data_dir": str(tmp_path / "other"), "split": "test_only"}
    with caplog.at_level("WARNING"):
        results = evaluate([finished.path], changes, str(tmp_path / "out"), "cpu")
    left_out = "left out, since they are none of the classes engaged, bored, confused: asleep (4 images)"
    assert caplog.text.count(left_out) == 1
    page = (tmp_path / "out" / "report.md").read_text()
    assert left_out in page
    assert f"| bored | {results['test']['per_class']['bored']['precision']:.2f} | — | — | 0 |" in page
    assert {name: values["support"] for name, values in results["test"]["per_class"].items()} == {
        "engaged": 4,
        "bored": 0,
        "confused": 4,
    }
    predictions = load_predictions(tmp_path / "out" / "predictions.npz")["test"]
    task = load_checkpoint(finished.best).task
    images = np.stack([np.asarray(Image.open(tmp_path / "other" / name)) for name in predictions.ids])
    with torch.no_grad():
        expected = task(torch.from_numpy(images)[:, None]).softmax(1)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=2e-3)
    assert [THREE[label] for label in predictions.labels] == [name.split("/")[0].lower() for name in predictions.ids]


def test_no_common_class_is_one_line(finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the network knows engaged, bored, confused; none is common$"):
        evaluate([finished.path], {"data": "synthetic", "synthetic_images": 140}, str(tmp_path), "cpu")


def test_the_shipped_network_is_evaluated_by_its_name(tmp_path: Path) -> None:
    results = evaluate([Path("small")], {"data": "synthetic", "synthetic_images": 140}, str(tmp_path), "cpu", "flip")
    assert list(results["test_tta"]["per_class"]) == list(CLASSES)


def test_members_of_an_ensemble_have_the_same_classes(finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have different classes: engaged, bored, confused; angry, "):
        evaluate([finished.path, Path("small")], {}, str(tmp_path), "cpu")


def test_a_table_gives_the_same_images_as_its_folders(photos: Path) -> None:
    table = ["data=table", f"data_dir={photos.parent / 'labels.csv'}", "images=photos", "group_by=person"]
    data, folders = (data_of(*words) for words in ([*own(photos)[2:], *table], own(photos)))
    pairs = []
    for packed in (data.packed, folders.packed):
        labels = [packed.classes[label] for label in packed.labels]
        pairs.append(sorted(zip(map(os.path.basename, packed.names.tolist()), labels, packed.hashes, strict=True)))
    assert pairs[0] == pairs[1]
    assert (data.classes, len(data.packed)) == (THREE, 90)


def test_split_seed_fixes_the_split_of_all_seeds(photos: Path, tmp_path: Path) -> None:
    folders = [start(tmp_path / str(seed), *own(photos, f"seed={seed}", "split_seed=7")) for seed in (0, 1)]
    first, second = (load_predictions(folder.predictions)["test"] for folder in folders)
    assert first.same_images(second)
    assert not np.array_equal(first.probabilities, second.probabilities)


def test_a_resumed_run_keeps_its_classes(finished: RunFolder, photos: Path) -> None:
    state = load_checkpoint(finished.best).data_module().state_dict()
    other = load_checkpoint(finished.best).data_module(classes=["bored", "confused", "engaged"])
    other.network_classes = None
    with pytest.raises(UserError, match=r"^the run began with the classes engaged, bored, confused; now they are b"):
        other.load_state_dict(state)


def test_a_class_without_images_is_named_with_the_way_out(photos: Path, tmp_path: Path) -> None:
    words = own(photos)
    words[2] = f"classes=[{','.join(THREE)},asleep]"
    with pytest.raises(UserError, match=r"images of class asleep; add some, or train without: exclude=\[asleep\]"):
        start(tmp_path, *words)


def test_colour_and_size_of_own_images_follow_the_network(photos: Path) -> None:
    words = own(photos)
    assert (read(compose(*words)).data.pack_size, read(compose(*words)).data.channels) == (48, 1)
    vgg = read(compose(*words, "model=vgg16_ft", "image_size=96")).data
    assert (vgg.pack_size, vgg.channels) == (96, 3)
    given = read(compose(*words, "model=vgg16_ft", "image_size=96", "pack_size=64", "channels=1")).data
    assert (given.pack_size, given.channels) == (64, 1)
    fer = read(compose("model=vgg16_ft", "image_size=96")).data
    assert (fer.pack_size, fer.channels) == (48, 1)


def test_votes_replace_the_labels_and_soften_the_targets(tmp_path: Path) -> None:
    """Drawn faces with votes: a face of every class has nine votes for it and one for neutral."""
    names = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
    columns = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
    from builders import data_module

    plain = data_module(data="synthetic", synthetic_images=140).packed
    lines = [f"image,{','.join(names)}"]
    for name, label in zip(plain.names, plain.labels, strict=True):
        counts = dict.fromkeys(names, 0) | {"neutral": 1}
        counts[columns.get(CLASSES[label], CLASSES[label])] += 9
        lines.append(f"{name.split('/')[-1]},{','.join(map(str, counts.values()))}")
    (tmp_path / "votes.csv").write_text("\n".join(lines))
    words = ["labels=ferplus", f"votes={tmp_path / 'votes.csv'}", "balance=class_weights", "mixup=0.2"]
    folder = train(tmp_path / "run", *words, "trainer.max_epochs=1", "synthetic_images=140")
    data = load_checkpoint(folder.best).data_module()
    assert np.array_equal(data.packed.labels, plain.labels)
    happy, neutral = CLASSES.index("happy"), CLASSES.index("neutral")
    row = int(np.flatnonzero(plain.labels == happy)[0])
    assert data.targets[row].tolist() == pytest.approx([0.9 * (i == happy) + 0.1 * (i == neutral) for i in range(7)])
    hard = load_checkpoint(folder.best).data_module(soft_labels=False)
    assert torch.equal(hard.targets, torch.from_numpy(plain.labels))


def test_a_network_of_ones_own_teaches_and_starts_one_of_its_class(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "cache"))
    code, judgements, seven = tmp_path / "mine.py", tmp_path / "cache" / "features", "synthetic_images=140"
    code.write_text(NETWORK)
    caplog.set_level("INFO")
    words = ["model=custom", f"network={code}:TinyNet", "trainer.max_epochs=1", seven, "split=official"]
    first = train(tmp_path / "first", *words).path
    train(tmp_path / "started", *words, f"init={first}")
    assert f"init={first}: 2 of 2 tensors taken" in caplog.text
    taught = train(tmp_path / "taught", *words, f"teacher={first}")
    assert [name.split(",")[0] for name in read_json(taught.metrics)["run"]["teachers"]] == ["custom"]
    train(tmp_path / "again", *words, f"teacher={first}", "seed=1")
    assert len(list(judgements.glob("*.npy"))) == 1
    code.write_text(NETWORK.replace("AvgPool", "MaxPool"))  # the same weights, but another judgement
    train(tmp_path / "changed", *words, f"teacher={first}")
    assert len(list(judgements.glob("*.npy"))) == 2


def test_a_checkpoint_with_a_network_of_ones_own_imports_nothing_until_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)
    canary, name = tmp_path / "canary", f"{tmp_path / 'mine.py'}:TinyNet"
    words = ["model=custom", f"network={name}", "trainer.max_epochs=1", "synthetic_images=140"]
    folder = train(tmp_path / "run", *words)
    canary.unlink()
    for refused in (
        lambda: load_checkpoint(folder.best),
        lambda: load_checkpoint(folder.best, f"{tmp_path / 'other.py'}:TinyNet"),
        lambda: evaluate([folder.path], {}, str(tmp_path / "out"), "cpu"),
    ):
        with pytest.raises(
            UserError, match=rf"if you trust it, train.py, evaluate.py and emotion export take network={name}, and"
        ):
            refused()
    resume = [f"resume={folder.path}"]
    with pytest.raises(UserError, match=rf"runs your own code; add network={name} to allow it$"):
        resumed_config(compose(*resume), folder, resume)
    assert not canary.exists()
    with pytest.raises(UserError, match=r"^teacher=.*: its network is code of a user"):
        train(tmp_path / "taught", "model=resnet_small", f"teacher={folder.path}", "split=official")
    assert not canary.exists()
    assert load_checkpoint(folder.best, name).task.classes == CLASSES
    assert "test" in evaluate([folder.path], {}, str(tmp_path / "out"), "cpu", network=name)
    assert resumed_config(compose(*resume, f"network={name}"), folder, [*resume, f"network={name}"]).network == name


def test_a_run_starts_from_the_shipped_network_for_other_classes(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["recipe=finetune", *own(photos), "trainer.max_epochs=3", "unfreeze=1"]
    with caplog.at_level("INFO"):
        run(compose(*words, "trainer.accelerator=cpu"), tmp_path, words)
    assert "tensors taken; new: head.3, for the classes engaged, bored, confused" in caplog.text
    task = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt").task
    from emotion.training.start import read_start

    shipped = read_start("small").state
    assert torch.equal(task.network.backbone[0][0].weight, shipped["backbone.0.0.weight"])  # frozen
    assert not torch.equal(task.network.backbone[3][1].conv2.weight, shipped["backbone.3.1.conv2.weight"])


def test_small_sets_get_more_than_one_class_with_the_defaults(tmp_path: Path) -> None:
    """Seven steps an epoch; with Keras's slow statistics alone, macro F1 would be 0.04, one class for all images.

    How far beyond it comes depends on the processor.
    """
    words = ["balance=none", "augment=false", "trainer.max_epochs=5", "synthetic_images=350", "batch_size=32"]
    words.append("trainer.precision=32-true")
    folder = RunFolder(tmp_path)
    run(compose(*SMALL, *words), tmp_path, words)
    assert json.loads(folder.metrics.read_text())["val"]["f1_macro"] > 0.08


@pytest.mark.check
def test_the_page_on_fine_tuning_works(tmp_path: Path) -> None:
    """Its Python and its commands, with fewer epochs."""
    text = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert len(list((tmp_path / "lab").rglob("*.png"))) == 300
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).splitlines()
    for line in (line for line in commands if "predict" not in line):
        words = shlex.split(line.replace("python train.py", "emotion train"))[1:]
        words += ["trainer.max_epochs=1"] if words[0] == "train" else []
        words = [found for word in words for found in sorted(map(str, tmp_path.glob(word))) or [word]]  # as a shell
        subprocess.run([sys.executable, "-m", "emotion", *words], cwd=tmp_path, env=environment, check=True)
    assert "5 folds" in (tmp_path / "runs/report-page/report.md").read_text()


def test_the_advice_for_missing_classes_can_be_followed(photos: Path, tmp_path: Path) -> None:
    words = ["data=folder", f"data_dir={photos}", "split=random", "exclude=[bored]"]
    asked = [*words, f"classes=[{','.join(THREE)},asleep]"]
    with pytest.raises(UserError, match=r"without: exclude=\[bored,asleep\]$"):
        start(tmp_path / "refused", *asked)
    words = [*asked[:3], "exclude=[bored,asleep]", asked[-1]]
    assert data_of(*words).classes == ("engaged", "confused")


def test_grouped_runs_are_tested_with_another_split(finished: RunFolder, photos: Path, tmp_path: Path) -> None:
    results = evaluate([finished.path], {"split": "test_only"}, str(tmp_path), "cpu")
    assert results["test"]["num_images"] == 90


def test_the_same_data_at_another_place_has_the_same_split(finished: RunFolder, photos: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(finished.best)
    shutil.copytree(photos, tmp_path / "moved")
    here, moved = checkpoint.data_module(), checkpoint.data_module(data_dir=str(tmp_path / "moved"))
    for part in ("train", "val", "test"):
        names = [data.packed.names[getattr(data.rows, part)].tolist() for data in (here, moved)]
        assert names[0] == names[1]
        assert len(names[0]) > 10


def test_a_loss_of_ones_own_may_have_tensors(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Loss(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.entropy = nn.CrossEntropyLoss(weight=torch.ones(7), reduction='none')\n\n"
        "    def forward(self, logits, labels):\n"
        "        return self.entropy(logits, labels)\n"
    )
    words = [f"loss={tmp_path / 'mine.py'}:Loss", "trainer.max_epochs=1", "synthetic_images=140"]
    folder = train(tmp_path / "run", *words)
    assert load_checkpoint(folder.best).task.loss.own is None
    assert "test" in json.loads(folder.metrics.read_text())


def test_code_in_the_home_folder_can_be_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(NETWORK)
    name = f"{tmp_path / 'mine.py'}:TinyNet"
    folder = train(tmp_path / "run", "model=custom", f"network={name}", "trainer.max_epochs=1", "synthetic_images=140")
    stored = torch.load(folder.best, weights_only=True)["hyper_parameters"]["network"]
    assert stored == "~/mine.py:TinyNet"
    for again in (name, stored):
        assert load_checkpoint(folder.best, again).task.classes == CLASSES


def test_a_network_that_looks_at_values_is_read_again(tmp_path: Path) -> None:
    """It cannot be built on the meta device, whose tensors have no values."""
    code = NETWORK.replace("super()", "rates = [rate.item() for rate in torch.linspace(0, 1, 3)]\n        super()")
    (tmp_path / "mine.py").write_text(f"import torch\n{code}")
    name = f"{tmp_path / 'mine.py'}:TinyNet"
    words = ["model=custom", f"network={name}", "trainer.max_epochs=1", "synthetic_images=140"]
    for ema in (0, 0.9):
        folder = train(tmp_path / f"run{ema}", *words, f"ema_decay={ema}")
        assert load_checkpoint(folder.best, name).task.classes == CLASSES
        content = torch.load(folder.best, weights_only=True)
        del content["state_dict"][next(iter(content["state_dict"]))]
        torch.save(content, tmp_path / "cut.ckpt")
        with pytest.raises(UserError, match=r"not a checkpoint of this project \(it lacks"):
            load_checkpoint(tmp_path / "cut.ckpt", name)


def test_an_augmentation_that_cannot_be_made_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def noise(images, generator):\n    return images\n")
    name = f"{tmp_path / 'mine.py'}:noise"
    with pytest.raises(UserError, match=rf"^augmentation={name}: cannot be made \(TypeError: noise\(\) missing 2 "):
        train(tmp_path / "run", f"augmentation={name}", "trainer.max_epochs=1", "synthetic_images=140")


def test_a_resumed_run_does_not_need_the_network_that_it_started_from(
    finished: RunFolder, photos: Path, tmp_path: Path
) -> None:
    first = shutil.copyfile(finished.best, tmp_path / "first.ckpt")
    second = start(tmp_path / "second", *own(photos, r"group_by=p(\d+)_", f"init={first}"))
    first.unlink()
    again = [f"resume={second.path}", "trainer.max_epochs=2"]
    run(compose(*again), second.path, again)
    assert json.loads(second.metrics.read_text())["run"]["epochs"] == 2


def test_a_published_network_is_tested_on_images_of_its_size_and_labels(finished: RunFolder, tmp_path: Path) -> None:
    from emotion.training.evaluate import evaluate, read_member
    from emotion.training.publish import publish

    publish(finished.best, tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"mine.safetensors: a published file has no images; name them, as data_dir="):
        evaluate([tmp_path / "mine.safetensors"], {})
    data = read_member(tmp_path / "mine.safetensors").origin.data
    stored = load_checkpoint(finished.best).data
    for key in ("data", "split", "classes", "group_by", "seed"):
        assert data[key] == stored[key]
    assert (data["pack_size"], data["channels"]) == (48, 1)
    assert "data_dir" not in data
