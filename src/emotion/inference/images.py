"""Reads images from files, bytes, PIL images and arrays, and lists the image and video files to classify."""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from glob import glob, has_magic
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from emotion.data.decode import MAX_PIXELS, BadImageError, open_image, upright
from emotion.errors import UserError, first_line
from emotion.files import SYSTEM_NAMES, expand, visible_files
from emotion.inference.containers import holds_video

ImageInput = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]
"""A path, the content of a file, an open file, a PIL image, or an array [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4]
(RGBA) of type uint8 or, with values from 0 to 1, of a float type."""

HEIF = (".heic", ".heif", ".hif")
IMAGES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".jfif"),
    *(HEIF if find_spec("pillow_heif") else ()),
}
VIDEOS = {
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2", ".flv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".m1v", ".m2v", ".vob", ".qt", ".divx"),
}
"""Suffixes of the files to take from folders, in lower case; a file whose own path is given may have any suffix."""
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF")
"""Formats whose files may hold several frames or pages; the other images in a JPEG are previews and depth maps."""
STANDARD_INPUT = Path("-")
TIMELINE = "emotion predict --timeline"
"""What a timeline as PNG names as its software, so that it is not classified with the folder that holds it."""
ANNOTATED_LIST = ".emotion-copies"
"""File in an output folder that lists its annotated images: relative paths, each followed by a zero byte."""


def read_image(image: ImageInput, bgr: bool = False) -> NDArray[np.uint8]:
    """Returns an image upright, as RGB uint8 [H, W, 3]; of an animation or a file of several pages, the first image.

    Args:
        image: the image.
        bgr: True if the channels of an array are blue, green, red (and alpha).

    Raises:
        BadImageError: the format is not one of `emotion.data.decode.FORMATS`, the file is damaged, the image has no
            pixels or more than `emotion.data.decode.MAX_PIXELS`, or the argument is not an `ImageInput`.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, bgr)
    name = image if isinstance(image, str | Path) else "image"
    try:
        if isinstance(image, Image.Image):
            return upright(image, "RGB")
        with open_image(_path_or_content(image)) as opened:
            return upright(opened, "RGB")
    except Exception as error:
        raise BadImageError(f"{name}: {_reason(error, image)}") from None


def _path_or_content(image: object) -> str | io.BytesIO:
    if isinstance(image, str | Path):
        return os.path.expanduser(image)  # noqa: PTH111, leaves ~nobody as it is
    if isinstance(image, io.TextIOBase):
        raise BadImageError("a file opened as text; open it with mode 'rb'")
    content = _read_all(image) if hasattr(image, "read") else image
    if not isinstance(content, bytes | bytearray | memoryview):
        kind = f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")
        legal = "a path, bytes, an open file, a PIL image or an array uint8 [H, W, 3] is needed"
        hint = "; cv2.imread returns None for a file that it cannot read" if image is None else ""
        raise BadImageError(f"{kind} is not an image: {legal}{hint}")
    return io.BytesIO(content)


def _read_all(file: Any) -> Any:
    """Reads an open file, and sets it back to where it was, so that it can be read again."""
    if not (hasattr(file, "seekable") and file.seekable()):
        return file.read()
    place = file.tell()
    content = file.read()
    file.seek(place)
    return content


def _reason(error: Exception, image: object) -> str:
    """Returns the reason why an image could not be read; for a damaged file, decoders raise nearly any exception."""
    if isinstance(error, BadImageError):
        return first_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels (the limit)"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError) and _is_empty(image):
        return "an empty file"
    if isinstance(error, OSError) and "truncated" in str(error):
        return "cut off: the end of the file is missing"
    if isinstance(image, str | Path | bytes) and holds_video(image if isinstance(image, bytes) else Path(image)):
        return "a video, not an image"
    return "not an image that can be read"


def _is_empty(image: object) -> bool:
    if isinstance(image, str | Path):
        return expand(str(image)).stat().st_size == 0
    return isinstance(image, bytes | bytearray) and not image


def count_frames(source: Path | bytes) -> int:
    """Returns the number of frames or pages of an image file; 1 for unreadable files and formats not in `ANIMATED`."""
    with suppress(Exception), open_image(_path_or_content(source)) as image:
        return int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    return 1


def colour_profile(source: Path | bytes) -> bytes | None:
    """Returns the ICC profile of an image file, which says how its red, green and blue look; None if it has none."""
    with suppress(Exception), open_image(_path_or_content(source)) as image:
        profile = image.info.get("icc_profile")
        return profile if isinstance(profile, bytes) and image.mode in ("RGB", "RGBA", "P") else None
    return None


def find_media(
    arguments: Iterable[str | Path], out: Path | None = None, on_note: Callable[[str], object] = lambda message: None
) -> list[Path]:
    """Returns the image and video files that paths, folders (at any depth) and patterns stand for, each once, in order.

    Hidden files and folders are skipped unless the argument spells their names.

    Args:
        arguments: paths of files, paths of folders, patterns, and `-` for an image from standard input.
        out: output folder of `emotion predict`, or None; annotated images that were written there before are skipped.
        on_note: called with a message on skipped files: of unreadable formats, in unreadable folders, annotated images
            and timelines.

    Raises:
        UserError: an argument matches no file, or a folder has no images and videos.
    """
    try:
        return list(dict.fromkeys(path for argument in arguments for path in _expand(str(argument), out, on_note)))
    except OSError as error:
        # For example, the name is too long for the system.
        raise UserError(first_line(error)) from None


def is_video(path: Path) -> bool:
    """Checks whether a file is a video, by its suffix or by its first bytes."""
    return path.suffix.lower() in VIDEOS or holds_video(path)


def _from_array(pixels: NDArray[Any], bgr: bool) -> NDArray[np.uint8]:
    name = f"array {pixels.dtype} {list(pixels.shape)}"
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        several = f"; for {len(pixels)} images pass list(array)" if pixels.ndim == 4 else ""
        raise BadImageError(f"{name}: [H, W], [H, W, 3] or [H, W, 4] is needed{several}")
    if not pixels.size:
        raise BadImageError(f"{name}: no pixels")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN is refused, too
            raise BadImageError(f"{name}: values from 0 to 1 are needed, or uint8 from 0 to 255")
        pixels = np.round(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise BadImageError(f"{name}: uint8, or floats from 0 to 1, are needed")
    rgb = pixels[..., :3] if pixels.ndim == 3 else pixels[..., np.newaxis]  # [H, W, 1 or 3]
    return np.ascontiguousarray(np.broadcast_to(rgb[..., ::-1] if bgr else rgb, (*rgb.shape[:2], 3)))  # [H, W, 3]


def _expand(argument: str, out: Path | None, on_note: Callable[[str], object]) -> Sequence[Path]:
    if not argument.strip():
        raise UserError("an empty path; name images, videos or folders")
    path = expand(argument)
    if path == STANDARD_INPUT or path.is_file():
        return [path]
    annotated = set() if out is None else annotated_images(out)
    if path.is_dir():
        files = _media_in_folder(path, argument, on_note)
        annotated |= {image for names in path.rglob(ANNOTATED_LIST) for image in annotated_images(names.parent)}
    else:
        matches = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207, takes any path
        files = [match for match in matches if match.is_file() and not _is_system_file(match, path)]
        if not files:
            raise UserError(f"{argument}: {_missing(argument, matches)}")
    written = annotated | {path.resolve() for path in files if _is_timeline(path)}
    return _without_written(files, written, argument, on_note)


def _missing(argument: str, matches: Sequence[Path]) -> str:
    """Returns the reason why an argument stands for no files, though perhaps for folders, pipes or devices."""
    if matches:
        return "no files, only folders, pipes or devices"
    if re.match(r"\w[\w+.-]+://", argument):
        return "addresses are not fetched; download the file first"
    return "no file matches this pattern" if has_magic(argument) else "no such file or folder"


def _media_in_folder(folder: Path, argument: str, on_note: Callable[[str], object]) -> list[Path]:
    def note_unreadable(error: OSError) -> None:
        on_note(f"{error.filename}: {error.strerror}; the files in this folder are skipped")

    found = sorted(path for path in map(Path, visible_files(folder, note_unreadable)) if path.is_file())
    media = [path for path in found if _is_media(path)]
    others: dict[str, list[Path]] = {}
    for path in found:
        if not _is_media(path):
            others.setdefault(path.suffix.lower(), []).append(path)
    description = _describe_others(others) if others else ""
    if not media:
        raise UserError(f"{argument}: no images or videos in this folder{description and f', but {description}'}")
    if description:
        on_note(f"{argument}: skipped {description}")
    return media


def _is_media(path: Path) -> bool:
    suffix = path.suffix.lower()
    # `.ts` is the suffix of MPEG-TS videos and of TypeScript programs.
    return suffix in IMAGES or (suffix in VIDEOS and (suffix != ".ts" or holds_video(path)))


def _describe_others(others: dict[str, list[Path]]) -> str:
    """Returns the number of files of unreadable formats and, for each suffix, their number and one name."""
    number = sum(map(len, others.values()))
    names = [
        paths[0].name if len(paths) == 1 else f"{len(paths):,} {suffix or 'without suffix'} (such as {paths[0].name})"
        for suffix, paths in others.items()
    ]
    listed = ", ".join(names[:8]) + (", ..." if names[8:] else "")
    heif = "; HEIC needs pip install 'emotion[heic]'" if {*HEIF} & {*others} else ""
    return f"{number:,} file{'s' * (number > 1)} of unreadable formats: {listed}{heif}"


def _is_system_file(match: Path, pattern: Path) -> bool:
    """Checks for `SYSTEM_NAMES` that the pattern does not spell; `glob` itself skips names that begin with a dot."""
    return any(part.lower() in SYSTEM_NAMES for part in {*match.parts} - {*pattern.parts})


def _is_timeline(path: Path) -> bool:
    if path.suffix.lower() == ".png":
        with suppress(Exception), Image.open(path, formats=("PNG",)) as image:
            return bool(image.info.get("Software") == TIMELINE)
    return False


def _without_written(
    files: list[Path], written: set[Path], argument: str, on_note: Callable[[str], object]
) -> list[Path]:
    """Removes annotated images and timelines of earlier runs from a list, unless it holds nothing else."""
    originals = [path for path in files if path.resolve() not in written]
    skipped = len(files) - len(originals)
    if originals and skipped:
        on_note(f"{argument}: skipped {skipped:,} file{'s' * (skipped > 1)} that earlier runs wrote")
    return originals or files


def annotated_images(out: Path) -> set[Path]:
    """Returns the annotated images in an output folder, as its list names them; it may hold other files, too."""
    try:
        names = (out / ANNOTATED_LIST).read_bytes().split(b"\0")[:-1]
    except OSError:
        return set()
    return {(out / os.fsdecode(name)).resolve() for name in names}


def note_annotated(out: Path, path: Path) -> None:
    """Adds a file in an output folder to the folder's list of annotated images.

    Raises:
        OSError: the list cannot be written.
    """
    with (out / ANNOTATED_LIST).open("ab") as names:
        names.write(os.fsencode(path.relative_to(out)) + b"\0")
