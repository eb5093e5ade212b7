import logging
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion.data.classes import CLASSES, ClassRule
from emotion.data.packed import PackedImages, pack
from emotion.data.sources import Fer2013Csv, Fer2013Folders, FolderSource, LabelledImage, Source, SyntheticFaces
from emotion.data.synthetic import draw_image
from emotion.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "faces"
    for index, name in enumerate(("happy", "happy", "sad")):
        save(root / name / f"{index}.bmp", draw_image(3, seed=0, index=index))
    return root


@pytest.fixture
def passes(monkeypatch) -> list[Source]:
    """Collects the sources whose images are read, once per pass."""
    read = []
    for kind in (FolderSource, SyntheticFaces):
        original = kind.__iter__

        def recorded(self, original=original):
            read.append(self)
            return original(self)

        monkeypatch.setattr(kind, "__iter__", recorded)
    return read


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def packs(cache: Path) -> list[Path]:
    return [entry for entry in (cache / "packed").iterdir() if entry.is_dir()]


def assert_holds(packed: PackedImages, source: Source):
    items = list(source)
    assert packed.names.tolist() == [item.name for item in items]
    assert packed.labels.tolist() == [item.label for item in items]
    assert packed.parts.tolist() == [item.part for item in items]
    np.testing.assert_array_equal(packed.images, np.stack([item.pixels for item in items]))


@pytest.mark.parametrize("channels", [1, 3])
def test_pack_holds_the_images_of_the_source(tree, channels):
    source = FolderSource(tree, size=24, channels=channels)
    packed = pack(source)
    assert len(packed) == 3
    assert packed.images.shape == (3, channels, 24, 24)
    assert [array.dtype for array in (packed.images, packed.labels, packed.hashes)] == [np.uint8, np.int64, np.uint64]
    assert packed.skipped == ()
    assert_holds(packed, source)


def test_parts_of_fer2013_are_kept(fer_tree):
    source = Fer2013Folders(fer_tree)
    packed = pack(source)
    assert_holds(packed, source)
    assert Counter(packed.parts.tolist()) == {"train": 32, "public": 14, "private": 14}


def test_images_are_mapped_and_writing_stays_in_memory(tree, cache):
    packed = pack(FolderSource(tree))
    assert isinstance(packed.images, np.memmap)
    assert Path(packed.images.filename).is_relative_to(cache)
    before = packed.images[0].copy()
    packed.images[0] = 255 - before
    np.testing.assert_array_equal(pack(FolderSource(tree)).images[0], before)


def test_hashes_are_equal_exactly_where_pixels_are(tree):
    shutil.copy(tree / "happy" / "0.bmp", tree / "sad" / "copy.bmp")
    almost = draw_image(3, seed=0, index=0).copy()
    almost[47, 47] ^= 1
    save(tree / "sad" / "almost.bmp", almost)
    # The same values at other positions.
    save(tree / "sad" / "turned.bmp", draw_image(3, seed=0, index=0).T)
    packed = pack(FolderSource(tree))
    row = {name: number for number, name in enumerate(packed.names.tolist())}
    for first in row.values():
        for second in row.values():
            alike = np.array_equal(packed.images[first], packed.images[second])
            assert (packed.hashes[first] == packed.hashes[second]) == alike
    assert packed.hashes[row["sad/copy.bmp"]] == packed.hashes[row["happy/0.bmp"]]
    assert len(set(packed.hashes.tolist())) == 5


def test_digest_depends_on_images_labels_and_parts_alone(tree):
    packed = pack(FolderSource(tree))
    backwards = np.arange(len(packed))[::-1]
    moved = replace(
        packed, **{name: getattr(packed, name)[backwards] for name in ("images", "labels", "parts", "hashes")}
    )
    assert moved.digest == packed.digest
    for name in ("labels", "parts", "hashes"):
        other = getattr(packed, name).copy()
        other[0] = "val" if name == "parts" else other[0] + 1
        assert replace(packed, **{name: other}).digest != packed.digest, name


def test_digest_depends_on_other_classes(tree):
    packed = pack(FolderSource(tree))
    other = replace(packed, classes=("a", "b", "c", "d", "e", "f"))
    assert len({packed.digest, other.digest, replace(packed, classes=other.classes[::-1]).digest}) == 3


def test_digest_of_the_seven_is_that_of_earlier_versions():
    assert pack(SyntheticFaces(140)).digest == "34838aa0da11a1c2"


def test_pack_has_the_classes_of_its_source(tree):
    assert pack(FolderSource(tree)).classes == CLASSES
    for _ in range(2):
        packed = pack(FolderSource(tree, rule=ClassRule(["sad", "happy"])))
        assert packed.classes == ("sad", "happy")
        assert packed.labels.tolist() == [1, 1, 0]


def test_packs_of_other_classes_stay(tree, cache, passes):
    rules = [ClassRule(), ClassRule(["sad", "happy"]), ClassRule(["happy", "sad"]), ClassRule(exclude=["sad"])]
    for rule in [*rules, *rules]:
        packed = pack(FolderSource(tree, rule=rule))
        assert [packed.classes[label] for label in packed.labels] == ["happy", "happy", "sad"][: len(packed)]
    assert len(passes) == len(packs(cache)) == 4


@pytest.mark.parametrize("shares", [None, np.array([[0.25, 0.75], [1, 0], [0, 0]], np.float32)])
def test_images_of_other_sources_keep_classes_and_get_whole_shares(tree, tmp_path, shares):
    save(tmp_path / "more" / "sad" / "new.bmp", draw_image(5, seed=1, index=1))
    rule = ClassRule(["sad", "happy"])
    packed = replace(pack(FolderSource(tree, rule=rule)), shares=shares)
    extended = packed.extended([pack(FolderSource(tmp_path / "more", rule=rule))])
    assert extended.classes == ("sad", "happy")
    assert extended.labels.tolist() == [1, 1, 0, 0]
    assert extended.parts.tolist() == ["train", "train", "train", "extra"]
    if shares is None:
        assert extended.shares is None
    else:
        assert extended.shares.dtype == np.float32
        assert extended.shares.tolist() == [[0.25, 0.75], [1, 0], [0, 0], [1, 0]]


def test_different_images_have_different_hashes():
    packed = pack(SyntheticFaces(300))
    assert len({image.tobytes() for image in packed.images}) == len(set(packed.hashes.tolist())) == 300


def test_hashes_and_names_do_not_depend_on_path_and_other_images(tree, tmp_path):
    other = Path(shutil.copytree(tree, tmp_path / "elsewhere"))
    save(other / "angry" / "new.bmp", draw_image(0, seed=0, index=9))
    first, second = pack(FolderSource(tree)), pack(FolderSource(other))
    hashes = dict(zip(second.names.tolist(), second.hashes.tolist(), strict=True))
    assert hashes.pop("angry/new.bmp") not in first.hashes
    assert hashes == dict(zip(first.names.tolist(), first.hashes.tolist(), strict=True))


@pytest.mark.parametrize("make", [FolderSource, lambda tree: SyntheticFaces(140)], ids=["folder", "synthetic"])
def test_images_are_read_in_one_pass_and_the_second_time_not_at_all(tree, passes, make):
    first = pack(make(tree))
    assert len(passes) == 1
    second = pack(make(tree))
    assert len(passes) == 1
    np.testing.assert_array_equal(first.images, second.images)
    for name in ("labels", "parts", "names", "hashes"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


def test_no_image_is_decoded_the_second_time(fer_tree, monkeypatch):
    first = pack(Fer2013Folders(fer_tree))

    def refuse(*arguments):
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    assert pack(Fer2013Folders(fer_tree)).hashes.tolist() == first.hashes.tolist()


def change_keeping_the_size(tree: Path) -> None:
    path = tree / "happy" / "0.bmp"
    old = path.stat()
    save(path, draw_image(3, seed=1, index=0))
    assert path.stat().st_size == old.st_size
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))


def change_keeping_the_time(tree: Path) -> None:
    path = tree / "happy" / "0.bmp"
    old = path.stat()
    save(path, draw_image(3, seed=1, index=0, size=24))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def add(tree: Path) -> None:
    save(tree / "sad" / "new.bmp", draw_image(5, seed=1, index=1))


def remove(tree: Path) -> None:
    (tree / "happy" / "0.bmp").unlink()


def move_to_another_class(tree: Path) -> None:
    # Sizes, times and their order stay.
    (tree / "happy" / "1.bmp").rename(tree / "sad" / "1.bmp")


@pytest.mark.parametrize(
    "alter", [change_keeping_the_size, change_keeping_the_time, add, remove, move_to_another_class]
)
def test_changed_files_are_packed_again_and_the_stale_pack_removed(tree, cache, passes, alter):
    pack(FolderSource(tree))
    (stale,) = packs(cache)
    alter(tree)
    packed = pack(FolderSource(tree))
    assert len(passes) == 2
    assert_holds(packed, FolderSource(tree))
    (present,) = packs(cache)
    assert present != stale


def test_exchanged_images_are_packed_again(tree):
    """They have the same size and time, as files from an archive may have."""
    first, second, third = tree / "happy" / "1.bmp", tree / "sad" / "2.bmp", tree / "third"
    for path in (first, second):
        os.utime(path, ns=(0, 0))
    pack(FolderSource(tree))
    for old, new in ((first, third), (second, first), (third, second)):
        old.rename(new)
    assert_holds(pack(FolderSource(tree)), FolderSource(tree))


def test_a_changed_target_of_a_link_is_packed_again(tree):
    path, store = tree / "happy" / "1.bmp", tree / ".store.bmp"
    path.rename(store)
    path.symlink_to(store)
    before = pack(FolderSource(tree)).images.tolist()
    save(store, draw_image(3, seed=9, index=4, size=24))
    packed = pack(FolderSource(tree))
    assert packed.images.tolist() != before
    assert_holds(packed, FolderSource(tree))


def test_a_cache_that_cannot_be_written_is_read(tree, monkeypatch):
    before = pack(FolderSource(tree))

    def refuse(lock):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("emotion.data.packed.FileLock.acquire", refuse)
    assert pack(FolderSource(tree)).names.tolist() == before.names.tolist()


def test_changed_csv_is_packed_again(tmp_path, cache):
    path = tmp_path / "fer2013.csv"
    row = f"0,{' '.join(['7'] * 2304)},Training\n"
    path.write_text("emotion,pixels,Usage\n" + row)
    assert len(pack(Fer2013Csv(path))) == 1
    path.write_text("emotion,pixels,Usage\n" + row * 2)
    assert len(pack(Fer2013Csv(path))) == 2
    assert len(packs(cache)) == 1


def test_packs_of_other_sources_and_settings_stay(tree, cache, passes):
    sources = [FolderSource(tree), FolderSource(tree, size=24), FolderSource(tree, channels=3), SyntheticFaces(140)]
    for source in [*sources, *sources]:
        pack(source)
    assert passes == sources
    assert len(packs(cache)) == 4


def test_opened_pack_stays_readable_when_its_files_are_removed_as_stale(tree):
    packed = pack(FolderSource(tree))
    before = packed.images.copy()
    add(tree)
    assert len(pack(FolderSource(tree))) == 4
    np.testing.assert_array_equal(packed.images, before)


# Images that cannot be used


@pytest.fixture
def broken(tree) -> list[Path]:
    """Two files of the tree that are not images, in reading order."""
    paths = [tree / "happy" / "broken.bmp", tree / "sad" / "broken.bmp"]
    for path in paths:
        path.write_text("no image")
    return paths


def test_bad_image_is_an_error_with_its_path_and_advice(tree, broken, cache):
    with pytest.raises(UserError) as error:
        pack(FolderSource(tree))
    assert str(error.value).startswith(f"{broken[0]}: not an image")
    assert str(error.value).endswith("; on_bad_image=skip leaves out images that cannot be used")
    assert "\n" not in str(error.value)
    assert all(folder.suffix == ".tmp" for folder in packs(cache))


def test_bad_images_are_skipped_and_counted(tree, broken, caplog):
    caplog.set_level(logging.WARNING, "emotion")
    packed = pack(FolderSource(tree), "skip")
    assert packed.names.tolist() == ["happy/0.bmp", "happy/1.bmp", "sad/2.bmp"]
    assert [line.split(": ")[0] for line in packed.skipped] == [str(path) for path in broken]
    (warning,) = caplog.messages
    assert warning.startswith(f"2 images skipped: {broken[0]}: not an image")
    assert f"; {broken[1]}: " in warning
    assert "on_bad_image" not in warning


def test_skipped_images_are_reported_the_second_time_too(tree, broken, passes, caplog):
    caplog.set_level(logging.WARNING, "emotion")
    first, second = pack(FolderSource(tree), "skip"), pack(FolderSource(tree), "skip")
    assert len(passes) == 1
    assert first.skipped == second.skipped
    assert len(caplog.messages) == 2
    with pytest.raises(UserError, match=r"broken\.bmp: not an image .*on_bad_image=skip"):
        pack(FolderSource(tree), "error")


def test_repaired_images_are_packed(tree, broken):
    assert len(pack(FolderSource(tree), "skip")) == 3
    for index, path in enumerate(broken):
        save(path, draw_image(0, seed=2, index=index))
    packed = pack(FolderSource(tree))
    assert len(packed) == 5
    assert packed.skipped == ()


def test_images_that_have_become_readable_are_packed(tree):
    """As after the installation of a package that their format needs, which changes no file."""
    path = tree / "happy" / "0.bmp"
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(pack(FolderSource(tree), "skip")) == 2
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(pack(FolderSource(tree), "error")) == 3
    assert len(pack(FolderSource(tree), "skip")) == 3


def test_nothing_but_bad_images_is_an_error_with_the_folder(tmp_path):
    path = tmp_path / "faces" / "happy" / "face.bmp"
    path.parent.mkdir(parents=True)
    path.write_text("no image")
    with pytest.raises(UserError) as error:
        pack(FolderSource(tmp_path / "faces"), "skip")
    assert str(error.value).startswith(f"{tmp_path / 'faces'}: no image can be used; the first: {path}: not an image")


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_csv_without_rows_is_named(tmp_path, on_bad_image):
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n")
    with pytest.raises(UserError, match=r"fer2013\.csv"):
        pack(Fer2013Csv(path), on_bad_image)


# Runs that are killed, and runs that start together


class SlowSource(Source):
    """Six images; each pass adds a line to a log file and can kill its process at an image."""

    size = 8

    def __init__(self, log: Path, killed_at: int | None = None) -> None:
        self.log, self.killed_at = log, killed_at

    @property
    def location(self) -> str:
        return str(self.log)

    def stamp(self) -> object:
        return None

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[LabelledImage]:
        with self.log.open("a") as file:
            file.write("read\n")
        for index in range(len(self)):
            if index == self.killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
            yield LabelledImage(np.full((1, 8, 8), index, np.uint8), index, "train", f"image {index}")


def pack_together(log: Path, start, results) -> None:
    start.wait()
    packed = pack(SlowSource(log))
    results.put((packed.labels.tolist(), packed.images[:, 0, 0, 0].tolist()))


def pack_and_die(log: Path) -> None:
    pack(SlowSource(log, killed_at=3))


def test_two_processes_at_once_give_one_pack(tmp_path, cache):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    log = tmp_path / "log"
    workers = [context.Process(target=pack_together, args=(log, start, results), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    packed = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert packed == [(list(range(6)), list(range(6)))] * 2
    assert log.read_text() == "read\n"
    (folder,) = packs(cache)
    assert folder.suffix != ".tmp"


def test_leftovers_of_a_killed_run_are_removed(tmp_path, cache):
    log = tmp_path / "log"
    worker = multiprocessing.get_context("spawn").Process(target=pack_and_die, args=(log,), daemon=True)
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    (leftover,) = packs(cache)
    assert leftover.suffix == ".tmp"
    assert pack(SlowSource(log)).labels.tolist() == list(range(6))
    assert log.read_text() == "read\n" * 2
    (folder,) = packs(cache)
    assert folder.suffix != ".tmp"


def test_leftovers_of_a_pack_of_other_files_are_removed(tree, cache):
    pack(FolderSource(tree))
    (old,) = packs(cache)
    leftover = old.with_name(f"{old.name}.tmp")
    old.rename(leftover)
    add(tree)
    pack(FolderSource(tree))
    assert len(packs(cache)) == 1
    assert not leftover.exists()


@pytest.mark.parametrize("lost", ["index.npz", "images.u8"])
def test_pack_without_a_file_is_made_again(tree, cache, lost):
    pack(FolderSource(tree))
    (folder,) = packs(cache)
    # As after a run that was killed while removing a stale pack, or a clean-up of old files.
    (folder / lost).unlink()
    assert len(pack(FolderSource(tree))) == 3


@pytest.mark.parametrize("name", ["index.npz", "images.u8"])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-40], lambda content: content[40:]])
def test_pack_damaged_by_a_crash_is_made_again(tree, cache, name, damage):
    pack(FolderSource(tree))
    (folder,) = packs(cache)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    assert len(pack(FolderSource(tree))) == 3


# Real data


@pytest.mark.real
def test_real_fer2013_has_the_known_number_of_identical_images(real_packed):
    assert real_packed.images.shape == (35887, 1, 48, 48)
    by_hash = Counter(real_packed.hashes.tolist())
    sizes = [size for size in by_hash.values() if size > 1]
    assert (len(sizes), sum(sizes)) == (1516, 3369)
    by_pixels = Counter(image.tobytes() for image in real_packed.images)
    assert sorted(by_pixels.values()) == sorted(by_hash.values())


def test_copied_images_have_a_duplicate_in_the_training_part():
    hashes = np.array([5, 5, 7, 9, 9, 7, 8, 5], np.uint64)
    parts = np.array(["train", "train", "train", "train", "public", "private", "private", "test"])
    packed = PackedImages(np.zeros((8, 1, 2, 2), np.uint8), np.zeros(8, np.int64), parts, parts, hashes, ())
    assert packed.copied.tolist() == [True, True, False, False, True, True, False, True]
    nothing_to_train_on = replace(packed, parts=np.full(8, "test"))
    assert not nothing_to_train_on.copied.any()


@pytest.mark.real
def test_copied_images_of_fer2013_are_those_of_the_audit(real_packed):
    assert real_packed.copied[real_packed.parts == "public"].sum() == 280
    assert real_packed.copied[real_packed.parts == "private"].sum() == 288
