"""The one exception that stands for a mistake of the user's, not of the program's."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn


class UserError(Exception):
    """Bad input: the message is one clear line that names the file or key and says what is legal.

    The commands print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, at most 200 characters, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def printable(text: str) -> str:
    """Returns a text with what would steer a terminal written out, as names of files can hold it."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )


def disk_is_full(error: BaseException | None) -> bool:
    """Tells whether writing failed for want of space, or of a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_choice(key: str, value: object, legal: Sequence[object]) -> None:
    """Raises a `UserError` that lists what is legal if `value` is not."""
    if value not in legal:
        names = (str(name).lower() if isinstance(name, bool) else str(name) for name in legal)
        raise UserError(f"{key}={value}: not one of {', '.join(names)}")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a `UserError`, and what the system says of a file or a full disk, into one line and exit status 2."""
    try:
        yield
    except UserError as error:
        _exit(str(error))
    except OSError as error:
        if disk_is_full(error):
            _exit(f"{error.strerror}: whatever was complete is intact; free some space and try again")
        if error.filename is None:
            raise
        _exit(f"{os.fsdecode(error.filename)}: {error.strerror}")


def _exit(line: str) -> NoReturn:
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2) from None
