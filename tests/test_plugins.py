"""Classes of one's own are imported only where the user names them."""

import textwrap
from pathlib import Path

import pytest
import torch
from small_runs import SMALL
from torch import nn

from emotion.config import compose, read
from emotion.errors import UserError
from emotion.models.registry import build_network
from emotion.plugins import Plugins, load_plugin, own_code
from emotion.settings import LossSettings, NetworkSettings, Settings
from emotion.training.folder import RunFolder
from emotion.training.loss import EmotionLoss
from emotion.training.prepared import prepare

CODE = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("canary").touch()


class TinyNet(nn.Module):
    channels = 3

    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

    def forward(self, images):
        return self.layers(images)


class Short(TinyNet):
    def forward(self, images):
        return self.layers(images)[:, :2]


class NeedsMore(nn.Module):
    def __init__(self, num_classes, depth):
        super().__init__()


class Distance(nn.Module):
    def forward(self, logits, labels):
        return (logits - nn.functional.one_hot(labels, logits.shape[1])).abs().sum(1)


class Wrong(nn.Module):
    def forward(self, logits, labels):
        return logits


class Raises(nn.Module):
    def forward(self, logits, labels):
        raise KeyError("none")


class Colour(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 16)

    def forward(self, images):
        return self.layer(images).flatten(1)


def broken(num_classes):
    raise RuntimeError("no such thing")


number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(CODE))
    return path


def test_a_class_is_imported_from_a_file_or_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_plugin("network", f"{file}:TinyNet").__name__ == "TinyNet"
    monkeypatch.syspath_prepend(file.parent)
    assert load_plugin("network", "mine:TinyNet").__name__ == "TinyNet"
    assert (file.parent / "canary").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}", "<file>.py:<class> or <module>:<class> is needed"),
        ("{file}:", "<file>.py:<class> or <module>:<class> is needed"),
        ("{file}:Tiny Net", "<file>.py:<class> or <module>:<class> is needed"),
        ("{file}x.py:TinyNet", "no file"),
        ("{file}:Tinynet", "no class Tinynet .* it has TinyNet, Short, NeedsMore"),
        ("{file}:number", "no class number"),
        ("no_such_module:TinyNet", "cannot be imported .ModuleNotFoundError"),
    ],
)
def test_a_name_that_is_wrong_is_one_line(file: Path, name: str, message: str) -> None:
    given = name.format(file=file)
    with pytest.raises(UserError, match=message) as error:
        load_plugin("network", given)
    assert str(error.value).startswith(f"network={given}: ")
    assert "\n" not in str(error.value)


def test_an_error_of_the_code_is_one_line(file: Path) -> None:
    file.write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"cannot be imported \(ZeroDivisionError: division by zero\)$"):
        load_plugin("loss", f"{file}:Loss")


def settings(name: str) -> NetworkSettings:
    return NetworkSettings(family="custom", network=name, image_size=16)


def test_a_network_of_ones_own_takes_pixels_and_gives_logits(file: Path) -> None:
    name = f"{file}:TinyNet"
    plugins = Plugins.load(Settings.of({"family": "custom", "network": name, "image_size": 16}))
    network = build_network(settings(name), 5, plugins.network).eval()
    grey = torch.randint(256, (2, 1, 20, 20), dtype=torch.uint8)
    assert network(grey).shape == (2, 5)
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))
    assert plugins.loss is plugins.augmentation is None


def test_only_a_network_of_colours_has_a_normalisation_of_colours(file: Path) -> None:
    file.write_text(file.read_text().replace("channels = 3", "channels = 1").replace("Linear(12", "Linear(4"))
    name = f"{file}:TinyNet"
    grey = NetworkSettings.of({"family": "custom", "network": name, "image_size": 16, "normalize": "imagenet"})
    with pytest.raises(UserError, match=r"^normalize=imagenet: "):
        build_network(grey, 5, load_plugin("network", name))


def test_a_network_of_ones_own_cannot_be_frozen_as_a_whole(file: Path) -> None:
    name = f"{file}:TinyNet"
    frozen = NetworkSettings.of({"family": "custom", "network": name, "image_size": 16, "unfreeze": 0})
    with pytest.raises(UserError, match=r"^unfreeze=0: leaves nothing to train"):
        build_network(frozen, 5, load_plugin("network", name))


def test_a_network_is_never_imported_from_settings_alone(file: Path) -> None:
    with pytest.raises(UserError, match=f"^network={file}:TinyNet: a class of a user"):
        build_network(settings(f"{file}:TinyNet"), 5)
    assert not (file.parent / "canary").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", r"maps images \[2, 3, 16, 16\] to \[2, 2\], not to logits \[2, 5\]"),
        ("NeedsMore", "cannot be made .TypeError: .*depth"),
        ("Colour", r"cannot be used with images \[2, 1, 16, 16\], which its attribute channels and image_size= change"),
        ("broken", "cannot be made .RuntimeError: no such thing"),
    ],
)
def test_a_network_that_does_not_work_is_one_line(file: Path, name: str, message: str) -> None:
    given = f"{file}:{name}"
    with pytest.raises(UserError, match=message) as error:
        build_network(settings(given), 5, load_plugin("network", given))
    assert str(error.value).startswith(f"network={given}: ")
    assert "\n" not in str(error.value)


def test_a_loss_of_ones_own_has_class_weights(file: Path) -> None:
    name = f"{file}:Distance"
    own, weights = load_plugin("loss", name), torch.tensor([1.0, 2.0, 4.0])
    logits, labels = torch.zeros(2, 3), torch.tensor([1, 2])
    assert EmotionLoss(LossSettings(loss=name), None, None, own)(logits, labels) == 1
    assert EmotionLoss(LossSettings(loss=name), weights, None, own)(logits, labels) == 3  # (2 * 1 + 4 * 1) / 2


def test_class_weights_need_a_loss_of_each_image() -> None:
    class Mean(nn.Module):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(logits, labels)

    logits, labels, settings = torch.zeros(2, 3), torch.tensor([1, 2]), LossSettings(loss="x:Mean")
    assert float(EmotionLoss(settings, None, None, Mean)(logits, labels)) == pytest.approx(1.0986, abs=1e-4)
    with pytest.raises(UserError, match=r"^loss=x:Mean: returns a mean, on which class weights cannot act"):
        EmotionLoss(settings, torch.ones(3), None, Mean)(logits, labels)


def test_a_loss_that_does_not_work_is_one_line(file: Path) -> None:
    wrong = EmotionLoss(LossSettings(loss="x:Wrong"), None, None, load_plugin("loss", f"{file}:Wrong"))
    with pytest.raises(UserError, match=r"^loss=x:Wrong: returns \[2, 3\]; losses \[B\] or their mean are needed$"):
        wrong(torch.zeros(2, 3), torch.tensor([1, 2]))
    raises = EmotionLoss(LossSettings(loss="x:Raises"), None, None, load_plugin("loss", f"{file}:Raises"))
    with pytest.raises(UserError, match=r"^loss=x:Raises: fails on logits \[2, 3\] \(KeyError: 'none'\)$"):
        raises(torch.zeros(2, 3), torch.tensor([1, 2]))
    with pytest.raises(UserError, match=r"^label_smoothing: a change of the cross-entropy, which loss=x:L replaces"):
        EmotionLoss(LossSettings(loss="x:L", label_smoothing=0.1), None, None, nn.Identity)


def test_an_augmentation_that_does_not_work_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Forgetful:\n    def __call__(self, images):\n        return images\n")
    words = (*SMALL, f"augmentation={tmp_path}/mine.py:Forgetful")
    prepared = prepare(read(compose(*words)), RunFolder(tmp_path / "run"))
    with pytest.raises(UserError, match=r"^augmentation: fails on images \[\d+, 1, 48, 48\] \(TypeError: .*2 pos"):
        next(iter(prepared.data.train_dataloader()))


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_want_of_memory_is_no_error_of_the_code(error: type[Exception]) -> None:
    with pytest.raises(error), own_code("network=x", "fails"):
        raise error


def test_an_augmentation_that_draws_when_it_is_made_is_that_of_the_seed(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import torch\n\n\nclass Noisy:\n    def __init__(self):\n        self.shift = torch.rand(1).item() / 10\n\n"
        "    def __call__(self, images, generator):\n        return (images + self.shift).clamp(0, 1)\n"
    )
    words = (*SMALL, f"augmentation={tmp_path}/noisy.py:Noisy", "seed=5")
    shifts = []
    for number in range(2):
        torch.manual_seed(number)
        prepared = prepare(read(compose(*words)), RunFolder(tmp_path / "run"))
        shifts.append(prepared.data.own_augmentation.shift)  # type: ignore[union-attr]
    assert shifts[0] == shifts[1]
