import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference.images import find_media, is_video, read_picture


@pytest.fixture
def small() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_a_picture_is_the_same_however_it_is_given(small: NDArray[np.uint8], tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(small).save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    transparent = np.dstack([small, np.zeros((4, 6), np.uint8)])
    for given in (path, str(path), "~/picture.png", path.read_bytes(), Image.open(path), small, transparent):
        assert np.array_equal(read_picture(given), small)


def test_grey_is_repeated(small: NDArray[np.uint8]) -> None:
    grey = small[..., 0]
    for given in (grey, grey[..., np.newaxis], Image.fromarray(grey)):
        read = read_picture(given)
        assert read.flags.c_contiguous
        assert np.array_equal(read, np.dstack([grey] * 3))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array) -> None:
    with pytest.raises(BadImageError, match="array"):
        read_picture(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_are_refused_in_a_sentence(kind: str, small: NDArray[np.uint8], tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (40, 40, 1))).save(file, kind)
    path = tmp_path / "half"
    for size in (0, 10, 100, len(file.getvalue()) // 2):
        path.write_bytes(file.getvalue()[:size])
        with pytest.raises(BadImageError) as error:
            read_picture(path)
        assert str(error.value) == f"{path}: not an image that can be read"


def test_what_is_not_there_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(BadImageError, match="not an image"):
        read_picture(tmp_path)


def test_files_folders_and_patterns_name_files_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/film.mp4", "deep/notes.txt", "odd[1] name.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.JPG", "b.png", "deep/er/c.webp", "deep/film.mp4", "odd[1] name.png"]
    assert find_media([tmp_path]) == [tmp_path / name for name in names]
    assert find_media([tmp_path / "b.png", tmp_path, tmp_path / "b.png"])[0] == tmp_path / "b.png"
    assert len(find_media([tmp_path / "b.png", tmp_path])) == 5
    assert find_media([tmp_path / "odd[1] name.png"]) == [tmp_path / "odd[1] name.png"]
    assert find_media([f"{tmp_path}/*.png"]) == [tmp_path / "b.png", tmp_path / "odd[1] name.png"]
    assert find_media([f"{tmp_path}/**/*.webp"]) == [tmp_path / "deep/er/c.webp"]
    assert find_media([tmp_path / "deep/notes.txt"]) == [tmp_path / "deep/notes.txt"]  # named, so it is tried
    assert is_video(Path("x.MP4"))
    assert not is_video(Path("x.jpg"))


def test_words_that_name_nothing(tmp_path: Path) -> None:
    for word, part in (("nothing.png", "no such file"), ("*.none", "no such file"), (tmp_path, "no images or videos")):
        with pytest.raises(UserError, match=part):
            find_media([word])
