"""Labels and probabilities stay in one order from the images to the exported file, whatever the source."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_runs import differences, train

from emotion.analysis.predictions import load_predictions
from emotion.data.classes import CLASSES, CSV_CLASSES
from emotion.data.synthetic import draw_image
from emotion.inference.recognizer import load
from emotion.training.checkpoint import load_checkpoint
from emotion.training.export import export_network
from emotion.training.publish import publish

Record = Callable[[str, int, int], None]
EACH = 40
PARTS = (("train", "Training", 30), ("test", "PublicTest", 5), ("test", "PrivateTest", 5))
TOLERANCE = 1e-3
"""Runs keep probabilities in half precision, and published networks their weights."""


def face(label: int, number: int) -> NDArray[np.uint8]:
    """An image [48, 48] whose first pixel is the label."""
    image = draw_image(label, seed=0, index=number).copy()
    image[0, 0] = label
    return image


def fer2013(root: Path) -> str:
    for label, name in enumerate(CLASSES):
        numbers = iter(range(EACH))
        for folder, part, count in PARTS:
            (root / folder / name).mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                number = next(numbers)
                Image.fromarray(face(label, number)).save(root / folder / name / f"{part}_{label}{number}.png")
    return str(root)


def fer2013_csv(root: Path) -> str:
    rows = ["emotion,pixels,Usage"]
    for label, name in enumerate(CLASSES):
        numbers = iter(range(EACH))
        for _, part, count in PARTS:
            for _ in range(count):
                pixels = " ".join(map(str, face(label, next(numbers)).ravel().tolist()))
                rows.append(f"{CSV_CLASSES.index(name)},{pixels},{part}")
    root.mkdir()
    (root / "fer2013.csv").write_text("\n".join(rows))
    return str(root / "fer2013.csv")


def folder(root: Path) -> str:
    for label, name in enumerate(CLASSES):
        (root / name.upper()).mkdir(parents=True)
        for number in range(EACH):
            Image.fromarray(face(label, number)).save(root / name.upper() / f"{number}.png")
    return str(root)


SOURCES = {"fer2013": fer2013, "fer2013_csv": fer2013_csv, "folder": folder, "synthetic": lambda root: "unused"}


@pytest.mark.forms("source", test=["fer2013_csv"], check=["fer2013", "folder", "synthetic"])
def test_order_of_classes_is_kept(source: str, tmp_path: Path, record: Record) -> None:
    place = SOURCES[source](tmp_path / "data")
    words = ["model=resnet_small", "width=4", "image_size=48", "balance=none", "trainer.max_epochs=10", "batch_size=16"]
    words += ["optimizer=adam", "lr=0.01", "warmup_epochs=0", "augment=false"]
    where = [] if source == "synthetic" else [f"data_dir={place}"]
    run = train(tmp_path / "run", f"data={source}", *where, *words)
    data = load_checkpoint(run.best).data_module()
    images, rows = data.packed.images, data.rows.test
    kept = load_predictions(run.predictions)["test"]
    if source != "synthetic":
        assert np.array_equal(images[:, 0, 0, 0], data.packed.labels)
    assert np.array_equal(kept.labels, data.packed.labels[rows])
    network = load_checkpoint(run.best).task.inference_network
    with torch.inference_mode():
        expected = network(torch.from_numpy(images[rows])).softmax(1).numpy()
    published, exported = tmp_path / "network.safetensors", tmp_path / "network.onnx"
    temperature = publish(run.best, published, "none").card.temperature
    list(export_network(str(published), exported, {"data": source, "data_dir": place, "split": "report"}, "none"))
    calibrated = np.exp(np.log(expected) / temperature)
    calibrated /= calibrated.sum(1, keepdims=True)
    wrong = int((np.abs(kept.probabilities - expected).max(1) > TOLERANCE).sum())
    for path in (published, exported):
        recognizer = load(path)
        for image, wanted in zip(images[rows], calibrated, strict=True):
            (own,) = recognizer.predict(image[0], detect=False)
            wrong += bool(np.abs(np.array([own.probabilities[name] for name in CLASSES]) - wanted).max() > TOLERANCE)
    record(f"probabilities of each class from data={source} to checkpoint, file and ONNX", 3 * len(rows), wrong)
    for axis, order in enumerate(("images", "classes")):
        others = np.abs(expected - np.roll(expected, 1, axis)).max(1)
        assert np.mean(others > TOLERANCE) > 0.9, f"probabilities are too alike to tell another order of {order}"
    assert not wrong


def test_the_same_seed_is_the_same_run(tmp_path: Path, nightly: bool, record: Record) -> None:
    words = ["model=resnet_small", "width=4", "image_size=48", "trainer.max_epochs=2"]
    seeds = range(5 if nightly else 2)
    pairs = [[train(tmp_path / f"{seed}-{own}", *words, f"seed={seed}") for own in range(2)] for seed in seeds]
    lost = [found for pair in pairs if (found := differences(*pair))]
    record("the same seed twice on the CPU: same weights and figures", len(pairs), len(lost))
    assert not lost
    assert differences(pairs[0][0], pairs[1][0]), "two seeds are the same run, so that nothing is shown"
