import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from emotion.config import conf_dir, register_resolvers
from emotion.errors import UserError
from emotion.training.evaluate import evaluate
from emotion.training.folder import RunFolder
from emotion.training.run import run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs of different seeds on drawn faces."""
    register_resolvers()
    folders = []
    for seed in (0, 1):
        words = ["data=synthetic", "synthetic_images=210", "model=cnn_111", "trainer.accelerator=cpu", f"seed={seed}"]
        words += ["trainer.max_epochs=1", "split=official", "balance=none"]
        path = tmp_path_factory.mktemp(f"seed{seed}")
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            run(compose("config", words), path, words)
        folders.append(RunFolder(path))
    return folders


def test_checkpoint_alone_gives_the_figures_of_the_run(runs, tmp_path):
    results = evaluate([runs[0].best], {}, str(tmp_path), "cpu")
    original = json.loads(runs[0].metrics.read_text())
    assert results["val"] == original["val"]
    assert results["test"] == original["test"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == results


def test_several_checkpoints_are_averaged(runs, tmp_path):
    results = evaluate([folder.best for folder in runs], {}, str(tmp_path), "cpu")
    members = [np.load(folder.predictions)["test_probabilities"].astype(np.float64) for folder in runs]
    labels = np.load(runs[0].predictions)["test_labels"]
    mean = np.mean(members, axis=0)
    assert results["test"]["acc"] == pytest.approx((mean.argmax(1) == labels).mean(), abs=0.03)
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npz")["test_probabilities"], mean, atol=2e-3)


def test_validation_is_left_out_where_the_members_validated_on_different_images(runs, tmp_path):
    results = evaluate([folder.best for folder in runs], {"split": "report"}, str(tmp_path), "cpu")
    assert "val" not in results
    assert results["test"]["num_images"] == 42


def test_other_split(runs, tmp_path):
    results = evaluate([runs[0].best], {"split": "test_only"}, str(tmp_path), "cpu")
    assert list(results) == ["test"]
    assert results["test"]["num_images"] == 210


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "refused"),
        ({"state_dict": {}}, "not a checkpoint of this project"),
        ({"hyper_parameters": {"model": "x"}, "state_dict": {}}, "not a checkpoint of this project"),
    ],
)
def test_what_is_no_checkpoint_gets_one_line(tmp_path, content, message):
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        evaluate([path], {})
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_illegal_settings_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="split=foo"):
        evaluate([tmp_path / "missing.ckpt"], {"split": "foo"})
    with pytest.raises(UserError, match="ckpt is missing"):
        evaluate([], {})
    with pytest.raises(UserError, match="device=quantum"):
        evaluate([tmp_path / "missing.ckpt"], {}, device="quantum")
