"""The network that comes with this project: `Recognizer.predict` without the detector."""

import numpy as np
from one_thread import use_one_thread
from protocol import Classify, rgb, run


def load() -> tuple[Classify, int]:
    import emotion

    use_one_thread()
    recognizer = emotion.load()

    def classify(image: np.ndarray) -> str:
        (face,) = recognizer.predict(rgb(image), detect=False)
        return face.label

    return classify, parameters()


def parameters() -> int:
    """Counts the weights in the file of the network; statistics of batch normalisation are none."""
    import json

    from emotion.shipped import SHIPPED

    (path,) = SHIPPED.glob("small.safetensors")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    trained = [one for name, one in header.items() if name.endswith((".weight", ".bias"))]
    return sum(int(np.prod(one["shape"])) for one in trained)


run(load)
