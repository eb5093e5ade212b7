import json
import shutil
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from builders import make_network
from numpy.typing import NDArray
from other_classes import FERPLUS, STRANGE, THREE, make_classifier
from PIL import Image
from pytorch_grad_cam import HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from small_runs import TINY, train
from torch import nn

import emotion
from emotion.analysis.gradcam import heatmaps
from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.classifier import Card, Classifier, load_pretrained, save_pretrained
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import SHIPPED
from emotion.training.export import _averaging_head, export_network, export_onnx, quantize_onnx

pytestmark = pytest.mark.export
MORE = pytest.mark.check

RESNET = {"family": "resnet", "image_size": 16, "normalize": "unit", "blocks": [1, 1], "width": 8, "stem_stride": 1}
CNN = {"family": "cnn", "image_size": 16, "normalize": "unit", "blocks": [1, 1]}
VGG = {"family": "torchvision", "backbone": "vgg16", "unfreeze": 0, "image_size": 32, "normalize": "imagenet"}
TIMM = {"family": "timm", "backbone": "resnet10t", "unfreeze": "all", "image_size": 40, "normalize": "imagenet"}


def classifier_of(settings, views="none", temperature: float = 0.8) -> Classifier:
    torch.manual_seed(0)
    network = make_network(**settings)
    network.train()
    with torch.no_grad():
        for _ in range(3):  # so that the statistics are not those it begins with
            network(torch.rand(8, 1, 20, 20))
    return Classifier(network, Card(settings, temperature, views, side=20))


def drawn(number: int, side: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (number, side, side), np.uint8)


def expected(classifier: Classifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return classifier(torch.from_numpy(images)[:, None]).numpy()


@pytest.mark.parametrize(
    "settings", [RESNET, CNN, *(pytest.param(own, marks=pytest.mark.check) for own in (VGG, TIMM))]
)
def test_the_file_gives_pytorchs_probabilities_for_any_number_of_faces(settings, tmp_path: Path) -> None:
    classifier = classifier_of(settings)
    exported = export_onnx(classifier, drawn(70), tmp_path / "deep" / "net.onnx")
    network = OnnxNetwork(tmp_path / "deep" / "net.onnx")
    assert exported.difference < 1e-4
    assert exported.agreement > 0.98
    for number in (1, 2, 65):
        assert np.abs(network(drawn(number)) - expected(classifier, drawn(number))).max() < 1e-4
    assert (network.name, network.side, network.views) == ("net", 20, "none")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net.onnx"]
    if settings is not RESNET:  # the others' heads do not average, or not only
        with pytest.raises(UserError, match="class activation maps"):
            network.heatmaps(drawn(1), np.array([0]))


@pytest.mark.parametrize("views", ["none", "flip", "shifts", "ten_crop"])
def test_the_file_contains_views_and_heatmaps(views, tmp_path: Path) -> None:
    classifier, plain = (classifier_of({**RESNET, "image_size": 20}, name) for name in (views, "none"))
    export_onnx(classifier, drawn(3), tmp_path / "net.onnx")
    network = OnnxNetwork(tmp_path / "net.onnx")
    assert network.views == views
    assert np.abs(network(drawn(5)) - expected(classifier, drawn(5))).max() < 1e-5
    if views != "none":
        assert np.abs(network(drawn(5)) - expected(plain, drawn(5))).max() > 1e-4
    classes = np.array([0, 3, 6, 2])
    if views == "ten_crop":  # none of which is the image itself
        with pytest.raises(UserError, match="class activation maps"):
            network.heatmaps(drawn(4), classes)
        return
    found = network.heatmaps(drawn(4), classes)
    assert found.shape == (4, 20, 20)
    assert np.abs(found - hirescams(classifier, drawn(4), classes)).max() < 1e-4
    assert np.abs(found - heatmaps(classifier.network, drawn(4)[:, None], classes)).max() < 1e-4


def hirescams(classifier: Classifier, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the heatmaps of pytorch-grad-cam for the last feature map."""
    network = deepcopy(classifier.network).requires_grad_(True)
    targets = [ClassifierOutputTarget(label) for label in classes]
    return HiResCAM(network, [network.backbone])(torch.from_numpy(images)[:, None].float() / 255, targets)


@pytest.mark.parametrize(
    ("layers", "averages"),
    [
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7)], True),
        ([nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout(0.4), nn.Linear(16, 7)], True),
        ([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 7)], False),
        ([nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 7)], False),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(16, 7)], False),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7), nn.Tanh()], False),
        ([], False),
    ],
)
def test_only_heads_that_average_and_are_linear_have_heatmaps(layers, averages: bool) -> None:
    network = make_network(**RESNET)
    network.head = nn.Sequential(*layers)
    assert _averaging_head(network) is (layers[-1] if averages else None)


def test_a_map_that_is_too_coarse_is_no_heatmap(tmp_path: Path) -> None:
    """PyTorch's heatmaps take an earlier layer then; the file would hold another map."""
    network = make_network(**RESNET | {"blocks": [1, 1, 1, 1], "stem_stride": 2, "image_size": 48})
    card = Card(RESNET | {"blocks": [1, 1, 1, 1], "stem_stride": 2, "image_size": 48})
    export_onnx(Classifier(network, card), np.zeros((2, 48, 48), np.uint8), tmp_path / "net.onnx")
    with pytest.raises(UserError, match="no class activation maps in this file"):
        OnnxNetwork(tmp_path / "net.onnx").heatmaps(np.zeros((1, 48, 48), np.uint8), np.array([0]))


class Program:
    """Replaces the program that PyTorch's exporter returns."""

    def __init__(self) -> None:
        self.model = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[]), ir_version=10)

    def save(self, path: Path, external_data: bool) -> None:
        assert not external_data
        path.write_bytes(b"half a file")


def test_the_file_contains_the_card(tmp_path: Path) -> None:
    classifier = classifier_of(RESNET, "flip", temperature=1.3)
    classifier.card = replace(classifier.card, facts={"model": "mine", "figures": {"All": {"acc": 0.5}}})
    export_onnx(classifier, drawn(2), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert len(model.graph.initializer) < 40, "the weights lie in it once"
    card = json.loads({entry.key: entry.value for entry in model.metadata_props}["emotion"])
    facts = {"model": "mine", "figures": {"All": {"acc": 0.5}}}
    inputs = {"side": 20, "channels": 1}
    assert card == {"classes": [*CLASSES], **inputs, "views": "flip", "temperature": 1.3, "facts": facts}
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["probabilities", "evidence"]


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE])
def test_other_classes_are_kept_in_their_order(classes: tuple[str, ...], tmp_path: Path) -> None:
    made, images = make_classifier(classes), drawn(20, 48)
    assert export_onnx(made, images, tmp_path / "own.onnx").difference < 1e-4
    quantize_onnx(tmp_path / "own.onnx", images, tmp_path / "int8.onnx")
    expected = made(torch.from_numpy(images)[:, None]).numpy()  # [20, K]
    ids = np.arange(20) % len(classes)
    for name, most, most_of_maps in (("own", 1e-4, 1e-4), ("int8", 0.2, 0.1)):
        network = OnnxNetwork(tmp_path / f"{name}.onnx")
        assert network.classes == classes
        assert np.abs(network(images) - expected).max() < most
        differences = np.abs(network.heatmaps(images, ids) - heatmaps(made.network, images[:, None], ids))
        assert differences.mean() < most_of_maps
        assert name == "int8" or differences.max() < 1e-3


def test_the_file_contains_no_path(tmp_path: Path) -> None:
    export_onnx(classifier_of(RESNET), drawn(3), tmp_path / "net.onnx")
    content = (tmp_path / "net.onnx").read_bytes()
    for path in (Path(emotion.__file__).parent, Path(torch.__file__).parent, sys.prefix, tmp_path, "stack_trace"):
        assert str(path).encode() not in content


def test_difference_and_agreement_of_the_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __init__(self, path: Path) -> None:
            assert path.is_file()

        def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
            wrong = expected(classifier, faces)
            wrong[faces[:, 0, 0] < 128] = np.roll(wrong[faces[:, 0, 0] < 128], 1, axis=1)
            return wrong

    classifier, images = classifier_of(RESNET), drawn(150)
    images[:, 0, 0] = np.arange(150) % 2 * 255
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: Program())
    monkeypatch.setattr("emotion.training.export.OnnxNetwork", Wrong)
    exported = export_onnx(classifier, images, tmp_path / "net.onnx")
    right = expected(classifier, images)
    wrong = np.where(np.arange(150)[:, None] % 2, right, np.roll(right, 1, axis=1))
    assert exported.difference == pytest.approx(np.abs(right - wrong).max(), rel=1e-5)
    assert exported.agreement == (right.argmax(1) == wrong.argmax(1)).mean() == 0.5


def test_a_failed_export_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="cannot be written as ONNX"):
        export_onnx(classifier_of(RESNET), drawn(2), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_file_is_that_of_the_weights() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (32, 48, 48), np.uint8)
    network, classifier = OnnxNetwork(SHIPPED / "small.onnx"), load_pretrained()
    assert np.abs(network(faces) - expected(classifier, faces)).max() < 1e-5
    assert network.views == classifier.card.views


def test_a_path_that_cannot_be_replaced_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: Path, target: Path, *arguments, **options) -> None:
        target.write_bytes(b"half a file")

    (tmp_path / "net.onnx").mkdir()
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: Program())
    monkeypatch.setattr("onnxruntime.quantization.shape_inference.quant_pre_process", write)
    monkeypatch.setattr("onnxruntime.quantization.quantize_static", write)
    monkeypatch.setattr("emotion.training.export._first_convolution", str)
    with pytest.raises(IsADirectoryError):
        export_onnx(classifier_of(RESNET), drawn(2), tmp_path / "net.onnx")
    with pytest.raises(IsADirectoryError):
        quantize_onnx(SHIPPED / "small.onnx", np.zeros((2, 48, 48), np.uint8), tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_file_in_8_bits_is_smaller_and_nearly_as_accurate(tmp_path: Path) -> None:
    from emotion.data.synthetic import draw_image

    faces = np.stack([draw_image(index % 7, 0, index) for index in range(140)])
    small = tmp_path / "int8.onnx"
    quantize_onnx(SHIPPED / "small.onnx", faces[:70], small)
    before, after = OnnxNetwork(SHIPPED / "small.onnx"), OnnxNetwork(small)
    assert small.stat().st_size < 0.3 * (SHIPPED / "small.onnx").stat().st_size
    assert 0 < np.abs(before(faces) - after(faces)).mean() < 0.02
    assert (before(faces).argmax(1) == after(faces).argmax(1)).mean() > 0.95
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    convolutions = [node for node in onnx.load(SHIPPED / "small.onnx").graph.node if node.op_type == "Conv"]
    kinds = Counter(value.data_type for value in onnx.load(small).graph.initializer if len(value.dims) == 4)
    assert kinds[onnx.TensorProto.INT8] == len(convolutions) - 1
    assert kinds[onnx.TensorProto.FLOAT] == 1  # the first, which sees the pixels
    scales = [value.dims for value in onnx.load(small).graph.initializer if value.name.endswith("weight_scale")]
    assert all(len(dims) == 1 and dims[0] > 1 for dims in scales), "each channel has its own scale"


def test_without_fer2013_drawn_faces_serve_but_not_for_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(tmp_path / "mine.safetensors", classifier_of({**RESNET}).network, Card(RESNET))
    with pytest.raises(UserError, match="data_dir"):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {}, int8=True))
    with pytest.raises(UserError, match="data_dir"):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {"split": "official"}))
    with pytest.raises(UserError, match=r"^split=test_only: has no validation images, which are needed; try split="):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {"data": "synthetic", "split": "test_only"}))
    with pytest.raises(UserError, match="tta=five"):
        list(export_network("mine.safetensors", tmp_path / "out.onnx", {}, views="five"))
    assert not (tmp_path / "out.onnx").exists()
    (line,) = export_network("mine.safetensors", tmp_path / "out.onnx", {}, views="flip")
    assert line.startswith(f"{tmp_path / 'out.onnx'}: ")
    assert (
        "on 560 validation images of synthetic (drawn faces, since the images of data=fer2013 are not here) the "
        "probabilities differ"
    ) in line
    (line,) = export_network("mine.safetensors", tmp_path / "out.onnx", {"data": "synthetic"}, views="flip")
    assert "on 350 validation images of synthetic the probabilities differ" in line
    assert OnnxNetwork(tmp_path / "out.onnx").views == "flip"


def test_8_bits_are_refused_without_a_second_convolution(tmp_path: Path) -> None:
    settings = {**TIMM, "backbone": "vit_tiny_patch16_224", "image_size": 48}  # its one convolution makes the patches
    save_pretrained(tmp_path / "vit.safetensors", classifier_of(settings).network, Card(settings))
    with pytest.raises(UserError, match=r"^--int8: only convolutions after the first one .* this network has none$"):
        list(export_network(str(tmp_path / "vit.safetensors"), tmp_path / "out.onnx", {"data": "synthetic"}, int8=True))
    assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_is_not_calibrated(tmp_path: Path) -> None:
    best = train(tmp_path / "run", *TINY).best
    _, note = export_network(str(best), tmp_path / "out.onnx", {})
    assert (
        note
        == f"{tmp_path / 'out.onnx'}: the probabilities are not calibrated; emotion publish calibrates a checkpoint"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_images_may_have_any_size_and_colour(channels: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 3), ("test", 1)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                tone = random.integers(0, 256, (32, 32, 3), np.uint8) // 2 + 18 * label
                Image.fromarray(tone).save(folder / f"{index}.png")
    classifier = classifier_of(RESNET)
    save_pretrained(tmp_path / "mine.safetensors", classifier.network, replace(classifier.card, side=20))
    data = {"data": "folder", "data_dir": str(tmp_path / "data"), "pack_size": 32, "channels": channels}
    first, second = export_network(str(tmp_path / "mine.safetensors"), tmp_path / "out.onnx", data, int8=True)
    assert "on 21 validation images of folder" in first
    assert "100.00% of the classes agree" in first
    faces, labels = [], []
    for path in sorted((tmp_path / "data" / "val").rglob("*.png")):
        grey = np.asarray(Image.open(path).convert("L"))
        faces.append(grey.repeat(5, 0).reshape(20, 8, 32).mean(1).repeat(5, 1).reshape(20, 20, 8).mean(2).round())
        labels.append(CLASSES.index(path.parent.name))
    eight, full = (
        OnnxNetwork(tmp_path / name)(np.array(faces, np.uint8)).argmax(1) for name in ("out-int8.onnx", "out.onnx")
    )
    shares = [np.mean(eight == labels), np.mean(full == labels)]
    assert second.endswith("validation accuracy {:.4f}, {:.4f} in float32".format(*shares))
    assert f"; {np.mean(eight == full):.2%} of the classes agree with float32; " in second


def test_an_onnx_file_cannot_be_exported(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "small.onnx", tmp_path / "net.onnx")
    with pytest.raises(UserError, match="PyTorch cannot run it"):
        list(export_network(str(tmp_path / "net.onnx"), tmp_path / "out.onnx", {}))
