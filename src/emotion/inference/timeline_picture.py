"""A timeline of the persons of a film, as a picture."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from emotion.errors import printable
from emotion.inference.drawing import font
from emotion.palette import BAND, GRID, SOFT_TEXT, TEXT

MOST_PERSONS = 12
"""Persons in a picture: those who are seen longest."""
WIDTH, MARGIN = 2000, 64
"""Width of the picture and of its margins, pixels."""
CHART_LEFT, CHART_WIDTH, CHART_HEIGHT = 770, WIDTH - MARGIN - 770, 132
ROW_HEIGHT = CHART_HEIGHT + 44
"""Height of a person's row, with the space below the chart."""
FINE = 3
"""Charts are drawn so many times larger and shrunk, which smooths their edges."""
LARGE, MEDIUM, SMALL = 48, 34, 26
"""Sizes of letters, pixels."""
BACK = "#ffffff"
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Seconds between two labels of the time axis."""
MOST_TICKS = 10
NAMED_FROM = 0.005
"""Smaller shares would read as 0 %."""
MOST_NAMED = 12
"""Classes in the legend: of more, those with the largest areas."""

Portraits = Mapping[int, Sequence[tuple[float, bytes]]]
"""Of each person by number the portraits: the second and the JPEG file."""


def draw_picture(data: Mapping[str, Any], portraits: Portraits) -> Image.Image:
    """Draws a timeline as an RGB image, `WIDTH` pixels wide.

    Args:
        data: what `emotion.inference.timeline.timeline_data` returns.
        portraits: see `emotion.inference.persons.Film`.
    """
    longest = sorted(data["persons"], key=lambda person: -person["seconds"])[:MOST_PERSONS]
    persons = sorted(longest, key=lambda person: person["person"])
    picture = Image.new("RGB", (WIDTH, 800 + ROW_HEIGHT * len(persons)), BACK)  # cut off below the last line
    pen = ImageDraw.Draw(picture)
    top = _draw_head(pen, data)
    for person in persons:
        picture.paste(_draw_chart(data, person), (CHART_LEFT, top))
        _draw_portrait(picture, person["person"], portraits, top)
        _describe(pen, data["classes"], person, top)
        top += ROW_HEIGHT
    if persons:
        top = _draw_axis(pen, data["duration"], top - ROW_HEIGHT + CHART_HEIGHT)
    if note := _note(data, len(persons)):
        pen.text((MARGIN, top), note, SOFT_TEXT, font(SMALL))
        top += 2 * SMALL
    return picture.crop((0, 0, WIDTH, top + MARGIN // 2))


def _draw_head(pen: ImageDraw.ImageDraw, data: Mapping[str, Any]) -> int:
    """Writes title and legend, and returns where the charts begin, pixels from the top."""
    name = _fitted(pen, printable(data["name"]).replace("\n", " "), LARGE, WIDTH - 2 * MARGIN)
    pen.text((MARGIN, MARGIN - 8), name, TEXT, font(LARGE))
    if not data["persons"]:
        return MARGIN + 76
    text = f"{_clock(data['duration'])} long. The height of a colour is the probability of the expression."
    if len(data["classes"]) > MOST_NAMED:
        text += f" Of {len(data['classes']):,} expressions, the {MOST_NAMED} with the largest areas are named."
    pen.text((MARGIN, MARGIN + 60), text, SOFT_TEXT, font(SMALL))
    return _draw_legend(pen, data, MARGIN + 120) + 44


def _draw_legend(pen: ImageDraw.ImageDraw, data: Mapping[str, Any], top: int) -> int:
    """Writes the classes on their colours, and returns where the legend ends, pixels from the top."""
    left, height, letters = MARGIN, 46, font(SMALL)
    for name in _named(data):
        width = math.ceil(pen.textlength(name, letters)) + 44
        if left + width > WIDTH - MARGIN:
            left, top = MARGIN, top + height + 12
        pen.rounded_rectangle((left, top, left + width - 1, top + height - 1), 23, fill=data["colours"][name])
        pen.text((left + width / 2, top + height / 2), name, data["ink"], letters, "mm")
        left += width + 12
    return top + height


def _named(data: Mapping[str, Any]) -> list[str]:
    """Returns the classes that the legend names, in their order."""
    areas = np.concatenate([person["probabilities"] for person in data["persons"]]).sum(axis=0)  # [K]
    largest = np.argsort(-areas, stable=True)[:MOST_NAMED]
    return [data["classes"][index] for index in sorted(largest)]


def _draw_chart(data: Mapping[str, Any], person: Mapping[str, Any]) -> Image.Image:
    """Draws the areas of a person, RGB, `CHART_WIDTH` x `CHART_HEIGHT`; the background shows where it is not seen."""
    width, height, duration = FINE * CHART_WIDTH, FINE * CHART_HEIGHT, data["duration"]
    chart = Image.new("RGB", (width, height), BAND)
    pen = ImageDraw.Draw(chart)
    for times, levels in _runs(data, person):
        x = times / duration * width  # [P + 1]
        # Each class reaches from the bottom to its level, the last class first, so that no gap shows between areas.
        for name, tops in reversed([*zip(data["classes"], levels.T, strict=True)]):
            corners = [(x[0], height), *zip(x, (1 - tops) * height, strict=True), (x[-1], height)]
            pen.polygon([(float(a), float(b)) for a, b in corners], fill=data["colours"][name])
    small = chart.reduce(FINE)
    lines = ImageDraw.Draw(small, "RGBA")
    for second in _ticks(duration)[1:]:
        place = second / duration * CHART_WIDTH
        lines.line((place, 0, place, CHART_HEIGHT), fill=(16, 20, 24, 34), width=2)
    return small


def _runs(data: Mapping[str, Any], person: Mapping[str, Any]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Splits the points of a person where it is not seen.

    Returns:
        The times of each run, seconds, float64 [P + 1], of which the last is the end of the last point; and the
        cumulated probabilities at these times, float64 [P + 1, K], from 0 to 1.
    """
    frames = np.array(person["frames"], np.int64)  # [F]
    levels = np.cumsum(person["probabilities"], axis=1)  # [F, K]
    levels /= levels[:, -1:]  # rounding keeps the sum from being 1
    times = np.append(data["seconds"], data["duration"])  # [T + 1]
    parts = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) != 1) + 1)
    return [
        (times[np.append(frames[part], frames[part[-1]] + 1)], np.vstack([levels[part], levels[part[-1]]]))
        for part in parts
    ]


def _draw_portrait(picture: Image.Image, number: int, portraits: Portraits, top: int) -> None:
    """Draws the portrait from the middle of those of a person, or its number, with round corners."""
    mask = Image.new("L", (FINE * CHART_HEIGHT, FINE * CHART_HEIGHT))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *(side - 1 for side in mask.size)), FINE * 20, fill=255)
    own = portraits.get(number)
    if own:
        middle = Image.open(io.BytesIO(own[len(own) // 2][1]))
        face = middle.resize((CHART_HEIGHT, CHART_HEIGHT), Image.Resampling.LANCZOS)
    else:
        face = Image.new("RGB", (CHART_HEIGHT, CHART_HEIGHT), BAND)
        ImageDraw.Draw(face).text((CHART_HEIGHT / 2, CHART_HEIGHT / 2), str(number), SOFT_TEXT, font(LARGE), "mm")
    picture.paste(face, (MARGIN, top), mask.reduce(FINE))


def _describe(pen: ImageDraw.ImageDraw, classes: Sequence[str], person: Mapping[str, Any], top: int) -> None:
    """Writes who is seen for how long, and with which expressions, beside the portrait."""
    left = MARGIN + CHART_HEIGHT + 28
    width = CHART_LEFT - 28 - left
    heading = f"Person {person['person']}"
    pen.text((left, top + 2), heading, TEXT, font(MEDIUM), "lt")
    beside = left + pen.textlength(heading, font(MEDIUM)) + 16
    seen = f"seen {_length(person['seconds'])}, {_counted(person['changes'], 'change')}"
    pen.text((beside, top + 2 + MEDIUM * 0.74), seen, SOFT_TEXT, font(SMALL), "ls")
    shares = sorted(((name, person["shares"][name]) for name in classes), key=lambda pair: -pair[1])
    words = [f"{name} {share:.0%}".replace("%", " %") for name, share in shares if share >= NAMED_FROM] or [
        shares[0][0]
    ]
    fitting = [text for text in accumulate(words, "{}, {}".format) if pen.textlength(text, font(SMALL)) <= width]
    longest = person["longest"]
    lines = (
        fitting[-1] if fitting else words[0],
        f"longest: {longest['label']} {_length(longest['seconds'])} from {_clock(longest['start'])}",
    )
    for line, text in enumerate(lines):
        fitted = _fitted(pen, text, SMALL, width)
        pen.text((left, top + 58 + 42 * line), fitted, (TEXT, SOFT_TEXT)[line], font(SMALL), "lt")


def _draw_axis(pen: ImageDraw.ImageDraw, duration: float, top: int) -> int:
    """Writes the labels of the time axis below the last chart, and returns where the next line begins."""
    for second in _ticks(duration):
        place = CHART_LEFT + second / duration * CHART_WIDTH
        pen.line((place, top, place, top + 10), fill=GRID, width=2)
        half = pen.textlength(_clock(second), font(SMALL)) / 2
        middle = min(max(place, CHART_LEFT + half), CHART_LEFT + CHART_WIDTH - half)
        pen.text((middle, top + 18), _clock(second), SOFT_TEXT, font(SMALL), "mt")
    return top + 72


def _note(data: Mapping[str, Any], shown: int) -> str:
    """Returns how many persons the picture does not show."""
    more, brief, seconds = len(data["persons"]) - shown, data["left_out"], f"{data['brief']:g} s"
    if not shown:
        return f"No person is seen for {seconds} or longer." if brief else "No person is seen."
    parts = [f"and {more} more"] if more else []
    if brief:
        parts.append(f"{brief} {'others are' if brief > 1 else 'other is'} seen for less than {seconds}")
    return "; ".join(parts)


def _ticks(duration: float) -> list[int]:
    """Returns the seconds that the time axis names."""
    hours = 3600 * math.ceil(duration / MOST_TICKS / 3600)
    step = next((seconds for seconds in TICKS if duration / seconds <= MOST_TICKS), hours)
    return list(range(0, math.floor(duration) + 1, step))


def _clock(second: float) -> str:
    """Returns a time as 1:05, or as 1:01:05 from an hour on."""
    minutes, seconds = divmod(math.floor(second), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else _clock(seconds)


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _fitted(pen: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """Shortens a text to a width in pixels."""
    short = text
    while pen.textlength(short, font(size)) > width:
        text = text[:-1]
        short = f"{text}..."
    return short
