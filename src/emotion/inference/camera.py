"""Reads the frames of cameras and live streams; a consumer that is slower gets the newest frame."""

import errno
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

import av
from av.codec.context import ThreadType
from av.container import InputContainer

from emotion.data.decode import BadImageError
from emotion.inference import streams
from emotion.inference.video import Frame, Video

SILENCE_S = 10.0
"""Seconds after which a connection that brings nothing is taken for broken."""


def open_camera(name: str) -> Video:
    """Opens a camera, the address of a stream, or a video file in place of a camera.

    Frames of cameras and streams do not queue up: a consumer that is slower gets the newest one.

    Args:
        name: number of a camera, from 0; its device, such as `/dev/video0`, on Linux; its name, such as
            `video=Integrated Camera`, on Windows; an address, such as `rtsp://...`; or the path of a video file.

    Raises:
        BadImageError: there is no such camera, another program holds it, the user lacks the permission, or the stream
            or file cannot be read.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        # Each maker of cameras has another place for the password: before the host, in the path, or in the query.
        shown = re.sub(r"[/?][^/?]*=.*", "/...", re.sub(r"//[^/]*@", "//", name))
        return _LiveVideo(_open_address(name, shown), shown)
    if name.isdecimal() or name.startswith(("/dev/", "video=")):
        return _LiveVideo(_open_device(name), f"camera {name}")
    return _PacedVideo(name)


def _open_address(address: str, shown: str) -> InputContainer:
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    try:
        return av.open(address, "r", options=options, timeout=SILENCE_S, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise BadImageError(f"{shown}: {_reason(error)}") from None


def _open_device(name: str) -> InputContainer:
    device, system, options = _device(name)
    try:
        return av.open(device, "r", system, options=options, timeout=SILENCE_S)
    except av.FileNotFoundError:
        reason = "not found; is it connected?"
    except av.PermissionError:
        reason = "no permission to use it"
    except (av.FFmpegError, ValueError) as error:
        busy = getattr(error, "errno", None) == errno.EBUSY
        reason = "another program is using it" if busy else f"cannot be opened: {_reason(error)}"
    raise BadImageError(f"camera {name}: {reason}") from None


def _device(name: str) -> tuple[str, str, dict[str, str]]:
    """Returns the name of a camera and of the system's interface as FFmpeg knows them, and the options to open it."""
    if sys.platform == "darwin":
        return name, "avfoundation", {"framerate": "30"}  # no camera has the rate that FFmpeg would ask for
    if sys.platform == "win32":
        cameras = [device.name for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
        known = name.isdecimal() and int(name) < len(cameras)
        return f"video={cameras[int(name)]}" if known else name, "dshow", {}
    return name if name.startswith("/") else f"/dev/video{name}", "v4l2", {}


def _reason(error: Exception) -> str:
    return f"nothing came for {SILENCE_S:g} s" if isinstance(error, av.ExitError) else streams.reason(error)


class _PacedVideo(Video):
    """A video file that is read as fast as it is shown."""

    def __iter__(self) -> Iterator[Frame]:
        return _in_real_time(super().__iter__())


class _LiveVideo(Video):
    """A camera or a stream. A thread reads it, and a consumer that is slower gets the newest frame."""

    thread_type = ThreadType.SLICE  # threads that decode whole frames would delay each frame by their number
    _is_abandoned = False

    def __iter__(self) -> Iterator[Frame]:
        newest: SimpleQueue[Frame | Exception | None] = SimpleQueue()
        reader = Thread(target=self._fill, args=(newest,), daemon=True, name=f"reader of {self.name}")
        reader.start()
        try:
            while isinstance(item := newest.get(), Frame):
                yield item
            if item is not None:
                raise item
        finally:
            self._is_abandoned = True
            reader.join(SILENCE_S + 1)

    def _fill(self, newest: "SimpleQueue[Frame | Exception | None]") -> None:
        """Keeps the newest frame in the queue. At the end it adds the error that ended the stream, or None."""
        end = None
        frames = super().__iter__()
        try:
            # A server sends a stored video faster than it is shown; cameras and live streams keep their own pace.
            for frame in frames if self.duration is None else _in_real_time(frames):
                with suppress(Empty):
                    newest.get_nowait()
                newest.put(frame)
                if self._is_abandoned:
                    break
        except Exception as error:
            # The consumer's thread raises it.
            end = error
        newest.put(end)

    def note_failure(self, error: Exception) -> None:
        """Raises a `BadImageError` if the connection broke; a damaged packet is passed over."""
        if not isinstance(error, av.InvalidDataError | av.BlockingIOError):
            raise BadImageError(f"{self.name}: the connection broke: {_reason(error)}") from None

    def require_whole(self) -> None:
        """Does nothing: a live stream has no stated end."""


def _in_real_time(frames: Iterator[Frame]) -> Iterator[Frame]:
    begin = time.monotonic()
    for frame in frames:
        time.sleep(max(0.0, begin + frame.second - time.monotonic()))
        yield frame
