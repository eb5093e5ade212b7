from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from emotion.analysis.statistics import bootstrap_interval
from emotion.data.classes import CLASSES
from emotion.report.configurations import Configuration, group, interval
from emotion.report.runs import Run

from .conftest import MakeRun


def test_seeds_of_the_same_settings_are_one_configuration(make_run: MakeRun) -> None:
    runs = [
        make_run(f"seed={seed}", f"name=n{seed}", name=str(seed), images=700, accuracy=accuracy, draw=seed)
        for seed, accuracy in ((2, 0.5), (0, 0.6), (1, 0.7))
    ]
    (configuration,), repeated = group(runs)
    assert not repeated
    assert [run.seed for run in configuration.runs] == [0, 1, 2]
    assert configuration.seeds == "seeds 0, 1, 2"
    accuracy = configuration.scores("acc")
    assert accuracy.mean == pytest.approx(0.6)
    assert accuracy.deviation == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    assert configuration.val_accuracy.mean == pytest.approx(0.6)
    assert str(configuration.train_accuracy) == "0.5000 ± 0.0000"


def test_train_accuracy_needs_the_curves_of_every_seed(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}", name=str(seed), images=70, curves=bool(seed)) for seed in (0, 1)]
    assert group(runs)[0][0].train_accuracy is None


def test_interval_is_the_mean_of_the_seeds_and_no_narrower(make_run: MakeRun) -> None:
    tests = [make_run(name=str(seed), images=700, accuracy=0.5 + seed / 10, draw=seed).test for seed in (0, 1)]
    single = [bootstrap_interval(test.matrix(), "f1_macro") for test in tests]
    both = interval(tests, "f1_macro")
    assert both.low == pytest.approx((single[0].low + single[1].low) / 2)
    assert both.high == pytest.approx((single[0].high + single[1].high) / 2)


def test_another_setting_makes_another_configuration(make_run: MakeRun) -> None:
    commands = [(), ("patience=30",), ("balance=none",), ("data=synthetic",), ("model=cnn_111",)]
    runs = [make_run(*arguments, name=str(number), images=70) for number, arguments in enumerate(commands)]
    configurations, _ = group(runs)
    assert [configuration.number for configuration in configurations] == [1, 2, 3, 4, 5]
    assert [(configuration.title, configuration.subtitle) for configuration in configurations] == [
        ("1. CNN 1-1-1, class weights", ""),
        ("2. CNN 2-2-1-1, class weights, patience=10", ""),
        ("3. CNN 2-2-1-1, class weights, patience=30", "patience=30"),
        ("4. CNN 2-2-1-1, class weights", "drawn faces"),
        ("5. CNN 2-2-1-1, no balancing", ""),
    ]


def test_runs_of_a_sweep_are_named_after_what_distinguishes_them(make_run: MakeRun) -> None:
    rates = ("lr=1e-3", "lr=1e-4")
    runs = [make_run("recipe=small", rate, "width=24", name=rate, images=70) for rate in rates]
    assert [(one.title, one.note) for one in group(runs)[0]] == [
        ("1. recipe=small, ResNet 2-2-2, no balancing, lr=0.0001", "width=24"),
        ("2. recipe=small, ResNet 2-2-2, no balancing, lr=0.001", "width=24"),
    ]


def test_the_value_of_the_recipe_is_named_beside_others(make_run: MakeRun) -> None:
    runs = [make_run(*arguments, name=str(arguments), images=70) for arguments in ((), ("lr=1e-4",))]
    assert [one.title for one in group(runs)[0]] == [
        "1. CNN 2-2-1-1, class weights, lr=0.001",
        "2. CNN 2-2-1-1, class weights, lr=0.0001",
    ]


def test_configurations_that_differ_in_many_settings_are_not_named_after_them(make_run: MakeRun) -> None:
    changes = ("lr=1e-4", "patience=30", "dropout=0.1", "batch_size=8")
    runs = [make_run(change, name=change, images=70) for change in changes]
    assert {one.title[3:] for one in group(runs)[0]} == {"CNN 2-2-1-1, class weights"}
    assert {one.note for one in group(runs)[0]} == {"lr=0.0001", "patience=30", "dropout=0.1", "batch_size=8"}


def test_runs_with_other_teachers_of_the_same_name_are_separate(make_run: MakeRun) -> None:
    runs = [
        make_run(f"seed={seed}", "teacher=small", name=str(seed), images=70, record={"teachers": [teacher]})
        for seed, teacher in (
            (0, "resnet_small, seed 0, 1"),
            (1, "resnet_small, seed 0, 1"),
            (2, "resnet_small, seed 1, 2"),
        )
    ]
    found, _ = group(runs)
    assert [[run.seed for run in one.runs] for one in found] == [[0, 1], [2]]
    assert [one.note for one in found] == [
        "taught by resnet_small, seed 0, 1; teacher=small",
        "taught by resnet_small, seed 1, 2; teacher=small",
    ]
    assert group(runs[:2])[0][0].note == "teacher=small"


def test_a_configuration_names_the_precisions_of_its_runs(make_run: MakeRun) -> None:
    precisions = ("bf16-mixed", "32-true", "bf16-mixed")
    runs = [
        make_run(f"seed={seed}", name=str(seed), images=70, record={"precision": precision})
        for seed, precision in enumerate(precisions)
    ]
    assert group(runs)[0][0].note == "some runs in 32-true, others in bf16-mixed"
    assert group([runs[0], runs[2]])[0][0].note == ""


def test_a_setting_that_changed_while_a_run_was_trained_is_shown(make_run: MakeRun) -> None:
    changes = [
        {"after_epoch": 0, "changed": {"lr": [0.1, 0.01]}},
        {"after_epoch": 50, "changed": {"lr": [0.01, 0.001], "patience": [10, 30], "trainer.max_epochs": [200, 300]}},
    ]
    runs = [
        make_run("seed=0", name="0", images=70),
        make_run("seed=1", name="1", images=70, record={"changes": changes}),
    ]
    configurations, _ = group(runs)
    assert [one.differences for one in configurations] == [{}, {"lr until epoch 50": "0.01"}]


def test_of_runs_with_the_same_seed_the_one_with_a_checkpoint_is_used(make_run: MakeRun) -> None:
    first, second = (make_run(name=name, images=70) for name in ("a", "b"))
    second.folder.best.parent.mkdir()
    second.folder.best.touch()
    (configuration,), (repeated,) = group([first, second])
    assert configuration.runs == (second,)
    assert repeated.path == first.folder.path
    assert str(second.folder.path) in repeated.reason


FOLDER = ("data=folder", "model=cnn_111")
Facts = tuple[tuple[str, ...], dict[str, object]]


@pytest.mark.parametrize(
    ("first", "second", "notes"),
    [
        # The same image names in two folders, for example the same faces cropped in two ways.
        (((*FOLDER, "data_dir=own/a"), {}), ((*FOLDER, "data_dir=own/b"), {}), ["own/a", "own/b"]),
        (((*FOLDER, "data_dir=a"), {"data": "1"}), ((*FOLDER, "data_dir=a"), {"data": "2"}), ["a", "a"]),
        (((*FOLDER, "data_dir=a"), {"images": 56}), ((*FOLDER, "data_dir=a"), {}), ["a", "a"]),
        (((*FOLDER, "data_dir=a"), {"prefix": "other/"}), ((*FOLDER, "data_dir=a"), {}), ["a", "a"]),
        (((), {"data": "1"}), (("data_dir=mine",), {"data": "2"}), ["the default folder", "mine"]),
        (((), {"prefix": "other/"}), ((), {}), ["", ""]),
        (((), {}), (("trainer.devices=2",), {}), ["", "trainer.devices=2"]),
    ],
)
def test_runs_on_other_data_are_separate_configurations(
    make_run: MakeRun, first: Facts, second: Facts, notes: list[str]
) -> None:
    for seed in (0, 1):
        runs = [
            make_run(*arguments, f"seed={seed * number}", name=f"{seed}{number}", **{"images": 70, **facts})
            for number, (arguments, facts) in enumerate((first, second))
        ]
        configurations, repeated = group(runs)
        assert not repeated
        assert len(configurations) == 2
        subtitles = [configuration.subtitle.removeprefix("data=folder; ") for configuration in configurations]
        assert sorted(subtitles) == sorted(notes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # The folder of FER2013 can have any name; a folder of photographs can have moved.
        ((("data_dir='~/fer2013'",), {}), (("data_dir=/elsewhere",), {})),
        ((("data_dir='~/fer2013'",), {"data": "1"}), ((), {})),
        (((*FOLDER, "data_dir=a"), {"data": "1"}), ((*FOLDER, "data_dir=moved"), {"data": "1"})),
        (((*FOLDER, "data_dir=own/a/"), {}), ((*FOLDER, "data_dir=own/a"), {})),
    ],
)
def test_the_same_images_in_another_folder_are_the_same_data(make_run: MakeRun, first: Facts, second: Facts) -> None:
    runs = [
        make_run(*arguments, f"seed={seed}", name=str(seed), **{"images": 70, **facts})
        for seed, (arguments, facts) in enumerate((first, second))
    ]
    (configuration,), repeated = group(runs)
    assert not repeated
    assert len(configuration.runs) == 2


def test_runs_from_before_a_setting_of_the_data_are_of_the_same_data(make_run: MakeRun) -> None:
    newer = make_run("seed=0", name="newer", images=70, data="1")
    older = make_run("seed=1", name="older", images=70)
    values = {key: value for key, value in older.settings.items() if key not in ("images", "path_column")}
    assert len(values) == len(older.settings) - 2
    (configuration,), _ = group([newer, replace(older, settings=values)])
    assert len(configuration.runs) == 2


def test_numbers_are_unique_on_a_page_and_tested_runs_come_first(make_run: MakeRun) -> None:
    runs = [
        make_run("model=cnn_111", name="validated", images=70, tested=False),
        make_run("recipe=small", name="tested", images=70),
    ]
    configurations, _ = group(runs)
    assert [(one.number, one.first.tested) for one in configurations] == [(1, True), (2, False)]


@pytest.mark.parametrize("missing", [("unfreeze",), ("backbone", "unfreeze")])
def test_runs_without_settings_of_their_network_have_a_name(make_run: MakeRun, missing: tuple[str, ...]) -> None:
    run = make_run("model=vgg16_fe", "split=official", images=70)
    values = {key: value for key, value in run.settings.items() if key not in missing}
    (configuration,), _ = group([replace(run, settings=values)])
    assert "unfreeze=None" in configuration.network


@pytest.mark.parametrize(
    ("arguments", "images", "reason", "warning"),
    [
        ([], 7178, "", ""),
        (["patience=30"], 7178, "", ""),
        (["data=synthetic"], 7178, "drawn faces", "drawn faces"),
        (["data=fer2013_csv"], 7178, "data=fer2013_csv", "data=fer2013_csv"),
        (["split=official"], 7178, "split=official", ""),
        ([], 7177, "7177 test images", ""),
        (["model=vgg16_fe"], 7178, "", "ImageNet weights"),
        (["model=vgg16_fe", "weights=none"], 7178, "random weights", "random weights"),
        (["model=resnet50_fe", "weights=x/resnet50_augnet.pt"], 7178, "", "weights resnet50_augnet.pt"),
        (["model=vgg16_fe", "data=synthetic"], 7178, "drawn faces", "drawn faces; random weights"),
    ],
)
def test_configurations_state_why_they_cannot_be_compared(
    make_run: MakeRun, arguments: list[str], images: int, reason: str, warning: str
) -> None:
    configuration = make_configuration(make_run, *arguments, images=images)
    assert (configuration.not_comparable_because, configuration.warning) == (reason, warning)


def test_runs_that_the_paper_does_not_have_are_named_by_their_settings(make_run: MakeRun) -> None:
    configuration = make_configuration(
        make_run, "model=resnet50_ft", "unfreeze=all", "balance=weighted_sampler", images=70
    )
    assert configuration.published is None
    assert configuration.title == "1. resnet50, unfreeze=all, weighted sampler"


def make_folds(make_run: MakeRun, folds: int, accuracies: dict[int, float], seed: int = 0) -> list[Run]:
    """Returns a run for each fold of `accuracies`, of 60 images each."""
    return [
        make_run(
            *FOLDER,
            "data_dir=own",
            f"seed={seed}",
            name=f"{seed}-{fold}",
            images=60,
            accuracy=accuracy,
            draw=fold,
            own=True,
            prefix=f"fold{fold}/",
            classes=("no", "yes", "perhaps"),
            changes={"folds": folds, "fold": fold},
        )
        for fold, accuracy in accuracies.items()
    ]


def test_folds_are_one_configuration(make_run: MakeRun) -> None:
    runs = make_folds(make_run, 5, {2: 0.5, 0: 0.6, 1: 0.7, 4: 0.8, 3: 0.9})
    (configuration,), repeated = group(runs)
    assert not repeated
    assert [run.fold for run in configuration.runs] == [0, 1, 2, 3, 4]
    assert (configuration.folds, configuration.seeds) == ("5 folds", "5 folds, seed 0")
    accuracy = configuration.scores("acc")
    assert accuracy.mean == pytest.approx(0.7)
    assert accuracy.deviation == pytest.approx(np.std([0.5, 0.6, 0.7, 0.8, 0.9], ddof=1))
    assert configuration.differences["folds"] == "5"
    assert "fold" not in configuration.differences
    (pooled,) = configuration.pooled
    assert len(pooled) == 300
    assert len(set(pooled.ids.tolist())) == 300
    assert pooled.classes == ("no", "yes", "perhaps")
    labels = np.concatenate([run.test.labels for run in configuration.runs])
    predicted = np.concatenate([run.test.predicted for run in configuration.runs])
    np.testing.assert_array_equal(pooled.matrix(), confusion_matrix(labels, predicted))
    assert configuration.test_interval("acc") == bootstrap_interval(pooled.matrix(), "acc")


@pytest.mark.parametrize(
    ("seeds", "folds", "seed_text"),
    [((0,), "3 of 5 folds", "seed 0"), ((0, 1), "6 of 10 folds", "seeds 0, 1")],
)
def test_missing_folds_are_counted(make_run: MakeRun, seeds: tuple[int, ...], folds: str, seed_text: str) -> None:
    runs = [run for seed in seeds for run in make_folds(make_run, 5, {0: 0.5, 1: 0.6, 4: 0.7}, seed)]
    (configuration,), _ = group(runs)
    assert (configuration.folds, configuration.seeds) == (folds, f"{folds}, {seed_text}")
    assert [len(predictions) for predictions in configuration.pooled] == [180] * len(seeds)


def test_folds_that_share_images_or_repeat_a_fold_are_left_out(make_run: MakeRun) -> None:
    first, second = make_folds(make_run, 2, {0: 0.5, 1: 0.6})
    shared = replace(second, test=second.test.subset(np.arange(30)).joined(first.test.subset(np.arange(30))))
    (configuration,), (skipped,) = group([first, shared])
    assert configuration.runs == (first,)
    assert skipped.reason == f"fold 1 has test images of fold 0, {first.folder.path}"
    again = make_folds(make_run, 2, {0: 0.7}, seed=0 + 10)[0]
    again = replace(again, settings={**again.settings, "seed": 0})
    _, (skipped,) = group([first, second, again])
    assert skipped.reason == f"has the settings, data, seed and fold of {first.folder.path}"


def test_runs_with_other_numbers_of_folds_are_separate(make_run: MakeRun) -> None:
    runs = [make_folds(make_run, 2, {0: 0.5})[0], make_folds(make_run, 3, {0: 0.5}, seed=1)[0]]
    assert [shown.folds for shown in group(runs)[0]] == ["1 of 2 folds", "1 of 3 folds"]


def test_runs_with_other_classes_are_separate_and_repeat_no_run_of_the_paper(make_run: MakeRun) -> None:
    moods = ("bored", "calm", "engaged")
    runs = [
        make_run(f"seed={seed}", name=str(seed), images=42, classes=names) for seed, names in ((0, CLASSES), (1, moods))
    ]
    configurations, _ = group(runs)
    assert {shown.classes: shown.published is None for shown in configurations} == {CLASSES: False, moods: True}


def make_configuration(make_run: MakeRun, *arguments: str, **options: int) -> Configuration:
    return group([make_run(*arguments, **options)])[0][0]
