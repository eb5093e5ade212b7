import re
from pathlib import Path

import pytest
import torch

from emotion.analysis.calibration import calibration, fit_temperature
from emotion.analysis.predictions import load_predictions
from emotion.config import compose
from emotion.errors import UserError
from emotion.training.publish import describe, publish
from emotion.training.run import run

pytestmark = pytest.mark.training

WORDS = ["recipe=small", "width=8", "data=synthetic", "synthetic_images=210", "split=official", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(compose(*WORDS, "ema_decay=0.5", "trainer.precision=32-true", "tta=flip"), folder, [])
    return folder


def test_the_file_has_temperature_and_metrics_of_the_run(trained: Path, tmp_path: Path) -> None:
    classifier = publish(trained / "checkpoints/best.ckpt", tmp_path / "out.safetensors", "flip")
    stages = load_predictions(trained / "predictions.npz")
    val, test = stages["val_tta"], stages["test_tta"]
    card = classifier.card
    # Half precision of the weights moves probabilities in the third digit.
    assert card.temperature == pytest.approx(fit_temperature(val), rel=0.02)
    assert card.views == "flip"
    assert card.facts["model"] == "resnet_small"
    assert card.facts["split"] == "official"
    metrics = card.facts["figures"]["All"]
    held_out = val.joined(test)
    assert metrics["images"] == len(held_out)
    assert metrics["acc"] == pytest.approx((held_out.predicted == held_out.labels).mean(), abs=0.02)
    scaled = (held_out.probabilities.astype(float)) ** (1 / card.temperature)
    scaled /= scaled.sum(1, keepdims=True)
    about, measured = describe(classifier, tmp_path / "out.safetensors").split("\n")
    assert re.fullmatch(
        r".*/out\.safetensors: 0\.\d MiB; grey faces of 48 pixels; classes angry, disgust, fear, happy, neutral, sad, "
        "surprise",
        about,
    )
    assert measured.startswith(f"temperature {card.temperature:.2f}, test-time augmentation flip; accuracy ")
    assert measured.endswith(f", {metrics['acc']:.4f} on 42 images (All)")
    assert metrics["nll"] == pytest.approx(calibration(scaled.astype("float32"), held_out.labels).nll, rel=0.01)


def test_test_images_are_left_alone_if_asked(trained: Path, tmp_path: Path) -> None:
    val = load_predictions(trained / "predictions.npz")["val_tta"]
    figures = publish(trained, tmp_path / "out.safetensors", test=False).card.facts["figures"]
    assert {name: part["images"] for name, part in figures.items()} == {"PublicTest": len(val), "All": len(val)}


def test_validation_images_of_the_training_part_are_measured_too(tmp_path: Path) -> None:
    run(compose(*WORDS, "split=report", "test=false"), tmp_path, [])
    figures = publish(tmp_path, tmp_path / "out.safetensors", test=False).card.facts["figures"]
    val = load_predictions(tmp_path / "predictions.npz")["val"]
    assert {name: part["images"] for name, part in figures.items()} == {"validation": len(val)}


def test_the_file_is_the_averaged_network(trained: Path, tmp_path: Path) -> None:
    classifier = publish(trained / "checkpoints/best.ckpt", tmp_path / "out.safetensors", "none")
    state = torch.load(trained / "checkpoints/best.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    weights = dict(classifier.averaged.network.named_parameters())
    assert any(not torch.equal(value, state[f"network.{name}"].half().float()) for name, value in weights.items())
    for name, value in weights.items():
        assert torch.equal(value, state[f"average.module.{name}"].half().float())


def test_a_failure_leaves_the_earlier_file(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("earlier")
    with monkeypatch.context() as patch:
        patch.setattr("emotion.training.publish.predict", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(trained / "checkpoints/best.ckpt", out)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]
    for name in ("best.ckpt", "net.pt"):
        with pytest.raises(UserError, match=rf"{name}: a name that ends with .safetensors is needed$"):
            publish(trained / "checkpoints/best.ckpt", tmp_path / name)


def test_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        publish(tmp_path / "none.ckpt", tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []
