from __future__ import annotations

import base64
import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest
from latex import parse_latex
from small_runs import train
from typer.testing import CliRunner

from emotion.analysis.document import Block, Cell, Details, Document, Heading, Paragraph, Table, to_html
from emotion.cli import app
from emotion.data.classes import CLASSES
from emotion.report import page
from emotion.report.page import write_report
from emotion.training.evaluate import evaluate

from .conftest import MakeRun, texts

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


@pytest.mark.usefixtures("undrawn")
def test_page_has_every_section(runs: Path, tmp_path: Path, documents: list[Document]) -> None:
    path, verdict = write_report([runs], tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    (document,) = documents
    assert document.blocks[0] == Paragraph(verdict, lead=True)
    assert [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2] == SECTIONS
    assert [block.summary for block in document.blocks if isinstance(block, Details)] == [
        "Table of 1 pair, 0 with a significant difference",
        "How pairs are tested",
        "1. CNN 2-2-1-1, class weights",
        "2. CNN 2-2-1-1, no balancing",
    ]


@pytest.mark.usefixtures("undrawn")
def test_sections_without_content_are_left_out(make_run: MakeRun, tmp_path: Path, documents: list[Document]) -> None:
    make_run("data=synthetic", "synthetic_images=140", "data_dir=gone", images=70)
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


MOODS = ("bored", "calm", "engaged")
EXPRESSIONS = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def own_runs(make_run: MakeRun, folder: str, classes: tuple[str, ...], models: dict[str, float]) -> None:
    """Writes runs on one's own data, two seeds each, by the accuracy of their first seed."""
    for draw, (model, accuracy) in enumerate(models.items()):
        for seed in (0, 1):
            make_run(
                "data=folder",
                f"data_dir='{folder}'",
                f"model={model}",
                f"seed={seed}",
                name=f"runs/{folder}/{model}{seed}",
                images=360,
                accuracy=accuracy + seed / 50,
                draw=10 * draw + seed,
                classes=classes,
                own=True,
                history={"val/acc": (0.3, 0.4), "val/loss": (2.0, 1.0)},
            )


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_ones_own_says_nothing_of_the_paper(
    make_run: MakeRun, tmp_path: Path, documents: list[Document]
) -> None:
    own_runs(make_run, "moods", MOODS, {"cnn": 0.6, "cnn_111": 0.3})
    path, verdict = write_report([tmp_path / "runs"], tmp_path / "out")
    assert verdict == "2 configurations, 4 runs, 0 evaluations."
    text = path.with_suffix(".md").read_text()
    assert not (tmp_path / "out/pairs.png").exists()
    assert "The figure shows" not in text
    for word in (
        "Train accuracy",
        "paper",
        "FER2013",
        "PublicTest",
        "PrivateTest",
        "published",
        "not run",
        "neutral against sad",
    ):
        assert word not in text
    assert [block.text for block in documents[0].blocks if isinstance(block, Heading)] == [
        "Runs",
        "Learning curves",
        "Comparison of every two runs",
        "Calibration",
        "Time and hardware",
        "Each configuration",
        "How to read this page",
    ]
    assert "moods, split=report: 2 configurations, 4 runs. 3 classes: bored, calm, engaged." in text


@pytest.mark.usefixtures("undrawn")
def test_runs_on_other_data_or_classes_share_no_table(
    make_run: MakeRun, tmp_path: Path, documents: list[Document]
) -> None:
    own_runs(make_run, "moods", MOODS, {"cnn": 0.6, "cnn_111": 0.3})
    own_runs(make_run, "faces", EXPRESSIONS, {"cnn": 0.6, "cnn_111": 0.5})
    write_report([tmp_path / "runs"], tmp_path / "out")
    blocks = documents[0].blocks
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    titles = ["Runs", "Learning curves", "Comparison of every two runs", "Calibration", "Time and hardware"]
    assert headings == [
        *(name for data in ("faces", "moods") for name in section_headings(f"{data}, split=report", titles)),
        "Each configuration",
        "How to read this page",
    ]
    numbers = {name: numbers_below(blocks, f"Runs: {name}, split=report") for name in ("faces", "moods")}
    assert sorted(numbers["faces"] + numbers["moods"]) == ["1", "2", "3", "4"]
    for name, own in numbers.items():
        assert len(own) == 2
        for title in ("Calibration", "Time and hardware"):
            assert set(numbers_below(blocks, f"{title}: {name}, split=report")) == set(own)
    pairs = [block.summary for block in blocks if isinstance(block, Details) and block.summary.startswith("Table of")]
    assert [summary.split(",")[0] for summary in pairs] == ["Table of 1 pair"] * 2


def section_headings(name: str, titles: list[str]) -> list[str]:
    return [name, *(f"{title}: {name}" for title in titles)]


def numbers_below(blocks: Sequence[Block], heading: str) -> list[str]:
    """Returns the numbers of the configurations in the first table below a heading."""
    start = next(row for row, block in enumerate(blocks) if isinstance(block, Heading) and block.text == heading)
    table = next(block for block in blocks[start:] if isinstance(block, Table))
    return [row[0].text.split(".")[0] for row in table.rows if isinstance(row[0], Cell)]


@pytest.mark.usefixtures("undrawn")
def test_tables_are_files_named_after_them(make_run: MakeRun, tmp_path: Path) -> None:
    own_runs(make_run, "my moods & more", MOODS, {"cnn": 0.6, "cnn_111": 0.3})
    write_report([tmp_path / "runs"], tmp_path / "out")
    files = {file.name for file in (tmp_path / "out/tables").iterdir()}
    names = ("results", "pairs", "calibration", "cost", "01-classes", "02-classes")
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("csv", "tex")}
    rows = list(csv.DictReader((tmp_path / "out/tables/results.csv").open(newline="", encoding="utf-8")))
    assert [float(row["Test accuracy"]) for row in rows] == pytest.approx([0.61, 0.31], abs=1e-3)
    assert [float(row["Test accuracy sd"]) for row in rows] == pytest.approx([0.02 / 2**0.5] * 2, abs=1e-3)
    text = (tmp_path / "out/tables/results.tex").read_text(encoding="utf-8")
    assert r"\caption{my moods \& more, split=report. Results on the test images." in text
    assert "(*), 0.01 (**) or 0.001 (***)" in text
    body = text.split(r"\midrule")[1]
    assert [line.count(r"\textbf") for line in body.strip().splitlines()[:2]] == [4, 0]
    assert "$^{*" in body.splitlines()[2]
    for file in (tmp_path / "out/tables").glob("*.tex"):
        parse_latex(file.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("undrawn")
def test_tables_of_an_earlier_page_are_removed(make_run: MakeRun, tmp_path: Path) -> None:
    own_runs(make_run, "moods", MOODS, {"cnn": 0.6, "cnn_111": 0.3})
    write_report([tmp_path / "runs"], tmp_path / "out")
    own = ("mine.csv", "mine.tex", "results.txt")
    for name in own:
        (tmp_path / "out/tables" / name).write_text("kept")
    first = next((tmp_path / "runs").rglob("config.yaml")).parent
    write_report([first], tmp_path / "out")
    files = {file.name for file in (tmp_path / "out/tables").iterdir()}
    names = ("results", "calibration", "cost", "01-classes")
    assert files == {*own, *(f"{name}.{suffix}" for name in names for suffix in ("csv", "tex"))}


def test_names_of_networks_may_look_like_formulas(make_run: MakeRun, tmp_path: Path) -> None:
    for accuracy in (0.3, 0.45, 0.6):
        own = {"family": "custom", "model": "custom", "network": r"a$\frac$.py:Net", "lr": accuracy}
        make_run("split=official", name=f"runs/{accuracy}", images=70, accuracy=accuracy, changes=own)
    assert write_report([tmp_path / "runs"], tmp_path / "out")[0].is_file()
    assert (tmp_path / "out/pairs.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_files_of_sections_do_not_replace_each_other(make_run: MakeRun, tmp_path: Path) -> None:
    own_runs(make_run, "moods", MOODS, {"cnn": 0.6, "cnn_111": 0.3})
    own_runs(make_run, "faces", EXPRESSIONS, {"cnn": 0.6, "cnn_111": 0.5})
    write_report([tmp_path / "runs"], tmp_path / "out")
    for name in ("moods", "faces"):
        for file in ("curves.png", "curves.svg"):
            assert (tmp_path / "out" / f"{name}-split-report-{file}").is_file()
        assert (tmp_path / "out/tables" / f"{name}-split-report-results.csv").is_file()
    classes = list(csv.DictReader((tmp_path / "out/tables/01-classes.csv").open(newline="", encoding="utf-8")))
    assert {row["Class"] for row in classes} > set(EXPRESSIONS)


@pytest.mark.usefixtures("undrawn")
def test_names_that_differ_in_their_signs_only_make_separate_files(make_run: MakeRun, tmp_path: Path) -> None:
    own_runs(make_run, "a-b", MOODS, {"cnn": 0.6})
    own_runs(make_run, "a b", MOODS, {"cnn": 0.3})
    write_report([tmp_path / "runs"], tmp_path / "out")
    assert len(list((tmp_path / "out/tables").glob("*results*.csv"))) == 2
    assert len(list((tmp_path / "out").glob("*curves.png"))) == 2


@pytest.mark.usefixtures("undrawn")
def test_folds_have_a_table_and_a_matrix_of_all_images(
    make_run: MakeRun, tmp_path: Path, documents: list[Document]
) -> None:
    for fold, accuracy in ((0, 0.5), (1, 0.6), (4, 0.7)):
        make_run(
            "data=folder",
            "data_dir=moods",
            name=f"runs/{fold}",
            images=60,
            accuracy=accuracy,
            draw=fold,
            classes=MOODS,
            own=True,
            prefix=f"fold{fold}/",
            changes={"folds": 5, "fold": fold},
        )
    write_report([tmp_path / "runs"], tmp_path / "out")
    blocks = documents[0].blocks
    table = blocks[blocks.index(Heading("Cross-validation")) + 2]
    assert isinstance(table, Table)
    assert texts(table.rows[0])[1:5] == ["3 of 5 folds, seed 0", "0.6000 ± 0.1000", "180", "0.6000"]
    (details,) = (block for block in blocks if isinstance(block, Details))
    classes = details.blocks[2]
    assert isinstance(classes, Table)
    assert [texts(row)[4] for row in classes.rows] == ["60", "60", "60"]
    assert classes.footer[0][4] == "180"
    assert (tmp_path / "out/tables/cross-validation.tex").is_file()


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_are_listed_with_their_error(runs: Path, tmp_path: Path, documents: list[Document]) -> None:
    path, _ = write_report([runs], tmp_path / "out")
    table = documents[0].blocks[documents[0].blocks.index(Heading("Skipped runs")) + 1]
    assert isinstance(table, Table)
    assert table.rows == [(str(runs / "failed"), "failed: out of <b>memory</b>")]
    assert "out of &lt;b&gt;memory&lt;/b&gt;" in path.read_text()


@pytest.mark.usefixtures("undrawn")
def test_only_unfinished_runs_make_a_page_too(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(images=70).folder.metrics.unlink()
    path, verdict = write_report([tmp_path / "run"], tmp_path / "out")
    assert verdict == "0 configurations, 0 runs, 0 evaluations."
    assert "not finished" in path.read_text()


def test_markdown_and_html_show_the_same_images(runs: Path, tmp_path: Path) -> None:
    path, _ = write_report([runs], tmp_path / "out")
    text = path.with_suffix(".md").read_text()
    images = [tmp_path / "out" / unquote(file) for file in re.findall(r"!\[.*\]\((.*)\)", text)]
    assert len(images) == 1 + 2 * 3
    embedded = re.findall(r'src="data:image/png;base64,(.*?)"', path.read_text())
    assert [base64.b64encode(image.read_bytes()).decode() for image in images] == embedded


def test_page_is_the_same_whenever_it_is_written(runs: Path, tmp_path: Path) -> None:
    first, second = (write_report([runs], tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.usefixtures("undrawn")
def test_of_too_many_configurations_the_best_on_validation_images_are_compared(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_COMPARED", 2)
    for lr, accuracy in (("0.01", 0.2), ("0.02", 0.6), ("0.03", 0.7)):
        make_run("data_dir=gone", f"lr={lr}", name=f"runs/{lr}", images=200, accuracy=accuracy)
    text = write_report([tmp_path / "runs"], tmp_path / "out")[0].with_suffix(".md").read_text()
    assert text.count("Of 3 configurations, the 2 with the highest validation accuracy are compared.") == 1
    assert text.index("Marks beside the accuracy") < text.index("Of 3 configurations")
    (pairs,) = (file.read_text() for file in (tmp_path / "out/tables").glob("pairs*.csv"))
    (row,) = pairs.splitlines()[1:]
    assert row.startswith('"2. CNN 2-2-1-1, class weights, lr=0.02","3. CNN 2-2-1-1, class weights, lr=0.03"')


@pytest.mark.usefixtures("undrawn")
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


def test_folder_that_is_a_file_is_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("data_dir=gone", images=70)
    (tmp_path / "out").touch()
    result = CliRunner().invoke(app, ["report", str(run.folder.path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'out'}: the folder cannot be made (File exists)\n"


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
def test_evaluations_make_a_page_without_runs(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("data_dir=gone").folder
    record = {"checkpoints": ["a.ckpt"], "data": "fer2013", "split": "report", "tta": "none", "seen": "not known"}
    folder.config.unlink()
    (folder.path / "evaluation.json").write_text(json.dumps(record))
    path, verdict = write_report([tmp_path / "run"], tmp_path / "out")
    assert verdict == "0 configurations, 0 runs, 1 evaluation."
    assert "| fer2013, split=report |" in path.with_suffix(".md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_evaluations_on_other_images_or_classes_share_no_table(make_run: MakeRun, tmp_path: Path) -> None:
    kinds = (("fer2013", CLASSES, 42), ("photos", CLASSES, 42), ("photos", MOODS, 42), ("photos", MOODS, 21))
    for number, (data, classes, images) in enumerate(kinds):
        folder = make_run("data_dir=gone", name=f"runs/{number}", images=images, classes=classes).folder
        record = {"checkpoints": ["a.ckpt"], "data": data, "split": "test_only", "tta": "none", "seen": "not known"}
        folder.config.unlink()
        (folder.path / "evaluation.json").write_text(json.dumps(record))
    path, _ = write_report([tmp_path / "runs"], tmp_path / "out")
    text = path.with_suffix(".md").read_text()
    for data in (
        "fer2013, split=test_only, 7 classes, 42 images (1)",
        "photos, split=test_only, 7 classes, 42 images (2)",
    ):
        assert f"### Evaluations on {data}" in text
    assert "### Evaluations on photos, split=test_only, 3 classes, 42 images (3)" in text
    assert "### Evaluations on photos, split=test_only, 3 classes, 21 images (4)" in text
    assert text.count("| Evaluation | Data |") == 4
    assert len(list((tmp_path / "out/tables").glob("evaluations-*.csv"))) == 4
