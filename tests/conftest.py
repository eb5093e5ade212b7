import copy
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from emotion.data.classes import CLASSES
from emotion.data.packed import PackedImages, pack
from emotion.data.sources import Fer2013Folders
from emotion.data.synthetic import draw_image
from emotion.data.votes import VotesFile, open_votes
from emotion.privacy import NO_TELEMETRY

# Before a test imports onnxruntime by itself.
os.environ.update(NO_TELEMETRY)
# On a busy machine threads wait for each other longer than such small networks compute, and runs to be compared bit by
# bit need the same number of them in every process. Lightning raises the number unless the environment says one.
os.environ["OMP_NUM_THREADS"] = "1"
# The tests compare with values of CPUs, and many runs would share a GPU; CUDA_VISIBLE_DEVICES=0 makes it visible.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Read before `own_cache` hides it from the tests.
EMOTION_DATA = os.environ.get("EMOTION_DATA")
CHECKOUT_DATA = Path(__file__).parents[1] / "data" / "fer2013"
EMOTION_VOTES = os.environ.get("EMOTION_VOTES")
CHECKOUT_VOTES = Path(__file__).parents[1] / "data" / "ferplus" / "votes.csv"
# Images per class of the small FER2013 tree, as unequal as the original's.
FER_COUNTS = {
    "train": dict(zip(CLASSES, (5, 2, 4, 8, 6, 4, 3), strict=True)),
    "public": dict.fromkeys(CLASSES, 2),
    "private": dict.fromkeys(CLASSES, 2),
}
FER_FILES = {
    "train": "train/{}/Training_{}.jpg",
    "public": "test/{}/PublicTest_{}.jpg",
    "private": "test/{}/PrivateTest_{}.jpg",
}

MakeFerTree = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sets one thread also where PyTorch was imported before the environment said so."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> Iterator[None]:
    """Parses each text of a configuration once, which is a quarter of the time of a composition."""
    load, parsed = OmegaConf.load, dict[str, Any]()

    def load_once(file: Any) -> Any:
        if not hasattr(file, "read"):
            return load(file)
        text = file.read()
        if text not in parsed:
            parsed[text] = load(io.StringIO(text))
        return copy.deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load_once))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps prepared data of the tests away from the user's, and the user's data away from the tests.

    The workers of pytest-xdist share the prepared images.
    """
    cache, base = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp()
    packed = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "packed"
    packed.mkdir(exist_ok=True)
    (cache / "packed").symlink_to(packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTION_CACHE", str(cache))
        patch.delenv("EMOTION_DATA", raising=False)
        yield cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def quick_runs() -> Iterator[None]:
    """Runs draw empty figures from here on."""
    from small_runs import blank_figures

    with blank_figures():
        yield


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """The real FER2013 image folders, for tests marked `real`: `$EMOTION_DATA`, or those of this checkout."""
    folder = Path(EMOTION_DATA or CHECKOUT_DATA).expanduser()
    if not EMOTION_DATA and not folder.is_dir():
        pytest.skip(f"no {folder}, and EMOTION_DATA does not say where FER2013 lies")
    return folder.resolve()


@pytest.fixture(scope="session")
def real_packed(fer2013: Path) -> PackedImages:
    """The real FER2013, packed once for all tests."""
    return pack(Fer2013Folders(fer2013))


@pytest.fixture(scope="session")
def make_fer_tree() -> MakeFerTree:
    """Makes a FER2013 tree of `FER_COUNTS` drawn faces; `names` gives the class folders other names."""

    def make(root: Path, names: tuple[str, ...] = CLASSES) -> Path:
        number = 0
        for part, counts in FER_COUNTS.items():
            for label, (name, count) in enumerate(zip(names, counts.values(), strict=True)):
                for _ in range(count):
                    path = root / FER_FILES[part].format(name, number)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(draw_image(label, seed=0, index=number)).save(path)
                    number += 1
        return root

    return make


@pytest.fixture(scope="session")
def fer_tree(tmp_path_factory: pytest.TempPathFactory, make_fer_tree: MakeFerTree) -> Path:
    """A small FER2013 tree that tests share and leave as it is."""
    return make_fer_tree(tmp_path_factory.mktemp("data") / "fer2013")


@pytest.fixture
def own_fer_tree(tmp_path: Path, make_fer_tree: MakeFerTree) -> Path:
    """A small FER2013 tree that the test may change."""
    return make_fer_tree(tmp_path / "fer2013")


@pytest.fixture(scope="session")
def real_votes() -> VotesFile:
    """The votes of FER+ on the images of the folders: `$EMOTION_VOTES`, or those of this checkout."""
    file = Path(EMOTION_VOTES or CHECKOUT_VOTES).expanduser()
    if not EMOTION_VOTES and not file.is_file():
        pytest.skip(f"no {file}, and EMOTION_VOTES does not say where the votes of FER+ lie")
    return open_votes(file)
