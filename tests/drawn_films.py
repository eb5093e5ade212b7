"""Small videos that tests draw, keep and read."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from emotion.inference.video import Video

FILMS = Path(__file__).parent / "inference" / "films"
"""Two videos of ten frames within 0.3 s, a pause, and ten frames from second 2 on; one video in AV1, and one
in HEVC."""
VARYING = [start + 0.033 * index for start in (0, 2) for index in range(10)]
SAMPLES = 48_000
TICKS = 90_000


def pictures(number: int, height: int = 64, width: int = 96) -> Iterator[NDArray[np.uint8]]:
    """Yields frames of one colour each, RGB uint8 [H, W, 3]: the red grows from frame to frame."""
    for index in range(number):
        yield np.full((height, width, 3), (10 * index % 250, 0, 200), np.uint8)


def noise(number: int, height: int = 64, width: int = 96) -> Iterator[NDArray[np.uint8]]:
    """Yields frames that are hard to compress, RGB uint8 [H, W, 3]: a share of the bytes holds that share of them."""
    generator = np.random.default_rng(0)
    for _ in range(number):
        yield generator.integers(0, 256, (height, width, 3), np.uint8)


def corner(height: int, width: int, row: int, column: int) -> NDArray[np.uint8]:
    """Returns a black picture with a white quarter."""
    picture = np.zeros((2, height // 2, 2, width // 2, 3), np.uint8)
    picture[row, :, column] = 255
    return picture.reshape(height, width, 3)


def draw_film(
    path: Path,
    frames: int | Iterable[NDArray[np.uint8]],
    times: Iterable[float] | None = None,
    rate: float = 25,
    sound: bool | str = False,
    rotation: int | None = None,
    pixel_aspect: Fraction | None = None,
    codec: str = "libx264",
    sound_from: float = 0,
    seconds: float | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a video and returns its path.

    Args:
        path: its suffix names the container format.
        frames: RGB uint8 [H, W, 3], or how many `pictures` to draw.
        times: second of each frame; by default those of the rate.
        rate: frames a second.
        sound: True, or the name of an encoder: there is a tone during the first tenth of each second.
        rotation: degrees to turn the frames counterclockwise when they are shown.
        pixel_aspect: width of a pixel as a multiple of its height.
        codec: encoder of the frames.
        sound_from: second at which the sound begins.
        seconds: of the sound's end; by default that of the frames.
        options: of the container format.
    """
    images = list(pictures(frames) if isinstance(frames, int) else frames)
    shown = [index / rate for index in range(len(images))] if times is None else list(times)
    with av.open(str(path), "w", container_options=options or {}) as output:
        stream = output.add_stream(codec, Fraction(rate).limit_denominator(100_000))
        stream.height, stream.width = images[0].shape[:2] if images else (64, 96)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec in ("libx264", "libvpx"):  # the clock of others is that of the rate
            stream.codec_context.time_base = Fraction(1, TICKS)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        tones = _Tones(output, sound, sound_from) if sound else None
        for image, second in zip(images, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = round(second * TICKS), Fraction(1, TICKS)
            output.mux(stream.encode(frame))
            if tones:
                tones.write(second)
        output.mux(stream.encode())
        if tones:
            tones.write(max(shown) + 1 / rate if seconds is None else seconds)
            output.mux(tones.stream.encode())
    return path


def read_all(source) -> Video:
    """Reads a video to its end and checks that it is complete."""
    video = Video(source)
    video.seconds = [frame.second for frame in video]
    video.require_whole()
    return video


class _Tones:
    def __init__(self, output: av.container.OutputContainer, sound: bool | str, begin: float) -> None:
        self.output, self.stream = output, output.add_stream("aac" if sound is True else sound, SAMPLES, layout="mono")
        self.positions = count(round(begin * SAMPLES), 480)

    def write(self, second: float) -> None:
        """Writes the sound up to a second, a hundredth of a second at a time."""
        for position in self.positions:
            times = (position + np.arange(480)) / SAMPLES  # [480]
            tone = np.sin(2000 * np.pi * times) * (times % 1 < 0.1) * 20_000
            frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[np.newaxis], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLES, position, Fraction(1, SAMPLES)
            self.output.mux(self.stream.encode(frame))
            if times[-1] >= second:
                return
