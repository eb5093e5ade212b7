import os
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
from av.stream import Disposition
from drawn_films import FILMS, VARYING, corner, draw_film, noise, pictures, read_all
from peak import Peak
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.inference import video as module
from emotion.inference.video import Video

# Whole files


def test_frames_have_colours_numbers_and_times(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 12, rate=12.5, sound=True)
    video = Video(str(path))
    assert (video.name, video.rate, video.frames) == (str(path), 12.5, 12)
    assert video.duration == pytest.approx(0.96)
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


@pytest.mark.parametrize(("rotation", "row", "column"), [(0, 0, 0), (90, 1, 0), (180, 1, 1), (-90, 0, 1)])
def test_frames_are_upright(rotation: int, row: int, column: int, tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", [corner(64, 96, 0, 0)] * 3, rotation=rotation)
    video = Video(path)
    height, width = (96, 64) if rotation % 180 else (64, 96)
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
    video = read_all(path)
    assert video.seconds == pytest.approx([index / 25 for index in range(5)])
    assert video.lead == pytest.approx(3)
    assert Video(draw_film(tmp_path / "other.mp4", 5)).lead == 0


SLIDES, PAUSES = [0, 15, 30, 45], [0, 0.04, 5, 5.04, 30, 30.04]


@pytest.mark.parametrize("times", [SLIDES, PAUSES])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("x.mp4", "libx264"), ("x.mp4", "mpeg4"), ("x.mov", "libx264"), ("x.mkv", "libx264"), ("x.flv", "flv1")],
)
def test_pauses_and_the_end_of_films_whose_rate_varies(
    name: str, codec: str, times: list[float], tmp_path: Path
) -> None:
    video = read_all(draw_film(tmp_path / name, len(times), times=times, codec=codec))
    assert video.seconds == pytest.approx(times, abs=0.002)
    assert video.end == pytest.approx(times[-1] + 0.04, abs=0.002)


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


def test_titles_may_have_any_encoding(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mkv", 5)
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Lav\xff"))  # FFmpeg's name in the metadata
    assert len(read_all(path).seconds) == 5


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
    with ThreadPoolExecutor(1) as pool:  # as root, SVT-AV1 gives the thread that encodes the highest real-time priority
        pool.submit(draw_film, tmp_path / name, noise(40), codec=codec).result()
    assert len(read_all(tmp_path / name).seconds) == 40


# Damaged and unsuitable files


@pytest.mark.parametrize("content", [b"", b"no video", b"ffconcat version 1.0\nfile film.mp4\n", None])
def test_what_is_no_video_gets_a_message(content: bytes | None, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    whole = draw_film(tmp_path / "film.mp4", 12)
    path = tmp_path / "list.mp4"
    path.write_bytes(whole.read_bytes()[:400] if content is None else content)
    with pytest.raises(BadImageError) as error:
        Video(path)
    reasons = {None: "a video that is cut off or damaged at its start or end", b"": "an empty file"}
    assert str(error.value) == f"{path}: {reasons.get(content, 'not a video that can be read')}"
    assert capfd.readouterr().err == ""


def test_frames_that_the_decoder_made_up_are_reported(tmp_path: Path) -> None:
    """FFmpeg fills damaged parts of a frame; all frames can be read, but do not show what was filmed."""
    path = draw_film(tmp_path / "film.mp4", noise(30))
    content = bytearray(path.read_bytes())
    # FFmpeg notices many damages, not all, and x264 does not always write the same bytes: one place is not enough.
    for place in range(len(content) // 4, 3 * len(content) // 4, 2_000):
        content[place : place + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(
        BadImageError, match=r"film\.mp4: damaged, (some of its 30 frames do not show|\d+ of 30 frames)"
    ):
        read_all(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_no_videos(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "film01.mp4"
    Image.new("RGB", (64, 64)).save(path, kind)
    with pytest.raises(BadImageError, match=r"film01\.mp4: not a video but a picture$"):
        Video(path)


def test_an_open_picture_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "film.mp4", "AVIF")
    with (
        (tmp_path / "film.mp4").open("rb") as file,
        pytest.raises(BadImageError, match=r"^uploaded: not a video but a picture$"),
    ):
        Video(file, "uploaded")


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


@pytest.mark.parametrize("has_cover", [False, True])
def test_sound_alone_is_no_video(has_cover: bool, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", 48_000)
        if has_cover:
            cover = output.add_stream("mjpeg", 1)
            cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            output.mux(cover.encode(av.VideoFrame.from_ndarray(next(pictures(1)), "rgb24")))
            output.mux(cover.encode())
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
    with pytest.raises(BadImageError, match=r"film\.mp4: 7200 x 7200 pixels are more than 51,000,000 \(the limit\)$"):
        Video(path)
    assert peak.growth() < 60  # such a frame takes 78 MB


def test_more_frames_than_a_file_can_hold_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 1, codec="mpeg4")
    content = bytearray(path.read_bytes())
    for table, place in ((b"stsz", 8), (b"stts", 12), (b"stsc", 16)):
        offset = content.index(table) + place
        content[offset : offset + 4] = (50_000_000).to_bytes(4, "big")
    offset = content.index(b"stsz") + 8
    content[offset : offset + 8] = b"\0\0\0\1" + (50_000_000).to_bytes(4, "big")  # of one byte each
    path.write_bytes(content)
    with path.open("rb") as file:
        for source in (path, file):
            with pytest.raises(BadImageError, match="damaged, it states more frames or sounds than it can hold"):
                Video(source)


def join(path: Path, *shapes: tuple[int, int]) -> Path:
    """Writes a video whose frames change their size after each ten."""
    parts = [draw_film(path.with_name("part.ts"), pictures(10, *shape)).read_bytes() for shape in shapes]
    path.write_bytes(b"".join(parts))
    return path


def test_the_size_may_change_in_the_middle(tmp_path: Path) -> None:
    path = join(tmp_path / "film.ts", (64, 96), (96, 128))
    assert [frame.pixels.shape for frame in Video(path)] == [(64, 96, 3)] * 10 + [(96, 128, 3)] * 10


def test_frames_that_grow_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = join(tmp_path / "film.ts", (64, 96), (96, 128), (64, 96))
    monkeypatch.setattr(module, "MAX_PIXELS", 80 * 112)
    video = Video(path)
    assert {frame.pixels.shape for frame in video} == {(64, 96, 3)}
    with pytest.raises(BadImageError, match=r"film\.ts: damaged, \d+ of 30 frames"):
        video.require_whole()


def test_wide_pixels_count_as_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_film(tmp_path / "film.mp4", pictures(5, 64, 64), pixel_aspect=Fraction(4))
    assert {frame.pixels.shape for frame in Video(path)} == {(64, 256, 3)}
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 64 * 2)
    with pytest.raises(BadImageError, match=r"64 x 64 pixels are more than 2,048 \(the limit\)$"):
        Video(path)


def damaged(source: Path | BinaryIO) -> tuple[int, int]:
    """Reads a damaged video; returns the numbers of frames read and missing."""
    video = Video(source)
    read = sum(1 for _ in video)
    with pytest.raises(BadImageError) as error:
        video.require_whole()
    missing = int(str(error.value).removeprefix(f"{video.name}: damaged, ").split()[0])
    assert str(error.value) == (
        f"{video.name}: damaged, {missing} of {read + missing} frames ({missing / video.rate:.1f} s) cannot be read"
    )
    return read, missing


FORMATS = [("film.mp4", "libx264"), ("film.mov", "libx264"), ("film.mkv", "libx264"), ("film.webm", "libvpx")]
FORMATS += [("film.flv", "libx264"), ("film.avi", "mpeg4")]


@pytest.mark.parametrize(("name", "codec"), FORMATS)
def test_videos_that_end_early(name: str, codec: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    options = {"movflags": "faststart"} if name in ("film.mp4", "film.mov") else {}
    path = draw_film(tmp_path / name, noise(100), codec=codec, options=options)
    assert len(read_all(path).seconds) == 100
    content = path.read_bytes()
    for share in (0.3, 0.8):
        path.write_bytes(content[: round(share * len(content))])
        read, missing = damaged(path)
        with path.open("rb") as file:
            assert damaged(file) == (read, missing)
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


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_damaged_video_tells_where_frames_are_missing(name: str, tmp_path: Path) -> None:
    path = draw_film(tmp_path / name, noise(400, 32, 48))
    content = bytearray(path.read_bytes())
    hole = slice(len(content) * 2 // 5, len(content) * 11 // 20)
    content[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(content)
    video = Video(path)
    seconds = [frame.second for frame in video]
    ((start, end),) = video.gaps
    assert start == pytest.approx(6.4, abs=0.1)
    assert 8.5 < end < 10.1
    assert end in seconds
    assert not any(start <= second < end for second in seconds)


def test_slides_that_are_shown_for_long_are_no_gaps(tmp_path: Path) -> None:
    video = Video(draw_film(tmp_path / "film.mkv", 3, times=(0, 10, 20)))
    assert [frame.second for frame in video] == pytest.approx([0, 10, 20], abs=1e-3)
    assert video.gaps == []


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
    with path.open("rb") as file:
        for source in (path, file):
            with pytest.raises(BadImageError, match=rf"film\.mkv: damaged, \d+ of {video.frames} frames"):
                read_all(source)


@pytest.mark.parametrize("name", ["slides.mkv", "slides.webm", "slides.mp4"])
def test_slides_with_a_longer_voice_are_complete(tmp_path: Path, name: str) -> None:
    codec, sound = ("libvpx", "libopus") if name.endswith("webm") else ("libx264", True)
    times = (0, 7, 15, 30, 60)
    path = draw_film(tmp_path / name, 5, times=times, codec=codec, sound=sound, seconds=100)
    assert read_all(path).seconds == pytest.approx(times, abs=0.01)


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


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        (Fraction(64, 45), (64, 102)),
        (Fraction(1, 2), (128, 72)),
        (Fraction(1), (64, 72)),
        (Fraction(1000), (64, 72)),
    ],
)
def test_pixels_that_are_not_square_are_made_square(tmp_path: Path, ratio: Fraction, size: tuple[int, int]) -> None:
    """As on DVDs and from camcorders; a ratio that no camera has is not followed."""
    draw_film(tmp_path / "wide.mp4", [np.full((64, 72, 3), 90, np.uint8)] * 3, pixel_aspect=ratio)
    assert next(iter(Video(tmp_path / "wide.mp4"))).pixels.shape == (*size, 3)
