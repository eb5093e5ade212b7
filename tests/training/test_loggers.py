import os
from pathlib import Path

import pytest
from small_runs import TINY, resume, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from emotion.errors import UserError
from emotion.training.folder import RunFolder, read_json
from emotion.training.loggers import MLflow, build_trackers, log_results
from emotion.training.run import train as train_only

CURVES = {"train/loss", "train/acc", "val/loss", "val/acc", "val/f1_macro"}
RECALLS = {f"val_recall/{name}" for name in ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")}
FINAL = [f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "acc", "f1_macro")]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def hparams(folder: Path):
    content = events(folder).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A finished run that tests leave as it is."""
    return train(tmp_path_factory.mktemp("runs") / "finished", *TINY)


@pytest.mark.training
def test_tensorboard_gets_curves_but_neither_epochs_nor_results_as_curves(finished):
    assert set(events(finished.path).Tags()["scalars"]) == CURVES | RECALLS | {"lr-Adam"}


@pytest.mark.training
def test_training_and_validation_share_a_chart(finished):
    content = events(finished.path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = Layout.FromString(content).category[0].chart
    assert {chart.title: list(chart.multiline.tag) for chart in charts} == {
        "loss": ["^(train|val)/loss$"],
        "accuracy": ["^(train|val)/acc$"],
        "recall of each class, validation": ["^val_recall/"],
    }


@pytest.mark.training
def test_hparams_hold_settings_and_results(finished):
    session = hparams(finished.path)
    assert session.group_name == "default/finished"
    values = session.hparams
    assert values["lr"].number_value == 0.001
    assert values["augment"].bool_value is True
    assert values["backbone"].string_value == "null"
    assert values["trainer.max_epochs"].number_value == 1
    assert "overwrite" not in values
    metrics = read_json(finished.metrics)
    assert {name: values[f"→ {name}"].number_value for name in FINAL} == {
        name: metrics[name.split("/")[0]][name.split("/")[1]] for name in FINAL
    }


@pytest.mark.training
def test_a_resumed_run_shows_its_last_settings_and_results(tmp_path):
    folder = train(tmp_path, *TINY)
    resume(tmp_path, "lr=0.1", "trainer.max_epochs=2")
    values = hparams(tmp_path).hparams
    assert values["lr"].number_value == 0.1
    assert values["→ val/loss"].number_value == read_json(folder.metrics)["val"]["loss"]
    assert [event.step for event in events(tmp_path).Scalars("val/loss")] == [4, 9]


@pytest.mark.training
def test_an_older_run_keeps_its_folder_of_tensorboard(tmp_path):
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        writer.add_scalar("val/loss", 2.0, 0)
    train(tmp_path, *TINY)
    assert not list(tmp_path.glob("events.*"))
    assert events(tmp_path / "tensorboard").Scalars("val/loss")[0].value == 2.0
    assert len(events(tmp_path / "tensorboard").Scalars("val/loss")) == 2
