"""Colours of figures, drawings and the page, as `#rrggbb`."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, count

from emotion.data.classes import CLASSES

EXPRESSIONS = dict(
    zip(CLASSES, ("#d55e00", "#8a9a00", "#cc79a7", "#f0c400", "#8d96a0", "#56b4e9", "#3fbf8f"), strict=True)
)
"""The colours of the classes of FER2013, see `class_colours`."""
INK = "#101418"

_HUES = (
    *("#56b4e9", "#f0c400", "#d55e00", "#6b70f2", "#3fbf8f", "#e4c4d0"),
    *("#a87565", "#986cbf", "#91da8b", "#8d96a0", "#8a9a00", "#cc79a7"),
)
"""The colours of other classes: those of `EXPRESSIONS` and five more, each as far from those before it as possible for
all kinds of colour vision."""
_GOLDEN, _LIGHTNESS, _SATURATION = 0.618034, (0.7, 0.8, 0.88), 0.6
"""Further colours: steps of the hue, which never repeat, their lightness in turn, and their saturation."""

BLUE, ORANGE, GREEN, PURPLE = "#2f6db3", "#d9792b", "#3f8f5f", "#7a4fa3"
LIGHT_BLUE, LIGHT_ORANGE = "#9fc0e4", "#efbf96"
TEXT, SOFT_TEXT = "#1d2733", "#566270"
GREY, GRID, BAND = "#8d96a0", "#e3e3e3", "#f5f7fa"


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Returns the colours of boxes and curves by class: all different, for any number of classes.

    The classes of FER2013 have the same colours everywhere. Letters in `INK` can be read on all colours, and name the
    class where the colour does not: past twelve classes, some colours look alike.
    """
    return dict(zip(classes, _colours(tuple(classes)), strict=True))


@lru_cache(maxsize=64)
def _colours(classes: tuple[str, ...]) -> tuple[str, ...]:
    used = {EXPRESSIONS[name] for name in classes if name in EXPRESSIONS}
    candidates = chain(_HUES, map(_further, count()))
    colours = []
    for name in classes:
        colour = EXPRESSIONS.get(name) or next(own for own in candidates if own not in used)
        used.add(colour)
        colours.append(colour)
    return tuple(colours)


def _further(number: int) -> str:
    """Returns the colour of a number from 0."""
    hue, lightness = number * _GOLDEN % 1, _LIGHTNESS[number % len(_LIGHTNESS)]
    parts = colorsys.hls_to_rgb(hue, lightness, _SATURATION)
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in parts))
