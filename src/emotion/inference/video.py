"""Frames of videos, read and written one at a time."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from emotion.data.decode import MAX_PIXELS, BadImageError
from emotion.errors import UserError

# Damaged files and full disks get a sentence of ours.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


class Video:
    """A video file to read.

    Attributes:
        rate: frames a second.
        frames: how many the file says it has; 0 where it does not say.
        read: how many were read so far.

    Raises:
        BadImageError: not a video that can be read, or frames of more than `emotion.data.decode.MAX_PIXELS`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.read, name = path, 0, _opencv_name(path)
        # Of a picture FFmpeg learns the size only when it decodes it.
        if not path.is_file() or cv2.haveImageReader(name):
            raise BadImageError(f"{path}: not a video but a picture, or no file at all")
        self._capture = cv2.VideoCapture(name)
        if not self._capture.isOpened():
            raise BadImageError(f"{path}: not a video that can be read")
        width, height = (int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise BadImageError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yields RGB uint8 [H, W, 3]."""
        try:
            while True:
                read, frame = self._capture.read()
                if not read:
                    return
                self.read += 1
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        finally:
            self._capture.release()

    def require_whole(self) -> None:
        """Raises a `BadImageError` if it ended early; a file's own count may be an estimate, so some may be missing."""
        if self.read < max(1, 0.9 * self.frames):
            raise BadImageError(f"{self._path}: damaged, only {self.read} of {self.frames} frames can be read")


class VideoFile:
    """An MP4 file to write; it appears under its name when the `with` block ends well and all frames are in it.

    Of an odd width or height, which the format cannot hold, the last column or row is left out.

    Args:
        path: of the file.
        rate: frames a second.

    Raises:
        UserError: at the end of the block: not all frames were written, as on a full disk.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._temporary, self._rate = path, path.with_name(f".{path.stem}.tmp.mp4"), rate
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def __enter__(self) -> "VideoFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Adds a frame, RGB uint8 [H, W, 3], of the same size as those before.

        Raises:
            UserError: the file cannot be written.
        """
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(_opencv_name(self._temporary), code, self._rate, frame.shape[1::-1])
            if not writer.isOpened():
                raise UserError(f"{self._path}: this video cannot be written")
            self._writer = writer
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._require_all()
                    self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _require_all(self) -> None:
        """OpenCV does not tell when writing fails."""
        capture = cv2.VideoCapture(_opencv_name(self._temporary))
        if capture.get(cv2.CAP_PROP_FRAME_COUNT) != self._written:
            raise UserError(f"{self._path}: not all of {self._written} frames could be written; the disk may be full")


def _opencv_name(path: Path) -> str:
    """Returns a path for OpenCV, which crashes on one that is not UTF-8."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise BadImageError(f"{path}: the names of videos and of their folders must be UTF-8") from None
