"""Labels and probabilities stay in one order from the images to the exported file, whatever the source."""

import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import EXECUTABLE, chromium, new_page
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from other_classes import FERPLUS, STRANGE, THREE
from PIL import Image
from playwright.sync_api import expect
from small_runs import differences, train
from typer.testing import CliRunner

from emotion import cli
from emotion.analysis.predictions import load_predictions
from emotion.data.classes import CLASSES, CSV_CLASSES
from emotion.data.synthetic import draw_image
from emotion.inference.recognizer import load
from emotion.inference.service import make_service
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


CLOSE = 0.01
"""A low temperature raises the differences that half precision of the weights makes; another order differs more."""
OTHERS = {
    "three": THREE,
    "FER+": FERPLUS,
    "strange": STRANGE,
}


def pattern(label: int, number: int) -> NDArray[np.uint8]:
    """An image [48, 48] of noise, brighter at a height that tells its label; the first pixel is the label."""
    rng = np.random.default_rng(100 * label + number)
    image = rng.integers(40, 200, (48, 48), np.uint8)
    image[5 * label + 3 : 5 * label + 8] += rng.integers(5, 50, dtype=np.uint8)
    image[0, 0] = label
    return image


@pytest.mark.forms("name", test=["three"], check=["FER+", "strange"])
def test_order_of_other_classes_is_kept(name: str, tmp_path: Path, record: Record) -> None:
    """From a table of images to checkpoint, published file, ONNX, CSV, service and page."""
    classes, place = OTHERS[name], tmp_path / "data"
    place.mkdir()
    rows = []
    for label, own in enumerate(classes):
        for number in range(EACH):
            path = place / f"{label}-{number}.png"
            Image.fromarray(pattern(label, number)).save(path)
            rows.append([path.name, own, "test" if number % 4 == 0 else "train"])
    with (place / "images.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    words = ["model=resnet_small", "width=4", "image_size=48", "balance=none", "trainer.max_epochs=6", "batch_size=16"]
    words += ["optimizer=adam", "lr=0.01", "warmup_epochs=0", "augment=false", "data=table"]
    words += [f"data_dir={place / 'images.csv'}", "classes=[" + ",".join(f"'{own}'" for own in classes) + "]"]
    run = train(tmp_path / "run", *words)
    trained = load_checkpoint(run.best)
    data = trained.data_module()
    images, tested = data.packed.images, data.rows.test
    kept = load_predictions(run.predictions)["test"]
    assert trained.task.classes == data.classes == classes
    assert np.array_equal(images[:, 0, 0, 0], data.packed.labels)
    with torch.inference_mode():
        expected = trained.task.inference_network(torch.from_numpy(images[tested])).softmax(1).numpy()
    assert (expected.argmax(1) == data.packed.labels[tested]).mean() > 1.5 / len(classes), (
        f"of {name}, nothing is learnt"
    )
    published, exported = tmp_path / "network.safetensors", tmp_path / "network.onnx"
    temperature = publish(run.best, published, "none").card.temperature
    list(
        export_network(
            str(published),
            exported,
            {"data": "table", "data_dir": str(place / "images.csv"), "split": "report"},
            "none",
        )
    )
    calibrated = np.exp(np.log(expected) / temperature)
    calibrated /= calibrated.sum(1, keepdims=True)
    files = []
    for row in tested:
        files.append(tmp_path / "faces" / f"{row}.png")
        files[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(images[row][0]).save(files[-1])
    told = {"predictions of the run": (kept.probabilities, expected)}
    told |= {f"CSV of {path.name}": (from_csv(path, files, classes), calibrated) for path in (published, exported)}
    told["service"] = (from_service(exported, files, classes), calibrated)
    if EXECUTABLE is not None:
        told["page"] = (from_page(exported, files, classes), calibrated)
    wrong = {where: int((np.abs(own - wanted).max(1) > CLOSE).sum()) for where, (own, wanted) in told.items()}
    what = "probabilities of other classes from data to checkpoint, file, ONNX, CSV, service and page"
    record(what, len(told) * len(tested), sum(wrong.values()))
    # The images lie by classes, so that an image is compared with one of the next class.
    for axis, order, step in ((0, "images", len(tested) // len(classes)), (1, "classes", 1)):
        others = np.abs(calibrated - np.roll(calibrated, step, axis)).max(1)
        assert np.mean(others > CLOSE) > 0.9, f"probabilities are too alike to tell another order of {order}"
    assert not any(wrong.values()), wrong


def from_csv(network: Path, files: list[Path], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Returns what `emotion predict --csv` says of images of faces: float64 [N, K], by the columns of the classes."""
    words = ["predict", *map(str, files), "--no-detect", "--csv", "--ckpt", str(network)]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    return by_name(result.stdout, files, classes)


def by_name(table: str, files: list[Path], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Returns the columns of CSV that are called as the classes, float64 [N, K], in the order of the files."""
    columns = [{"=1+1": "'=1+1", "label": "class_label"}.get(name, name) for name in classes]
    rows = {Path(row["file"]).name: row for row in csv.DictReader(io.StringIO(table))}
    return np.array([[float(rows[path.name][name]) for name in columns] for path in files])


def from_service(network: Path, files: list[Path], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Returns what the service says of images of faces: float64 [N, K], by the names of the classes."""
    rows = []
    with TestClient(make_service({"own": load(network)})) as client:
        for path in files:
            answer = client.post("/predict?detect=false", files={"image": path.read_bytes()}).json()
            rows.append([answer["faces"][0]["probabilities"][name] for name in classes])
    return np.array(rows)


def from_page(network: Path, files: list[Path], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """Returns what the page saves as CSV for images of faces: float64 [N, K], by the columns of the classes."""
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0", "--ckpt", str(network)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, chromium() as browser:
        assert process.stdout
        page = new_page(browser, 1200, 1000)
        page.goto(process.stdout.readline().split()[-1])
        page.check("#single-face")
        page.set_input_files("#file", files)
        expect(page.locator("#status")).to_have_text(f"{len(files)} files", timeout=60_000)
        with page.expect_download() as download:
            page.click("#csv")
        table = Path(download.value.path()).read_text(encoding="utf-8")
        process.terminate()
    return by_name(table, files, classes)


def test_the_same_seed_is_the_same_run(tmp_path: Path, nightly: bool, record: Record) -> None:
    words = ["model=resnet_small", "width=4", "image_size=48", "trainer.max_epochs=2"]
    seeds = range(5 if nightly else 2)
    pairs = [[train(tmp_path / f"{seed}-{own}", *words, f"seed={seed}") for own in range(2)] for seed in seeds]
    lost = [found for pair in pairs if (found := differences(*pair))]
    record("the same seed twice on the CPU: same weights and figures", len(pairs), len(lost))
    assert not lost
    assert differences(pairs[0][0], pairs[1][0]), "two seeds are the same run, so that nothing is shown"
