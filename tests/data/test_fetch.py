import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from emotion.data.fetch import fetch
from emotion.errors import UserError


@pytest.fixture
def download(tmp_path):
    """A download as kagglehub leaves it in its own cache."""
    folder = tmp_path / "client_cache" / "fer2013"
    for name in ("train/happy/Training_1.jpg", "test/sad/PublicTest_2.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def requested(monkeypatch, download):
    """Replaces kagglehub by a client without network; returns the list of requested names."""
    names = []

    def dataset_download(name):
        names.append(name)
        return str(download)

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(__spec__=1, dataset_download=dataset_download))
    return names


def fail_with(monkeypatch, error):
    def dataset_download(name):
        raise error

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(__spec__=1, dataset_download=dataset_download))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def message_of(target: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_download_is_copied_to_the_target(tmp_path, requested, download):
    target = tmp_path / "some" / "where" / "fer2013"
    assert fetch(target) == target
    assert requested == ["msambare/fer2013"]
    assert files(target) == files(download) == ["test/sad/PublicTest_2.jpg", "train/happy/Training_1.jpg"]
    assert [entry.name for entry in target.parent.iterdir()] == ["fer2013"]


def test_leftovers_of_a_killed_fetch_are_replaced(tmp_path, requested, download):
    leftover = tmp_path / "fer2013.tmp" / "train" / "sad" / "half.jpg"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    assert files(fetch(tmp_path / "fer2013")) == files(download)
    assert not (tmp_path / "fer2013.tmp").exists()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_existing_target_is_unchanged_and_nothing_downloaded(tmp_path, requested, make):
    target = tmp_path / "fer2013"
    make(target)
    message = message_of(target)
    assert message.startswith(f"{target}: exists already")
    assert "--to" in message
    assert requested == []
    assert target.exists()


def test_missing_client_names_the_extra_and_the_download_by_hand(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    message = message_of(tmp_path / "fer2013")
    assert "pip install 'emotion[fetch]'" in message
    assert "https://www.kaggle.com/datasets/msambare/fer2013" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Name or service not known"), "Name or service not known"),
        (RuntimeError("403 Client Error\n\nYou don't have permission\n"), "403 Client Error"),
        (TimeoutError(), "TimeoutError"),
        (OSError("x" * 5000), "x" * 200),
    ],
)
def test_failed_download_names_the_reason_and_the_download_by_hand(tmp_path, monkeypatch, error, reason):
    fail_with(monkeypatch, error)
    message = message_of(tmp_path / "fer2013")
    assert message.startswith(
        f"{tmp_path / 'fer2013'}: FER2013 could not be downloaded ({reason}); without a network: "
    )
    assert "python -m zipfile -e" in message
    assert list(tmp_path.iterdir()) == []


def test_advice_names_the_given_target(tmp_path, monkeypatch):
    fail_with(monkeypatch, ConnectionError("no network"))
    assert f"python -m zipfile -e archive.zip {tmp_path / 'faces'}" in message_of(tmp_path / "faces")


def test_download_without_the_image_folders_is_refused(tmp_path, requested, download):
    (download / "train").rename(download / "archive")
    assert "train" in message_of(tmp_path / "fer2013")
    assert not (tmp_path / "fer2013").exists()


def test_interrupt_is_not_swallowed(tmp_path, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "fer2013")


def test_target_that_cannot_be_written_is_named(tmp_path, requested):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in message_of(tmp_path / "file" / "fer2013")
