import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

import emotion
from emotion.inference.recognizer import Recognizer
from emotion.inference.service import make_server


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A photograph of one face, 512 x 600 pixels: of Grace Hopper, in the public domain."""
    return Path(get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture(scope="session")
def pixels(portrait: Path) -> NDArray[np.uint8]:
    """The photograph as RGB uint8 [600, 512, 3]."""
    return np.asarray(Image.open(portrait).convert("RGB"))


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    """A recogniser with the network that ships with the package."""
    return emotion.load()


@pytest.fixture
def served() -> Iterator[Callable[[FastAPI], int]]:
    """Serves applications over real sockets until the test ends; a call returns the port."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(application: FastAPI) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        server = make_server(application)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        servers.append((server, thread))
        return listener.getsockname()[1]

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)
