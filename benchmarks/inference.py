"""Measures the speed of inference: calls, cold starts, with and without detection, ONNX and PyTorch, the service.

Times are medians of repeated calls in one process. Exceptions are cold starts, which are new processes, and the
service, to which threads of another process send requests. The image is the photograph that comes with matplotlib
(512 x 600 pixels, one face).

    EMOTION_DATA=data/fer2013 python benchmarks/inference.py --out benchmarks/results/inference.json

Contents of the JSON file: `milliseconds`, the time of each measurement by its name; `faces_per_second`, the faces that
the network classifies in a second, by batch size; `service`, a list of {detect, clients, requests, lost,
requests_per_second, p50, p99}, percentiles in milliseconds; `export`, the output lines of `emotion export --int8` (if
EMOTION_DATA is set); `environment`, versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image
from service import percentile, service

import emotion
from emotion.errors import exit_on_user_error
from emotion.inference.crops import crop_faces
from emotion.inference.images import read_image
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import SHIPPED

ROOT = Path(__file__).parents[1]
PHOTOGRAPH = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
COMMAND = str(Path(sys.executable).with_name("emotion"))
REQUESTS, CLIENTS, ROUNDS = 200, (1, 8), 3
BATCHES = (1, 2, 8, 32)
PACKAGES = ("onnxruntime", "pillow", "fastapi", "uvicorn")
"""Packages whose versions are recorded, besides those that every run records."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
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
    """Measures whole processes; repetitions find their files in the system's file cache."""
    commands = {"emotion --help": ["--help"], "emotion predict": ["predict", str(PHOTOGRAPH)]}
    run = partial(subprocess.run, capture_output=True, check=True)
    return {name: median(partial(run, [COMMAND, *words]), repeats=7) for name, words in commands.items()}


def warm() -> dict[str, float]:
    """Measures calls in this process; PyTorch is imported last."""
    recognizer, image = emotion.load(), read_image(PHOTOGRAPH)
    (face,) = recognizer.predict(image)
    crop = crop_faces(image, [face.box], 48)
    large = np.zeros((1200, 1600, 3), np.uint8)
    faceless = np.asarray(Image.fromarray(image[350:]).resize((512, 600), Image.Resampling.BICUBIC))
    large[500:700, 700:871] = np.asarray(Image.fromarray(image).resize((171, 200), Image.Resampling.BOX))
    assert len(recognizer.predict(large)) == 1
    assert not recognizer.predict(faceless)
    network = OnnxNetwork(SHIPPED / "small.onnx")
    times = {
        "predict a file": median(lambda: recognizer.predict(PHOTOGRAPH)),
        "predict an array": median(lambda: recognizer.predict(image)),
        "predict an array, detect=False": median(lambda: recognizer.predict(image, detect=False)),
        "predict a large picture of a small face": median(lambda: recognizer.predict(large), repeats=30),
        "predict a picture without a face": median(lambda: recognizer.predict(faceless), repeats=30),
        "the network, ONNX": median(lambda: network(crop)),
    }
    from emotion.inference.pytorch import TorchNetwork

    eager = TorchNetwork(SHIPPED / "small.safetensors")
    times["the network, PyTorch"] = median(lambda: eager(crop))
    return times | {"the network, ONNX, int8": eight_bits(crop)} | one_core()


def eight_bits(crop: np.ndarray) -> float:
    """Measures a network in eight bits; its ranges come from drawn faces, which do not change its speed."""
    from emotion.data.synthetic import draw_image
    from emotion.training.export import quantize_onnx

    faces = np.stack([draw_image(index % 7, 0, index) for index in range(256)])
    with tempfile.TemporaryDirectory() as folder:
        quantize_onnx(SHIPPED / "small.onnx", faces, Path(folder) / "int8.onnx")
        network = OnnxNetwork(Path(folder) / "int8.onnx")
        return median(lambda: network(crop))


def one_core() -> dict[str, float]:
    """Measures the ONNX network in a process that may use one core and one thread."""
    program = (
        "import os; os.sched_setaffinity(0, {0})\n"
        "import numpy, inference\n"
        "from recognizers.one_thread import use_one_thread\n"
        "use_one_thread()\n"
        "network = inference.OnnxNetwork(inference.SHIPPED / 'small.onnx')\n"
        "face = numpy.zeros((1, 48, 48), numpy.uint8)\n"
        "print(inference.median(lambda: network(face)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
    )
    return {"the network, ONNX, one core": float(done.stdout)}


def batches() -> dict[int, float]:
    """Measures the number of faces that the network classifies in a second, by batch size."""
    network = OnnxNetwork(SHIPPED / "small.onnx")
    faces = np.random.default_rng(0).integers(256, size=(max(BATCHES), 48, 48), dtype=np.uint8)
    return {size: round(1000 * size / median(partial(network, faces[:size])), 1) for size in BATCHES}


def export() -> list[str]:
    """Returns the output of `emotion export --int8` for the shipped network, with accuracies on FER2013."""
    environment = os.environ | {"EMOTION_DATA": str(Path(os.environ["EMOTION_DATA"]).resolve())}
    with tempfile.TemporaryDirectory() as folder:
        command = [COMMAND, "export", "--out", "small.onnx", "--int8"]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def serve() -> list[dict[str, Any]]:
    """Measures `emotion serve` with one client and with eight concurrent clients, with and without face detection."""
    import httpx

    with service(ROOT) as (port, _):
        kinds = [(detect, clients) for detect in (True, False) for clients in CLIENTS]
        return [load(httpx, f"http://127.0.0.1:{port}", *kind) for _ in range(ROUNDS) for kind in kinds]


def load(httpx: Any, address: str, detect: bool, clients: int) -> dict[str, Any]:
    """Sends `REQUESTS` requests from `clients` threads, each of which waits for a response before its next request."""
    content = PHOTOGRAPH.read_bytes()
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=clients)) as client:

        def request(_: int) -> float | None:
            began = time.perf_counter()
            try:
                response = client.post(f"{address}/predict", params={"detect": detect}, files={"image": content})
            except httpx.HTTPError:
                return None
            return time.perf_counter() - began if response.status_code == 200 and response.json()["faces"] else None

        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            times = list(pool.map(request, range(REQUESTS)))
        seconds = time.perf_counter() - began
    answered = [1000 * duration for duration in times if duration is not None]
    return {
        "detect": detect,
        "clients": clients,
        "requests": REQUESTS,
        "lost": REQUESTS - len(answered),
        "requests_per_second": round(len(answered) / seconds, 1),
        "p50": percentile(answered, 50),
        "p99": percentile(answered, 99),
    }


def median(call: Callable[[], object], repeats: int = 100) -> float:
    """Returns the median time of a call in milliseconds, after warm-up calls."""
    for _ in range(1 + repeats // 10):
        call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 2)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
