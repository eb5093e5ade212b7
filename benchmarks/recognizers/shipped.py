"""The network that comes with this project: `Recognizer.predict` without the detector."""

import numpy as np
from protocol import Classify, rgb, run


def load() -> tuple[Classify, int]:
    import emotion

    use_one_thread()
    recognizer = emotion.load()

    def classify(image: np.ndarray) -> str:
        (face,) = recognizer.predict(rgb(image), detect=False)
        return face.label

    return classify, parameters()


def use_one_thread() -> None:
    """Makes sessions of onnxruntime use one thread: by default they use all cores, even those denied to the process."""
    from emotion.privacy import import_onnxruntime

    onnxruntime = import_onnxruntime()

    class OneThread(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    onnxruntime.SessionOptions = OneThread


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
