import errno
import os

import pytest

from emotion.errors import UserError, exit_on_user_error, printable


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("lr=x: a number is needed"), "lr=x: a number is needed"),
        (UserError("\x1b[2Jno such file"), "\\x1b[2Jno such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: complete files are intact"),
    ],
)
def test_errors_of_users_and_of_the_system_are_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as exit_, exit_on_user_error():
        raise error
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_an_interrupt_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit_, exit_on_user_error():
        raise KeyboardInterrupt
    assert (exit_.value.code, capsys.readouterr().err) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [OSError("no file is named"), ValueError("a bug")])
def test_other_errors_are_raised(error):
    with pytest.raises(type(error)), exit_on_user_error():
        raise error


def test_printable_keeps_letters_and_escapes_invalid_bytes():
    assert printable("Größe 5\nJörg") == "Größe 5\nJörg"
    assert printable(os.fsdecode(b"a\xff")) == "a\\udcff"
