"""One run: configuration, data, network, training, the test of the best checkpoint, the results."""

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
    "It is recommended to use .*sync_dist",  # the meters have counted over all processes already
    ".*capturable=True.* but step.. is running without CUDA graph capture",  # before the step is recorded
    "To copy construct from a tensor",  # Lightning's monitor of a learning rate on the device
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
)
"""Warnings of PyTorch and Lightning that say nothing new of a run."""
BATCHES_TOGETHER = 50
"""Recorded steps between two looks of the Trainer, if nothing is logged."""
FEATURES_KEPT = 2**30
"""Bytes of features that are written to the cache without being asked for."""
SIGTERM_STATUS = 128 + signal.SIGTERM
"""The status by which shells and schedulers know a process that was asked to end."""


def run(config: DictConfig, path: Path, overrides: list[str]) -> None:
    """Trains, tests the best checkpoint and writes the results; skips what is finished, continues what is not.

    Args:
        config: the composed configuration.
        path: the run's folder.
        overrides: what stood on the command line, which `resume` applies to the settings it finds.

    Raises:
        UserError: bad settings or bad input, or another process is training in this folder.
        SystemExit: with status 143, the run was asked to end (SIGTERM).
    """
    folder, resumes = RunFolder(path), bool(config.resume)
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes that train this run: the first has prepared the folder, and speaks for all.
        logging.disable(logging.INFO)
        train(_checked(config, folder, overrides), folder)
        return
    with _without_expected_warnings(), folder.locked():
        folder.settle()
        _run(_checked(config, folder, overrides), folder, resumes)


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


def _run(config: DictConfig, folder: RunFolder, resumes: bool) -> None:
    """Does a run; nothing that lies in its folder is changed before all that can be wrong was looked at."""
    if not (config.overwrite or resumes):
        folder.require_own(config)
    with folder.keeping_failure(), explain_out_of_memory(config):
        if not config.overwrite and folder.state == "finished" and folder.holds(config):
            folder.failure.unlink(missing_ok=True)
            log.info("finished already: %s (overwrite=true trains it anew)", folder.path)
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
    """What a run needs to train: legal settings, data that could be opened, a network with its weights, a device.

    Attributes:
        epochs: how many the run that goes on has been trained for.
    """

    config: DictConfig
    data: EmotionDataModule
    task: EmotionTask
    trainer: Trainer
    timer: Timer
    epochs: int


@dataclass(frozen=True)
class Trained:
    """What is left after training: the trainer, the data, and the seconds it took."""

    trainer: Trainer
    data: EmotionDataModule
    seconds: float

    @property
    def images_per_epoch(self) -> int:
        """How many training images an epoch showed, copies and repeated draws counted."""
        steps = int(self.trainer.num_training_batches) * max(self.data.group_size, 1)
        shown = steps * self.data.batch_size * self.trainer.world_size
        return min(shown, len(self.data.train_set[2]))


def train(config: DictConfig, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Trained:
    """Trains from the start or from `last.ckpt`, and leaves the checkpoints in the folder.

    Args:
        config: the composed and checked configuration.
        folder: the run's.
        callbacks: beside those of every run.
    """
    with _without_expected_warnings():
        return fit(prepare(config, folder, callbacks), folder)


def prepare(config: DictConfig, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Prepared:
    """Opens the data, builds network and Trainer, and changes nothing in the folder; arguments as for `train`.

    Raises:
        UserError: settings, data, weights, a checkpoint or a device that cannot be used.
    """
    _resolve_weights(config)
    # The Trainer sets these and leaves them so, and a sweep does run after run in one process.
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
        epochs, began_with = read_progress(folder.last)
        data.load_state_dict(began_with)
    timer, folder_keeper = build_timer(config), _keep_folder(config, folder, epochs)
    trainer = build_trainer(config, folder, [timer, folder_keeper, *callbacks])
    _require_whole_epoch(config, data, trainer)
    _configure_speed(config, task, data, trainer)
    return Prepared(config, data, task, trainer, timer, epochs)


def fit(prepared: Prepared, folder: RunFolder) -> Trained:
    """Trains what was prepared, and leaves the checkpoints in the folder."""
    trainer, timer = prepared.trainer, prepared.timer
    last = folder.last if folder.state != "new" and not prepared.config.overwrite else None
    if last is None:
        _claim(prepared.config, folder, prepared.epochs)
    try:
        trainer.fit(prepared.task, prepared.data, ckpt_path=last, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    except SIGTERMException:
        # Raised between two batches; the checkpoints that were still due have been written on the way here.
        log.warning("asked to end (SIGTERM) in epoch %d: the same command continues it", trainer.current_epoch + 1)
        raise SystemExit(SIGTERM_STATUS) from None
    except UserError:
        raise
    except Exception as error:
        if last is None or timer.start_time() is not None:
            raise
        # Before the first step, it is what the file holds, whatever the error is called.
        raise UserError(f"{last}: cannot be gone on from ({first_line(error)}); overwrite=true trains anew") from error
    if timer.start_time() is None:
        log.info("nothing is left to train after epoch %d", prepared.epochs)
        _claim(prepared.config, folder, prepared.epochs)
    return Trained(trainer, prepared.data, timer.time_elapsed("train"))


def _keep_folder(config: DictConfig, folder: RunFolder, epochs: int) -> Callback:
    """A run that goes on writes down its settings when it trains, after all of its checkpoint proved right."""
    return LambdaCallback(
        on_train_start=lambda *_: _claim(config, folder, epochs) if epochs else None,
        on_train_epoch_start=lambda *_: folder.drop_replaced(),
    )


@rank_zero_only
def _claim(config: DictConfig, folder: RunFolder, epochs: int) -> None:
    folder.claim(config, describe_environment(), epochs)


def _require_whole_epoch(config: DictConfig, data: EmotionDataModule, trainer: Trainer) -> None:
    """Refuses to train for less than an epoch, after which there is no validation and so no best checkpoint."""
    batches = -(-len(data.train_set[2]) // (data.batch_size * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * config.trainer.check_val_every_n_epoch
    if 0 <= trainer.max_steps < steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: the first validation, which chooses the best checkpoint, comes "
            f"after {steps} steps"
        )


def _configure_speed(config: DictConfig, task: EmotionTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Takes the shortcuts that the settings and the device allow."""
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
    """One where the frozen part sees the same images in every epoch; augmented views would be fewer than it saw."""
    frozen, _ = task.network.split(task.network.frozen_stages)
    if not any(True for _ in frozen.parameters()):
        return 0
    if data.augmentation or data.mix:
        if device.type == "cpu":
            log.info("the frozen part of the network takes most of the time; feature_views=8 runs it once for 8 views")
        return 0
    side = task.network.preprocess.image_size
    values = feature_count(frozen, torch.zeros(1, 1, side, side, dtype=torch.uint8), config.model)
    return int(2 * values * len(data.packed) <= FEATURES_KEPT)


def _should_compile(config: DictConfig, device: torch.device) -> bool:
    """Compiling takes up to a minute, which a run that may stop early does not earn back; on CPUs steps got slower."""
    return device.type == "cuda" and config.patience is None


def test(config: DictConfig, folder: RunFolder, trained: Trained) -> None:
    """Runs the best checkpoint over validation and (unless `test` is off) test images and writes the results.

    Raises:
        UserError: no epoch came as far as its validation.
    """
    if not folder.best.is_file():
        raise UserError(
            f"{folder.path}: no epoch was trained and validated, so there is no best checkpoint (trainer.*)"
        )
    best = load_checkpoint(folder.best)
    device = trained.trainer.strategy.root_device
    evaluated: tuple[Stage, ...] = ("val", "test") if config.test else ("val",)
    stages = predict_stages(best.task.inference_network, trained.data, evaluated, device, config.tta)
    environment = read_json(folder.environment)
    # Not `current_epoch`, which is one less where a run that had stopped early goes on with its test.
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
    last, figures = evaluated[-1], results[evaluated[-1]]
    log.info(
        "%s accuracy %.4f, macro F1 %.4f on %d images", last, figures["acc"], figures["f1_macro"], figures["num_images"]
    )
    log.info("report: %s", folder.path / "report.html")


def _resolve_weights(config: DictConfig) -> None:
    if config.backbone:
        config.weights = resolve_weights(config.weights, file_stem(config.family, config.backbone))


def _checked(config: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    if config.resume:
        config = resumed_config(config, folder, overrides)
    check(settings(config))
    require_effect(overrides, settings(config))
    return config


def build_task(config: DictConfig, data: EmotionDataModule) -> EmotionTask:
    """Builds network, loss and optimiser; the class weights are counted on the data."""
    return EmotionTask(
        **_arguments(EmotionTask, settings(config)), class_weights=data.class_weights, class_shares=data.class_shares
    )


def _arguments(kind: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Picks the settings that a class takes: a key of the configuration is the name of an argument."""
    return {key: values[key] for key in inspect.signature(kind).parameters if key in values}


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
    final = {f"{stage}/{name}": own[name] for stage, own in results.items() for name in ("loss", "acc", "f1_macro")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            shown = {key: _text(value) for key, value in settings(config).items()}
            logger.log_hyperparams(shown, {f"final/{name}": value for name, value in final.items()})
            logger.finalize("success")


def _text(value: Any) -> Any:
    """TensorBoard takes UTF-8 only, which the name of a folder need not be."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
