"""The runs in results/: their metrics are counted again, with scikit-learn."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from emotion.config import compose, conf_dir, settings

ROOT = Path(__file__).parents[1]
RUNS = sorted(path.parent for path in (ROOT / "results").rglob("predictions.npz"))
INGREDIENTS = [run for run in RUNS if run.parent.name == "ingredients"]
IMAGES = {"report": {"val": 5742, "test": 7178}, "official": {"val": 3589, "test": 3589}}
"""Images of each split, by `split=`."""


@cache
def config(run):
    """Reads the settings of a run, once."""
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_metrics_follow_from_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    images = IMAGES["report" if config(run)["split"] == "report" else "official"]
    with np.load(run / "predictions.npz") as file:
        assert ("test_labels" in file.files) == (run not in INGREDIENTS), (
            "what still chooses leaves the test images alone"
        )
        for split in {"val", "test"} & {*metrics}:
            labels, predicted = file[f"{split}_labels"], file[f"{split}_probabilities"].argmax(1)
            assert len(labels) == images[split]
            assert metrics[split]["acc"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
            f1 = f1_score(labels, predicted, average="macro", zero_division=0)
            assert metrics[split]["f1_macro"] == pytest.approx(f1, abs=1e-12)


def test_kept_runs_name_no_place_of_a_machine():
    for file in (ROOT / "results").rglob("*"):
        if file.suffix in (".json", ".yaml", ".csv"):
            assert not re.search(r"/(home|root|work|tmp|Users)/", file.read_text(encoding="utf-8")), file


def test_the_ablation_has_a_run_of_each_ingredient_and_no_other():
    parts = yaml.safe_load((conf_dir() / "experiment/ingredients.yaml").read_text())["hydra"]["sweeper"]["parts"]
    found = {part: [run for seed in range(3) for run in ingredient(part.split(), seed)] for part in parts}
    assert all(found.values())
    assert sorted(run for runs in found.values() for run in runs) == INGREDIENTS


def ingredient(changes, seed):
    """Finds the run of the ablation that changes these settings, if it is there."""
    shared = ("recipe=small", "name=ingredients", "width=16", "trainer.max_epochs=15", "warmup_epochs=1")
    expected = settings(compose(*shared, "trainer.precision=32-true", *changes, f"seed={seed}"))
    found = [run for run in INGREDIENTS if config(run) == {key: expected.get(key) for key in config(run)}]
    assert len(found) <= 1
    return found
