import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import data_module
from numpy.typing import NDArray

import emotion
from emotion.errors import UserError
from emotion.inference.networks import load_networks
from emotion.models.classifier import load_pretrained, save_pretrained
from emotion.shipped import SHIPPED, find_network, find_weights
from emotion.training.task import EmotionTask


@pytest.fixture
def faces() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


@pytest.fixture
def task() -> EmotionTask:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"model": "test", "family": "cnn", "backbone": None, "blocks": [1], "unfreeze": None}
    settings |= {"image_size": 8, "normalize": "unit", "weights": "none", "class_weights": None, "ema_decay": 0.9}
    settings |= {"lr": 1e-3, "schedule": "none", "lr_factor": 0.5, "lr_patience": 3}
    task = EmotionTask.of(settings).eval()
    for parameter in task.network.parameters():  # so that the weights differ from their moving average
        torch.nn.init.normal_(parameter)
    return task


def save_checkpoint(path: Path, task: EmotionTask, **data: Any) -> Path:
    content = {
        "hyper_parameters": dict(task.hparams),
        "datamodule_hyper_parameters": dict(data_module(**data).hparams),
        "state_dict": task.state_dict(),
        "epoch": 4,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_a_checkpoint_runs_with_averaged_weights(
    task: EmotionTask, faces: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path / "best.ckpt", task, data="synthetic")
    (network,) = load_networks([path])
    assert network.side == 48
    pixels = torch.from_numpy(faces)[:, None]
    with torch.inference_mode():
        average, last = (module(pixels).softmax(1).numpy() for module in (task.inference_network, task.network))
    assert np.abs(network(faces) - average).max() < 1e-6
    assert np.abs(average - last).max() > 0.01
    monkeypatch.chdir(path.parent)
    (face,) = emotion.load("best.ckpt").predict(faces[0], detect=False)
    assert list(face.probabilities.values()) == pytest.approx(average[0], abs=1e-6)


def test_test_time_augmentation_of_a_checkpoint(task: EmotionTask, faces: NDArray[np.uint8], tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.ckpt", task, data="synthetic")
    (one,), (both,) = load_networks([path]), load_networks([path], "flip")
    assert np.abs(both(faces) - (one(faces) + one(faces[:, :, ::-1].copy())) / 2).max() < 1e-6
    with pytest.raises(UserError, match="tta=mirror: not one of none, flip, shifts, ten_crop"):
        load_networks([path], "mirror")


@pytest.mark.parametrize(("data", "side"), [("folder", 20), ("fer2013", 48), ("synthetic", 48)])
def test_faces_have_the_side_of_the_images_it_was_trained_on(
    task: EmotionTask, tmp_path: Path, data: str, side: int
) -> None:
    path = save_checkpoint(tmp_path / "best.ckpt", task, data=data, pack_size=20, data_dir=str(tmp_path))
    (network,) = load_networks([path])
    assert network.side == side
    assert network(np.zeros((2, side, side), np.uint8)).shape == (2, 7)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".onnx"])
def test_code_in_files_does_not_run(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, tmp_path / f"zip{suffix}")
    (tmp_path / f"pickle{suffix}").write_bytes(pickle.dumps(Hostile(), protocol=2))
    for name in ("zip", "pickle"):
        with pytest.raises(UserError) as error:
            emotion.load(f"{name}{suffix}")
        assert f"{name}{suffix}" in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UserError, match="at least one network"):
        emotion.load([])


@pytest.mark.parametrize("name", ["~nobody-of-this-name/own.onnx", "x" * 300, "x\0y", ""])
def test_invalid_names_get_one_line(name: str) -> None:
    with pytest.raises(UserError) as error:
        find_network(name)
    assert str(error.value) == f"{name}: no such file; the networks with a name are small"


def test_folders_without_a_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path}: a folder without checkpoints/best.ckpt$"):
        find_network(tmp_path)


def test_names_and_paths_of_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.onnx"
    shutil.copy(SHIPPED / "small.onnx", own)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_network("small") == SHIPPED / "small.onnx"
    assert find_network("small", ".safetensors") == find_weights("small") == SHIPPED / "small.safetensors"
    assert find_network(own) == find_network(str(own)) == find_network("~/own.onnx") == own
    for find in (find_network, find_weights):
        with pytest.raises(UserError, match=r"none: no such file; the networks with a name are small"):
            find("none")
    with pytest.raises(UserError, match="PyTorch cannot run it"):
        find_weights(own)
    shutil.copy(SHIPPED / "small.safetensors", tmp_path / "own.safetensors")
    assert find_weights(own) == tmp_path / "own.safetensors"


@pytest.mark.parametrize("views", [None, "none", "flip", "shifts", "ten_crop"])
def test_other_augmentations_than_the_files_use_the_weights(views, faces: NDArray[np.uint8]) -> None:
    (network,) = load_networks(["small"], views)
    assert type(network).__name__ == ("OnnxNetwork" if views in (None, "flip") else "TorchNetwork")
    classifier = load_pretrained()
    classifier.averaged.views = views or "flip"
    assert np.abs(network(faces) - classifier(torch.from_numpy(faces)[:, None]).numpy()).max() < 1e-5


def test_other_augmentations_use_the_weights_beside_an_onnx_file(faces: NDArray[np.uint8], tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "small.onnx", tmp_path / "own.onnx")
    classifier = load_pretrained()
    with torch.no_grad():  # so that the two files give different probabilities
        for parameter in classifier.network.head.parameters():
            parameter.neg_()
    save_pretrained(tmp_path / "own.safetensors", classifier.network, classifier.card)
    (same,), (other,) = load_networks([tmp_path / "own.onnx"], "flip"), load_networks([tmp_path / "own.onnx"], "none")
    assert np.abs(same(faces) - load_networks(["small"])[0](faces)).max() < 1e-6
    classifier.averaged.views = "none"
    assert np.abs(other(faces) - classifier(torch.from_numpy(faces)[:, None]).numpy()).max() < 1e-4
    assert other.side == 48


def test_augmentations_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    shutil.copy(SHIPPED / "small.onnx", own)
    with pytest.raises(UserError, match=r"tta=none: own.onnx was exported with flip"):
        load_networks([own], "none")
    with pytest.raises(UserError, match="tta=mirror: not one of none, flip, shifts, ten_crop"):
        load_networks(["small"], "mirror")


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_missing_device_is_refused(suffix: str) -> None:
    for device in ("cuda:99", "tpu"):
        with pytest.raises(UserError, match=f"device={device}"):
            load_networks([SHIPPED / f"small{suffix}"], device=device)


def test_a_gpu_that_only_pytorch_can_use_runs_the_file_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    network = load_networks(["small"])[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("emotion.inference.pytorch.TorchNetwork", lambda *values: (loaded.append(values), network)[1])
    load_networks(["small"], device="cuda:1")
    assert loaded == [(SHIPPED / "small.safetensors", None, "cuda:1")]
    load_networks(["small"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"device=cuda: this onnxruntime runs small\.onnx on CPUs only"):
        load_networks(["small"], device="cuda")
    assert len(loaded) == 1


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".ckpt", ".pt", ""])
def test_other_files_are_refused_with_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{suffix}"
    path.write_bytes(b"no network")
    with pytest.raises(UserError) as error:
        load_networks([path])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_heatmaps_of_onnx_and_pytorch_agree(faces: NDArray[np.uint8]) -> None:
    classes = np.array([0, 3, 5])
    onnx, pytorch = load_networks(["small", SHIPPED / "small.safetensors"])
    assert np.abs(onnx.heatmaps(faces, classes) - pytorch.heatmaps(faces, classes)).max() < 1e-3


def test_prediction_imports_no_slow_package() -> None:
    program = (
        "import sys, numpy, emotion\n"
        "assert not {'cv2', 'torch'} & set(sys.modules)\n"
        "recognizer = emotion.load()\n"
        "recognizer.predict(numpy.zeros((60, 60), numpy.uint8))\n"
        "assert len(recognizer.predict(numpy.zeros((60, 60), numpy.uint8), detect=False)) == 1\n"
        "slow = {'torch', 'torchvision', 'lightning', 'matplotlib', 'sklearn', 'scipy', 'hydra', 'onnx'}\n"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_functions() -> None:
    assert callable(emotion.load)
    assert callable(emotion.load_pretrained)
    with pytest.raises(AttributeError, match="nothing"):
        _ = emotion.nothing


def test_an_unknown_augmentation_is_named_before_pytorch_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"^tta=shfts: not one of none, flip, shifts, ten_crop$"):
        load_networks(["small"], "shfts")
    with pytest.raises(UserError, match=r"^small.safetensors with tta=shifts needs the package torch: "):
        load_networks(["small"], "shifts")
