"""Synthetic faces in the style of FER2013, drawn from a seed.

Every image is a grey face with one of the seven expressions. The expression moves brows, eyelids, lips and wrinkles as
the action units of the Facial Action Coding System do; everything else (head, hair, light, glasses, hands, noise) is
drawn from random numbers that do not depend on the expression.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from emotion.data.classes import CLASSES

MIN_IMAGES = 140
"""Smallest number of images for which `draw_labels` can put two of every class into every part."""

_PART_SIZES = {"train": 28709, "public": 3589, "private": 3589}
_CLASS_SIZES = {
    "angry": 3995,
    "disgust": 436,
    "fear": 4097,
    "happy": 7215,
    "neutral": 4965,
    "sad": 4830,
    "surprise": 3171,
}
_MIN_PER_CLASS = 2

_GRID = 48.0  # Side of the image in grid units, the unit of all lengths below.
_OVERSAMPLING = 3
_STRENGTHS = (0.4, 1.0)
_GAIN_SPREAD = 0.2
_SHALLOWEST_WRINKLE = 0.15
_WITH_HAIR, _WITH_GLASSES, _WITH_BEARD, _WITH_MOUSTACHE, _WITH_HAND, _WITH_BAR = 0.9, 0.15, 0.1, 0.12, 0.08, 0.06

_EYE_Y, _BROW_Y, _NOSE_Y, _MOUTH_Y = -3.5, -8.0, 4.0, 9.5

_Points = NDArray[np.float64]

_TURN = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
_CIRCLE: _Points = np.column_stack([np.cos(_TURN), np.sin(_TURN)])
# The points are denser at the corners of an eye or a mouth, where the outline turns.
_ACROSS = -np.cos(np.linspace(0.0, np.pi, 13))
_ALONG = np.linspace(0.0, 1.0, 7)


@dataclass(frozen=True)
class Face:
    """A drawn face.

    Attributes:
        image: grey values, uint8 [size, size], 0 to 255.
        mask: bool [size, size], True on the pixels that carry the expression: brows, eyes, mouth and wrinkles, except
            where a hand or a bar hides them.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Features:
    """Features that facial muscles move; lengths in grid units, wrinkles from 0 (none) to 1, defaults at rest."""

    brow_inner: float = 0.0  # Rise of the inner ends.
    brow_outer: float = 0.0  # Rise of the outer ends.
    brow_gap: float = 3.0  # From the middle of the face to an inner end.
    lid_upper: float = 1.6  # Height of the upper lid above the corners of the eye.
    lid_lower: float = 1.0  # Depth of the lower lid below the corners of the eye.
    mouth_width: float = 5.0  # Half of the distance between the corners.
    mouth_corner: float = 0.0  # Rise of the corners above the middle.
    open_up: float = 0.0  # Rise of the upper lip.
    open_down: float = 0.0  # Drop of the lower lip and the jaw.
    lip: float = 1.2  # Thickness of a lip.
    teeth: float = 0.0  # Share of the opening that the upper teeth fill.
    frown: float = 0.0  # Upright lines between the brows.
    forehead: float = 0.0  # Level lines above the brows.
    nose: float = 0.0  # Lines across the bridge of the nose.
    folds: float = 0.0  # Lines from the nose to the corners of the mouth.
    crow: float = 0.0  # Lines beside the eyes.
    chin: float = 0.0  # Line over a raised chin.


_EXPRESSIONS: Mapping[str, _Features] = {
    "angry": _Features(
        brow_inner=-3.0, brow_outer=1.0, brow_gap=1.5, lid_upper=1.3, lid_lower=0.7,
        mouth_width=4.3, mouth_corner=-0.7, lip=0.4, frown=1.0, chin=0.7,
    ),
    "disgust": _Features(
        brow_inner=-1.6, brow_outer=-1.2, brow_gap=2.2, lid_upper=0.7, lid_lower=0.4,
        mouth_width=4.8, mouth_corner=-1.4, open_up=2.0, open_down=0.2, teeth=0.6, nose=1.0, folds=1.0,
    ),
    "fear": _Features(
        brow_inner=2.8, brow_outer=0.4, brow_gap=1.6, lid_upper=2.9, lid_lower=1.4,
        mouth_width=6.5, mouth_corner=-0.8, open_up=0.8, open_down=1.7, lip=0.7, teeth=0.3, forehead=0.8,
    ),
    "happy": _Features(
        brow_inner=0.3, brow_outer=0.3, lid_upper=1.1, lid_lower=0.2,
        mouth_width=7.0, mouth_corner=3.0, open_up=0.2, open_down=2.1, lip=0.9, teeth=1.0, folds=0.9, crow=1.0,
    ),
    "neutral": _Features(),
    "sad": _Features(
        brow_inner=2.5, brow_outer=-1.7, brow_gap=2.4, lid_upper=0.9, lid_lower=0.9,
        mouth_width=4.7, mouth_corner=-2.7, forehead=0.3, chin=1.0,
    ),
    "surprise": _Features(
        brow_inner=3.2, brow_outer=3.2, brow_gap=3.2, lid_upper=3.0, lid_lower=1.5,
        mouth_width=3.4, open_up=1.5, open_down=4.2, lip=0.9, forehead=1.0,
    ),
}  # fmt: skip

_SPREADS = _Features(
    brow_inner=0.5, brow_outer=0.5, brow_gap=0.4, lid_upper=0.25, lid_lower=0.15,
    mouth_width=0.5, mouth_corner=0.4, open_up=0.2, open_down=0.3, lip=0.25, teeth=0.1,
    frown=0.1, forehead=0.1, nose=0.1, folds=0.15, crow=0.1, chin=0.1,
)  # fmt: skip

_SIGNED = ("brow_inner", "brow_outer", "mouth_corner")
_LOWEST = np.array([-np.inf if feature.name in _SIGNED else 0.0 for feature in fields(_Features)])


def _uniform(low: float, high: float) -> float:
    """Declares a field of `_Look` that is drawn uniformly from `low` to `high`."""
    range_field: float = field(metadata={"range": (low, high)})
    return range_field


@dataclass(frozen=True)
class _Look:
    """The random appearance of a face; lengths in grid units, tones from 0 to 255, angles in radians.

    A `..._lot` is uniform in 0 to 1: the face has the item if the lot is below the share of faces that have it.
    """

    scale: float = _uniform(1.0, 1.22)
    rotation: float = _uniform(-0.22, 0.22)
    shift_x: float = _uniform(-3.0, 3.0)
    shift_y: float = _uniform(-3.0, 3.0)
    yaw: float = _uniform(-2.0, 2.0)
    pitch: float = _uniform(-1.0, 1.5)

    background: float = _uniform(5.0, 250.0)
    backdrop: float = _uniform(5.0, 250.0)
    backdrop_edge: float = _uniform(-24.0, 24.0)
    backdrop_tilt: float = _uniform(-12.0, 12.0)
    clothes: float = _uniform(10.0, 240.0)
    skin: float = _uniform(90.0, 230.0)
    hair: float = _uniform(10.0, 120.0)
    lips: float = _uniform(0.55, 0.85)

    head_width: float = _uniform(12.5, 15.5)
    head_height: float = _uniform(17.5, 20.0)
    head_taper: float = _uniform(0.05, 0.3)
    hair_length: float = _uniform(-6.0, 18.0)
    hairline: float = _uniform(0.5, 0.85)
    parting: float = _uniform(-6.0, 6.0)
    parting_rise: float = _uniform(11.0, 17.0)
    hair_lot: float = _uniform(0.0, 1.0)

    eye_x: float = _uniform(5.3, 6.7)
    eye_width: float = _uniform(2.6, 3.4)
    iris: float = _uniform(0.15, 0.5)
    gaze_x: float = _uniform(-1.0, 1.0)
    gaze_y: float = _uniform(-0.4, 0.5)
    brow_rise: float = _uniform(-0.6, 0.6)
    brow_length: float = _uniform(5.0, 6.5)
    brow_thickness: float = _uniform(0.45, 1.0)
    brow_arch: float = _uniform(0.2, 1.3)
    nose_width: float = _uniform(1.6, 2.6)
    nose_side: float = _uniform(-1.0, 1.0)
    mouth_rise: float = _uniform(-0.8, 0.8)

    glasses_lot: float = _uniform(0.0, 1.0)
    glasses_tone: float = _uniform(10.0, 90.0)
    beard_lot: float = _uniform(0.0, 1.0)
    moustache_lot: float = _uniform(0.0, 1.0)
    hand_lot: float = _uniform(0.0, 1.0)
    bar_lot: float = _uniform(0.0, 1.0)
    cover_angle: float = _uniform(0.0, 2.0 * np.pi)
    cover_distance: float = _uniform(7.0, 16.0)
    cover_tone: float = _uniform(20.0, 240.0)

    light_angle: float = _uniform(0.0, 2.0 * np.pi)
    light_slope: float = _uniform(0.0, 0.45)
    contrast: float = _uniform(0.6, 1.2)
    brightness: float = _uniform(-25.0, 25.0)
    blur: float = _uniform(0.0, 0.8)
    noise: float = _uniform(0.0, 10.0)


_LOOK_LOWS, _LOOK_HIGHS = np.array([feature.metadata["range"] for feature in fields(_Look)]).T


class _Canvas:
    """An oversampled image and its mask of the expression, drawn in the coordinates of the face.

    The origin is between the eyes and the nose, x grows to the right and y downwards, in grid units.
    """

    def __init__(self, size: int, look: _Look) -> None:
        side = size * _OVERSAMPLING
        self._unit = side / _GRID * look.scale
        cos, sin = np.cos(look.rotation) * self._unit, np.sin(look.rotation) * self._unit
        self._axes = np.array([[cos, sin], [-sin, cos]])
        self._origin = side / 2.0 + np.array([look.shift_x, look.shift_y]) * side / _GRID
        self._image = Image.new("L", (side, side), round(look.background))
        self._mask = Image.new("L", (side, side), 0)
        self._pen = ImageDraw.Draw(self._image)
        self._mask_pen = ImageDraw.Draw(self._mask)

    def polygon(self, points: _Points, tone: float, *, carries: bool = False) -> None:
        """Fills the polygon through points [n, 2]; `carries` adds it to the mask."""
        pixels = self._to_pixels(points)
        self._pen.polygon(pixels, fill=round(tone))
        if carries:
            self._mask_pen.polygon(pixels, fill=255)

    def line(self, points: _Points, tone: float, width: float, *, carries: bool = False) -> None:
        """Draws a line of this width through points [n, 2]; `carries` adds it to the mask."""
        pixels, pixel_width = self._to_pixels(points), max(1, round(width * self._unit))
        self._pen.line(pixels, fill=round(tone), width=pixel_width)
        if carries:
            self._mask_pen.line(pixels, fill=255, width=pixel_width)

    def cover(self, points: _Points, tone: float) -> None:
        """Fills the polygon through points [n, 2] and removes it from the mask."""
        pixels = self._to_pixels(points)
        self._pen.polygon(pixels, fill=round(tone))
        self._mask_pen.polygon(pixels, fill=0)

    def image(self) -> Image.Image:
        """Returns the image at its final size."""
        return self._image.reduce(_OVERSAMPLING)

    def mask(self) -> NDArray[np.bool_]:
        """Returns the mask at the final size, widened by one pixel because blur spreads edges."""
        return np.asarray(self._mask.reduce(_OVERSAMPLING).filter(ImageFilter.MaxFilter(3))) > 0

    def _to_pixels(self, points: _Points) -> list[float]:
        pixels: list[float] = (points @ self._axes + self._origin).ravel().tolist()  # x, y, x, y ...
        return pixels


def draw_face(expression: str, rng: np.random.Generator, size: int = 48) -> Face:
    """Draws a face with an expression of random strength.

    The generator is read in the same way for every expression, so generators in equal states give the same person in
    the same light.

    Args:
        expression: one of `emotion.data.classes.CLASSES`.
        rng: source of the random numbers.
        size: height and width of the image in pixels, 1 or more.

    Returns:
        The face, uint8 [size, size] in 0 to 255, and the mask of its expression, bool [size, size].

    Raises:
        ValueError: the expression is unknown or the size is less than 1.
    """
    if expression not in _EXPRESSIONS:
        raise ValueError(f"unknown expression {expression!r}, expected one of {', '.join(_EXPRESSIONS)}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    look = _Look(*rng.uniform(_LOOK_LOWS, _LOOK_HIGHS).tolist())
    features = _move_features(expression, rng)
    canvas = _Canvas(size, look)
    _draw_backdrop(canvas, look)
    _draw_head(canvas, look, features)
    _draw_beard(canvas, look, features)
    _draw_nose(canvas, look)
    _draw_wrinkles(canvas, look, features)
    _draw_fringe(canvas, look, features)
    _draw_mouth(canvas, look, features)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, look, features, side)
        _draw_brow(canvas, look, features, side)
    _draw_glasses(canvas, look)
    _draw_cover(canvas, look)
    return Face(_photograph(canvas.image(), look, rng), canvas.mask())


def draw_labels(num_images: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Draws the class and the part of every image of a data set.

    The parts have the proportions of FER2013 (28709 : 3589 : 3589), and in each part the classes have the proportions
    of FER2013's training part, except that no class has fewer than two images in a part.

    Args:
        num_images: size of the data set, `MIN_IMAGES` or more.
        seed: non-negative seed of the order; the counts do not depend on it.

    Returns:
        Class ids, int64 [num_images] in 0 to 6, and parts, str [num_images], each "train", "public" or "private".

    Raises:
        ValueError: there are fewer than `MIN_IMAGES` images or the seed is negative.
    """
    if num_images < MIN_IMAGES:
        raise ValueError(f"at least {MIN_IMAGES} images are needed")
    part_counts = _apportion(num_images, list(_PART_SIZES.values()))
    class_sizes = [_CLASS_SIZES[name] for name in CLASSES]
    class_ids = np.arange(len(CLASSES), dtype=np.int64)
    labels = [np.repeat(class_ids, _with_minimum(_apportion(count, class_sizes))) for count in part_counts]
    parts = np.repeat(list(_PART_SIZES), part_counts)
    order = np.random.default_rng(seed).permutation(num_images)
    return np.concatenate(labels)[order], parts[order]


def draw_image(label: int, seed: int, index: int, size: int = 48) -> NDArray[np.uint8]:
    """Draws one image of a data set; the image depends on the arguments alone, not on images drawn before.

    `draw_face(CLASSES[label], np.random.default_rng([seed, index]), size)` draws the same image with its mask.

    Args:
        label: class id, 0 to 6.
        seed: non-negative seed of the data set.
        index: non-negative position of the image in the data set.
        size: height and width of the image in pixels, 1 or more.

    Returns:
        Grey values, uint8 [size, size], 0 to 255.

    Raises:
        ValueError: the label is not a class id, the seed or the index is negative, or the size is less than 1.
    """
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"label must be from 0 to {len(CLASSES) - 1}, got {label}")
    return draw_face(CLASSES[label], np.random.default_rng([seed, index]), size).image


def _apportion(total: int, sizes: list[int]) -> NDArray[np.int64]:
    """Splits a total in proportion to sizes by largest remainders; int64 [len(sizes)]."""
    quotas = total * np.array(sizes) / sum(sizes)
    counts = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def _with_minimum(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Raises every count to the minimum per class and lowers the largest counts to keep the sum."""
    raised = np.maximum(counts, _MIN_PER_CLASS)
    for _ in range(raised.sum() - counts.sum()):
        raised[raised.argmax()] -= 1
    return raised


def _move_features(expression: str, rng: np.random.Generator) -> _Features:
    """Moves the features from rest towards the expression, with a random strength and random deviations."""
    rest = np.array(astuple(_Features()))
    shift = np.array(astuple(_EXPRESSIONS[expression])) - rest
    strength = rng.uniform(*_STRENGTHS)
    gains = rng.normal(1.0, _GAIN_SPREAD, rest.size)
    deviations = rng.normal(0.0, np.array(astuple(_SPREADS)))
    return _Features(*np.maximum(rest + strength * gains * shift + deviations, _LOWEST).tolist())


def _path(*points: tuple[float, float]) -> _Points:
    return np.array(points)


def _curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> _Points:
    return np.column_stack([x, y])


def _ribbon(x: NDArray[np.float64], top: NDArray[np.float64], bottom: NDArray[np.float64]) -> _Points:
    """Returns the outline [2 n, 2] of the area between two curves over the same x [n]."""
    return np.concatenate([_curve(x, top), _curve(x, bottom)[::-1]])


def _ellipse(x: float, y: float, width: float, height: float) -> _Points:
    """Returns points [24, 2] on the ellipse around (x, y) with these half-axes."""
    return _CIRCLE * (width, height) + (x, y)


def _draw_backdrop(canvas: _Canvas, look: _Look) -> None:
    top, bottom = look.backdrop_edge - look.backdrop_tilt, look.backdrop_edge + look.backdrop_tilt
    canvas.polygon(_path((top, -60), (60, -60), (60, 60), (bottom, 60)), look.backdrop)


def _head_outline(look: _Look, features: _Features) -> _Points:
    x, y = _CIRCLE.T
    below = np.maximum(y, 0.0)
    width = look.head_width * (1.0 - look.head_taper * below**2)
    height = look.head_height + 0.5 * features.open_down * below
    return _curve(x * width - look.yaw, y * height - look.pitch)


def _draw_head(canvas: _Canvas, look: _Look, features: _Features) -> None:
    x, y, width, height = -look.yaw, -look.pitch, look.head_width, look.head_height
    if look.hair_lot < _WITH_HAIR:
        canvas.polygon(_ellipse(x, y - 3.0, width + 2.5, height), look.hair)
        left, right = x - width - 2.5, x + width + 2.5
        canvas.polygon(_path((left, -3), (right, -3), (right, look.hair_length), (left, look.hair_length)), look.hair)
    canvas.polygon(_ellipse(x, y + height + 13.0, width + 9.0, 12.0), look.clothes)
    canvas.polygon(_ellipse(x, y + height, 0.55 * width, 7.0), 0.75 * look.skin)
    for side in (-1.0, 1.0):
        canvas.polygon(_ellipse(x + side * width, y, 1.8, 3.5), 0.85 * look.skin)
    canvas.polygon(_head_outline(look, features), look.skin)


def _draw_fringe(canvas: _Canvas, look: _Look, features: _Features) -> None:
    outline = _head_outline(look, features)
    crown = outline[outline[:, 1] < -look.pitch - look.hairline * look.head_height]
    if look.hair_lot < _WITH_HAIR:
        canvas.cover(np.concatenate([crown, _path((look.parting, -look.pitch - look.parting_rise))]), look.hair)


def _draw_beard(canvas: _Canvas, look: _Look, features: _Features) -> None:
    tone = 0.5 * (look.hair + 0.6 * look.skin)
    lip = _MOUTH_Y - look.mouth_rise - features.open_up - features.lip
    if look.beard_lot < _WITH_BEARD:
        outline = _head_outline(look, features)
        cheeks = _path((-5, lip + 0.5), (5, lip + 0.5))
        canvas.polygon(np.concatenate([outline[outline[:, 1] > 1.0], cheeks]), tone)
    if look.moustache_lot < _WITH_MOUSTACHE:
        canvas.polygon(_path((-5, lip + 0.8), (-1.5, lip - 2), (1.5, lip - 2), (5, lip + 0.8), (0, lip)), tone)


def _draw_nose(canvas: _Canvas, look: _Look) -> None:
    width = look.nose_width
    side = width * look.nose_side
    canvas.polygon(_path((0.3 * side, _EYE_Y), (side, _NOSE_Y), (0.0, _NOSE_Y + 0.6)), 0.88 * look.skin)
    for x in (-0.55 * width, 0.55 * width):
        canvas.polygon(_ellipse(x, _NOSE_Y + 0.4, 0.3 * width, 0.5), 0.43 * look.skin)


def _draw_wrinkles(canvas: _Canvas, look: _Look, features: _Features) -> None:
    for depth, lines in _wrinkle_lines(look, features):
        if depth > _SHALLOWEST_WRINKLE:
            for line in lines:
                canvas.line(line, look.skin * (1.0 - 0.45 * min(depth, 1.2)), 0.6, carries=True)


def _wrinkle_lines(look: _Look, features: _Features) -> list[tuple[float, list[_Points]]]:
    """Returns the depth and the lines of each kind of wrinkle."""
    brow = _BROW_Y - look.brow_rise
    mouth = _MOUTH_Y - look.mouth_rise
    corner = features.mouth_width + 1.0
    forehead = brow - max(features.brow_inner, features.brow_outer) - 2.0
    eye = look.eye_x + look.eye_width + 0.6
    chin = mouth + features.open_down + 3.5
    sides = (-1.0, 1.0)
    return [
        (features.frown, [_path((x, brow - 1.5), (0.8 * x, brow + 2.5)) for x in sides]),
        (features.forehead, [_curve(6.0 * _ACROSS, forehead - rise + 0.8 * _ACROSS**2) for rise in (0.0, 1.8)]),
        (features.nose, [_path((-1.8, y + 0.8), (0.0, y), (1.8, y + 0.8)) for y in (-3.0, -1.5, 0.0)]),
        (features.folds, [_path((2.4 * x, 3.0), (0.8 * corner * x, 5.5), (corner * x, mouth - 1.0)) for x in sides]),
        (features.crow, [_path((eye * x, _EYE_Y), ((eye + 2.0) * x, _EYE_Y + y)) for x in sides for y in (-1, 0, 1)]),
        (features.chin, [_curve(2.5 * _ACROSS, chin + 0.8 * _ACROSS**2)]),
    ]


def _draw_mouth(canvas: _Canvas, look: _Look, features: _Features) -> None:
    x = features.mouth_width * _ACROSS
    bow = (1.0 - _ACROSS**2) ** 0.6
    middle = _MOUTH_Y - look.mouth_rise + features.mouth_corner * (0.4 - _ACROSS**2)
    # 0.2 leaves the line between the lips of a closed mouth.
    upper = middle - (features.open_up + 0.2) * bow
    lower = middle + (features.open_down + 0.2) * bow
    lip_tone = look.lips * look.skin
    canvas.polygon(_ribbon(x, upper - features.lip * bow, lower + 1.2 * features.lip * bow), lip_tone, carries=True)
    canvas.polygon(_ribbon(x, upper, lower), 0.2 * look.skin, carries=True)
    if features.open_up + features.open_down > 0.5:
        canvas.polygon(_ribbon(x, upper, upper + 0.8 * features.teeth * (lower - upper)), 0.4 * look.skin + 150.0)


def _draw_eye(canvas: _Canvas, look: _Look, features: _Features, side: float) -> None:
    centre = side * look.eye_x
    x = centre + look.eye_width * _ACROSS
    bow = (1.0 - _ACROSS**2) ** 0.7
    upper, lower = _EYE_Y - features.lid_upper * bow, _EYE_Y + features.lid_lower * bow
    canvas.polygon(_ribbon(x, upper, lower), 0.4 * look.skin + 140.0, carries=True)
    iris = _ellipse(centre + look.gaze_x, _EYE_Y - 0.3 + look.gaze_y, 1.5, 1.5)
    # The lids hide the part of the iris that lies beyond them.
    iris[:, 1] = np.clip(iris[:, 1], np.interp(iris[:, 0], x, upper), np.interp(iris[:, 0], x, lower))
    canvas.polygon(iris, look.iris * look.skin, carries=True)
    canvas.line(_curve(x, lower), 0.65 * look.skin, 0.4, carries=True)
    canvas.line(_curve(x, upper), 0.25 * look.skin, 0.7, carries=True)


def _draw_brow(canvas: _Canvas, look: _Look, features: _Features, side: float) -> None:
    x = side * (features.brow_gap + look.brow_length * _ALONG)
    rise = features.brow_inner * (1.0 - _ALONG) + features.brow_outer * _ALONG
    y = _BROW_Y - look.brow_rise - rise - look.brow_arch * 4.0 * _ALONG * (1.0 - _ALONG)
    half = look.brow_thickness * (1.0 - 0.6 * _ALONG)
    canvas.polygon(_ribbon(x, y - half, y + half), 0.5 * look.hair + 0.15 * look.skin, carries=True)


def _draw_glasses(canvas: _Canvas, look: _Look) -> None:
    if look.glasses_lot >= _WITH_GLASSES:
        return
    for side in (-1.0, 1.0):
        ring = _ellipse(side * look.eye_x, _EYE_Y + 0.5, 4.3, 3.7)
        canvas.line(np.concatenate([ring, ring[:1]]), look.glasses_tone, 0.7)
        canvas.line(_path((side * (look.eye_x + 4.3), _EYE_Y), (side * 15.0, _EYE_Y - 1.0)), look.glasses_tone, 0.7)
    canvas.line(_path((4.3 - look.eye_x, _EYE_Y), (look.eye_x - 4.3, _EYE_Y)), look.glasses_tone, 0.7)


def _draw_cover(canvas: _Canvas, look: _Look) -> None:
    """Hides a part of the face behind a bar or behind the fingers of a hand that reaches into the image."""
    out = np.array([np.cos(look.cover_angle), np.sin(look.cover_angle)])
    across = np.array([-out[1], out[0]])
    start = look.cover_distance * out
    if look.bar_lot < _WITH_BAR:
        canvas.cover(_rectangle(start, 40.0 * across, 4.0 * out), look.cover_tone)
    if look.hand_lot < _WITH_HAND:
        for finger in (-4.5, -1.5, 1.5, 4.5):
            canvas.cover(_rectangle(start + finger * across, 1.2 * across, 30.0 * out), 0.8 * look.skin)


def _rectangle(start: _Points, across: _Points, out: _Points) -> _Points:
    """Returns the corners [4, 2] of a rectangle that extends by `across` on both sides of `start` and by `out`."""
    return np.stack([start - across, start + across, start + across + out, start - across + out])


@lru_cache(maxsize=8)
def _pixel_grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the coordinates x [1, size] and y [size, 1] of the pixels, from -1 to 1."""
    axis = np.linspace(-1.0, 1.0, size)
    return axis[None, :], axis[:, None]


def _photograph(image: Image.Image, look: _Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Applies light that falls in from one side, then the blur, contrast, brightness and noise of a camera."""
    grey = np.asarray(image.filter(ImageFilter.GaussianBlur(look.blur)), dtype=np.float64)
    x, y = _pixel_grid(len(grey))
    light = 1.0 + look.light_slope * (np.cos(look.light_angle) * x + np.sin(look.light_angle) * y)  # [size, size]
    exposed = 128.0 + look.brightness + look.contrast * (grey * light - 128.0)
    pixels: NDArray[np.uint8] = np.clip(exposed + rng.normal(0.0, look.noise, grey.shape), 0.0, 255.0).astype(np.uint8)
    return pixels
