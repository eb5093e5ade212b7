"""Networks of colour images: red and blue faces of the same grey are told apart, from the checkpoint to the service."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from other_classes import make_classifier
from PIL import Image
from small_runs import train
from typer.testing import CliRunner

import emotion
from emotion import cli
from emotion.analysis.gradcam import heatmaps
from emotion.errors import UserError
from emotion.inference.explain import explain
from emotion.inference.service import make_service
from emotion.models.classifier import Classifier, save_pretrained
from emotion.models.onnx import OnnxNetwork
from emotion.training.export import export_network, export_onnx
from emotion.training.publish import publish

pytestmark = pytest.mark.export

CLASSES = ("red", "blue")
SHIFTS = {"red": (59, -30, 0), "blue": (0, -20, 103)}
"""What is added to red, green and blue; each sum, weighted as in the conversion to grey, is 0."""
SIDE = 80
NAMES = ("best.ckpt", "mine.safetensors", "mine.onnx", "mine-int8.onnx")


def face(name: str, number: int) -> NDArray[np.uint8]:
    """An image of noise, uint8 [60, 60, 3], whose grey values say nothing of its class."""
    grey = np.random.default_rng(number).integers(60, 140, (60, 60, 1))
    return np.asarray(grey + SHIFTS[name], np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a network that is trained on colour images, by their names; `lines` are those of the export."""
    folder = tmp_path_factory.mktemp("colour")
    for part, numbers in {"train": range(40), "val": range(40, 50), "test": range(50, 54)}.items():
        for name in CLASSES:
            (folder / "data" / part / name).mkdir(parents=True)
            for number in numbers:
                Image.fromarray(face(name, number)).save(folder / "data" / part / name / f"{number}.png")
    words = ["data=folder", f"data_dir={folder / 'data'}", "classes=[red,blue]", "split=official", "balance=none"]
    words += ["model=timm", "backbone=test_resnet", "weights=none", f"image_size={SIDE}", "batch_size=16", "lr=0.01"]
    best = train(folder / "run", *words, "augment=false", "warmup_epochs=0", "trainer.max_epochs=4").best
    made = {"best.ckpt": best} | {name: folder / name for name in NAMES[1:]}
    publish(best, made["mine.safetensors"])
    list(export_network(str(best), made["mine.onnx"], {}, int8=True))
    return made


def test_red_and_blue_are_the_same_grey() -> None:
    grey = [np.asarray(Image.fromarray(face(name, 0)).convert("L"), int) for name in CLASSES]
    assert np.abs(grey[0] - grey[1]).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_colour_reaches_the_network(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    recognizer = emotion.load(files[name])
    (network,) = recognizer.networks
    assert (network.side, network.channels, network.classes) == (SIDE, 3, CLASSES)
    wanted, images = [], []
    for number in range(100, 110):
        wanted.append(CLASSES[number % 2])
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(face(wanted[-1], number)).save(images[-1])
    result = CliRunner().invoke(
        cli.app, ["predict", *map(str, images), "--no-detect", "--csv", "--ckpt", str(files[name])]
    )
    assert result.exit_code == 0, result.output
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert [rows[path.name]["label"] for path in images] == wanted
    with TestClient(make_service({"own": recognizer})) as client:
        uploads = [("image", path.read_bytes()) for path in images]
        answers = client.post("/predict?detect=false", files=uploads).json()["images"]
    assert [answer["faces"][0]["label"] for answer in answers] == wanted


def test_files_give_the_same_probabilities(files: dict[str, Path]) -> None:
    red = face("red", 0)
    (published,) = emotion.load(files["mine.safetensors"], tta="none").networks
    (checkpoint,) = emotion.load(files["best.ckpt"]).networks
    exported = OnnxNetwork(files["mine.onnx"])
    given = np.stack([np.asarray(Image.fromarray(red).resize((SIDE, SIDE)))])  # [1, SIDE, SIDE, 3]
    assert np.abs(checkpoint(given) - exported(given)).max() < 1e-4
    logits = np.log(checkpoint(given)) / published._classifier.card.temperature
    assert published(given) == pytest.approx(torch.from_numpy(logits).softmax(1).numpy(), abs=0.01)
    assert published.heatmaps(given, np.array([0])).shape == (1, SIDE, SIDE)
    _, (shown,) = explain(red, files["best.ckpt"], ["blue"], detect=False)
    assert shown.label == "red"


def test_the_accuracy_in_8_bits_is_measured_on_colour_images(files: dict[str, Path], tmp_path: Path) -> None:
    """A published file does not name its data; the images that the user names get its size and colour."""
    data = {"data": "folder", "data_dir": str(files["mine.onnx"].parent / "data")}
    first, second = export_network(str(files["mine.safetensors"]), tmp_path / "net.onnx", data, int8=True)
    assert "on 20 validation images of folder" in first
    assert second.endswith("validation accuracy 1.0000, 1.0000 in float32")


def test_grey_and_colour_networks_are_averaged(files: dict[str, Path], tmp_path: Path) -> None:
    grey = make_classifier(CLASSES)
    save_pretrained(tmp_path / "grey.safetensors", grey.network, grey.card)
    export_onnx(grey, np.zeros((1, 48, 48), np.uint8), tmp_path / "grey.onnx")
    names = [tmp_path / "grey.onnx", files["mine.onnx"], tmp_path / "grey.safetensors"]
    both, alone = emotion.load(names), [emotion.load(name) for name in names]
    image = face("blue", 3)
    (averaged,) = both.predict(image, detect=False)
    single = [[*own.predict(image, detect=False)[0].probabilities.values()] for own in alone]
    assert [*averaged.probabilities.values()] == pytest.approx(np.mean(single, axis=0).tolist(), abs=1e-6)
    kinds = {key: faces.shape for key, faces in both.detect(image, detect=False).faces.items()}
    assert kinds == {(48, 1): (1, 48, 48), (SIDE, 3): (1, SIDE, SIDE, 3)}


def test_heatmaps_of_an_onnx_file_for_colour_images(tmp_path: Path) -> None:
    grey, path = make_classifier(CLASSES), tmp_path / "net.onnx"
    colour = Classifier(grey.network, replace(grey.card, channels=3))
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    assert export_onnx(colour, images, path).difference < 1e-4
    ids, planes = np.array([0, 1, 1, 0]), images.transpose(0, 3, 1, 2)
    found = OnnxNetwork(path).heatmaps(images, ids)
    assert np.abs(found - heatmaps(grey.network, planes, ids)).max() < 1e-3
    detected = emotion.load(path).detect(images[0], detect=False)
    assert np.abs(emotion.load(path).heatmaps(detected, ["red"]) - found[:1]).max() < 1e-5


@pytest.mark.parametrize(
    ("channels", "reason"), [(1, rf"its faces are not {SIDE} x {SIDE}\)"), (2, r"channels=2: 1 \(grey\) or 3 \(RGB\)")]
)
def test_other_channels_than_those_of_the_file_are_refused(
    channels: int, reason: str, files: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(files["mine.onnx"])
    card = json.loads(model.metadata_props[0].value)
    assert card["channels"] == 3
    model.metadata_props[0].value = json.dumps(card | {"channels": channels})
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(UserError, match=reason):
        OnnxNetwork(tmp_path / "net.onnx")
