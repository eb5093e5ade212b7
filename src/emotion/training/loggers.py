"""Where a run is logged beside its CSV file: TensorBoard, and Weights & Biases or MLflow if `logger` names one."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from emotion.config import distinguishing, flatten
from emotion.errors import UserError, first_line
from emotion.extras import require_extra
from emotion.settings import Settings
from emotion.training.folder import RunFolder, read_json, write_json

PROJECT = "emotion"
"""Project of Weights & Biases and experiment of MLflow; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME name others."""
RESULT = "→ "
"""Begins the names of results among the settings in TensorBoard, which sorts them behind all settings."""
HPARAMS_SUFFIX = ".hparams"
"""Ends the name of TensorBoard's file of settings and results."""
LONGEST_PARAM = 250
"""Number of characters to which Lightning cuts the values of MLflow's parameters."""


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without the number of the epoch as a metric, and without a second file of settings.

    Args:
        folder: of TensorBoard's files.
        trial: name of the run in the tab HParams.
    """

    def __init__(self, folder: Path, trial: str) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self.trial = trial

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes metrics, but for the number of the epoch."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def save(self) -> None:
        """Writes pending metrics; the settings are in `config.yaml`."""
        self.experiment.flush()


class MLflow(MLFlowLogger):
    """Lightning's logger, which would leave nothing of a class's name in other letters than a to z."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics; letters of their names that are not ASCII become their numbers."""
        super().log_metrics({_ascii(name): value for name, value in metrics.items()}, step)


class Tracker(Callback):
    """Logs a run to Weights & Biases or MLflow, where a resumed run goes on as the same run.

    The logger is made when training starts: making it writes files, which an earlier run in the folder might need.
    """

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts or continues the run in the first process, and logs its settings.

        Raises:
            UserError: the package refuses, for example since nobody is logged in or no server answers.
        """
        if not trainer.is_global_zero:
            return
        name = self.settings.run.logger
        assert name is not None
        ids = read_json(self.folder.loggers) if self.folder.loggers.is_file() else {}
        start = {"wandb": _start_wandb, "mlflow": _start_mlflow}[name]
        try:
            logger = start(self.settings, self.folder, ids.get(name))
        except Exception as error:
            # The packages raise errors of many kinds for wrong addresses, keys and settings.
            raise UserError(f"logger={name}: {first_line(error)}") from error
        write_json(self.folder.loggers, ids | {name: logger.version})
        trainer.loggers = [*trainer.loggers, logger]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the run of Weights & Biases as a failed one; Lightning does so for MLflow."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=1)


def build_trackers(settings: Settings, folder: RunFolder) -> list[Callback]:
    """Returns the callback that logs to what `logger` names, if it names something.

    Raises:
        UserError: its package is not installed.
    """
    if settings.run.logger is None:
        return []
    require_extra(settings.run.logger, f"logger={settings.run.logger}")
    return [Tracker(settings, folder)]


def log_results(loggers: Iterable[Logger], settings: Settings, results: Mapping[str, float]) -> None:
    """Logs the results of a finished run beside its settings, and ends its logs.

    Args:
        loggers: the loggers of the Trainer.
        settings: the settings of the run.
        results: values by names, such as test/acc.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            _write_hparams(logger, settings, results)
        elif isinstance(logger, WandbLogger):
            logger.experiment.summary.update(_final(results))
            logger.experiment.finish()
        elif isinstance(logger, MLflow):
            logger.log_metrics(_final(results))
            logger.finalize("success")


def run_name(settings: Settings, folder: RunFolder) -> str:
    """Returns a name that tells runs apart, by default `<name>/<model>-seed<seed>-<hash of the settings>`."""
    return f"{settings.run.name}/{folder.path.resolve().name}"


def _start_wandb(settings: Settings, folder: RunFolder, run_id: str | None) -> WandbLogger:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=run_name(settings, folder),
        dir=folder.path,
        id=run_id,
        resume="allow",
        reinit="create_new",  # a sweep can train several runs in one process
        settings=wandb.Settings(console="off", quiet=True),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    logger = WandbLogger(experiment=run)
    logger.log_hyperparams(_shown(settings))
    return logger


def _start_mlflow(settings: Settings, folder: RunFolder, run_id: str | None) -> MLflow:
    from mlflow.exceptions import MlflowException

    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # a database would need further packages
    logger = MLflow(
        os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT,
        run_name=run_name(settings, folder),
        tracking_uri=given or folder.mlflow.resolve().as_uri(),
        run_id=run_id,
    )
    try:
        client, run_id = logger.experiment, logger.run_id
    except MlflowException as error:
        if run_id is None or error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return _start_mlflow(settings, folder, None)  # the run was begun on another server
    finally:
        # MLflow sets the variable, and the next run of a sweep would log to this run's folder.
        if not given:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
    client.update_run(run_id, "RUNNING")
    _log_params(logger, _shown(settings))
    return logger


def _log_params(logger: MLflow, values: Mapping[str, Any]) -> None:
    """Logs settings; those that a resumed run has changed become tags, since MLflow's parameters never change."""
    logged = logger.experiment.get_run(logger.run_id).data.params
    logger.log_hyperparams({key: value for key, value in values.items() if key not in logged})
    for key in logged.keys() & values.keys():
        if logged[key] != str(values[key])[:LONGEST_PARAM]:
            logger.experiment.set_tag(logger.run_id, key, str(values[key]))


def _final(results: Mapping[str, float]) -> dict[str, float]:
    return {f"final/{name}": value for name, value in results.items()}


def _write_hparams(logger: TensorBoard, settings: Settings, results: Mapping[str, float]) -> None:
    """Writes settings and results for the tab HParams.

    The results are written like settings: as metrics, TensorBoard would show each of them as a curve of one point.
    TensorBoard reads only the first such file of a run, so those of earlier starts are removed.
    """
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from torch.utils.tensorboard.writer import FileWriter

    logger.finalize("success")
    earlier = list(Path(logger.log_dir).glob(f"events.out.tfevents.*{HPARAMS_SUFFIX}"))
    values = _shown(settings) | {f"{RESULT}{name}": value for name, value in results.items()}
    writer = FileWriter(logger.log_dir, filename_suffix=HPARAMS_SUFFIX)
    writer.add_summary(hparams_pb({key: _cell(value) for key, value in values.items()}, logger.trial))
    writer.close()
    for path in earlier:
        path.unlink()


def _shown(settings: Settings) -> dict[str, Any]:
    """Returns the settings that distinguish runs, each with a key of its own."""
    return {key: _utf8(value) for key, value in flatten(distinguishing(settings.flat())).items()}


def _cell(value: Any) -> bool | int | float | str:
    """Returns a value that TensorBoard's table can show; it has no words for lists, null, infinite and no numbers."""
    if value is None:
        return "null"
    return value if isinstance(value, bool | int | str) or _is_finite(value) else str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _utf8(value: Any) -> Any:
    """Escapes characters that UTF-8 cannot encode, as in names of folders: TensorBoard accepts UTF-8 only."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _ascii(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode().replace("\\", "")
