"""Frames of videos, read and written one at a time."""

import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from emotion.data.decode import MAX_PIXELS, BadImageError
from emotion.inference.containers import is_cut_off

HIGHEST_TERM = 65_535
"""Of the fraction as which MPEG-4 keeps a rate."""
FFMPEG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
"""An environment variable."""


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps OpenCV silent on damaged files, missing codecs and full disks, on which there is a message of ours."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    # FFmpeg's own level, which OpenCV reads whenever it opens a file; a user's choice stays.
    chosen = FFMPEG_LEVEL in os.environ
    if not chosen:
        os.environ[FFMPEG_LEVEL] = "-8"
    try:
        yield
    finally:
        if not chosen:
            del os.environ[FFMPEG_LEVEL]
        cv2.utils.logging.setLogLevel(level)


class Video:
    """A video file to read.

    Attributes:
        rate: frames a second, the mean where it varies.
        frames: how many the file says it has, which may be an estimate; 0 where it does not say.
        read: how many were read so far.
        second: when the frame that was read last is shown, by the file's time stamps.

    Raises:
        BadImageError: not a video that can be read, or frames of more than `emotion.data.decode.MAX_PIXELS`.
    """

    @_silent()
    def __init__(self, path: Path) -> None:
        self._path, self._name, self.read, self.second = path, _opencv_name(path), 0, 0.0
        # Of a picture FFmpeg learns the size only when it decodes it.
        if not path.is_file() or cv2.haveImageReader(self._name):
            raise BadImageError(f"{path}: not a video but a picture, or no file at all")
        with _in_a_sentence(path):
            path.open("rb").close()
        self._capture = cv2.VideoCapture(self._name)
        if not self._capture.isOpened():
            raise BadImageError(f"{path}: not a video that can be read")
        width, height = (int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise BadImageError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < math.inf else 25.0
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        self._codec = code.to_bytes(4, "little").decode("latin-1")
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yields RGB uint8 [H, W, 3]."""
        try:
            while True:
                with _silent():
                    read, frame = self._capture.read()
                    second = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not read:
                    return
                # Some files have no time stamps.
                self.second = second if second > self.second or not self.read else self.second + 1 / self.rate
                self.read += 1
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        finally:
            self._capture.release()

    def require_whole(self) -> None:
        """Raises a `BadImageError` if it ended early, or if no frame of it could be decoded.

        That fewer frames were read than the file says is no proof: it may say for how long its sound lasts, at a rate
        that is not always kept, or count frames that an edit has cut out.
        """
        if self.read and max(self.read, self.second * self.rate + 1) >= 0.9 * self.frames:
            return
        coded = self._count_coded()
        if coded and not self.read:
            raise BadImageError(
                f"{self._path}: coded as {self._codec}, which OpenCV cannot decode here, or damaged; convert it with "
                f"`ffmpeg -i {shlex.quote(str(self._path))} -c:v libx264 converted.mp4`"
            )
        if self.read < max(1, 0.9 * coded) or is_cut_off(self._path):
            raise BadImageError(f"{self._path}: damaged, only {self.read} of {self.frames} frames can be read")

    @_silent()
    def _count_coded(self) -> int:
        """Counts the frames in the file without decoding them."""
        capture = cv2.VideoCapture(self._name)
        capture.set(cv2.CAP_PROP_FORMAT, -1)
        return sum(1 for _ in iter(capture.grab, False))


class VideoFile:
    """An MP4 file to write; it appears under its name when the `with` block ends well and all frames are in it.

    Of an odd width or height, which the format cannot hold, the last column or row is left out.

    Args:
        path: of the file.
        rate: frames a second; one of more digits than the format can hold is rounded to what it can.

    Raises:
        BadImageError: at the end of the block: not all frames were written, as on a full disk.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.stem[:50]}.tmp.mp4")  # names may be as long as the system takes
        # OpenCV makes a fraction of as many decimals as the rate has.
        self._rate = min(HIGHEST_TERM, round(rate, math.floor(math.log10(HIGHEST_TERM / rate))))
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def __enter__(self) -> "VideoFile":
        return self

    @_silent()
    def write(self, frame: NDArray[np.uint8]) -> None:
        """Adds a frame, RGB uint8 [H, W, 3], of the same size as those before.

        Raises:
            BadImageError: the file cannot be written.
        """
        if self._writer is None:
            with _in_a_sentence(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(_opencv_name(self._temporary), code, self._rate, frame.shape[1::-1])
            if not writer.isOpened():
                raise BadImageError(
                    f"{self._path}: a video of {frame.shape[1]} x {frame.shape[0]} pixels and {self._rate:g} frames a "
                    "second cannot be written there"
                )
            self._writer = writer
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._written += 1

    @_silent()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._require_all()
                    with _in_a_sentence(self._path):
                        self._temporary.replace(self._path)
        finally:
            with suppress(OSError):  # there may be no such file, nor its folder
                self._temporary.unlink()

    def _require_all(self) -> None:
        """OpenCV does not tell when writing fails."""
        capture = cv2.VideoCapture(_opencv_name(self._temporary))
        if capture.get(cv2.CAP_PROP_FRAME_COUNT) != self._written:
            raise BadImageError(
                f"{self._path}: not all of {self._written} frames could be written; the disk may be full"
            )


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    """Makes what the system says of a file a `BadImageError`."""
    try:
        yield
    except OSError as error:
        raise BadImageError(f"{path}: {error.strerror}") from None


def _opencv_name(path: Path) -> str:
    """Returns a path for OpenCV, which crashes on one that is not UTF-8."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise BadImageError(f"{path}: the names of videos and of their folders must be UTF-8") from None
