from pathlib import Path

import numpy as np
import pytest

from emotion.data.decode import BadImageError
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


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "film.mp4")
    video = Video(tmp_path / "deep" / "film.mp4")
    assert (video.rate, video.frames) == (10, 12)
    read = list(video)
    assert len(read) == 12
    for index, frame in enumerate(read):
        assert frame.shape == (64, 96, 3)
        assert frame.mean((0, 1)) == pytest.approx([20 * index, 0, 200], abs=8)  # red, green, blue
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["film.mp4"]


def test_what_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        with VideoFile(tmp_path / "film.mp4", 10) as file:
            file.write(next(frames(1)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


def test_no_frames_make_no_file(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", 0)
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
