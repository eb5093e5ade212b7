import inspect

import pytest
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import OmegaConf

from emotion.config import check, check_overrides, conf_dir, parse_words, register_resolvers, run_dir, settings
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError
from emotion.models.registry import build_network
from emotion.training.task import EmotionTask

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
BLOCKS = {
    "cnn": [2, 2, 1, 1],
    "cnn_111": [1, 1, 1],
    "cnn_1111": [1, 1, 1, 1],
    "cnn_11111": [1, 1, 1, 1, 1],
    "cnn_2111": [2, 1, 1, 1],
    "cnn_2221": [2, 2, 2, 1],
    "cnn_2222": [2, 2, 2, 2],
    "cnn_3222": [3, 2, 2, 2],
}


def compose_config(*overrides):
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_file_composes_and_builds(model):
    extra = ["backbone=resnet18"] if model == "timm" else []
    config = compose_config(f"model={model}", *extra)
    values = settings(config)
    check(values)
    assert config.model == model
    names = inspect.signature(build_network).parameters
    network = build_network(**{name: values[name] for name in names})
    assert network.count_parameters().trainable > 0
    if model.startswith("cnn"):
        assert values["blocks"] == BLOCKS[model]


def test_every_knob_is_an_argument_of_what_it_configures():
    values = settings(compose_config())
    arguments = {name for kind in (EmotionDataModule, EmotionTask) for name in inspect.signature(kind).parameters}
    run = {"name", "feature_views", "compile", "cuda_graph", "monitor", "patience", "min_delta", "trainer"}
    assert set(values) - run <= arguments
    assert arguments - set(values) == {"class_weights"}
    assert set(values["trainer"]) <= set(inspect.signature(Trainer).parameters)


def test_model_files_restate_only_what_differs():
    base = OmegaConf.load(conf_dir() / "config.yaml")
    register_resolvers()
    for path in (conf_dir() / "model").glob("*.yaml"):
        for key, value in OmegaConf.merge({"data": "fer2013"}, OmegaConf.load(path)).items():
            if key not in ("defaults", "data", "model") and path.stem != "cnn":
                assert base[key] != value, f"{path.name} repeats the default {key}={value}"


@pytest.mark.parametrize("overrides", [("model=vgg16_ft", "unfreeze=9"), ("unfreeze=9", "model=vgg16_ft")])
def test_command_line_wins_in_any_order(overrides):
    config = compose_config(*overrides)
    assert (config.model, config.unfreeze, config.monitor) == ("vgg16_ft", 9, "val/acc")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["unfreez=3"], ["unfreez", "did you mean unfreeze?", "batch_size"]),
        (["model=vgg16_tf"], ["vgg16_tf", "did you mean vgg16_ft?", "resnet50_fe"]),
        (["model=cnn,nonsense"], ["nonsense", "cnn_111"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "trainer.max_epochs"]),
        (["+gamma=3"], ["gamma", "Legal"]),
        (["~lrr"], ["~lrr"]),
        (["blocks=[2,2"], ["[2,2"]),
        (["cnn"], ["cnn", "key=value"]),
    ],
)
def test_wrong_words_get_one_line_that_says_what_is_legal(words, parts):
    with pytest.raises(UserError) as error:
        check_overrides(words)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


def test_right_words_pass():
    check_overrides(["-m", "model=cnn,vgg16_ft", "seed=range(3)", "hydra.run.dir=x", "--cfg=job", "trainer.devices=2"])


@pytest.mark.parametrize(
    ("word", "legal"),
    [
        ("split=offical", "official"),
        ("balance=weights", "class_weights"),
        ("data=fer", "fer2013_csv"),
        ("normalize=zscore", "keras_unit"),
        ("channels=4", "1, 3"),
        ("augment=maybe", "true, false"),
        ("batch_size=1", "whole number from 2"),
        ("batch_size=6.5", "whole number from 2"),
        ("seed=-1", "whole number from 0"),
        ("unfreeze=some", "or all"),
        ("unfreeze=true", "or all"),
        ("lr=fast", "above 0"),
        ("lr=0", "above 0"),
        ("val_fraction=1.5", "between 0 and 1"),
        ("patience=0", "whole number from 1 or null"),
        ("memory_budget=-1", "whole number from 0 or null"),
        ("feature_views=few", "whole number from 0 or auto"),
        ("compile=yes please", "auto, true, false"),
        ("cuda_graph=maybe", "auto, true, false"),
        ("trainer.limit_val_batches=0", "cannot be left out"),
    ],
)
def test_illegal_values_name_the_key_and_what_is_legal(word, legal):
    with pytest.raises(UserError) as error:
        check(settings(compose_config(word)))
    assert str(error.value).startswith(f"{word.split('=')[0]}=")
    assert "\n" not in str(error.value)
    assert legal in str(error.value)


def test_run_folder_tells_settings_apart_and_nothing_else():
    first = run_dir(compose_config("model=cnn", "seed=3"))
    assert first.startswith("runs/default/cnn-seed3-")
    assert run_dir(compose_config("seed=3", "overwrite=true")) == first
    assert run_dir(compose_config("seed=3", "lr=2e-3")) != first
    assert run_dir(compose_config("name=../../x", "model=cnn")).startswith("runs/.._.._x/cnn-")
    assert run_dir(compose_config("resume=some/folder")) == "some/folder"


def test_hydra_places_the_run_in_that_folder():
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", ["seed=5"], return_hydra_config=True)
    assert config.hydra.run.dir == run_dir(config)
    assert config.hydra.run.dir == run_dir(compose_config("seed=5"))


def test_words_of_evaluate_are_settings_of_the_data_and_its_own_options():
    assert parse_words(["ckpt=[a,b]", "split=clean", "seed=3"], ["ckpt"]) == {
        "ckpt": ["a", "b"],
        "split": "clean",
        "seed": 3,
    }
    with pytest.raises(UserError, match="did you mean split"):
        parse_words(["splt=clean"])


@pytest.mark.parametrize("words", [["--cfg", "job"], ["-m", "seed=0,1"], ["model=cnn", "--info", "defaults"]])
def test_options_of_hydra_are_left_to_hydra(words):
    check_overrides(words)


@pytest.mark.parametrize(("runs_per_gpu", "gpu", "share"), [(1, True, 1), (4, True, 0.25), (4, False, 0)])
def test_runs_of_a_ray_sweep_share_a_gpu(monkeypatch, runs_per_gpu, gpu, share):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    config = compose_launcher("ray", f"runs_per_gpu={runs_per_gpu}")
    assert config.ray.remote.num_gpus == share
    assert config.ray.remote.num_cpus == 1


def test_element_of_a_slurm_array_has_one_gpu_and_is_queued_again():
    config = compose_launcher("slurm")
    assert config._target_.endswith("SlurmLauncher")
    assert (config.gpus_per_node, config.tasks_per_node) == (1, 1)
    assert config.max_num_timeout > 0


@pytest.mark.parametrize("name", ["joblib", "ray", "slurm"])
def test_launcher_that_is_not_installed_names_its_extra(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"pip install 'emotion\[{name}\]'"):
        check_overrides([f"hydra/launcher={name}"])


def compose_launcher(name, *overrides):
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [f"hydra/launcher={name}", *overrides], return_hydra_config=True).hydra.launcher
