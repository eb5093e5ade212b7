import os
import time
from pathlib import Path

import pytest
from small_runs import SMALL, TINY, call, finish, resume, start, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from emotion.config import compose, read
from emotion.errors import UserError
from emotion.training.folder import RunFolder, read_json
from emotion.training.loggers import MLflow, build_trackers

CURVES = {"train/loss", "train/acc", "val/loss", "val/acc", "val/f1_macro"}
RECALLS = {f"val_recall/{name}" for name in ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")}
FINAL = [f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "acc", "f1_macro")]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow as a user finds it who has set nothing."""
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # the fixture then also takes back what a run sets
        monkeypatch.delenv(name)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights & Biases without a network, and with its settings and caches in a folder of this test."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


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
    # TensorBoard reads files of one second in the order of their names, in which 10 comes before 9.
    assert {event.step for event in events(tmp_path).Scalars("val/loss")} == {4, 9}


@pytest.mark.training
def test_an_older_run_keeps_its_folder_of_tensorboard(tmp_path):
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        writer.add_scalar("val/loss", 2.0, 0)
    train(tmp_path, *TINY)
    assert not list(tmp_path.glob("events.*"))
    assert events(tmp_path / "tensorboard").Scalars("val/loss")[0].value == 2.0
    assert len(events(tmp_path / "tensorboard").Scalars("val/loss")) == 2


def mlflow_run(folder: RunFolder, uri: str | None = None):
    from mlflow import MlflowClient

    client = MlflowClient(uri or folder.mlflow.as_uri())
    run = client.get_run(read_json(folder.loggers)["mlflow"])
    assert client.get_experiment(run.info.experiment_id).name == "emotion"
    return client, run


@pytest.mark.training
def test_mlflow_gets_settings_curves_and_results(tmp_path, mlflow):
    folder = train(tmp_path / "run", *TINY, "logger=mlflow")
    client, run = mlflow_run(folder)
    assert (run.info.run_name, run.info.status) == ("default/run", "FINISHED")
    assert run.data.params.items() >= {"lr": "0.001", "backbone": "None", "trainer.max_epochs": "1"}.items()
    assert "logger" not in run.data.params
    metrics = read_json(folder.metrics)
    for name in FINAL:
        stage, _, key = name.partition("/")
        assert run.data.metrics[f"final/{name}"] == metrics[stage][key]
    assert run.data.metrics.keys() >= CURVES | RECALLS
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [4]
    assert client.list_artifacts(run.info.run_id) == []  # no image and no weight
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.training
def test_a_resumed_run_goes_on_in_mlflow(tmp_path, mlflow):
    folder = train(tmp_path / "run", *TINY, "logger=mlflow")
    resume(tmp_path / "run", "lr=0.1", "trainer.max_epochs=2", "logger=mlflow")
    client, run = mlflow_run(folder)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [4, 9]
    assert (run.data.params["lr"], run.data.tags["lr"]) == ("0.001", "0.1")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/test/loss"] == read_json(folder.metrics)["test"]["loss"]


@pytest.mark.training
def test_each_run_of_a_process_has_its_own_mlflow(tmp_path, mlflow):
    ids = [mlflow_run(train(tmp_path / name, *TINY, "logger=mlflow"))[1].info.run_id for name in ("one", "two")]
    assert len(set(ids)) == 2


@pytest.mark.training
def test_mlflow_goes_where_the_environment_says(tmp_path, mlflow, monkeypatch):
    train(tmp_path / "run", *TINY, "logger=mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "server").as_uri())
    folder = resume(tmp_path / "run", "trainer.max_epochs=2", "logger=mlflow")
    client, run = mlflow_run(folder, (tmp_path / "server").as_uri())
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [9]
    assert run.data.params["trainer.max_epochs"] == "2"


@pytest.mark.training
@pytest.mark.process
def test_a_run_that_replaces_another_is_a_new_one_in_mlflow(tmp_path, mlflow):
    folder = train(tmp_path / "run", *TINY, "logger=mlflow")
    first = read_json(folder.loggers)
    # MLflow remembers for a whole process which folders it has made.
    assert finish(start(folder.path, *TINY, "logger=mlflow", "overwrite=true")) == 0
    client, run = mlflow_run(folder)
    assert read_json(folder.loggers) != first
    assert len(client.search_runs([run.info.experiment_id])) == 1


@pytest.mark.training
def test_a_wrong_address_of_mlflow_gets_one_line(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://host")
    with pytest.raises(UserError, match=r"^logger=mlflow: .*nowhere") as error:
        train(tmp_path / "run", *TINY, "logger=mlflow")
    assert "\n" not in str(error.value)


def test_mlflow_keeps_names_in_all_letters_apart(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLflow("emotion", tracking_uri=tmp_path.as_uri())
    logger.log_metrics({"val_recall/喜": 0.25, "val_recall/怒": 0.75}, 1)
    metrics = logger.experiment.get_run(logger.run_id).data.metrics
    assert metrics == {"val_recall/u559c": 0.25, "val_recall/u6012": 0.75}


def wandb_files(folder: RunFolder) -> list[bytes]:
    """Returns what each start of a run wrote for Weights & Biases: its messages, with values as JSON."""
    run_id = read_json(folder.loggers)["wandb"]
    return [path.read_bytes() for path in sorted(folder.path.glob(f"wandb/offline-run-*-{run_id}/*.wandb"))]


@pytest.mark.training
def test_wandb_gets_settings_curves_and_results(tmp_path, wandb):
    folder = train(tmp_path / "run", *TINY, "logger=wandb")
    stop = time.monotonic() + 30  # a process of the package's own writes the file
    while b"final/" not in (content := wandb_files(folder)[0]) and time.monotonic() < stop:
        time.sleep(0.1)
    assert b"default/run" in content
    metrics = read_json(folder.metrics)
    for name in FINAL:
        stage, _, key = name.partition("/")
        place = content.index(f"final/{name}".encode())
        assert str(metrics[stage][key]).encode() in content[place : place + 50]
    for name in CURVES | RECALLS | {"trainer.max_epochs", "lr", "augment"}:
        assert name.encode() in content
    suffixes = {path.suffix for path in (folder.path / "wandb").rglob("*") if path.is_file()}
    assert not suffixes & {".png", ".jpg", ".ckpt", ".safetensors", ".npz", ".pt"}


@pytest.mark.training
def test_a_resumed_run_goes_on_in_wandb(tmp_path, wandb):
    folder = train(tmp_path / "run", *TINY, "logger=wandb")
    time.sleep(1)  # the second of its start names what each start writes
    resume(tmp_path / "run", "trainer.max_epochs=2", "logger=wandb")
    assert len(wandb_files(folder)) == 2


@pytest.mark.training
def test_a_run_that_replaces_another_is_a_new_one_in_wandb(tmp_path, wandb):
    folder = train(tmp_path / "run", *TINY, "logger=wandb")
    first = read_json(folder.loggers)
    train(tmp_path / "run", *TINY, "logger=wandb", "overwrite=true")
    assert read_json(folder.loggers) != first
    assert len(list(folder.path.glob("wandb/offline-run-*"))) == len(wandb_files(folder)) == 1


@pytest.mark.training
@pytest.mark.process
def test_a_wrong_key_of_wandb_gets_one_line(tmp_path, wandb):
    words = ["emotion", "train", *SMALL, *TINY, "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}"]
    done = call(*words, WANDB_MODE="online", WANDB_API_KEY="short")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: logger=wandb: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch, tmp_path):
    monkeypatch.setattr("emotion.extras.find_spec", lambda module: None)
    settings = read(compose(f"logger={name}"))
    with pytest.raises(UserError, match=rf"^logger={name} needs the package {name}: pip install 'emotion\[{name}\]'$"):
        build_trackers(settings, RunFolder(tmp_path))


def test_without_logger_there_is_no_tracker(tmp_path):
    assert build_trackers(read(compose()), RunFolder(tmp_path)) == []
