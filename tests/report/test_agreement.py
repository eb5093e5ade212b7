"""The tables of the votes of people on the report page."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from emotion.analysis.document import Cell, Table
from emotion.analysis.predictions import Predictions
from emotion.cli import app
from emotion.data.votes import VOTED, open_votes
from emotion.errors import UserError
from emotion.report.agreement import configurations_agreement
from emotion.report.configurations import group
from emotion.report.page import write_report
from emotion.report.runs import Run

from .conftest import MakeRun, texts

pytestmark = pytest.mark.usefixtures("undrawn")

TITLE = "What people would have said"
SAID = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def write_votes(path: Path, *shown: Predictions) -> Path:
    """Writes the votes of ten people on each image: seven for its label, three for fear."""
    ballots = {}
    for predictions in shown:
        for name, label in zip(predictions.ids, predictions.labels, strict=True):
            counts = dict.fromkeys(VOTED, 0)
            said = predictions.classes[label]
            counts[SAID.get(said, said)] += 7
            counts["fear"] += 3
            ballots[str(name).rsplit("/", 1)[-1]] = counts.values()
    lines = [f"{name},{','.join(map(str, counts))}" for name, counts in ballots.items()]
    path.write_text("\n".join([f"image,{','.join(VOTED)}", *lines]))
    return path


def expected_share(predictions: Predictions) -> float:
    """Returns the mean share of the votes of `write_votes` that predictions get."""
    fear = predictions.classes.index("fear")
    right = (predictions.predicted == predictions.labels) * 0.7
    return float(np.mean(right + (predictions.predicted == fear) * 0.3))


def rewrite(run: Run, **arrays: NDArray[np.str_]) -> None:
    """Replaces some arrays of the file of predictions of a run."""
    with np.load(run.folder.predictions) as file:
        stored = dict(file)
    np.savez(run.folder.predictions, **stored | arrays)


def tables(found: list[object]) -> dict[str, Table]:
    return {block.name: block for block in found if isinstance(block, Table)}


def test_page_has_the_votes_and_the_tables_are_files(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("data_dir=gone", f"seed={seed}", name=f"runs/{seed}", images=70, draw=seed) for seed in (0, 1)]
    path, _ = write_report([tmp_path / "runs"], tmp_path / "out", write_votes(tmp_path / "votes.csv", runs[0].test))
    text = path.with_suffix(".md").read_text()
    assert f"## {TITLE}" in text
    assert "This page only reads their votes" in text
    assert "All: 70 of 70 images have votes." in text
    with (tmp_path / "out/tables/agreement.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Images"] == "All"]
    shares = [expected_share(run.test) for run in runs]
    assert float(rows[0]["Share of votes"]) == pytest.approx(np.mean(shares))
    assert float(rows[0]["Share of votes sd"]) == pytest.approx(np.std(shares, ddof=1))
    assert (rows[0]["Run note"], rows[1]["Run note"]) == ("seeds 0, 1", "ensemble of 2 seeds")
    assert [row["Run"] for row in rows[2:]] == ["one person", "the answer with most votes", "the label of the data"]
    # On an image of fear all ten agree, and on the others 21 + 3 of the 45 pairs.
    assert float(rows[2]["Share of votes"]) == pytest.approx((10 + 60 * 24 / 45) / 70)
    for name in ("agreement", "agreement-labels", "agreement-confused"):
        assert (tmp_path / f"out/tables/{name}.tex").is_file()


def test_page_without_votes_says_nothing_of_them(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("data_dir=gone", images=70)
    path, _ = write_report([tmp_path / "run"], tmp_path / "out")
    assert TITLE not in path.with_suffix(".md").read_text()
    assert not list((tmp_path / "out/tables").glob("agreement*"))


def test_images_of_other_data_have_no_votes(make_run: MakeRun, tmp_path: Path) -> None:
    fer = make_run("data_dir=gone", name="runs/fer", images=70)
    own = make_run("data=folder", "data_dir=photos", name="runs/own", images=70, own=True)
    rewrite(own, test_ids=np.char.add(own.test.ids, ".png"), val_ids=np.char.add(own.val.ids, ".png"))
    votes = write_votes(tmp_path / "votes.csv", fer.test)
    path, _ = write_report([tmp_path / "runs"], tmp_path / "out", votes)
    headings = [line for line in path.with_suffix(".md").read_text().splitlines() if line.startswith("### What")]
    assert headings == [f"### {TITLE}: FER2013, split=report"]


def test_runs_of_classes_without_votes_do_not_stop_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    fer = make_run("data_dir=gone", name="runs/fer", images=70)
    make_run("data=folder", "data_dir=photos", name="runs/own", images=70, own=True, classes=("negative", "positive"))
    votes = write_votes(tmp_path / "votes.csv", fer.test)
    text = write_report([tmp_path / "runs"], tmp_path / "out", votes)[0].with_suffix(".md").read_text()
    assert "Not compared with people. votes: FER+ has none for negative, positive; it has " in text
    assert "All: 70 of 70 images have votes." in text


def test_each_part_and_augmentation_has_a_row(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("tta=flip", images=70)
    parts = {"val": "public", "test": "private"}
    val, test = (replace(own, parts=np.full(len(own), parts[stage])) for stage, own in run.stages.items())
    better = make_run("tta=flip", name="b", images=70, accuracy=0.9).test
    better = replace(better, parts=test.parts)
    votes = open_votes(write_votes(tmp_path / "votes.csv", val, test))
    shown = replace(run, val=val, test=test, augmented={"val": val, "test": better})
    found = tables(configurations_agreement(group([shown])[0], votes))["agreement"]
    parts_of = [(str(row[1]), row[1].note if isinstance(row[1], Cell) else "") for row in found.rows]
    assert parts_of == [(part, note) for note in ("", "flip") for part in ("PublicTest", "PrivateTest", "All")]
    assert float(texts(found.rows[4])[2]) == pytest.approx(expected_share(better), abs=1e-4)


def test_folds_count_together(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(
            "split=random", "folds=2", f"fold={fold}", name=str(fold), images=70, draw=fold, prefix=f"{fold}/{fold}-"
        )
        for fold in (0, 1)
    ]
    # Only the last part of a name counts, and it must differ between the folds.
    runs = [
        replace(run, test=replace(run.test, ids=np.array([f"{run.fold}-{row}.jpg" for row in range(70)])))
        for run in runs
    ]
    votes = open_votes(write_votes(tmp_path / "votes.csv", *(run.test for run in runs)))
    (shown,) = group(runs)[0]
    (row, *_) = (
        row for row in tables(configurations_agreement([shown], votes))["agreement"].rows if row[1] == Cell("All")
    )
    assert float(texts(row)[2]) == pytest.approx(np.mean([expected_share(run.test) for run in runs]), abs=1e-4)


def test_runs_without_test_images_are_compared_on_public_test(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("data_dir=gone", "split=official", tested=False)
    rewrite(run, val_parts=np.full(len(run.val), "public"))
    path, _ = write_report([tmp_path / "run"], tmp_path / "out", write_votes(tmp_path / "votes.csv", run.val))
    assert f"### {TITLE}, validation results" in path.with_suffix(".md").read_text()
    with (tmp_path / "out/tables/validation-agreement.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["Images"] == "PublicTest"
    assert float(row["Share of votes"]) == pytest.approx(expected_share(run.val))


def test_evaluations_have_the_votes_too(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("data_dir=gone", images=70)
    record = {"checkpoints": ["a.ckpt"], "data": "fer2013", "split": "report", "tta": "none", "seen": "not known"}
    run.folder.config.unlink()
    (run.folder.path / "evaluation.json").write_text(json.dumps(record))
    path, _ = write_report([tmp_path / "run"], tmp_path / "out", write_votes(tmp_path / "votes.csv", run.test))
    assert f"### {TITLE}: evaluations" in path.with_suffix(".md").read_text()
    with (tmp_path / "out/tables/evaluations-agreement.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["Images"] == "All")
    assert row["Run note"] == "a.ckpt"
    assert float(row["Share of votes"]) == pytest.approx(expected_share(run.test))


def test_votes_on_no_image_of_the_page_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("data_dir=gone", images=70)
    path = tmp_path / "votes.csv"
    path.write_text(f"image,{','.join(VOTED)}\nother.jpg,1,1,0,0,0,0,0,0,0,0")
    with pytest.raises(UserError) as caught:
        write_report([tmp_path / "run"], tmp_path / "out", path)
    assert str(caught.value).startswith(f"{path}: no votes on any of the 420 images, as ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_command_takes_the_file(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("data_dir=gone", images=70)
    votes = write_votes(tmp_path / "votes.csv", run.test)
    words = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--votes"]
    assert CliRunner().invoke(app, [*words, str(votes)]).exit_code == 0
    assert TITLE in (tmp_path / "out/report.html").read_text()
    failed = CliRunner().invoke(app, [*words, str(tmp_path / "none.csv")])
    assert failed.exit_code == 2
    assert failed.stderr.startswith(f"error: {tmp_path / 'none.csv'}: no such file; the votes of FER+ are a CSV file")
    assert len(failed.stderr.splitlines()) == 1
