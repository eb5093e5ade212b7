import io
import json
import os
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from other_classes import THREE, expected_shares, write_onnx
from PIL import Image

import emotion
from emotion.data.classes import CLASSES
from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference.crops import crop_faces
from emotion.inference.faces import DetectionLimits
from emotion.inference.recognizer import DetectedFaces, Face, Recognizer
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import SHIPPED


class Fake:
    """A fake network: the probability of `angry` is the mean grey value of the face, 0 to 1, times the slope."""

    def __init__(self, side: int, slope: float = 1) -> None:
        self.name, self.side, self.channels, self.classes = "fake", side, 1, CLASSES
        self.slope, self.calls = slope, []

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert faces.shape[1:] == (self.side, self.side)
        self.calls.append(len(faces))
        tone = self.slope * faces.reshape(len(faces), -1).mean(1) / 255
        rest = np.repeat((1 - tone)[:, None] / 6, 6, axis=1)
        return np.hstack([tone[:, None], rest]).astype(np.float32)

    def heatmaps(self, faces, classes):
        return np.broadcast_to(classes[:, None, None], faces.shape).astype(np.float32)


def test_a_photograph_of_one_face(recognizer: Recognizer, portrait: Path, pixels: NDArray[np.uint8]) -> None:
    (face,) = recognizer.predict(portrait)
    assert face.label == "neutral"
    assert tuple(face.probabilities) == CLASSES
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert face.probabilities["neutral"] == max(face.probabilities.values())
    for given in (str(portrait), portrait.read_bytes(), Image.open(portrait), pixels):
        assert recognizer.predict(given) == [face]
    classifier = emotion.load_pretrained()
    cropped = torch.from_numpy(crop_faces(pixels, [face.box], 48))[:, None]  # [1, 1, 48, 48]
    assert list(face.probabilities.values()) == pytest.approx(classifier(cropped)[0].tolist(), abs=1e-5)


def test_without_detection_the_central_square_is_classified(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    (face,) = recognizer.predict(pixels, detect=False)
    assert face.box == (0, 44, 512, 512)
    assert face.confidence is None
    assert recognizer.predict(pixels[44:556], detect=False)[0].probabilities == face.probabilities


def test_no_face_gives_an_empty_list(recognizer: Recognizer) -> None:
    assert recognizer.predict(np.zeros((80, 80, 3), np.uint8)) == []


def test_networks_of_different_sides_are_averaged() -> None:
    image = np.full((30, 30, 3), 102, np.uint8)  # a grey value of 0.4
    (face,) = Recognizer([Fake(12), Fake(20, slope=0.5)]).predict(image, detect=False)
    assert face.probabilities["angry"] == pytest.approx(0.3, abs=1e-3)
    assert face.label == "angry"


def test_ensembles_are_loaded_from_a_list(pixels: NDArray[np.uint8]) -> None:
    files = ["small", SHIPPED / "small.safetensors"]
    both, one = emotion.load(files), emotion.load()
    assert len(both.networks) == 2
    (averaged,), (single,) = both.predict(pixels), one.predict(pixels)
    assert averaged.probabilities == pytest.approx(single.probabilities, abs=1e-5)


def test_many_images_get_each_its_own_faces(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    images = [pixels, np.zeros_like(pixels), np.tile(pixels, (1, 2, 1)), *[pixels[:, ::-1]] * 9]
    predicted = list(recognizer.predict_many(map(np.ascontiguousarray, images)))
    assert [len(faces) for faces in predicted] == [1, 0, 2, *[1] * 9]
    for faces, image in zip(predicted[:4], images, strict=False):
        for face, alone in zip(faces, recognizer.predict(np.ascontiguousarray(image)), strict=True):
            assert face.box == alone.box
            assert face.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    assert list(recognizer.predict_many([])) == []


def test_faces_are_classified_in_batches() -> None:
    network = Fake(4)
    images = [np.full((4, 4, 3), tone, np.uint8) for tone in (0, 255)]
    recognizer = Recognizer([network])
    (first, second) = (recognizer.detect(image, detect=False) for image in images)
    many = [
        DetectedFaces(one.detections * n, {(4, 1): one.faces[4, 1].repeat(n, 0)})
        for one, n in ((first, 50), (second, 100))
    ]
    classified = recognizer.classify(many)
    assert network.calls == [64, 64, 22]
    assert [[face.probabilities["angry"] for face in faces] for faces in classified] == [[0] * 50, [1] * 100]


def test_eight_images_are_read_and_classified_at_a_time() -> None:
    network, read = Fake(4), []
    images = (read.append(index) or np.full((4, 4, 3), 10 * index, np.uint8) for index in range(19))
    predicted = Recognizer([network]).predict_many(images, detect=False)
    first = next(predicted)
    assert read == list(range(8))  # all frames of a video would not fit into memory
    angry = [faces[0].probabilities["angry"] for faces in (first, *predicted)]
    assert angry == pytest.approx([10 * index / 255 for index in range(19)])
    assert network.calls == [8, 8, 3]


def test_many_images_of_every_type(recognizer: Recognizer, portrait: Path, pixels: NDArray[np.uint8]) -> None:
    grey, transparent = np.asarray(Image.open(portrait).convert("L")), np.dstack([pixels, pixels[..., :1]])
    given = [pixels, portrait, str(portrait), portrait.read_bytes(), Image.open(portrait), transparent, grey]
    predicted = [face for (face,) in recognizer.predict_many(given)]
    assert predicted[0].probabilities == pytest.approx(recognizer.predict(pixels)[0].probabilities, abs=1e-5)
    assert predicted[:6] == [predicted[0]] * 6
    assert predicted[6].label == predicted[0].label
    assert len(list(recognizer.predict_many(np.stack([pixels, pixels])))) == 2
    with pytest.raises(BadImageError, match=r"array int64 \[4, 4\]: uint8, or floats from 0 to 1, are needed"):
        list(recognizer.predict_many([np.zeros((4, 4), np.int64)]))


def test_a_list_of_images_gives_a_list_for_each(recognizer: Recognizer, portrait: Path, pixels) -> None:
    (face,) = recognizer.predict(pixels)
    for kind in (list, tuple):
        images = kind([portrait, np.zeros_like(pixels), io.BytesIO(portrait.read_bytes()), pixels / 255])
        first, none, *others = recognizer.predict(images)
        assert none == []
        for (same,) in (first, *others):
            assert same.box == face.box
            assert same.probabilities == pytest.approx(face.probabilities, abs=1e-5)
    assert recognizer.predict([]) == []
    with pytest.raises(BadImageError, match=r"nothing\.jpg: no such file"):
        recognizer.predict([pixels, "nothing.jpg"])


def test_arrays_of_opencv_give_the_same(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    expected = recognizer.predict(pixels)
    assert recognizer.predict(np.ascontiguousarray(pixels[..., ::-1]), bgr=True) == expected
    assert list(recognizer.predict_many([pixels[..., ::-1]], bgr=True)) == [expected]


def test_a_missing_image_is_named(recognizer: Recognizer) -> None:
    with pytest.raises(BadImageError, match=r"NoneType is not an image: .*cv2\.imread returns None"):
        recognizer.predict(None)


def test_faces_are_shown_and_turned_into_dictionaries(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    (face,) = recognizer.predict(pixels)
    assert face.score == face.probabilities["neutral"]
    assert repr(face) == f"Face(neutral {face.score:.0%}, box={face.box}, confidence={face.confidence:.4f})".replace(
        f"{face.confidence:.4f}", str(round(face.confidence or 0, 4))
    )
    loaded = json.loads(json.dumps(face.as_dict()))
    assert list(loaded) == ["box", "label", "score", "probabilities", "confidence", "tilt"]
    assert loaded["box"] == list(face.box)
    assert loaded["score"] == round(face.score, 4)
    assert loaded["probabilities"] == {name: round(value, 4) for name, value in face.probabilities.items()}
    assert repr(emotion.load(min_face=0.1)) == "Recognizer(small; min_face=0.1, confidence=0.7)"


def test_help_lists_the_functions() -> None:
    text = pydoc.plain(pydoc.render_doc(emotion))
    for name in ("load(", "analyze_video(", "draw(", "to_frame(", "load_pretrained("):
        assert name in text
    assert "recognizer = emotion.load()" in text


def test_images_are_drawn_on(recognizer: Recognizer, portrait: Path, pixels: NDArray[np.uint8]) -> None:
    faces = recognizer.predict(pixels)
    drawn = emotion.draw(portrait, faces)
    assert drawn.size == (512, 600)
    left, top, width, _ = faces[0].box
    assert np.abs(np.asarray(drawn).astype(int) - pixels)[top : top + 2, left : left + width].mean() > 40
    assert np.array_equal(np.asarray(emotion.draw(pixels[..., ::-1], faces, bgr=True)), np.asarray(drawn))


@pytest.mark.parametrize("image", ["photo.jpg", b"x", None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)])
def test_a_single_image_is_not_taken_for_many(recognizer: Recognizer, image) -> None:
    with pytest.raises(UserError, match=f"^{type(image).__name__}: several images are needed"):
        recognizer.predict_many(image)


@pytest.mark.parametrize("files", [["small"], [SHIPPED / "small.safetensors", "small"]])
def test_recognisers_are_pickled_as_paths(
    files: list[str | Path], pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHIPPED)
    pickled = pickle.dumps(emotion.load([Path(file).name for file in files], tta="flip", min_face=0.3, confidence=0.5))
    monkeypatch.chdir(tmp_path)
    loaded = pickle.loads(pickled)
    assert len(pickled) < 1000  # the files are read again
    assert loaded.predict(pixels) == emotion.load(files, tta="flip", min_face=0.3, confidence=0.5).predict(pixels)
    assert loaded.limits == DetectionLimits(min_face=0.3, confidence=0.5)


FORKED = """
import multiprocessing, sys, torch, emotion, numpy as np
torch.set_num_threads(2)
network = emotion.load(tta=sys.argv[1]).networks[0]
faces = np.random.default_rng(0).integers(0, 256, (64, 48, 48), np.uint8)
run = lambda call: call(faces).sum() if call is network else call(faces, np.zeros(64, np.int64)).sum()
expected = [run(network), run(network.heatmaps)]
context = multiprocessing.get_context("fork")
results = context.SimpleQueue()
for call in (network, network.heatmaps):
    child = context.Process(target=lambda: results.put(run(call)))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        sys.exit("it hangs")
assert np.allclose(expected, [results.get(), results.get()], rtol=1e-4)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("views", ["flip", pytest.param("shifts", marks=pytest.mark.check)])
def test_networks_work_in_forked_processes(views: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, views], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_of_many_faces_the_largest_are_kept(recognizer: Recognizer, pixels: NDArray[np.uint8]) -> None:
    scene = np.tile(pixels, (1, 3, 1))
    scene[:, 512:1024] = 0
    scene[100:400, 600:856] = pixels[::2, ::2]
    boxes = [detection.box for detection in recognizer.detect(scene).detections]
    kept = recognizer.detect(scene, max_faces=2)
    assert len(boxes) == 3
    assert [detection.box for detection in kept.detections] == [boxes[0], boxes[2]]
    assert kept.omitted == 1
    assert kept.faces[48, 1].shape == (2, 48, 48)


def test_heatmaps_are_of_the_named_classes() -> None:
    recognizer = Recognizer([Fake(4)])
    detected = recognizer.detect(np.zeros((9, 9, 3), np.uint8), detect=False)
    maps = recognizer.heatmaps(
        DetectedFaces(detected.detections * 2, {(4, 1): detected.faces[4, 1].repeat(2, 0)}), ["fear", "sad"]
    )
    assert maps.shape == (2, 4, 4)
    both = Recognizer([Fake(4), Fake(9)])
    assert both.heatmaps(both.detect(np.zeros((9, 9, 3), np.uint8), detect=False), ["sad"]).shape == (1, 4, 4)
    assert maps[:, 0, 0].tolist() == [CLASSES.index("fear"), CLASSES.index("sad")]


def test_tta_is_passed_on(pixels: NDArray[np.uint8]) -> None:
    one = emotion.load(tta="none")
    (plain,), (mirrored,) = one.predict(pixels), one.predict(pixels[:, ::-1])
    assert plain.probabilities != pytest.approx(mirrored.probabilities, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1, 3), (2, 2, 4)])
def test_images_of_few_pixels(recognizer: Recognizer, shape) -> None:
    image = np.full(shape, 77, np.uint8)
    assert recognizer.predict(image) == []
    (face,) = recognizer.predict(image, detect=False)
    assert face.box[2:] == (min(shape[:2]),) * 2
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_min_face_is_passed_on(pixels: NDArray[np.uint8]) -> None:
    assert emotion.load(min_face=0.9).predict(pixels) == []
    with pytest.raises(UserError, match="min_face=2"):
        emotion.load(min_face=2).predict(pixels)


def test_unreadable_images_are_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        recognizer.predict(tmp_path / "none.png")
    with pytest.raises(UserError, match="not an image"):
        recognizer.predict(b"nothing")


def test_classes_are_those_of_the_networks(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "three.onnx", THREE)
    recognizer = emotion.load(path)
    assert recognizer.classes == THREE
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    (face,) = recognizer.predict(picture, detect=False)
    assert tuple(face.probabilities) == THREE
    assert list(face.probabilities.values()) == pytest.approx(expected_shares(picture, 3).tolist(), abs=1e-5)
    assert emotion.load([path, path]).predict(picture, detect=False) == [face]
    assert pickle.loads(pickle.dumps(recognizer)).classes == THREE
    assert emotion.load().classes == CLASSES


@pytest.mark.parametrize("classes", [("bored", "engaged", "confused"), THREE[:2], (*THREE, "asleep"), CLASSES])
def test_networks_of_different_classes_are_not_averaged(classes: tuple[str, ...], tmp_path: Path) -> None:
    one, two = write_onnx(tmp_path / "a.onnx", THREE), write_onnx(tmp_path / "b.onnx", classes)
    with pytest.raises(UserError) as error:
        emotion.load([one, one, two])
    assert str(error.value) == f"{one} and {two} have different classes: {', '.join(THREE)}; {', '.join(classes)}"
    with pytest.raises(UserError, match=r"^a and b have different classes: engaged, bored, confused; "):
        Recognizer([OnnxNetwork(one), OnnxNetwork(two)])


@pytest.mark.parametrize(
    ("shares", "unsure"),
    [
        ((0.49, 0.31, 0.2), True),
        ((0.51, 0.29, 0.2), False),
        ((0.6, 0.4), True),
        ((0.66, 0.34), True),
        ((0.67, 0.33), False),
        ((0.4, *[0.1] * 6), True),
        ((0.5, *[0.5 / 999] * 999), False),
    ],
)
def test_labels_are_unsure_that_are_rather_wrong_than_right(shares: tuple[float, ...], unsure: bool) -> None:
    face = Face((0, 0, 9, 9), "0", {str(number): share for number, share in enumerate(shares)})
    assert face.is_unsure is unsure
    assert face.title == ("0?" if unsure else "0")
