from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faces import write_folders
from PIL import Image

from emotion.data.classes import CLASSES
from emotion.data.sources import FolderSource
from emotion.errors import UserError


def test_classes_keep_their_shares(tmp_path: Path) -> None:
    assert write_folders(tmp_path, "synthetic", tmp_path / "none", 200) == {"train": 200, "val": 50, "test": 7}
    source = FolderSource(tmp_path)
    counts = Counter((file.part, CLASSES[file.label]) for file in source.files)
    assert sum(counts[("train", name)] for name in CLASSES) == 200
    assert sum(counts[("val", name)] for name in CLASSES) == 50
    assert all(counts[(part, name)] >= 1 for part in ("train", "val", "test") for name in CLASSES)
    # FER2013 has 25 % happy and 1.5 % disgust.
    assert 45 <= counts[("train", "happy")] <= 60
    assert counts[("train", "disgust")] <= 6
    with Image.open(source.files[0].path) as image:
        assert (image.mode, image.size) == ("L", (48, 48))


def test_no_image_is_in_two_parts(tmp_path: Path) -> None:
    write_folders(tmp_path, "synthetic", tmp_path / "none", 64)
    numbers = [path.stem for path in tmp_path.glob("*/*/*.jpg")]
    assert len(numbers) == len(set(numbers)) == 64 + 16 + 7


def test_of_fer2013_the_training_images_alone_are_used(tmp_path: Path, own_fer_tree: Path) -> None:
    for part, tone in (("train", 50), ("test", 200)):
        for path in own_fer_tree.glob(f"{part}/*/*.jpg"):
            for number in range(3 if part == "train" else 1):
                Image.new("L", (48, 48), tone).save(path.with_stem(f"{path.stem}{number}"))
            path.unlink()
    write_folders(tmp_path / "written", "fer2013", own_fer_tree, 28)
    written = [np.asarray(Image.open(path)).mean() for path in tmp_path.glob("written/*/*/*.jpg")]
    assert len(written) == 28 + 7 + 7
    assert max(written) == pytest.approx(50, abs=2)


def test_too_few_images(tmp_path: Path, fer_tree: Path) -> None:
    with pytest.raises(UserError, match="cannot be chosen"):
        write_folders(tmp_path, "fer2013", fer_tree, 100)
