"""Classifies the faces in image and video files, and writes annotated images and videos."""

import itertools
import os
import sys
from collections import Counter, deque
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
from emotion.inference.film import FRAME_STRIDE, SMOOTH, FilmFrame, Watcher, per_second, with_faces
from emotion.inference.images import (
    IMAGES,
    STANDARD_INPUT,
    annotated_images,
    colour_profile,
    count_frames,
    find_media,
    is_video,
    note_annotated,
    read_image,
)
from emotion.inference.persons import Film
from emotion.inference.recognizer import Face, Recognizer
from emotion.inference.records import Record
from emotion.inference.timeline import SUFFIXES, write_timeline
from emotion.inference.video import Video
from emotion.inference.video_file import VideoFile

Key = TypeVar("Key")
Progress = Callable[..., Iterable[Any]]
"""Yields its items and shows progress; called with files, or with the frames of a video and their number `total`."""


class Prediction:
    """One pass over files.

    Attributes:
        films: the films so far, with a summary of their persons.
        failed: number of files that could not be read, or whose annotated file could not be written.

    Args:
        recognizer: detects and classifies the faces.
        detect: True detects faces; False takes the central square of each image or frame as one face.
        out: folder for annotated images and videos, or None.
        frame_stride: every Nth frame of a video is classified.
        smooth: see `emotion.inference.film.Watcher`.
        by_second: True gives a record for each second of a video, with mean probabilities, not for each frame.
        timeline: file for a timeline of the persons of a video, `.html` or `.png`, or None; with several videos the
            name of each is added to the name of its file.
        progress: shows the progress.
        on_error: called with a message for each file that cannot be read, or whose annotated file cannot be written.
        on_note: called with a message on skipped files, and on files of which only the first image is classified.

    Raises:
        UserError: the suffix of `timeline` is another one.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        detect: bool = True,
        out: Path | None = None,
        frame_stride: int = FRAME_STRIDE,
        smooth: float = SMOOTH,
        by_second: bool = False,
        timeline: Path | None = None,
        progress: Progress = lambda items, total=None: items,
        on_error: Callable[[str], object] = print,
        on_note: Callable[[str], object] = lambda message: None,
    ) -> None:
        if timeline is not None and timeline.suffix.lower() not in SUFFIXES:
            raise UserError(f"--timeline {timeline}: wrong suffix; use {' or '.join(SUFFIXES)}")
        self.recognizer, self.detect, self.out, self.timeline = recognizer, detect, out, timeline
        self.frame_stride, self.smooth, self.by_second = frame_stride, smooth, by_second
        self.progress, self.on_error, self.on_note, self.failed = progress, on_error, on_note, 0
        self.films: list[Film] = []
        self._animated: list[Path] = []
        self._standard_input: bytes | None = None

    def find(self, arguments: Sequence[str | Path]) -> list[Path]:
        """Returns the files that paths, folders and patterns stand for; see `emotion.inference.images.find_media`."""
        return find_media(arguments, self.out, self.on_note)

    def run(self, paths: Sequence[Path]) -> Iterator[Record]:
        """Yields the records of files: first those of images, then those of videos.

        Args:
            paths: the files, see `find`.

        Raises:
            UserError: an annotated file or a timeline would replace one of the files.
            OSError: the disk is full, or a folder cannot be made.
        """
        self.films, self.failed, self._animated = [], 0, []
        videos = dict.fromkeys(path for path in paths if is_video(path))
        outputs = self._output_paths(paths, videos)
        images = [path for path in paths if path not in videos]
        timelines = self._timeline_paths(videos, [*paths, *outputs.values()])
        if self.timeline is not None and videos:
            self.timeline.parent.mkdir(parents=True, exist_ok=True)  # fails before anything is classified
        yield from self._classify_images(self.progress(images), outputs)
        if self._animated:
            names = ", ".join(map(str, self._animated[:3])) + (", ..." if self._animated[3:] else "")
            self.on_note(f"{names}: only the first of several frames or pages is classified")
        if self.timeline is not None and not videos:
            self.on_note(f"--timeline {self.timeline}: there are no videos")
        if self.by_second and not videos:
            self.on_note("--per-second: there are no videos")
        for path in videos:
            film = Film(path.name, self.recognizer.classes)
            self.films.append(film)
            with self._reporting_errors():
                yield from self._classify_video(path, film)
            if not len(film):
                continue
            shown = path
            with self._reporting_errors():
                if path in outputs:
                    self._annotate_video(path, film, outputs[path])
                    shown = outputs[path]
            with self._reporting_errors():
                if written := timelines.get(path):
                    write_timeline(film, written, shown, annotated=shown != path)
                    self.on_note(f"timeline: {written}")

    def _classify_video(self, path: Path, film: Film) -> Iterator[Record]:
        video = Video(path)
        watcher = Watcher(
            self.recognizer,
            frame_stride=self.frame_stride,
            smooth=self.smooth,
            detect=self.detect,
            portraits=self.timeline is not None,
        )

        def watch() -> Iterator[FilmFrame]:
            try:
                yield from watcher.watch(self.progress(video, total=video.frames))
            except (Exception, KeyboardInterrupt):
                yield from watcher.rest()  # an interruption or an error loses no classified frame
                raise
            finally:
                film.finish(video)

        frames = _added(film, watch())
        for frame in per_second(frames) if self.by_second else frames:
            yield Record(str(path), frame.faces, frame.number, frame.second)
        video.require_whole()

    def _annotate_video(self, path: Path, film: Film, output: Path) -> None:
        """Writes the annotated copy of a film that was classified."""
        self._note_annotated(output)
        frames = self.progress(Video(path), total=len(film) * self.frame_stride)
        with VideoFile(output, path) as file:
            for frame, faces in with_faces(frames, film):
                file.write(np.asarray(draw_faces(frame.pixels, faces)), frame.second)

    def _timeline_paths(self, videos: Collection[Path], others: Sequence[Path]) -> dict[Path, Path]:
        """Returns the file for the timeline of each video; of several, names may be equal up to folder and suffix.

        Raises:
            UserError: one of them is one of the other files, which are classified or written.
        """
        if self.timeline is None:
            return {}
        several = len(videos) > 1
        names = _timelines_of(self.timeline, videos) if several else dict.fromkeys(videos, self.timeline)
        taken = {path.resolve() for path in others}
        for name in names.values():
            if name.resolve() in taken:
                raise UserError(f"--timeline {name}: would replace this file, which is classified or written")
        return names

    def _classify_images(self, paths: Iterable[Path], outputs: dict[Path, Path]) -> Iterator[Record]:
        if not outputs:
            yield from (Record(str(path), faces) for path, faces in self._classify_batches(self._read(paths)))
            return
        for path, image in self._read(paths):
            (faces,) = self.recognizer.predict_many([image], self.detect)
            yield Record(str(path), faces)
            with self._reporting_errors():
                self._note_annotated(outputs[path])
                _save(draw_faces(image, faces), outputs[path], colour_profile(self._content(path)))

    def _read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for path in paths:
            with self._reporting_errors():
                content = self._content(path)
                image = read_image(content)
                if count_frames(content) > 1:
                    self._animated.append(path)
                yield path, image
                del image  # frees its memory before the next image is read

    def _content(self, path: Path) -> Path | bytes:
        """Returns the path of an image, or what was read from standard input, which can be read only once."""
        if path != STANDARD_INPUT:
            return path
        if self._standard_input is None:
            self._standard_input = sys.stdin.buffer.read()
        return self._standard_input

    def _classify_batches(self, images: Iterable[tuple[Key, NDArray[np.uint8]]]) -> Iterator[tuple[Key, list[Face]]]:
        """Yields the key and the faces of each image; `predict_many` takes several images at a time and no keys."""
        keys: deque[Key] = deque()

        def without_keys() -> Iterator[NDArray[np.uint8]]:
            for key, image in images:
                keys.append(key)
                yield image

        for faces in self.recognizer.predict_many(without_keys(), self.detect):
            yield keys.popleft(), faces

    def _note_annotated(self, path: Path) -> None:
        """Lists an annotated file before it is written: later runs may replace it, and do not classify it."""
        assert self.out is not None
        if path.resolve() not in self._annotated:
            note_annotated(self.out, path)
            self._annotated.add(path.resolve())

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
        if self.out.is_file():
            raise UserError(f"--out {self.out}: a file; a folder is needed")
        absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100, links are not followed
        root = Path(os.path.commonpath([path.parent for path in absolute]))
        mirrored = {path: self.out / full.relative_to(root) for path, full in zip(paths, absolute, strict=True)}
        outputs = _apart({path: _with_writable_suffix(output, path in videos) for path, output in mirrored.items()})
        self._annotated = annotated_images(self.out)
        for original in {path.resolve() for path in paths} & {output.resolve() for output in outputs.values()}:
            raise UserError(f"--out {self.out}: an annotated file would replace {original}; name another folder")
        for output in outputs.values():
            if output.is_file() and output.resolve() not in self._annotated:
                raise UserError(
                    f"--out {self.out}: {output} is not listed there as an annotated file; remove it, or name another "
                    "folder"
                )
        self.out.mkdir(parents=True, exist_ok=True)  # fails before anything is classified
        return outputs


def _timelines_of(timeline: Path, videos: Collection[Path]) -> dict[Path, Path]:
    """Adds the name of each video to the name of its timeline, and a number where several have one name."""
    names: dict[Path, Path] = {}
    stems = Counter(video.stem for video in videos)
    for video in videos:
        unnumbered = [""] if stems[video.stem] == 1 else []
        ends = itertools.chain(unnumbered, (f"-{number}" for number in itertools.count(1)))
        own = (timeline.with_stem(f"{timeline.stem}-{video.stem}{end}") for end in ends)
        names[video] = next(name for name in own if name not in names.values())
    return names


def _apart(outputs: dict[Path, Path]) -> dict[Path, Path]:
    """Repeats the suffix of an annotated file whose name is taken: beside a.heic.png, a.heic gets a.heic.png.png."""
    taken = {output for path, output in outputs.items() if path.name == output.name}
    apart: dict[Path, Path] = {}
    for path, output in outputs.items():
        while path.name != output.name and output in taken:
            output = output.with_name(output.name + output.suffix)
        taken.add(output)
        apart[path] = output
    return apart


def _added(film: Film, frames: Iterable[FilmFrame]) -> Iterator[FilmFrame]:
    """Adds the frames to a film as they pass."""
    for frame in frames:
        film.add(frame)
        yield frame


def _save(image: Image.Image, path: Path, profile: bytes | None) -> None:
    try:
        with atomic_write(path) as temporary:
            options: dict[str, Any] = {"icc_profile": profile} if profile else {}
            image.save(temporary, **options)
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
