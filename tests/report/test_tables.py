from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from emotion.analysis.document import Cell, Heading, Paragraph, Table
from emotion.data.classes import CLASSES
from emotion.report.configurations import Configuration, group
from emotion.report.tables import NOT_RUN, detailed_scores, published_tables

from .conftest import TRAIN_ACCURACIES, MakeRun, texts


def tables(configurations: list[Configuration]) -> dict[str, Table]:
    blocks = published_tables(configurations)
    return {
        heading.text: table
        for heading, table in zip(blocks[::2], blocks[1::2], strict=True)
        if isinstance(heading, Heading) and isinstance(table, Table)
    }


def test_cells_without_a_run_are_not_run() -> None:
    found = tables([])
    assert [len(table.rows) for table in found.values()] == [8, 3, 3, 1, 3, 3]
    for table in found.values():
        for row in table.rows:
            named = dict(zip(table.header, row, strict=True))
            assert {cell for name, cell in named.items() if name.endswith("ours")} == {NOT_RUN}
            assert named["Difference"] == named["95 % interval"] == named["Verdict"] == ""


def test_published_values_are_in_their_columns() -> None:
    table = tables([])["Table 2: feature extraction, class weights"]
    assert table.rows[2][0] == Cell("ResNet50 frozen", "python train.py experiment=table2 model=resnet50_fe")
    assert texts(table.rows[2]) == [
        *("ResNet50 frozen", "0.19", "not run", "", "", ""),
        *("0.1437", "not run", "0.1381", "not run"),
    ]


def test_ours_is_the_mean_over_seeds_beside_its_difference(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), accuracy=0.6 + seed / 50) for seed in (0, 1, 2)]
    configurations, _ = group(runs)
    row = tables(configurations)["Table 1: CNNs from scratch, class weights"].rows[4]
    accuracies = [run.scores(run.test)["acc"] for run in runs]
    mean, deviation = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert row[0] == Cell("CNN 2-2-1-1", target="1. CNN 2-2-1-1, class weights")
    assert row[2] == Cell(f"{mean:.4f} ± {deviation:.4f}", "seeds 0, 1, 2")
    assert row[3] == Cell(f"{mean - 0.64:+.3f}")
    assert row[3].numbers == {"": pytest.approx(mean - 0.64)}
    assert row[4].numbers.keys() == {"low", "high"}
    # The interval of a share p of n images is about 2 * 1.96 * sqrt(p (1 - p) / n) wide.
    low, high = (float(bound) for bound in str(row[4]).split(" to "))
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(mean * (1 - mean) / 7178), abs=0.003)
    assert texts(row)[5] == "lower"


def test_every_configuration_has_a_row_that_names_its_differences(make_run: MakeRun) -> None:
    vgg = ["model=vgg16_fe", "weights=a/vgg16.safetensors"]
    runs = [make_run(*vgg, "augment=false", name="a"), make_run(*vgg, name="b"), make_run("balance=none", name="c")]
    table = tables(group(runs)[0])["Table 2: feature extraction, class weights"]
    assert [row[0] for row in table.rows] == [
        Cell("VGG16 frozen", "weights vgg16.safetensors", target="1. VGG16 frozen, class weights, augment=true"),
        Cell(
            "VGG16 frozen",
            "weights vgg16.safetensors; augment=false",
            target="2. VGG16 frozen, class weights, augment=false",
        ),
        Cell("VGG19 frozen", "python train.py experiment=table2 model=vgg19_fe"),
        Cell("ResNet50 frozen", "python train.py experiment=table2 model=resnet50_fe"),
    ]
    assert texts(table.rows[0])[6:] == ["0.3548", "0.6000", "0.3076", f"{TRAIN_ACCURACIES[1]:.4f}"]


def test_missing_train_accuracy_is_not_kept(make_run: MakeRun) -> None:
    configurations, _ = group([make_run("model=vgg16_fe", curves=False, record={"precision": "bf16-mixed"})])
    row = tables(configurations)["Table 2: feature extraction, class weights"].rows[0]
    assert texts(row)[-1] == "not kept"
    assert row[2] == Cell("0.6000", "seed 0; bf16-mixed")


def test_drawn_faces_are_in_the_tables_without_difference_or_verdict(make_run: MakeRun) -> None:
    configurations, _ = group([make_run("data=synthetic", images=700)])
    row = tables(configurations)["Table 1: CNNs from scratch, class weights"].rows[4]
    assert texts(row)[:4] == ["CNN 2-2-1-1", "0.64", "0.6000", ""]
    assert row[0] == Cell("CNN 2-2-1-1", "drawn faces", target="1. CNN 2-2-1-1, class weights")
    assert row[5] == Cell("not compared", "drawn faces", "quiet")


def test_scores_of_each_class_equal_those_of_scikit_learn(make_run: MakeRun) -> None:
    run = make_run("balance=offline")
    blocks = detailed_scores(group([run])[0])
    (table,) = (block for block in blocks if isinstance(block, Table))
    names, labels = range(len(CLASSES)), run.test.labels
    expected = np.array(precision_recall_fscore_support(labels, run.test.predicted, labels=names)[:3])
    ours = np.array([[float(value) for value in texts(row)[2::2]] for row in table.rows])
    assert ours == pytest.approx(expected.T, abs=5e-5)
    averages = {row[0]: [float(value) for value in texts(row)[2::2]] for row in table.footer}
    for average in ("macro", "weighted"):
        expected_average = precision_recall_fscore_support(labels, run.test.predicted, average=average)[:3]
        assert averages[f"{average} avg"] == pytest.approx(expected_average, abs=5e-5)
    assert blocks[1] == Paragraph("Not run: python train.py experiment=table1 model=cnn")
