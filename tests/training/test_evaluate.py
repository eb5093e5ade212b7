import io
import json
import logging
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from other_classes import THREE, make_classifier
from PIL import Image
from rich.console import Console
from small_runs import train

from emotion.analysis.predictions import load_predictions
from emotion.data.classes import canonical
from emotion.data.synthetic import draw_image
from emotion.data.votes import VOTED
from emotion.errors import UserError
from emotion.models.classifier import load_pretrained, save_pretrained
from emotion.shipped import SHIPPED
from emotion.training.checkpoint import load_checkpoint
from emotion.training.evaluate import evaluate, main
from emotion.training.folder import read_json
from emotion.training.publish import publish

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of different seeds on drawn faces."""
    words = ["trainer.max_epochs=1", "split=official", "balance=none", "tta=flip"]
    return [train(tmp_path_factory.mktemp(f"seed{seed}"), *words, f"seed={seed}") for seed in (0, 1)]


def test_checkpoint_alone_gives_the_metrics_of_the_run(runs, tmp_path):
    results = evaluate([runs[0].best], {}, str(tmp_path), "cpu")
    original = json.loads(runs[0].metrics.read_text())
    assert list(results) == ["val", "test"]
    assert results["val"] == original["val"]
    assert results["test"] == original["test"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == results


def test_metrics_with_tta_are_those_of_the_run(runs, tmp_path):
    results = evaluate([runs[0].best], {}, str(tmp_path), "cpu", "flip")
    original = json.loads(runs[0].metrics.read_text())
    assert list(results) == ["val", "test", "val_tta", "test_tta"]
    assert results == {stage: original[stage] for stage in results}
    with np.load(tmp_path / "predictions.npz") as found, np.load(runs[0].predictions) as expected:
        assert found.files == expected.files
        assert all(np.array_equal(found[name], expected[name]) for name in expected.files)
    assert "| Metric | val | test | val_tta | test_tta |" in (tmp_path / "report.md").read_text()


def test_predictions_with_tta_are_the_mean_of_an_image_and_its_mirror_image(runs, tmp_path):
    evaluate([runs[0].best], {}, str(tmp_path), "cpu", "flip")
    checkpoint = load_checkpoint(runs[0].best)
    data = checkpoint.data_module()
    images = torch.from_numpy(data.packed.images[data.rows.test])
    with torch.no_grad():
        expected = (checkpoint.task(images).softmax(1) + checkpoint.task(images.flip(-1)).softmax(1)) / 2
    found = np.load(tmp_path / "predictions.npz")
    np.testing.assert_allclose(found["test_tta_probabilities"], expected, atol=1e-3)
    assert not np.array_equal(found["test_tta_probabilities"], found["test_probabilities"])


def test_probabilities_with_tta_are_averaged_over_the_members(runs, tmp_path):
    evaluate([folder.best for folder in runs], {}, str(tmp_path), "cpu", "flip")
    members = [np.load(folder.predictions)["test_tta_probabilities"].astype(np.float64) for folder in runs]
    found = np.load(tmp_path / "predictions.npz")["test_tta_probabilities"]
    np.testing.assert_allclose(found, np.mean(members, axis=0), atol=2e-3)


class TestPatterns:
    @pytest.fixture
    def call(self, monkeypatch, tmp_path):
        """Runs the command line and returns the checkpoints that it evaluated."""

        def run(*words):
            seen = []
            monkeypatch.setattr("emotion.training.evaluate.evaluate", lambda paths, *_, **__: seen.extend(paths))
            monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
            main()
            return seen

        monkeypatch.chdir(tmp_path)
        return run

    @pytest.fixture
    def files(self, tmp_path):
        # As a pattern, c[1] is c1.
        paths = [tmp_path / "runs" / name / "checkpoints" / "best.ckpt" for name in ("b", "a", "c[1]", "c1")]
        for path in paths:
            path.parent.mkdir(parents=True)
            path.touch()
        return sorted(paths)

    def test_stand_for_all_files_that_match_in_order(self, call, files, tmp_path):
        assert call(f"ckpt={tmp_path}/runs/*/checkpoints/best.ckpt") == files
        assert call(f"ckpt={tmp_path}/**/best.ckpt") == files
        assert call(f"ckpt={tmp_path}/runs/[ab]/*/best.ckpt") == files[:2]

    def test_may_be_relative_and_in_a_list(self, call, files, tmp_path):
        found = call("ckpt=[runs/a/*/best.ckpt,runs/b/checkpoints/best.ckpt]")
        assert [path.resolve() for path in found] == files[:2]

    def test_a_file_whose_name_looks_like_a_pattern_is_that_file(self, call, files):
        (path,) = (path for path in files if "[" in str(path))
        assert call(f"ckpt={path}") == [path]

    @pytest.mark.parametrize("pattern", ["runs/small/*/best.ckpt", "/nowhere/*.ckpt", "runs/**.ckpt", "5"])
    def test_that_match_nothing_get_one_line(self, monkeypatch, capsys, tmp_path, pattern):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", f"ckpt={pattern}"])
        with pytest.raises(SystemExit) as status:
            main()
        assert status.value.code == 2
        missing = {"5": "5: no such file; the networks with a name are small"}  # it could be a name
        assert capsys.readouterr().err == f"error: {missing.get(pattern, f'ckpt={pattern}: no such file')}\n"


def test_progress_is_in_the_log_and_on_a_terminal(runs, tmp_path, monkeypatch, caplog):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True)
    with caplog.at_level(logging.INFO, "emotion"):
        evaluate([runs[0].best], {}, str(tmp_path / "log"), "cpu")
    assert [record.message for record in caplog.records] == ["predicting 21 val images", "predicting 21 test images"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "emotion"):
        evaluate([runs[0].best], {}, str(tmp_path / "tta"), "cpu", "flip")
    assert caplog.messages[2:] == [
        f"predicting 21 {stage} images with test-time augmentation" for stage in ("val", "test")
    ]
    monkeypatch.setattr("emotion.training.results.Console", lambda stderr: terminal)
    evaluate([runs[0].best], {}, str(tmp_path / "bar"), "cpu")
    for stage in ("val", "test"):
        assert re.search(rf"predicting {stage} images .*100%", shown.getvalue())


def test_folder_that_cannot_be_made_is_refused_before_predicting(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("emotion.training.evaluate.predict_stages", lambda *_: pytest.fail("it works"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x: the folder cannot be made \(Not a directory\)$"):
        evaluate([runs[0].best], {}, str(tmp_path / "file/x"), "cpu")


def test_folder_may_have_a_name_like_markup_and_home_is_hidden(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    best = shutil.copy(runs[0].best, tmp_path / "own.ckpt")
    evaluate([best], {}, str(tmp_path / "ev/[/x]"), "cpu")
    assert capsys.readouterr().out.endswith(f"report: {tmp_path}/ev/[/x]/report.html\n")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "ev/[/x]" / name).read_text().replace("\\~", "~")
        assert "~/own.ckpt" in text
        assert str(tmp_path) not in text


def test_several_checkpoints_are_averaged(runs, tmp_path):
    results = evaluate([folder.best for folder in runs], {}, str(tmp_path), "cpu")
    members = [np.load(folder.predictions)["test_probabilities"].astype(np.float64) for folder in runs]
    labels = np.load(runs[0].predictions)["test_labels"]
    mean = np.mean(members, axis=0)
    assert results["test"]["acc"] == pytest.approx((mean.argmax(1) == labels).mean(), abs=0.03)
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npz")["test_probabilities"], mean, atol=2e-3)


def test_a_network_does_not_count_twice_in_an_average(runs, tmp_path):
    copy = shutil.copyfile(runs[0].best, tmp_path / "copy.ckpt")
    with pytest.raises(UserError, match=rf"^ckpt={copy}: the network of {runs[0].best} again; name each network once$"):
        evaluate([runs[0].best, runs[1].best, copy], {}, str(tmp_path), "cpu")


def test_validation_is_left_out_where_the_members_validated_on_different_images(runs, tmp_path):
    results = evaluate([folder.best for folder in runs], {"split": "report"}, str(tmp_path), "cpu")
    assert "val" not in results
    assert results["test"]["num_images"] == 42


def test_validation_is_left_out_if_it_was_trained_on(runs, tmp_path):
    """Its accuracy would be that of training, and the temperature fitted to it too low."""
    same, other = (tmp_path / name for name in ("same", "other"))
    assert list(evaluate([runs[0].best], {}, str(same), "cpu")) == ["val", "test"]
    assert list(evaluate([runs[0].best], {"split": "report"}, str(other), "cpu")) == ["test"]
    first, second = ((folder / "report.md").read_text() for folder in (same, other))
    assert "NLL" in first
    assert "NLL" not in second
    assert "left out: they differ between the networks, or some were trained on them" in second


def test_other_split(runs, tmp_path):
    results = evaluate([runs[0].best], {"split": "test_only"}, str(tmp_path), "cpu")
    assert list(results) == ["test"]
    assert results["test"]["num_images"] == 210


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "read safely"),
        ({"state_dict": {}}, "not a checkpoint of this project"),
        ({"hyper_parameters": {"model": "x"}, "state_dict": {}}, "not a checkpoint of this project"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_gets_one_line(tmp_path, content, message):
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        evaluate([path], {})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_published_file_brings_its_test_time_augmentation(runs, fer_tree, tmp_path):
    settings = {"data": "fer2013", "data_dir": str(fer_tree), "split": "test_only"}

    def tested(*paths, **options):
        return evaluate(paths, settings, str(tmp_path / f"out{len(paths)}{options}"), "cpu", **options)

    own = tested("small")
    assert list(own) == ["test", "test_tta"]
    assert own == tested("small", tta="flip")
    assert list(tested("small", tta="none")) == ["test"]
    assert list(tested("small", runs[0].best)) == ["test"]  # a checkpoint has none


def test_own_images_without_parts_are_all_tested(runs, tmp_path, caplog):
    for name in ("happy", "sad"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("L", (48, 48), 60 + len(name)).save(folder / f"{name}.png")
    own = {"data": "folder", "data_dir": str(tmp_path / "photos")}
    results = evaluate(["small"], own, str(tmp_path / "out"), "cpu", tta="none")
    assert results["test"]["num_images"] == 2
    assert caplog.messages[0] == "split=test_only: the images are not divided into parts, so all of them are tested"
    record = read_json(tmp_path / "out/evaluation.json")
    assert record["split"] == "test_only"
    published = load_pretrained(SHIPPED / "small.safetensors")
    tones = torch.tensor([60.0 + len(name) for name in ("happy", "sad")]).byte()
    with torch.inference_mode():
        logits = published.network(tones.view(2, 1, 1, 1).expand(2, 1, 48, 48))
    with np.load(tmp_path / "out/predictions.npz") as file:
        expected = (logits / published.card.temperature).softmax(1).numpy()
        np.testing.assert_allclose(file["test_probabilities"].astype(float), expected, atol=1e-3)
    assert record["teachers"] == ["resnet_small, seed 0, 858979ab", "face_mobilenet_ft, seed 0, 2fdb8cd3"]
    (tmp_path / "photos/sad").rename(tmp_path / "sad")
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        for name in ("happy", "sad"):
            source = tmp_path / "sad" if name == "sad" else tmp_path / "photos/happy"
            shutil.copytree(source, tmp_path / "parts" / part / name)
    with pytest.raises(UserError, match=r"^split=official: the data has no val images .*test_only tests all images$"):
        evaluate(["small"], {"data": "folder", "data_dir": str(tmp_path / "parts")}, str(tmp_path / "other"), "cpu")


def test_illegal_settings_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="split=foo"):
        evaluate([tmp_path / "missing.ckpt"], {"split": "foo"})
    with pytest.raises(UserError, match="ckpt: missing"):
        evaluate([], {})
    with pytest.raises(UserError, match="device=quantum"):
        evaluate([tmp_path / "missing.ckpt"], {}, device="quantum")
    for device in ("meta", "cuda:99"):
        with pytest.raises(UserError, match=f"device={device}: not a device that PyTorch has here"):
            evaluate([tmp_path / "missing.ckpt"], {}, device=device)
    with pytest.raises(UserError, match=r"tta=mirror: .*flip, shifts, ten_crop") as error:
        evaluate([tmp_path / "missing.ckpt"], {}, tta="mirror")
    assert "\n" not in str(error.value)


@pytest.fixture
def seen_line(capsys):
    """Returns the line that the last evaluation printed about images that were trained on."""
    return lambda: next(line for line in capsys.readouterr().out.splitlines() if "trained on" in line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack_size": 64}, "pack_size=64: has no effect; it needs data=folder or data=table"),
        ({"split_seed": 1}, "split_seed=1: has no effect; it needs split=report or split=random"),
        ({"split": "report", "fold": 1}, "fold=1: has no effect; it needs folds="),
    ],
)
def test_changes_of_the_data_without_effect_are_refused(changes, message, runs):
    with pytest.raises(UserError, match=f"^{message}$"):
        evaluate([runs[0].best], changes)


def test_images_that_were_trained_on_are_counted(runs, tmp_path, seen_line):
    """Drawn faces of one seed are all different, so that only tests on all of the images meet those of the training."""
    evaluate([runs[0].best], {}, str(tmp_path / "own"), "cpu")
    assert seen_line() == "test images trained on: 0 of 21, pixel for pixel"
    evaluate([runs[0].best], {"split": "test_only"}, str(tmp_path / "all"), "cpu")
    trained = len(load_checkpoint(runs[0].best).data_module().rows.train)
    assert seen_line() == f"test images trained on: {trained} of 210, pixel for pixel"
    assert f"{trained} of 210, pixel for pixel" in (tmp_path / "all/report.md").read_text()


def test_the_headline_and_the_terminal_give_the_accuracy_on_images_that_were_not_trained_on(runs, tmp_path, capsys):
    evaluate([runs[0].best], {"split": "test_only"}, str(tmp_path / "all"), "cpu", "flip")
    trained = load_checkpoint(runs[0].best).data_module().rows.train
    stages = load_predictions(tmp_path / "all" / "predictions.npz")
    held_out = np.setdiff1d(np.arange(210), trained)
    names = load_checkpoint(runs[0].best).data_module(split="test_only").packed.names[held_out]
    plain, augmented = (
        (own.predicted == own.labels)[np.isin(own.ids, names)].mean() for own in (stages["test"], stages["test_tta"])
    )
    sentence = (
        f"{len(trained)} test images are training images, so this accuracy is too high; on the other "
        f"{len(held_out)} it is {plain:.1%}."
    )
    assert sentence in capsys.readouterr().out.splitlines()
    page = (tmp_path / "all/report.md").read_text()
    assert f", on 210 images. {sentence}" in page
    row = f"test {plain:.4f}, test_tta {augmented:.4f}, {len(held_out)} images"
    assert f"| accuracy on the other test images | {row} |" in page.replace(r"\_", "_")
    evaluate([runs[0].best], {}, str(tmp_path / "own"), "cpu")
    assert "training images, so" not in (tmp_path / "own/report.md").read_text() + capsys.readouterr().out


def test_a_test_on_training_images_alone_says_so(drawn, tmp_path, capsys):
    run, faces = drawn
    data = load_checkpoint(run.best).data_module()
    for row in data.rows.train:
        file = tmp_path / "known" / data.packed.names[row]
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(faces / data.packed.names[row], file)
    evaluate([run.best], {"data_dir": str(tmp_path / "known"), "split": "test_only"}, str(tmp_path / "out"), "cpu")
    sentence = "All test images are training images, so this accuracy says nothing about new images."
    assert sentence in capsys.readouterr().out.splitlines()


def test_the_shipped_network_says_what_it_was_trained_on(drawn, tmp_path, seen_line):
    faces = tmp_path / "faces"
    for name in ("happy", "sad"):
        shutil.copytree(drawn[1] / "a", faces / name)
    evaluate(["small"], {"data": "folder", "data_dir": str(faces)}, str(tmp_path / "out"), "cpu", "none")
    assert seen_line() == (
        "test images trained on: not known (its file says: data=fer2013 split=official; some of these images may be "
        "among them)"
    )


def test_images_that_one_member_was_trained_on_count_once(runs, tmp_path, seen_line):
    evaluate([run.best for run in runs], {"split": "test_only"}, str(tmp_path), "cpu")
    rows = [load_checkpoint(run.best).data_module().rows.train for run in runs]
    assert seen_line() == f"test images trained on: {len(np.union1d(*rows))} of 210, pixel for pixel"


def changed(run, path, change):
    content = torch.load(run.best, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_images_that_were_trained_on_are_counted_without_the_training_data(runs, tmp_path, seen_line):
    trained = len(load_checkpoint(runs[0].best).data_module().rows.train)
    gone = {"data": "folder", "data_dir": str(tmp_path / "gone")}
    moved = changed(runs[0], tmp_path / "a.ckpt", lambda content: content["datamodule_hyper_parameters"].update(gone))
    data = {"data": "synthetic", "data_dir": None, "split": "test_only"}
    evaluate([moved], data, str(tmp_path / "out"), "cpu")
    assert seen_line() == f"test images trained on: {trained} of 210, pixel for pixel"


def test_older_checkpoints_do_not_keep_their_training_images(runs, tmp_path, seen_line):
    older = changed(runs[0], tmp_path / "a.ckpt", lambda content: content.pop("EmotionDataModule"))
    evaluate([older], {}, str(tmp_path / "out"), "cpu")
    assert seen_line().startswith("test images trained on: not known (")


class TestVotes:
    """Compares predictions with the votes of people; drawn faces have names of their own."""

    HEADER = f"image,{','.join(VOTED)}"

    @pytest.fixture
    def data(self, runs):
        return load_checkpoint(runs[0].best).data_module()

    @pytest.fixture
    def ballots(self, data, tmp_path):
        """A file in which nine people see what the labels of the test images say, and one sees contempt."""
        path = tmp_path / "votes.csv"
        lines = [self.HEADER]
        for row in data.rows.test:
            counts = dict.fromkeys(VOTED, 0) | {"contempt": 1}
            (said,) = (name for name in VOTED if canonical(name) == data.classes[data.packed.labels[row]])
            counts[said] = 9
            name = str(data.packed.names[row]).rsplit("/", 1)[-1]
            lines.append(f"{name},{','.join(map(str, counts.values()))}")
        path.write_text("\n".join(lines))
        return path

    def test_are_in_metrics_report_and_on_the_terminal(self, runs, tmp_path, ballots, capsys):
        results = evaluate([runs[0].best], {"votes": str(ballots)}, str(tmp_path / "out"), "cpu", "flip")
        assert list(results) == ["val", "test", "val_tta", "test_tta", "votes"]
        assert json.loads((tmp_path / "out/metrics.json").read_text()) == results
        assert list(results["votes"]) == ["none", "several views"]
        private = results["votes"]["none"]["PrivateTest"]
        assert private["people"]["images"] == private["people"]["strong"] == 21
        assert private["clear"] == private["same_right"] == results["test"]["acc"]
        assert private["people"]["pairs"] == pytest.approx(36 / 45)
        wrong = 1 - results["test"]["acc"]
        assert private["votes"] == pytest.approx(0.9 * (1 - wrong))
        report = (tmp_path / "out/report.md").read_text()
        assert "## What people would have said" in report
        assert "two people agree in 80.0%." in report
        assert "This page only reads their votes" in report
        shown = capsys.readouterr().out
        assert "8 of 10" in shown
        assert f"{private['votes']:.4f}" in shown

    def test_change_nothing_else(self, runs, tmp_path, ballots):
        folders = [tmp_path / name for name in ("with", "without")]
        results = [
            evaluate([runs[0].best], changes, str(folder), "cpu")
            for folder, changes in zip(folders, ({"votes": str(ballots)}, {}), strict=True)
        ]
        assert {key: value for key, value in results[0].items() if key != "votes"} == results[1]
        with np.load(folders[0] / "predictions.npz") as found, np.load(folders[1] / "predictions.npz") as expected:
            assert all(np.array_equal(found[name], expected[name]) for name in expected.files)
        assert "What people" not in (folders[1] / "report.md").read_text()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file; the votes of FER+ are a CSV file with image,neutral,"),
            (f"{HEADER}\na.jpg,1,2", "line 2: broken row (expected an image and ten whole numbers from 0)"),
            (f"{HEADER}\na.jpg,1,2,0,0,0,0,0,0,0,0", "no votes on any of the 42 images, as "),
            (
                f"Usage,Image name,{','.join(VOTED)}\nTraining,a.png,1,2,0,0,0,0,0,0,0,0",
                "FER+ is for data=fer2013_csv, whose rows it",
            ),
        ],
    )
    def test_that_do_not_fit_are_refused_before_predicting(self, runs, tmp_path, monkeypatch, content, message):
        monkeypatch.setattr("emotion.training.evaluate.predict_stages", lambda *_: pytest.fail("it works"))
        path = tmp_path / "own.csv"
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError) as caught:
            evaluate([runs[0].best], {"votes": str(path)}, str(tmp_path / "out"), "cpu")
        assert str(caught.value).startswith(str(path))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_on_none_of_the_classes_are_refused(self, tmp_path, ballots):
        made, file = make_classifier(THREE), tmp_path / "three.safetensors"
        save_pretrained(file, made.network, made.card)
        for name in THREE:
            folder = tmp_path / "moods" / name
            folder.mkdir(parents=True)
            Image.new("L", (48, 48), 90).save(folder / f"PrivateTest_{name}.png")
        changes = {"data": "folder", "data_dir": str(tmp_path / "moods"), "split": "test_only", "votes": str(ballots)}
        with pytest.raises(UserError, match=r"^votes: FER\+ has none for engaged, bored, confused; it has neutral, "):
            evaluate([file], changes, str(tmp_path / "out"), "cpu")


def test_a_run_without_test_images_is_evaluated_on_its_validation_images(tmp_path):
    folder = train(tmp_path / "run", "trainer.max_epochs=1", "split=random", "test_fraction=0")
    assert "test" not in read_json(folder.metrics)
    assert list(evaluate([folder.best], {}, str(tmp_path / "out"), "cpu")) == ["val"]
    assert read_json(tmp_path / "out/evaluation.json")["seen"] == "there are no test images"
    with pytest.raises(UserError, match=r"^split=random: has no images to evaluate; split=test_only takes all$"):
        evaluate([folder.best], {"split": "random", "split_seed": 5}, str(tmp_path / "other"), "cpu")
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run on a folder of one's own, of which a random part tests; the folder."""
    root = tmp_path_factory.mktemp("drawn")
    for number in range(90):
        path = root / "faces" / ("a", "b", "c")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(number % 3, seed=5, index=number)).save(path)
    words = ["data=folder", f"data_dir={root / 'faces'}", "split=random", "trainer.max_epochs=1"]
    return train(root / "run", *words), root / "faces"


def test_images_that_the_network_saw_do_not_test_it_after_the_data_has_changed(drawn, tmp_path, seen_line):
    run, faces = drawn
    evaluate([run.path], {}, str(tmp_path / "own"), "cpu")
    assert seen_line().startswith("test images trained on: 0 of 18")
    message = r"was trained on \d+ of the images that validate or test now, since images or settings of the split"
    with pytest.raises(UserError, match=message):
        evaluate([run.path], {"exclude": ["c"]}, str(tmp_path / "fewer"), "cpu")
    Image.fromarray(draw_image(0, seed=5, index=500)).save(faces / "a" / "0a.png")
    for refused in (
        lambda: evaluate([run.path], {}, str(tmp_path / "more"), "cpu"),
        lambda: publish(run.path, tmp_path / "more.safetensors"),
    ):
        with pytest.raises(UserError, match=message):
            refused()
    assert not (tmp_path / "more").exists()
    assert not (tmp_path / "more.safetensors").exists()
    evaluate([run.path], {"split": "test_only"}, str(tmp_path / "all"), "cpu")
    assert seen_line().startswith("test images trained on: 54 of 91")
    (faces / "a" / "0a.png").unlink()
    assert publish(run.path, tmp_path / "again.safetensors").card.facts["figures"]["All"]["images"] == 18


@pytest.mark.parametrize("word", ["flip=0.5", "balance=offline", "mixup=1"])
def test_settings_of_training_are_refused(word, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "ckpt=small", word])
    with pytest.raises(SystemExit):
        main()
    assert f"no key '{word.split('=')[0]}'" in capsys.readouterr().err
