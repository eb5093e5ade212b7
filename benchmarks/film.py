"""Measures films: how much faster than they are shown they are classified, and whether memory grows with their length.

    python film.py --out results/film.json

The film is drawn: two portraits in the public domain move across frames of 1280 x 720 pixels, 25 a second, with sound.
Each command runs in a process of its own. Longer films repeat the film's packets.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

from emotion.errors import exit_on_user_error
from emotion.training.environment import describe_environment

RATE, SECONDS = 25, 60
COMMANDS = {
    "every 5th frame": [],
    "every frame": ["--frame-stride", "1"],
    "every 5th frame, with a timeline": ["--timeline", "line.html"],
    "every 5th frame, with an annotated copy": ["--out", "annotated"],
}


def frames() -> Iterator[NDArray[np.uint8]]:
    """Yields the frames of the film, RGB uint8 [720, 1280, 3]."""
    portrait = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    left, right = portrait.resize((300, 352)), portrait.resize((256, 300)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for number in range(RATE * SECONDS):
        frame = Image.new("RGB", (1280, 720), (90, 110, 120))
        swing = np.sin(2 * np.pi * number / (8 * RATE))
        frame.paste(left.rotate(5 * swing), (round(150 + 80 * swing), 150))
        frame.paste(right, (round(850 + 60 * swing), round(200 + 40 * swing)))
        yield np.asarray(frame)


def draw(path: Path) -> None:
    """Writes the film with a tone."""
    with av.open(str(path), "w") as output:
        pictures, sound = output.add_stream("libx264", RATE), output.add_stream("aac", 44_100)
        pictures.width, pictures.height, pictures.pix_fmt = 1280, 720, "yuv420p"
        for number, pixels in enumerate(frames()):
            image = av.VideoFrame.from_ndarray(pixels, "rgb24")
            image.pts, image.time_base = number, Fraction(1, RATE)
            output.mux(pictures.encode(image))
        output.mux(pictures.encode(None))
        tone = np.sin(2 * np.pi * 440 * np.arange(44_100 * SECONDS) / 44_100).astype(np.float32)
        for start in range(0, len(tone), 1024):
            samples = av.AudioFrame.from_ndarray(tone[np.newaxis, start : start + 1024], "fltp", "mono")
            samples.rate, samples.pts, samples.time_base = 44_100, start, Fraction(1, 44_100)
            output.mux(sound.encode(samples))
        output.mux(sound.encode(None))


def repeat(path: Path, times: int, out: Path) -> None:
    """Writes the pictures of a film several times, one after the other, without encoding them again."""
    with av.open(str(out), "w") as output:
        stream = None
        for turn in range(times):
            with av.open(str(path)) as source:
                pictures = source.streams.video[0]
                stream = stream or output.add_stream_from_template(pictures)
                assert pictures.time_base is not None
                offset = round(turn * SECONDS / pictures.time_base)
                for packet in source.demux(pictures):
                    if packet.pts is not None and packet.dts is not None:  # the last packet is empty
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        output.mux(packet)


def measure(folder: Path, film: str, options: list[str]) -> dict[str, float]:
    """Returns the seconds and the peak memory, MB, of `emotion predict` in a process of its own."""
    command = [sys.executable, "-m", "emotion", "predict", film, "--csv", *options]
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *command], cwd=folder, stdout=subprocess.PIPE, check=True)
    return {"seconds": round(time.perf_counter() - begin, 1), "megabytes": round(int(done.stdout) * 1024 / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--hour", action=argparse.BooleanOptionalAction, default=True, help="also measure a quarter and a whole hour"
    )
    options = parser.parse_args()
    results: dict[str, Any] = {
        "cores": os.cpu_count(),
        "machine": describe_environment()["cpu"],
        "film_seconds": SECONDS,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "minute.mp4")
        results["commands"] = {title: measure(folder, "minute.mp4", words) for title, words in COMMANDS.items()}
        if options.hour:
            words = ["--frame-stride", "25", "--timeline", "line.html"]
            results["memory"] = {}
            for minutes in (1, 15, 60):
                repeat(folder / "minute.mp4", minutes, folder / "long.mp4")
                results["memory"][minutes] = measure(folder, "long.mp4", words)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
