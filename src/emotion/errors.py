"""The one exception that stands for a mistake of the user's, not of the program's."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input: the message is one clear line that names the file or key and says what is legal.

    The commands print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, at most 200 characters, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def require_choice(key: str, value: object, legal: Sequence[object]) -> None:
    """Raises a `UserError` that lists what is legal if `value` is not."""
    if value not in legal:
        names = (str(name).lower() if isinstance(name, bool) else str(name) for name in legal)
        raise UserError(f"{key}={value}: not one of {', '.join(names)}")
