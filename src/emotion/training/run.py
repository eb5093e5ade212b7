"""One run: configuration, data, network, training, the test of the best checkpoint, the results."""

import gc
import inspect
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emotion.analysis.figures import merge_histories, read_history
from emotion.config import (
    GROUPS,
    check,
    check_overrides,
    conf_dir,
    describe_settings,
    options_first,
    register_resolvers,
    settings,
)
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.errors import UserError, disk_is_full, exit_on_user_error, first_line
from emotion.files import hide_home
from emotion.models.network import Network
from emotion.models.registry import build_network
from emotion.models.weights import load_backbone, resolve_weights
from emotion.training.checkpoint import load_checkpoint
from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.features import FeatureCache
from emotion.training.folder import RunFolder, read_json, write_json, write_text
from emotion.training.memory import fitting_batch_size, keep_freed_memory, naming_sizes, training_step
from emotion.training.recorded import records_steps
from emotion.training.results import predict_stages, write_results
from emotion.training.sweep import run_apart
from emotion.training.task import EmotionTask
from emotion.training.trainer import build_trainer

log = logging.getLogger(__name__)
QUIET = (
    ".*LeafSpec.*is deprecated",  # Lightning's use of PyTorch
    "The number of training batches .* is smaller than the logging interval",
    "Found .* module.* in eval mode at the start of training",  # the frozen part, on purpose
    ".*could not find the monitored key",  # epochs without validation
    "It is recommended to use .*sync_dist",  # the meters have counted over all processes already
    r"\s*.*is validated against ConfigStore schema with the same name",  # our presets are named like the plugins' own
    ".*capturable=True.* but step.. is running without CUDA graph capture",  # before the step is recorded
    "To copy construct from a tensor",  # Lightning's monitor of a learning rate on the device
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
)
BATCHES_TOGETHER = 50
"""Recorded steps between two looks of the Trainer, if nothing is logged."""
FEATURES_KEPT = 2**30
"""Bytes of features that are written to the cache without being asked for."""
TERMINATED = 128 + signal.SIGTERM
"""The status by which shells and schedulers know a process that was asked to end."""

KEPT = (
    *GROUPS,
    *("seed", "data", "split", "val_fraction", "group_duplicates", "synthetic_images", "pack_size", "channels"),
    *("extra_data", "optimizer", "schedule"),
)
"""Settings that a run cannot change on the way: it would be neither the one nor the other."""

WARM = ("basic", "joblib")
"""Launchers whose processes do run after run; under any other a run has a process of its own."""

# Here rather than in `main`, since the processes of a parallel sweep import this module: they resolve the run's folder,
# and warn of what is known, each for itself.
register_resolvers()
for message in QUIET:
    warnings.filterwarnings("ignore", message)


def main() -> None:
    """Runs the command line: Hydra composes the configuration of one run, or of many with `-m`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(describe_settings())
        return
    # Where a full disk keeps a line of the log or a point of a curve from being written, the run says so itself.
    logging.raiseExceptions = False
    threading.excepthook = _excepthook
    # Hydra then leaves its errors, and a folder that cannot be made, to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with exit_on_user_error():
        check_overrides(sys.argv[1:])
        sys.argv[1:] = options_first(sys.argv[1:])
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()
        except (HydraException, OmegaConfBaseException) as error:
            lines = [first_line(one).rstrip(".") for one in (error, error.__cause__) if one]
            raise UserError(": ".join(lines)) from None


def _excepthook(arguments: threading.ExceptHookArgs) -> None:
    if not disk_is_full(arguments.exc_value):
        threading.__excepthook__(arguments)


def _job(config: DictConfig) -> float | None:
    """Does a run; returns its validation accuracy, for sweepers that search for the best settings."""
    hydra_config = HydraConfig.get()
    path, overrides = _below(Path(hydra_config.runtime.output_dir)), list(hydra_config.overrides.task)
    if hydra_config.mode == RunMode.RUN:
        # Before Hydra sees the error, which it would put a line of its own before.
        with exit_on_user_error():
            if hydra_config.runtime.choices["hydra/sweeper"] != "runs" or hydra_config.sweeper.parts:
                raise UserError(f"{' '.join(sys.argv[1:])}: these are several runs, which -m starts")
            run(config, path, overrides)
    elif hydra_config.runtime.choices["hydra/launcher"] not in WARM:
        run_apart(overrides, RunFolder(path))
    else:
        try:
            run(config, path, overrides)
        except Exception as error:
            # Whatever fails in one run, the others go on; `run` has kept it in the run's folder.
            log.error("failed: %s", hide_home(first_line(error)))
        finally:
            # Networks refer to themselves in circles; what one held on the device must not stay into the next run.
            gc.collect()
            torch.cuda.empty_cache()
    folder = RunFolder(path)
    return float(read_json(folder.metrics)["val"]["acc"]) if folder.state == "finished" else None


def _below(path: Path) -> Path:
    """Returns a path as seen from here, where it lies below; the run's files then do not say where they were made."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
    folder = RunFolder(path)
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes that train this run: the first has prepared the folder, and speaks for all.
        logging.disable(logging.INFO)
        config = _checked(config, folder, overrides)
        _resolve_weights(config)
        _resolve_batch_size(config, folder)
        train(config, folder)
        return
    with folder.locked():
        _run(_checked(config, folder, overrides), folder)


def _run(config: DictConfig, folder: RunFolder) -> None:
    if config.overwrite:
        folder.clear()
    if folder.state == "finished":
        log.info("finished already: %s (overwrite=true trains it anew)", folder.path)
        return
    with folder.keeping_failure():
        _resolve_weights(config)
        _resolve_batch_size(config, folder)
    folder.claim(config)
    write_json(folder.environment, describe_environment())
    with folder.keeping_failure(), naming_sizes(config):
        test(config, folder, train(config, folder))
    folder.failure.unlink(missing_ok=True)
    folder.diverged.unlink(missing_ok=True)


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
    seed_everything(config.seed, verbose=False)
    data = EmotionDataModule(**_arguments(EmotionDataModule, settings(config)))
    task = build_task(config, data)
    _log_sizes(config, task, data)
    if config.backbone:
        load_backbone(task.network.backbone, config.weights, config.family, config.backbone, config.image_size)
        task.restart_average()
    timer = Timer()
    trainer = build_trainer(config, folder, [timer, *callbacks])
    _speed_up(config, task, data, trainer)
    last = folder.last if folder.state == "unfinished" else None
    try:
        trainer.fit(task, data, ckpt_path=last, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    except SIGTERMException:
        # Raised between two batches; the checkpoints that were still due have been written on the way here.
        log.warning("asked to end (SIGTERM) in epoch %d: the same command continues it", trainer.current_epoch + 1)
        raise SystemExit(TERMINATED) from None
    except UserError:
        raise
    except Exception as error:
        if last is None or timer.start_time() is not None:
            raise
        # Before the first step, it is what the file holds, whatever the error is called.
        raise UserError(f"{last}: cannot be gone on from ({first_line(error)}); overwrite=true trains anew") from error
    return Trained(trainer, data, timer.time_elapsed("train"))


def _speed_up(config: DictConfig, task: EmotionTask, data: EmotionDataModule, trainer: Trainer) -> None:
    """Takes the shortcuts that the settings and the device allow."""
    device = trainer.strategy.root_device
    if records_steps(config, device, str(trainer.precision)):
        task.record_steps()
        data.group_batches(config.trainer.log_every_n_steps or BATCHES_TOGETHER)
        trainer.log_every_n_steps = min(config.trainer.log_every_n_steps, 1)  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()
    views = _exact_views(config, task, data, device) if config.feature_views == "auto" else config.feature_views
    if views:
        data.use_features(FeatureCache(task.take_features(), device, config.seed, str(trainer.precision)), views)
    if _compile_pays(config, device) if config.compile == "auto" else config.compile:
        task.compile_network()


def _exact_views(config: DictConfig, task: EmotionTask, data: EmotionDataModule, device: torch.device) -> int:
    """One where the frozen part sees the same images in every epoch; augmented views would be fewer than it saw."""
    frozen, _ = task.network.split(task.network.frozen_stages)
    if not any(True for _ in frozen.parameters()):
        return 0
    if data.augmentation or data.mix:
        if device.type == "cpu":
            log.info("the frozen part of the network takes most of the time; feature_views=8 runs it once for 8 views")
        return 0
    with torch.inference_mode():
        values = frozen.eval()(torch.zeros(1, 1, *task.network.example().shape[-2:], dtype=torch.uint8)).numel()
    return int(2 * values * len(data.packed) <= FEATURES_KEPT)


def _compile_pays(config: DictConfig, device: torch.device) -> bool:
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
    epochs, images = trained.trainer.current_epoch, trained.images_per_epoch
    record = {
        "epochs": epochs,
        "best_epoch": best.epoch,
        "train_images": images,
        "train_seconds": round(trained.seconds, 1),
        "images_per_second": round(epochs * images / trained.seconds, 1),
        "hardware": describe_hardware(environment),
        "command": environment["command"],
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
        config.weights = resolve_weights(config.weights, config.backbone)


def _resolve_batch_size(config: DictConfig, folder: RunFolder) -> None:
    """Puts a number in place of `auto`: that of the run which lies there already, or what fits."""
    if config.batch_size != "auto":
        return
    if folder.config.is_file():
        config.batch_size = folder.read_config().batch_size
        return
    if not torch.cuda.is_available() or config.trainer.accelerator == "cpu":
        raise UserError("batch_size=auto: only the memory of a GPU can be tried; give a number")
    device = torch.device("cuda", torch.cuda.current_device())
    config.batch_size = fitting_batch_size(training_step(_build_network(config), device))
    torch.cuda.empty_cache()
    log.info("batch_size=auto: %d", config.batch_size)


def _checked(config: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    if config.resume:
        config = _resumed_config(config, folder, overrides)
    check(settings(config))
    return config


def _resumed_config(defaults: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    changes = [word for word in overrides if not word.startswith("resume=")]
    stored, changed = folder.read_config(), OmegaConf.from_dotlist(changes)
    for word in changes:
        key = word.partition("=")[0]
        if key[0] in "+~" or (key in KEPT and changed[key] != stored.get(key)):
            raise UserError(
                f"{word}: a resumed run keeps its {key.lstrip('+~')}; other values can be changed, as lr= or "
                "trainer.max_epochs="
            )
    # The defaults are those of settings that did not exist when the run began.
    config = OmegaConf.merge(defaults, stored, {"resume": None, "overwrite": False}, changed)
    assert isinstance(config, DictConfig)
    if folder.state == "finished" and OmegaConf.merge(stored, changed) != stored:
        folder.metrics.unlink()
    write_text(folder.config, OmegaConf.to_yaml(settings(config)))
    return config


def _build_network(config: DictConfig) -> Network:
    return build_network(**_arguments(build_network, settings(config)))


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
    return {key: str(config[key]) for key in keys} | {
        "epochs": f"{record['epochs']}, best {record['best_epoch']} by {config.monitor}",
        "training time": f"{record['train_seconds']:.0f} s",
        "hardware": record["hardware"],
        "command": record["command"],
    }


def _log_hparams(config: DictConfig, trainer: Trainer, results: dict[str, Any]) -> None:
    final = {f"{stage}/{name}": own[name] for stage, own in results.items() for name in ("loss", "acc", "f1_macro")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings(config), {f"final/{name}": value for name, value in final.items()})
            logger.finalize("success")


if __name__ == "__main__":
    main()
