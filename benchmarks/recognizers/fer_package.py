"""fer: `FER.detect_emotions` on a box that is the image, by default or with the word `keras` in the command line.

Its default is mini-Xception in eight bits; `use_tflite=False` is the same network as Keras trained it.
"""

import sys
from pathlib import Path

import numpy as np
from protocol import Classify, rgb, run


def load() -> tuple[Classify, int]:
    from fer.fer import FER

    lite = "keras" not in sys.argv
    # Its margin of 10 pixels would be grey here: the images are framed as those that the network was trained on.
    detector = FER(use_tflite=lite, offsets=(0, 0))

    def classify(image: np.ndarray) -> str:
        (face,) = detector.detect_emotions(rgb(image), [(0, 0, *image.shape)])
        return max(face["emotions"], key=face["emotions"].get)

    return classify, parameters(lite)


def parameters(lite: bool) -> int:
    import fer.fer

    if not lite:
        network = fer.fer.FER._model_cache
        return sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    from lite import lite_parameters

    return lite_parameters(Path(fer.__file__).parent / "data" / "emotion_model_quantized.tflite")


run(load)
