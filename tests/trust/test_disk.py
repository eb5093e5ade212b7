"""Disks that fill up while training writes, and processes that want the same place."""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL, differences, finish, start, train

from emotion.errors import UserError
from emotion.training import run
from emotion.training.checkpoint import load_checkpoint
from emotion.training.folder import RunFolder

Record = Callable[[str, int, int], None]
WORDS = ["image_size=48", "trainer.max_epochs=2"]
# In KiB. The prepared images take 500, then come small files, then three checkpoints of 15,000, and results of 900.
SPACE = [22_000]
MORE_SPACE = [45_700]
ALL_SPACE = [300, 520, 600, 700, 8_000, 16_000, 31_000, 36_000, 45_600, 45_708, 45_712, 45_800, 46_000, 46_300]
LARGEST_FILES = [10_000]
ALL_LARGEST_FILES = [2, 30, 100, 200, 400, 490]
# A file system of its own for one command, which no other process sees and which goes with it.
MOUNTED = """
mount -t tmpfs -o size="$1"k tmpfs "$2" || exit 99
shift 2
"$@"
status=$?
cp -a "$TMPFS"/. "$KEPT"
exit $status
"""


def note(path: Path, line: object) -> None:
    """Adds a line to a file that several processes write, in one piece."""
    with path.open("a") as file:
        file.write(f"{line}\n")


def note_trainings(path: Path) -> None:
    """Makes this process write a line where it begins to train."""
    real = run.fit

    def fit(*arguments: Any) -> run.Trained:
        note(path, os.getpid())
        return real(*arguments)

    run.fit = fit  # type: ignore[assignment]


def note_made(path: Path, cache: Path) -> None:
    """Makes this process write a line for whatever it puts in its place in the cache."""

    def watch(event: str, facts: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(facts[1]).startswith(str(cache)):
            note(path, facts[1])

    sys.addaudithook(watch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(tmp_path_factory.mktemp("undisturbed") / "run", *WORDS)


def command(root: Path) -> list[str]:
    return [sys.executable, "-m", "emotion.training.command", *SMALL, *WORDS, f"hydra.run.dir={root / 'run'}"]


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"EMOTION_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}


def is_damaged(root: Path, status: int, errors: str, reason: str, undisturbed: RunFolder) -> str:
    """Says what is wrong after a command that met a full disk, and after it was given again with space."""
    folder = RunFolder(root / "run")
    if status != 2 or f"error: {reason}: complete files are intact" not in errors or "Traceback" in errors:
        return f"it ended with {status}: {errors}"
    if rests := list(root.rglob("*.tmp*")):
        return f"it left {rests}"
    for checkpoint in folder.checkpoints.glob("*"):
        load_checkpoint(checkpoint)
    again = finish(start(folder.path, *WORDS, cache=root / "cache"))
    if again:
        return f"the second time it ended with {again}"
    return ", ".join(differences(undisturbed, folder))


@pytest.mark.forms("size", test=SPACE, check=MORE_SPACE, nightly=ALL_SPACE)
def test_a_disk_that_fills_up_costs_nothing_that_was_complete(
    tmp_path: Path, undisturbed: RunFolder, size: int, record: Record
) -> None:
    unshare = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c", MOUNTED, "sh"]
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    places = environment(small) | {"TMPFS": str(small), "KEPT": str(kept)}
    words = [*unshare, str(size), str(small), *command(small)]
    done = subprocess.run(words, env=places, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or done.returncode == 99:
        pytest.skip("this machine lets nobody mount a file system")
    damage = is_damaged(kept, done.returncode, done.stderr, "No space left on device", undisturbed)
    record("disk full while training; then space, and the same command again", 1, bool(damage))
    assert not damage


@pytest.mark.forms("size", test=LARGEST_FILES, check=[], nightly=ALL_LARGEST_FILES)
def test_a_limit_to_the_size_of_files_costs_nothing_that_was_complete(
    tmp_path: Path, undisturbed: RunFolder, size: int, record: Record
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * 1024, size * 1024))

    done = subprocess.run(
        command(tmp_path),
        env=environment(tmp_path),
        cwd=tmp_path,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    damage = is_damaged(tmp_path, done.returncode, done.stderr, "File too large", undisturbed)
    record("limit to the size of files met while training; lifted, and the same command again", 1, bool(damage))
    assert not damage


def test_a_folder_is_trained_in_by_one_process_at_a_time(
    tmp_path: Path, undisturbed: RunFolder, nightly: bool, record: Record
) -> None:
    times, lost = 10 if nightly else 1, []
    for number in range(times):
        folder = RunFolder(tmp_path / str(number))
        trainings = tmp_path / f"{number}.trainings"
        before = partial(note_trainings, trainings)
        together = [start(folder.path, *WORDS, cache=tmp_path / "cache", before=before) for _ in range(3)]
        statuses = sorted(map(finish, together))
        said, trained = folder.path.with_suffix(".log").read_text(), trainings.read_text().split()
        # One that comes late finds the run finished, and has nothing to do.
        refused = said.count("UserError: ")
        found = differences(undisturbed, folder)
        if statuses[0] != 0 or refused != sum(map(bool, statuses)) or len(trained) != 1 or found:
            lost.append((number, statuses, said, trained, found))
    record("three processes start one run in one folder: one trains, the others say so", times, len(lost))
    assert not lost


def test_the_folder_is_free_when_its_process_has_gone(tmp_path: Path, undisturbed: RunFolder) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(UserError, match="another process is training in it"):
        train(folder.path, *WORDS)
    process = start(folder.path, *WORDS)
    while not folder.config.exists():
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    finish(process)
    assert not differences(undisturbed, train(folder.path, *WORDS))


def test_processes_that_prepare_the_same_data_and_features_share_them(
    tmp_path: Path, nightly: bool, record: Record
) -> None:
    frozen = ["model=timm", "backbone=mobilenetv3_small_050", "unfreeze=0", "weights=none"]
    words = [*WORDS, *frozen, "augment=false"]
    times, lost = 10 if nightly else 1, []
    for number in range(times):
        cache = tmp_path / f"cache{number}"
        folders = [RunFolder(tmp_path / f"{number}-{own}") for own in range(3)]
        made = tmp_path / f"{number}.made"
        before = partial(note_made, made, cache)
        together = [start(folder.path, *words, cache=cache, before=before) for folder in folders]
        statuses = list(map(finish, together))
        found = [one for other in folders[1:] for one in differences(folders[0], other)]
        kinds = sorted(Path(line).parent.name for line in made.read_text().splitlines())
        if any(statuses) or found or kinds != ["features", "packed"]:
            lost.append((number, statuses, found, kinds))
        shutil.rmtree(cache)
    record("three processes prepare the same images and features: done once, the same for all", times, len(lost))
    assert not lost
