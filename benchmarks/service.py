"""Measures `emotion serve` under load: requests a second, and how long answers and refusals take.

Each client sends a photograph, waits for the answer and sends it again; after a refusal (status 503) it waits as long
as the header Retry-After says. The photograph is the one that comes with matplotlib, enlarged to 910 x 1137 pixels.
Server and clients share the machine.

    python benchmarks/service.py --out benchmarks/results/service.json --before ../old

Contents of the JSON file: `photograph`; `before` and `now`, each with `commit` and `runs`, a list of {clients, seconds,
answered, refused, failed, per_second, p50, p99, refused_p99, others_share}; percentiles are milliseconds, null without
such requests; `others_share` is the share of the processors that other processes took during a run; `environment`,
versions and hardware.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.cbook import get_sample_data
from PIL import Image

CLIENTS, SECONDS = (1, 8, 32, 64), 15.0
SIZE, QUALITY = (910, 1137), 90
DISTURBED, TRIES = 0.05, 3
"""Share of the processors from which on a run is repeated, and most runs."""
WARM_UP = 20
"""Requests before the first measurement."""
ROOT = Path(__file__).parents[1]
PACKAGES = ("onnxruntime", "pillow", "fastapi", "starlette", "uvicorn", "h11")
"""Packages whose versions are recorded, besides those that every run records."""


@dataclass
class Seen:
    """What the clients saw: times of answers and of refusals in milliseconds, and failures."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--before", type=Path, help="another checkout, which takes turns")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each run")
    options = parser.parse_args()
    content = photograph()
    result: dict[str, Any] = {"photograph": {"width": SIZE[0], "height": SIZE[1], "bytes": len(content)}}
    checkouts = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    measured = measure(list(checkouts.values()), content, options.seconds)
    for (name, checkout), runs in zip(checkouts.items(), measured, strict=True):
        result[name] = {"commit": commit(checkout), "runs": runs}
    from emotion.training.environment import describe_environment

    result["environment"] = describe_environment()
    del result["environment"]["command"]  # it has the folder of the other checkout
    result["environment"]["packages"] |= {name: version(name) for name in PACKAGES}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def photograph() -> bytes:
    """Returns the photograph as a JPEG."""
    file = io.BytesIO()
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        image.resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def commit(checkout: Path) -> str:
    """Returns the commit of a checkout, followed by `+` if files differ from it."""
    git = ["git", "-C", str(checkout)]
    done = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=True).stdout
    return done.stdout.strip() + ("+" if changed else "")


def measure(checkouts: list[Path], content: bytes, seconds: float) -> list[list[dict[str, Any]]]:
    """Measures the services of some checkouts with each number of clients, in turn; returns the runs of each."""
    runs: list[list[dict[str, Any]]] = [[] for _ in checkouts]
    with ExitStack() as stack:
        services = [stack.enter_context(service(checkout)) for checkout in checkouts]
        for port, _ in services:
            warm_up(port, content)
        for clients in CLIENTS:
            for own, (port, server) in zip(runs, services, strict=True):
                own.append(quietest(port, server, content, clients, seconds))
    return runs


def warm_up(port: int, content: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(WARM_UP):
        ask(connection, content, Seen())
    connection.close()


@contextmanager
def service(checkout: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Starts `emotion serve` from the sources of a checkout; gives its port and process."""
    path = os.pathsep.join([str(checkout.resolve() / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "emotion", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}) as process:
        assert process.stdout
        try:
            address = re.search(r":(\d+)/predict", process.stdout.readline())
            assert address
            yield int(address[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


def quietest(port: int, server: psutil.Process, content: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Repeats a run that other processes disturb, and returns the one that they disturb least."""
    runs: list[dict[str, Any]] = []
    while len(runs) < TRIES and not any(run["others_share"] <= DISTURBED for run in runs):
        runs.append(load(port, server, content, clients, seconds))
    return min(runs, key=lambda run: float(run["others_share"]))


def load(port: int, server: psutil.Process, content: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Lets clients ask for a time, each in a thread."""
    seen, end = Seen(), time.perf_counter() + seconds
    threads = [threading.Thread(target=go_on_asking, args=(port, content, end, seen)) for _ in range(clients)]
    began, own_before, all_before = time.perf_counter(), own_seconds(server), busy_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - began
    others = busy_seconds() - all_before - (own_seconds(server) - own_before)
    assert len(seen.answered) + len(seen.refused) > 0, seen.failed[:3]
    return {
        "clients": clients,
        "seconds": round(passed, 1),
        "answered": len(seen.answered),
        "refused": len(seen.refused),
        "failed": len(seen.failed),
        "per_second": round(len(seen.answered) / passed, 1),
        "p50": percentile(seen.answered, 50),
        "p99": percentile(seen.answered, 99),
        "refused_p99": percentile(seen.refused, 99),
        "others_share": round(max(0.0, others) / passed / (os.cpu_count() or 1), 3),
    }


def go_on_asking(port: int, content: bytes, end: float, seen: Seen) -> None:
    """Sends one request after the other until the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.perf_counter() < end:
        pause = ask(connection, content, seen)
        time.sleep(max(0.0, min(pause, end - time.perf_counter())))
    connection.close()


def ask(connection: http.client.HTTPConnection, content: bytes, seen: Seen) -> float:
    """Sends a request and notes its time; returns the seconds to wait before the next one."""
    began = time.perf_counter()
    try:
        connection.request("POST", "/predict", content, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        seen.failed.append(repr(error))
        connection.close()
        return 0.1
    milliseconds = 1000 * (time.perf_counter() - began)
    if response.status == 503:
        seen.refused.append(milliseconds)
        return float(response.headers["Retry-After"])
    if response.status == 200 and len(json.loads(body)["faces"]) == 1:
        seen.answered.append(milliseconds)
    else:
        seen.failed.append(body.decode())
    return 0


def percentile(values: list[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 1) if values else None


def own_seconds(server: psutil.Process) -> float:
    """Returns the processor time that the server and this process have taken, in seconds."""
    return sum(sum(process.cpu_times()[:2]) for process in (server, psutil.Process()))


def busy_seconds() -> float:
    """Returns the processor time that all processes have taken, in seconds; that of other virtual machines counts."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0))


if __name__ == "__main__":
    main()
