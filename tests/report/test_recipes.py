from __future__ import annotations

from pathlib import Path

import pytest

from emotion.report.published import RUNS, PublishedRun
from emotion.report.recipes import differences, published_run, weights_name

from .conftest import make_settings


def changed(*arguments: str) -> dict[str, str]:
    values = make_settings(*arguments)
    return differences(values, published_run(values))


@pytest.mark.parametrize("published", RUNS, ids=lambda run: f"{run.experiment}-{run.model}-{run.unfreeze}")
@pytest.mark.parametrize("data", ["fer2013", "synthetic"])
def test_runs_of_the_experiments_follow_the_recipe(published: PublishedRun, data: str) -> None:
    unfreeze = "null" if published.unfreeze is None else published.unfreeze
    arguments = [f"model={published.model}", f"unfreeze={unfreeze}", f"balance={published.balance}", f"data={data}"]
    values = make_settings(f"experiment={published.experiment}", *arguments)
    assert published_run(values) is published
    assert differences(values, published) == {}


def test_paths_and_hardware_are_no_differences() -> None:
    arguments = ["name=other", "seed=7", "data_dir=/elsewhere", "trainer.accelerator=gpu", "trainer.strategy=ddp"]
    arguments += ["memory_budget=500", "compile=true", "cuda_graph=false", "trainer.benchmark=true"]
    assert changed(*arguments) == {}
    assert changed("trainer.devices=2") == {"trainer.devices": "2"}, "each process takes its own batch"


def test_differences_have_values_as_on_the_command_line() -> None:
    arguments = ["augment=false", "blocks=[2,2]", "lr=2e-5", "patience=null", "trainer.max_epochs=42", "min_delta=0"]
    assert changed(*arguments) == {
        "augment": "false",
        "blocks": "[2,2]",
        "lr": "2e-05",
        "patience": "null",
        "trainer.max_epochs": "42",
    }
    assert changed("lr=0.00012345671") == {"lr": "0.00012345671"}, "every digit, since runs are told apart by them"


def test_recipe_is_that_of_the_table_not_of_the_model() -> None:
    arguments = ["model=vgg16_ft", "unfreeze=9", "balance=offline"]
    assert changed("experiment=table5", *arguments) == {}
    assert changed(*arguments).keys() == {"lr", "monitor", "min_delta", "patience"}, "the settings of table5.yaml"


def test_settings_that_an_older_run_lacks_are_no_difference() -> None:
    values = make_settings("patience=30")
    del values["group_duplicates"], values["name"]
    assert differences(values | {"experiment": "default"}, published_run(values)) == {"patience": "30"}


def test_a_run_of_another_recipe_is_not_that_of_the_paper() -> None:
    values = make_settings("recipe=small", "model=cnn", "split=report", "balance=class_weights")
    assert published_run(values) is None
    assert differences(values, None) == {"split": "report"}


@pytest.mark.parametrize(
    "argument",
    ["balance=none", "balance=weighted_sampler", "unfreeze=4", "unfreeze=all", "unfreeze=0", "data=folder"],
)
def test_runs_that_the_paper_does_not_have(argument: str) -> None:
    values = make_settings("model=vgg16_ft", argument)
    assert published_run(values) is None
    assert differences(values, None) == {}


def test_unknown_model_is_compared_with_the_default_settings() -> None:
    values = make_settings("blocks=[1]") | {"model": "gone"}
    assert published_run(values) is None
    assert differences(values, None) == {"blocks": "[1]"}


def test_weights_are_named_by_their_file(tmp_path: Path) -> None:
    (tmp_path / "vgg16_features.safetensors").touch()
    (tmp_path / "face_resnet29_dlib.safetensors").touch()
    face = {"family": "face", "backbone": "resnet29_dlib", "weights": str(tmp_path)}
    assert weights_name(face) == "face_resnet29_dlib.safetensors"
    values = make_settings("model=vgg16_fe")
    assert weights_name(values) == "imagenet"
    for path in (tmp_path, tmp_path / "vgg16_features.safetensors", "elsewhere/vgg16_features.safetensors"):
        assert weights_name(values | {"weights": str(path)}) == "vgg16_features.safetensors"
    assert changed("model=vgg16_fe", f"weights={tmp_path}") == {"weights": "vgg16_features.safetensors"}
    assert weights_name(values | {"weights": str(tmp_path / "two")}) == "two"
