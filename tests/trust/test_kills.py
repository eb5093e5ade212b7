"""Training that is killed at any moment, and the same command again: the same run to the last bit."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import differences, finish, start

from emotion.data import packed
from emotion.training import features
from emotion.training.callbacks import RandomState
from emotion.training.folder import RunFolder
from emotion.training.run import SIGTERM_STATUS

EPOCHS, STEPS, VAL_STEPS = 3, 5, 2
SETTINGS = {
    "class weights": ["balance=class_weights", "schedule=plateau", "lr_patience=1"],
    "weighted sampler": ["balance=weighted_sampler", "schedule=cosine"],
    "offline copies": ["balance=offline"],
    "no balance": ["balance=none", "monitor=val/acc"],
}
WHOLE = ["model=resnet_small", "width=4", "image_size=24", "dropout=0.2"]
FROZEN = ["model=timm", "backbone=mobilenetv3_small_050", "unfreeze=0", "weights=none", "feature_views=2"]
SETTINGS = {name: [*words, *WHOLE] for name, words in SETTINGS.items()} | {
    f"{name}, features": [*words, *FROZEN] for name, words in SETTINGS.items()
}
STOP = ["balance=none", "min_delta=10", "trainer.max_epochs=9"]
SETTINGS = {name: [*words, f"trainer.max_epochs={EPOCHS}"] for name, words in SETTINGS.items()} | {
    "early stopping": [*STOP, *WHOLE, f"patience={EPOCHS - 1}"],
    "early stopping under min_epochs": [*STOP, *WHOLE, "patience=1", f"trainer.min_epochs={EPOCHS}"],
}
"""The last two stop after as many epochs as the others train."""
# Where a process may be struck, and at most the how many-th time it comes there.
WORKING = {
    "on_train_batch_start": EPOCHS * STEPS,
    "on_train_epoch_start": EPOCHS,
    "on_validation_batch_start": EPOCHS * VAL_STEPS,
}
SAVING = {"best.ckpt": 1, "last.ckpt": EPOCHS, "predictions.npz": 1, "metrics.json": 1}
PREPARING = {"packing": 210, "computing features": 2, ".npy": 2}
RANDOM = "at any time"
# A setting, the signal and its moment.
SHORT = [
    ("class weights", signal.SIGKILL, "on_train_batch_start"),
    ("weighted sampler, features", signal.SIGTERM, "computing features"),
    ("early stopping under min_epochs", signal.SIGKILL, "last.ckpt"),
]
MORE = [
    ("weighted sampler", signal.SIGTERM, "on_validation_batch_start"),
    ("offline copies", signal.SIGKILL, "last.ckpt"),
    ("class weights", signal.SIGKILL, "packing"),
    ("weighted sampler, features", signal.SIGKILL, RANDOM),
    ("early stopping", signal.SIGKILL, "predictions.npz"),
    ("early stopping under min_epochs", signal.SIGTERM, "metrics.json"),
]
ALL = [
    (setting, (signal.SIGKILL, signal.SIGTERM)[(number + place) % 2], moment)
    for number, setting in enumerate(SETTINGS)
    for place, moment in enumerate([*WORKING, *SAVING, *PREPARING, RANDOM])
    if "features" in setting or moment not in ("computing features", ".npy")
]


@dataclass(frozen=True)
class Kill:
    """By which signal a process ends, where, and the how many-th time it comes there."""

    number: signal.Signals
    moment: str
    count: int


def arm(kill: Kill) -> None:
    """Makes this process send itself the signal at the moment."""
    left = [kill.count]

    def strike() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), kill.number)

    def track(items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
        for item in items:
            strike()
            yield item

    def watch(event: str, facts: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(facts[1]).endswith(kill.moment):
            strike()

    if kill.moment in WORKING:
        setattr(RandomState, kill.moment, lambda *_, **__: strike())
    elif kill.moment == "packing":
        packed.track = track  # type: ignore[assignment]
    elif kill.moment == "computing features":
        features.track = track  # type: ignore[assignment]
    else:
        sys.addaudithook(watch)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[RunFolder, float]]:
    """Gives the run that nothing disturbed, and the seconds it took."""
    root = tmp_path_factory.mktemp("undisturbed")
    known: dict[str, tuple[RunFolder, float]] = {}

    def give(setting: str) -> tuple[RunFolder, float]:
        if setting not in known:
            began = time.monotonic()
            assert finish(start(root / setting, *SETTINGS[setting])) == 0
            known[setting] = RunFolder(root / setting), time.monotonic() - began
        return known[setting]

    return give


def end(folder: Path, setting: str, number: signal.Signals, moment: str, chance: random.Random, seconds: float) -> None:
    """Has a run, and sees it end by the signal."""
    while moment == RANDOM:
        process = start(folder, *SETTINGS[setting], spacing=0)
        process.join(chance.uniform(0, seconds))
        {signal.SIGKILL: process.kill, signal.SIGTERM: process.terminate}[number]()
        if finish(process) in (-number, SIGTERM_STATUS):
            return
        for done in (folder, folder.with_suffix(".cache")):
            shutil.rmtree(done)  # it was faster than the one that nothing disturbed
        seconds /= 2
    kill = Kill(number, moment, chance.randint(1, (WORKING | SAVING | PREPARING)[moment]))
    process = start(folder, *SETTINGS[setting], spacing=0, before=partial(arm, kill))
    assert finish(process) in (-number, SIGTERM_STATUS), kill
    assert RunFolder(folder).state != "finished", kill


@pytest.mark.forms("kill", test=SHORT, check=MORE, nightly=ALL)
def test_killed_training_ends_as_if_undisturbed(
    tmp_path: Path,
    kill: tuple[str, signal.Signals, str],
    undisturbed: Callable[[str], tuple[RunFolder, float]],
    record: Callable[[str, int, int], None],
) -> None:
    setting, by, moment = kill
    expected, seconds = undisturbed(setting)
    folder = tmp_path / "run"
    end(folder, setting, by, moment, random.Random(str(kill)), seconds)
    status = finish(start(folder, *SETTINGS[setting]))
    found = differences(expected, RunFolder(folder)) if status == 0 else [f"it ended with {status}"]
    record("training killed (SIGKILL, SIGTERM) and started again: same weights and figures", 1, bool(found))
    assert not found


def test_a_run_that_is_asked_to_end_saves_first(
    tmp_path: Path, undisturbed: Callable[[str], tuple[RunFolder, float]]
) -> None:
    folder = RunFolder(tmp_path / "run")
    kill = Kill(signal.SIGTERM, "on_train_batch_start", 2 * STEPS + 3)
    # Nothing but the end of the run makes the second epoch's checkpoint due.
    assert (
        finish(start(folder.path, *SETTINGS["class weights"], spacing=1e9, before=partial(arm, kill))) == SIGTERM_STATUS
    )
    assert torch.load(folder.last, weights_only=True)["epoch"] == 1
    assert "ended by SIGTERM in epoch 3" in folder.path.with_suffix(".log").read_text()
    assert finish(start(folder.path, *SETTINGS["class weights"])) == 0
    assert not differences(undisturbed("class weights")[0], folder)
