"""What a run needs to begin: checked settings, opened data, a network with its weights, and a Trainer."""

import logging
import os
import shutil
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import LambdaCallback, Timer
from lightning.pytorch.utilities import rank_zero_only

from emotion.data.classes import count_images, listed
from emotion.data.datamodule import EmotionDataModule
from emotion.data.loader import global_batch_sizes
from emotion.errors import UserError, first_line
from emotion.files import hide_home
from emotion.models.device import exact_float32
from emotion.models.network import Network, feature_count
from emotion.models.weights import file_stem, load_backbone, resolve_weights
from emotion.plugins import Plugins
from emotion.settings import Settings, TrainerSettings
from emotion.training.checkpoint import read_content, read_progress
from emotion.training.environment import describe_environment
from emotion.training.features import FeatureCache
from emotion.training.folder import RunFolder
from emotion.training.memory import keep_freed_memory
from emotion.training.origin import UNKNOWN, require_unseen
from emotion.training.recorded import RecordedTask, group_steps, records_steps
from emotion.training.start import Start, read_start
from emotion.training.statistics import FEW_IMAGES, folded_layers, restore_statistics
from emotion.training.task import EmotionTask
from emotion.training.teachers import Teachers, read_teachers
from emotion.training.trainer import build_timer, build_trainer

log = logging.getLogger(__name__)
LONG_TRAINING = 5_000
"""Least number of steps for which `compile=auto` compiles."""
FEW_VALIDATE = 10
"""Number of validation images below which a warning says that chance decides on the best epoch."""
AUTO_FEATURES_BYTES = 2**30
"""Largest size of features that `feature_views=auto` writes to the cache, in bytes."""


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


def prepare(settings: Settings, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Prepared:
    """Opens the data and builds network and Trainer; leaves the folder unchanged.

    Args:
        settings: the settings of the run.
        folder: folder of the run.
        callbacks: further callbacks, beside those of every run.

    Raises:
        UserError: settings, data, weights, a checkpoint or a device cannot be used.
    """
    resumes = folder.state != "new" and not settings.run.overwrite
    settings, plugins = _with_weights_file(settings, folder if resumes else None), Plugins.load(settings)
    # The Trainer sets both and does not reset them, and a sweep can train several runs in one process.
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    exact_float32()
    seed_everything(settings.run.seed, verbose=False)
    _require_accelerator(settings.trainer)
    data = EmotionDataModule(
        settings.data,
        settings.batches,
        settings.augmentation,
        settings.run.seed,
        own_augmentation=plugins.augmentation,
    )
    teachers = read_teachers(settings.distillation, data, settings.network.network)
    epochs = _resume(settings, folder, data, teachers) if resumes else 0
    start = None if resumes else _read_start(settings, data)
    timer, folder_updates = build_timer(settings.trainer), _folder_updates(settings, folder, epochs)
    trainer = build_trainer(settings, folder, [timer, folder_updates, *callbacks])
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    # Again, since the initial weights must not depend on the random numbers that all this may have drawn.
    seed_everything(settings.run.seed, verbose=False)
    kind = RecordedTask if records_steps(settings, device, precision) else EmotionTask
    task = build_task(settings, data, plugins, teachers.names, kind)
    if isinstance(task, RecordedTask):
        log.info("steps are recorded as CUDA graphs; cuda_graph=false turns this off")
        group_steps(task, data, trainer)
    _log_sizes(settings, task, data, teachers.names)
    _warn_of_short_training(settings)
    if resumes:
        # The frozen part computes features before the Trainer loads the checkpoint, and says what is wrong with it.
        with suppress(RuntimeError):
            task.load_state_dict(read_content(folder.last)["state_dict"], strict=False)
    else:
        _load_weights(settings, task, data, start)
    _require_whole_epoch(settings.trainer, data, trainer)
    _configure_speed(settings, task, data, trainer)
    if teachers.names:
        data.learn_from(teachers.teaching(settings.distillation, data, device, precision))
    return Prepared(settings, data, task, trainer, timer, epochs)


def _require_accelerator(trainer: TrainerSettings) -> None:
    """Checks that this machine has the GPU that is asked for."""
    here = CUDAAccelerator.is_available() or MPSAccelerator.is_available()
    if trainer.accelerator in ("gpu", "cuda") and not here:
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}: PyTorch finds no GPU on this machine; use cpu, or auto, which "
            "takes a GPU where there is one"
        )


def _log_sizes(settings: Settings, task: EmotionTask, data: EmotionDataModule, teachers: Sequence[str]) -> None:
    count = task.network.count_parameters()
    log.info("%s: %s parameters, %s of them trainable", settings.run.model, f"{count.total:,}", f"{count.trainable:,}")
    sizes = len(data.train_set[2]), len(data.rows.val), len(data.rows.test)
    log.info("images: %d to train on, %d to validate, %d to test", *sizes)
    if 0 < sizes[1] < FEW_VALIDATE:
        log.warning(
            "only %s to validate: chance decides which epoch is the best; more images or a larger val_fraction= help",
            count_images(sizes[1]),
        )
    log.info("classes: %s", listed(data.classes))
    if teachers:
        log.info("teachers: %s", "; ".join(teachers))


def _warn_of_short_training(settings: Settings) -> None:
    """Says which parts of the training a short one does not reach."""
    epochs, plain = settings.trainer.max_epochs or 0, settings.augmentation.plain_epochs
    optimizer = settings.optimizer
    if optimizer.schedule == "cosine" and 0 < epochs <= optimizer.warmup_epochs:
        log.warning(
            "warmup_epochs=%g: the learning rate rises until the last of %d epochs", optimizer.warmup_epochs, epochs
        )
    if 0 < epochs <= plain:
        log.warning("plain_epochs=%d: no image is augmented in any of %d epochs", plain, epochs)


def _resume(settings: Settings, folder: RunFolder, data: EmotionDataModule, teachers: Teachers) -> int:
    """Checks that the run in the folder began with these images and teachers; returns the number of its epochs."""
    epochs, data_state, taught_by = read_progress(folder.last)
    limit = settings.trainer.max_epochs
    if limit is not None and 0 < limit < epochs:
        raise UserError(f"trainer.max_epochs={limit}: the run has had {epochs} epochs already")
    try:
        data.load_state_dict(data_state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder.last}: cannot be resumed ({first_line(error)}); overwrite=true starts again"
        ) from None
    teachers.require_same(taught_by)
    return epochs


def _folder_updates(settings: Settings, folder: RunFolder, epochs: int) -> Callback:
    """Returns a callback that writes a resumed run's settings once its checkpoint is loaded; drops a replaced run."""
    return LambdaCallback(
        on_train_start=lambda *_: _go_on(settings, folder, epochs) if epochs else None,
        on_train_epoch_start=lambda *_: folder.drop_replaced(),
    )


def _go_on(settings: Settings, folder: RunFolder, epochs: int) -> None:
    log.info("continues after epoch %d", epochs)
    claim(settings, folder, epochs)


@rank_zero_only
def claim(settings: Settings, folder: RunFolder, epochs: int) -> None:
    """Writes the settings of a run to its folder, once it is known to train."""
    folder.claim(settings, describe_environment(), epochs)


def _with_weights_file(settings: Settings, begun: RunFolder | None) -> Settings:
    """Returns the settings with the file of weights in place of its folder; a run that has begun keeps its own."""
    network, weights = settings.network, settings.training.weights
    if network.backbone is None or weights is None:
        return settings
    if begun is not None:
        file = begun.read_config().get("weights", weights)
    else:
        file = hide_home(resolve_weights(weights, file_stem(network.family, network.backbone)))
    return settings.model_copy(update={"training": settings.training.model_copy(update={"weights": file})})


def _require_whole_epoch(settings: TrainerSettings, data: EmotionDataModule, trainer: Trainer) -> None:
    """Checks that training reaches a validation, since only a validation chooses a best checkpoint."""
    batches, limit = _batches(data, trainer), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = -(-batches // trainer.accumulate_grad_batches) * settings.check_val_every_n_epoch
    if 0 <= trainer.max_steps < steps:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}: at least {steps} are needed until the first validation, which "
            "chooses the best checkpoint"
        )


def _batches(data: EmotionDataModule, trainer: Trainer) -> int:
    """Returns the number of batches of all training images."""
    return len(global_batch_sizes(len(data.train_set[2]), data.batches.batch_size, trainer.world_size))


def _configure_speed(settings: Settings, task: EmotionTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Turns on the accelerations that settings and device allow: cached features and compilation."""
    device, wanted = trainer.strategy.root_device, settings.training
    if device.type == "cpu":
        keep_freed_memory()
    views = wanted.feature_views
    if views == "auto":
        views = 0 if settings.distillation.teacher else _auto_feature_views(task, data, device)
    if views:
        cache = FeatureCache(task.train_on_features(), device, settings.run.seed, str(trainer.precision))
        data.train_on_features(cache, views)
    if wanted.compile is True or (wanted.compile == "auto" and _repays_compilation(settings, data, trainer)):
        if lacking := missing_for_compilation(device):
            if wanted.compile is True:
                raise UserError(f"compile=true: {lacking}")
            log.warning("compile=auto: not compiled: %s", lacking)
        else:
            task.compile_network()
            log.info("the network is compiled in the first steps of each kind, which can take minutes")


def _repays_compilation(settings: Settings, data: EmotionDataModule, trainer: Trainer) -> bool:
    """Returns whether compiling saves more time than it takes, which is up to a minute for each kind of step.

    It does not in a run that may stop early or is short, and on CPUs, where compiled steps were slower.
    """
    epochs = settings.trainer.max_epochs
    is_long = epochs is None or epochs < 0 or epochs * _batches(data, trainer) >= LONG_TRAINING
    return trainer.strategy.root_device.type == "cuda" and settings.training.patience is None and is_long


def missing_for_compilation(device: torch.device) -> str:
    """Returns what Triton, which compiles for GPUs, needs to build its code and does not find; empty if nothing."""
    if device.type != "cuda":
        return ""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Triton needs the headers of Python (the package python3-dev of many systems)"
    return ""


def _auto_feature_views(task: EmotionTask, data: EmotionDataModule, device: torch.device) -> int:
    """Returns 1 if the frozen part gets the same images in every epoch and its features are small enough, else 0."""
    frozen, _ = task.network.split(task.network.frozen_stages)
    if not any(True for _ in frozen.parameters()):
        return 0
    # A few cached views would be less augmentation than new ones in each epoch.
    if data.augmentation or data.mix or data.own_augmentation:
        if device.type == "cpu" and not (data.mix or data.own_augmentation or data.plain_epochs):
            log.info("feature_views=8 trains faster: the frozen layers run once, on 8 augmented views of an image")
        return 0
    side = task.network.preprocess.image_size
    values = feature_count(frozen, torch.zeros(1, 1, side, side, dtype=torch.uint8), "the network")
    return int(2 * values * len(data.packed) <= AUTO_FEATURES_BYTES)


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


def _read_start(settings: Settings, data: EmotionDataModule) -> Start | None:
    """Reads the network that a new run starts from, if it does."""
    init = settings.training.init
    if init is None:
        return None
    start = read_start(init)
    if not require_unseen(f"init={init}", start.origin, data):
        log.info(UNKNOWN, f"init={init}", start.origin.told)
    return start


def _load_weights(settings: Settings, task: EmotionTask, data: EmotionDataModule, start: Start | None) -> None:
    """Loads the pretrained weights of the backbone, or of a whole trained network, that the settings name.

    Args:
        settings: the settings of the run.
        task: the task, whose network gets the weights.
        data: its training images give the network those statistics that a file of weights lacks.
        start: the trained network that `init` names.

    Raises:
        UserError: the weights are missing or do not fit.
    """
    network, training = settings.network, settings.training
    if start is not None:
        if (scale := start.settings.activation_scale or 1) != (network.activation_scale or 1):
            raise UserError(f"init={training.init}: needs activation_scale={scale}, as it began")
        log.info("%s", start.load_into(task.network, task.classes))
        if differences := start.differences(network):
            log.warning("init=%s: its network was trained with %s", training.init, "; ".join(differences))
    elif network.backbone is not None and training.weights is not None:
        source = (training.weights, network.family, network.backbone, network.image_size, network.activation_scale or 1)
        load_backbone(task.network.backbone, *source)
        if training.weights != "none":
            _restore_statistics(task.network, data)
    task.restart_average()


def _restore_statistics(network: Network, data: EmotionDataModule) -> None:
    """Measures the statistics of batch normalisation that a file lacks, on training images without augmentation."""
    if not (folded := folded_layers(network.backbone)):
        return
    images, _, rows = data.train_set
    some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), FEW_IMAGES)).long()].numpy()  # from all classes
    restore_statistics(folded, network.eval(), torch.from_numpy(images[some]).split(64))  # [64, C, S, S]
    network.train()
    log.info("weights: %d images gave %d layers of batch normalisation their statistics", len(some), len(folded))
