import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from emotion.analysis.gradcam import heatmaps
from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.onnx import OnnxNetwork
from emotion.models.pretrained import Card, Classifier, load_pretrained, save_pretrained
from emotion.models.registry import build_network
from emotion.pretrained import SHIPPED
from emotion.training.export import accuracy, export_network, export_onnx, quantize_onnx

RESNET = {"family": "resnet", "image_size": 16, "normalize": "unit", "blocks": [1, 1], "width": 8, "stem_stride": 1}
CNN = {"family": "cnn", "image_size": 16, "normalize": "unit", "blocks": [1, 1]}
VGG = {"family": "torchvision", "backbone": "vgg16", "unfreeze": 0, "image_size": 32, "normalize": "imagenet"}
TIMM = {"family": "timm", "backbone": "resnet10t", "unfreeze": "all", "image_size": 40, "normalize": "imagenet"}


def classifier_of(settings, views="none", temperature: float = 0.8) -> Classifier:
    torch.manual_seed(0)
    network = build_network(**settings)
    network.train()
    with torch.no_grad():
        for _ in range(3):  # so that the statistics are not those it begins with
            network(torch.rand(8, 1, 20, 20))
    return Classifier(network, Card(settings, temperature, views, side=20))


def drawn(number: int, side: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (number, side, side), np.uint8)


def expected(classifier: Classifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return classifier(torch.from_numpy(images)[:, None]).numpy()


@pytest.mark.parametrize("settings", [RESNET, CNN, pytest.param(VGG, marks=pytest.mark.slow), TIMM])
def test_the_file_answers_as_pytorch_does_for_any_number_of_faces(settings, tmp_path: Path) -> None:
    classifier = classifier_of(settings)
    exported = export_onnx(classifier, drawn(70), tmp_path / "deep" / "net.onnx")
    network = OnnxNetwork(exported.path)
    assert exported.difference < 1e-4
    assert exported.agreement > 0.98
    for number in (1, 2, 65):
        assert np.abs(network(drawn(number)) - expected(classifier, drawn(number))).max() < 1e-4
    assert (network.name, network.side, network.views) == ("net", 20, "none")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("views", ["none", "flip", "shifts", "ten_crop"])
def test_views_are_inside(views, tmp_path: Path) -> None:
    classifier = classifier_of(RESNET, views)
    export_onnx(classifier, drawn(3), tmp_path / "net.onnx")
    network = OnnxNetwork(tmp_path / "net.onnx")
    assert network.views == views
    assert np.abs(network(drawn(5)) - expected(classifier, drawn(5))).max() < 1e-5
    if views != "none":
        plain = expected(classifier_of(RESNET), drawn(5))
        assert np.abs(network(drawn(5)) - plain).max() > 1e-4


@pytest.mark.parametrize("views", ["none", "flip"])
def test_its_heatmaps_are_hirescams(views, tmp_path: Path) -> None:
    settings = {**RESNET, "image_size": 20}
    classifier = classifier_of(settings, views)
    export_onnx(classifier, drawn(3), tmp_path / "net.onnx")
    classes = np.array([0, 3, 6, 2])
    ours = OnnxNetwork(tmp_path / "net.onnx").heatmaps(drawn(4), classes)
    theirs = heatmaps(classifier.network, drawn(4)[:, None], classes)
    assert ours.shape == (4, 20, 20)
    assert np.abs(ours - theirs).max() < 1e-3


def test_heads_that_flatten_have_no_class_activation_maps(tmp_path: Path) -> None:
    export_onnx(classifier_of(CNN), drawn(3), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="class activation maps"):
        OnnxNetwork(tmp_path / "net.onnx").heatmaps(drawn(1), np.array([0]))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="cannot be written as ONNX"):
        export_onnx(classifier_of(RESNET), drawn(2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["garbage", "half", "foreign", "classes"])
def test_other_files_are_refused_in_a_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    content = (SHIPPED / "small.onnx").read_bytes()
    model = onnx.load_from_string(content)
    if damage == "foreign":
        del model.metadata_props[:]
    if damage == "classes":
        (own,) = (entry for entry in model.metadata_props if entry.key == "emotion")
        own.value = json.dumps(json.loads(own.value) | {"classes": CLASSES[::-1]})
    damaged = {"garbage": b"no network", "half": content[: len(content) // 2]}
    path.write_bytes(damaged.get(damage, model.SerializeToString()))
    with pytest.raises(UserError) as error:
        OnnxNetwork(path)
    assert str(error.value).startswith(f"{path}: not a network that `emotion export` wrote (")
    assert "\n" not in str(error.value)


def test_a_device_that_is_not_there() -> None:
    for device in ("cuda", "tpu"):
        with pytest.raises(UserError, match=f"device={device}"):
            OnnxNetwork(SHIPPED / "small.onnx", device)


def test_the_shipped_file_is_that_of_the_weights() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (32, 48, 48), np.uint8)
    network, classifier = OnnxNetwork(SHIPPED / "small.onnx"), load_pretrained()
    assert np.abs(network(faces) - expected(classifier, faces)).max() < 1e-5
    assert network.views == classifier.card.views


@pytest.mark.slow
def test_eight_bits_are_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    from emotion.data.synthetic import draw_image

    faces = np.stack([draw_image(index % 7, 0, index) for index in range(140)])
    small = tmp_path / "int8.onnx"
    quantize_onnx(SHIPPED / "small.onnx", faces[:70], small)
    before, after = OnnxNetwork(SHIPPED / "small.onnx"), OnnxNetwork(small)
    assert small.stat().st_size < 0.3 * (SHIPPED / "small.onnx").stat().st_size
    assert 0 < np.abs(before(faces) - after(faces)).mean() < 0.02
    assert (before(faces).argmax(1) == after(faces).argmax(1)).mean() > 0.95
    assert accuracy(after, faces, before(faces).argmax(1)) > 0.95
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert any(own.data_type == onnx.TensorProto.INT8 for own in onnx.load(small).graph.initializer)


def test_without_fer2013_drawn_faces_do_but_not_for_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(tmp_path / "mine.safetensors", classifier_of({**RESNET}).network, Card(RESNET))
    with pytest.raises(UserError, match="data_dir"):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {}, int8=True))
    with pytest.raises(UserError, match="tta=five"):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {}, views="five"))
    assert not (tmp_path / "out.onnx").exists()
    (line,) = export_network("mine.safetensors", tmp_path / "out.onnx", {}, views="flip")
    assert "560 validation images of synthetic" in line
    assert OnnxNetwork(tmp_path / "out.onnx").views == "flip"
    _, second = export_network(
        "mine.safetensors", tmp_path / "out.onnx", {"data": "synthetic", "synthetic_images": 300}, int8=True
    )
    assert "validation accuracy" in second
    assert (tmp_path / "out-int8.onnx").is_file()


def test_an_onnx_file_is_no_source(tmp_path: Path) -> None:
    export_onnx(classifier_of(RESNET), drawn(2), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="PyTorch is needed"):
        list(export_network(str(tmp_path / "net.onnx"), tmp_path / "out.onnx", {}))
