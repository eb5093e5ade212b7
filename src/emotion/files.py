"""Files: atomic writing, hidden names, the cache folder, and protection against archive bombs."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from platformdirs import user_cache_path

from emotion.errors import UserError

MAX_UNPACKED = 2**30
"""Bytes that an archive of any size may unpack to: predictions for a million images with names of 200 characters."""
SYSTEM_NAMES = (
    *("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
)
"""Names, in lower case, of files and folders that systems, archivers and network drives create."""
_NUMBER = r"[\d.]+(e[+-]?\d+)?"
_FORMULA = re.compile(rf"[=@]|[+-](?!$|{_NUMBER}( to -?{_NUMBER})?$)")
"""Begin of a text that a spreadsheet would take for a formula; -1, +0.5, -3e-05 and -1 to 2 are numbers."""


def is_hidden(name: str) -> bool:
    """Checks whether the name of a file or folder begins with a dot or is one of `SYSTEM_NAMES`."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def visible_files(folder: str | Path, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Yields the paths of the files in a folder, at any depth, that are not hidden; links to folders are not followed.

    Args:
        folder: the folder to search.
        on_error: called for each folder that cannot be read, which is skipped.
    """
    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (os.path.join(parent, name) for name in names if not is_hidden(name))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `path` when the block ends without an error.

    After a signal, a full disk or an error, `path` is as it was. SIGKILL alone leaves the temporary file behind.

    Args:
        path: the file to write; its folder is created if it is missing. The temporary file has the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Shortened, since the file's own name may be as long as the system allows.
    temporary = path.with_name(f".{path.stem[:50]}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            with suppress(AttributeError):  # errors of other libraries cannot be changed
                error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file's content is on the disk; otherwise a power failure after renaming it could leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_stale_temporaries(folder: Path, stem: str = "*") -> None:
    """Removes the temporary files of killed processes, for one file or all; no other process may be writing them."""
    for leftover in folder.glob(f".{stem}.*.tmp*"):
        leftover.unlink()


def expand(path: str | Path) -> Path:
    """Returns a path with the home folder in place of `~`; `~nobody` stays as it is, for a message that names it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, Path.expanduser raises for an unknown user


def hide_home(text: str) -> str:
    """Returns a text in which `~` replaces the user's home folder; readers of such paths expand it again."""
    home = os.path.expanduser("~")  # noqa: PTH111, which stays "~" for a user without a home folder
    return text if home in ("~", os.sep) else re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", text)


def cache_folder() -> Path:
    """Returns the folder of prepared data: `$EMOTION_CACHE`, or the user's cache folder of the platform.

    Raises:
        UserError: the variable is not set, and the user has no home folder.
    """
    chosen = os.environ.get("EMOTION_CACHE")
    try:
        return expand(chosen) if chosen else user_cache_path("emotion")
    except RuntimeError:
        raise UserError("no home folder for the cache: name a folder, as EMOTION_CACHE=/var/tmp/emotion") from None


def make_cache_folder(name: str) -> Path:
    """Creates a folder in the cache folder, if it is missing, and returns its path.

    Raises:
        UserError: it cannot be created.
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
    """Raises a ValueError if a zip archive would unpack to more than `MAX_UNPACKED` bytes and twice its own size."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max(MAX_UNPACKED, 2 * path.stat().st_size):
            raise ValueError(f"it would unpack to {size / 2**20:,.0f} MiB")


def no_formula(text: str) -> str:
    """Returns a cell of a CSV file, with `'` before a text that a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
