import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from emotion.inference import connections
from emotion.inference.limits import Limits


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A service of one word that waits for 0.3 seconds and takes three connections."""
    monkeypatch.setattr(connections, "SECONDS", 0.3)
    monkeypatch.setattr(connections, "MOST", 3)
    application = FastAPI()
    application.get("/")(lambda: "here")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, http=connections.Connection, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: ", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"]
)
def test_half_a_request_is_not_waited_for(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
        with suppress(ConnectionResetError):
            while connection.recv(1000):
                pass


def test_who_goes_on_asking_keeps_the_connection(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        streams = set()
        for _ in range(10):
            streams.add(id(client.get("/").extensions["network_stream"]))
            time.sleep(0.1)
    assert len(streams) == 1


def test_of_too_many_connections_the_last_is_told_to_come_back(port: int) -> None:
    several = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(4)]
    answer = several[3].recv(1000)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 5\r\n" in answer
    for connection in several:
        connection.close()
    assert httpx.get(f"http://127.0.0.1:{port}").json() == "here"


def test_no_request_is_cut_off_in_its_time() -> None:
    assert Limits().upload_seconds + Limits().seconds < connections.SECONDS
