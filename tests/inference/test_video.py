import errno
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from drawn_films import draw_film, noise, pictures
from peak import Peak
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.inference import video as module
from emotion.inference.video import Video, VideoFile, open_camera

FILMS = Path(__file__).parent / "films"
"""Two videos of ten frames within 0.3 s, a pause, and ten frames from second 2 on; one video in AV1, and one
in HEVC."""
VARYING = [start + 0.033 * index for start in (0, 2) for index in range(10)]


def read_all(source) -> Video:
    """Reads a video to its end and checks that it is complete."""
    video = Video(source)
    video.seconds = [frame.second for frame in video]
    video.require_whole()
    return video


def write(path: Path, number: int = 12, rate: float = 10, shape: tuple[int, int] = (64, 96), source=None) -> None:
    with VideoFile(path, source) as file:
        for index, picture in enumerate(pictures(number, *shape)):
            file.write(picture, index / rate)


def copy(source: Path, path: Path) -> None:
    with VideoFile(path, source) as file:
        for frame in Video(source):
            file.write(frame.pixels, frame.second)


# Reading


def test_frames_have_colours_numbers_and_times(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 12, rate=12.5, sound=True)
    video = Video(str(path))
    assert (video.name, video.rate, video.frames, video.width, video.height) == (str(path), 12.5, 12, 96, 64)
    assert video.duration == pytest.approx(0.96)
    assert video.has_sound
    frames = list(video)
    video.require_whole()
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.second for frame in frames] == pytest.approx([index / 12.5 for index in range(12)], abs=1e-4)
    for index, frame in enumerate(frames):
        assert (frame.pixels.shape, frame.pixels.dtype) == ((64, 96, 3), np.uint8)
        assert frame.pixels.mean((0, 1)) == pytest.approx([10 * index, 0, 200], abs=6)  # red, green, blue
    assert list(video) == []


def test_thumbnails_are_small_and_grey(tmp_path: Path) -> None:
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[:180, :320] = 255
    (frame,) = Video(draw_film(tmp_path / "film.mp4", [picture]))
    thumbnail = frame.thumbnail()
    assert (thumbnail.shape, thumbnail.dtype) == ((18, 32), np.uint8)
    assert thumbnail[:8, :15].min() > 225
    assert max(thumbnail[10:].max(), thumbnail[:, 17:].max()) < 25


def corner(height: int, width: int, row: int, column: int) -> np.ndarray:
    """Returns a black picture with a white quarter."""
    picture = np.zeros((2, height // 2, 2, width // 2, 3), np.uint8)
    picture[row, :, column] = 255
    return picture.reshape(height, width, 3)


@pytest.mark.parametrize(("rotation", "row", "column"), [(0, 0, 0), (90, 1, 0), (180, 1, 1), (-90, 0, 1)])
def test_frames_are_upright(rotation: int, row: int, column: int, tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", [corner(64, 96, 0, 0)] * 3, rotation=rotation)
    video = Video(path)
    height, width = (96, 64) if rotation % 180 else (64, 96)
    assert (video.height, video.width) == (height, width)
    for frame in video:
        assert np.abs(frame.pixels.astype(int) - corner(height, width, row, column)).mean() < 3


def test_mirrored_frames_are_turned(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(corner(64, 96, 0, 0), "rgb24")))
        output.mux(stream.encode())
    (frame,) = Video(path)
    assert np.abs(frame.pixels.astype(int) - corner(64, 96, 0, 1)).mean() < 3


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_frames_have_the_times_of_the_file(name: str) -> None:
    assert read_all(FILMS / name).seconds == pytest.approx(VARYING, abs=0.001)


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 5, times=[3 + index / 25 for index in range(5)], sound=True)
    assert read_all(path).seconds == pytest.approx([index / 25 for index in range(5)])


def test_frames_without_time_stamps_follow_the_rate(tmp_path: Path) -> None:
    video = read_all(draw_film(tmp_path / "film.h264", 10))
    assert video.frames == 0
    assert video.seconds == pytest.approx([index / 25 for index in range(10)])


def test_times_of_joined_recordings_never_decrease(tmp_path: Path) -> None:
    part = draw_film(tmp_path / "part.ts", 50).read_bytes()
    (tmp_path / "film.ts").write_bytes(part + part)
    seconds = read_all(tmp_path / "film.ts").seconds
    assert len(seconds) == 100
    assert [after - before for before, after in pairwise(seconds)] == pytest.approx([1 / 25] * 99, abs=0.001)


def test_a_damaged_time_stamp_does_not_move_the_frames_after_it(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.flv", 20, codec="flv1")
    content = bytearray(path.read_bytes())
    stamps = [index for index in range(len(content)) if content[index : index + 4] == b"\x00\x01\x90\x00"]
    (stamp,) = [index for index in stamps if content[index - 4] == 9]  # that of the video packet at 400 ms
    content[stamp + 3] = 0x40  # its highest byte
    path.write_bytes(content)
    assert [frame.second for frame in Video(path)] == pytest.approx([index / 25 for index in range(20)], abs=0.001)


@pytest.mark.parametrize(("name", "number", "rate"), [("av1.mp4", 3, 30), ("hevc.mp4", 10, 25)])
def test_new_codecs_are_read(name: str, number: int, rate: int) -> None:
    seconds = [index / rate for index in range(number)]
    assert read_all(FILMS / name).seconds == pytest.approx(seconds, abs=0.001)


def test_open_files_are_read(tmp_path: Path) -> None:
    with draw_film(tmp_path / "film.mp4", 5).open("rb") as file:
        assert len(read_all(file).seconds) == 5


@pytest.mark.parametrize("rate", [66.667, 211.222, 239.76, 7.4927, 0.5, 1000])
def test_odd_rates(rate: float, tmp_path: Path) -> None:
    video = read_all(draw_film(tmp_path / "film.mp4", 6, rate=rate))
    assert video.rate == pytest.approx(rate, rel=0.01)
    assert video.seconds == pytest.approx([index / rate for index in range(6)], abs=2e-5)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("x.flv", "flv1"), ("x.wmv", "wmv2"), ("x.ts", "mpeg4"), ("x.m2ts", "libx264"), ("x.mpg", "mpeg2video")),
        *(("x.webm", "libvpx"), ("x.avi", "mjpeg"), ("x.mov", "mpeg4"), ("x.3gp", "mpeg4"), ("x.mxf", "mpeg2video")),
        *(("x.webm", "libvpx-vp9"), ("x.mp4", "libsvtav1")),
    ],
)
def test_videos_of_other_formats_are_complete(name: str, codec: str, tmp_path: Path) -> None:
    draw_film(tmp_path / name, noise(40), codec=codec)
    assert len(read_all(tmp_path / name).seconds) == 40


def test_names_are_not_patterns_or_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("film%03d.mp4", "Fïlm 日本 'x' [1].mp4", "http:film.mp4", os.fsdecode(b"film\xff.mp4")):
        write(Path(name), 3)
        copy(Path(name), Path("out", name))
        assert len(read_all(Path("out", name)).seconds) == 3


# Damaged and unsuitable files


@pytest.mark.parametrize("content", [b"", b"no video", b"ffconcat version 1.0\nfile film.mp4\n", None])
def test_what_is_no_video_gets_a_message(content: bytes | None, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    whole = draw_film(tmp_path / "film.mp4", 12)
    path = tmp_path / "list.mp4"
    path.write_bytes(whole.read_bytes()[:400] if content is None else content)
    with pytest.raises(BadImageError) as error:
        Video(path)
    assert str(error.value) == f"{path}: not a video that can be read"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_no_videos(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "film01.mp4"
    Image.new("RGB", (64, 64)).save(path, kind)
    with pytest.raises(BadImageError, match=r"film01\.mp4: not a video but a picture$"):
        Video(path)


def test_what_is_no_file_gets_a_message(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BadImageError, match=r": a folder, pipe or device, not a video$"):
            Video(path)
    with pytest.raises(BadImageError, match=r"missing\.mp4: no such file$"):
        Video(tmp_path / "missing.mp4")


def test_videos_without_permission_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    draw_film(tmp_path / "film.mp4", 3)
    monkeypatch.setattr(Path, "open", refuse)  # patched, since root can open every file
    with pytest.raises(BadImageError, match=r"film\.mp4: Permission denied$"):
        Video(tmp_path / "film.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", 48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        frame.sample_rate = 48_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(BadImageError, match=r"film\.mp4: no video stream in it, only sound$"):
        Video(path)


def test_a_video_without_any_frame_is_damaged(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 12)
    content = path.read_bytes()
    begin = content.index(b"mdat") + 4
    length = int.from_bytes(content[begin - 8 : begin - 4], "big") - 8
    path.write_bytes(content[:begin] + bytes(length) + content[begin + length :])
    with pytest.raises(BadImageError, match=r"film\.mp4: damaged, not one of its frames can be decoded$"):
        Video(path)


def test_the_message_on_an_unknown_codec_names_the_command(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "a film.mp4", 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(BadImageError) as error:
        Video(path)
    assert str(error.value) == (
        f"{path}: coded in a way that cannot be decoded here; convert it with "
        f"`ffmpeg -i '{path}' -c:v libx264 converted.mp4`"
    )


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", [np.zeros((7200, 7200, 3), np.uint8)], codec="mpeg4")
    peak = Peak()
    with pytest.raises(BadImageError, match=r"film\.mp4: 7200 x 7200 pixels are more than 51,000,000$"):
        Video(path)
    assert peak.growth() < 40  # such a frame takes 78 MB


def join(path: Path, *shapes: tuple[int, int]) -> Path:
    """Writes a video whose frames change their size after each ten."""
    parts = [draw_film(path.with_name("part.ts"), pictures(10, *shape)).read_bytes() for shape in shapes]
    path.write_bytes(b"".join(parts))
    return path


def test_the_size_may_change_in_the_middle(tmp_path: Path) -> None:
    path = join(tmp_path / "film.ts", (64, 96), (96, 128))
    assert [frame.pixels.shape for frame in Video(path)] == [(64, 96, 3)] * 10 + [(96, 128, 3)] * 10
    copy(path, tmp_path / "copy.mp4")
    frames = list(Video(tmp_path / "copy.mp4"))
    assert {frame.pixels.shape for frame in frames} == {(64, 96, 3)}
    assert frames[-1].pixels.mean((0, 1)) == pytest.approx([90, 0, 200], abs=8)


def test_frames_that_grow_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = join(tmp_path / "film.ts", (64, 96), (96, 128), (64, 96))
    monkeypatch.setattr(module, "MAX_PIXELS", 80 * 112)
    video = Video(path)
    assert {frame.pixels.shape for frame in video} == {(64, 96, 3)}
    with pytest.raises(BadImageError, match=r"film\.ts: damaged, \d+ of 30 frames"):
        video.require_whole()


def damaged(path: Path) -> tuple[int, int]:
    """Reads a damaged video; returns the numbers of frames read and missing."""
    video = Video(path)
    read = sum(1 for _ in video)
    with pytest.raises(BadImageError) as error:
        video.require_whole()
    missing = int(str(error.value).removeprefix(f"{path}: damaged, ").split()[0])
    assert str(error.value) == (
        f"{path}: damaged, {missing} of {read + missing} frames ({missing / video.rate:.1f} s) cannot be read"
    )
    return read, missing


FORMATS = [("film.mp4", "libx264"), ("film.mov", "libx264"), ("film.mkv", "libx264"), ("film.webm", "libvpx")]
FORMATS += [("film.flv", "libx264"), ("film.avi", "mpeg4")]


@pytest.mark.parametrize(("name", "codec"), FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_videos_that_end_early(
    name: str, codec: str, share: float, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    options = {"movflags": "faststart"} if name in ("film.mp4", "film.mov") else {}
    path = draw_film(tmp_path / name, noise(100), codec=codec, options=options)
    assert len(read_all(path).seconds) == 100
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    read, missing = damaged(path)
    assert read == pytest.approx(100 * share, abs=12)
    assert read + missing == pytest.approx(100, abs=3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "codec"), [pair for pair in FORMATS if pair[1] != "libvpx"] + [("film.ts", "libx264")]
)
def test_videos_are_read_on_after_a_hole(name: str, codec: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = draw_film(tmp_path / name, noise(400, 32, 48), codec=codec)
    content = bytearray(path.read_bytes())
    hole = slice(len(content) * 2 // 5, len(content) // 2)
    content[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(content)
    read, missing = damaged(path)
    assert 35 <= missing <= 140  # Matroska is read on from its next cluster
    assert read + missing == pytest.approx(400, abs=6)
    assert capfd.readouterr().err == ""


def test_reading_goes_on_after_the_format_reports_an_error(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.ts", noise(100, 240, 320))
    content = bytearray(path.read_bytes())
    hole = slice(len(content) * 2 // 5, len(content) // 2)
    assert hole.stop - hole.start > 100_000  # more than the format searches for its next packet
    content[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(content)
    read, missing = damaged(path)
    assert read > 80
    assert read + missing == pytest.approx(100, abs=2)


@pytest.mark.parametrize(("tag", "frames"), [(b"DURATION", 40), (b"DURATIXN", 120)])
def test_a_video_with_longer_sound_is_complete_but_not_its_half(tag: bytes, frames: int, tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mkv", noise(40), sound=True, seconds=4.8)
    path.write_bytes(path.read_bytes().replace(b"DURATION", tag))  # without it only the length of all streams is stated
    video = read_all(path)
    assert len(video.seconds) == 40
    assert video.frames == pytest.approx(frames, abs=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match=rf"film\.mkv: damaged, \d+ of {video.frames} frames"):
        read_all(path)


def test_a_trimmed_video_is_complete(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", noise(40), codec="mpeg4")
    content = bytearray(path.read_bytes())
    length = content.index(b"elst") + 12  # the edit list shows the first third, as trimming on phones writes it
    content[length : length + 4] = (int.from_bytes(content[length : length + 4], "big") // 3).to_bytes(4, "big")
    path.write_bytes(content)
    video = read_all(path)
    assert len(video.seconds) == pytest.approx(14, abs=1)
    assert video.frames == len(video.seconds)


# Threads and memory


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of the process by /proc")
def test_decoders_end_with_the_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "THREADS", 4)
    path = draw_film(tmp_path / "film.mp4", noise(40))
    before, files = threads(), len(os.listdir("/proc/self/fd"))
    video = Video(path)
    assert threads() == before + 4
    for frame in video:
        if frame.number == 5:
            break
    assert threads() == before
    for _ in Video(path):
        pass
    Video(path).close()
    copy(path, tmp_path / "copy.mp4")
    assert (threads(), len(os.listdir("/proc/self/fd"))) == (before, files)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
@pytest.mark.parametrize("number", [1500, pytest.param(20_000, marks=pytest.mark.check)])
def test_memory_does_not_grow_with_the_length(number: int, tmp_path: Path) -> None:
    path, parts = tmp_path / "film.ts", draw_film(tmp_path / "part.ts", noise(500)).read_bytes()
    path.write_bytes(parts * (number // 500))
    read = 0
    for frame in Video(path):
        read += 1
        if frame.number == 200:
            peak = Peak()
        if not frame.number % 50:
            frame.pixels.mean()
        frame.thumbnail()
    assert read == number
    assert peak.growth() < 20


# Writing


@pytest.mark.parametrize("rate", [1 / 30, 10, 29.97, 90_000])
def test_written_frames_are_read_again(tmp_path: Path, rate: float) -> None:
    write(tmp_path / "deep" / "film.mp4", rate=rate)
    video = Video(tmp_path / "deep" / "film.mp4")
    frames = list(video)
    video.require_whole()
    assert (video.frames, video.has_sound) == (12, False)
    for index, frame in enumerate(frames):
        assert frame.second == pytest.approx(index / rate, abs=2e-5)
        assert frame.pixels.shape == (64, 96, 3)
        assert frame.pixels.mean((0, 1)) == pytest.approx([10 * index, 0, 200], abs=6)  # red, green, blue
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_copies_keep_the_times(name: str, tmp_path: Path) -> None:
    copy(FILMS / name, tmp_path / "copy.mp4")
    assert read_all(tmp_path / "copy.mp4").seconds == pytest.approx(VARYING, abs=0.001)


@pytest.mark.parametrize("rate", [66.667, 211.222, 239.76, 959.04, 23.976, 7.4927, 0.5, 1 / 30, 1000])
def test_copies_keep_odd_rates(rate: float, tmp_path: Path) -> None:
    source = draw_film(tmp_path / "film.mkv" if rate < 90 else tmp_path / "film.mp4", 6, rate=rate)
    copy(source, tmp_path / "copy.mp4")
    video = read_all(tmp_path / "copy.mp4")
    assert video.seconds == pytest.approx([index / rate for index in range(6)], abs=0.001)
    assert video.duration == pytest.approx(6 / rate, rel=0.02, abs=0.001)


def test_frames_of_one_time_are_all_written(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "film.mp4", None) as file:
        for picture in pictures(5):
            file.write(picture, 1.0)
    assert len(read_all(tmp_path / "film.mp4").seconds) == 5


def test_copies_of_turned_videos_are_upright(tmp_path: Path) -> None:
    source = draw_film(tmp_path / "film.mp4", [corner(64, 96, 0, 0)] * 3, rotation=90)
    copy(source, tmp_path / "copy.mp4")
    for frame in Video(tmp_path / "copy.mp4"):
        assert np.abs(frame.pixels.astype(int) - corner(96, 64, 1, 0)).mean() < 3


def test_odd_sizes_lose_a_row_or_column(tmp_path: Path) -> None:
    picture = np.zeros((17, 33, 3), np.uint8)
    picture[:8] = 250
    with VideoFile(tmp_path / "film.mp4", None) as file:
        file.write(picture, 0)
    (frame,) = Video(tmp_path / "film.mp4")
    assert frame.pixels.shape == (16, 32, 3)
    assert np.abs(frame.pixels.astype(int) - picture[:16, :32]).mean() < 10


def test_an_interrupted_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"old")

    def interrupt() -> None:
        with VideoFile(tmp_path / "film.mp4", None) as file:
            file.write(next(pictures(1)), 0)
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
        VideoFile(tmp_path / "film.mp4", None) as file,
        pytest.raises(BadImageError, match=r"film\.mp4: a video of 1 x 40 pixels cannot be written$"),
    ):
        file.write(np.zeros((40, 1, 3), np.uint8), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_gets_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        VideoFile(tmp_path / "file" / "film.mp4", None) as file,
        pytest.raises(BadImageError, match=r"film\.mp4: (Not a directory|File exists)$"),
    ):
        file.write(next(pictures(1)), 0)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuses to write more of a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_full_disk_gets_a_message(share: float, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def save() -> int:
        with VideoFile(tmp_path / "film.mp4", None) as file:
            for index, picture in enumerate(noise(60, 240, 320)):
                file.write(picture, index / 10)
        return (tmp_path / "film.mp4").stat().st_size

    size = save()
    with largest_file(round(share * size)), pytest.raises(BadImageError, match=r"film\.mp4: File too large$"):
        save()
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("film.mp4", size)]
    assert capfd.readouterr().err == ""


def test_after_a_failed_write_there_is_no_file(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "film.mp4", None) as file, largest_file(100_000):
        for index, picture in enumerate(noise(60, 240, 320)):
            try:
                file.write(picture, index / 10)
            except BadImageError:
                break
    assert list(tmp_path.iterdir()) == []


# Sound


def flashing(number: int = 60) -> Iterator[np.ndarray]:
    """Yields frames that are white during the first tenth of each second, as long as the tone sounds."""
    for index in range(number):
        yield np.full((64, 96, 3), 255 * (index % 25 < 3), np.uint8)


def flash(path: Path) -> float:
    """Returns the time of the second flash."""
    return next(frame.second for frame in Video(path) if frame.second > 0.5 and frame.thumbnail().mean() > 128)


def tone(path: Path) -> float:
    """Returns the time at which the second tone begins in a copy."""
    with av.open(str(path)) as film:
        resampler = av.AudioResampler("flt", "mono")
        for coded in film.decode(audio=0):
            for frame in resampler.resample(coded):
                loud = np.flatnonzero(np.abs(frame.to_ndarray()) > 0.1)
                if loud.size and frame.time > 0.5:
                    return frame.time + loud[0] / frame.sample_rate
    raise AssertionError("no tone")


SOUNDS = [
    ("film.mp4", "libx264", "aac", "aac"),
    ("film.ts", "libx264", "aac", "aac"),
    ("film.flv", "libx264", "aac", "aac"),
    ("film.avi", "mpeg4", "libmp3lame", "mp3"),
    ("film.mkv", "libx264", "libopus", "opus"),
    ("film.webm", "libvpx", "libopus", "opus"),
    ("film.mkv", "libx264", "flac", "flac"),
    ("film.mov", "libx264", "alac", "alac"),
    ("film.mp4", "libx264", "ac3", "ac3"),
    ("film.mov", "libx264", "pcm_s16le", "aac"),
    ("film.avi", "mpeg4", "pcm_s16le", "aac"),
    ("film.mpg", "mpeg2video", "mp2", "aac"),
]


@pytest.mark.parametrize(("name", "codec", "sound", "copied"), SOUNDS)
def test_copies_have_the_sound(name: str, codec: str, sound: str, copied: str, tmp_path: Path) -> None:
    source = draw_film(tmp_path / name, flashing(), codec=codec, sound=sound)
    path = tmp_path / "copy.mp4"
    copy(source, path)
    with av.open(str(path)) as film:
        assert film.streams.audio[0].codec_context.codec.canonical_name == copied
        assert film.duration / 1e6 == pytest.approx(2.4, abs=0.08)
    assert flash(path) == pytest.approx(flash(source), abs=0.001)
    assert tone(path) == pytest.approx(flash(path), abs=0.05)


@pytest.mark.parametrize(("sound", "suffix"), [("aac", ".mp4"), ("pcm_s16le", ".mov"), ("libopus", ".mkv")])
@pytest.mark.parametrize(("begin", "sound_from"), [(0, 0.5), (0.4, 0), (3.4, 0)])
def test_sound_that_begins_earlier_or_later(
    sound: str, suffix: str, begin: float, sound_from: float, tmp_path: Path
) -> None:
    times = [begin + index / 25 for index in range(60)]
    source = draw_film(tmp_path / f"film{suffix}", flashing(), times=times, sound=sound, sound_from=sound_from)
    copy(source, tmp_path / "copy.mp4")
    assert flash(tmp_path / "copy.mp4") == pytest.approx(1, abs=0.01)
    # The tones are at whole seconds of the source, whose second `begin` is that at which the copy begins.
    assert tone(tmp_path / "copy.mp4") == pytest.approx(1 - begin % 1, abs=0.05)


def test_of_several_sounds_the_default_one_is_copied(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mkv"), "w") as output:
        track = output.add_stream("libx264", 10)
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        sounds = [output.add_stream(codec, 48_000, layout="mono") for codec in ("ac3", "flac")]
        sounds[0].disposition, sounds[1].disposition = Disposition(0), Disposition.default
        output.mux(track.encode(av.VideoFrame.from_ndarray(next(pictures(1)), "rgb24")))
        output.mux(track.encode())
        for sound in sounds:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            output.mux(sound.encode(frame))
            output.mux(sound.encode())
    copy(tmp_path / "film.mkv", tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as film:
        assert [sound.codec_context.name for sound in film.streams.audio] == ["flac"]


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_damaged_sound_costs_no_pictures(sound: str, tmp_path: Path) -> None:
    source = draw_film(tmp_path / "film.mkv", noise(100), sound=sound)
    content = bytearray(source.read_bytes())
    hole = slice(len(content) * 2 // 5, len(content) // 2)
    content[hole] = bytes(hole.stop - hole.start)
    source.write_bytes(content)
    copy(source, tmp_path / "copy.mp4")
    assert len(read_all(tmp_path / "copy.mp4").seconds) == len(list(Video(source)))


@pytest.mark.browser
def test_copies_play_in_a_browser(tmp_path: Path) -> None:
    from browser import chromium, new_page

    source = draw_film(tmp_path / "film.mov", flashing(), sound="pcm_s16le")
    copy(source, tmp_path / "copy.mp4")
    (tmp_path / "page.html").write_text('<video src="copy.mp4"></video>')
    with chromium("--autoplay-policy=no-user-gesture-required") as browser:
        page = new_page(browser, 800, 600)
        page.goto((tmp_path / "page.html").as_uri())
        film = page.evaluate(
            """async () => {
                const film = document.querySelector('video');
                await film.play();
                await new Promise(resolve => film.onended = resolve);
                return {width: film.videoWidth, height: film.videoHeight, duration: film.duration,
                    sound: film.webkitAudioDecodedByteCount, frames: film.getVideoPlaybackQuality().totalVideoFrames};
            }"""
        )
    assert (film["width"], film["height"]) == (96, 64)
    assert film["duration"] == pytest.approx(2.4, abs=0.08)
    assert film["sound"] > 1000
    assert film["frames"] > 30


# Cameras


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="needs a missing camera")
def test_a_missing_camera_gets_a_message(capfd: pytest.CaptureFixture) -> None:
    for name in ("77", "/dev/video77"):
        with pytest.raises(BadImageError) as error:
            open_camera(name)
        assert str(error.value) == f"camera {name}: not found; is it connected?"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (av.error.OSError(errno.EBUSY, "Device or resource busy"), "another program is using it"),
        (av.error.PermissionError(errno.EACCES, "Permission denied"), "no permission to use it"),
        (av.error.OSError(errno.EIO, "Input/output error"), "cannot be opened: Input/output error"),
        (ValueError("no container format 'v4l2'"), "cannot be opened: FFmpeg says: no container format 'v4l2'"),
    ],
)
def test_cameras_that_cannot_be_opened_get_a_message(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments, **options) -> None:
        raise error

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(BadImageError) as refusal:
        open_camera("0")
    assert str(refusal.value) == f"camera 0: {message}"


@pytest.mark.parametrize(
    ("platform", "name", "opened"),
    [
        ("linux", "1", ("/dev/video1", "v4l2")),
        ("linux", "/dev/video2", ("/dev/video2", "v4l2")),
        ("darwin", "1", ("1", "avfoundation")),
        ("win32", "1", ("video=Second camera", "dshow")),
        ("win32", "video=Camera", ("video=Camera", "dshow")),
    ],
)
def test_each_system_has_its_interface(
    platform: str, name: str, opened: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(system: str) -> list[av.DeviceInfo]:
        assert system == "dshow"
        names = (("Microphone", "audio"), ("Camera", "video"), ("Second camera", "video"))
        return [av.DeviceInfo(name, "", False, [kind]) for name, kind in names]

    def note(device: str, mode: str, system: str, **options) -> None:
        assert (device, mode, system) == (opened[0], "r", opened[1])
        raise av.error.FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "enumerate_input_devices", find)
    monkeypatch.setattr(av, "open", note)
    with pytest.raises(BadImageError, match="not found"):
        open_camera(name)


def test_a_video_stands_in_for_a_camera(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 10, rate=20)
    begin = time.monotonic()
    assert len(list(open_camera(str(path), real_time=False))) == 10
    assert time.monotonic() - begin < 0.4
    begin = time.monotonic()
    for frame in open_camera(str(path)):
        assert time.monotonic() - begin >= frame.second
    assert frame.number == 9
    assert time.monotonic() - begin >= 0.45


@contextmanager
def stream(content: bytes, seconds: float, stated: int | None = None, pause: float = 0) -> Iterator[str]:
    """Serves a file over HTTP at an even pace, once; yields its address. It may state more bytes than
    it has, and pause before the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            with suppress(OSError):  # the client closes the connection
                length = f"Content-Length: {stated}" if stated else "Transfer-Encoding: chunked"
                connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
                for position in range(0, len(content), len(content) // 50 + 1):
                    part = content[position : position + len(content) // 50 + 1]
                    connection.sendall(part if stated else f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    if stopped.wait(seconds / 50):
                        return
                if not stopped.wait(pause) and not stated:
                    connection.sendall(b"0\r\n\r\n")

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}/live"
    finally:
        stopped.set()
        listener.close()
        server.join()


def test_a_slow_consumer_of_a_stream_gets_the_newest_frames(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    before = threading.active_count()
    with stream(content, seconds=2) as address:
        video = open_camera(address)
        assert video.name == "http://" + address.split("@")[1]
        numbers = []
        for frame in video:
            numbers.append(frame.number)
            time.sleep(0.3)
        video.require_whole()
    assert numbers[-1] == 99
    assert 4 <= len(numbers) <= 12
    assert threading.active_count() == before


def test_a_consumer_may_stop_before_the_stream_ends(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    before = threading.active_count()
    with stream(content, seconds=5) as address:
        for frame in open_camera(address):
            assert frame.pixels.shape == (64, 96, 3)
            break
        assert threading.active_count() == before + 1  # the server
    assert threading.active_count() == before


def test_a_broken_connection_gets_a_message_after_its_frames(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    frames = []
    with stream(content[: len(content) // 2], seconds=0.5, stated=len(content)) as address:
        video = open_camera(address)
        with pytest.raises(BadImageError) as error:
            frames.extend(video)
    assert str(error.value).startswith(f"{video.name}: the connection broke: ")
    assert frames


def test_a_silent_connection_gets_a_message_after_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = draw_film(tmp_path / "film.ts", noise(200)).read_bytes()
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    frames = []
    with stream(content, seconds=2, pause=30) as address:
        video = open_camera(address)
        with pytest.raises(BadImageError) as error:
            frames.extend(video)
    assert str(error.value) == f"{video.name}: the connection broke: nothing came for 0.5 s"
    assert frames


def test_an_address_without_a_server_gets_a_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BadImageError) as error:
        open_camera(f"http://user:secret@127.0.0.1:{port}/live")
    assert str(error.value) == f"http://127.0.0.1:{port}/live: Connection refused"
