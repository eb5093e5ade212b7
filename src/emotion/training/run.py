"""One run: settings, data, network, training, test of the best checkpoint, results."""

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from emotion.analysis.figures import read_curves
from emotion.config import read
from emotion.data.classes import count_images
from emotion.data.datamodule import EmotionDataModule, Stage
from emotion.data.loader import global_batch_sizes
from emotion.errors import INTERRUPTED, UserError, first_line
from emotion.overrides import require_effect
from emotion.settings import Settings
from emotion.training.checkpoint import load_checkpoint
from emotion.training.environment import describe_hardware
from emotion.training.folder import RunFolder, read_json
from emotion.training.loggers import log_results
from emotion.training.memory import explain_out_of_memory, is_out_of_memory
from emotion.training.prepared import Prepared, claim, prepare
from emotion.training.results import predict_stages, write_results
from emotion.training.resume import resumed_config
from emotion.training.task import EmotionTask

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
    "ReduceLROnPlateau conditioned on metric",  # which the task steps itself
)
"""Warnings of PyTorch and Lightning about things that a run does on purpose."""
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
        settings = _validated(config, folder, overrides)
        if settings.run.overwrite or not folder.is_finished(settings):
            train(settings, folder)
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
        if not overwrite and folder.is_finished(settings):
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
        images, size = len(self.data.train_set[2]), self.data.batches.batch_size
        return sum(global_batch_sizes(images, size, self.trainer.world_size)[: task.batches_per_epoch])


def train(settings: Settings, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Trained:
    """Trains from the start or from `last.ckpt`, and writes checkpoints to the folder.

    Args:
        settings: the settings of the run.
        folder: folder of the run.
        callbacks: further callbacks, beside those of every run.
    """
    with _without_expected_warnings():
        return fit(prepare(settings, folder, callbacks), folder)


def fit(prepared: Prepared, folder: RunFolder) -> Trained:
    """Trains a prepared run, and writes checkpoints to the folder."""
    trainer, timer = prepared.trainer, prepared.timer
    last = folder.last if folder.state != "new" and not prepared.settings.run.overwrite else None
    if last is None:
        claim(prepared.settings, folder, prepared.epochs)
    try:
        trainer.fit(prepared.task, prepared.data, ckpt_path=last, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {first_line(error)}") from None
    except SIGTERMException:
        # Lightning raises this between two batches, after `ThrottledCheckpointIO` has written pending checkpoints.
        log.warning("ended by SIGTERM in epoch %d: %s", trainer.current_epoch + 1, _how_to_continue(prepared, folder))
        raise SystemExit(SIGTERM_STATUS) from None
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):  # which Lightning turns into an exit
            raise
        log.warning("interrupted in epoch %d: %s", trainer.current_epoch + 1, _how_to_continue(prepared, folder))
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        of_machine = isinstance(error, UserError | OSError) or is_out_of_memory(error)
        if last is None or timer.start_time() is not None or of_machine:
            raise
        # An error of another kind before the first step of a resumed run comes from the content of its checkpoint.
        raise UserError(f"{last}: cannot be resumed ({first_line(error)}); overwrite=true starts again") from error
    if timer.start_time() is None:
        patience = trainer.early_stopping_callback
        stopped = patience is not None and patience.stopped_epoch > 0
        reason = ": it had stopped early, and a larger patience= trains on" if stopped else ""
        log.info("nothing is left to train after epoch %d%s", prepared.epochs, reason)
        claim(prepared.settings, folder, prepared.epochs)
    return Trained(trainer, prepared.data, timer.time_elapsed("train"))


def _how_to_continue(prepared: Prepared, folder: RunFolder) -> str:
    if folder.replaced.is_dir() and not folder.last.is_file():
        return f"the run before it stays in {folder.path}; the same command starts again"
    words, settings = [f"resume={folder.path}"], prepared.settings
    # The folder does not keep these two.
    if not settings.training.test:
        words.append("test=false")
    if settings.run.logger:
        words.append(f"logger={settings.run.logger}")
    return f"{' '.join(words)} continues"


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
        "test_images": len(trained.data.rows.test),
        "train_seconds": round(trained.seconds, 1),
        "images_per_second": round(epochs * images / trained.seconds, 1),
        "hardware": describe_hardware(environment, device, trained.trainer.world_size),
        "precision": str(trained.trainer.precision),
        "command": environment["command"],
        **({"teachers": best.task.hparams["teachers"]} if settings.distillation.teacher else {}),
        **({"changes": environment["changes"]} if "changes" in environment else {}),
        "data": trained.data.packed.digest,
    }
    title = f"{settings.run.model}, seed {settings.run.seed}"
    history = read_curves(folder.csv_files())
    results = write_results(
        folder.path, title, _facts(settings, record, trained.data), stages, trained.data, history, best.epoch, record
    )
    names = ("loss", "acc", "f1_macro")
    final = {f"{stage}/{name}": results[stage][name] for stage in evaluated for name in names}
    log_results(trained.trainer.loggers, settings, final)
    last, metrics = evaluated[-1], results[evaluated[-1]]
    log.info(
        "%s accuracy %.4f, macro F1 %.4f on %s",
        last,
        metrics["acc"],
        metrics["f1_macro"],
        count_images(metrics["num_images"]),
    )
    log.info("report: %s", folder.path / "report.html")


def _validated(config: DictConfig, folder: RunFolder, overrides: list[str]) -> Settings:
    if config.resume:
        config = resumed_config(config, folder, overrides)
    settings = read(config)
    require_effect(overrides, settings.flat())
    return settings


def _facts(settings: Settings, record: dict[str, Any], data: EmotionDataModule) -> dict[str, str]:
    values = settings.flat()
    keys = ("model", "init", "weights", "data", "data_dir", "split", "balance", "seed", "batch_size", "lr")
    unused = [key for key in ("init", "weights", "data_dir") if values[key] is None]
    if values["backbone"] is None:
        unused.append("weights")
    numbers = {"training": data.rows.train, "validation": data.rows.val, "test": data.rows.test}
    return (
        {key: str(values[key]) for key in keys if key not in unused}
        | {
            "classes": ", ".join(data.packed.classes),
            "images": ", ".join(f"{len(rows):,} {name}" for name, rows in numbers.items()),
        }
        | ({"teachers": "; ".join(record["teachers"])} if "teachers" in record else {})
        | {
            "epochs": f"{record['epochs']}, best {record['best_epoch']} by {settings.training.monitor}",
            "training time": f"{record['train_seconds']:.0f} s",
            "hardware": record["hardware"],
            "precision": record["precision"],
            "command": record["command"],
        }
        | {
            f"after epoch {change['after_epoch']}": ", ".join(
                f"{key}={after} (was {before})" for key, (before, after) in change["changed"].items()
            )
            for change in record.get("changes", ())
        }
    )
