from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from small_runs import train
from typer.testing import CliRunner

from emotion.analysis.document import Details, Document, Heading, Paragraph, Table, to_html
from emotion.cli import app
from emotion.report import page
from emotion.report.page import write_report
from emotion.training.evaluate import evaluate

from .conftest import MakeRun

SECTIONS = [
    "Table 1: CNNs from scratch, class weights",
    "Table 2: feature extraction, class weights",
    "Table 3: fine-tuning VGG16, class weights",
    "Section 4.1: the chosen CNN, oversampling",
    "Table 4: feature extraction, oversampling",
    "Table 5: fine-tuning VGG16, oversampling",
    "Precision, recall and F1 of each class",
    "Runs",
    "Test images and their parts",
    "Comparison of every two runs",
    "Calibration",
    "Time and hardware",
    "Each configuration",
    "Skipped runs",
    "How to read this page",
]


@pytest.fixture
def runs(make_run: MakeRun, tmp_path: Path) -> Path:
    """Runs of every kind, whose data is missing."""
    gone = "data_dir=gone"
    make_run(gone, name="runs/paper/cnn")
    make_run(gone, "seed=1", name="runs/paper/cnn again", accuracy=0.62, draw=1)
    make_run(gone, "balance=none", name="runs/other")
    failed = make_run(gone, "patience=30", name="runs/failed", images=70).folder
    failed.metrics.unlink()
    failed.write_failure("out of <b>memory</b>")
    return tmp_path / "runs"


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> list[Document]:
    """The documents that were written as HTML."""
    written: list[Document] = []

    def write(document: Document) -> str:
        written.append(document)
        return to_html(document)

    monkeypatch.setattr(page, "to_html", write)
    return written


def test_page_has_every_section(runs: Path, tmp_path: Path, documents: list[Document]) -> None:
    path, verdict = write_report([runs], tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    (document,) = documents
    assert document.blocks[0] == Paragraph(verdict, lead=True)
    assert [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2] == SECTIONS
    assert [block.summary for block in document.blocks if isinstance(block, Details)] == [
        "Table of 1 pair, 0 with a significant difference",
        "1. CNN 2-2-1-1, class weights",
        "2. CNN 2-2-1-1, no balancing",
    ]


def test_sections_without_content_are_left_out(make_run: MakeRun, tmp_path: Path, documents: list[Document]) -> None:
    make_run("data=synthetic", "data_dir=gone", images=70)
    write_report([tmp_path / "run"], tmp_path / "out")
    found = [block.text for block in documents[0].blocks if isinstance(block, Heading) and block.level == 2]
    assert found == [
        "Runs",
        "Test images and their parts",
        "Calibration",
        "Time and hardware",
        "Each configuration",
        "How to read this page",
    ]
    assert "published" not in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "published.png").exists()


def test_failed_runs_are_listed_with_their_error(runs: Path, tmp_path: Path, documents: list[Document]) -> None:
    path, _ = write_report([runs], tmp_path / "out")
    table = documents[0].blocks[documents[0].blocks.index(Heading("Skipped runs")) + 1]
    assert isinstance(table, Table)
    assert table.rows == [(str(runs / "failed"), "failed: out of <b>memory</b>")]
    assert "out of &lt;b&gt;memory&lt;/b&gt;" in path.read_text()


def test_only_unfinished_runs_make_a_page_too(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(images=70).folder.metrics.unlink()
    path, verdict = write_report([tmp_path / "run"], tmp_path / "out")
    assert verdict == "0 configurations, 0 runs, 0 evaluations."
    assert "not finished" in path.read_text()


def test_markdown_and_html_show_the_same_images(runs: Path, tmp_path: Path) -> None:
    path, _ = write_report([runs], tmp_path / "out")
    text = path.with_suffix(".md").read_text()
    images = [tmp_path / "out" / unquote(file) for file in re.findall(r"!\[.*\]\((.*)\)", text)]
    assert len(images) == 2 + 2 * 2
    embedded = re.findall(r'src="data:image/png;base64,(.*?)"', path.read_text())
    assert [base64.b64encode(image.read_bytes()).decode() for image in images] == embedded


def test_page_is_the_same_whenever_it_is_written(runs: Path, tmp_path: Path) -> None:
    first, second = (write_report([runs], tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


def test_too_many_configurations_are_not_all_compared(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_COMPARED", 1)
    assert "Comparison of every two runs" not in write_report([runs], tmp_path / "out")[0].read_text()


def test_command_prints_the_verdict_and_the_path_of_the_page(runs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    verdict, path = result.stdout.splitlines()
    assert verdict.startswith("Our results beside the 21 test accuracies of the paper: 1 lower, 20 not run.")
    assert path == f"report: {tmp_path / 'out' / 'report.html'}"


def test_path_without_runs_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert (
        result.stderr == f"error: {tmp_path}: no run in this folder: a run has the config.yaml that training writes\n"
    )
    assert not (tmp_path / "out").exists()


def test_folder_that_is_a_file_is_one_line(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    result = CliRunner().invoke(app, ["report", str(runs), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'out'}: the folder cannot be made (File exists)\n"


def test_undecodable_names_are_written_as_escapes(make_run: MakeRun, tmp_path: Path) -> None:
    name = os.fsdecode(b"n\xff")
    make_run("data_dir=gone", name=f"{name}/used", images=70)
    make_run("data_dir=gone", name=f"{name}/unused", images=70).folder.metrics.unlink()
    path, _ = write_report([tmp_path / name], tmp_path / name / "out")
    for file in (path, path.with_suffix(".md")):
        text = file.read_text(encoding="utf-8").replace("\\\\", "\\")
        assert "n\\udcff/used" in text
        assert "n\\udcff/unused" in text


@pytest.mark.training
def test_report_of_real_runs_on_drawn_faces(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tmp_path / "runs" / str(seed), "trainer.max_epochs=1", f"seed={seed}")
    checkpoints = [tmp_path / "runs" / str(seed) / "checkpoints" / "best.ckpt" for seed in (0, 1)]
    results = evaluate(checkpoints, {"split": "official"}, str(tmp_path / "runs" / "ensemble"), "cpu", "flip")
    broken = tmp_path / "runs" / "broken" / "evaluation.json"
    broken.parent.mkdir()
    broken.write_text('{"checkpoints": []}')
    path, verdict = write_report([tmp_path / "runs"], tmp_path / "out")
    assert verdict == "1 configuration, 2 runs, 1 evaluation."
    text = path.with_suffix(".md").read_text()
    metrics = [json.loads((tmp_path / "runs" / seed / "metrics.json").read_text())["test"]["acc"] for seed in "01"]
    assert f"{sum(metrics) / 2:.4f} ± " in text
    for caption in (
        "Learning curves",
        "Confusion matrix",
        "Reliability",
        "most confident mistakes",
        "Grad-CAM (HiResCAM): mistakes",
    ):
        assert caption in text
    assert "data is missing" not in text
    rows = [line for line in text.splitlines() if "mean of 2 networks: " in line]
    for row, stage, views in zip(rows, ("test", "test_tta"), ("none", "flip"), strict=True):
        assert f"| synthetic, split=official | {results[stage]['num_images']} | {views} | " in row
        assert f" {results[stage]['acc']:.4f}" in row
        assert f" {results[stage]['f1_macro']:.4f}" in row
    assert "checkpoints: List should have at least 1 item" in text


def test_evaluations_make_a_page_without_runs(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("data_dir=gone").folder
    record = {"checkpoints": ["a.ckpt"], "data": "fer2013", "split": "report", "tta": "none", "seen": "not known"}
    folder.config.unlink()
    (folder.path / "evaluation.json").write_text(json.dumps(record))
    path, verdict = write_report([tmp_path / "run"], tmp_path / "out")
    assert verdict == "0 configurations, 0 runs, 1 evaluation."
    assert "| fer2013, split=report |" in path.with_suffix(".md").read_text()
