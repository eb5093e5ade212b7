"""Colours of figures, drawings and the page, as `#rrggbb`."""

from emotion.data.classes import CLASSES

EXPRESSIONS = dict(
    zip(CLASSES, ("#d55e00", "#8a9a00", "#cc79a7", "#f0c400", "#8d96a0", "#56b4e9", "#3fbf8f"), strict=True)
)
"""Boxes and curves by class. Letters in `INK` can be read on them, and name the class where the colour does not."""
INK = "#101418"

BLUE, ORANGE, GREEN, PURPLE = "#2f6db3", "#d9792b", "#3f8f5f", "#7a4fa3"
LIGHT_BLUE, LIGHT_ORANGE = "#9fc0e4", "#efbf96"
TEXT, SOFT_TEXT = "#1d2733", "#566270"
GREY, GRID, BAND = "#8d96a0", "#e3e3e3", "#f5f7fa"
