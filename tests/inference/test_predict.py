from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from emotion.errors import UserError
from emotion.inference.predict import Prediction
from emotion.inference.recognizer import Recognizer
from emotion.inference.video import Video, VideoFile


@pytest.fixture
def film(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Twelve frames of the photograph, of which the last six are black."""
    path = tmp_path / "film.avi.mp4"
    with VideoFile(path, 10) as file:
        for index in range(12):
            file.write(pixels[:480, :480] if index < 6 else np.zeros((480, 480, 3), np.uint8))
    return path


def test_good_files_are_judged_beside_bad_ones(
    tmp_path: Path, portrait: Path, recognizer: Recognizer, pixels: NDArray[np.uint8]
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    (tmp_path / "c.mp4").write_bytes(b"no film")
    Image.new("L", (50, 50)).save(tmp_path / "d.png")
    complaints: list[str] = []
    prediction = Prediction(recognizer, complain=complaints.append)
    records = prediction.run([tmp_path])
    assert [(Path(record.file).name, len(record.faces)) for record in records] == [("a.png", 1), ("d.png", 0)]
    assert list(records[0].faces) == recognizer.predict(pixels)
    assert prediction.failed == 2
    assert complaints == [
        f"{tmp_path / 'b.jpg'}: not an image that can be read",
        f"{tmp_path / 'c.mp4'}: not a video that can be read",
    ]


def test_without_detection_each_picture_is_a_face(tmp_path: Path, recognizer: Recognizer) -> None:
    for number in range(20):
        Image.new("L", (48, 48), number * 10).save(tmp_path / f"{number:02}.png")
    records = Prediction(recognizer, detect=False).run([tmp_path])
    assert [Path(record.file).stem for record in records] == [f"{number:02}" for number in range(20)]
    assert all(record.faces[0].box == (0, 0, 48, 48) for record in records)


@pytest.mark.parametrize(("every", "seconds"), [(1, [n / 10 for n in range(12)]), (5, [0, 0.5, 1]), (100, [0])])
def test_of_videos_every_so_many_frames(film: Path, recognizer: Recognizer, every: int, seconds: list[float]) -> None:
    records = Prediction(recognizer, every=every).run([film])
    assert [record.second for record in records] == pytest.approx(seconds)
    assert [len(record.faces) for record in records] == [int(second < 0.6) for second in seconds]


def test_copies_lie_as_the_originals_do(tmp_path: Path, film: Path, recognizer: Recognizer, pixels) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    film.rename(tmp_path / "in/film.MOV")
    for name in ("in/same.png", "in/deep/same.png", "in/p.gif", "in/p.jpg", "in/p.ppm", "in/p.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(tmp_path / "in/turned.jpg", exif=exif)
    Prediction(recognizer, out=tmp_path / "out", every=3).run([tmp_path / "in"])
    copies = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert copies == {
        "same.png", "deep/same.png", "p.gif", "p.jpg", "p.ppm", "p.webp", "turned.jpg", "film.MOV.mp4"
    }  # fmt: skip
    for name in copies - {"film.MOV.mp4"}:
        copy = np.asarray(Image.open(tmp_path / "out" / name).convert("RGB")).astype(int)
        assert copy.shape == pixels.shape
        assert np.abs(copy - pixels)[112:114, 160:360].mean() > 40, name  # the upper line of the box
        assert np.abs(copy - pixels)[400:].mean() < 12, name
    copy = Video(tmp_path / "out/film.MOV.mp4")
    assert (copy.rate, copy.frames) == (10, 12)


def test_copies_never_replace_the_originals(tmp_path: Path, recognizer: Recognizer) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link", tmp_path / "sub" / ".."):
        with pytest.raises(UserError, match="would replace the files themselves"):
            Prediction(recognizer, out=out).run([tmp_path / "a.png"])


def test_progress_is_told(tmp_path: Path, film: Path, recognizer: Recognizer) -> None:
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    told: list[int | None] = []

    def progress(items, total=None):
        told.append(total)
        yield from items

    Prediction(recognizer, progress=progress, every=50).run([tmp_path])
    assert told == [None, 12]
