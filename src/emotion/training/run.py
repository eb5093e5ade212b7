"""One run: settings, data, network, training, test of the best checkpoint, results."""

import inspect
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from emotion.analysis.figures import merge_histories, read_history
from emotion.config import check, settings
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.errors import UserError, first_line
from emotion.models.network import feature_count
from emotion.models.weights import file_stem, load_backbone, resolve_weights
from emotion.overrides import require_effect
from emotion.training.checkpoint import load_checkpoint, read_progress
from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.features import FeatureCache
from emotion.training.folder import RunFolder, read_json
from emotion.training.memory import explain_out_of_memory, keep_freed_memory
from emotion.training.recorded import records_steps
from emotion.training.results import predict_stages, write_results
from emotion.training.resume import resumed_config
from emotion.training.task import EmotionTask
from emotion.training.trainer import build_timer, build_trainer

log = logging.getLogger(__name__)
IGNORED_WARNINGS = (
    ".*LeafSpec.*is deprecated",  # Lightning's use of PyTorch
    "The number of training batches .* is smaller than the logging interval",
    "Found .* module.* in eval mode at the start of training",  # the frozen part, on purpose
    ".*could not find the monitored key",  # epochs without validation
    "It is recommended to use .*sync_dist",  # the meters already sum over all processes
    ".*capturable=True.* but step.. is running without CUDA graph capture",  # before the step is recorded
    "To copy construct from a tensor",  # Lightning's monitor of a learning rate on the device
    "Checkpoint directory .* exists and is not empty",  # a resumed run
)
"""Warnings of PyTorch and Lightning about things that a run does on purpose."""
BATCHES_TOGETHER = 50
"""Number of recorded steps between two calls by the Trainer, if no steps are logged."""
AUTO_FEATURES_BYTES = 2**30
"""Largest size of features that `feature_views=auto` writes to the cache, in bytes."""
SIGTERM_STATUS = 128 + signal.SIGTERM
"""Exit status that shells and schedulers expect of a process that was ended by SIGTERM."""


def run(config: DictConfig, path: Path, overrides: list[str]) -> None:
    """Trains, tests the best checkpoint and writes the results; skips a finished run, continues an unfinished one.

    Args:
        config: the composed configuration.
        path: folder of the run.
        overrides: arguments of the command line; with `resume`, they change the settings of the run in the folder.

    Raises:
        UserError: settings or input are wrong, or another process is training in this folder.
        SystemExit: the run was ended by SIGTERM (status 143).
    """
    folder, resumes = RunFolder(path), bool(config.resume)
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes that train this run: the first one prepares the folder, writes results and logs.
        logging.disable(logging.INFO)
        train(_validated(config, folder, overrides), folder)
        return
    with _without_expected_warnings(), folder.locked():
        folder.settle()
        _train_and_test(_validated(config, folder, overrides), folder, resumes)


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


def _train_and_test(config: DictConfig, folder: RunFolder, resumes: bool) -> None:
    """Trains and tests; changes no file of the folder before all settings and inputs have been checked."""
    if not (config.overwrite or resumes):
        folder.require_same_run(config)
    with folder.keeping_failure(), explain_out_of_memory(config):
        if not config.overwrite and folder.state == "finished" and folder.holds(config):
            folder.failure.unlink(missing_ok=True)
            log.info("finished already: %s (overwrite=true trains again)", folder.path)
            return
        prepared = prepare(config, folder)
        if config.overwrite:
            folder.set_aside()
        try:
            test(config, folder, fit(prepared, folder))
        finally:
            folder.settle()
    folder.failure.unlink(missing_ok=True)
    folder.diverged.unlink(missing_ok=True)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train: its settings are checked, its data opened, its weights loaded, its device chosen.

    Attributes:
        epochs: number of epochs that a resumed run has been trained for; 0 for a new run.
    """

    config: DictConfig
    data: EmotionDataModule
    task: EmotionTask
    trainer: Trainer
    timer: Timer
    epochs: int


@dataclass(frozen=True)
class Trained:
    """A trained run: its Trainer, its data, and the seconds of training over all its starts."""

    trainer: Trainer
    data: EmotionDataModule
    seconds: float

    @property
    def images_per_epoch(self) -> int:
        """Number of training images per epoch, including oversampled images and repeated draws."""
        steps = int(self.trainer.num_training_batches) * max(self.data.group_size, 1)
        shown = steps * self.data.batch_size * self.trainer.world_size
        return min(shown, len(self.data.train_set[2]))


def train(config: DictConfig, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Trained:
    """Trains from the start or from `last.ckpt`, and writes checkpoints to the folder.

    Args:
        config: the composed and checked configuration.
        folder: folder of the run.
        callbacks: further callbacks, beside those of every run.
    """
    with _without_expected_warnings():
        return fit(prepare(config, folder, callbacks), folder)


def prepare(config: DictConfig, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Prepared:
    """Opens the data and builds network and Trainer; takes the arguments of `train`, and leaves the folder unchanged.

    Raises:
        UserError: settings, data, weights, a checkpoint or a device cannot be used.
    """
    _resolve_weights(config)
    # The Trainer sets both and does not reset them, and a sweep can train several runs in one process.
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    seed_everything(config.seed, verbose=False)
    data = EmotionDataModule(**_arguments(EmotionDataModule, settings(config)))
    task = build_task(config, data)
    _log_sizes(config, task, data)
    if config.backbone:
        load_backbone(task.network.backbone, config.weights, config.family, config.backbone, config.image_size)
        task.restart_average()
    epochs = 0
    if folder.state != "new" and not config.overwrite:
        epochs, data_state = read_progress(folder.last)
        data.load_state_dict(data_state)
    timer, folder_updates = build_timer(config), _folder_updates(config, folder, epochs)
    trainer = build_trainer(config, folder, [timer, folder_updates, *callbacks])
    _require_whole_epoch(config, data, trainer)
    _configure_speed(config, task, data, trainer)
    return Prepared(config, data, task, trainer, timer, epochs)


def fit(prepared: Prepared, folder: RunFolder) -> Trained:
    """Trains a prepared run, and writes checkpoints to the folder."""
    trainer, timer = prepared.trainer, prepared.timer
    last = folder.last if folder.state != "new" and not prepared.config.overwrite else None
    if last is None:
        _claim(prepared.config, folder, prepared.epochs)
    try:
        trainer.fit(prepared.task, prepared.data, ckpt_path=last, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    except SIGTERMException:
        # Lightning raises this between two batches, after `ThrottledCheckpointIO` has written pending checkpoints.
        log.warning("ended by SIGTERM in epoch %d: the same command continues the run", trainer.current_epoch + 1)
        raise SystemExit(SIGTERM_STATUS) from None
    except UserError:
        raise
    except Exception as error:
        if last is None or timer.start_time() is not None:
            raise
        # An error of any kind before the first step of a resumed run comes from the content of its checkpoint.
        raise UserError(f"{last}: cannot be resumed ({first_line(error)}); overwrite=true starts again") from error
    if timer.start_time() is None:
        log.info("nothing is left to train after epoch %d", prepared.epochs)
        _claim(prepared.config, folder, prepared.epochs)
    return Trained(trainer, prepared.data, timer.time_elapsed("train"))


def _folder_updates(config: DictConfig, folder: RunFolder, epochs: int) -> Callback:
    """Returns a callback that writes a resumed run's settings once its checkpoint is loaded; drops a replaced run."""
    return LambdaCallback(
        on_train_start=lambda *_: _claim(config, folder, epochs) if epochs else None,
        on_train_epoch_start=lambda *_: folder.drop_replaced(),
    )


@rank_zero_only
def _claim(config: DictConfig, folder: RunFolder, epochs: int) -> None:
    folder.claim(config, describe_environment(), epochs)


def _require_whole_epoch(config: DictConfig, data: EmotionDataModule, trainer: Trainer) -> None:
    """Checks that training reaches a validation, since only a validation chooses a best checkpoint."""
    batches = -(-len(data.train_set[2]) // (data.batch_size * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * config.trainer.check_val_every_n_epoch
    if 0 <= trainer.max_steps < steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: at least {steps} are needed until the first validation, which "
            "chooses the best checkpoint"
        )


def _configure_speed(config: DictConfig, task: EmotionTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Turns on the accelerations that settings and device allow: recorded steps, cached features, compilation."""
    device = trainer.strategy.root_device
    if records_steps(config, device, str(trainer.precision)):
        task.record_steps()
        data.group_batches(config.trainer.log_every_n_steps or BATCHES_TOGETHER)
        trainer.log_every_n_steps = min(config.trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()
    views = _auto_feature_views(config, task, data, device) if config.feature_views == "auto" else config.feature_views
    if views:
        data.train_on_features(
            FeatureCache(task.train_on_features(), device, config.seed, str(trainer.precision)), views
        )
    if _should_compile(config, device) if config.compile == "auto" else config.compile:
        task.compile_network()


def _auto_feature_views(config: DictConfig, task: EmotionTask, data: EmotionDataModule, device: torch.device) -> int:
    """Returns 1 if the frozen part gets the same images in every epoch and its features are small enough, else 0."""
    frozen, _ = task.network.split(task.network.frozen_stages)
    if not any(True for _ in frozen.parameters()):
        return 0
    if data.augmentation or data.mix:  # a few cached views would be less augmentation than new ones each epoch
        if device.type == "cpu":
            log.info("feature_views=8 trains faster: the frozen layers run once, on 8 augmented views of an image")
        return 0
    side = task.network.preprocess.image_size
    values = feature_count(frozen, torch.zeros(1, 1, side, side, dtype=torch.uint8), config.model)
    return int(2 * values * len(data.packed) <= AUTO_FEATURES_BYTES)


def _should_compile(config: DictConfig, device: torch.device) -> bool:
    """Compiling takes up to a minute, too long for a run that may stop early; on CPUs, compiled steps were slower."""
    return device.type == "cuda" and config.patience is None


def test(config: DictConfig, folder: RunFolder, trained: Trained) -> None:
    """Tests the best checkpoint on the validation images and, unless `test=false`, the test images; writes the results.

    Raises:
        UserError: no epoch was validated.
    """
    if not folder.best.is_file():
        raise UserError(
            f"{folder.path}: no best checkpoint, since no epoch was validated; change the settings trainer.*"
        )
    best = load_checkpoint(folder.best)
    device = trained.trainer.strategy.root_device
    evaluated: tuple[Stage, ...] = ("val", "test") if config.test else ("val",)
    stages = predict_stages(best.task.inference_network, trained.data, evaluated, device, config.tta)
    environment = read_json(folder.environment)
    # `current_epoch` is one less if a run that had stopped early is resumed for its test.
    progress: Any = trained.trainer.fit_loop.epoch_progress.current
    epochs, images = progress.processed, trained.images_per_epoch
    record = {
        "epochs": epochs,
        "best_epoch": best.epoch,
        "train_images": images,
        "train_seconds": round(trained.seconds, 1),
        "images_per_second": round(epochs * images / trained.seconds, 1),
        "hardware": describe_hardware(environment),
        "command": environment["command"],
        **({"changes": environment["changes"]} if "changes" in environment else {}),
        "data": trained.data.packed.digest,
    }
    title = f"{config.model}, seed {config.seed}"
    history = merge_histories(read_history(path) for path in folder.csv_files())
    results = write_results(
        folder.path, title, _facts(config, record), stages, trained.data, history, best.epoch, record
    )
    _log_hparams(config, trained.trainer, {stage: results[stage] for stage in evaluated})
    last, metrics = evaluated[-1], results[evaluated[-1]]
    log.info(
        "%s accuracy %.4f, macro F1 %.4f on %d images", last, metrics["acc"], metrics["f1_macro"], metrics["num_images"]
    )
    log.info("report: %s", folder.path / "report.html")


def _resolve_weights(config: DictConfig) -> None:
    if config.backbone:
        config.weights = resolve_weights(config.weights, file_stem(config.family, config.backbone))


def _validated(config: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    if config.resume:
        config = resumed_config(config, folder, overrides)
    check(settings(config))
    require_effect(overrides, settings(config))
    return config


def build_task(config: DictConfig, data: EmotionDataModule) -> EmotionTask:
    """Builds network, loss and optimiser settings; class weights and shares are those of the training images."""
    return EmotionTask(
        **_arguments(EmotionTask, settings(config)), class_weights=data.class_weights, class_shares=data.class_shares
    )


def _arguments(cls: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that are arguments of a class; settings and arguments have the same names."""
    return {key: values[key] for key in inspect.signature(cls).parameters if key in values}


def _log_sizes(config: DictConfig, task: EmotionTask, data: EmotionDataModule) -> None:
    count = task.network.count_parameters()
    log.info("%s: %s parameters, %s of them trainable", config.model, f"{count.total:,}", f"{count.trainable:,}")
    sizes = len(data.train_set[2]), len(data.rows.val), len(data.rows.test)
    log.info("images: %d to train on, %d to validate, %d to test", *sizes)


def _facts(config: DictConfig, record: dict[str, Any]) -> dict[str, str]:
    keys = ("model", "data", "split", "balance", "seed", "batch_size", "lr")
    return (
        {key: str(config[key]) for key in keys}
        | {
            "epochs": f"{record['epochs']}, best {record['best_epoch']} by {config.monitor}",
            "training time": f"{record['train_seconds']:.0f} s",
            "hardware": record["hardware"],
            "command": record["command"],
        }
        | {
            f"after epoch {change['after_epoch']}": ", ".join(
                f"{key}={after} (was {before})" for key, (before, after) in change["changed"].items()
            )
            for change in record.get("changes", ())
        }
    )


def _log_hparams(config: DictConfig, trainer: Trainer, results: dict[str, Any]) -> None:
    names = ("loss", "acc", "f1_macro")
    final = {f"final/{stage}/{name}": metrics[name] for stage, metrics in results.items() for name in names}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            shown = {key: _utf8(value) for key, value in settings(config).items()}
            logger.log_hyperparams(shown, final)
            logger.finalize("success")


def _utf8(value: Any) -> Any:
    """Escapes characters that UTF-8 cannot encode, as in names of folders: TensorBoard accepts UTF-8 only."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
