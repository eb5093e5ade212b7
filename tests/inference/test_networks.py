import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import emotion
from emotion.errors import UserError
from emotion.inference.networks import load_networks
from emotion.models.pretrained import load_pretrained
from emotion.pretrained import SHIPPED, find_network, find_weights


@pytest.fixture
def faces() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.onnx"
    shutil.copy(SHIPPED / "small.onnx", own)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_network("small") == SHIPPED / "small.onnx"
    assert find_network("small", ".safetensors") == find_weights("small") == SHIPPED / "small.safetensors"
    assert find_network(own) == find_network(str(own)) == find_network("~/own.onnx") == own
    for find in (find_network, find_weights):
        with pytest.raises(UserError, match=r"none: no such network \(small\) and no such file"):
            find("none")
    with pytest.raises(UserError, match="PyTorch is needed"):
        find_weights(own)
    shutil.copy(SHIPPED / "small.safetensors", tmp_path / "own.safetensors")
    assert find_weights(own) == tmp_path / "own.safetensors"


@pytest.mark.parametrize("views", [None, "none", "flip", "shifts", "ten_crop"])
def test_other_views_than_the_files_are_computed_from_the_weights(views, faces: NDArray[np.uint8]) -> None:
    (network,) = load_networks(["small"], views)
    assert network.views == (views or "flip")
    assert type(network).__name__ == ("OnnxNetwork" if views in (None, "flip") else "TorchNetwork")
    classifier = load_pretrained()
    classifier.viewed.views = views or "flip"
    assert np.abs(network(faces) - classifier(torch.from_numpy(faces)[:, None]).numpy()).max() < 1e-5


def test_views_that_cannot_be_had(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    shutil.copy(SHIPPED / "small.onnx", own)
    with pytest.raises(UserError, match=r"tta=none: own.onnx was exported with flip"):
        load_networks([own], "none")
    with pytest.raises(UserError, match="tta=mirror: not one of none, flip, shifts, ten_crop"):
        load_networks(["small"], "mirror")


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_device_that_is_not_there(suffix: str) -> None:
    for device in ("cuda:99", "tpu"):
        with pytest.raises(UserError, match=f"device={device}"):
            load_networks([SHIPPED / f"small{suffix}"], device=device)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".ckpt", ".pt", ""])
def test_other_files_get_a_sentence(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{suffix}"
    path.write_bytes(b"no network")
    with pytest.raises(UserError) as error:
        load_networks([path])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_both_kinds_show_where(faces: NDArray[np.uint8]) -> None:
    classes = np.array([0, 3, 5])
    fast, slow = load_networks(["small", SHIPPED / "small.safetensors"])
    assert np.abs(fast.heatmaps(faces, classes) - slow.heatmaps(faces, classes)).max() < 1e-3


def test_the_usual_way_imports_nothing_slow() -> None:
    program = (
        "import sys, numpy, emotion\n"
        "assert 'numpy' in sys.modules and 'cv2' not in sys.modules\n"
        "emotion.load().predict(numpy.zeros((60, 60), numpy.uint8))\n"
        "slow = {'torch', 'torchvision', 'lightning', 'matplotlib', 'sklearn', 'scipy', 'hydra', 'onnx'}\n"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_offers_its_functions() -> None:
    assert callable(emotion.load)
    assert callable(emotion.load_pretrained)
    with pytest.raises(AttributeError, match="nothing"):
        _ = emotion.nothing
