"""Goes through files: pictures and videos to records, and to annotated copies."""

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
"""Called with the files, or with the frames of a video and as `total` their number, it passes them on."""


class Prediction:
    """A pass over files.

    Attributes:
        records: what was found so far, also where `run` is interrupted.
        failed: how many files could not be read, or their copies not be saved.

    Args:
        recognizer: judges the faces.
        detect: False where each picture or frame is one face already.
        out: folder for annotated copies, or None.
        frame_stride: every Nth frame of a video is classified.
        progress: shows how far it is.
        on_error: called with a sentence for each file that cannot be read, or whose copy cannot be saved.
        on_note: called with sentences on what is left out.
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
        on_note: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        self.recognizer, self.detect, self.out, self.frame_stride = recognizer, detect, out, frame_stride
        self.progress, self.on_error, self.on_note, self.failed = progress, on_error, on_note, 0
        self.records: list[Record] = []
        self._animated: list[Path] = []

    def run(self, words: Sequence[str | Path]) -> list[Record]:
        """Returns what is in the files that the words name (see `emotion.inference.images.find_media`).

        Raises:
            UserError: a word that names nothing.
        """
        self.records, self.failed, self._animated = [], 0, []
        paths = find_media(words, self.out, self.on_note)
        videos = dict.fromkeys(path for path in paths if is_video(path))
        copies = self._copies(paths, videos)
        pictures = [path for path in paths if path not in videos]
        for record in self._pictures(self.progress(pictures), copies):
            self.records.append(record)
        if self._animated:
            names = ", ".join(map(str, self._animated[:3])) + (", ..." if self._animated[3:] else "")
            self.on_note(f"of several frames or pages only the first is judged: {names}")
        for path in videos:
            for record in self._video(path, copies):
                self.records.append(record)
        return self.records

    def _pictures(self, paths: Iterable[Path], copies: dict[Path, Path]) -> Iterator[Record]:
        if not copies:
            yield from (Record(str(path), faces) for path, faces in self._judged(self._read(paths)))
            return
        for path, picture in self._read(paths):
            (faces,) = self.recognizer.predict_many([picture], self.detect)
            yield Record(str(path), faces)
            with self._going_on():
                _save(draw_faces(picture, faces), copies[path])
                self._note_copy(copies[path])

    def _read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for path in paths:
            with self._going_on():
                picture = read_image(path)
                if count_frames(path) > 1:
                    self._animated.append(path)
                yield path, picture
                del picture  # before the next one is read

    def _judged(self, pictures: Iterable[tuple[Key, NDArray[np.uint8]]]) -> Iterator[tuple[Key, list[Face]]]:
        """Judges the faces of several pictures at a time, of which nothing else is kept."""
        keys: deque[Key] = deque()

        def unnamed() -> Iterator[NDArray[np.uint8]]:
            for key, picture in pictures:
                keys.append(key)
                yield picture

        for faces in self.recognizer.predict_many(unnamed(), self.detect):
            yield keys.popleft(), faces

    def _video(self, path: Path, copies: dict[Path, Path]) -> Iterator[Record]:
        with self._going_on():
            video = Video(path)
            yield from self._frames(video, path, copies)
            video.require_whole()

    def _frames(self, video: Video, path: Path, copies: dict[Path, Path]) -> Iterator[Record]:
        frames = enumerate(self.progress(video, total=video.frames))
        if not copies:
            judged = self._judged((video.second, frame) for number, frame in frames if number % self.frame_stride == 0)
            yield from (Record(str(path), faces, second) for second, faces in judged)
            return
        faces: list[Face] = []
        copied = True
        with VideoFile(copies[path], video.rate) as copy:
            for number, frame in frames:
                if number % self.frame_stride == 0:
                    (faces,) = self.recognizer.predict_many([frame], self.detect)
                    yield Record(str(path), faces, video.second)
                try:
                    if copied:
                        copy.write(np.asarray(draw_faces(frame, faces)))
                except BadImageError as error:
                    copied = False
                    self._fail(error)
        if copied:
            self._note_copy(copies[path])

    def _note_copy(self, path: Path) -> None:
        """Notes a copy where a later time could take it for an original, in the folder of the originals."""
        assert self.out is not None
        if self._among_originals:
            note_annotated(self.out, path)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Complains of a file that cannot be read, or copied, but does not stop."""
        try:
            yield
        except BadImageError as error:
            self._fail(error)

    def _fail(self, error: BadImageError) -> None:
        self.failed += 1
        self.on_error(str(error))

    def _copies(self, paths: Sequence[Path], videos: Collection[Path]) -> dict[Path, Path]:
        """Lays the copies out as the files lie below the folder that they share."""
        if self.out is None or not paths:
            return {}
        absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100, links are not followed
        root = Path(os.path.commonpath([path.parent for path in absolute]))
        laid = {path: self.out / own.relative_to(root) for path, own in zip(paths, absolute, strict=True)}
        copies = {path: _writable(copy, path in videos) for path, copy in laid.items()}
        self._among_originals = self.out.resolve().is_relative_to(root.resolve())
        for original in {path.resolve() for path in paths} & {copy.resolve() for copy in copies.values()}:
            raise UserError(f"--out {self.out}: a copy would replace {original}; name another folder")
        self.out.mkdir(parents=True, exist_ok=True)  # where there can be no copies at all, nothing is judged
        return copies


def _save(picture: Image.Image, path: Path) -> None:
    try:
        with atomic_write(path) as temporary:
            picture.save(temporary)
    except Exception as error:
        # Encoders raise nearly anything for a picture too large for their format.
        if disk_is_full(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise BadImageError(f"{path}: {error.strerror}") from None
        raise BadImageError(
            f"{path}: {picture.width} x {picture.height} pixels cannot be saved in this format ({first_line(error)})"
        ) from None


def _writable(path: Path, video: bool) -> Path:
    """Adds a suffix of a kind that can be written, where the file's own cannot."""
    suffix = path.suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    writable = suffix == ".mp4" if video else suffix in IMAGES and kind in FORMATS and kind in Image.SAVE
    return path if writable else path.with_name(path.name + (".mp4" if video else ".png"))
