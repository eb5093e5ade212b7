from pathlib import Path

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

import emotion
from emotion.inference.recognizer import Recognizer


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
