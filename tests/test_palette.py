import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from other_classes import FERPLUS, THREE

from emotion.data.classes import CLASSES
from emotion.palette import EXPRESSIONS, INK, class_colours

MANY = tuple(f"class {number}" for number in range(1000))
COLOUR_BLIND = {
    "all cones": np.eye(3),
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
"""How linear RGB is seen, after Machado et al. 2009."""


def linear(colour: str) -> np.ndarray:
    """Returns linear RGB, float [3]."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """Returns the relative luminance of WCAG 2."""
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Returns lightness and hue, float [3], of linear RGB; distances are those that people see."""
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.2119, 0.6807, 0.1074], [0.0883, 0.28172, 0.62998]]) @ rgb
    axes = np.array([[0.21045, 0.79362, -0.00407], [1.978, -2.42859, 0.45059], [0.0259, 0.78277, -0.80868]])
    return axes @ np.cbrt(np.clip(cones, 0, 1))


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[::-1], CLASSES[2:5]])
def test_the_seven_keep_their_colours(classes: tuple[str, ...]) -> None:
    colours = class_colours(classes)
    assert tuple(colours) == classes
    assert colours == {name: EXPRESSIONS[name] for name in classes}


def test_an_eighth_class_has_a_colour_of_its_own() -> None:
    colours = class_colours(FERPLUS)
    assert tuple(colours) == FERPLUS
    assert {name: colours[name] for name in CLASSES} == EXPRESSIONS
    assert colours["contempt"] not in EXPRESSIONS.values()


@pytest.mark.parametrize("number", [2, 3, 8, 12, 13, 26, 1000])
@pytest.mark.parametrize("known", [(), ("sad", "happy"), CLASSES])
def test_all_classes_differ_and_letters_can_be_read_on_them(number: int, known: tuple[str, ...]) -> None:
    classes = (*MANY[: number // 2], *known, *MANY[number // 2 : number])
    colours = class_colours(classes)
    assert tuple(colours) == classes
    assert len(set(colours.values())) == len(classes)
    assert {name: colours[name] for name in known} == {name: EXPRESSIONS[name] for name in known}
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())
    assert all((luminance(colour) + 0.05) / (luminance(INK) + 0.05) >= 4.5 for colour in colours.values())


@pytest.mark.parametrize("vision", COLOUR_BLIND)
def test_six_classes_are_told_apart_by_all_kinds_of_colour_vision(vision: str) -> None:
    seen = [oklab(np.clip(COLOUR_BLIND[vision] @ linear(colour), 0, 1)) for colour in class_colours(MANY[:6]).values()]
    apart = [np.linalg.norm(one - other) for index, one in enumerate(seen) for other in seen[:index]]
    assert min(apart) > 0.08  # a difference of 0.02 is just seen


def test_colours_do_not_depend_on_earlier_calls() -> None:
    first = class_colours(THREE)
    class_colours(MANY)
    first["bored"] = "#000000"
    assert class_colours(list(THREE)) == dict(zip(THREE, ("#56b4e9", "#f0c400", "#d55e00"), strict=True))
