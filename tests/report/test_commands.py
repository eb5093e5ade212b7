from __future__ import annotations

import shlex

import pytest

from emotion.config import compose
from emotion.overrides import quote_arguments
from emotion.report.commands import published_command, repeated_command
from emotion.report.configurations import group
from emotion.report.published import RUNS, PublishedRun
from emotion.report.recipes import differences, published_run, typed_settings

from .conftest import MakeRun, make_settings


@pytest.mark.parametrize("published", RUNS, ids=lambda run: f"{run.experiment}-{run.model}-{run.unfreeze}")
def test_the_command_of_a_network_of_the_paper_has_its_recipe(published: PublishedRun) -> None:
    values = make_settings(*published_command(published).split()[2:])
    assert published_run(values) is published
    assert differences(values, published) == {}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "python train.py experiment=table1 model=cnn seed=0"),
        (["balance=offline"], "python train.py experiment=cnn model=cnn balance=offline seed=0"),
        (
            ["model=vgg16_ft", "unfreeze=6", "lr=1e-4", "weights=a b/vgg16.pth"],
            "python train.py experiment=table3 model=vgg16_ft unfreeze=6 seed=0 lr=0.0001 'weights=a b/vgg16.pth'",
        ),
        (["recipe=small", "mixup=0.1", "seed=3"], "python train.py recipe=small seed=3 mixup=0.1"),
        (["recipe=small", "model=cnn"], "python train.py recipe=small model=cnn seed=0"),
        (
            ["data=folder", "data_dir=my photos", "classes=[a b,c]", "split=random"],
            "python train.py model=cnn data=folder 'data_dir=my photos' seed=0 'classes=[a b,c]' split=random",
        ),
        (["balance=weighted_sampler"], "python train.py model=cnn balance=weighted_sampler seed=0"),
    ],
)
def test_the_command_gives_the_settings_of_the_run(make_run: MakeRun, arguments: list[str], command: str) -> None:
    run = make_run(*quote_arguments(arguments))
    (configuration,), _ = group([run])
    assert repeated_command(configuration) == command
    again = compose(*quote_arguments(shlex.split(command)[2:]))
    assert typed_settings(make_settings(*quote_arguments(shlex.split(command)[2:]))) == typed_settings(run.settings)
    assert again.seed == run.settings["seed"]
    assert again.data_dir == run.settings["data_dir"]


def test_one_command_has_all_seeds_and_folds(make_run: MakeRun) -> None:
    record = {
        "command": "emotion train resume=runs/report/x",
        "changes": [{"after_epoch": 3, "changed": {"lr": [1, 2]}}],
    }
    seeds = [make_run(f"seed={seed}", name=str(seed), record=record) for seed in (2, 0)]
    (configuration,), _ = group(seeds)
    assert repeated_command(configuration) == "emotion train -m experiment=table1 model=cnn seed=0,2"
    folds = [
        make_run("split=random", "folds=3", f"fold={fold}", name=f"fold {fold}", prefix=f"{fold}/") for fold in (0, 2)
    ]
    (configuration,), _ = group(folds)
    assert repeated_command(configuration) == ("python train.py -m model=cnn seed=0 fold=0,2 split=random folds=3")
