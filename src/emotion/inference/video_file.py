"""Writes annotated copies of videos, with their sound, one frame at a time."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from emotion.data.decode import BadImageError
from emotion.files import atomic_write
from emotion.inference.streams import (
    DEFAULT_RATE,
    THREADS,
    default_stream,
    frame_rate,
    one_line,
    open_video,
    read_packets,
    start_second,
    video_stream,
)

TICKS = 90_000
"""Time stamps a second in a written video; 29.97 frames a second fit exactly."""
COPIED_SOUND = ("aac", "mp3", "ac3", "opus", "flac", "alac")
"""Codecs that MP4 can hold; sound of other codecs is encoded as AAC."""


class VideoFile:
    """An MP4 file to write, in H.264, with the sound of its source. It appears when the `with` block ends well.

    The format holds even sizes only: the last column of an odd width is left out, and the last row of an odd height.
    Frames of another size than the first are scaled to it.

    Args:
        path: the file to write; its folder is created if it is missing.
        source: the video whose frames are annotated. Its sound is copied, or encoded as AAC if MP4 cannot hold it. Of
            several sound tracks, the default one is taken. None writes no sound.

    Raises:
        BadImageError: at the end of the block: the file cannot be completed, as on a full disk.
    """

    def __init__(self, path: Path, source: Path | None) -> None:
        self._path, self._source = path, source
        self._resources = ExitStack()
        self._output: OutputContainer | None = None
        self._sound: _Sound | None = None
        self._last, self._failed = -1, False

    def __enter__(self) -> "VideoFile":
        return self

    def write(self, pixels: NDArray[np.uint8], second: float) -> None:
        """Adds a frame.

        Args:
            pixels: RGB uint8 [H, W, 3].
            second: when the frame is shown, `Frame.second` of the source. It is later than that of the frame before.

        Raises:
            BadImageError: the file cannot be written.
        """
        self._failed = True
        with one_line(self._path):
            output = self._output or self._begin(*pixels.shape[:2])
            self._last = max(self._last + 1, round(second * TICKS))
            (stream,) = output.streams.video
            output.mux(stream.encode(self._image(pixels, stream)))
            if self._sound is not None:
                self._sound.copy(second)
        self._failed = False

    def _begin(self, height: int, width: int) -> OutputContainer:
        self._shape = height, width
        if min(height, width) < 2:
            raise BadImageError(f"{self._path}: a video of {width} x {height} pixels cannot be written")
        temporary = self._resources.enter_context(atomic_write(self._path))
        name = str(temporary.absolute())  # a relative name may look like an address
        output = self._output = av.open(name, "w", "mp4", container_options={"movflags": "faststart"})
        rate = DEFAULT_RATE
        if self._source is not None:
            source = self._resources.enter_context(open_video(self._source, str(self._source)))
            pictures, sound = video_stream(source), default_stream(filter(_is_audible, source.streams.audio))
            assert pictures is not None  # since its frames were read
            rate = frame_rate(pictures)
            if sound is not None:
                self._sound = _Sound(source, sound, start_second(pictures), output)
        _add_video_stream(output, height, width, rate)
        output.start_encoding()  # a folder that cannot be written is noticed at the first frame
        return output

    def _image(self, pixels: NDArray[np.uint8], stream: VideoStream) -> av.VideoFrame:
        """Converts a frame, RGB uint8 [H, W, 3], and gives it its time."""
        width, height = stream.width, stream.height
        even = pixels[:height, :width] if pixels.shape[:2] == self._shape else pixels  # [H, W, 3]
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24").reformat(
            width, height, "yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        image.pts, image.time_base = self._last, Fraction(1, TICKS)
        return image

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and not self._failed:
            with one_line(self._path), self._resources:
                if self._output is not None:
                    self._complete(self._output)
        else:
            with suppress(OSError, av.FFmpegError), self._resources:
                if self._output is not None:
                    self._output.close()
                raise OSError  # after an error, `atomic_write` keeps the old file

    def _complete(self, output: OutputContainer) -> None:
        try:
            output.mux(output.streams.video[0].encode(None))
            if self._sound is not None:
                self._sound.copy(math.inf)
        finally:
            output.close()


def _is_audible(stream: AudioStream) -> bool:
    return bool(stream.codec_context and stream.codec_context.sample_rate)  # not of an unknown codec, nor without data


def _add_video_stream(output: OutputContainer, height: int, width: int, rate: Fraction) -> None:
    stream = output.add_stream("libx264", rate, {"preset": "veryfast", "crf": "20"})
    stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
    codec = stream.codec_context
    codec.time_base = Fraction(1, TICKS)
    codec.thread_count = THREADS
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


class _Sound:
    """The sound of a video, written bit by bit beside the frames of its copy.

    Args:
        container: the opened video.
        source: its sound.
        start: second of the video at which its first frame is shown and the copy begins.
        output: the copy.
    """

    def __init__(
        self, container: InputContainer, source: AudioStream, start: Fraction, output: OutputContainer
    ) -> None:
        self._container, self._source, self._start, self._output = container, source, start, output
        self._is_copied = source.codec_context.codec.canonical_name in COPIED_SOUND
        self._stream: AudioStream = (
            output.add_stream_from_template(source)
            if self._is_copied
            else output.add_stream("aac", 48_000, layout="stereo")
        )
        self._coded = self._code()
        self._next = next(self._coded, None)

    def copy(self, second: float) -> None:
        """Writes the sound up to a second of the copy."""
        while self._next is not None and (self._next.dts or 0) * self._next.time_base <= second:
            self._next.stream = self._stream
            self._output.mux(self._next)
            self._next = next(self._coded, None)

    def _code(self) -> "Iterator[av.Packet[AudioStream]]":
        """Yields the packets to write. Damaged ones, which FFmpeg would refuse to write, are left out."""
        for packet in self._packets():
            with suppress(av.FFmpegError, ValueError):  # ValueError: the sound changes its rate or channels
                frames = self._source.codec_context.decode(packet)
                if self._is_copied:
                    yield packet
                    continue
                for frame in frames:
                    yield from self._stream.encode(frame)
        if not self._is_copied:
            yield from self._stream.encode(None)

    def _packets(self) -> "Iterator[av.Packet[AudioStream]]":
        """Yields the packets from the copy's start on, with the copy's times; those out of order are left out."""
        assert self._source.time_base is not None
        start, last = round(self._start / self._source.time_base), None
        for packet in read_packets(self._container, self._source, lambda error: None):
            stamp = packet.pts if packet.dts is None else packet.dts
            if stamp is None or (last is not None and stamp <= last) or stamp + (packet.duration or 0) <= start:
                continue
            last = stamp
            packet.dts = packet.pts = stamp - start
            yield packet
