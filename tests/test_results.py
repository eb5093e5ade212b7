"""Every figure of the README is counted again from the predictions that are kept in results/."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

ROOT = Path(__file__).parents[1]
RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/predictions.npz"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_metrics_follow_from_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with np.load(run / "predictions.npz") as file:
        for stage, images in (("val", 5742), ("test", 7178)):
            labels, predicted = file[f"{stage}_labels"], file[f"{stage}_probabilities"].argmax(1)
            assert len(labels) == images
            assert metrics[stage]["acc"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
            assert metrics[stage]["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-12)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_readme_states_the_figures_of_the_run(run):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    test = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    rows = [line for line in readme.splitlines() if f"results/{run.name})" in line]
    assert len(rows) == 1
    assert f"| {test['acc']:.4f} | {test['f1_macro']:.4f} |" in rows[0]


def test_there_are_results():
    assert RUNS
