"""The runs in results/: their metrics are counted again, with scikit-learn."""

import json
import re
from functools import cache
from pathlib import Path

import agreement
import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from emotion.config import compose, conf_dir, settings

ROOT = Path(__file__).parents[1]
RUNS = sorted(path.parent for path in (ROOT / "results").rglob("predictions.npz"))
CHOOSING = ("ablations", "distillation")
"""Folders of runs that choose settings, and therefore leave the test images alone."""
IMAGES = {"report": {"val": 5742, "test": 7178}, "official": {"val": 3589, "test": 3589}}
"""Images of each split, by `split=`."""


@cache
def config(run):
    """Reads the settings of a run, once."""
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


INGREDIENTS = [run for run in RUNS if config(run)["name"] == "ingredients"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_metrics_follow_from_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    images = IMAGES["report" if config(run)["split"] == "report" else "official"]
    with np.load(run / "predictions.npz") as file:
        chooses = run.relative_to(ROOT / "results").parts[0] in CHOOSING
        assert ("test_labels" in file.files) != chooses, "what still chooses leaves the test images alone"
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


def test_a_checkout_stays_small():
    assert sum(file.stat().st_size for file in (ROOT / "results").rglob("*") if file.is_file()) < 45 * 2**20


def test_the_ablation_has_a_run_of_each_ingredient_and_no_other():
    parts = yaml.safe_load((conf_dir() / "experiment/ingredients.yaml").read_text())["hydra"]["sweeper"]["parts"]
    found = {part: ingredients(part.split()) for part in parts}
    assert all(found.values())
    assert sorted(run for runs in found.values() for run in runs) == INGREDIENTS


def ingredients(changes):
    """Finds the runs of the ablation that change these settings, at most one for each seed."""
    shared = ("recipe=small", "name=ingredients", "width=16", "trainer.max_epochs=15", "warmup_epochs=1")
    expected = settings(compose(*shared, "trainer.precision=32-true", *changes))
    found = [
        (seed, run)
        for seed in range(3)
        for run in INGREDIENTS
        if config(run) == {key: (expected | {"seed": seed}).get(key) for key in config(run)}
    ]
    assert len({seed for seed, _ in found}) == len(found)
    return [run for _, run in found]


def test_agreement_has_the_networks_of_the_tables():
    """Needs no votes, so that a new run without `python docs/agreement.py` fails everywhere."""
    kept = json.loads(agreement.KEPT.read_text(encoding="utf-8"))
    assert list(dict.fromkeys(row["name"] for row in kept)) == [name for name, _ in agreement.chosen()]


@pytest.fixture(scope="module")
def counted(real_votes):
    """The agreement of the kept runs with the votes of FER+, counted anew."""
    return agreement.count(real_votes)


def test_agreement_is_counted_from_the_predictions(counted):
    kept = json.loads(agreement.KEPT.read_text(encoding="utf-8"))
    assert [row["name"] for row in kept] == [row["name"] for row in counted]
    for own, row in zip(counted, kept, strict=True):
        found, expected = (flat(value) for value in (json.loads(json.dumps(own)), row))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), key


def flat(value, name=""):
    """Returns the plain values of nested lists and dictionaries by their places."""
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: own for key, part in items for place, own in flat(part, f"{name}.{key}").items()}


def test_agreement_of_the_small_recipe_is_that_of_the_notes(counted):
    """Compares with figures that were counted apart, from FER+'s own files: their images differ by a few."""
    small, averaged = (row["networks"] for row in counted[:2])
    people = small[0]["people"]
    assert (people["clear"], people["strong"]) == (3349, 1852)
    expected = {
        "pairs": 0.607,
        "most": 0.740,
        "person": 0.701,
        "label": 0.558,
        "label_clear": 0.655,
        "label_strong": 0.825,
    }
    assert {key: people[key] for key in expected} == pytest.approx(expected, abs=1.1e-3)
    means = {key: np.mean([own[key] for own in small]) for key in ("acc", "votes", "clear", "strong", "person")}
    assert means == pytest.approx(
        {"acc": 0.705, "votes": 0.595, "clear": 0.706, "strong": 0.870, "person": 0.676}, abs=1.5e-3
    )
    deviations = [np.std([own[key] for own in small], ddof=1) for key in ("votes", "clear", "strong")]
    assert deviations == pytest.approx([0.003, 0.003, 0.004], abs=5e-4)
    assert np.mean([own["divergence"] for own in small]) == pytest.approx(1.091 - 0.483, abs=0.01)
    (mean,) = averaged
    assert [mean[key] for key in ("acc", "votes", "clear", "strong")] == pytest.approx(
        [0.714, 0.598, 0.708, 0.873], abs=1.5e-3
    )
    differ = mean["differ_label"], mean["differ_votes"]
    assert (mean["same_right"], *differ) == pytest.approx((0.886, 0.41, 0.37), abs=3e-3)
