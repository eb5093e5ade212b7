import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from browser import EXECUTABLE, chromium, new_page
from drawn_films import FILMS, VARYING, corner, draw_film, noise, pictures, read_all

from emotion.data.decode import BadImageError
from emotion.inference.video import Video
from emotion.inference.video_file import VideoFile


def write(path: Path, number: int = 12, rate: float = 10, shape: tuple[int, int] = (64, 96), source=None) -> None:
    with VideoFile(path, source) as file:
        for index, picture in enumerate(pictures(number, *shape)):
            file.write(picture, index / rate)


def copy(source: Path, path: Path) -> None:
    with VideoFile(path, source) as file:
        for frame in Video(source):
            file.write(frame.pixels, frame.second)


# Pictures


@pytest.mark.parametrize("rate", [1 / 30, 10, 29.97, 90_000])
def test_written_frames_are_read_again(tmp_path: Path, rate: float) -> None:
    write(tmp_path / "deep" / "film.mp4", rate=rate)
    video = Video(tmp_path / "deep" / "film.mp4")
    frames = list(video)
    video.require_whole()
    assert video.frames == 12
    for index, frame in enumerate(frames):
        assert frame.second == pytest.approx(index / rate, abs=2e-5)
        assert frame.pixels.shape == (64, 96, 3)
        assert frame.pixels.mean((0, 1)) == pytest.approx([10 * index, 0, 200], abs=6)  # red, green, blue
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["film.mp4"]


def test_names_are_not_patterns_or_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("film%03d.mp4", "Fïlm 日本 'x' [1].mp4", "http:film.mp4", os.fsdecode(b"film\xff.mp4")):
        write(Path(name), 3)
        copy(Path(name), Path("out", name))
        assert len(read_all(Path("out", name)).seconds) == 3


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


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "film.mp4", None) as file:
        for index, picture in enumerate(chain(pictures(10), pictures(10, 96, 128))):
            file.write(picture, index / 10)
    frames = list(Video(tmp_path / "film.mp4"))
    assert {frame.pixels.shape for frame in frames} == {(64, 96, 3)}
    assert frames[-1].pixels.mean((0, 1)) == pytest.approx([90, 0, 200], abs=8)


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


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of the process by /proc")
def test_files_and_threads_end_with_the_block(tmp_path: Path) -> None:
    def count() -> list[int]:
        return [len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd")]

    source = draw_film(tmp_path / "film.mp4", noise(40), sound=True)
    before = count()
    copy(source, tmp_path / "copy.mp4")
    assert count() == before
    file = VideoFile(tmp_path / "copy.mp4", source)
    with largest_file(100_000), suppress(BadImageError), file:
        for index, picture in enumerate(noise(60, 240, 320)):
            file.write(picture, index / 10)
    assert count() == before


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


def test_copies_of_joined_recordings_have_all_frames(tmp_path: Path) -> None:
    part = draw_film(tmp_path / "part.ts", 50, sound=True).read_bytes()
    (tmp_path / "film.ts").write_bytes(part + part)
    copy(tmp_path / "film.ts", tmp_path / "copy.mp4")
    assert len(read_all(tmp_path / "copy.mp4").seconds) == 100


def test_sound_of_an_unknown_codec_is_left_out(tmp_path: Path) -> None:
    source = draw_film(tmp_path / "film.mov", 5, sound="pcm_s16le")
    source.write_bytes(source.read_bytes().replace(b"sowt", b"zzzz"))
    copy(source, tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as film:
        assert [stream.type for stream in film.streams] == ["video"]


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
@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
def test_copies_play_in_a_browser(tmp_path: Path) -> None:
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
