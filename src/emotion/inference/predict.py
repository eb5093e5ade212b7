"""Classifies the faces in image and video files, and writes annotated images and videos."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import FORMATS, BadImageError
from emotion.errors import UserError, disk_is_full, first_line
from emotion.files import atomic_write
from emotion.inference.drawing import draw_faces
from emotion.inference.images import IMAGES, count_frames, find_media, is_video, note_annotated, read_image
from emotion.inference.recognizer import Face, Recognizer
from emotion.inference.records import Record
from emotion.inference.video import Video, VideoFile

Key = TypeVar("Key")
Progress = Callable[..., Iterable[Any]]
"""Yields its items and shows progress; called with files, or with the frames of a video and their number `total`."""


class Prediction:
    """One pass over files.

    Attributes:
        records: the results so far, also after `run` was interrupted.
        failed: number of files that could not be read, or whose annotated file could not be written.

    Args:
        recognizer: detects and classifies the faces.
        detect: True detects faces; False takes the central square of each image or frame as one face.
        out: folder for annotated images and videos, or None.
        frame_stride: every Nth frame of a video is classified.
        progress: shows the progress.
        on_error: called with a message for each file that cannot be read, or whose annotated file cannot be written.
        on_note: called with a message on skipped files, and on files of which only the first image is classified.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        detect: bool = True,
        out: Path | None = None,
        frame_stride: int = 5,
        progress: Progress = lambda items, total=None: items,
        on_error: Callable[[str], object] = print,
        on_note: Callable[[str], object] = lambda message: None,
    ) -> None:
        self.recognizer, self.detect, self.out, self.frame_stride = recognizer, detect, out, frame_stride
        self.progress, self.on_error, self.on_note, self.failed = progress, on_error, on_note, 0
        self.records: list[Record] = []
        self._animated: list[Path] = []

    def run(self, arguments: Sequence[str | Path]) -> list[Record]:
        """Returns the records of the files that paths, folders and patterns stand for: first images, then videos.

        Args:
            arguments: see `emotion.inference.images.find_media`.

        Raises:
            UserError: an argument matches no file, or an annotated file would replace its original.
            OSError: the disk is full.
        """
        self.records, self.failed, self._animated = [], 0, []
        paths = find_media(arguments, self.out, self.on_note)
        videos = dict.fromkeys(path for path in paths if is_video(path))
        outputs = self._output_paths(paths, videos)
        images = [path for path in paths if path not in videos]
        for record in self._classify_images(self.progress(images), outputs):
            self.records.append(record)
        if self._animated:
            names = ", ".join(map(str, self._animated[:3])) + (", ..." if self._animated[3:] else "")
            self.on_note(f"{names}: only the first of several frames or pages is classified")
        for path in videos:
            for record in self._classify_video(path, outputs):
                self.records.append(record)
        return self.records

    def _classify_images(self, paths: Iterable[Path], outputs: dict[Path, Path]) -> Iterator[Record]:
        if not outputs:
            yield from (Record(str(path), faces) for path, faces in self._classify_batches(self._read(paths)))
            return
        for path, image in self._read(paths):
            (faces,) = self.recognizer.predict_many([image], self.detect)
            yield Record(str(path), faces)
            with self._reporting_errors():
                _save(draw_faces(image, faces), outputs[path])
                self._note_annotated(outputs[path])

    def _read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for path in paths:
            with self._reporting_errors():
                image = read_image(path)
                if count_frames(path) > 1:
                    self._animated.append(path)
                yield path, image
                del image  # frees its memory before the next image is read

    def _classify_batches(self, images: Iterable[tuple[Key, NDArray[np.uint8]]]) -> Iterator[tuple[Key, list[Face]]]:
        """Yields the key and the faces of each image; `predict_many` takes several images at a time and no keys."""
        keys: deque[Key] = deque()

        def without_keys() -> Iterator[NDArray[np.uint8]]:
            for key, image in images:
                keys.append(key)
                yield image

        for faces in self.recognizer.predict_many(without_keys(), self.detect):
            yield keys.popleft(), faces

    def _classify_video(self, path: Path, outputs: dict[Path, Path]) -> Iterator[Record]:
        with self._reporting_errors():
            video = Video(path)
            yield from self._classify_frames(video, path, outputs)
            video.require_whole()

    def _classify_frames(self, video: Video, path: Path, outputs: dict[Path, Path]) -> Iterator[Record]:
        frames = enumerate(self.progress(video, total=video.frames))
        if not outputs:
            images = ((video.second, frame) for number, frame in frames if number % self.frame_stride == 0)
            yield from (Record(str(path), faces, second) for second, faces in self._classify_batches(images))
            return
        faces: list[Face] = []
        writable = True  # the video is classified to its end even if its annotated video cannot be written
        with VideoFile(outputs[path], video.rate) as file:
            for number, frame in frames:
                if number % self.frame_stride == 0:
                    (faces,) = self.recognizer.predict_many([frame], self.detect)
                    yield Record(str(path), faces, video.second)
                try:
                    if writable:
                        file.write(np.asarray(draw_faces(frame, faces)))
                except BadImageError as error:
                    writable = False
                    self._report(error)
        if writable:
            self._note_annotated(outputs[path])

    def _note_annotated(self, path: Path) -> None:
        """Lists an annotated file if it lies among the originals, where a later run could classify it."""
        assert self.out is not None
        if self._among_originals:
            note_annotated(self.out, path)

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Reports that a file cannot be read or written, and goes on with the next file."""
        try:
            yield
        except BadImageError as error:
            self._report(error)

    def _report(self, error: BadImageError) -> None:
        self.failed += 1
        self.on_error(str(error))

    def _output_paths(self, paths: Sequence[Path], videos: Collection[Path]) -> dict[Path, Path]:
        """Returns the annotated file of each original: the originals' tree of folders is repeated below `out`."""
        if self.out is None or not paths:
            return {}
        absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100, links are not followed
        root = Path(os.path.commonpath([path.parent for path in absolute]))
        mirrored = {path: self.out / full.relative_to(root) for path, full in zip(paths, absolute, strict=True)}
        outputs = {path: _with_writable_suffix(output, path in videos) for path, output in mirrored.items()}
        self._among_originals = self.out.resolve().is_relative_to(root.resolve())
        for original in {path.resolve() for path in paths} & {output.resolve() for output in outputs.values()}:
            raise UserError(f"--out {self.out}: an annotated file would replace {original}; name another folder")
        self.out.mkdir(parents=True, exist_ok=True)  # fails before anything is classified
        return outputs


def _save(image: Image.Image, path: Path) -> None:
    try:
        with atomic_write(path) as temporary:
            image.save(temporary)
    except Exception as error:
        # Encoders raise nearly any exception for an image that is too large for their format.
        if disk_is_full(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise BadImageError(f"{path}: {error.strerror}") from None
        raise BadImageError(
            f"{path}: {image.width} x {image.height} pixels cannot be saved in this format ({first_line(error)})"
        ) from None


def _with_writable_suffix(path: Path, video: bool) -> Path:
    """Appends `.mp4` to the path of a video, or `.png` to that of an image, if its own format cannot be written."""
    suffix = path.suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    writable = suffix == ".mp4" if video else suffix in IMAGES and kind in FORMATS and kind in Image.SAVE
    return path if writable else path.with_name(path.name + (".mp4" if video else ".png"))
