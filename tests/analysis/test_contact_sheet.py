"""Tests of the figure that shows groups of duplicates."""

import re
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch
from numpy.testing import assert_array_equal

from emotion.analysis.contact_sheet import GROUPS_SHOWN, IMAGES_SHOWN, contact_sheet
from emotion.data.audit import audit_images
from emotion.data.classes import CLASSES
from emotion.data.packed import PackedImages


def pack_up(images, labels, parts, classes=CLASSES):
    _, numbers = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
    names = np.arange(len(images)).astype(str)
    hashes = numbers.astype(np.uint64)
    return PackedImages(images, np.array(labels), np.array(parts), names, hashes, skipped=(), classes=classes)


def noise(count, channels=1):
    return np.random.default_rng(0).integers(0, 200, (count, channels, 12, 12)).astype(np.uint8)


def draw(images, labels, parts, threshold=0.9, classes=CLASSES):
    packed = pack_up(images, labels, parts, classes)
    figure = contact_sheet(packed, audit_images(packed, threshold))
    figure.draw_without_rendering()
    return figure.axes[0]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def headings(axes):
    return [text for text in texts(axes) if text.endswith(("group", "groups"))]


@pytest.fixture(scope="module")
def four_groups():
    """Draws identical pairs with one label, with two labels and in two parts, and a nearly identical pair."""
    base = noise(5)
    near = np.clip(base[3:4] + np.random.default_rng(1).integers(0, 25, base[3:4].shape), 0, 255).astype(np.uint8)
    images = np.concatenate([base[[0, 0, 1, 1, 2, 2, 3]], near, base[4:]])
    return draw(images, [3, 3, 0, 5, 6, 6, 1, 1, 2], ["train"] * 3 + ["public", "train", "private"] + ["train"] * 3)


def test_different_labels_come_first_and_near_duplicates_last(four_groups):
    assert headings(four_groups) == [
        "Identical images with different labels: 1 group",
        "Identical images with the same label, those in several parts first: 2 groups",
        "Nearly identical images (correlation r of 0.9 or more), the lowest first: 1 group",
    ]
    titles = [text for text in texts(four_groups) if re.match("(exact|near) ", text)]
    assert titles[:3] == ["exact 2", "exact 3", "exact 1"]
    assert re.fullmatch(r"near 1 · r 0\.9\d\d", titles[3])
    assert len(titles) == 4


def test_label_and_part_stand_under_every_image(four_groups):
    below = {}
    for image in four_groups.images:
        left, right, bottom, top = image.get_extent()
        assert (right - left, bottom - top) == pytest.approx((1, 1))
        under = [
            t
            for t in four_groups.texts
            if left < t.get_position()[0] < right and 0 < t.get_position()[1] - bottom < 0.5
        ]
        below[left, top] = [text.get_text() for text in sorted(under, key=lambda text: text.get_position()[1])]
    in_reading_order = [below[corner] for corner in sorted(below, key=lambda corner: corner[::-1])]
    assert in_reading_order == [
        ["angry", "train"],
        ["sad", "public"],
        ["surprise", "train"],
        ["surprise", "private"],
        ["happy", "train"],
        ["happy", "train"],
        ["disgust", "train"],
        ["disgust", "train"],
    ]


def test_the_images_are_those_of_the_groups(four_groups):
    base = noise(5)
    shown = [image.get_array() for image in four_groups.images]
    for pixels, index in zip(shown[:6], (1, 1, 2, 2, 0, 0), strict=True):
        assert_array_equal(pixels, np.repeat(base[index].transpose(1, 2, 0), 3, axis=2))


def test_near_groups_are_sorted_by_their_lowest_correlation():
    base, rng = noise(3), np.random.default_rng(4)
    changes = [rng.integers(0, amount, base[0].shape) for amount in (10, 60, 30)]
    near = np.stack([image + change for image, change in zip(base, changes, strict=True)]).astype(np.uint8)
    axes = draw(np.concatenate([base, near]), [0] * 6, ["train"] * 6, threshold=0.5)
    assert [text[:6] for text in texts(axes) if text.startswith("near")] == ["near 2", "near 3", "near 1"]


def test_heading_counts_the_groups_that_are_not_shown():
    images = np.repeat(noise(GROUPS_SHOWN + 5), 2, axis=0)
    axes = draw(images, [0, 1] * (GROUPS_SHOWN + 5), ["train"] * len(images))
    assert headings(axes) == [f"Identical images with different labels: {GROUPS_SHOWN} of {GROUPS_SHOWN + 5} groups"]
    assert len(axes.images) == 2 * GROUPS_SHOWN


def test_a_large_group_shows_every_label():
    labels = [0] * 10 + [1, 2, 3, 4, 5, 6]
    axes = draw(np.repeat(noise(1), 16, axis=0), labels, ["train"] * 16)
    assert "exact 1 · 8 more" in texts(axes)
    assert len(axes.images) == IMAGES_SHOWN
    assert [text for text in texts(axes) if text in CLASSES] == ["angry", *CLASSES]


def test_nothing_overlaps_or_leaves_the_sheet():
    sizes = np.random.default_rng(5).integers(2, 12, 30)
    images = np.repeat(noise(30), sizes, axis=0)
    axes = draw(images, np.arange(len(images)) % 7, ["train"] * len(images))
    cards = np.array([patch.get_window_extent().extents for patch in axes.patches if isinstance(patch, FancyBboxPatch)])
    left, low, right, high = cards.T
    assert len(cards) == 30
    apart = (left[:, None] >= right) | (right[:, None] <= left) | (low[:, None] >= high) | (high[:, None] <= low)
    assert (apart | np.eye(30, dtype=bool)).all()
    sheet = axes.figure.bbox
    for artist in [*axes.patches, *axes.texts, *axes.images]:
        box = artist.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= sheet.width
        assert box.y1 <= sheet.height


def test_colour_images_keep_their_colours():
    images = np.repeat(noise(1, channels=3), 2, axis=0)
    axes = draw(images, [0, 0], ["train", "val"])
    assert_array_equal(axes.images[0].get_array(), images[0].transpose(1, 2, 0))


def test_sheet_of_data_without_duplicates_has_a_message():
    axes = draw(noise(3), [0, 1, 2], ["train"] * 3)
    assert texts(axes) == ["No two images are identical or nearly identical"]


def test_long_names_of_classes_stay_beside_each_other():
    classes = ("happily surprised 1", "happily surprised 2", "wide wide wide wide", "MMMMMMMMMM")
    axes = draw(np.repeat(noise(1), 4, axis=0), [0, 1, 2, 3], ["train"] * 4, classes=classes)
    names = [text for text in axes.texts if "…" in text.get_text() or text.get_text() == "MMMMMMMMMM"]
    assert texts(axes)[2:9:2] == ["happily …d 1", "happily …d 2", "wide wid…ide", "MMMMMMMMMM"]
    boxes = sorted((name.get_window_extent() for name in names[:3]), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
