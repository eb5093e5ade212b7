"""Every figure of the README is counted again from the predictions that are kept in results/."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from emotion.analysis.figures import merge_histories, read_history
from emotion.config import compose, conf_dir, settings
from emotion.report.configurations import group
from emotion.report.runs import find_runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = sorted(path.parent for path in (ROOT / "results").glob("*/*/predictions.npz"))
INGREDIENTS = sorted(path.parent for path in (ROOT / "results/ablations/ingredients").glob("*/predictions.npz"))
LINK = re.compile(r"\]\((results/[\w-]+(?:/[\w-]+)?)\)")
"""Of a row: a folder of runs, which are seeds of each other, or a single run."""
ROWS = [line for line in README.splitlines() if "](results/" in line and line.startswith("|")]


def figures(run):
    """Counts accuracy, accuracy without copies of training images, and macro F1 on the test images."""
    with np.load(run / "predictions.npz") as file:
        labels, predicted = file["test_labels"], file["test_probabilities"].argmax(1)
        unique = ~file["test_copied"]
    f1 = f1_score(labels, predicted, average="macro")
    return accuracy_score(labels, predicted), accuracy_score(labels[unique], predicted[unique]), f1


def written(values):
    """Writes the values of several seeds as the README does."""
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_metrics_follow_from_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with np.load(run / "predictions.npz") as file:
        for stage, images in (("val", 5742), ("test", 7178)):
            labels, predicted = file[f"{stage}_labels"], file[f"{stage}_probabilities"].argmax(1)
            assert len(labels) == images
            assert metrics[stage]["acc"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
            assert metrics[stage]["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-12)


def runs_of(row):
    """Finds the runs that a row of the README links."""
    folder = ROOT / LINK.search(row)[1]
    return [run for run in RUNS if folder in (run, run.parent)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: LINK.search(row)[1])
def test_readme_states_the_figures_of_the_runs(row):
    runs = runs_of(row)
    assert runs
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    for values in zip(*map(figures, runs), strict=True):
        assert written(values) in cells
    seeds = {int(re.search(r"^seed: (\d+)$", (run / "config.yaml").read_text(), re.MULTILINE)[1]) for run in runs}
    assert len(seeds) == len(runs)
    assert str(len(seeds)) in cells


def test_readme_states_what_copies_are_worth():
    falls = []
    for folder in {run.parent for run in RUNS}:
        accuracy, unique, _ = map(np.mean, zip(*(figures(run) for run in RUNS if run.parent == folder), strict=True))
        if accuracy > 0.3:
            falls.append(100 * (accuracy - unique))
    assert f"accuracies above 0.3 fall by {min(falls):.1f} to {max(falls):.1f} points" in README


def test_every_kept_run_has_its_row():
    assert sorted(run for row in ROWS for run in runs_of(row)) == RUNS
    assert RUNS


def test_the_runs_of_a_row_differ_in_the_seed_alone_and_its_command_says_where_they_ended():
    command = ""
    for row in ROWS:
        ((one,), repeated) = group(find_runs(runs_of(row))[0])
        assert not repeated
        cell = row.strip("|").split("|")[-1]
        command = command + cell if cell.strip().startswith("the same with") else cell
        if length := one.differences.get("trainer.max_epochs"):
            assert re.findall(r"trainer\.max_epochs=(\d+)", command)[-1] == length, row


def test_kept_runs_name_no_place_of_a_machine():
    for file in (ROOT / "results").rglob("*"):
        if file.suffix in (".json", ".yaml", ".csv"):
            assert not re.search(r"/(home|root|work|tmp|Users)/", file.read_text(encoding="utf-8")), file


@cache
def kept_ingredients():
    """Reads the settings of the ablation's runs, once."""
    return {run: yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in INGREDIENTS}


def ingredients(words, seed):
    """Finds the run of the ablation that these words on the command line describe, if it is there."""
    shared = ("recipe=small", "name=ingredients", "width=16", "trainer.max_epochs=15", "warmup_epochs=1")
    expected = settings(compose(*shared, "trainer.precision=32-true", *words, f"seed={seed}"))
    found = [run for run, own in kept_ingredients().items() if own == {key: expected.get(key) for key in own}]
    assert len(found) <= 1
    return found


def validation(run):
    """Counts accuracy and macro F1 on PublicTest; the run left PrivateTest alone."""
    with np.load(run / "predictions.npz") as file:
        assert not any(name.startswith("test") for name in file.files)
        labels, predicted = file["val_labels"], file["val_probabilities"].argmax(1)
    assert len(labels) == 3589
    return accuracy_score(labels, predicted), f1_score(labels, predicted, average="macro", zero_division=0)


def train_accuracy(run):
    """Reads the accuracy while training in the best epoch."""
    best = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["run"]["best_epoch"]
    return dict(merge_histories(read_history(path) for path in run.glob("csv/*/metrics.csv"))["train/acc"])[best]


def test_readme_has_the_table_of_the_ablation():
    table = README[README.index("| changed in the small recipe |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    parts = yaml.safe_load((conf_dir() / "experiment/ingredients.yaml").read_text())["hydra"]["sweeper"]["parts"]
    changes = {row[0]: [] if row[0] == "nothing" else row[0].strip("`").split() for row in rows}
    assert sorted(map(" ".join, changes.values())) == sorted(parts)
    found = {
        name: {seed: run for seed in range(3) for run in ingredients(words, seed)} for name, words in changes.items()
    }
    assert sorted(run for runs in found.values() for run in runs.values()) == INGREDIENTS
    base = {seed: validation(run)[0] for seed, run in found["nothing"].items()}
    trained = [train_accuracy(run) for run in found["nothing"].values()]
    assert f"({np.mean(trained):.2f} of them, {np.mean(list(base.values())):.2f} of those that validate)" in README
    page = (ROOT / "results/ablations/report.md").read_text(encoding="utf-8")
    for name, accuracy, difference, f1, seeds in rows:
        assert f"| {accuracy} | {difference or 'the base'} | {f1} | seed" in page, name
        accuracies, f1s = zip(*map(validation, found[name].values()), strict=True)
        points = [100 * (own - base[seed]) for seed, own in zip(found[name], accuracies, strict=True)]
        spread = f" ± {np.std(points, ddof=1):.1f}" if len(points) > 1 else ""
        assert (accuracy, f1, seeds) == (written(accuracies), written(f1s), str(len(accuracies))), name
        assert difference == ("" if name == "nothing" else f"{np.mean(points):+.1f}{spread}"), name


def test_readme_has_the_table_of_trust():
    kept = json.loads((ROOT / "results/trust.json").read_text(encoding="utf-8"))
    assert kept["nightly"]
    assert kept["date"] in README
    assert kept["hardware"] in README
    for row in kept["rows"]:
        assert f"| {row['what']} | {row['tried']:,} | {row['lost']} |" in README
    assert sum(row["lost"] for row in kept["rows"]) == 0
