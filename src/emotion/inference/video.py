"""Reads the frames of videos, one at a time."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from emotion.data.decode import MAX_PIXELS, BadImageError
from emotion.inference.containers import is_cut_off
from emotion.inference.streams import (
    THREADS,
    frame_rate,
    open_video,
    opened,
    read_packets,
    start_second,
    video_stream,
)
from emotion.inference.tracks import LONGEST_GAP


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        number: number of the frame among the decoded ones, from 0.
        second: when the frame is shown, seconds after the first one. It is never less than that of the frame before.
    """

    number: int
    second: float
    _image: av.VideoFrame = field(repr=False, compare=False)
    _ratio: float = field(default=1.0, repr=False, compare=False)  # width of a pixel as a multiple of its height

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The frame upright and with square pixels, RGB uint8 [H, W, 3]; each access converts it anew.

        The shorter side of the pixels grows, as in browsers, so that boxes have their place there.
        """
        width, height = self._image.width * max(1, self._ratio), self._image.height * max(1, 1 / self._ratio)
        stored = self._image.reformat(round(width), round(height), "rgb24", threads=1).to_ndarray()  # [H, W, 3]
        transposed, mirrored, flipped = _orientation(self._image)
        upright = stored.swapaxes(0, 1) if transposed else stored
        return np.ascontiguousarray(upright[:: -1 if flipped else 1, :: -1 if mirrored else 1], np.uint8)

    def thumbnail(self) -> NDArray[np.uint8]:
        """Returns the frame as it is stored, not upright, in grey tones of 16 to 235: uint8 [18, 32]."""
        small = self._image.reformat(32, 18, "gray", interpolation="AREA", threads=1)
        return np.asarray(small.to_ndarray(), np.uint8)


def _orientation(image: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns how to turn a frame upright: exchange its axes, then exchange left and right, then top and bottom.

    Cameras store the turn as a matrix. Quarter turns and reflections are followed; other angles are not.
    """
    matrix: Any = image.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()  # a point is shown at [ax + cy, bx + dy]
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


class Video:
    """A video, whose frames are read once. All that can be decoded of a damaged video is read.

    Attributes:
        name: what messages call the video.
        rate: number of frames a second. Where it varies, this is its mean.
        frames: number of frames that the file states; it may be an estimate. 0 if the file states none.
        duration: seconds that the file states; None if it states none.
        lead: second at which the first frame is shown, as players count: sound may begin before the pictures.

    Args:
        source: path of the video, an open binary file that can seek, or a video that FFmpeg has opened.
        name: what messages call the video; None takes the name of its file.

    Raises:
        BadImageError: not a video that can be read, no frame can be decoded, or the frames have more than
            `emotion.data.decode.MAX_PIXELS`.
    """

    thread_type = ThreadType.AUTO
    """What the threads of the decoder share out among themselves: frames or parts of them."""

    def __init__(self, source: Path | str | BinaryIO | InputContainer, name: str | None = None) -> None:
        is_path = isinstance(source, Path | str)
        self.name = name or str(source if is_path else getattr(source, "name", "video"))
        self._container = source if isinstance(source, InputContainer) else open_video(source, self.name)
        self._coded = self._read = self._errors = self._concealed = 0
        self._second = self._length = 0.0  # of the last frame; a length of 0 is unknown
        self._gaps: list[tuple[float, float]] = []  # where a damaged video lacks frames
        try:
            stream = self._find_stream()
            self._set_properties(stream)
            if not isinstance(source, InputContainer):
                with opened(source) as file:
                    # Whatever the number of frames follows from, a file that is cut off lacks some of them.
                    self._is_stated |= is_cut_off(file)
            images = self._decode(stream)
            first = next(images, None)
            if first is None:
                raise BadImageError(f"{self.name}: damaged, not one of its frames can be decoded")
        except BaseException:
            self.close()
            raise
        self._images: Iterator[av.VideoFrame] = chain([first], images)

    def _find_stream(self) -> VideoStream:
        stream = video_stream(self._container)
        if stream is None:
            only_sound = ", only sound" if self._container.streams.audio else ""
            raise BadImageError(f"{self.name}: no video stream in it{only_sound}")
        codec = stream.codec_context
        if not codec:  # None where FFmpeg does not know the codec
            raise BadImageError(
                f"{self.name}: coded in a way that cannot be decoded here; convert it with "
                f"`ffmpeg -i {shlex.quote(self.name)} -c:v libx264 converted.mp4`"
            )
        ratio = stream.sample_aspect_ratio
        self._ratio = float(ratio) if ratio and 1 / 4 <= ratio <= 4 else 1.0
        stored = int(MAX_PIXELS / max(self._ratio, 1 / self._ratio))  # largest number before the pixels are made square
        if codec.width * codec.height > stored:
            raise BadImageError(
                f"{self.name}: {codec.width} x {codec.height} pixels are more than {stored:,} (the limit)"
            )
        codec.options = {"max_pixels": str(stored)}  # the size may change in mid-video
        codec.thread_type, codec.thread_count = self.thread_type, THREADS
        return stream

    def _set_properties(self, stream: VideoStream) -> None:
        assert stream.time_base is not None
        self._time_base, self._start = stream.time_base, start_second(stream)
        self.rate, self.lead = float(frame_rate(stream)), max(0.0, float(self._start))
        container, own = self._container, _own_duration(stream)
        whole = None if container.duration is None else container.duration / av.time_base  # that of the sound, too
        self.duration = whole if own is None else own
        # The index of MP4 leaves out the frames that an edit has cut out.
        in_index = len(stream.index_entries) if "mp4" in container.format.name else stream.frames
        self.frames = min(stream.frames, in_index) or round((self.duration or 0) * self.rate)
        # Otherwise the number may follow from the length of the sound.
        self._is_stated = stream.frames > 0 or own is not None or len(container.streams) == 1

    @property
    def end(self) -> float:
        """The end of the last frame that was read, seconds."""
        end = self._second + (self._length or 1 / self.rate)
        # The last frame of slides may have the length of the one before it, or the mean.
        return self.duration if self.duration is not None and self._second < self.duration < end else end

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames; a second iteration yields none."""
        try:
            for image in self._images:
                second = self._time(image)
                self._note_gap(second)
                self._second = second
                self._length = float((image.duration or 0) * self._time_base)
                self._read += 1
                yield Frame(self._read - 1, self._second, image, self._ratio)
        finally:
            self.close()

    def _note_gap(self, second: float) -> None:
        """Notes how long no frame was shown before the next one, at a time in seconds."""
        end = self._second + (self._length or 1 / self.rate)
        if self._read and second - end > LONGEST_GAP:
            self._gaps.append((end, second))

    def close(self) -> None:
        """Closes the file and ends the threads of the decoder. The end of an iteration does so, too."""
        self._images = iter(())
        self._container.close()

    def _time(self, image: av.VideoFrame) -> float:
        """Returns the second at which a frame is shown."""
        stamp = image.dts if image.pts is None else image.pts
        following = self._second + 1 / self.rate if self._read else 0.0
        if stamp is None:
            return following
        second = float(stamp * self._time_base - self._start)
        has_index = "mp4" in self._container.format.name  # of times; its stated end may lack the last frames
        if self.duration is not None and not has_index and second > max(self.duration, self._second + 10):
            return following  # no pause is so long after the stated end: the stamp is damaged
        if second < self._second - 1 and "mpeg" in self._container.format.name:  # recordings that were joined
            self._start -= Fraction(following - second)
            return following
        return max(self._second, second)

    def _decode(self, stream: VideoStream) -> Iterator[av.VideoFrame]:
        decoder = stream.codec_context
        packets = read_packets(self._container, stream, self.note_failure)
        for packet in chain(packets, [None]):  # None asks for the frames that the decoder holds
            if packet is not None:
                self._coded += not packet.is_discard  # decoded for others, but not shown
                self._errors += packet.is_corrupt
            try:
                images = decoder.decode(packet)
            except av.FFmpegError:
                self._errors += 1
                continue
            for image in images:
                self._concealed += image.is_corrupt
                yield image

    def note_failure(self, error: Exception) -> None:
        """Counts an error in reading. The reading goes on after it, unless a subclass raises an error here."""
        self._errors += 1

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Start and end, in seconds, of each time longer than `LONGEST_GAP` for which a damaged video lacks frames.

        A video that is whole has none: its frames may be shown for so long, as those of slides are.
        """
        try:
            self.require_whole()
        except BadImageError:
            return self._gaps
        return []

    def require_whole(self) -> None:
        """Checks that a video that was read to its end is complete.

        A number of frames below the stated one is no proof of damage: that number may follow from the length of the
        sound, or from a rate that the frames do not keep.

        Raises:
            BadImageError: the video ends early, or some of its frames cannot be read or are damaged.
        """
        reached = max(self._coded, round(self._second * self.rate) + 1)
        # The stated number is often an estimate: a tenth of it may be missing.
        early = reached < 0.9 * self.frames and (self._is_stated or self._errors + self._concealed > 0)
        expected = self.frames if early else reached
        missing = expected - self._read
        if missing > 0 and (early or self._errors or self._concealed):
            raise BadImageError(
                f"{self.name}: damaged, {missing:,} of {expected:,} frames ({missing / self.rate:.1f} s) cannot be read"
            )
        if self._concealed:
            raise BadImageError(f"{self.name}: damaged, some of its {expected:,} frames do not show what was filmed")


def _own_duration(stream: VideoStream) -> float | None:
    """Returns how long the frames of a video last, seconds, or None where only the length of all streams is stated."""
    # Of Matroska and WebM first, since FFmpeg may give the length of all streams as that of each.
    if tag := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None
