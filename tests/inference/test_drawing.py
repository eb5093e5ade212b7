import numpy as np
import pytest
from matplotlib.colors import to_rgb

from emotion.data.classes import CLASSES
from emotion.inference.drawing import COLOURS, draw_faces
from emotion.inference.recognizer import Face


def face(box, label: str = "surprise") -> Face:
    return Face(box, label, {name: float(name == label) for name in CLASSES})


def luminance(colour: str) -> float:
    """Returns the relative luminance of WCAG 2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_labels_can_be_read() -> None:
    assert set(COLOURS) == set(CLASSES)
    assert len(set(COLOURS.values())) == len(CLASSES)
    for colour in COLOURS.values():
        assert (luminance(colour) + 0.05) / (luminance("#101418") + 0.05) > 4.5


def test_the_box_is_drawn_and_the_rest_is_as_it_was() -> None:
    picture = np.full((300, 400, 3), 90, np.uint8)
    drawn = np.asarray(draw_faces(picture, [face((100, 120, 80, 80))]))
    changed = (drawn != picture).any(2)
    assert tuple(drawn[160, 100]) == tuple(round(255 * value) for value in to_rgb(COLOURS["surprise"]))
    assert changed[120, 100:180].all()
    assert changed[120:200, 100].all()
    assert not changed[130:190, 110:170].any()
    assert not changed[:90].any()
    assert (picture == 90).all()


@pytest.mark.parametrize("left", [-500, -50, 0, 350, 395, 600])
@pytest.mark.parametrize("top", [-500, -50, 0, 250, 295, 600])
@pytest.mark.parametrize("side", [4, 100, 900])
def test_labels_stay_inside_whatever_the_box(left: int, top: int, side: int) -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    drawn = np.asarray(draw_faces(picture, [face((left, top, side, side))]))
    filled = (drawn == [round(255 * value) for value in to_rgb(COLOURS["surprise"])]).all(2)
    if top < 300:
        assert filled.sum() > 150  # the label's ground, even where no line of the box is seen


def test_tiny_pictures_and_no_faces() -> None:
    tiny = np.zeros((1, 1, 3), np.uint8)
    assert draw_faces(tiny, [face((0, 0, 1, 1))]).size == (1, 1)
    assert np.array_equal(np.asarray(draw_faces(tiny, [])), tiny)
