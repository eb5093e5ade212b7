"""Makes the pictures of the README: `make pictures`.

The portraits are of Grace Hopper (US Navy, comes with matplotlib) and Eileen Collins (NASA, comes with the app); both
are in the public domain. The app and the report are shown as Chromium shows them.
"""

import io
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from browser import chromium, new_page  # from tests/
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, expect

import emotion
from emotion.inference.drawing import draw_faces
from emotion.inference.explain import explain
from emotion.inference.images import read_image
from emotion.inference.video_file import VideoFile
from emotion.report.page import write_report

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "pictures"
HOPPER = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
COLLINS = ROOT / "src/emotion/inference/page/samples/collins.jpg"
HEIGHT = 420


def faces() -> None:
    recognizer = emotion.load()
    pictures = [draw_faces(picture, recognizer.predict(picture)) for picture in map(read_image, (HOPPER, COLLINS))]
    scaled = [picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT)) for picture in pictures]
    Image.fromarray(np.hstack([np.asarray(picture) for picture in scaled])).save(OUT / "faces.jpg", quality=88)


def moving() -> Iterator[tuple[float, np.ndarray]]:
    """Yields times and frames of a film: two portraits lean and swell, and something passes before the second mouth."""
    left, right = (Image.open(path).convert("RGB").resize((300, 352)) for path in (HOPPER, COLLINS))
    for number in range(300):
        second = number / 5
        frame = Image.new("RGB", (1280, 720), (90, 110, 120))
        if not 38 < second < 39:
            frame.paste(warped(left, 0.25 * math.sin(second / 3), 0.3 * math.sin(second / 6)), (150, 150))
        if second > 9:
            frame.paste(warped(right, 0.2 * math.sin(second / 2.7), 0.3 * math.sin(second / 5)), (750, 200))
        if 20 < second < 29:
            ImageDraw.Draw(frame).ellipse((860, 332, 932, 396), (200, 150, 130))
        yield second, np.asarray(frame)


def warped(image: Image.Image, across: float, down: float) -> Image.Image:
    """Returns a portrait that is narrower and lower by these shares."""
    matrix = (1 + across, 0.1 * down, -120 * across, 0.15 * across, 1 + down, -140 * down)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def timeline() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two portraits.mp4"
        with VideoFile(path, None) as file:
            for second, frame in moving():
                file.write(frame, second)
        emotion.analyze_video(path, frame_stride=1).timeline(OUT / "timeline.png")
    shrink(OUT / "timeline.png")


def explained() -> None:
    explain(HOPPER, classes=["angry"])[0].savefig(OUT / "explained.png", dpi=80)


def app(browser: Browser) -> None:
    command = [sys.executable, "-m", "emotion", "app", "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, new_page(browser, 1100, 900) as page:
        assert process.stdout
        try:
            page.goto(process.stdout.readline().split()[-1])
            expect(page.locator("#samples img")).to_have_count(4)
            page.click("#heatmap")
            page.click("#samples li:first-child button")
            expect(page.locator(".face")).to_have_count(1, timeout=30_000)
            page.evaluate("window.scrollTo(0, 0)")
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(OUT / "app.jpg", quality=88)
        finally:
            process.terminate()


def report(browser: Browser) -> None:
    with tempfile.TemporaryDirectory() as folder, new_page(browser, 1100, 1000) as page:
        written, _ = write_report([ROOT / "results"], Path(folder))
        page.goto(Path(written).as_uri())
        page.screenshot(path=OUT / "report.png")


def shrink(path: Path) -> None:
    """Keeps 128 colours, those of small marks too, in which these look the same at a quarter of the size."""
    picture = Image.open(path).convert("RGB")
    picture.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    faces()
    timeline()
    explained()
    with chromium() as browser:
        app(browser)
        report(browser)
    for path in OUT.glob("*.png"):
        shrink(path)
