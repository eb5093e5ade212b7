import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import make_network
from other_classes import FERPLUS, STRANGE, THREE, make_classifier
from safetensors.torch import load_file, save_file
from torch import Tensor

import emotion
from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.classifier import Card, Classifier, load_pretrained, save_pretrained
from emotion.models.network import Network

SETTINGS = {
    "family": "resnet",
    "image_size": 16,
    "normalize": "unit",
    "blocks": [1, 1],
    "width": 8,
    "stem_stride": 1,
}


@pytest.fixture
def network() -> Network:
    """A small ResNet with random weights and statistics, residual branches included."""
    torch.manual_seed(0)
    network = make_network(**SETTINGS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.train()
    for _ in range(3):
        network(torch.rand(16, 1, 16, 16))
    return network.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_saved_network_is_loaded(network: Network, images: Tensor, tmp_path: Path) -> None:
    card = Card(SETTINGS, temperature=1.7, views="flip", facts={"model": "mine", "figures": {"All": {"acc": 0.5}}})
    save_pretrained(tmp_path / "mine.safetensors", network, card)
    classifier = emotion.load_pretrained(tmp_path / "mine.safetensors")
    assert classifier.card == card
    assert classifier.classes == CLASSES
    with torch.inference_mode():
        views = torch.stack([network(images), network(images.flip(-1))]).softmax(2).mean(0)
    expected = (views.log() / 1.7).softmax(1)
    assert torch.allclose(classifier(images), expected, atol=3e-3)
    assert torch.allclose(classifier(images).sum(1), torch.ones(5))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_weights_are_in_half_precision_and_statistics_are_not_rounded(network: Network, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "mine.safetensors", network, Card(SETTINGS))
    state = load_file(tmp_path / "mine.safetensors")
    assert {name for name, value in state.items() if value.dtype == torch.float16} == dict(
        network.named_parameters()
    ).keys()
    loaded = load_pretrained(tmp_path / "mine.safetensors").averaged.network.state_dict()
    for name, value in network.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value.half().float() if state[name].dtype == torch.float16 else value)


def test_weights_beyond_half_precision_are_kept(network: Network, tmp_path: Path) -> None:
    network.state_dict()["backbone.0.0.weight"][0, 0, 0, 0] = 1e5
    save_pretrained(tmp_path / "mine.safetensors", network, Card(SETTINGS))
    loaded = load_pretrained(tmp_path / "mine.safetensors").network.state_dict()
    assert loaded["backbone.0.0.weight"][0, 0, 0, 0] == 1e5


def test_whole_numbers_are_no_weights(network: Network, tmp_path: Path) -> None:
    """A quantised network holds them, without the scale."""
    path = tmp_path / "mine.safetensors"
    save_pretrained(path, network, Card(SETTINGS))
    rounded = {
        name: value.round().to(torch.int8) if value.dtype == torch.float16 else value
        for name, value in load_file(path).items()
    }
    save_file(rounded, path, {"emotion": json.dumps({"network": SETTINGS})})
    with pytest.raises(UserError, match="it has other kinds of numbers in backbone"):
        load_pretrained(path)


def test_grey_and_rgb_bytes_and_floats_of_any_size(network: Network, images: Tensor, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "mine.safetensors", network, Card(SETTINGS))
    classifier = load_pretrained(tmp_path / "mine.safetensors")
    expected = classifier(images)
    assert not expected.requires_grad
    assert torch.allclose(classifier(images.float() / 255), expected, atol=1e-5)
    assert torch.allclose(classifier(images.expand(-1, 3, -1, -1)), expected, atol=1e-4)
    assert classifier(torch.zeros(2, 3, 40, 60)).shape == (2, 7)


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE, ("no", "yes")], ids=len)
def test_other_classes_are_kept_in_the_file(classes: tuple[str, ...], tmp_path: Path, images: Tensor) -> None:
    made, path = make_classifier(classes), tmp_path / "mine.safetensors"
    save_pretrained(path, made.network, made.card)
    loaded = load_pretrained(path)
    assert loaded.classes == classes
    assert loaded.card == made.card
    assert loaded(images).shape == (5, len(classes))
    assert torch.allclose(loaded(images), made(images), atol=0.02)


def test_files_without_class_names_have_the_seven_and_grey_images(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, {"emotion": json.dumps({"network": SETTINGS})})
    assert load_pretrained(path).classes == CLASSES
    assert load_pretrained(path).card.channels == 1
    assert load_pretrained().classes == CLASSES


@pytest.mark.parametrize("classes", [THREE[:2], FERPLUS])
def test_as_many_names_as_outputs_are_needed(classes: tuple[str, ...], tmp_path: Path) -> None:
    made, path = make_classifier(THREE), tmp_path / "mine.safetensors"
    save_pretrained(path, made.network, replace(made.card, classes=list(classes)))
    with pytest.raises(
        UserError, match=r"mine.safetensors: not a network of this project \(it has head.3.weight \(3, 16\) instead of"
    ):
        load_pretrained(path)


@pytest.mark.parametrize("content", ["nothing", "garbage", "other", "pickle", "settings", "weights"])
def test_other_files_are_refused_in_one_line(content: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    metadata = {"emotion": json.dumps({"network": SETTINGS})}
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    if content == "garbage":
        path.write_bytes(b"no tensors")
    elif content == "other":
        save_file({"a": torch.zeros(1)}, path)
    elif content == "pickle":
        torch.save(network.state_dict(), path)
    elif content == "settings":
        save_file(state, path, {"emotion": json.dumps({"network": {"family": "cnn"}})})
    elif content == "weights":
        save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(UserError) as error:
        load_pretrained(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *(
            ({"temperature": value}, f"temperature={value}")
            for value in (float("nan"), float("inf"), 0, -1, True, "x", [1])
        ),
        ({"temperature": 10**400}, "temperature=1000"),
        *(({"facts": value}, f"facts={value}: not a description") for value in (None, [1], "x")),
        *(({"views": value}, f"views={value}") for value in ("x", None, ["flip"])),
        *(({"side": value}, f"side={value}") for value in (0, -3, 40_000, 48.5, "x", None)),
        *(
            ({"channels": value}, f"channels={value}: 1 (grey) or 3 (RGB) is needed")
            for value in (0, 2, True, "3", None)
        ),
        ({"network": SETTINGS | {"width": 600}}, "instead of (600,"),
        ({"network": SETTINGS | {"width": 1024, "blocks": [1] * 10, "image_size": 1024}}, "it lacks"),
        ({"network": SETTINGS | {"blocks": [10**6]}}, "blocks=[1000000]"),
        ({"network": SETTINGS | {"image_size": 20_000}}, "image_size=20000"),
        ({"network": [1]}, "network=[1]: not the settings of a network"),
        ({"network": SETTINGS | {"lr": 0.1}}, "not the settings of a network"),
        ({"classes": None}, "classes: NoneType; a list of names is needed"),
        ({"classes": ["alone"]}, "classes: 1 (alone); 2 to 1,000 are legal"),
        ({"classes": ["a", "b", "a"]}, "classes: a, a are the same class; name each once"),
        ({"classes": ["a", "b" * 65]}, "is no class name; one has 1 to 64 printable characters"),
        ({"classes": ["a", 2]}, "classes: 2 is no class name; one has 1 to 64 printable characters"),
    ],
    ids=str,
)
def test_cards_with_illegal_values_are_refused_in_one_line(
    changes: dict[str, object], named: str, network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "mine.safetensors"
    card = json.dumps({"network": SETTINGS} | changes)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path, {"emotion": card})
    with pytest.raises(UserError) as error:
        load_pretrained(path)
    assert str(error.value).startswith(f"{path}: not a network of this project (")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["backbone.0.0.weight", "backbone.0.1.running_var"])
def test_weights_that_are_not_finite_are_refused(name: str, network: Network, tmp_path: Path) -> None:
    network.state_dict()[name].fill_(float("nan"))
    save_pretrained(tmp_path / "mine.safetensors", network, Card(SETTINGS))
    with pytest.raises(UserError, match=f"not finite in {name}"):
        load_pretrained(tmp_path / "mine.safetensors")


def test_outputs_that_are_not_finite_are_refused(network: Network, images: Tensor) -> None:
    classifier = Classifier(network, Card(SETTINGS))
    network.state_dict()["backbone.0.1.running_var"].fill_(-5)
    with pytest.raises(UserError, match="not finite"):
        classifier(images)


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta"])
def test_missing_device_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"^device={device}: not a device that PyTorch has here"):
        emotion.load_pretrained(device=device)
