import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from other_classes import STRANGE, THREE, make_classifier
from PIL import Image

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.inference import explain as module
from emotion.inference.crops import crop_faces, crop_square
from emotion.inference.explain import explain
from emotion.inference.pytorch import TorchNetwork
from emotion.inference.recognizer import Recognizer
from emotion.models.classifier import save_pretrained
from emotion.palette import ORANGE
from emotion.shipped import SHIPPED

MANY = tuple(f"class {number}" for number in range(40))


def rows(figure) -> list[list[str]]:
    titles = [axes.get_title() for axes in figure.axes]
    return [titles[start : start + 5] for start in range(0, len(titles), 5)]


def row(label: str) -> list[str]:
    return ["", f"Grad-CAM: {label}", f"Grad-CAM++: {label}", f"HiResCAM: {label}", ""]


def test_a_row_for_each_face_and_class(portrait: Path, pixels: NDArray[np.uint8], recognizer: Recognizer) -> None:
    figure, (face,) = explain(portrait, classes=["fear", "neutral", "fear"])
    (expected,) = recognizer.predict(portrait)
    assert face.box == expected.box
    assert face.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert rows(figure) == [row("neutral"), row("fear")]
    network = TorchNetwork(SHIPPED / "small.safetensors")
    cropped = crop_faces(pixels, [face.box], network.side)
    for number, label in enumerate(("neutral", "fear")):
        images, bars = figure.axes[5 * number : 5 * number + 4], figure.axes[5 * number + 4]
        assert all(np.array_equal(axes.images[0].get_array(), crop_square(pixels, face.box, 192)) for axes in images)
        for axes, method in zip(images[1:], ("gradcam", "gradcam++", "hirescam"), strict=True):
            heatmap = network.heatmaps(cropped, np.array([CLASSES.index(label)]), method)[0]
            smooth = np.asarray(axes.images[1].get_array())
            assert (
                np.abs(np.asarray(Image.fromarray(smooth).resize((48, 48), Image.Resampling.BOX)) - heatmap).mean()
                < 0.02
            )
            assert np.array_equal(axes.images[1].get_alpha(), 0.75 * smooth)
            assert smooth.max() > 0.9
        assert [patch.get_width() for patch in bars.patches] == [face.probabilities[name] for name in CLASSES]
        assert [text.get_text() for text in bars.get_yticklabels()] == list(CLASSES)
        assert bars.yaxis_inverted()
        (marked,) = {CLASSES[n] for n, bar in enumerate(bars.patches) if to_hex(bar.get_facecolor()) == ORANGE}
        assert marked == label


def test_several_faces_from_left_to_right(pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    figure, faces = explain(pair, classes=["happy"])
    assert len(faces) == 2
    assert figure.get_suptitle() == ""
    assert rows(figure) == [row(label) for face in faces for label in (face.label, "happy")]
    boxes = [crop_square(pair, face.box, 192, face.tilt) for face in faces for _ in range(2)]
    for axes, face in zip(figure.axes[::5], boxes, strict=True):
        assert np.array_equal(axes.images[0].get_array(), face)
    expected = Recognizer([TorchNetwork(SHIPPED / "small.safetensors")]).predict(pair)
    assert faces == expected
    monkeypatch.setattr(module, "MOST_FACES", 1)
    figure, faces = explain(pair)
    assert (len(rows(figure)), len(faces)) == (1, 2)
    assert figure.get_suptitle() == "the first 1 of 2 faces, row by row from left to right"


def test_each_heatmap_is_of_its_face_class_and_method(
    pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    crops: list[NDArray[np.uint8]] = []

    def heatmaps(network, faces, classes, method):
        crops.append(faces)
        level = 0.3 * ["gradcam", "gradcam++", "hirescam"].index(method)
        return np.stack([np.full((48, 48), level + label / 100, np.float32) for label in classes])

    monkeypatch.setattr(TorchNetwork, "heatmaps", heatmaps)
    figure, faces = explain(pair, classes=["happy", "sad"])
    for index, face in enumerate(faces):
        for number, label in enumerate((face.label, "happy", "sad")):
            heatmap_axes = figure.axes[5 * (3 * index + number) :][1:4]
            levels = [np.asarray(axes.images[1].get_array()).mean() for axes in heatmap_axes]
            assert levels == pytest.approx([level + CLASSES.index(label) / 100 for level in (0, 0.3, 0.6)], abs=1e-6)
    expected = crop_faces(pair, [face.box for face in faces for _ in range(3)], 48)
    assert len(crops) == 3
    assert all(np.array_equal(given, expected) for given in crops)


def test_without_detection_the_image_is_the_face() -> None:
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    figure, (classified,) = explain(Image.fromarray(face), SHIPPED / "small.onnx", detect=False)
    assert classified.box == (0, 0, 48, 48)
    assert rows(figure) == [row(classified.label)]


def test_invalid_input_is_refused(portrait: Path, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match="--class=joy: not one of angry"):
        explain(portrait, classes=["joy"])
    with pytest.raises(UserError, match="image: no face detected; --no-detect"):
        explain(np.zeros((60, 60, 3), np.uint8))
    Image.new("L", (60, 60)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match=r"black\.png: no face detected; --no-detect"):
        explain(tmp_path / "black.png")
    network = tmp_path / "own.onnx"
    network.write_bytes((SHIPPED / "small.onnx").read_bytes())
    with pytest.raises(UserError, match="PyTorch cannot run it"):
        explain(portrait, network)


@pytest.mark.parametrize(("classes", "shown"), [(THREE, THREE), (STRANGE, None), (MANY, None)])
def test_other_classes(classes: tuple[str, ...], shown: tuple[str, ...] | None, tmp_path: Path) -> None:
    made, path = make_classifier(classes), tmp_path / "own.safetensors"
    save_pretrained(path, made.network, made.card)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8))
    figure, (face,) = explain(picture, path, classes=[classes[1], classes[-1]], detect=False)
    assert tuple(face.probabilities) == classes
    explained = dict.fromkeys((face.label, classes[1], classes[-1]))
    assert len(figure.axes) == 5 * len(explained)
    for number, label in enumerate(explained):
        title, bars = figure.axes[5 * number + 1].get_title(), figure.axes[5 * number + 4]
        beginning = label if len(label) <= 22 else label[:19]
        assert title.startswith(("Grad-CAM: " if len(label) < 10 else "Grad-CAM:\n") + beginning)
        names = [text.get_text() for text in bars.get_yticklabels()]
        assert len(names) == min(len(classes), 12)
        assert shown is None or tuple(names) == shown
        (marked,) = (index for index, bar in enumerate(bars.patches) if to_hex(bar.get_facecolor()) == ORANGE)
        assert names[marked].startswith(beginning)
        assert bars.patches[marked].get_width() == face.probabilities[label]
    figure.savefig(tmp_path / "figure.png")  # a name between dollar signs is no formula
    with pytest.raises(UserError, match=r"--class=happy: not one of " + re.escape(classes[0])):
        explain(picture, path, classes=["happy"], detect=False)
