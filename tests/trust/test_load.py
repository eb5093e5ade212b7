"""The service, as it is started by hand, under many clients at once that send good, bad, huge and slow requests."""

import io
import itertools
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from emotion.inference.recognizer import Face, Recognizer, load

CLIENTS, SLOW, BURST = 32, 4, 96
"""Clients that ask all the time, those that never end a request, and those that ask at once in the end: three times as
many as are judged at the same time."""
TOLERANCE = 1e-4
"""Between a face that is judged with others and one that is judged alone."""
Answer = list[dict[str, object]]


@dataclass(frozen=True)
class Request:
    """What is sent, and the offline answer; None where it has to be refused."""

    content: bytes
    query: str = ""
    faces: list[Face] | None = None


@dataclass
class Seen:
    """What all clients saw."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def good_requests(recognizer: Recognizer) -> list[Request]:
    """Pictures of one to four faces, turned and scaled, and cut-out faces, each with its offline answer."""
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        portrait = image.convert("RGB")
    requests = []
    for number in range(12):
        own = portrait.resize((300 + 10 * number, 350 + 10 * number)).rotate(number - 6)
        picture = Image.new("RGB", (own.width * (1 + number % 4), own.height))
        for place in range(1 + number % 4):
            picture.paste(own, (place * own.width, 0))
        content = encoded(picture, ("JPEG", "PNG", "WEBP")[number % 3])
        requests.append(Request(content, "", recognizer.predict(content)))
        cut = encoded(portrait.crop((150 - number, 110, 370, 330 + number)), "PNG")
        requests.append(Request(cut, "?detect=false", recognizer.predict(cut, detect=False)))
    assert {len(request.faces or ()) for request in requests} >= {1, 2, 3, 4}
    return requests


def bad_requests() -> list[Request]:
    bomb = Image.new("1", (12_000, 12_000))
    noise = np.random.default_rng(0).integers(256, size=10_000, dtype=np.uint8).tobytes()
    return [Request(content) for content in (b"", noise, encoded(bomb, "PNG"), bytes(16_000_000))]


def is_right(answer: Answer, faces: list[Face]) -> bool:
    return len(answer) == len(faces) and all(
        tuple(told["box"]) == face.box  # type: ignore[arg-type]
        and told["label"] == face.label
        and all(abs(told["probabilities"][name] - value) < TOLERANCE for name, value in face.probabilities.items())  # type: ignore[index]
        for told, face in zip(answer, faces, strict=True)
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Starts `emotion serve`; gives its address and process."""
    command = [sys.executable, "-c", "from emotion.cli import main; main()", "serve", "--port", "0"]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        address = re.search(r"http://\S+(?=/predict)", process.stdout.readline())
        assert address is not None
        yield address[0], psutil.Process(process.pid)
        process.terminate()
        process.wait(30)


def ask(client: httpx.Client, request: Request, seen: Seen) -> None:
    """Sends a request and notes what is wrong with its answer."""
    began = time.monotonic()
    try:
        answer = client.post(f"/predict{request.query}", files={"image": request.content})
    except httpx.TransportError:
        # The service refuses what is too large before all of it has arrived.
        if len(request.content) < 1_000_000:
            seen.wrong.append("no answer")
        return
    seen.statuses.append(answer.status_code)
    if answer.status_code == 503:
        if "retry-after" not in answer.headers:
            seen.wrong.append("503 without a time to come back")
        time.sleep(1)
    elif request.faces is None:
        if answer.status_code not in (413, 422):
            seen.wrong.append((answer.status_code, answer.text))
    elif answer.status_code != 200 or not is_right(answer.json()["faces"], request.faces):
        seen.wrong.append((answer.status_code, answer.text))
    else:
        seen.seconds.append(time.monotonic() - began)


def go_on_asking(address: str, requests: list[Request], bad: list[Request], end: float, seed: int, seen: Seen) -> None:
    """Sends one request after the other until the end; every eighth is bad."""
    chance = random.Random(seed)
    with httpx.Client(base_url=address, timeout=60) as client:
        while time.monotonic() < end:
            ask(client, chance.choice(bad if chance.random() < 1 / 8 else requests), seen)


def burst(address: str, requests: list[Request]) -> Seen:
    """Sends many requests at the same moment."""
    seen, begin = Seen(), threading.Barrier(BURST, timeout=60)

    def send(request: Request) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            client.get("/health")  # connected before it begins
            begin.wait()
            ask(client, request, seen)

    with ThreadPoolExecutor(BURST) as pool:
        list(pool.map(send, itertools.islice(itertools.cycle(requests), BURST)))
    return seen


def dribble(address: str, end: float) -> int:
    """Sends requests a few bytes at a time and never ends one; returns how many it began."""
    host, port = address.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9000\r\n\r\n"
    begun = 0
    while time.monotonic() < end:
        # The service may hang up on it, as on all where there is too much to do.
        with suppress(ConnectionError), socket.create_connection((host, int(port))) as connection:
            begun += 1
            connection.sendall(head)
            for _ in range(10):
                connection.sendall(b"slow")
                time.sleep(0.2)
    return begun


def most_memory(process: psutil.Process, end: float) -> int:
    """Returns the most bytes that a process held at any moment until the end."""
    most = 0
    while time.monotonic() < end:
        most = max(most, process.memory_info().rss)
        time.sleep(0.2)
    return most


@pytest.mark.forms("length", test=[10], check=[60], nightly=[1800])
def test_no_wrong_answer_and_no_growth_under_load(
    server: tuple[str, psutil.Process], length: int, record: Callable[[str, int, int], None]
) -> None:
    address, process = server
    requests, bad, seen = good_requests(load()), bad_requests(), Seen()
    begin = time.monotonic()
    end = begin + length
    with ThreadPoolExecutor(CLIENTS + SLOW) as pool:
        clients = [pool.submit(go_on_asking, address, requests, bad, end, number, seen) for number in range(CLIENTS)]
        slow = [pool.submit(dribble, address, end) for _ in range(SLOW)]
        time.sleep(length / 3)
        warm, late = (most_memory(process, begin + share * length) for share in (2 / 3, 1))
    for client in clients:
        client.result()  # raises what ended it early
    at_once = burst(address, requests)
    growth = late / warm - 1
    wrong = [*seen.wrong, *at_once.wrong]
    wrong += [f"never {status}" for status in (200, 413, 422) if status not in seen.statuses]
    wrong += [f"never {status} in the burst" for status in (200, 503) if status not in at_once.statuses]
    wrong += [f"a slow client began {begun} requests" for begun in map(Future.result, slow) if begun < length / 10]
    if growth >= 0.1:
        wrong.append(f"memory grew by {growth:.0%}")
    if httpx.get(f"{address}/health").json()["status"] != "ok":
        wrong.append("not healthy in the end")
    p99 = float(np.quantile(seen.seconds, 0.99))
    what = (
        f"{CLIENTS} clients of the service for {length} s (p99 {p99:.1f} s, memory {growth:+.0%}), then {BURST} at once"
    )
    record(what, len(seen.statuses) + len(at_once.statuses), len(wrong))
    assert not wrong[:3]
