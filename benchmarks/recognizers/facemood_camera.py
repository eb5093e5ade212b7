"""facemood: its network, fed as its only function feeds it, `predict_emotion_from_camera`, which needs a camera."""

from importlib.resources import files

import numpy as np
from PIL import Image
from protocol import Classify, rgb, run

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
"""The classes in the order of `predict_emotion_from_camera`."""


def load() -> tuple[Classify, int]:
    from tensorflow.keras.models import load_model

    network = load_model(str(files("facemood") / "model__version1.0.0__.h5"), compile=False)

    def classify(image: np.ndarray) -> str:
        enlarged = np.asarray(Image.fromarray(rgb(image)).resize((170, 170)))  # [170, 170, 3]
        # Called directly, which is faster than the `predict` of the package.
        return CLASSES[int(np.argmax(network(enlarged[np.newaxis] / 255.0, training=False)))]

    return classify, sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)


run(load)
