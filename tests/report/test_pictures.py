from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import data_module, make_network
from PIL import Image

from emotion.analysis.document import Block, ImageBlock, Paragraph, Table
from emotion.analysis.figures import confusion_matrix_figure
from emotion.analysis.predictions import confident_mistakes
from emotion.data.classes import CLASSES
from emotion.report import pictures
from emotion.report.configurations import group
from emotion.report.pictures import Album, configuration_blocks, mistakes
from emotion.report.runs import Run

from .conftest import MakeRun, make_predictions

NEUTRAL, SAD = CLASSES.index("neutral"), CLASSES.index("sad")
DRAWN = ["data=synthetic", "synthetic_images=210", "model=cnn_111"]


def show(run: Run, folder: Path) -> list[Block]:
    return configuration_blocks(group([run])[0][0], folder)


def captions(blocks: list[Block]) -> list[str]:
    return [block.caption for block in blocks if isinstance(block, ImageBlock)]


def paragraphs(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks if isinstance(block, Paragraph)]


@pytest.fixture
def drawn_run(make_run: MakeRun) -> Run:
    """A run on drawn faces, with predictions for images that the data contains."""
    run = make_run(*DRAWN, images=42)
    data = data_module(data="synthetic", synthetic_images=210)
    return replace(run, test=replace(run.test, ids=data.packed.names[data.rows.test]))


@pytest.mark.parametrize("count", [1, 8, 24, 10_000])
def test_mistakes_start_with_neutral_against_sad(count: int) -> None:
    test = make_predictions(700, 0.4, seed=3)
    shown = mistakes(test, count)
    confidence, predicted = test.stored.max(1), test.predicted
    wrong = [row for row in range(700) if predicted[row] != test.labels[row]]
    wrong.sort(key=lambda row: -confidence[row])
    pairs = [row for row in wrong if {predicted[row], test.labels[row]} == {NEUTRAL, SAD}]
    front = pairs[: count // 2]
    assert shown.tolist() == (front + [row for row in wrong if row not in front])[:count]
    assert len(shown) == min(count, 420)


def test_network_without_mistakes_shows_none() -> None:
    assert mistakes(make_predictions(70, 1.0), 8).tolist() == []


@pytest.mark.usefixtures("undrawn")
def test_missing_curves_and_data_have_a_message_each(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(f"data_dir={tmp_path / 'gone'}", images=70, curves=False)
    blocks = show(run, tmp_path / "out")
    assert captions(blocks) == [
        "Confusion matrix, test images",
        "Reliability before and after the temperature, test images",
    ]
    curves, data = paragraphs(blocks)
    assert curves == "No learning curves are shown: the run has no logs that can be read."
    assert data.startswith("No images are shown, since the data is missing: ")
    assert str(tmp_path / "gone") in data


def test_learning_curves_are_drawn_from_the_logs(make_run: MakeRun, tmp_path: Path) -> None:
    history = {"val/loss": [1.5, 1.2], "val/acc": [0.4, 0.5]}
    blocks = show(make_run("data_dir=gone", images=70, history=history), tmp_path / "out")
    (curves,) = (block for block in blocks if isinstance(block, ImageBlock) and block.caption == "Learning curves")
    with Image.open(curves.file) as image:
        assert image.width > 2 * image.height


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/data", "a\0b"])
def test_invalid_paths_are_missing_data(make_run: MakeRun, tmp_path: Path, path: str) -> None:
    changes = {"data": "folder", "data_dir": path, "weights": path}
    run = make_run("model=vgg16_ft", "unfreeze=3", images=70, changes=changes)
    assert paragraphs(show(run, tmp_path / "out"))[-1].startswith("No images are shown, since the data is missing: ")


@pytest.mark.usefixtures("undrawn")
def test_images_of_other_data_are_not_shown(make_run: MakeRun, tmp_path: Path) -> None:
    blocks = show(make_run(*DRAWN, images=42), tmp_path / "out")
    assert "test/" in paragraphs(blocks)[-1]
    assert paragraphs(blocks)[-1].endswith("not among the 210 images of the data")


def test_run_without_its_checkpoint_has_no_heatmaps(drawn_run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(drawn_run.folder.path / "curves.png")
    blocks = show(drawn_run, tmp_path / "out")
    assert captions(blocks)[0] == "Learning curves"
    assert captions(blocks)[-1] == "The most confident mistakes, neutral against sad first"
    (missing,) = paragraphs(blocks)
    assert missing == f"No heatmaps are shown: {drawn_run.folder.best}: the checkpoint is missing"


def test_heatmaps_explain_classes_and_mistakes(drawn_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = make_network(
        family="cnn", backbone=None, blocks=[1, 1, 1], unfreeze=None, image_size=48, normalize="unit"
    )
    checkpoint = SimpleNamespace(task=SimpleNamespace(inference_network=network))
    explained: list[list[int]] = []

    def explain(network: torch.nn.Module, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        explained.append(classes.tolist())
        return heatmaps(network, images, classes)

    heatmaps = pictures.heatmaps
    monkeypatch.setattr(pictures, "heatmaps", explain)
    monkeypatch.setattr(pictures, "load_checkpoint", lambda path: checkpoint)
    drawn_run.folder.best.parent.mkdir()
    drawn_run.folder.best.touch()
    blocks = show(drawn_run, tmp_path / "out")
    assert captions(blocks)[-2:] == [
        "Grad-CAM (HiResCAM): the most confident correct prediction of each class",
        "Grad-CAM (HiResCAM): mistakes, for the predicted class",
    ]
    assert explained[0] == sorted(set(drawn_run.test.labels[drawn_run.test.predicted == drawn_run.test.labels]))
    assert explained[1] == drawn_run.test.predicted[mistakes(drawn_run.test, 8)].tolist()


@pytest.mark.usefixtures("undrawn")
def test_facts_name_settings_folders_and_command(drawn_run: Run, tmp_path: Path) -> None:
    table = show(drawn_run, tmp_path / "out")[0]
    assert isinstance(table, Table)
    facts = dict(table.rows)
    assert facts["Differs from the recipe"] == "drawn faces; synthetic_images=210"
    assert facts["Folders"] == str(drawn_run.folder.path)
    command = "python train.py experiment=table1 model=cnn_111 data=synthetic seed=0 synthetic_images=210"
    assert facts["Command"] == command


def test_quantized_figures_are_small_and_look_the_same(tmp_path: Path) -> None:
    figure = confusion_matrix_figure(make_predictions(700, 0.5).matrix(), CLASSES)
    block = Album(tmp_path / "out", "01").draw("Confusion", "confusion", figure)
    assert block == ImageBlock("Confusion", tmp_path / "out" / "01-confusion.png")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["01-confusion.png"]
    figure.savefig(tmp_path / "full.png", dpi=120)
    with Image.open(tmp_path / "full.png") as full, Image.open(block.file) as small:
        difference = np.abs(np.asarray(full.convert("RGB"), int) - np.asarray(small.convert("RGB"), int))
    assert difference.mean() < 2
    assert block.file.stat().st_size < 0.5 * (tmp_path / "full.png").stat().st_size


@pytest.mark.parametrize("classes", [("bored", "calm", "engaged"), ("happy", "neutral", "surprise")])
def test_data_without_neutral_or_sad_has_no_such_question(classes: tuple[str, ...]) -> None:
    test = make_predictions(90, 0.4, classes=classes)
    assert mistakes(test, 8).tolist() == confident_mistakes(test, 8).tolist()


def test_neutral_against_sad_is_found_by_name_not_by_position() -> None:
    classes = ("sad", "x", "y", "z", "neutral")
    test = make_predictions(500, 0.3, classes=classes)
    shown = mistakes(test, 8)[:4]
    assert {classes[label] for label in (*test.labels[shown], *test.predicted[shown])} == {"sad", "neutral"}


def test_figures_of_other_classes(make_run: MakeRun, tmp_path: Path) -> None:
    classes = ("bored", "calm", "a very long name of a class that is engaged")
    run = make_run(*DRAWN, images=42, classes=classes)
    data = data_module(data="synthetic", synthetic_images=210)
    run = replace(run, test=replace(run.test, ids=data.packed.names[data.rows.test]))
    blocks = show(run, tmp_path / "out")
    assert captions(blocks)[-1] == "The most confident mistakes"
    table = blocks[1]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == list(classes)
    assert pictures._titles(run.test)[2].count("a very long name o…s engaged") >= 1


@pytest.mark.usefixtures("undrawn")
def test_missing_folder_of_own_data_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("data=folder", f"data_dir={tmp_path / 'gone'}", images=70)
    message = paragraphs(show(run, tmp_path / "out"))[-1]
    assert message == (
        f"No images are shown, since the data is missing: {tmp_path / 'gone'}: no such folder or file on this machine"
    )
