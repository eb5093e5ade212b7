"""What the program of each network does: classify the images of a file one by one, and say how long each took.

    <python of its environment> facex_classifier.py images.bin

The file holds grey images of 48 x 48 pixels, a byte a pixel. The last line of output is JSON: `answered`, the time at
which the first image was classified, seconds since 1970; `milliseconds` and `classes`, of each image; `parameters` of
the network. The module needs only Python and NumPy, since each network runs in an environment of its own.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 48
NAMES = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Names of classes that other packages use, and FER2013's."""

Classify = Callable[[np.ndarray], str]
"""A grey image, uint8 [48, 48], to the name of its class."""


def run(load: Callable[[], tuple[Classify, int]]) -> None:
    """Classifies the images of the file in the command line.

    Args:
        load: returns the function that classifies an image, and the number of parameters of its network.
    """
    images = read_images(Path(sys.argv[1]))
    classify, parameters = load()
    classes, milliseconds, answered = [], [], 0.0
    for image in images:
        began = time.perf_counter()
        name = classify(image)
        milliseconds.append(1000 * (time.perf_counter() - began))
        answered = answered or time.time()
        classes.append(class_name(name))
    result = {"answered": answered, "parameters": parameters, "classes": classes, "milliseconds": milliseconds}
    print(json.dumps(result), flush=True)


def read_images(path: Path) -> np.ndarray:
    """Reads the images of a file: uint8 [N, 48, 48]."""
    return np.fromfile(path, np.uint8).reshape(-1, SIDE, SIDE)


def class_name(name: str) -> str:
    """Returns FER2013's name, in lower case, of a class of another package."""
    return NAMES.get(name.lower(), name.lower())


def rgb(image: np.ndarray) -> np.ndarray:
    """Repeats a grey image in three channels: uint8 [48, 48, 3]."""
    return np.repeat(image[..., np.newaxis], 3, axis=2)
