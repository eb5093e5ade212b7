"""Makes the pictures of the README: `make pictures`.

The portraits are of Grace Hopper (US Navy, comes with matplotlib) and Eileen Collins (NASA, comes with the app); both are
in the public domain. The app and the report are shown as Chromium shows them.
"""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from chromium import Chromium  # from tests/
from matplotlib.cbook import get_sample_data
from PIL import Image

import emotion
from emotion.inference.drawing import draw_faces
from emotion.inference.explain import explain
from emotion.inference.images import read_picture
from emotion.report.page import write_report

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "pictures"
HOPPER = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
COLLINS = ROOT / "src/emotion/inference/page/samples/collins.jpg"
HEIGHT = 420


def faces() -> None:
    recognizer = emotion.load()
    pictures = [draw_faces(picture, recognizer.predict(picture)) for picture in map(read_picture, (HOPPER, COLLINS))]
    scaled = [picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT)) for picture in pictures]
    Image.fromarray(np.hstack([np.asarray(picture) for picture in scaled])).save(OUT / "faces.jpg", quality=88)


def explained() -> None:
    explain(HOPPER, classes=["angry"])[0].savefig(OUT / "explained.png", dpi=80)


def report(browser: Chromium) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page, _ = write_report([ROOT / "results"], Path(folder))
        browser.resize(1200, 900)
        browser.open(Path(page))
        browser.screenshot(OUT / "report.png")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    faces()
    explained()
