"""Training from a trained network."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_network
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.data.votes import VOTED
from emotion.errors import UserError
from emotion.models.registry import build_network
from emotion.settings import NetworkSettings
from emotion.shipped import SHIPPED
from emotion.training import start
from emotion.training.origin import Origin, require_unseen
from emotion.training.start import Start, read_start, with_implied_model

SMALL = {"family": "resnet", "blocks": [2, 2, 2], "width": 48, "stem_stride": 2}


def test_the_shipped_network_is_taken_whole_for_its_own_classes() -> None:
    small, network = read_start("small"), make_network(**SMALL)
    assert (small.model, small.origin.classes) == ("resnet_small", CLASSES)
    count = len(network.state_dict())
    assert small.load_into(network, CLASSES) == f"init=small: {count} of {count} tensors taken"
    stored = load_file(SHIPPED / "small.safetensors")
    assert all(torch.equal(value.float(), stored[key].float()) for key, value in network.state_dict().items())


@pytest.mark.parametrize("classes", [("bored", "engaged"), ("a", "b", "c", "d", "e", "f", "g"), CLASSES[::-1]])
def test_other_classes_get_a_new_last_layer(classes: tuple[str, ...]) -> None:
    network = make_network(len(classes), **SMALL)
    before = network.head[3].weight.detach().clone()
    message = read_start("small").load_into(network, classes)
    count = len(network.state_dict())
    assert message == (
        f"init=small: {count - 2} of {count} tensors taken; new: head.3, for the classes {', '.join(classes)}"
    )
    assert torch.equal(network.head[3].weight, before)
    stored = load_file(SHIPPED / "small.safetensors")
    assert torch.equal(network.backbone[0][0].weight, stored["backbone.0.0.weight"].float())


def test_a_network_of_another_form_says_so() -> None:
    start = read_start("small")
    other = start.settings.model_copy(update={"blocks": [1, 1, 1], "stem_stride": 1})
    assert start.differences(start.settings) == []
    assert start.differences(other) == ["blocks=[2, 2, 2], here [1, 1, 1]", "stem_stride=2, here 1"]
    assert (
        start.load_into(make_network(**other.flat()), CLASSES)
        == "init=small: 56 of 56 tensors taken and 36 of the file left out"
    )


@pytest.mark.parametrize("settings", [{"blocks": [1, 1]}, SMALL | {"width": 40}])
def test_a_network_of_which_no_weight_fits_is_refused(settings: dict[str, Any]) -> None:
    own = re.escape("model=resnet_small blocks=[2,2,2] width=48 stem_stride=2 image_size=48 normalize=unit")
    with pytest.raises(UserError, match=f"^init=small: none of its weights fits this model; the .* has {own}$"):
        read_start("small").load_into(make_network(**settings), CLASSES)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(SHIPPED / "small.safetensors", "pt") as file:
        metadata = file.metadata()
    state = load_file(SHIPPED / "small.safetensors")
    state["backbone.0.0.weight"][0] = torch.inf
    save_file(state, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(UserError, match="not finite"):
        read_start(str(tmp_path / "bad.safetensors")).load_into(make_network(**SMALL), CLASSES)


@pytest.mark.parametrize("name", ["nothing", "nothing.ckpt", "photo.png"])
def test_a_network_that_does_not_exist_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file") as error:
        read_start(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_files_of_other_content_are_one_line(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not a network of this project"):
        read_start(str(tmp_path / "x.safetensors"))
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read_start(str(tmp_path / "x.ckpt"))


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["init=small"], ["model=resnet_small"]),
        (["lr=1e-3", "init=small"], ["model=resnet_small"]),
        (["network=my_nets.py:TinyNet"], ["model=custom"]),
        (["init=small", "model=cnn"], []),
        (["init=null"], []),
        (["init=small", "recipe=finetune"], []),
        (["init=small", "recipe=best_scratch"], []),
        (["init=small", "recipe=none"], []),
        (["init=small", "recipe=finetune,small"], []),
        (["network=my_nets.py:TinyNet", "experiment=table1"], []),
        (["-m", "init=a.ckpt,b.ckpt", "recipe=finetune"], []),
        (["-m", "init=a.ckpt,b.ckpt", "model=cnn"], []),
        (["seed=1"], []),
    ],
)
def test_a_start_or_a_network_of_ones_own_implies_its_model(words: list[str], added: list[str]) -> None:
    assert with_implied_model(words) == [*words, *added]


def test_several_starts_need_a_model() -> None:
    with pytest.raises(UserError, match=r"^init=a.ckpt,b.ckpt: several networks; name their model too, as model="):
        with_implied_model(["-m", "init=a.ckpt,b.ckpt"])
    with pytest.raises(UserError, match=r"a,b\.ckpt: no such file"):
        with_implied_model(["init=a,b.ckpt"])


def test_a_start_implies_the_size_of_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    small = read_start("small")
    changes = {"blocks": [1, 1], "stem_stride": 1, "image_size": 32}
    resized = replace(small, settings=small.settings.model_copy(update=changes))
    monkeypatch.setattr(start, "read_start", lambda name: resized)
    assert with_implied_model(["init=x"])[1:] == [
        "model=resnet_small",
        "blocks=[1,1]",
        "stem_stride=1",
        "image_size=32",
    ]
    assert "image_size=32" not in with_implied_model(["init=x", "image_size=64"])
    # A recipe keeps its own model and the settings of it that it changes.
    assert with_implied_model(["init=x", "recipe=finetune"])[2:] == ["blocks=[1,1]", "stem_stride=1", "image_size=32"]
    assert with_implied_model(["init=x", "recipe=small"])[2:] == ["blocks=[1,1]", "stem_stride=1", "image_size=32"]
    assert with_implied_model(["init=x", "recipe=best_scratch"])[2:] == []
    own = replace(small, model="custom", settings=NetworkSettings.of({"family": "custom", "image_size": 96}))
    monkeypatch.setattr(start, "read_start", lambda name: own)
    assert with_implied_model(["init=x", "network=net.py:Net"])[2:] == [
        "model=custom",
        "image_size=96",
        "normalize=unit",
    ]
    backbone = {"family": "timm", "backbone": "resnet18", "normalize": "imagenet"}
    settings = NetworkSettings.of(backbone)
    monkeypatch.setattr(start, "read_start", lambda name: replace(small, model="timm", settings=settings))
    assert "model=timm" in with_implied_model(["init=x", "recipe=finetune"])
    assert with_implied_model(["init=x"])[1:] == [
        "model=timm",
        "backbone=resnet18",
        "image_size=48",
        "normalize=imagenet",
    ]


def test_the_last_layer_is_the_one_that_computes_the_logits() -> None:
    """It may be created first."""

    class Net(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.fc = nn.Linear(4, num_classes)
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(images).mean((2, 3)))

    network = build_network(NetworkSettings(family="custom", network="x.py:Net"), 3, Net)
    given = {name: torch.full_like(value, 3.0) for name, value in network.state_dict().items()}
    begun = Start("x", "custom", Origin(("a", "b", "c"), {}), given, NetworkSettings())
    begun.load_into(network, ("c", "b", "a"))
    assert (network.backbone.conv.weight == 3).all()
    assert not (network.backbone.fc.weight == 3).any()


def test_a_network_without_a_linear_layer_is_taken_whole() -> None:
    class Pool(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)
            self.pool = nn.AdaptiveAvgPool2d((1, num_classes))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.pool(self.norm(images)).flatten(1)

    network = build_network(NetworkSettings(family="custom", network="x.py:Pool"), 3, Pool)
    begun = Start(
        "x", "custom", Origin(("a", "b"), {}), {"backbone.norm.weight": torch.full((1,), 3.0)}, NetworkSettings()
    )
    assert "1 of" in begun.load_into(network, ("a", "b", "c"))
    assert network.backbone.norm.weight.item() == 3


def test_images_of_a_published_network_are_told_beside_a_bad_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, number in product(("a", "b"), range(10)):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "b" / "bad.png").write_bytes(b"no image")
    asked = {"data": "folder", "data_dir": str(tmp_path), "split": "random", "on_bad_image": "skip"}
    data = EmotionDataModule.of(asked)
    facts = {"data": "folder", "split": "random", "val_fraction": 0.2, "training_hash": data.training_hash}
    origin = Origin(("a", "b"), {"split": "random"}, facts=facts)
    assert sorted(origin.known_hashes(data)) == sorted(data.packed.hashes[data.rows.train])
    # A random split depends on the order of the images, here that of their names.
    for name, number in product(("a", "b"), range(10)):
        (tmp_path / name / f"{number}.png").rename(tmp_path / name / f"new{-number % 7}{number}.png")
    renamed = EmotionDataModule.of(asked)
    assert renamed.packed.digest == data.packed.digest
    assert origin.known_hashes(renamed) is None
    for older in ({}, {"images_hash": data.packed.digest}):
        facts = {"data": "folder", "split": "random", "val_fraction": 0.2, **older}
        assert Origin(("a", "b"), {"split": "random"}, facts=facts).known_hashes(data) is None


@pytest.fixture(scope="module")
def fer2013(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a small FER2013: of each class, 10 training images and 2 of each test part."""
    folder, random = tmp_path_factory.mktemp("fer2013"), np.random.default_rng(1)
    parts = {"train/{}/Training": 10, "test/{}/PublicTest": 2, "test/{}/PrivateTest": 2}
    for label, name in enumerate(CLASSES):
        for path, index in ((path, index) for path, number in parts.items() for index in range(number)):
            file = folder / f"{path.format(name)}_{label}{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(file)
    return folder


@pytest.mark.parametrize("changes", [{}, {"exclude": ["disgust"]}, {"extra_data": ["more"]}, {"labels": "ferplus"}])
def test_the_shipped_network_is_known_to_have_seen_the_training_images_of_fer2013(
    changes: dict[str, Any], fer2013: Path, tmp_path: Path
) -> None:
    for name in CLASSES:
        (tmp_path / "more" / name).mkdir(parents=True)
        Image.fromarray(np.full((48, 48), CLASSES.index(name), np.uint8)).save(tmp_path / "more" / name / "0.png")
    lines = [",".join(["image", *VOTED])]
    for number, path in enumerate(sorted(fer2013.rglob("*.png"))):
        lines.append(",".join([path.name, *np.eye(len(VOTED), dtype=int)[number % 7].astype(str)]))
    (tmp_path / "votes.csv").write_text("\n".join(lines))
    if "extra_data" in changes:
        changes = {"extra_data": [str(tmp_path / "more")]}
    asked = {"data": "fer2013", "data_dir": str(fer2013), "votes": str(tmp_path / "votes.csv"), **changes}
    official, random = (EmotionDataModule.of({**asked, "split": split}) for split in ("official", "random"))
    small = read_start("small").origin
    assert len(small.known_hashes(official)) == 70
    assert require_unseen("init=small", small, official)
    with pytest.raises(UserError, match=r"^init=small: was trained on \d+ of the images that validate or test here; "):
        require_unseen("init=small", small, random)


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "val", "test")])
def test_other_images_in_the_folders_of_fer2013_are_not_taken_for_it(parts: tuple[str, ...], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, (part, name) in enumerate((part, name) for part in parts for name in CLASSES):
        path = tmp_path / part / name / f"{number}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(path)
    data = EmotionDataModule.of({"data": "fer2013", "data_dir": str(tmp_path), "split": "test_only"})
    assert read_start("small").origin.known_hashes(data) is None
