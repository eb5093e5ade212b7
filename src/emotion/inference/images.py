"""Where pictures come from: files, bytes, PIL images and arrays, folders and patterns."""

import io
import os
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import MAX_PIXELS, BadImageError, open_image, upright
from emotion.errors import UserError, first_line

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A path, the content of a file, a PIL image, or an array uint8 [H, W] (grey), [H, W, 3] (RGB) or [H, W, 4] (RGBA)."""

IMAGES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".jfif"]
)
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
"""The suffixes that are picked up in folders; a file that is named itself may have any."""


def read_picture(picture: Picture) -> NDArray[np.uint8]:
    """Returns a picture upright, as RGB uint8 [H, W, 3].

    Raises:
        BadImageError: not a picture of `emotion.data.decode.FORMATS`, a damaged one, without pixels or with too many.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    name = picture if isinstance(picture, str | Path) else "image"
    try:
        if isinstance(picture, Image.Image):
            return upright(picture, "RGB")
        # Unlike Path.expanduser, this leaves ~nobody as it is.
        file = io.BytesIO(picture) if isinstance(picture, bytes) else os.path.expanduser(picture)  # noqa: PTH111
        with open_image(file) as image:
            return upright(image, "RGB")
    except FileNotFoundError:
        raise BadImageError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise BadImageError(f"{name}: more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        # Decoders raise nearly anything for a damaged file.
        reason = first_line(error) if isinstance(error, BadImageError) else "not an image that can be read"
        raise BadImageError(f"{name}: {reason}") from None


def find_media(words: Iterable[str | Path]) -> list[Path]:
    """Returns the image and video files that paths, folders (at any depth) and patterns name, each once, in order.

    Raises:
        UserError: a word that names no file, or a folder without images and videos.
    """
    try:
        return list(dict.fromkeys(path for word in words for path in _expand(str(word))))
    except OSError as error:
        # Such as a name that is too long.
        raise UserError(first_line(error)) from None


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return path.suffix.lower() in VIDEOS


def _from_array(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise BadImageError(
            f"array {pixels.dtype} {list(pixels.shape)}: uint8 [H, W], [H, W, 3] or [H, W, 4] is needed"
        )
    if not pixels.size:
        raise BadImageError(f"array {list(pixels.shape)}: no pixels")
    rgb = pixels[..., :3] if pixels.ndim == 3 else pixels[..., np.newaxis]
    return np.ascontiguousarray(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))


def _expand(word: str) -> Iterator[Path]:
    path = Path(os.path.expanduser(word))  # noqa: PTH111, leaves ~nobody as it is
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGES | VIDEOS and file.is_file()]
        if not found:
            raise UserError(f"{word}: no images or videos in this folder")
        yield from found
    elif path.is_file():
        yield path
    else:
        matches = sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207, takes any path
        files = [match for match in matches if match.is_file()]
        if not files:
            reason = "no files, only folders, pipes or devices" if matches else "no such file or folder"
            raise UserError(f"{word}: {reason}")
        yield from files
