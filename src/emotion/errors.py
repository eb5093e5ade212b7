"""Errors that the user can correct, and the single line that a command prints for each."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 130
"""Exit status that shells expect of a process that was ended by Ctrl-C."""


class UserError(Exception):
    """Invalid input: the message is one line that names the file or key and the legal values or the remedy.

    The commands print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 200 characters, or its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


MISSING_GLYPH = "Glyph .* missing from"
"""A warning of Matplotlib: names of classes may be of any script, and fonts lack some."""


def printable(text: str) -> str:
    """Returns a text in which characters that control a terminal are escaped; names of files can hold them."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def disk_is_full(error: BaseException | None) -> bool:
    """Checks whether writing failed because the disk, a quota or the largest file size is exhausted."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_choice(key: str, value: object, legal: Sequence[object]) -> None:
    """Raises a `UserError` that lists the legal values if the value of the setting or option `key` is not legal."""
    if value not in legal:
        raise UserError(f"{key}={value}: not one of {', '.join(map(str, legal))}")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a `UserError`, a full disk, and a system error about a file into one line and exit status 2.

    Ctrl-C ends with one line and `INTERRUPTED`.
    """
    try:
        yield
    except UserError as error:
        _exit(str(error))
    except BrokenPipeError:  # the program that reads the output, as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more when it ends
        raise SystemExit(1) from None
    except OSError as error:
        if disk_is_full(error):
            _exit(f"{error.strerror}: complete files are intact; free some space and try again")
        if error.filename is None:
            raise
        _exit(f"{os.fsdecode(error.filename)}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _exit(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    raise SystemExit(2) from None
