import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from emotion import files
from emotion.errors import UserError
from emotion.files import (
    atomic_write,
    cache_folder,
    check_unpacked_size,
    hide_home,
    make_cache_folder,
    no_formula,
    remove_stale_temporaries,
)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def write_half(path):
    with atomic_write(path) as temporary:
        temporary.write_text("half of the sec")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    kept = [tmp_path / name for name in ("a.ckpt", ".lock", ".hidden", "b.tmp")]
    leftovers = [tmp_path / ".a.123.tmp.ckpt", tmp_path / ".b.77.tmp"]
    for path in (*kept, *leftovers):
        path.touch()
    remove_stale_temporaries(tmp_path, "b")
    assert leftovers[0].exists()
    assert not leftovers[1].exists()
    remove_stale_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/data", "~/data"),
        ("data_dir=/home/alice", "data_dir=~"),
        ("'/home/alice/a' and /home/alice/b", "'~/a' and ~/b"),
        ("/home/alice2/data", "/home/alice2/data"),
        ("/backup/home/alice/data", "/backup/home/alice/data"),
        ("nothing", "nothing"),
    ],
)
def test_the_home_folder_is_hidden(monkeypatch, text, expected):
    monkeypatch.setenv("HOME", "/home/alice")
    assert hide_home(text) == expected
    if text.startswith("/"):
        assert Path(hide_home(text)).expanduser() == Path(text)


def test_without_a_home_folder_the_text_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert hide_home("/data/x") == "/data/x"


def test_an_archive_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED", 2**24)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(2**24 + 2**20))
    with pytest.raises(ValueError, match="unpack to 17 MiB"):
        check_unpacked_size(path)
    (tmp_path / "text").write_text("no archive")
    check_unpacked_size(tmp_path / "text")


def test_the_cache_folder_is_that_of_the_variable_or_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTION_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mine"
    for unset in (monkeypatch.delenv, lambda name: monkeypatch.setenv(name, "")):
        unset("EMOTION_CACHE")
        assert cache_folder().name == "emotion"
        assert cache_folder().is_absolute()


def test_the_message_on_a_cache_folder_that_cannot_be_made_names_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"file/packed: the cache folder cannot be made \(Not a directory\).*EMOTION_CACHE="
    ):
        make_cache_folder("packed")


@pytest.mark.skipif(sys.platform != "linux", reason="users without a home folder")
def test_the_message_without_a_home_folder_names_the_variable():
    program = (
        "import os, pwd\n"
        "from emotion.files import cache_folder, hide_home\n"
        "os.setuid(54321); os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', None)\n"
        "assert hide_home('/home/x') == '/home/x'\n"
        "try: cache_folder()\n"
        "except Exception as error: print(error)\n"
    )
    if os.geteuid():
        pytest.skip("only root can become another user")
    environment = {name: value for name, value in os.environ.items() if name != "EMOTION_CACHE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "no home folder for the cache: name a folder, as EMOTION_CACHE=/var/tmp/emotion\n"


@pytest.mark.parametrize("text", ["-1", "+0.5", "-3e-05", "+1.2e+10", "-0.01 to 0.02", "-2 to -1e-3", "plain", "", "-"])
def test_numbers_and_names_are_no_formulas(text):
    assert no_formula(text) == text


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "-1+2", "+a", "-1e", "-e5", "-1 to A1"])
def test_formulas_are_texts(text):
    assert no_formula(text) == f"'{text}"


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a.png'$") as caught, atomic_write(tmp_path / "a.png") as temporary:
        raise OSError(30, "Read-only file system", str(temporary))
    assert caught.value.filename == str(tmp_path / "a.png")
