import os
import resource
import struct
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


FILMS = Path(__file__).parent / "films"
"""Two videos of ten frames within 0.3 s, a pause, and ten frames from second 2 on; and one video in AV1."""


@pytest.mark.parametrize("rate", [10, 12.5, 29.97])
def test_written_frames_are_read_again(tmp_path: Path, rate: float) -> None:
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


def test_an_interrupted_write_leaves_only_the_old_file(tmp_path: Path) -> None:
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


def test_frames_that_cannot_be_written_get_a_message(tmp_path: Path) -> None:
    with (
        VideoFile(tmp_path / "film.mp4", 10) as file,
        pytest.raises(UserError, match=r"film\.mp4: .* cannot be written"),
    ):
        file.write(np.zeros((1, 1, 3), np.uint8))  # too small for the format
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_damaged_videos_get_a_message(content: bytes | None, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
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
    video.frames = 0  # as for a file that does not state its number of frames
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
    """Makes OpenCV return these properties for every file."""
    values = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in properties.items()}
    capture = type("Capture", (), {"isOpened": lambda self: True, "get": lambda self, key: values.get(key, 0.0)})
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: capture())


def test_files_without_a_rate_get_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_images_and_pipes_are_no_videos(kind: str | None, tmp_path: Path) -> None:
    path = tmp_path / "film01.mp4"
    Image.new("L", (64, 64)).save(path, kind) if kind else os.mkfifo(path)
    with pytest.raises(BadImageError, match=r"film01\.mp4: not a video but a picture, or no file at all$"):
        Video(path)


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_a_full_disk_gets_a_message(share: float, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
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


def read_all(path: Path) -> Video:
    """Reads a video to its end and checks that it is complete."""
    video = Video(path)
    for _ in video:
        pass
    video.require_whole()
    return video


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_frames_have_the_times_of_the_file(name: str) -> None:
    video = Video(FILMS / name)
    seconds = [video.second for _ in video]
    assert seconds == pytest.approx([start + 0.033 * index for start in (0, 2) for index in range(10)], abs=0.001)
    video.require_whole()


def test_frames_without_time_stamps_follow_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "film.mp4", 4)

    class Timeless:
        def __init__(self, name: str) -> None:
            self._capture = capture(name)

        def get(self, key: int) -> float:
            return 0.0 if key == cv2.CAP_PROP_POS_MSEC else self._capture.get(key)

        def __getattr__(self, name: str):
            return getattr(self._capture, name)

    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Timeless)
    video = Video(tmp_path / "film.mp4")
    assert [video.second for _ in video] == pytest.approx([0, 0.1, 0.2, 0.3])


def write_noise(path: Path, codec: str = "mp4v") -> bytes:
    """Writes 40 frames of noise, which have similar sizes: a share of the bytes holds that share of the frames."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (96, 64))
    for frame in np.random.default_rng(0).integers(0, 256, (40, 64, 96, 3), np.uint8):
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def test_a_video_with_longer_sound_is_complete_but_not_its_half(tmp_path: Path) -> None:
    content = bytearray(write_noise(tmp_path / "film.mkv"))
    duration = content.index(b"\x44\x89\x88") + 3
    content[duration : duration + 8] = struct.pack(">d", 3 * struct.unpack(">d", content[duration : duration + 8])[0])
    (tmp_path / "film.mkv").write_bytes(content)
    video = read_all(tmp_path / "film.mkv")
    assert (video.read, video.frames) == (40, 120)
    (tmp_path / "film.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError, match=r"film\.mkv: damaged, only \d+ of 120 frames can be read"):
        read_all(tmp_path / "film.mkv")


def trimmed(path: Path) -> bytes:
    """Returns a video of 40 frames whose edit list shows the first third, as trimming on phones writes it."""
    content = bytearray(write_noise(path))
    length = content.index(b"elst") + 12
    content[length : length + 4] = struct.pack(">I", struct.unpack(">I", content[length : length + 4])[0] // 3)
    return bytes(content)


def test_a_trimmed_video_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(trimmed(path))
    video = read_all(path)
    assert video.frames == 40
    assert video.read == pytest.approx(14, abs=1)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".3gp", ".m4v"])
def test_a_video_with_a_hole_is_damaged(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"film{suffix}"
    content = bytearray(write_noise(path))
    hole = slice(len(content) * 2 // 5, len(content) * 3 // 5)
    content[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"damaged, only \d+ of 40 frames can be read"):
        read_all(path)


def test_a_partly_downloaded_video_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    content = write_noise(path)
    at = content.index(b"moov") - 4
    index = bytearray(content[at:])  # moved to the front, as in videos for the web
    count, table = index.index(b"stco") + 8, index.index(b"stco") + 12
    for entry in range(struct.unpack(">I", index[count : count + 4])[0]):
        place = slice(table + 4 * entry, table + 4 * entry + 4)
        index[place] = struct.pack(">I", struct.unpack(">I", index[place])[0] + len(index))
    start = content.index(b"ftyp") - 4 + struct.unpack(">I", content[:4])[0]
    moved = content[:start] + bytes(index) + content[start:at]
    path.write_bytes(moved)
    assert read_all(path).read == 40
    path.write_bytes(moved[: len(moved) // 2])
    with pytest.raises(BadImageError, match=r"film\.mp4: damaged, only \d+ of 40 frames can be read"):
        read_all(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("x.flv", "FLV1"), ("x.wmv", "WMV2"), ("x.ts", "mp4v"), ("x.m2ts", "mp4v"), ("x.mpg", "PIM1"), ("x.webm", "VP80")],
)
def test_videos_of_other_formats_are_complete(name: str, codec: str, tmp_path: Path) -> None:
    write_noise(tmp_path / name, codec)
    assert read_all(tmp_path / name).read == 40


def test_the_message_names_a_missing_codec_and_the_command(capfd: pytest.CaptureFixture) -> None:
    path = FILMS / "av1.mp4"
    with pytest.raises(BadImageError) as error:
        read_all(path)
    assert str(error.value) == (
        f"{path}: coded as AV01, which OpenCV cannot decode here, or damaged; convert it with "
        f"`ffmpeg -i {path} -c:v libx264 converted.mp4`"
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rate", [66.667, 211.222, 239.76, 959.04, 23.976, 7.4927, 0.5, 1 / 30, 1000, 90_000])
def test_odd_rates_are_written(rate: float, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write(tmp_path / "film.mp4", 5, rate=rate)
    video = read_all(tmp_path / "film.mp4")
    assert video.read == 5
    assert video.rate == pytest.approx(min(rate, 65_535), rel=2e-4, abs=1e-3)
    assert capfd.readouterr().err == ""


def test_videos_without_permission_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path / "film.mp4")
    monkeypatch.setattr(Path, "open", refuse)  # patched, since root can open every file
    with pytest.raises(BadImageError, match=r"film\.mp4: Permission denied$"):
        Video(tmp_path / "film.mp4")


@pytest.mark.parametrize("chosen", [None, "16"])
def test_messages_of_opencv_are_silenced_only_while_it_works(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL", raising=False)
    if chosen:
        monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", chosen)

    def state() -> tuple[int, str | None]:
        return cv2.utils.logging.getLogLevel(), os.environ.get("OPENCV_FFMPEG_LOGLEVEL")

    before = state()
    write(tmp_path / "written.mp4")
    assert state() == before
    video = Video(tmp_path / "written.mp4")
    assert [state() for _ in video] == [before] * 12
    video.require_whole()
    with pytest.raises(BadImageError):
        Video(tmp_path / "missing.mp4")
    assert state() == before
