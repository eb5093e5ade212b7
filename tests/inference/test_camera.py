import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import pytest
from drawn_films import draw_film, noise

from emotion.data.decode import BadImageError
from emotion.inference import camera
from emotion.inference.camera import open_camera


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="needs a missing camera")
def test_a_missing_camera_gets_a_message(capfd: pytest.CaptureFixture) -> None:
    for name in ("77", "/dev/video77"):
        with pytest.raises(BadImageError) as error:
            open_camera(name)
        assert str(error.value) == f"camera {name}: not found; is it connected?"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (av.error.OSError(errno.EBUSY, "Device or resource busy"), "another program is using it"),
        (av.error.PermissionError(errno.EACCES, "Permission denied"), "no permission to use it"),
        (av.error.OSError(errno.EIO, "Input/output error"), "cannot be opened: Input/output error"),
        (ValueError("no container format 'v4l2'"), "cannot be opened: FFmpeg says: no container format 'v4l2'"),
    ],
)
def test_cameras_that_cannot_be_opened_get_a_message(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments, **options) -> None:
        raise error

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(BadImageError) as refusal:
        open_camera("0")
    assert str(refusal.value) == f"camera 0: {message}"


@pytest.mark.parametrize(
    ("platform", "name", "opened"),
    [
        ("linux", "1", ("/dev/video1", "v4l2")),
        ("linux", "/dev/video2", ("/dev/video2", "v4l2")),
        ("darwin", "1", ("1", "avfoundation")),
        ("win32", "1", ("video=Second camera", "dshow")),
        ("win32", "video=Camera", ("video=Camera", "dshow")),
    ],
)
def test_each_system_has_its_interface(
    platform: str, name: str, opened: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(system: str) -> list[av.DeviceInfo]:
        assert system == "dshow"
        names = (("Microphone", "audio"), ("Camera", "video"), ("Second camera", "video"))
        return [av.DeviceInfo(name, "", False, [kind]) for name, kind in names]

    def note(device: str, mode: str, system: str, **options) -> None:
        assert (device, mode, system) == (opened[0], "r", opened[1])
        raise av.error.FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "enumerate_input_devices", find)
    monkeypatch.setattr(av, "open", note)
    with pytest.raises(BadImageError, match="not found"):
        open_camera(name)


def test_a_video_stands_in_for_a_camera(tmp_path: Path) -> None:
    path = draw_film(tmp_path / "film.mp4", 10, rate=20)
    camera = open_camera(str(path))
    begin = time.monotonic()
    for frame in camera:
        assert time.monotonic() - begin >= frame.second
    assert frame.number == 9
    assert time.monotonic() - begin >= 0.45


@contextmanager
def stream(content: bytes, seconds: float, stated: int | None = None, pause: float = 0) -> Iterator[str]:
    """Serves a file over HTTP at an even pace, once; yields its address. It may state more bytes than
    it has, and pause before the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            with suppress(OSError):  # the client closes the connection
                length = f"Content-Length: {stated}" if stated else "Transfer-Encoding: chunked"
                connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
                for position in range(0, len(content), len(content) // 50 + 1):
                    part = content[position : position + len(content) // 50 + 1]
                    connection.sendall(part if stated else f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    if stopped.wait(seconds / 50):
                        return
                if not stopped.wait(pause) and not stated:
                    connection.sendall(b"0\r\n\r\n")

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}/live"
    finally:
        stopped.set()
        listener.close()
        server.join()


def test_a_slow_consumer_of_a_stream_gets_the_newest_frames(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    before = threading.active_count()
    with stream(content, seconds=2) as address:
        video = open_camera(address)
        assert video.name == "http://" + address.split("@")[1]
        numbers = []
        for frame in video:
            numbers.append(frame.number)
            time.sleep(0.3)
        video.require_whole()
    assert numbers[-1] == 99
    assert 4 <= len(numbers) <= 50  # of 100; a busy machine stretches the stream
    assert threading.active_count() == before


def test_titles_of_streams_may_have_any_encoding(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.mkv", 5).read_bytes().replace(b"Lavf", b"Lav\xff")
    with stream(content, seconds=0) as address:
        assert [frame.number for frame in open_camera(address)][-1] == 4


def test_a_consumer_may_stop_before_the_stream_ends(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    before = threading.active_count()
    with stream(content, seconds=5) as address:
        for frame in open_camera(address):
            assert frame.pixels.shape == (64, 96, 3)
            break
        assert threading.active_count() == before + 1  # the server
    assert threading.active_count() == before


def test_a_broken_connection_gets_a_message_after_its_frames(tmp_path: Path) -> None:
    content = draw_film(tmp_path / "film.ts", noise(100)).read_bytes()
    frames = []
    with stream(content[: len(content) // 2], seconds=0.5, stated=len(content)) as address:
        video = open_camera(address)
        with pytest.raises(BadImageError) as error:
            frames.extend(video)
    assert str(error.value).startswith(f"{video.name}: the connection broke: ")
    assert 40 <= frames[-1].number < 60


def test_a_silent_connection_gets_a_message_after_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = draw_film(tmp_path / "film.ts", noise(200)).read_bytes()
    monkeypatch.setattr(camera, "SILENCE_S", 0.5)
    frames = []
    with stream(content, seconds=0.5, pause=30) as address:
        video = open_camera(address)
        with pytest.raises(BadImageError) as error:
            frames.extend(video)
    assert str(error.value) == f"{video.name}: the connection broke: nothing came for 0.5 s"
    assert frames[-1].number > 150


def test_an_address_without_a_server_gets_a_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BadImageError) as error:
        open_camera(f"http://user:secret@127.0.0.1:{port}/live")
    assert str(error.value) == f"http://127.0.0.1:{port}/live: Connection refused"
