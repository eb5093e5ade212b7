"""Opens videos with FFmpeg, and reads the streams of pictures and sound in them."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from emotion.data.decode import BadImageError, open_image
from emotion.errors import first_line
from emotion.inference.containers import IMAGE_BRANDS, holds_video, states_too_many_samples

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,mxf,"
    "h264,hevc,ivf,obu,av1,dv,wtv,rm,nut,gxf,yuv4mpegpipe"
)
"""FFmpeg's names of the accepted formats. Images are left out, and so are lists of other files or addresses."""
THREADS = min(4, os.cpu_count() or 1)
"""Threads of a decoder or encoder. Each of them holds a frame."""
DEFAULT_RATE = Fraction(25)
"""Frames a second of videos that state no rate."""

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)


def open_video(source: Path | str | BinaryIO, name: str) -> InputContainer:
    """Opens a video.

    Args:
        source: path of the video, or an open binary file that can seek.
        name: of the video in messages.

    Raises:
        BadImageError: there is no such file, it cannot be read, it is not a video, or it states more frames than it can
            hold.
    """
    if isinstance(source, Path | str):
        path = Path(source)
        if not path.is_file():
            reason = "a folder, pipe or device, not a video" if path.exists() else "no such file"
            raise BadImageError(f"{name}: {reason}")
        source = path.absolute()  # a relative name may look like an address
    with one_line(name), opened(source) as file:
        if states_too_many_samples(file):
            raise BadImageError(f"{name}: damaged, it states more frames or sounds than it can hold")
        file.seek(0)
        start = file.read(400)
    if _is_picture(source):
        raise BadImageError(f"{name}: not a video but a picture")
    try:
        container = av.open(
            str(source) if isinstance(source, Path) else source,
            "r",
            options={"format_whitelist": FORMATS},
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError):  # FFmpeg raises nearly any kind for damaged files
        damaged = "a video that is cut off or damaged at its start or end"
        reason = damaged if holds_video(start) else "not a video that can be read"
        raise BadImageError(f"{name}: {reason if start else 'an empty file'}") from None
    if container.metadata.get("major_brand", "").encode() in IMAGE_BRANDS:
        raise BadImageError(f"{name}: not a video but a picture")
    return container


def _is_picture(source: Path | BinaryIO) -> bool:
    with suppress(Exception), opened(source) as file, open_image(file):
        return True
    return False


def video_stream(container: InputContainer) -> VideoStream | None:
    """Returns the stream of pictures to show, or None if there is none; cover pictures do not count."""
    covers = Disposition.attached_pic
    return default_stream(stream for stream in container.streams.video if not stream.disposition & covers)


def default_stream(streams: Iterable[AnyStream]) -> AnyStream | None:
    """Returns the stream that is marked as the default one, or else the first; None if there is none."""
    return min(streams, key=lambda stream: not stream.disposition & Disposition.default, default=None)


def frame_rate(stream: VideoStream) -> Fraction:
    """Returns the number of frames a second. Where the rate varies, this is its mean."""
    return stream.average_rate or DEFAULT_RATE


def start_second(stream: VideoStream) -> Fraction:
    """Returns when the first frame is shown, in seconds of the clock that all streams of a video share."""
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


def read_packets(
    container: InputContainer, stream: AnyStream, on_failure: Callable[[Exception], object]
) -> "Iterator[av.Packet[AnyStream]]":
    """Yields the packets of a stream, and goes on after damaged places.

    Args:
        container: the video.
        stream: one of its streams.
        on_failure: called with the error at each damaged place; it may raise one to end the reading.
    """
    packets, failures = container.demux(stream), 0
    while failures < 100:  # in a row; then the rest of a damaged file is given up
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            on_failure(error)
            packets, failures = container.demux(stream), failures + 1
            continue
        except IndexError:  # PyAV raises it at the end of a file in whose middle further streams begin
            return
        if packet is None:
            return
        failures = 0
        if packet.size:
            yield packet


@contextmanager
def opened(source: Path | str | BinaryIO) -> Iterator[BinaryIO]:
    """Opens a path to read. An open file is given as it is, and is at the same place after the block as before it."""
    if isinstance(source, Path | str):
        with Path(source).open("rb") as file:
            yield file
    else:
        position = source.tell()
        try:
            yield source
        finally:
            source.seek(position)


@contextmanager
def one_line(name: Path | str) -> Iterator[None]:
    """Turns an error of the system or of FFmpeg into a `BadImageError` that names the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise BadImageError(f"{name}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Returns what an error of the system or of FFmpeg says."""
    text = getattr(error, "strerror", None) or first_line(error)
    return text if isinstance(error, OSError) else f"FFmpeg says: {text}"
