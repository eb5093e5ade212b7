"""The contact sheet of an audit: a figure of the groups of duplicates, for people to check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from emotion.analysis.figures import rgb, short_name
from emotion.data.audit import Audit, Group
from emotion.data.packed import PackedImages
from emotion.palette import BAND, BLUE, GREEN, ORANGE, PURPLE, SOFT_TEXT, TEXT

GROUPS_SHOWN = 60
"""Most groups in a section; enough for all groups of FER2013 with different labels."""
IMAGES_SHOWN = 8
"""Most images in a group."""

_COLOURS = {"train": BLUE, "val": GREEN, "test": ORANGE, "public": ORANGE, "private": PURPLE}
_INCHES = 0.8  # width and height of an image, which is the unit of all other lengths on the sheet
_WIDTH, CARD_HEIGHT, _GAP = 15.0, 1.72, 0.2
_NAME = 12  # characters of the name of a class that fit under an image


@dataclass(frozen=True)
class _Card:
    """A group on the sheet: a title above the images of some rows of the data."""

    title: str
    rows: Sequence[int]

    @property
    def width(self) -> float:
        return len(self.rows) * 1.06 + 0.14


@dataclass(frozen=True)
class _Section:
    heading: str
    cards: list[_Card]


def contact_sheet(packed: PackedImages, audit: Audit) -> Figure:
    """Draws groups of duplicates: identical images with different labels, with the same label, and near duplicates.

    A section shows at most 60 groups and a group at most 8 images, each with the total. Near duplicates start with the
    lowest correlation, so that readers see whether the threshold is right. The groups are numbered as in
    `duplicates.csv`.

    Args:
        packed: the images that were audited.
        audit: the result of the audit.

    Returns:
        A figure with class and part under every image.
    """
    sections = [section for section in _sections(audit, packed.labels) if section.cards]
    sections = sections or [_Section("No two images are identical or nearly identical", [])]
    placed = list(_layout(sections))
    height = placed[-1][2] + CARD_HEIGHT
    figure = Figure(figsize=(_WIDTH * _INCHES, height * _INCHES))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for item, x, y in placed:
        if isinstance(item, _Card):
            _draw_card(axes, item, x, y, packed)
        else:
            axes.text(x, y + 0.55, item, fontsize=12, fontweight="bold", color=TEXT, va="center", parse_math=False)
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def _sections(audit: Audit, labels: NDArray[np.int64]) -> Iterator[_Section]:
    exact = [(_card(f"exact {number}", group, labels), group) for number, group in enumerate(audit.exact, start=1)]
    yield _section("Identical images with different labels", [card for card, group in exact if group.conflicts])
    agreeing = sorted((pair for pair in exact if not pair[1].conflicts), key=lambda pair: not pair[1].crosses)
    yield _section("Identical images with the same label, those in several parts first", [card for card, _ in agreeing])
    near = [
        (float(audit.correlation[group.rows].min()), number, group) for number, group in enumerate(audit.near, start=1)
    ]
    yield _section(
        f"Nearly identical images (correlation r of {audit.threshold:g} or more), the lowest first",
        [
            _card(f"near {number} · r {lowest:.3f}", group, labels)
            for lowest, number, group in sorted(near, key=itemgetter(0))
        ],
    )


def _section(heading: str, cards: list[_Card]) -> _Section:
    shown = f"{GROUPS_SHOWN} of {len(cards):,}" if len(cards) > GROUPS_SHOWN else str(len(cards))
    return _Section(f"{heading}: {shown} group{'s' * (len(cards) != 1)}", cards[:GROUPS_SHOWN])


def _card(title: str, group: Group, labels: NDArray[np.int64]) -> _Card:
    """Returns the card of a group, whose images include one of each label in the group."""
    _, first = np.unique(labels[group.rows], return_index=True)
    others = np.setdiff1d(np.arange(len(group.rows)), first)
    shown = np.sort(np.concatenate([first, others])[:IMAGES_SHOWN])
    hidden = len(group.rows) - len(shown)
    return _Card(f"{title} · {hidden} more" if hidden else title, group.rows[shown].tolist())


def _layout(sections: Sequence[_Section]) -> Iterator[tuple[_Card | str, float, float]]:
    """Yields headings and cards with x and y of their upper left corners; rows of cards break at the sheet's width."""
    y = _GAP
    for section in sections:
        yield section.heading, _GAP, y
        x, y = _GAP, y + 1.0
        for card in section.cards:
            if x + card.width > _WIDTH - _GAP:
                x, y = _GAP, y + CARD_HEIGHT + _GAP
            yield card, x, y
            x += card.width + _GAP
        y += CARD_HEIGHT + _GAP


def _draw_card(axes: Axes, card: _Card, x: float, y: float, packed: PackedImages) -> None:
    box = FancyBboxPatch(
        (x, y), card.width, CARD_HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", facecolor=BAND, edgecolor="none"
    )
    axes.add_patch(box)
    style: dict[str, Any] = {"fontsize": 6.5, "va": "center", "parse_math": False}
    axes.text(x + 0.1, y + 0.15, card.title, color=SOFT_TEXT, **style)
    for position, row in enumerate(card.rows):
        left, top = x + 0.1 + 1.06 * position, y + 0.3
        axes.imshow(rgb(packed.images[row]), extent=(left, left + 1, top + 1, top), aspect="auto", zorder=2)
        part = str(packed.parts[row])
        name = short_name(packed.classes[packed.labels[row]], _NAME)
        axes.text(left + 0.5, top + 1.11, name, color=TEXT, ha="center", **style)
        axes.text(left + 0.5, top + 1.29, part, color=_COLOURS.get(part, SOFT_TEXT), ha="center", **style)
