"""PyEmotion: `DetectFace._predict`, which gets a grey face from its detector."""

from protocol import Classify, run


def load() -> tuple[Classify, int]:
    from PyEmotion import DetectFace

    recognizer = DetectFace(device="cpu")
    return recognizer._predict, sum(weight.numel() for weight in recognizer.network.parameters())


run(load)
