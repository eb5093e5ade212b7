"""Tests of the command `emotion audit` and of the files that it writes."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import data_module
from PIL import Image
from typer.testing import CliRunner

from emotion.cli import app
from emotion.data.audit import audit_images
from emotion.data.classes import CLASSES
from emotion.data.synthetic import draw_image
from emotion.report.audit import audit_record, duplicates_csv, run_audit

FILES = {"audit.html", "audit.json", "audit.md", "contact_sheet.png", "duplicates.csv"}


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Photographs in parts train and test: duplicates in both, with other labels, and near; black and broken images."""
    root = tmp_path / "my photos"
    for label in range(7):
        save(root / "train/happy" / f"{label}.png", draw_image(label, seed=0, index=label))
    first = draw_image(0, seed=0, index=0)
    save(root / "test/happy/same.png", first)
    save(root / "train/sad/|relabelled|.png", first)
    save(root / "test/sad/dull.png", (first // 20 * 10 + 60).astype(np.uint8))
    save(root / "test/sad/<b>black</b>.png", np.zeros((48, 48), np.uint8))
    (root / "test/sad/broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture
def audited(photos, tmp_path) -> Path:
    """The folder of the audit of `photos`."""
    folder = tmp_path / "out"
    run_audit(data_module(data="folder", data_dir=str(photos), on_bad_image="skip"), 0.99, folder)
    return folder


def test_undecodable_names_are_escaped_and_the_home_folder_is_hidden(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        save(photos / "train/fear" / os.fsdecode(name.encode() + b"\xff.png"), np.full((48, 48), 9, np.uint8))
    folder = tmp_path / "out"
    result = call("data=folder", f"data_dir={photos}", "--out", folder)
    assert result.exit_code == 0, result.output
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.suffix != ".png"}
    assert not [name for name, text in texts.items() if str(tmp_path) in text]
    assert "a\\udcff.png" in texts["duplicates.csv"]
    assert "a\\udcff.png" in texts["audit.html"]
    record = json.loads(texts["audit.json"])
    assert record["source"]["data_dir"] == "~/my photos"
    assert record["skipped"][0].startswith("~/my photos/test/sad/broken.jpg: ")


def call(*arguments: object):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_json_holds_all_counts(audited, photos):
    record = json.loads((audited / "audit.json").read_text())
    assert record["source"]["data"] == "folder"
    assert record["source"]["data_dir"] == str(photos)
    assert record["images"] == 11
    assert record["near_threshold"] == 0.99
    assert record["class_counts"]["train"]["happy"] == 7
    assert record["class_counts"]["test"] == dict.fromkeys(record["class_counts"]["test"], 0) | {"happy": 1, "sad": 2}
    assert record["exact"] == {
        "groups": 1,
        "images": 3,
        "extra_images": 2,
        "groups_across_parts": 1,
        "groups_with_different_labels": 1,
        "images_with_different_labels": 3,
    }
    assert (record["near"]["groups"], record["near"]["images"]) == (1, 4)
    assert record["redundant"] == {"train": 1, "test": 0}
    assert {"part": "test", "within": "train", "exact": 1, "same_label": 1, "near": 2} in record["copies"]
    assert record["constant"] == ["test/sad/<b>black</b>.png"]
    assert len(record["skipped"]) == 1
    assert "broken.jpg" in record["skipped"][0]


def test_csv_has_a_row_for_each_image_of_each_group(audited):
    rows = list(csv.DictReader((audited / "duplicates.csv").open(newline="", encoding="utf-8")))
    assert Counter((row["kind"], row["group"]) for row in rows) == {("exact", "1"): 3, ("near", "1"): 4}
    relabelled = next(row for row in rows if row["name"] == "train/sad/|relabelled|.png")
    assert (relabelled["part"], relabelled["label"], relabelled["correlation"]) == ("train", "sad", "1.0000")
    dull = next(row for row in rows if row["name"] == "test/sad/dull.png")
    assert dull["kind"] == "near"
    assert 0.99 <= float(dull["correlation"]) < 1
    same = {"train/happy/0.png", "test/happy/same.png", "train/sad/|relabelled|.png"}
    assert {row["nearest"] for row in rows} <= same
    assert all(row["nearest"] != row["name"] for row in rows)


def test_constant_duplicates_have_no_correlation(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "faces/happy" / f"{name}.png", np.full((48, 48), 9, np.uint8))
    run_audit(data_module(data="folder", data_dir=str(tmp_path / "faces")), 0.95, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/duplicates.csv").open(newline="")))
    assert [(row["kind"], row["nearest"], row["correlation"]) for row in rows] == [("exact", "", "")] * 2


def test_pages_give_advice_and_escape_names(audited):
    page = (audited / "audit.md").read_text(encoding="utf-8")
    assert "Of 3 images outside the training part, 1 (33.3%) are identical to a training image, and 2 (66.7%)" in page
    assert "| test | train | 1 | 1 | 2 |" in page
    assert "| training images that are identical to images of other parts | 2 | " in page
    assert "remove the files that duplicates.csv lists" in page
    assert "| groups of identical images with different labels | 1 | " in page
    assert "| broken images | 1 | " in page
    assert "| classes without images | 5 | " in page
    assert "| times as many images of happy as of sad | 3 | " in page
    assert "&lt;b&gt;black" in page
    assert "<b>black" not in page
    assert "broken.jpg" in page
    assert "![" in page
    html = (audited / "audit.html").read_text(encoding="utf-8")
    assert "<b>black" not in html
    assert "data:image/png" in html


def test_split_clean_is_advised_where_it_works(own_fer_tree, tmp_path):
    test_image = next((own_fer_tree / "test/happy").glob("PrivateTest*"))
    (own_fer_tree / "train/happy/Training_900.jpg").write_bytes(test_image.read_bytes())
    run_audit(data_module(data_dir=str(own_fer_tree)), 0.999, tmp_path / "out")
    assert "split=clean leaves them out of training" in (tmp_path / "out/audit.md").read_text()


def test_clean_data_gets_no_advice(tmp_path):
    for label, name in enumerate(("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")):
        save(tmp_path / "faces" / name / "0.png", draw_image(label, seed=0, index=label))
    run_audit(data_module(data="folder", data_dir=str(tmp_path / "faces")), 0.999, tmp_path / "out")
    page = (tmp_path / "out/audit.md").read_text()
    assert "0 of 7 images are identical to an earlier image" in page
    assert "| no duplicates, unusable images or rare classes |  | nothing |" in page


def test_near_copies_that_a_random_split_would_divide_are_counted(tmp_path):
    """Three photographs, of which one is there once, one in two copies and one three times with other brightness."""
    for label, factors in ((0, (1.0,)), (3, (1.0, 1.0)), (5, (1.0, 0.9, 0.8))):
        image = draw_image(label, seed=0, index=label)
        for number, factor in enumerate(factors):
            save(tmp_path / "faces" / CLASSES[label] / f"{number}.png", (image * factor).astype(np.uint8))
    run_audit(data_module(data="folder", data_dir=str(tmp_path / "faces")), 0.99, tmp_path / "out")
    page = (tmp_path / "out/audit.md").read_text()
    assert "1 of 6 images are identical to an earlier image, and 5 (83.3%) have another that correlates" in page
    # A random fifth holds 1.2 images: 2 * 0.2 * 0.8 + 3 * 0.2 * (1 - 0.04) = 0.9 of them have a copy in training.
    (line,) = (line for line in page.splitlines() if "identical or nearly identical other image" in line)
    assert line.startswith("| images with an identical or nearly identical other image | 5 | ")
    assert "of a random fifth, 1 images would have a copy in training" in line
    assert "group_duplicates=true" in line
    assert "group_by=" in line


def test_constant_copies_count_as_copies(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "faces/happy" / f"{name}.png", np.full((48, 48), 9, np.uint8))
    run_audit(data_module(data="folder", data_dir=str(tmp_path / "faces")), 0.95, tmp_path / "out")
    page = (tmp_path / "out/audit.md").read_text()
    assert "| images with an identical or nearly identical other image | 2 | " in page


def test_classes_are_those_of_the_data(tmp_path):
    packed = data_module(data="synthetic", synthetic_images=140).packed
    names = ("a", "contempt", "c", "d", "e", "f", "g", "no images")
    packed = replace(
        packed,
        images=np.concatenate([packed.images, packed.images[:1]]),
        classes=names,
        **{name: np.append(getattr(packed, name), getattr(packed, name)[0]) for name in ("labels", "parts", "hashes")},
        names=np.append(packed.names, "=again"),
    )
    packed.labels[-1] = 1
    audit = audit_images(packed, 0.999)
    record = audit_record(packed, audit)
    assert [list(counts) for counts in record["class_counts"].values()] == [list(names)] * len(record["class_counts"])
    assert all(counts["no images"] == 0 for counts in record["class_counts"].values())
    rows = list(csv.DictReader(duplicates_csv(packed, audit).splitlines()))
    assert {row["label"] for row in rows if row["name"] in ("'=again", packed.names[0])} == {
        names[packed.labels[0]],
        "contempt",
    }


def test_the_command_audits_a_path(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(photos, "data=folder", "--threshold", "0.99")
    assert result.exit_code == 0, result.output
    assert "Of 3 images outside the training part" in result.stdout
    assert "What to do" in result.stdout
    (folder,) = (tmp_path / "runs/audit").iterdir()
    assert folder.name.startswith("my photos-")
    assert {file.name for file in folder.iterdir()} == FILES
    (tmp_path / "other").mkdir()
    shutil.copytree(photos, tmp_path / "other" / photos.name)
    assert call(tmp_path / "other" / photos.name, "data=folder").exit_code == 0
    assert len(list((tmp_path / "runs/audit").iterdir())) == 2


def test_the_command_audits_drawn_faces(tmp_path):
    result = call("data=synthetic", "synthetic_images=140", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out/audit.json").read_text())
    assert record["images"] == 140
    assert record["near_threshold"] == 0.95
    assert record["exact"]["groups"] == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["/nowhere"], ["/nowhere", "data=synthetic"]),
        (["one", "two"], ["one two", "one folder"]),
        (["data=synthetic", "split=clean"], ["split", "pack_size"]),
        (["data=synthetic", "dta_dir=x"], ["dta_dir", "data_dir"]),
        (["data=nonsense"], ["data=nonsense", "synthetic"]),
        (["data=synthetic", "synthetic_images=140", "--threshold", "1.5"], ["threshold=1.5", "between 0 and 1"]),
        (["data=synthetic", "synthetic_images=140", "--out", __file__], [Path(__file__).name, "cannot be made"]),
    ],
)
def test_user_error_is_one_line_with_status_2(arguments, parts, tmp_path):
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    result = call(*arguments, *out)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(part in lines[0] for part in parts)
