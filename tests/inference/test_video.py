import os
import resource
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.errors import UserError
from emotion.inference.video import Video, VideoFile


def frames(number: int, shape=(64, 96)):
    for index in range(number):
        frame = np.zeros((*shape, 3), np.uint8)
        frame[..., 0], frame[..., 2] = 20 * index, 200
        yield frame


def write(path: Path, number: int = 12, rate: float = 10, **options) -> None:
    with VideoFile(path, rate) as file:
        for frame in frames(number, **options):
            file.write(frame)


@pytest.mark.parametrize("rate", [10, 12.5, 29.97])
def test_what_is_written_is_read_again(tmp_path: Path, rate: float) -> None:
    write(tmp_path / "deep" / "film.mp4", rate=rate)
    video = Video(tmp_path / "deep" / "film.mp4")
    assert video.rate == pytest.approx(rate, rel=1e-4)
    assert video.frames == 12
    read = list(video)
    assert len(read) == video.read == 12
    video.require_whole()
    for index, frame in enumerate(read):
        assert frame.shape == (64, 96, 3)
        assert frame.dtype == np.uint8
        assert frame.mean((0, 1)) == pytest.approx([20 * index, 0, 200], abs=8)  # red, green, blue
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["film.mp4"]


def test_odd_sizes_lose_a_row_or_column(tmp_path: Path) -> None:
    frame = np.zeros((17, 33, 3), np.uint8)
    frame[:8] = 250
    with VideoFile(tmp_path / "film.mp4", 10) as file:
        file.write(frame)
    (read,) = Video(tmp_path / "film.mp4")
    assert read.shape == (16, 32, 3)
    assert np.abs(read.astype(int) - frame[:16, :32]).mean() < 10


def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"old")

    def interrupt() -> None:
        with VideoFile(tmp_path / "film.mp4", 10) as file:
            file.write(next(frames(1)))
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_no_frames_make_no_file(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        VideoFile(tmp_path / "film.mp4", 10) as file,
        pytest.raises(UserError, match=r"film\.mp4: .* cannot be written"),
    ):
        file.write(np.zeros((1, 1, 3), np.uint8))  # too small for the format
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no film", None])
def test_damaged_videos_get_a_sentence(content: bytes | None, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write(tmp_path / "whole.mp4")
    path = tmp_path / "film.mp4"
    path.write_bytes((tmp_path / "whole.mp4").read_bytes()[:400] if content is None else content)
    with pytest.raises(BadImageError) as error:
        Video(path)
    assert str(error.value) == f"{path}: not a video that can be read"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("share", "whole"), [(0.3, False), (0.8, False), (0.97, True), (1, True)])
def test_videos_that_end_early(share: float, whole: bool, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for frame in np.random.default_rng(0).integers(0, 256, (40, 64, 96, 3), np.uint8):
        writer.write(frame)
    writer.release()
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    video = Video(path)
    read = len(list(video))
    assert video.frames == 40
    assert read == pytest.approx(40 * share, abs=2)
    if whole:
        video.require_whole()
    else:
        with pytest.raises(BadImageError, match=rf"film\.avi: damaged, only {read} of 40 frames can be read"):
            video.require_whole()
    assert capfd.readouterr().err == ""


def test_a_video_without_any_frame_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4")
    video = Video(tmp_path / "film.mp4")
    video.frames = 0  # as where a file does not say
    with pytest.raises(BadImageError, match="damaged"):
        video.require_whole()
    list(video)
    video.require_whole()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_opencv_would_crash_on(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4")
    odd = tmp_path / os.fsdecode(b"film\xff.mp4")
    (tmp_path / "film.mp4").rename(odd)
    with pytest.raises(BadImageError, match="must be UTF-8"):
        Video(odd)
    with VideoFile(tmp_path / os.fsdecode(b"copy\xff.mp4"), 10) as file, pytest.raises(BadImageError, match="UTF-8"):
        file.write(next(frames(1)))
    for name in ("film%03d.mp4", "Fïlm 日本 'x' [1].mp4"):
        write(tmp_path / name, 3)
        assert len(list(Video(tmp_path / name))) == 3


def pretend(monkeypatch: pytest.MonkeyPatch, **properties: float) -> None:
    """Makes OpenCV tell these properties of any file."""
    told = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in properties.items()}
    capture = type("Capture", (), {"isOpened": lambda self: True, "get": lambda self, key: told.get(key, 0.0)})
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: capture())


def test_files_that_do_not_say_their_rate_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "film.mp4")
    pretend(monkeypatch, FPS=0.0, FRAME_COUNT=-9.2e18)
    video = Video(tmp_path / "film.mp4")
    assert (video.rate, video.frames) == (25, 0)


def test_frames_of_too_many_pixels_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "film.mp4")
    pretend(monkeypatch, FRAME_WIDTH=8000.0, FRAME_HEIGHT=8000.0)
    with pytest.raises(BadImageError, match=r"film\.mp4: 8000 x 8000 pixels are more than 51,000,000$"):
        Video(tmp_path / "film.mp4")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", None])
def test_pictures_and_pipes_are_no_videos(kind: str | None, tmp_path: Path) -> None:
    path = tmp_path / "film01.mp4"
    Image.new("L", (64, 64)).save(path, kind) if kind else os.mkfifo(path)
    with pytest.raises(BadImageError, match=r"film01\.mp4: not a video but a picture, or no file at all$"):
        Video(path)


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_a_disk_that_is_full_is_told(share: float, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 240, 320, 3), np.uint8)

    def save() -> int:
        with VideoFile(tmp_path / "film.mp4", 10) as file:
            for frame in noise:
                file.write(frame)
        return (tmp_path / "film.mp4").stat().st_size

    size = save()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (round(share * size), before[1]))
    try:
        with pytest.raises(UserError, match=r"film\.mp4: not all of 10 frames could be written; the disk may be full$"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("film.mp4", size)]
    assert capfd.readouterr().err == ""
