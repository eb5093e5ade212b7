import re
import sys
from collections.abc import Iterator
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from emotion.cli import app
from emotion.data import fetch as downloads
from emotion.data.fetch import fetch, fetch_votes
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


def test_no_folder_of_the_user_is_touched(tmp_path, requested, download):
    other = tmp_path / "fer2013.tmp" / "train" / "sad" / "mine.jpg"
    other.parent.mkdir(parents=True)
    other.touch()
    assert files(fetch(tmp_path / "fer2013")) == files(download)
    assert other.exists()
    assert {path.name for path in tmp_path.iterdir()} >= {"fer2013", "fer2013.tmp"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


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


HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
ROW = "Training,fer0000000.png,4,0,0,6,0,0,0,0,0,0"


class Host:
    """A web server that stands in for that of FER+, and what it answers."""

    def __init__(self) -> None:
        self.content, self.status, self.promised, self.asked = b"", 200, 0, []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                self.send_response(host.status)
                self.send_header("Content-Length", str(host.promised or len(host.content)))
                self.end_headers()
                self.wfile.write(host.content)

            def log_message(self, *_: object) -> None:
                """Writes nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/fer2013new.csv"


@pytest.fixture
def host(monkeypatch) -> Iterator[Host]:
    own = Host()
    own.content = "\n".join([HEADER, *[ROW] * 35_887, ""]).encode()
    thread = Thread(target=own.server.serve_forever, daemon=True)
    thread.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "FERPLUS_URL", own.url)
    yield own
    own.server.shutdown()
    own.server.server_close()


def throw(error: Exception) -> None:
    raise error


def votes_message_of(target: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch_votes(target)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{target}: ")
    return message


def test_votes_are_downloaded_to_the_target(tmp_path, host):
    target = tmp_path / "ferplus" / "fer2013new.csv"
    assert fetch_votes(target) == target
    assert host.asked == ["/fer2013new.csv"]
    assert target.read_bytes() == host.content
    assert files(tmp_path) == ["ferplus/fer2013new.csv"]


def test_votes_come_from_the_place_where_ferplus_is_published():
    assert downloads.FERPLUS_URL == "https://raw.githubusercontent.com/microsoft/FERPlus/master/fer2013new.csv"


def test_existing_votes_are_unchanged(tmp_path, host):
    target = tmp_path / "own.csv"
    target.write_text("mine")
    assert "exists already; remove it, or name another file with --to" in votes_message_of(target)
    assert target.read_text() == "mine"
    assert host.asked == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\n".join([HEADER, ROW, ROW]), "the download has 2 rows of FER+, must have 35,887"),
        ("<html>", "the download: no column image, neutral, happiness"),
        (HEADER.replace(",fear", ""), "the download: no column fear; found: Usage, Image name"),
        (f"{HEADER}\n{ROW},\nTraining,", "the download line 3: broken row"),
        (HEADER.replace("Usage", "image"), "the download has 0 rows of FER+, must have 35,887"),
        ("x" * (2**24 + 1), "the download has more than 16 MiB"),
    ],
)
def test_another_file_than_that_of_ferplus_is_refused(tmp_path, host, content, reason):
    host.content = content.encode()
    message = votes_message_of(tmp_path / "votes.csv")
    assert f"FER+ could not be downloaded ({reason}" in message
    assert files(tmp_path) == []


def test_failed_download_of_votes_says_how_to_get_them_by_hand(tmp_path, host, monkeypatch):
    target = tmp_path / "votes.csv"
    by_hand = (
        "without a network: download fer2013new.csv from https://github.com/microsoft/FERPlus on another machine and "
        f"copy it to {target}"
    )
    host.status = 404
    assert votes_message_of(target).endswith(f"(HTTP Error 404: Not Found); {by_hand}")
    host.status, host.promised, host.content = 200, len(host.content), host.content[:2000]
    assert re.search(r"\(the download line 4\d: broken row \(.*; without a network: ", votes_message_of(target))
    host.server.server_close()
    monkeypatch.setattr(downloads, "FERPLUS_URL", "http://127.0.0.1:9/fer2013new.csv")
    assert votes_message_of(target).endswith(f"Connection refused>); {by_hand}")
    monkeypatch.setattr(downloads, "urlopen", lambda *_, **__: throw(BadStatusLine("junk")))
    assert votes_message_of(target).endswith(f"(junk); {by_hand}")
    assert list(tmp_path.iterdir()) == []


def test_target_of_votes_that_cannot_be_written_is_named(tmp_path, host):
    (tmp_path / "file").touch()
    assert "FER+ could not be downloaded (" in votes_message_of(tmp_path / "file" / "votes.csv")


def test_command_downloads_votes_and_names_their_licence(tmp_path, host):
    words = ["data", "fetch", "ferplus", "--to", str(tmp_path / "own.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert done.stdout == f"the votes of FER+ (Microsoft, MIT licence) are in {tmp_path / 'own.csv'}\n"
    assert (tmp_path / "own.csv").read_bytes() == host.content


def test_command_has_a_default_place_for_each_of_both(tmp_path, host, requested, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["data", "fetch"]).stdout == "FER2013 is in data/fer2013\n"
    assert CliRunner().invoke(app, ["data", "fetch", "ferplus"]).exit_code == 0
    assert (tmp_path / "data/ferplus/fer2013new.csv").is_file()


def test_command_names_what_can_be_downloaded():
    done = CliRunner().invoke(app, ["data", "fetch", "raf-db"])
    assert done.exit_code == 2
    assert done.stderr == "error: name=raf-db: not one of fer2013, ferplus\n"
