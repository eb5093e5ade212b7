from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emotion.errors import UserError
from emotion.inference.explain import explain
from emotion.inference.recognizer import Recognizer
from emotion.pretrained import SHIPPED


@pytest.mark.slow
def test_a_row_for_each_face_and_class(portrait: Path, recognizer: Recognizer) -> None:
    figure, faces = explain(portrait, classes=["fear", "neutral", "fear"])
    (expected,) = recognizer.predict(portrait)
    assert faces[0].box == expected.box
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "", "Grad-CAM: neutral", "Grad-CAM++: neutral", "HiResCAM: neutral", "",
        "", "Grad-CAM: fear", "Grad-CAM++: fear", "HiResCAM: fear", "",
    ]  # fmt: skip
    bars = [patch.get_width() for patch in figure.axes[4].patches]
    assert sum(bars) == pytest.approx(1, abs=1e-5)
    assert max(bars) == faces[0].probabilities["neutral"]
    overlays = [axes.images[1].get_alpha() for axes in figure.axes if axes.get_title()]
    assert all(overlay.max() > 0.7 for overlay in overlays)
    assert np.abs(overlays[2] - overlays[5]).max() > 0.1  # of different classes


def test_what_cannot_be_explained(portrait: Path, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match="--class=joy: not one of angry"):
        explain(portrait, classes=["joy"])
    with pytest.raises(UserError, match="image: no face found; --no-detect"):
        explain(np.zeros((60, 60, 3), np.uint8))
    own = tmp_path / "own.onnx"
    own.write_bytes((SHIPPED / "small.onnx").read_bytes())
    with pytest.raises(UserError, match="PyTorch is needed"):
        explain(portrait, own)
