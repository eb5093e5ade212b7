import inspect
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
from lightning import Trainer
from omegaconf import OmegaConf

from emotion import overrides
from emotion.config import (
    choice_names,
    compose,
    conf_dir,
    describe_settings,
    flatten,
    read,
    register_resolvers,
    run_dir,
    settings,
)
from emotion.declarations import CONTROL, NEW
from emotion.errors import UserError
from emotion.models.registry import build_network
from emotion.overrides import (
    EFFECTS,
    SYNONYMS,
    as_typed,
    check_overrides,
    parse_arguments,
    quote_argument,
    quote_arguments,
    quoted,
    require_effect,
)
from emotion.settings import GROUPS, Settings, as_yaml, fields, marked

BASE = OmegaConf.load(conf_dir() / "config.yaml")
default_config = cache(compose)
MODELS = choice_names("model")
RECIPES = sorted({*choice_names("recipe")} - {"best_ensemble"})
# Keys, legal numbers (with the ends of the range), and illegal numbers. Null is legal for `NULLABLE` alone.
NULLABLE = (
    *("dropout", "activation_scale"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.gradient_clip_val"),
    "trainer.overfit_batches",
)
RANGES = [
    (("val_fraction", "lr_factor"), (1e-6, 0.5, 0.999), (0, 1, -0.1, 1.5)),
    (("lr", "offline_strength", "distill_temperature", "activation_scale"), (1e-9, 1, 10), (0, -1e-3)),
    (("trainer.gradient_clip_val",), (0, 1e-9, 1, 10), (-1e-9, -1)),
    (("trainer.limit_train_batches", "trainer.limit_val_batches"), (0.5, 1, 100), (0, -1, -0.5)),
    (("trainer.overfit_batches",), (0, 0.5, 1, 100), (-1, -0.5)),
    (("layer_decay", "distill"), (1e-6, 0.75, 1), (0, 1.01, -0.5)),
    (("flip", "erase"), (0, 0.5, 1), (-0.01, 1.01)),
    (
        (
            *("zoom", "shift", "brightness", "contrast", "label_smoothing", "momentum", "ema_decay", "dropout"),
            "test_fraction",
        ),
        (0, 0.5, 0.9999),
        (-0.01, 1, 1.5),
    ),
    (("rotation", "shear", "mixup", "cutmix"), (0, 0.2, 3, 100), (-1e-9, -1)),
    (
        ("focal_gamma", "logit_adjustment", "weight_decay", "sam_rho", "warmup_epochs", "min_delta"),
        (0, 0.2, 3),
        (-1e-9, -1),
    ),
]
# Keys of whole numbers, the least, the largest (None where there is none), and what is legal beside them.
WHOLE = [
    (("seed",), 0, 4294967295, ()),
    (("fold", "plain_epochs", "trainer.log_every_n_steps"), 0, None, ()),
    (("split_seed", "memory_budget", "trainer.min_epochs"), 0, None, (None,)),
    (("trainer.max_steps",), -1, None, (None,)),
    (("trainer.num_nodes",), 1, None, (None,)),
    (("feature_views",), 0, None, ("auto",)),
    (("unfreeze",), 0, None, ("all", None)),
    (("runs_per_gpu", "lr_patience", "distill_views"), 1, None, ()),
    (("trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches"), 1, None, ()),
    (("patience",), 1, None, (None,)),
    (("synthetic_images",), 1, 1_000_000, ()),
    (("width", "stem_width"), 1, 1024, (None,)),
    (("batch_size",), 2, None, ()),
    (("folds",), 2, None, (None,)),
    (("image_size",), 8, 1024, ()),
    (("pack_size",), 8, 1024, (None,)),
]
# Settings of which nothing but these values is legal.
CHOICES: dict[str, tuple[Any, ...]] = {
    "trainer.gradient_clip_algorithm": ("norm", "value", None),
    "trainer.precision": (
        *("auto", "16-mixed", "bf16-mixed", "32-true", "64-true", "16", "bf16", "32", "64", 16, 32, 64, None),
    ),
    "trainer.deterministic": ("warn", True, False, None),
    "logger": ("wandb", "mlflow", None),
    "data": ("fer2013", "fer2013_csv", "folder", "table", "synthetic"),
    "labels": ("ferplus", None),
    "on_bad_image": ("error", "skip"),
    "channels": (1, 3, None),
    "split": ("report", "official", "clean", "random", "test_only"),
    "balance": ("none", "class_weights", "weighted_sampler", "offline"),
    "family": ("cnn", "resnet", "torchvision", "timm", "face", "custom"),
    "stem_stride": (1, 2, None),
    "normalize": ("imagenet", "unit", "keras_unit", "caffe"),
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("none", "plateau", "cosine"),
    "monitor": ("val/loss", "val/acc", "val/f1_macro"),
    "tta": ("none", "flip", "shifts", "ten_crop"),
    "trainer.profiler": ("simple", "advanced", "pytorch", None),
    "trainer.benchmark": (True, False, None),
    **dict.fromkeys(("compile", "cuda_graph"), ("auto", True, False)),
    **dict.fromkeys(
        ("overwrite", "soft_labels", "group_duplicates", "augment", "test"),
        (True, False),
    ),
    **dict.fromkeys(("trainer.sync_batchnorm", "trainer.detect_anomaly"), (True, False)),
}
# Names and paths, which may be any text; whether they may be null.
TEXTS = {
    **dict.fromkeys(("model", "name", "path_column", "label_column", "split_column", "votes"), False),
    **dict.fromkeys(("recipe", "resume", "data_dir", "images", "group_by", "augmentation", "backbone"), True),
    **dict.fromkeys(("network", "loss", "weights", "init", "trainer.accelerator", "trainer.strategy"), True),
}
# Legal lists and other legal values, and illegal values.
LISTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "classes": ((["happy", "sad"], ["0", 1], [], "auto", "ferplus"), (None, "happy", [["happy"]], [0.5], [True], 3)),
    "exclude": ((["happy"], [3], []), (None, "happy", [None], [0.5], [True])),
    "columns": ((["path", "label"], [], None), ("path", [1], [None])),
    "extra_data": ((["photos", "~/more"], [], None), ("photos", [1], [None])),
    "teacher": ((["a.ckpt", "runs/b"], ["small"], "small", None), ([], 1, [1], [None], True)),
    "blocks": (([2, 2, 1], [1], None), ("2", 2, [1.5], ["2"])),
}
# Checked by Lightning's Trainer, in the messages of which they are named.
UNCHECKED = {"trainer.max_epochs", "trainer.max_time", "trainer.devices"}
# What a value is legal beside, if not beside all defaults.
BESIDE: dict[str, dict[str, Any]] = {
    "unfreeze": {"family": "timm", "backbone": "resnet18"},
    "weights": {"family": "timm", "backbone": "resnet18"},
    "trainer.check_val_every_n_epoch": {"trainer": {"max_epochs": -1}},
    "trainer.min_epochs": {"trainer": {"max_epochs": -1}},
}
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


@pytest.mark.parametrize("model", MODELS)
def test_every_model_file_composes_and_builds(model):
    extra = ["backbone=resnet18"] if model == "timm" else []
    made = read(compose(f"model={model}", *extra))
    assert made.run.model == model
    if model == "custom":
        assert made.network.family == "custom"
        return
    assert build_network(made.network, 7).count_parameters().trainable > 0
    if model.startswith("cnn"):
        assert made.network.blocks == BLOCKS[model]


def test_every_setting_of_the_trainer_is_one_of_lightning():
    assert set(GROUPS["trainer"].model_fields) <= set(inspect.signature(Trainer).parameters)


def test_the_configuration_lists_the_settings_of_the_schema_with_their_defaults():
    base = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    trainer = base.pop("trainer")
    listed = {key: value for key, value in base.items() if key not in ("defaults", "hydra")}
    listed |= {f"trainer.{key}": value for key, value in trainer.items()}
    declared = {key: field.default for key, field in fields().items() if key != "model"}
    assert [(key, value, type(value)) for key, value in listed.items()] == [
        (key, value, type(value)) for key, value in declared.items()
    ]
    assert base["defaults"][1] == {"model": fields()["model"].default}


def test_the_text_of_the_configuration_is_written_from_the_schema():
    text = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
    start, end = text.index("\n# The run and its folder") + 1, text.index("\nhydra:") + 1
    assert text[start:end] == as_yaml() + "\n", "make tables"


def test_the_composed_defaults_are_those_of_the_schema():
    made, declared = read(compose()).flat(), Settings().flat()
    # What depends on other settings: a model has blocks, and images of FER2013 a size.
    derived = {"blocks": [2, 2, 1, 1], "pack_size": 48, "channels": 1}
    assert made == declared | derived


@pytest.mark.parametrize("values", [{}, {"lr": 1e-4, "seed": 3, "trainer": {"max_epochs": 5}, "exclude": ["sad"]}])
def test_flat_settings_read_back_are_the_same(values):
    made = Settings.of(values)
    assert Settings.of(made.flat()) == made
    assert made.flat() == Settings().flat() | values | {"trainer": made.trainer.flat()}
    assert made.trainer.max_epochs == values.get("trainer", {}).get("max_epochs", 200)


def test_every_setting_has_a_meaning_and_is_in_one_group():
    names = [name for group in GROUPS.values() for name in group.model_fields]
    assert len(names) == len(set(names)) == len(fields())
    assert all(field.description for key, field in fields().items() if not key.startswith("trainer."))


def test_model_files_repeat_no_defaults():
    base = OmegaConf.load(conf_dir() / "config.yaml")
    register_resolvers()
    for path in (conf_dir() / "model").glob("*.yaml"):
        for key, value in OmegaConf.merge({"data": "fer2013"}, OmegaConf.load(path)).items():
            if key not in ("defaults", "data", "model") and path.stem != "cnn":
                assert base[key] != value, f"{path.name} repeats the default {key}={value}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_to_legal_settings_and_repeats_no_defaults(recipe):
    config = compose(f"recipe={recipe}")
    stored = OmegaConf.load(conf_dir() / "recipe" / f"{recipe}.yaml")
    read(config)
    assert config.recipe == config.name == stored.recipe == recipe
    model = compose(f"model={config.model}")
    assert set(settings(config)) == set(settings(model))
    for key in set(stored) - {"defaults", "hydra", "trainer"}:
        assert config[key] == stored[key] != model[key], key
    for key, value in stored.trainer.items():
        assert config.trainer[key] == value != model.trainer[key], key
    assert config.plain_epochs + config.warmup_epochs < config.trainer.max_epochs


def test_recipe_brings_its_model_and_the_command_line_wins():
    config = compose("recipe=small")
    assert (config.model, config.family, config.width, config.flip) == ("resnet_small", "resnet", 48, 0.5)
    for words in (["recipe=small", "flip=0", "model=cnn"], ["model=cnn", "flip=0", "recipe=small"]):
        config = compose(*words)
        assert (config.model, config.family, config.flip, config.erase) == ("cnn", "cnn", 0, 0.5)
    assert compose().recipe is None


def test_the_pretrained_recipe_also_trains_vgg16():
    config = compose("recipe=best_pretrained", "model=vgg16_ft", "backbone=vgg16", "unfreeze=all")
    assert (config.family, config.backbone, config.image_size) == ("torchvision", "vgg16", 144)
    network = build_network(read(config).network, 7)
    assert network.head[1].in_features == 512 * 4 * 4
    assert len(network.layers()) == 14


def test_a_search_has_one_seed_and_needs_its_extra(monkeypatch):
    search = ["-m", "hydra/sweeper=search", "recipe=small"]
    check_overrides([*search, "seed=1"])
    for words in (search, [*search, "seed=0,1"]):
        with pytest.raises(UserError, match=r"^hydra/sweeper=search: needs the same seed .* seed=0$"):
            check_overrides(words)
    monkeypatch.setattr("emotion.extras.find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"^hydra/sweeper=search needs the package hydra_optuna_sweeper: pip install 'emotion\[optuna\]'$",
    ):
        check_overrides([*search, "seed=1"])


def test_the_pretrained_recipe_pools_and_has_a_rate_for_each_layer():
    network = build_network(read(compose("recipe=best_pretrained", "image_size=64")).network, 7)
    assert network.head[1].in_features == 2048
    assert len(network.layers()) > 10


def test_the_recipe_for_clip_names_weights_that_timm_has():
    settings_of_network = read(compose("recipe=clip")).network
    published = timm.get_pretrained_cfg(settings_of_network.backbone)
    assert published.tag == "openai"
    assert published.hf_hub_id
    assert published.input_size[1:] == (settings_of_network.image_size,) * 2
    assert "QuickGELU" not in (published.notes or ""), "this variant has another activation than the weights"


def test_ensemble_consists_of_the_best_recipes_and_every_seed():
    parts = compose_hydra("recipe=best_ensemble").sweeper.parts
    assert list(parts) == ["recipe=best_scratch", "recipe=best_pretrained"]
    for part in parts:
        assert compose_hydra(part).sweeper.params.seed == "0,1,2,3,4"


def test_help_lists_models_recipes_and_every_setting():
    text = describe_settings()
    (recipes,) = (line for line in text.splitlines() if line.startswith("recipes"))
    assert recipes.endswith(": best_ensemble, best_pretrained, best_scratch, clip, finetune, small")
    lines = [line.partition(":")[0] for line in text.splitlines()]
    assert set(settings(compose())) - {"model", "recipe"} <= set(lines)


@pytest.mark.parametrize("overrides", [("model=vgg16_ft", "unfreeze=9"), ("unfreeze=9", "model=vgg16_ft")])
def test_command_line_wins_in_any_order(overrides):
    config = compose(*overrides)
    assert (config.model, config.unfreeze, config.monitor) == ("vgg16_ft", 9, "val/acc")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["unfreez=3"], ["no key 'unfreez', did you mean unfreeze? emotion train --help lists all settings"]),
        (["model=vgg16_tf"], ["vgg16_tf", "did you mean vgg16_ft?", "resnet50_fe"]),
        (["-m", "model=cnn,nonsense"], ["nonsense", "cnn_111"]),
        (["recipe=smal"], ["no recipe 'smal'", "did you mean small?", "best_scratch"]),
        (["-m", "recipe=small,best_scrach"], ["best_scrach", "did you mean best_scratch?"]),
        (["recipes=small"], ["recipes", "did you mean recipe?"]),
        (["flips=0.5"], ["no key 'flips', did you mean flip? emotion train --help lists all settings"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "trainer.max_epochs"]),
        (["+gamma=3"], ["no key 'gamma'; emotion train --help lists all settings"]),
        (["epochs=3"], ["no key 'epochs', did you mean trainer.max_epochs? "]),
        (["learning_rate=0.1"], ["no key 'learning_rate', did you mean lr? "]),
        (["bs=8"], ["no key 'bs', did you mean batch_size? "]),
        (["dataset=folder"], ["no key 'dataset', did you mean data? "]),
        (["gpus=1"], ["no key 'gpus', did you mean trainer.devices? "]),
        (["trainer.steps=1"], ["did you mean trainer.max_steps"]),
        (["--epochs", "3"], ["--epochs: no such option; settings are written as trainer.max_epochs=<value>"]),
        (["--batch-size", "3"], ["--batch-size: no such option; settings are written as batch_size=<value>"]),
        (["--frob"], ["--frob: no such option; settings are written as key=<value>"]),
        (["~lrr"], ["~lrr"]),
        (["se ed=3"], ["se ed"]),
        (["model=cnn,cnn_111"], ["model=cnn,cnn_111", "-m"]),
        (["cnn"], ["cnn", "key=value"]),
        (["hydra/launcher=joblib"], ["hydra/launcher=joblib", "add -m"]),
        (["-m", "runs_per_gpu=3"], ["runs_per_gpu=3", "needs hydra/launcher=ray"]),
        (["-m", "hydra/launcher=ray,basic"], ["hydra/launcher=ray,basic: several values; give one"]),
        (["-m", "hydra/sweeper=basic,search"], ["hydra/sweeper=basic,search: several values; give one"]),
        (["-m", "model=glob(vgg*)"], ["model=glob(vgg*): not a list of values; give a list, as a,b,c"]),
        (["-m", "hydra/sweeper=search", "seed=0", "resume=runs/a"], ["resume=runs/a: continues only one run"]),
        (["-m", "hydra/sweeper=search", "seed=0", "trainer.devices=2"], ["trainer.devices=2: in a search every run"]),
    ],
)
def test_wrong_arguments_get_one_line_with_the_legal_or_the_closest_ones(words, parts):
    with pytest.raises(UserError) as error:
        check_overrides(words)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("seed=0,1 -m", "-m seed=0,1"),
        ("lr=1 -m seed=0,1 --cfg job lr=1", "-m --cfg job lr=1 seed=0,1 lr=1"),
        ("-m seed=0,1", "-m seed=0,1"),
        ("seed=1", "seed=1"),
        ("", ""),
    ],
)
def test_options_come_before_settings(words, ordered):
    assert quote_arguments(words.split()) == ordered.split()


def test_right_arguments_pass():
    check_overrides(["-m", "model=cnn,vgg16_ft", "seed=range(3)", "hydra.run.dir=x", "--cfg=job", "trainer.devices=2"])
    check_overrides(["-m", "recipe=small,best_ensemble", "flip=0.5", "mixup=0,0.2", "tta=flip"])
    check_overrides(["-m", "hydra/launcher=ray", "runs_per_gpu=3"])


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
        ("flip=2", "a number from 0 to 1 is needed"),
        ("brightness=1", "a number from 0, below 1, is needed"),
        ("dropout=1", "a number from 0, below 1, or null is needed"),
        ("mixup=-0.2", "a number from 0 is needed"),
        ("layer_decay=0", "a number above 0, at most 1, is needed"),
        ("plain_epochs=0.5", "whole number from 0 is needed"),
        ("optimizer=lamb", "adam, adamw, sgd"),
        ("tta=all", "none, flip, shifts, ten_crop"),
        ("family=vit", "cnn, resnet, torchvision, timm, face"),
        ("compile=yes please", "auto, true, false"),
        ("cuda_graph=maybe", "auto, true, false"),
        ("trainer.limit_val_batches=0", "use at least 1 batch"),
        ("trainer=5", "as trainer.max_epochs=5"),
        ("trainer.check_val_every_n_epoch=0", "whole number from 1"),
        ("trainer.accumulate_grad_batches=x", "whole number from 1"),
        ("trainer.benchmark=x", "true, false"),
        ("seed=99999999999999999999", "a whole number from 0 to 4294967295 is needed"),
        ("synthetic_images=100000000000", "a whole number from 1 to 1000000 is needed"),
        ("data_dir=[1]", "a name or path or null is needed"),
        ("weights=5", "a name or path or null is needed"),
        ("name=[1]", "a name or path is needed"),
        ("extra_data=[1]", "a list of names, as [a,b], or null is needed"),
        ("exclude=sad", "a list of names, as [a,b], is needed"),
        ("classes=seven", "a list of names, as [a,b], or auto or ferplus is needed"),
        ("pack_size=2000", "a whole number from 8 to 1024 or null is needed"),
        ("blocks=[a]", "a list of whole numbers or null is needed"),
        ("logger=neptune", "wandb, mlflow"),
        ("test_fraction=1", "a number from 0, below 1, is needed"),
        ("folds=1", "a whole number from 2 or null is needed"),
        ("init=3", "a name or path or null is needed"),
    ],
)
def test_illegal_values_get_one_line_with_the_key_and_the_legal_ones(word, legal):
    with pytest.raises(UserError) as error:
        read(compose(word))
    assert str(error.value).startswith(f"{word.split('=')[0]}=")
    assert "\n" not in str(error.value)
    assert legal in str(error.value)


def test_oversampled_images_without_content_are_refused_before_training():
    for words in (["offline_strength=7"], ["balance=offline", "offline_strength=6"]):
        read(compose(*words))
    with pytest.raises(UserError, match=r"^zoom=1\.05 shift=0\.7, 7 times the settings"):
        read(compose("balance=offline", "offline_strength=7"))


@pytest.mark.parametrize(("key", "legal", "illegal"), [(key, *rest) for keys, *rest in RANGES for key in keys])
def test_numbers_are_legal_up_to_the_ends_of_their_range(key, legal, illegal):
    for value in legal:
        assert_accepted(key, value)
    for value in (*illegal, "few", True, float("inf"), float("nan")):
        assert_refused(key, value)
    if key in NULLABLE:
        assert_accepted(key, None)
    else:
        assert_refused(key, None)


@pytest.mark.parametrize(("key", "least", "largest", "others"), [(key, *rest) for keys, *rest in WHOLE for key in keys])
def test_whole_numbers_are_legal_from_the_least_to_the_largest(key, least, largest, others):
    for value in (least, least + 1, largest or 10**6, *others):
        assert_accepted(key, value)
    beyond = [] if largest is None else [largest + 1]
    for value in (least - 1, least + 0.5, "few", True, *beyond, *([] if None in others else [None])):
        assert_refused(key, value)


@pytest.mark.parametrize(("key", "legal"), CHOICES.items())
def test_choices_are_legal_and_nothing_else(key, legal):
    for value in legal:
        assert_accepted(key, value)
    booleans = [value for value in (True, False, 1, 0) if not any(value is one for one in legal)]
    numbers = [value for value in booleans if value not in legal or type(value) is bool]
    for value in ("nonsense", 7, *numbers, *([] if None in legal else [None])):
        assert_refused(key, value)


@pytest.mark.parametrize(("key", "optional"), TEXTS.items())
def test_names_and_paths_are_any_text(key, optional):
    for value in ("a", "/data/ü 😀", "2023", "true"):
        assert_accepted(key, value)
    for value in (5, 0.5, True, ["a"], {"a": "b"}):
        assert_refused(key, value)
    if optional:
        assert_accepted(key, None)
    else:
        assert_refused(key, None)


@pytest.mark.parametrize(("key", "legal", "illegal"), [(key, *values) for key, values in LISTS.items()])
def test_lists_hold_names_or_whole_numbers(key, legal, illegal):
    for value in legal:
        assert_accepted(key, value)
    for value in illegal:
        assert_refused(key, value)


def test_every_setting_has_a_tested_range():
    tested = [key for keys, *_ in (*RANGES, *WHOLE) for key in keys] + [*CHOICES, *TEXTS, *LISTS, *UNCHECKED]
    assert sorted(tested) == sorted(fields())


def test_numbers_keep_the_type_that_they_are_written_in():
    for value in (1, 1.0):
        made = Settings.of({"lr": value, "layer_decay": value})
        assert type(made.optimizer.lr) is type(made.optimizer.layer_decay) is type(value)


def test_a_setting_that_does_not_exist_is_refused():
    config = compose("+gama=3")
    with pytest.raises(UserError, match=r"^gama: no such setting; --help lists all of them$"):
        read(config)
    with pytest.raises(UserError, match=r"^trainer\.max_epoch: no such setting; --help lists all of them$"):
        read(compose("+trainer.max_epoch=3"))


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(UserError, match=r"^fold=5: folds=5 has the folds 0 to 4$"):
        Settings.of({"split": "random", "folds": 5, "fold": 5})
    assert Settings.of({"split": "random", "folds": 5, "fold": 4}).data.fold == 4
    with pytest.raises(UserError, match=r"^plain_epochs=2: needs a last epoch; set trainer.max_epochs$"):
        Settings.of({"plain_epochs": 2, "trainer": {"max_epochs": -1}})
    with pytest.raises(UserError, match=r"^schedule=cosine: needs an end of training; set trainer.max_epochs or"):
        Settings.of({"schedule": "cosine", "trainer": {"max_epochs": -1}})
    assert Settings.of({"schedule": "cosine", "trainer": {"max_epochs": -1, "max_steps": 9}}).trainer.max_steps == 9
    with pytest.raises(UserError, match=r"^sam_rho: .*trainer\.accumulate_grad_batches=1$"):
        Settings.of({"sam_rho": 0.05, "trainer": {"accumulate_grad_batches": 2}})
    with pytest.raises(UserError, match=r"^trainer.min_epochs=9: at most trainer.max_epochs=5 is legal$"):
        Settings.of({"trainer": {"max_epochs": 5, "min_epochs": 9}})
    with pytest.raises(UserError, match=r"^unfreeze=3: would freeze random weights; .* init=$"):
        Settings.of({"unfreeze": 3})
    assert Settings.of({"unfreeze": 3, "init": "small"}).network.unfreeze == 3


def test_precisions_written_as_numbers_keep_their_folder():
    (typed,) = quote_arguments(["trainer.precision=32"])
    assert run_dir(compose(typed)) == "runs/default/cnn-seed0-87f470a7"


def test_images_of_the_environment_are_part_of_the_run(monkeypatch):
    folders = {}
    for name in ("", "/photos/a", "/photos/b"):
        monkeypatch.setenv("EMOTION_DATA", name)
        folders[name] = [run_dir(compose(f"data={data}")) for data in ("folder", "fer2013")]
    assert len({own for own, _ in folders.values()}) == 3
    assert len({fer for _, fer in folders.values()}) == 1, "FER2013 is the same wherever it lies"
    assert folders["/photos/b"][0] == run_dir(compose("data=folder", "data_dir=/photos/b"))


def test_run_folder_depends_on_the_settings_only():
    first = run_dir(compose("model=cnn", "seed=3"))
    assert first.startswith("runs/default/cnn-seed3-")
    assert run_dir(compose("seed=3", "overwrite=true")) == first
    assert run_dir(compose("seed=3", "lr=2e-3")) != first
    assert run_dir(compose("name=../../x", "model=cnn")).startswith("runs/.._.._x/cnn-")
    assert run_dir(compose("resume=some/folder")) == "some/folder"


@pytest.mark.parametrize("key", marked(NEW))
def test_a_new_setting_changes_the_name_of_a_run_only_when_it_is_set(key):
    config = default_config()
    older = OmegaConf.masked_copy(config, [str(name) for name in config if name != key])
    assert run_dir(older) == run_dir(config) == "runs/default/cnn-seed0-2ab08c0c"
    changed = OmegaConf.merge(older, {key: "another"})
    assert (run_dir(changed) == run_dir(config)) == (key in marked(CONTROL))


def test_hydra_places_the_run_in_that_folder():
    config = compose("seed=5", with_hydra=True)
    assert config.hydra.run.dir == run_dir(config)
    assert config.hydra.run.dir == run_dir(compose("seed=5"))


def test_arguments_of_evaluate_are_settings_of_the_data_and_options():
    assert parse_arguments(["ckpt=[a,b]", "split=clean", "seed=3"], ["ckpt"]) == {
        "ckpt": ["a", "b"],
        "split": "clean",
        "seed": 3,
    }
    with pytest.raises(UserError, match="did you mean split"):
        parse_arguments(["splt=clean"])
    with pytest.raises(UserError, match=r"^a.ckpt: not a setting; .*; a network is named by ckpt=a.ckpt$"):
        parse_arguments(["a.ckpt"], ["ckpt"])
    with pytest.raises(UserError, match=r"^a.ckpt: not a setting; settings have the form key=value$"):
        parse_arguments(["a.ckpt"])
    with pytest.raises(UserError, match=r"^split=clean,report: several values; give one$"):
        parse_arguments(["split=clean,report"])
    with pytest.raises(UserError, match=r"^ckpt: given twice; several networks are ckpt=\[a\.ckpt,b\.ckpt\]$"):
        parse_arguments(["ckpt=a", "ckpt=b"], ["ckpt"])


def test_options_are_those_of_hydra():
    """Hydra's own parser is not part of its public interface."""
    from hydra._internal.utils import get_args_parser

    def options(parser):
        # Those without a value have `nargs` 0, also the version, which Hydra prints itself.
        return {tuple(action.option_strings): action.nargs for action in parser._actions}

    assert options(overrides._options()) == options(get_args_parser())


@pytest.mark.parametrize("words", [["--cfg", "job"], ["-m", "seed=0,1"], ["model=cnn", "--info", "defaults"]])
def test_options_of_hydra_are_left_to_hydra(words):
    check_overrides(words)


@pytest.mark.parametrize(
    ("words", "gpu", "share"),
    [
        ([], True, 1),
        (["runs_per_gpu=4"], True, 0.25),
        (["runs_per_gpu=6"], True, 0.1666),  # six times 0.1667, to which Ray would round, are more than a GPU
        (["runs_per_gpu=4"], False, 0),
        (["runs_per_gpu=4", "trainer.accelerator=cpu"], True, 0),
    ],
)
def test_runs_of_a_ray_sweep_share_a_gpu(monkeypatch, words, gpu, share):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    config = compose_launcher("ray", *words)
    assert config.ray.remote.num_gpus == share
    assert config.ray.remote.num_cpus == 1


def test_element_of_a_slurm_array_has_one_gpu_and_is_queued_again():
    config = compose_launcher("slurm")
    assert config._target_.endswith("SlurmLauncher")
    assert (config.gpus_per_node, config.tasks_per_node) == (1, 1)
    assert config.max_num_timeout > 0


@pytest.mark.parametrize("name", ["joblib", "ray", "slurm"])
def test_launcher_that_is_not_installed_names_its_extra(monkeypatch, name):
    monkeypatch.setattr("emotion.extras.find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"pip install 'emotion\[{name}\]'"):
        check_overrides([f"hydra/launcher={name}"])


def nested(key, value):
    """Returns a value as a mapping of settings, beside what it needs."""
    beside = BESIDE.get(key, {})
    group, _, name = key.rpartition(".")
    return beside | {group: beside.get(group, {}) | {name: value}} if group else beside | {name: value}


def assert_accepted(key, value):
    """Checks that the value is legal and kept as it is."""
    made = Settings.of(nested(key, value)).flat()
    group, _, name = key.rpartition(".")
    kept = (made[group] if group else made)[name]
    assert (kept, type(kept)) == (value, type(value))


def assert_refused(key, value):
    """Checks that the value is refused in one line that names its key."""
    with pytest.raises(UserError) as error:
        Settings.of(nested(key, value))
    assert str(error.value).startswith(f"{key}={value}: ")
    assert "\n" not in str(error.value)


def compose_hydra(*overrides):
    return compose(*overrides, with_hydra=True).hydra


def compose_launcher(name, *overrides):
    return compose_hydra(f"hydra/launcher={name}", *overrides).launcher


PATHS = [
    *(
        "/data/ü",
        "/data/😀",
        "/data/it's",
        "/data/a&b",
        "~/photos",
        "~nobody/x",
        "/data/photos (1)",
        "/data/a,b",
        "a=b.ckpt",
    ),
    *(
        "2023",
        "1e3",
        "007",
        "0x1f",
        "true",
        "nullable",
        "nan",
        "[x]",
        "{x: 1}",
        "/data/100%",
        "$HOME/x",
        "#1",
        "a:b",
        ":",
        "a b",
    ),
    *(
        'say "hi"',
        "C:\\data\\new",
        "\\\\nas\\photos",
        "\\(\\d+\\)",
        "\\[\\w+\\]",
        "tail\\",
        "\\'",
        "two\nlines",
        "tab\there",
        "*",
        "?",
        "choice(1)",
        "range(3)",
        "-m",
        "x'y,z",
    ),
    *("(", ")", "]", "a;b", "a|b", "<a>", "^", "`x`", "\udcff", "a  b", "…", "%s", "null.d", "@eaDir"),
]


@pytest.mark.parametrize("path", PATHS)
def test_any_path_is_read_unchanged(path):
    keys = ("data_dir", "weights", "resume", "name")
    typed = [quote_argument(f"{key}={path}") for key in keys]
    for word in typed:
        assert quote_argument(word) == quote_argument(as_typed(word)) == word
    for many in (
        quote_argument(f"data_dir={quoted(path)},other", many=True),
        quote_argument("data_dir=other", many=True),
    ):
        assert quote_argument(many, many=True) == many
    words = parse_arguments([f"data_dir={path}", f"ckpt=[{quoted(path)},b]"], ["ckpt"])
    assert words == {"data_dir": path, "ckpt": [path, "b"]}
    listed = not set("',[]\"\\") & set(path)
    lists = [quote_argument(f"extra_data=[{path},b]")] if listed else []
    config = compose(*typed, *lists, quote_argument(f"hydra.run.dir={path}"), with_hydra=True)
    assert [config[key] for key in keys] == [path] * len(keys)
    assert config.hydra.run.dir == os.path.expanduser(path)  # noqa: PTH111
    assert not listed or config.extra_data == [path, "b"]


@pytest.mark.parametrize(
    ("word", "many", "legal"),
    [
        ("data_dir=/ü,/ö", True, "data_dir='/ü','/ö'"),
        ("data_dir='/a,b',/c", True, "data_dir='/a,b',/c"),
        ("extra_data=[/a b,2023]", False, "extra_data=[/a b,'2023']"),
        ("data_dir=null", False, "data_dir=null"),
        ("+trainer.x=1", False, "+trainer.x=1"),
        ("seed=range(0,3)", True, "seed=range(0,3)"),
        ("lr=interval(1e-3,1e-1)", True, "lr=interval(1e-3,1e-1)"),
        ("blocks=[2,2", False, "blocks='[2,2'"),
        ("data_dir=glob(*)", True, "data_dir='glob(*)'"),
        ("data_dir=choice(a,b)", True, "data_dir=choice(a,b)"),
        ("data_dir=/d/it's,/d/that's", True, "data_dir='/d/it\\'s','/d/that\\'s'"),
        ("hydra.searchpath=[~/a,/b]", False, f"hydra.searchpath=[{Path.home()}/a,/b]"),
        ("model=cnn,vgg16_ft", True, "model=cnn,vgg16_ft"),
        ("hydra.run.dir='~/x'", False, f"hydra.run.dir='{Path.home() / 'x'}'"),
        ("data_dir= a", False, "data_dir=' a'"),
        ("hydra.sweep.dir=/a,b", True, "hydra.sweep.dir='/a,b'"),
        ("hydra.sweep.subdir=${hydra.job.num}", True, "hydra.sweep.subdir=${hydra.job.num}"),
    ],
)
def test_values_that_hydra_cannot_read_are_quoted(word, many, legal):
    assert quote_argument(word, many) == legal


def test_a_run_resumes_from_its_folder_or_its_last_epoch(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("best.ckpt", "last.ckpt"):
        (checkpoints / name).touch()
    check_overrides([f"resume={checkpoints / 'last.ckpt'}"])
    for word in (f"resume={checkpoints / 'last.ckpt'}", f"resume={tmp_path / 'run'}"):
        assert run_dir(compose(word)) == str(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"best.ckpt: a run continues from its last epoch; give its folder, as resume=.*run$"
    ):
        check_overrides([f"resume={checkpoints / 'best.ckpt'}"])


def test_experiments_in_further_folders_are_found(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nlr: 0.5\n")
    for words in (
        ["--config-dir", str(tmp_path)],
        [f"hydra.searchpath=[{tmp_path}]"],
        [f"hydra.searchpath=[file://{tmp_path}]"],
    ):
        check_overrides([*words, "experiment=mine"])
        with pytest.raises(UserError, match="no experiment 'mien', did you mean mine"):
            check_overrides([*words, "experiment=mien"])
    check_overrides(["hydra.searchpath=[pkg://elsewhere]", "experiment=theirs"])


# An argument, arguments with which it has an effect, and arguments without which it has none.
EFFECTIVE = {
    "data_dir": ("data_dir=x", "data=folder", "data=synthetic"),
    "on_bad_image": ("on_bad_image=skip", "data=folder", "data=synthetic"),
    "channels": ("channels=3", "data=folder", "data=fer2013"),
    "pack_size": ("pack_size=96", "data=folder", "data=synthetic"),
    "synthetic_images": ("synthetic_images=140", "data=synthetic", "data=fer2013"),
    "val_fraction": ("val_fraction=0.3", "split=report", "split=official"),
    "test_fraction": ("test_fraction=0.1", "split=random", "split=report"),
    "folds": ("folds=5", "split=random", "split=official"),
    "fold": ("fold=1", "split=random folds=5", "split=random"),
    "group_by": ("group_by=person", "split=random", "split=report"),
    "split_seed": ("split_seed=1", "split=random", "split=clean"),
    "group_duplicates": ("group_duplicates=true", "split=report", "split=clean"),
    "path_column": ("path_column=file", "data=table", "data=folder"),
    "label_column": ("label_column=emotion", "data=table", "data=folder"),
    "split_column": ("split_column=part", "data=table", "data=fer2013_csv"),
    "columns": ("columns=[path,label]", "data=table", "data=folder"),
    "images": ("images=photos", "data=table", "data=folder"),
    "votes": ("votes=votes.csv", "labels=ferplus", "labels=null"),
    "soft_labels": ("soft_labels=false", "labels=ferplus", "labels=null"),
    "offline_strength": ("offline_strength=2", "balance=offline", "balance=none"),
    "distill": ("distill=0.5", "teacher=small", "teacher=null"),
    "distill_temperature": ("distill_temperature=2", "teacher=[small]", "teacher=null"),
    "distill_views": ("distill_views=3", "teacher=small", "teacher=small augment=false"),
    "label_smoothing": ("label_smoothing=0.1", "teacher=small", "teacher=small distill=1"),
    "focal_gamma": ("focal_gamma=1", "teacher=null", "teacher=small distill=1"),
    "loss": ("loss=mine.py:Loss", "teacher=small distill=0.5", "teacher=small distill=1"),
    "logit_adjustment": ("logit_adjustment=1", "balance=none", "balance=class_weights"),
    "layer_decay": ("layer_decay=0.5", "model=vgg16_ft unfreeze=3", "model=vgg16_fe"),
    "weights": ("weights=x.safetensors", "model=vgg16_ft", "model=vgg16_ft init=runs/a"),
    "rotation": ("rotation=20", "augment=true", "augment=false"),
    "zoom": ("zoom=0.3", "balance=offline augment=false", "augment=false"),
    "shift": ("shift=0.3", "augment=true", "augment=false"),
    "shear": ("shear=3", "augment=true", "augment=false"),
    "plain_epochs": ("plain_epochs=2", "flip=0.5 augment=false", "augment=false"),
    "feature_views": ("feature_views=2", "model=resnet_small init=small unfreeze=0", "model=timm backbone=resnet18"),
    "momentum": ("momentum=0.5", "optimizer=sgd", "optimizer=adamw"),
    "warmup_epochs": ("warmup_epochs=3", "schedule=cosine", "schedule=plateau"),
    "lr_factor": ("lr_factor=0.3", "schedule=plateau", "schedule=none"),
    "lr_patience": ("lr_patience=9", "schedule=plateau", "schedule=cosine"),
    "min_delta": ("min_delta=0.1", "patience=3", "patience=null"),
    "trainer.gradient_clip_algorithm": (
        "trainer.gradient_clip_algorithm=value",
        "trainer.gradient_clip_val=1",
        "trainer.gradient_clip_val=null",
    ),
}


def test_images_that_are_added_to_drawn_ones_may_be_unreadable():
    words = ["on_bad_image=skip", "data=synthetic", "extra_data=[photos]"]
    require_effect(words, settings(compose(*words)))


def test_every_setting_that_can_lack_an_effect_is_tested():
    assert EFFECTIVE.keys() == EFFECTS.keys()


@pytest.mark.parametrize("key", EFFECTIVE)
def test_a_setting_without_effect_is_refused(key):
    word, beside, alone = EFFECTIVE[key]
    require_effect([word], settings(compose(word, *beside.split())))
    values = settings(compose(word, *alone.split()))
    require_effect(alone.split(), values)
    with pytest.raises(UserError, match=rf"^{re.escape(word.split('=')[0])}=.*: has no effect; it needs "):
        require_effect([word], values)
    default = OmegaConf.select(BASE, key)
    same = f"{key}={'null' if default is None else default}"
    require_effect([same], flatten(values) | {key: default})


@pytest.mark.parametrize(
    "words",
    [
        "logit_adjustment=1 balance=none teacher=small distill=1",
        "logit_adjustment=1 balance=offline",
        "layer_decay=0.5 model=custom network=mine.py:Net",
    ],
)
def test_another_reason_for_no_effect(words):
    with pytest.raises(UserError, match="has no effect; it needs "):
        require_effect(words.split(), settings(compose(*words.split())))


@pytest.mark.parametrize("model", ["cnn", "resnet18", "resnet_small"])
def test_weights_need_a_backbone(model):
    read(compose(f"model={model}", "weights=none"))
    with pytest.raises(
        UserError,
        match=r"^weights=/does/not/exist.safetensors: models of family \w+ have no backbone; use ",
    ):
        read(compose(f"model={model}", "weights=/does/not/exist.safetensors"))


@pytest.mark.parametrize("argument", ["--data=synthetic", "-lr=1e-3", "--trainer.max_epochs=3"])
def test_a_setting_with_dashes_is_written_without_them(argument):
    with pytest.raises(UserError, match=f"^{argument}: settings are written without dashes: {argument.lstrip('-')}$"):
        check_overrides([argument])


@pytest.mark.parametrize("argument", ["-cd=/tmp", "--config-dir=/tmp", "-c=job", "--experimental-rerun=/tmp/x"])
def test_options_of_hydra_may_be_written_with_a_sign_of_equality(argument):
    check_overrides([argument, "lr=1e-4"])


def test_names_of_other_programs_stand_for_settings_and_are_none_themselves():
    assert {*SYNONYMS.values()} <= {*fields()}
    assert not {*SYNONYMS} & {*fields()}
