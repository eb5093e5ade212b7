"""Files that are there as a whole or not at all, that say nothing of their author, and that are not bombs."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from platformdirs import user_cache_path

from emotion.errors import UserError

UNPACKED = 2**28
"""Bytes that an archive of any size may unpack to: predictions for four million images."""
SYSTEM = (
    *("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
)
"""Names, in lower case, of what systems, archivers and network drives put into folders: copies, previews, waste."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name, that was not asked for by its name, is none of the user's."""
    return name.startswith(".") or name.lower() in SYSTEM


def visible_files(folder: str | Path, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Yields the files in a folder, at any depth, that are not hidden; links to folders are not followed.

    Args:
        folder: where to look.
        on_error: called for each folder that cannot be read, which is passed over.
    """
    for place, folders, names in os.walk(folder, onerror=on_error) if on_error else os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (os.path.join(place, name) for name in names if not is_hidden(name))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside a file, with its suffix; what is written there then takes the file's place.

    Whatever ends the block early (a signal, a full disk, an error) leaves the file as it was; all but a SIGKILL also
    removes the temporary one.

    Args:
        path: the file to write; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file's own name may be as long as the system takes.
    temporary = path.with_name(f".{path.stem[:50]}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file is on the disk; of a machine that loses power, only what is there stays under its new name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_stale_temporaries(folder: Path, stem: str = "*") -> None:
    """Removes what processes that were killed left of a file, or of all; no other process may be writing it."""
    for rest in folder.glob(f".{stem}.*.tmp*"):
        rest.unlink()


def hide_home(text: str) -> str:
    """Returns a text with the user's home folder as `~`, which the readers of files expand again."""
    home = os.path.expanduser("~")  # noqa: PTH111, which stays "~" for a user without a home folder
    return text if home in ("~", os.sep) else re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", text)


def cache_folder() -> Path:
    """Returns the folder of prepared data: `$EMOTION_CACHE`, or the user's cache folder of the platform.

    Raises:
        UserError: neither exists, since this user has no home folder.
    """
    named = os.environ.get("EMOTION_CACHE")
    try:
        return Path(named).expanduser() if named else user_cache_path("emotion")
    except RuntimeError:
        raise UserError(
            "there is no home folder for the cache: name a folder, as EMOTION_CACHE=/var/tmp/emotion"
        ) from None


def make_cache_folder(name: str) -> Path:
    """Makes a folder below the cache folder, if it is missing.

    Raises:
        UserError: it cannot be made.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the cache folder cannot be made ({error.strerror}); name another one, as "
            "EMOTION_CACHE=/var/tmp/emotion"
        ) from None
    return folder


def check_unpacked_size(path: Path) -> None:
    """Raises a ValueError where a small archive says that it unpacks to very much."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max(UNPACKED, 2 * path.stat().st_size):
            raise ValueError(f"it would unpack to {size / 2**20:,.0f} MiB")
