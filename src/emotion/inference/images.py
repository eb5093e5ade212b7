"""Where pictures come from: files, bytes, PIL images and arrays, folders and patterns."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import MAX_PIXELS, BadImageError, open_image, upright
from emotion.errors import UserError, first_line
from emotion.files import SYSTEM, visible_files
from emotion.inference.containers import holds_video

Picture = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[np.uint8]
"""A path, the content of a file, an open file, a PIL image, or an array uint8 [H, W] (grey), [H, W, 3] (RGB) or
[H, W, 4] (RGBA)."""

HEIF = (".heic", ".heif", ".hif")
IMAGES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".jfif"),
    *(HEIF if find_spec("pillow_heif") else ()),
}
VIDEOS = {
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2", ".flv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".m1v", ".m2v", ".vob", ".qt", ".divx"),
}
"""The suffixes that are picked up in folders; a file that is named itself may have any."""
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF")
"""Formats whose files may hold several frames or pages; the further pictures in a JPEG are previews and depths."""

MADE = ".emotion-copies"
"""The file in a folder of copies that lists them, each name ended by a zero byte."""


def read_image(picture: Picture) -> NDArray[np.uint8]:
    """Returns a picture upright, as RGB uint8 [H, W, 3]; of an animation the first frame, of several pages the first.

    Raises:
        BadImageError: not a picture of `emotion.data.decode.FORMATS`, a damaged one, without pixels or with too many,
            or something else than a `Picture`.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    name = picture if isinstance(picture, str | Path) else "image"
    try:
        if isinstance(picture, Image.Image):
            return upright(picture, "RGB")
        with open_image(_file(picture)) as image:
            return upright(image, "RGB")
    except Exception as error:
        raise BadImageError(f"{name}: {_reason(error, picture)}") from None


def _file(picture: object) -> str | io.BytesIO:
    if isinstance(picture, str | Path):
        return os.path.expanduser(picture)  # noqa: PTH111, leaves ~nobody as it is
    content = picture.read() if hasattr(picture, "read") else picture
    if not isinstance(content, bytes | bytearray | memoryview):
        if content is not picture:
            raise BadImageError("a file opened as text; open it with mode 'rb'")
        kind = f"{type(picture).__module__}.{type(picture).__qualname__}".removeprefix("builtins.")
        hint = "; several go to predict_many" if isinstance(picture, list | tuple) else ""
        raise BadImageError(
            f"{kind} is not a picture: a path, bytes, an open file, a PIL image or an array uint8 [H, W, 3] is{hint}"
        )
    return io.BytesIO(content)


def _reason(error: Exception, picture: object) -> str:
    """Says why a picture could not be read; decoders raise nearly anything for a damaged one."""
    if isinstance(error, BadImageError):
        return first_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(picture, str | Path) and holds_video(Path(picture)):
        return "a video, not an image"
    return "not an image that can be read"


def count_frames(path: Path) -> int:
    """Returns how many frames or pages an image file has."""
    with suppress(Exception), open_image(path) as image:
        return int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    return 1


def find_media(
    words: Iterable[str | Path], out: Path | None = None, tell: Callable[[str], object] = lambda sentence: None
) -> list[Path]:
    """Returns the image and video files that paths, folders (at any depth) and patterns name, each once, in order.

    Hidden files and folders count only where they are named themselves.

    Args:
        words: the paths, folders and patterns.
        out: a folder of copies; those that were made there before are left out.
        tell: called with a sentence on the files of each folder that are left out.

    Raises:
        UserError: a word that names no file, or a folder without images and videos.
    """
    try:
        return list(dict.fromkeys(path for word in words for path in _expand(str(word), out, tell)))
    except OSError as error:
        # Such as a name that is too long.
        raise UserError(first_line(error)) from None


def is_video(path: Path) -> bool:
    """Whether a file's name or its content says that it is a video."""
    return path.suffix.lower() in VIDEOS or holds_video(path)


def _from_array(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise BadImageError(
            f"array {pixels.dtype} {list(pixels.shape)}: uint8 [H, W], [H, W, 3] or [H, W, 4] is needed"
        )
    if not pixels.size:
        raise BadImageError(f"array {list(pixels.shape)}: no pixels")
    rgb = pixels[..., :3] if pixels.ndim == 3 else pixels[..., np.newaxis]
    return np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))


def _expand(word: str, out: Path | None, tell: Callable[[str], object]) -> Sequence[Path]:
    path = Path(os.path.expanduser(word))  # noqa: PTH111, leaves ~nobody as it is
    if path.is_file():
        return [path]
    copies = set() if out is None else annotated_images(out)
    if path.is_dir():
        files = _in_folder(path, word, tell)
        copies |= {copy for notes in path.rglob(MADE) for copy in annotated_images(notes.parent)}
    else:
        matches = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207, takes any path
        files = [match for match in matches if match.is_file() and not _is_of_system(match, path)]
        if not files:
            reason = "no files, only folders, pipes or devices" if matches else "no such file or folder"
            raise UserError(f"{word}: {reason}")
    return _without_copies(files, copies, word, tell)


def _in_folder(folder: Path, word: str, tell: Callable[[str], object]) -> list[Path]:
    def tell_closed(error: OSError) -> None:
        tell(f"{error.filename}: {error.strerror}, so what is in it is left out")

    every = sorted(path for path in map(Path, visible_files(folder, tell_closed)) if path.is_file())
    files = [path for path in every if _is_known(path)]
    others: dict[str, list[Path]] = {}
    for path in every:
        if not _is_known(path):
            others.setdefault(path.suffix.lower(), []).append(path)
    told = _describe(others) if others else ""
    if not files:
        raise UserError(f"{word}: no images or videos in this folder{told and f', but {told}'}")
    if told:
        tell(f"{word}: left out {told}")
    return files


def _is_known(path: Path) -> bool:
    suffix = path.suffix.lower()
    # Programs in TypeScript have this suffix, too.
    return suffix in IMAGES or (suffix in VIDEOS and (suffix != ".ts" or holds_video(path)))


def _describe(others: dict[str, list[Path]]) -> str:
    """Counts and names files, by their suffix, that are of no kind that can be read."""
    number = sum(map(len, others.values()))
    names = [
        own[0].name if len(own) == 1 else f"{len(own):,} {suffix or 'without suffix'} (such as {own[0].name})"
        for suffix, own in others.items()
    ]
    listed = ", ".join(names[:8]) + (", ..." if names[8:] else "")
    heif = "; HEIC needs pip install 'emotion[heic]'" if {*HEIF} & {*others} else ""
    return f"{number:,} file{'s' * (number > 1)} of kinds that cannot be read: {listed}{heif}"


def _is_of_system(match: Path, pattern: Path) -> bool:
    """Whether a pattern matches what is hidden; of names that begin with a dot it takes only those it spells."""
    return any(part.lower() in SYSTEM for part in {*match.parts} - {*pattern.parts})


def _without_copies(files: list[Path], copies: set[Path], word: str, tell: Callable[[str], object]) -> list[Path]:
    """Leaves out the copies of an earlier time, unless nothing else was named."""
    originals = [path for path in files if path.resolve() not in copies]
    if originals and len(originals) < len(files):
        tell(f"{word}: left out {len(files) - len(originals):,} of the files found, which are copies made before")
    return originals or files


def annotated_images(out: Path) -> set[Path]:
    """Returns the files in a folder of copies that are copies; others may lie there too."""
    try:
        names = (out / MADE).read_bytes().split(b"\0")[:-1]
    except OSError:
        return set()
    return {(out / os.fsdecode(name)).resolve() for name in names}


def note_annotated(out: Path, path: Path) -> None:
    """Notes that a file in a folder of copies is one.

    Raises:
        OSError: the note cannot be written.
    """
    if path.resolve() not in annotated_images(out):
        with (out / MADE).open("ab") as notes:
            notes.write(os.fsencode(path.relative_to(out)) + b"\0")
