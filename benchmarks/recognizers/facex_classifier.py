"""facex: `EmotionClassifier.detect_emotion` on a grey face, which it enlarges to 200 pixels."""

from pathlib import Path

import numpy as np
from lite import lite_parameters
from protocol import Classify, run


def load() -> tuple[Classify, int]:
    import facex

    path = Path(facex.__file__).parent / "assets" / "model_optimized.tflite"
    classifier = facex.EmotionClassifier(str(path))

    def classify(image: np.ndarray) -> str:
        scores = classifier.detect_emotion(image)
        return max(scores, key=scores.get)

    return classify, lite_parameters(path)


run(load)
