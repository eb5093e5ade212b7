"""One run: settings, data, network, training, test of the best checkpoint, results."""

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback, Timer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from emotion.analysis.figures import merge_histories, read_history
from emotion.config import read
from emotion.data.classes import listed
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.errors import UserError, first_line
from emotion.models.network import feature_count
from emotion.models.weights import file_stem, load_backbone, resolve_weights
from emotion.overrides import require_effect
from emotion.plugins import Plugins
from emotion.settings import Settings, TrainerSettings, TrainingSettings
from emotion.training.checkpoint import load_checkpoint, read_progress
from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.features import FeatureCache
from emotion.training.folder import RunFolder, read_json
from emotion.training.loggers import log_results
from emotion.training.memory import explain_out_of_memory, keep_freed_memory
from emotion.training.recorded import RecordedTask, group_steps, records_steps
from emotion.training.results import predict_stages, write_results
from emotion.training.resume import resumed_config
from emotion.training.start import read_start
from emotion.training.task import EmotionTask
from emotion.training.teachers import read_teachers
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


def _train_and_test(settings: Settings, folder: RunFolder, resumes: bool) -> None:
    """Trains and tests; changes no file of the folder before all settings and inputs have been checked."""
    overwrite = settings.run.overwrite
    if not (overwrite or resumes):
        folder.require_same_run(settings)
    with folder.keeping_failure(), explain_out_of_memory(settings):
        if not overwrite and folder.state == "finished" and folder.holds(settings):
            folder.failure.unlink(missing_ok=True)
            log.info("finished already: %s (overwrite=true trains again)", folder.path)
            return
        prepared = prepare(settings, folder)
        if overwrite:
            folder.set_aside()
        try:
            test(prepared.settings, folder, fit(prepared, folder))
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

    settings: Settings
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
        task = self.trainer.lightning_module
        assert isinstance(task, EmotionTask)
        shown = task.batches_per_epoch * self.data.batches.batch_size * self.trainer.world_size
        return min(shown, len(self.data.train_set[2]))


def train(settings: Settings, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Trained:
    """Trains from the start or from `last.ckpt`, and writes checkpoints to the folder.

    Args:
        settings: the settings of the run.
        folder: folder of the run.
        callbacks: further callbacks, beside those of every run.
    """
    with _without_expected_warnings():
        return fit(prepare(settings, folder, callbacks), folder)


def prepare(settings: Settings, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Prepared:
    """Opens the data and builds network and Trainer; takes the arguments of `train`, and leaves the folder unchanged.

    Raises:
        UserError: settings, data, weights, a checkpoint or a device cannot be used.
    """
    settings, plugins = _with_weights_file(settings), Plugins.load(settings)
    # The Trainer sets both and does not reset them, and a sweep can train several runs in one process.
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    data = EmotionDataModule(
        settings.data,
        settings.batches,
        settings.augmentation,
        settings.run.seed,
        own_augmentation=plugins.augmentation,
    )
    teachers = read_teachers(settings.distillation, data)
    resumes, epochs = folder.state != "new" and not settings.run.overwrite, 0
    if resumes:
        epochs, data_state, taught_by = read_progress(folder.last)
        if 0 < settings.trainer.max_epochs < epochs:
            raise UserError(f"trainer.max_epochs={settings.trainer.max_epochs}: the run has had {epochs} epochs already")
        data.load_state_dict(data_state)
        teachers.require_same(taught_by)
    timer, folder_updates = build_timer(settings.trainer), _folder_updates(settings, folder, epochs)
    trainer = build_trainer(settings, folder, [timer, folder_updates, *callbacks])
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    # After all that may draw random numbers, on which the initial weights must not depend.
    seed_everything(settings.run.seed, verbose=False)
    kind = RecordedTask if records_steps(settings, device, precision) else EmotionTask
    task = build_task(settings, data, plugins, teachers.names, kind)
    _log_sizes(settings, task, data, teachers.names)
    load_weights(settings, task, folder.last if resumes else None)
    _require_whole_epoch(settings.trainer, data, trainer)
    _configure_speed(settings, task, data, trainer)
    if teachers.names:
        data.learn_from(teachers.teaching(settings.distillation, data, device, precision))
    return Prepared(settings, data, task, trainer, timer, epochs)


def fit(prepared: Prepared, folder: RunFolder) -> Trained:
    """Trains a prepared run, and writes checkpoints to the folder."""
    trainer, timer = prepared.trainer, prepared.timer
    last = folder.last if folder.state != "new" and not prepared.settings.run.overwrite else None
    if last is None:
        _claim(prepared.settings, folder, prepared.epochs)
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
        _claim(prepared.settings, folder, prepared.epochs)
    return Trained(trainer, prepared.data, timer.time_elapsed("train"))


def _folder_updates(settings: Settings, folder: RunFolder, epochs: int) -> Callback:
    """Returns a callback that writes a resumed run's settings once its checkpoint is loaded; drops a replaced run."""
    return LambdaCallback(
        on_train_start=lambda *_: _claim(settings, folder, epochs) if epochs else None,
        on_train_epoch_start=lambda *_: folder.drop_replaced(),
    )


@rank_zero_only
def _claim(settings: Settings, folder: RunFolder, epochs: int) -> None:
    folder.claim(settings, describe_environment(), epochs)


def _require_whole_epoch(settings: TrainerSettings, data: EmotionDataModule, trainer: Trainer) -> None:
    """Checks that training reaches a validation, since only a validation chooses a best checkpoint."""
    batches = -(-len(data.train_set[2]) // (data.batches.batch_size * trainer.world_size))
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * settings.check_val_every_n_epoch
    if 0 <= trainer.max_steps < steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: at least {steps} are needed until the first validation, which "
            "chooses the best checkpoint"
        )


def _configure_speed(settings: Settings, task: EmotionTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Turns on the accelerations that settings and device allow: recorded steps, cached features, compilation."""
    device, wanted = trainer.strategy.root_device, settings.training
    if isinstance(task, RecordedTask):
        group_steps(data, trainer)
    if device.type == "cpu":
        keep_freed_memory()
    views = wanted.feature_views
    if views == "auto":
        views = 0 if settings.distillation.teacher else _auto_feature_views(task, data, device)
    if views:
        cache = FeatureCache(task.train_on_features(), device, settings.run.seed, str(trainer.precision))
        data.train_on_features(cache, views)
    if _should_compile(wanted, device) if wanted.compile == "auto" else wanted.compile:
        task.compile_network()


def _auto_feature_views(task: EmotionTask, data: EmotionDataModule, device: torch.device) -> int:
    """Returns 1 if the frozen part gets the same images in every epoch and its features are small enough, else 0."""
    frozen, _ = task.network.split(task.network.frozen_stages)
    if not any(True for _ in frozen.parameters()):
        return 0
    if (
        data.augmentation or data.mix or data.own_augmentation
    ):  # a few cached views would be less augmentation than new ones each epoch
        if device.type == "cpu":
            log.info("feature_views=8 trains faster: the frozen layers run once, on 8 augmented views of an image")
        return 0
    side = task.network.preprocess.image_size
    values = feature_count(frozen, torch.zeros(1, 1, side, side, dtype=torch.uint8), "the network")
    return int(2 * values * len(data.packed) <= AUTO_FEATURES_BYTES)


def _should_compile(training: TrainingSettings, device: torch.device) -> bool:
    """Compiling takes up to a minute, too long for a run that may stop early; on CPUs, compiled steps were slower."""
    return device.type == "cuda" and training.patience is None


def test(settings: Settings, folder: RunFolder, trained: Trained) -> None:
    """Tests the best checkpoint on the validation images and, unless `test=false`, the test images; writes the results.

    Raises:
        UserError: no epoch was validated.
    """
    if not folder.best.is_file():
        raise UserError(
            f"{folder.path}: no best checkpoint, since no epoch was validated; change the settings trainer.*"
        )
    best = load_checkpoint(folder.best, settings.network.network)
    device, wanted = trained.trainer.strategy.root_device, settings.training
    evaluated: tuple[Stage, ...] = ("val", "test") if wanted.test and len(trained.data.rows.test) else ("val",)
    stages = predict_stages(best.task.inference_network, trained.data, evaluated, device, wanted.tta)
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
        "hardware": f"{describe_hardware(environment)}, {trained.trainer.precision}",
        "command": environment["command"],
        **({"teachers": best.task.hparams["teachers"]} if settings.distillation.teacher else {}),
        **({"changes": environment["changes"]} if "changes" in environment else {}),
        "data": trained.data.packed.digest,
    }
    title = f"{settings.run.model}, seed {settings.run.seed}"
    history = merge_histories(read_history(path) for path in folder.csv_files())
    results = write_results(
        folder.path, title, _facts(settings, record), stages, trained.data, history, best.epoch, record
    )
    _log_hparams(settings, trained.trainer, {stage: results[stage] for stage in evaluated})
    last, metrics = evaluated[-1], results[evaluated[-1]]
    log.info(
        "%s accuracy %.4f, macro F1 %.4f on %d images", last, metrics["acc"], metrics["f1_macro"], metrics["num_images"]
    )
    log.info("report: %s", folder.path / "report.html")


def _with_weights_file(settings: Settings) -> Settings:
    """Returns the settings with the file of weights in place of its folder."""
    network, weights = settings.network, settings.training.weights
    if network.backbone is None or weights is None:
        return settings
    file = resolve_weights(weights, file_stem(network.family, network.backbone))
    return settings.model_copy(update={"training": settings.training.model_copy(update={"weights": file})})


def _validated(config: DictConfig, folder: RunFolder, overrides: list[str]) -> Settings:
    if config.resume:
        config = resumed_config(config, folder, overrides)
    settings = read(config)
    require_effect(overrides, settings.flat())
    return settings


def build_task(
    settings: Settings,
    data: EmotionDataModule,
    plugins: Plugins = Plugins(),  # noqa: B008
    teachers: Sequence[str] = (),
    kind: type[EmotionTask] = EmotionTask,
) -> EmotionTask:
    """Builds network, loss and optimiser settings; class weights and shares are those of the training images."""
    return kind(
        settings.network,
        settings.loss,
        settings.optimizer,
        settings.distillation,
        classes=data.classes,
        class_weights=data.class_weights,
        class_shares=data.class_shares,
        model=settings.run.model,
        weights=settings.training.weights,
        teachers=teachers,
        plugins=plugins,
    )


def load_weights(settings: Settings, task: EmotionTask, last: Path | None = None) -> None:
    """Loads the pretrained weights of the backbone, or of a whole trained network, that the settings name.

    Args:
        settings: the settings of the run.
        task: the task, whose network gets the weights.
        last: last checkpoint of a resumed run, which serves in place of `init`.

    Raises:
        UserError: the weights are missing or do not fit.
    """
    network, training = settings.network, settings.training
    if training.init is not None:
        start = read_start(str(last or training.init))
        if (start.activation_scale or 1) != (network.activation_scale or 1):
            raise UserError(f"init={training.init}: needs activation_scale={start.activation_scale or 1}, as it began")
        log.info("%s", start.load_into(task.network, task.classes))
    elif network.backbone is not None and training.weights is not None:
        source = (training.weights, network.family, network.backbone, network.image_size, network.activation_scale or 1)
        load_backbone(task.network.backbone, *source)
    task.restart_average()


def _log_sizes(settings: Settings, task: EmotionTask, data: EmotionDataModule, teachers: Sequence[str]) -> None:
    count = task.network.count_parameters()
    log.info("%s: %s parameters, %s of them trainable", settings.run.model, f"{count.total:,}", f"{count.trainable:,}")
    sizes = len(data.train_set[2]), len(data.rows.val), len(data.rows.test)
    log.info("images: %d to train on, %d to validate, %d to test", *sizes)
    log.info("classes: %s", listed(data.classes))
    if teachers:
        log.info("teachers: %s", "; ".join(teachers))


def _facts(settings: Settings, record: dict[str, Any]) -> dict[str, str]:
    values = settings.flat()
    keys = ("model", "data", "split", "balance", "seed", "batch_size", "lr")
    return (
        {key: str(values[key]) for key in keys}
        | ({"teachers": "; ".join(record["teachers"])} if "teachers" in record else {})
        | {
            "epochs": f"{record['epochs']}, best {record['best_epoch']} by {settings.training.monitor}",
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


def _log_hparams(settings: Settings, trainer: Trainer, results: dict[str, Any]) -> None:
    names = ("loss", "acc", "f1_macro")
    final = {f"{stage}/{name}": metrics[name] for stage, metrics in results.items() for name in names}
    log_results(trainer.loggers, settings, final)
