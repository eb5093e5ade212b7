"""Frames of videos and cameras, read one at a time, and annotated videos, written one frame at a time."""

import errno
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags, ThreadType
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from emotion.data.decode import MAX_PIXELS, BadImageError, open_image
from emotion.errors import first_line
from emotion.inference.containers import IMAGE_BRANDS, is_cut_off

CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,mxf,"
    "h264,hevc,ivf,obu,av1,dv,wtv,rm,nut,gxf,yuv4mpegpipe"
)
"""FFmpeg's names of the accepted formats. Images are left out, and lists of other files or addresses to open."""
THREADS = min(4, os.cpu_count() or 1)
"""For decoding and encoding; each holds a frame."""
FAILURES = 100
"""In a row, after which the rest of a damaged file is given up."""
MISSING_SHARE = 0.1
"""Of the stated frames; fewer may be missing at the end, since the stated number is often an estimate."""
DEFAULT_RATE = Fraction(25)
THUMBNAIL = (32, 18)
"""Width and height, pixels."""
TICKS = 90_000
"""Time stamps a second in a written video; 29.97 frames a second fit exactly."""
COPIED_SOUND = ("aac", "mp3", "ac3", "opus", "flac", "alac")
"""Codecs that MP4 can hold; sound of other codecs is encoded as AAC."""
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LONGEST_PAUSE_S = 10.0
"""Between frames after the stated end; a time stamp that says more is taken for damaged, seconds."""
SILENCE_S = 10.0
"""A connection that brings nothing for so long is broken, seconds."""

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        number: among the decoded frames, from 0.
        second: when it is shown, by the time stamps of its video, from 0; never less than that of the frame before.
    """

    number: int
    second: float
    _image: av.VideoFrame = field(repr=False, compare=False)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The frame upright, RGB uint8 [H, W, 3]; each access converts it anew."""
        stored = self._image.reformat(format="rgb24", threads=1).to_ndarray()  # [H, W, 3]
        transposed, mirrored, flipped = _orientation(self._image)
        upright = stored.swapaxes(0, 1) if transposed else stored
        return np.ascontiguousarray(upright[:: -1 if flipped else 1, :: -1 if mirrored else 1], np.uint8)

    def thumbnail(self) -> NDArray[np.uint8]:
        """Returns the frame as it is stored, not upright, in grey tones of 16 to 235: uint8 [18, 32]."""
        width, height = THUMBNAIL
        small = self._image.reformat(width, height, "gray", interpolation="AREA", threads=1)
        return np.asarray(small.to_ndarray(), np.uint8)


def _orientation(image: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns how to turn a frame upright: exchange its axes, then exchange left and right, then top and bottom.

    Cameras write it as a matrix, of which quarter turns and reflections are followed.
    """
    matrix: Any = image.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()  # a point is shown at [ax + cy, bx + dy]
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


class Video:
    """A video to read, once; what can be decoded of a damaged one is read.

    Attributes:
        name: the path, for messages.
        rate: frames a second, the mean where it varies.
        frames: how many the file says it has, which may be an estimate; 0 where it does not say.
        duration: seconds, or None where the file does not say.
        width: of the first frame, upright, pixels.
        height: of the first frame, upright, pixels.
        has_sound: whether there is sound, too.

    Args:
        source: path of the video, or an open binary file that can seek.
        name: of the video in messages; None takes that of its file.

    Raises:
        BadImageError: not a video that can be read, no frame can be decoded, or the frames have more than
            `emotion.data.decode.MAX_PIXELS`.
    """

    _threads = ThreadType.AUTO

    def __init__(self, source: Path | str | BinaryIO, name: str | None = None) -> None:
        is_path = isinstance(source, Path | str)
        self._path = Path(source) if isinstance(source, Path | str) else None
        shown = name or str(source if is_path else getattr(source, "name", "video"))
        self._begin(shown, _open_video(source, shown))

    def _begin(self, name: str, container: InputContainer) -> None:
        """Reads the properties of an opened video, and decodes its first frame."""
        self.name, self._container = name, container
        self._coded = self._read = self._errors = 0
        self._second = 0.0
        try:
            self._stream = self._find_stream()
            self._set_properties()
            self._images: Iterator[av.VideoFrame] = self._decode()
            self._first = next(self._images, None)
            if self._first is None:
                raise BadImageError(f"{name}: damaged, not one of its frames can be decoded")
        except BaseException:
            self.close()
            raise
        sides = self._first.width, self._first.height
        self.width, self.height = sides[::-1] if _orientation(self._first)[0] else sides

    def _find_stream(self) -> VideoStream:
        stream = _video_stream(self._container)
        if self._container.metadata.get("major_brand", "").encode() in IMAGE_BRANDS:
            raise BadImageError(f"{self.name}: not a video but a picture")
        if stream is None:
            raise BadImageError(
                f"{self.name}: no video stream in it{', only sound' * bool(self._container.streams.audio)}"
            )
        codec = stream.codec_context
        if not codec:  # None where FFmpeg does not know the codec
            raise BadImageError(
                f"{self.name}: coded in a way that cannot be decoded here; convert it with "
                f"`ffmpeg -i {shlex.quote(self.name)} -c:v libx264 converted.mp4`"
            )
        if codec.width * codec.height > MAX_PIXELS:
            raise BadImageError(f"{self.name}: {codec.width} x {codec.height} pixels are more than {MAX_PIXELS:,}")
        codec.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change in mid-video
        codec.thread_type, codec.thread_count = self._threads, THREADS
        return stream

    def _set_properties(self) -> None:
        stream, container = self._stream, self._container
        assert stream.time_base is not None
        self.rate, self._start = float(_rate(stream)), _start(stream)
        own = _own_duration(stream)
        whole = None if container.duration is None else container.duration / av.time_base  # that of the sound, too
        self.duration = whole if own is None else own
        # The index of MP4 leaves out the frames that an edit has cut out.
        in_index = len(stream.index_entries) if "mp4" in container.format.name else stream.frames
        self.frames = min(stream.frames, in_index) or round((self.duration or 0) * self.rate)
        self._is_stated = stream.frames > 0 or own is not None or len(container.streams) == 1
        self.has_sound = bool(container.streams.audio)

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames; a second iteration yields none."""
        try:
            first, self._first = filter(None, [self._first]), None
            for image in chain(first, self._images):
                self._second = self._time(image)
                self._read += 1
                yield Frame(self._read - 1, self._second, image)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the threads of the decoder and closes the file; the end of an iteration does so, too."""
        self._images = iter(())
        self._first = None
        self._container.close()
        self.__dict__.pop("_stream", None)  # holds the decoder

    def _time(self, image: av.VideoFrame) -> float:
        """Returns the second at which a frame is shown."""
        stamp = image.dts if image.pts is None else image.pts
        following = self._second + 1 / self.rate if self._read else 0.0
        if stamp is None or self._stream.time_base is None:
            return following
        second = float(stamp * self._stream.time_base - self._start)
        if self.duration is not None and second > max(self.duration, self._second + LONGEST_PAUSE_S):
            return following  # a damaged stamp
        if second < self._second - 1 and "mpeg" in self._container.format.name:  # recordings that were joined
            self._start -= Fraction(following - second)
            return following
        return max(self._second, second)

    def _decode(self) -> Iterator[av.VideoFrame]:
        decoder = self._stream.codec_context
        packets: Iterator[av.Packet[VideoStream] | None] = chain(self._packets(), [None])  # None: the frames it holds
        for packet in packets:
            if packet is not None:
                self._coded += not packet.is_discard  # decoded for others, but not shown
                self._errors += packet.is_corrupt
            try:
                images = decoder.decode(packet)
            except av.FFmpegError:
                self._errors += 1
                continue
            for image in images:
                self._errors += image.is_corrupt
                yield image

    def _packets(self) -> "Iterator[av.Packet[VideoStream]]":
        """Yields the coded frames, and goes on after damaged places."""
        return _read_packets(self._container, self._stream, self._note_failure)

    def _note_failure(self, error: Exception) -> None:
        self._errors += 1

    def require_whole(self) -> None:
        """Raises a `BadImageError` if a video that was read to its end ended early, or frames of it are missing.

        That fewer frames were read than the file says is no proof: it may say for how long its sound lasts, at a rate
        that is not always kept.
        """
        reached = max(self._coded, round(self._second * self.rate) + 1)
        early = reached < (1 - MISSING_SHARE) * self.frames and (
            self._is_stated or bool(self._errors) or (self._path is not None and is_cut_off(self._path))
        )
        expected = self.frames if early else reached
        missing = expected - self._read
        if missing > 0 and (early or self._errors):
            raise BadImageError(
                f"{self.name}: damaged, {missing:,} of {expected:,} frames ({missing / self.rate:.1f} s) cannot be read"
            )


def _read_packets(
    container: InputContainer, stream: AnyStream, on_failure: Callable[[Exception], None]
) -> "Iterator[av.Packet[AnyStream]]":
    """Yields the packets of a stream, and goes on after damaged places."""
    packets, failures = container.demux(stream), 0
    while failures < FAILURES:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            on_failure(error)
            packets, failures = container.demux(stream), failures + 1
            continue
        except IndexError:  # of PyAV, at the end of a file in whose middle further streams begin
            return
        if packet is None:
            return
        failures = 0
        if packet.size:
            yield packet


def _video_stream(container: InputContainer) -> VideoStream | None:
    covers = Disposition.attached_pic
    return _default([stream for stream in container.streams.video if not stream.disposition & covers])


def _default(streams: Iterable[AnyStream]) -> AnyStream | None:
    return min(streams, key=lambda stream: not stream.disposition & Disposition.default, default=None)


def _is_audible(stream: AudioStream) -> bool:
    return bool(stream.codec_context and stream.codec_context.sample_rate)  # not of an unknown codec, nor without data


def _own_duration(stream: VideoStream) -> float | None:
    """Returns how long the frames of a video last, seconds, or None where only the length of all streams is stated."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # in Matroska and WebM
    return None if tag is None else 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])


def _rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or DEFAULT_RATE


def _start(stream: VideoStream) -> Fraction:
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


def _open_video(source: Path | str | BinaryIO, name: str) -> InputContainer:
    """Opens a file of one of the `CONTAINERS`; `name` is that of open files in messages."""
    options = {"format_whitelist": CONTAINERS}
    if not isinstance(source, Path | str):
        return _open(name, source, options)
    path = Path(source)
    if not path.is_file():
        raise BadImageError(
            f"{path}: " + ("a folder, pipe or device, not a video" if path.exists() else "no such file")
        )
    with _in_a_sentence(path):
        path.open("rb").close()
    if _is_picture(path):
        raise BadImageError(f"{path}: not a video but a picture")
    return _open(path, str(path.absolute()), options)  # a relative name may look like an address


def _is_picture(path: Path) -> bool:
    with suppress(Exception), open_image(path):
        return True
    return False


def _open(name: object, source: object, options: dict[str, str]) -> InputContainer:
    try:
        container: InputContainer = av.open(source, "r", options=options, metadata_errors="replace")
        return container
    except (av.FFmpegError, ValueError):  # FFmpeg raises nearly any kind for damaged files
        raise BadImageError(f"{name}: not a video that can be read") from None


class _PacedVideo(Video):
    """A video that is read as fast as it is shown."""

    def __iter__(self) -> Iterator[Frame]:
        return _in_real_time(super().__iter__())


def _in_real_time(frames: Iterator[Frame]) -> Iterator[Frame]:
    begin = time.monotonic()
    for frame in frames:
        time.sleep(max(0.0, begin + frame.second - time.monotonic()))
        yield frame


class _Slot:
    """Holds the newest frame of a live stream until it is taken."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._frame: Frame | None = None
        self._error: BadImageError | None = None
        self._ended = self.abandoned = False

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._frame = frame
            self._changed.notify()

    def end(self, error: BadImageError | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def take(self) -> Frame | None:
        """Waits for a frame; returns None at the end of the stream, or raises the error that ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
        if frame is None and self._error is not None:
            raise self._error
        return frame


class _LiveVideo(Video):
    """A camera or a stream: a thread reads it, and a consumer that is slower gets the newest frame."""

    _threads = ThreadType.SLICE  # threads for whole frames would delay each by their number

    def __init__(self, name: str, container: InputContainer) -> None:
        self._path = None
        self._begin(name, container)

    def __iter__(self) -> Iterator[Frame]:
        slot = _Slot()
        reader = Thread(target=self._fill, args=(slot,), daemon=True, name=f"reader of {self.name}")
        reader.start()
        try:
            while (frame := slot.take()) is not None:
                yield frame
        finally:
            slot.abandoned = True
            reader.join(SILENCE_S + 1)

    def _fill(self, slot: _Slot) -> None:
        error = None
        frames = super().__iter__()
        try:
            # A video that lies on a server is shown at its pace; others come at theirs.
            for frame in frames if self.duration is None else _in_real_time(frames):
                slot.put(frame)
                if slot.abandoned:
                    break
        except BadImageError as broken:
            error = broken
        finally:
            slot.end(error)

    def _note_failure(self, error: Exception) -> None:
        if not isinstance(error, av.InvalidDataError | av.BlockingIOError):
            raise BadImageError(f"{self.name}: the connection broke: {_reason(error)}") from None

    def require_whole(self) -> None:
        """Does nothing: a live stream has no stated end."""


def open_camera(name: str, real_time: bool = True) -> Video:
    """Opens a camera, the address of a stream, or a video file in place of a camera.

    Frames of cameras and streams do not queue up: a consumer that is slower gets the newest one.

    Args:
        name: number of a camera, from 0; on Linux also its device, such as `/dev/video0`, on Windows its name, such as
            `video=Integrated Camera`; an address, such as
            `rtsp://...`; or the path of a video file.
        real_time: whether a video file is read as fast as it is shown; otherwise as fast as the consumer takes its
            frames. All its frames are read.

    Raises:
        BadImageError: there is no such camera, another program holds it, the user lacks the permission, or the stream
            or file cannot be read.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", name):
        shown = re.sub(r"//[^/@]*@", "//", name)  # without the password
        options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
        with _in_a_sentence(shown):
            return _LiveVideo(shown, av.open(name, "r", options=options, timeout=SILENCE_S))
    if name.isdecimal() or name.startswith(("/dev/", "video=")):
        return _LiveVideo(f"camera {name}", _open_device(name))
    return (_PacedVideo if real_time else Video)(name)


def _open_device(name: str) -> InputContainer:
    device, system, options = _device(name)
    try:
        return av.open(device, "r", system, options=options, timeout=SILENCE_S)
    except av.FileNotFoundError:
        reason = "not found; is it connected?"
    except av.PermissionError:
        reason = "no permission to use it"
    except (av.FFmpegError, ValueError) as error:
        busy = isinstance(error, av.FFmpegError) and error.errno == errno.EBUSY
        reason = "another program is using it" if busy else f"cannot be opened: {_reason(error)}"
    raise BadImageError(f"camera {name}: {reason}") from None


def _device(name: str) -> tuple[str, str, dict[str, str]]:
    """Returns FFmpeg's name of a camera, that of the system's interface, and its options."""
    if sys.platform == "darwin":
        return name, "avfoundation", {"framerate": "30"}  # its own default is none that the cameras have
    if sys.platform == "win32":
        cameras = [device.name for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
        known = name.isdecimal() and int(name) < len(cameras)
        return f"video={cameras[int(name)]}" if known else name, "dshow", {}
    return name if name.startswith("/") else f"/dev/video{name}", "v4l2", {}


class VideoFile:
    """An MP4 file to write, in H.264, with the sound of its source; it appears when the `with` block ends well.

    Of an odd width or height, which the format cannot hold, the last column or row is left out. Frames of another size
    than the first are scaled to it.

    Args:
        path: of the file.
        source: the video whose frames are annotated: its sound is copied, or encoded as AAC if MP4 cannot hold it; of
            several sound tracks, the default one. None: no sound.

    Raises:
        BadImageError: at the end of the block: the file cannot be completed, as on a full disk.
    """

    def __init__(self, path: Path, source: Path | None) -> None:
        self._path, self._source = path, source
        self._temporary = path.with_name(f".{path.stem[:50]}.tmp.mp4")  # names may be as long as the system takes
        self._output: OutputContainer | None = None
        self._opened: InputContainer | None = None
        self._sound: _Sound | None = None
        self._last, self._failed = -1, False

    def __enter__(self) -> "VideoFile":
        return self

    def write(self, pixels: NDArray[np.uint8], second: float) -> None:
        """Adds a frame.

        Args:
            pixels: RGB uint8 [H, W, 3].
            second: when it is shown, `Frame.second` of the source; later than the frame before.

        Raises:
            BadImageError: the file cannot be written.
        """
        self._failed = True
        with _in_a_sentence(self._path):
            output = self._output or self._begin(*pixels.shape[:2])
            self._last = max(self._last + 1, round(second * TICKS))
            output.mux(self._stream.encode(self._image(pixels)))
            if self._sound is not None:
                self._sound.copy(second)
        self._failed = False

    def _begin(self, height: int, width: int) -> OutputContainer:
        self._shape = height, width
        if min(height, width) < 2:
            raise BadImageError(f"{self._path}: a video of {width} x {height} pixels cannot be written")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        name = str(self._temporary.absolute())  # a relative name may look like an address
        output = self._output = av.open(name, "w", "mp4", container_options={"movflags": "faststart"})
        rate = DEFAULT_RATE
        if self._source is not None:
            source = self._opened = _open_video(self._source, self._source.name)
            frames, sound = _video_stream(source), _default(filter(_is_audible, source.streams.audio))
            assert frames is not None  # since its frames were read
            rate = _rate(frames)
            if sound is not None:
                self._sound = _Sound(source, sound, _start(frames), output)
        self._stream = _add_video_stream(output, height, width, rate)
        output.start_encoding()  # a folder that cannot be written is noticed at the first frame
        return output

    def _image(self, pixels: NDArray[np.uint8]) -> av.VideoFrame:
        """Converts a frame, RGB uint8 [H, W, 3], and gives it its time."""
        width, height = self._stream.width, self._stream.height
        even = pixels[:height, :width] if pixels.shape[:2] == self._shape else pixels  # [H, W, 3]
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24").reformat(
            width,
            height,
            "yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        image.pts, image.time_base = self._last, Fraction(1, TICKS)
        image.duration = round(TICKS / self._stream.codec_context.framerate)  # only that of the last frame counts
        return image

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._output is None:
                return
            if kind is None and not self._failed:
                with _in_a_sentence(self._path):
                    self._complete(self._output)
            else:
                with suppress(av.FFmpegError, OSError):
                    self._output.close()
        finally:
            self._output = None
            self._sound = None
            if self._opened is not None:
                self._opened.close()
            with suppress(OSError):  # there may be no such file, nor its folder
                self._temporary.unlink()

    def _complete(self, output: OutputContainer) -> None:
        try:
            output.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.copy(math.inf)
        finally:
            output.close()
        self._temporary.replace(self._path)


def _add_video_stream(output: OutputContainer, height: int, width: int, rate: Fraction) -> VideoStream:
    stream = output.add_stream("libx264", rate, {"preset": "veryfast", "crf": "20"})
    stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
    codec = stream.codec_context
    codec.time_base = Fraction(1, TICKS)
    codec.flags |= Flags.frame_duration
    codec.thread_count = THREADS
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


class _Sound:
    """The sound of a video, written bit by bit beside the frames of its copy.

    Args:
        container: the opened video.
        source: its sound.
        start: of its frames, with which the copy begins, seconds.
        output: the copy.
    """

    def __init__(
        self, container: InputContainer, source: AudioStream, start: Fraction, output: OutputContainer
    ) -> None:
        self._container, self._source, self._start, self._output = container, source, start, output
        codec = source.codec_context
        self._is_copied = codec.codec.canonical_name in COPIED_SOUND
        if self._is_copied:
            self._stream: AudioStream = output.add_stream_from_template(source)
        else:
            rate = codec.sample_rate if codec.sample_rate in AAC_RATES else 48_000
            self._stream = output.add_stream("aac", rate, layout="mono" if codec.channels == 1 else "stereo")
        self._coded = self._code()
        self._next = next(self._coded, None)

    def copy(self, second: float) -> None:
        """Writes the sound up to a second of the copy."""
        while self._next is not None and (self._next.dts or 0) * self._next.time_base <= second:
            self._next.stream = self._stream
            self._output.mux(self._next)
            self._next = next(self._coded, None)

    def _packets(self) -> "Iterator[av.Packet[AudioStream]]":
        """Yields the packets from the copy's start on, in order, with its times."""
        assert self._source.time_base is not None
        start, last = round(self._start / self._source.time_base), None
        for packet in _read_packets(self._container, self._source, lambda error: None):
            stamp = packet.pts if packet.dts is None else packet.dts
            if stamp is None or (last is not None and stamp <= last) or stamp + (packet.duration or 0) <= start:
                continue
            last = stamp
            packet.dts = packet.pts = stamp - start
            yield packet

    def _code(self) -> "Iterator[av.Packet[AudioStream]]":
        """Yields the packets to write; damaged ones are left out, which the writer would refuse."""
        for packet in self._packets():
            with suppress(av.FFmpegError, ValueError):  # a ValueError: sound of other properties in mid-video
                frames = self._source.codec_context.decode(packet)
                if self._is_copied:
                    yield packet
                    continue
                for frame in frames:
                    yield from self._stream.encode(frame)
        if not self._is_copied:
            yield from self._stream.encode(None)


@contextmanager
def _in_a_sentence(path: Path | str) -> Iterator[None]:
    """Makes what the system or FFmpeg says of a file or an address a `BadImageError`."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise BadImageError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, av.ExitError):
        return f"nothing came for {SILENCE_S:g} s"
    reason = getattr(error, "strerror", None) or first_line(error)
    return reason if isinstance(error, OSError) else f"FFmpeg says: {reason}"
