import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from traps import Trap

from emotion.errors import UserError
from emotion.models.transfer import build_transfer
from emotion.models.weights import file_stem, load_backbone, read_state, resolve_weights
from emotion.settings import NetworkSettings

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def small_backbone():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1, bias=False))


def random_state(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in small_backbone().state_dict().items():
        floating = value.is_floating_point()
        drawn = torch.rand(value.shape, generator=generator)
        state[name] = drawn.to(dtype) if floating else torch.full_like(value, 9)
    return state


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def load(weights, backbone=None):
    backbone = backbone or small_backbone()
    load_backbone(backbone, str(weights), "timm", "small", 48)
    return backbone


def refused(weights, *parts):
    """Checks that the weights are refused in one line with their path, and that the backbone is unchanged."""
    backbone = small_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as error:
        load(weights, backbone)
    message = str(error.value)
    assert message.startswith(f"weights={weights}")
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
def test_file_is_loaded_in_full_precision(tmp_path, name, dtype):
    state = random_state(dtype)
    backbone = load(write(tmp_path / name, state))
    for key, value in backbone.state_dict().items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_legacy_torch_file_is_loaded(tmp_path):
    state = random_state()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path / "old.pth")[0].weight, state["0.weight"])


def test_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    state = random_state()
    write(tmp_path / "weights.safetensors", state)
    assert torch.equal(load("~/weights.safetensors")[0].weight, state["0.weight"])


def test_none_does_not_change_the_backbone():
    backbone = small_backbone()
    before = backbone[0].weight.clone()
    assert torch.equal(load("none", backbone)[0].weight, before)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_classifier_of_the_file_is_ignored(tmp_path, name):
    state = random_state()
    classifiers = ("classifier.6.weight", "fc.weight", "fc.bias", "head.weight", "head_dist.bias", "last_linear.weight")
    extra = {key: torch.rand(3) for key in classifiers}
    backbone = load(write(tmp_path / name, state | extra))
    assert torch.equal(backbone[2].weight, state["2.weight"])


def test_whole_torchvision_network_fits_the_backbone(tmp_path):
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    assert "fc.weight" in state
    backbone = build_transfer(
        NetworkSettings(family="torchvision", backbone="resnet18", normalize="imagenet"), 7
    ).backbone
    load_backbone(backbone, write(tmp_path / "whole.pth", state), "torchvision", "resnet18", 48)
    loaded = backbone.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_counts_of_batches_may_be_missing(tmp_path):
    state = random_state()
    del state["1.num_batches_tracked"]
    assert torch.equal(load(write(tmp_path / "old.pth", state))[1].running_var, state["1.running_var"])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda state: state.pop("1.running_var"), ["lacks 1.running_var"]),
        (lambda state: state.update({"3.weight": torch.zeros(2)}), ["unknown 3.weight"]),
        (
            lambda state: state.update({"2.weight": torch.zeros(5, 4)}),
            ["2.weight (5, 4) instead of (5, 4, 1, 1)"],
        ),
        (lambda state: [state.pop(key) for key in list(state)], ["lacks 0.weight, 0.bias, 1.weight and 4 more"]),
        (
            lambda state: [state.update({f"module.{key}": state.pop(key)}) for key in list(state)],
            ["lacks 0.weight, 0.bias, 1.weight and 4 more"],
        ),
        (lambda state: state["0.bias"].fill_(float("inf")), ["numbers that are not finite in 0.bias"]),
    ],
    ids=["missing", "unknown", "shape", "empty", "prefixed", "infinite"],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_that_do_not_fit_name_their_keys(tmp_path, name, change, parts):
    state = random_state()
    change(state)
    refused(write(tmp_path / name, state), "does not fit the backbone", *parts)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_truncated_file_is_refused(tmp_path, name, share):
    path = Path(write(tmp_path / name, random_state()))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "not a file of tensors")


@pytest.mark.parametrize("content", [b"hello\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\x03\x04" + bytes(50)])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_other_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, "not a file of tensors")


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02(((((.", b"G" * 40, b"\x80\x02]q\x00(K\x01e.\x80\x02tR."],
    ids=["IndexError", "struct.error", "other"],
)
def test_damaged_pickle_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    refused(path, "not a file of tensors")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {0: torch.zeros(3)},
        {"epoch": 1},
        {"state_dict": {"0.weight": torch.zeros(3)}},
        None,
    ],
    ids=["tensor", "list", "not named", "numbers", "nested", "nothing"],
)
def test_file_without_a_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "not a state dict")


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_hostile_pickle_is_refused_and_does_not_run(tmp_path, how, name):
    path, canary = tmp_path / name, tmp_path / "canary"
    value = {**random_state(), "trap": Trap(canary)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "torch")
    refused(path, "not a file of tensors")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists(), "the trap does not work, so the test above proves nothing"


def test_folder_resolves_to_its_file_of_the_backbone(tmp_path, monkeypatch):
    (tmp_path / "small_features.safetensors").touch()
    (tmp_path / "other.safetensors").touch()
    assert resolve_weights(str(tmp_path), "small") == str(tmp_path / "small_features.safetensors")
    (tmp_path / "imagenet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("imagenet", "small") == "imagenet", "the setting, not the folder of that name"
    for weights in ("none", "imagenet", "file.safetensors"):
        assert resolve_weights(weights, "small") == weights


def test_folder_separates_face_networks_from_imagenet_networks(tmp_path):
    for name in ("resnet50_imagenet", "face_resnet50_vggface2"):
        (tmp_path / f"{name}.safetensors").touch()
    found = {kind: resolve_weights(str(tmp_path), file_stem(kind, "resnet50")) for kind in ("torchvision", "face")}
    assert found["torchvision"] == str(tmp_path / "resnet50_imagenet.safetensors")
    assert found["face"] == str(tmp_path / "face_resnet50_vggface2.safetensors")


@pytest.mark.parametrize("files", [[], ["small_a", "small_b"]])
def test_folder_without_one_file_of_the_backbone_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(UserError, match=r"small\*.safetensors") as caught:
        resolve_weights(str(tmp_path), "small")
    assert all(name in str(caught.value) for name in files or ["none"])


@pytest.mark.parametrize("weights", ["missing.pth", "missing.safetensors", "imagenette"])
def test_missing_file_is_refused(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    refused(weights, "no such file", "imagenet", "none", ".safetensors")


def test_whole_modules_are_refused(tmp_path):
    torch.save(small_backbone(), tmp_path / "module.pth")
    refused(tmp_path / "module.pth", "not a file of tensors")


def test_read_state_returns_the_tensors_of_the_file(tmp_path):
    state = random_state(torch.float16)
    read = read_state(Path(write(tmp_path / "weights.safetensors", state)))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


class TestImagenet:
    def test_torchvision_download_is_loaded(self, monkeypatch):
        from torchvision.models import _api, resnet18

        state, addresses = resnet18().state_dict(), []
        monkeypatch.setattr(_api, "load_state_dict_from_url", lambda url, **_: addresses.append(url) or state)
        backbone = build_transfer(
            NetworkSettings(family="torchvision", backbone="resnet18", normalize="imagenet"), 7
        ).backbone
        load_backbone(backbone, "imagenet", "torchvision", "resnet18", 48)
        assert len(addresses) == 1
        assert re.search(r"/resnet18-\w+\.pth$", addresses[0])
        assert torch.equal(backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])

    @pytest.mark.parametrize(
        ("backbone", "file"), [("vgg16", "vgg16-397923af.pth"), ("resnet50", "resnet50-0676ba61.pth")]
    )
    def test_of_several_weights_the_first_are_taken(self, monkeypatch, backbone, file):
        from torchvision.models import _api

        state, addresses = random_state(), []
        monkeypatch.setattr(_api, "load_state_dict_from_url", lambda url, **_: addresses.append(url) or state)
        load_backbone(small_backbone(), "imagenet", "torchvision", backbone, 48)
        assert [address.rpartition("/")[2] for address in addresses] == [file]

    def test_code_in_a_cached_file_does_not_run(self, tmp_path, monkeypatch):
        from torchvision.models import get_model_weights

        canary = tmp_path / "canary"
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        path = tmp_path / "hub" / "checkpoints" / Path(next(iter(get_model_weights("resnet18"))).url).name
        path.parent.mkdir(parents=True)
        torch.save({"trap": Trap(canary)}, path)
        with pytest.raises(UserError, match=r"holds more than tensors.*weights=<file>"):
            load_backbone(small_backbone(), "imagenet", "torchvision", "resnet18", 48)
        assert not canary.exists()

    @pytest.fixture
    def hub(self, monkeypatch):
        """Replaces timm's download: `create_model(pretrained=True)` returns weights that are all 0.125."""
        import timm

        create_model = timm.create_model

        def create(name, pretrained=False, **options):
            model = create_model(name, **options)
            if pretrained:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(0.125)
            return model

        monkeypatch.setattr(timm, "create_model", create)

    @pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
    def test_timm_download_is_loaded_at_any_image_size(self, hub, backbone):
        body = build_transfer(NetworkSettings(family="timm", backbone=backbone, normalize="imagenet"), 7).backbone
        load_backbone(body, "imagenet", "timm", backbone, 48)
        assert all((parameter == 0.125).all() for parameter in body.parameters())

    @pytest.mark.parametrize("error", [OSError("<urlopen error [Errno -2] Name or service not known>"), ValueError()])
    @pytest.mark.parametrize(("library", "backbone"), [("torchvision", "vgg16"), ("timm", "resnet18")])
    def test_failed_download_names_the_alternatives(self, monkeypatch, library, backbone, error):
        import timm
        from torchvision.models import _api

        def offline(*_, **__):
            raise error

        monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(UserError) as caught:
            load_backbone(small_backbone(), "imagenet", library, backbone, 48)
        message = str(caught.value)
        assert message.startswith("weights=imagenet: ")
        assert "\n" not in message
        for part in (backbone, "weights=<file>", "weights=none", str(error) or "ValueError"):
            assert part in message
