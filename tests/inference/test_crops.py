import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from emotion.inference.crops import LEVELLED_FROM, center_square, crop_faces, crop_square, reading_order


@pytest.mark.parametrize(
    "box", [(2, 3, 6, 6), (-3, -2, 8, 8), (6, 5, 9, 9), (-5, -5, 30, 30), (0, 0, 12, 10), (11, 9, 1, 1)]
)
def test_boxes_over_the_edge_repeat_it(box) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    left, top, width, height = box
    rows = np.clip(np.arange(top, top + height), 0, 9)
    columns = np.clip(np.arange(left, left + width), 0, 11)
    side = max(width, height)
    if width == height:  # then nothing is resized
        assert np.array_equal(crop_square(picture, box, side), picture[np.ix_(rows, columns)])
    assert crop_square(picture, box, 7).shape == (7, 7, 3)


def test_shrinking_averages() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    expected = picture.reshape(12, 4, 12, 4, 3).mean((1, 3))
    assert np.abs(crop_square(picture, (0, 0, 48, 48), 12) - expected).max() <= 1  # rounded twice


@pytest.mark.parametrize("box", [(10, 20, 100, 100), (-30, -15, 130, 130), (90, 60, 77, 77), (-20, -10, 200, 200)])
@pytest.mark.parametrize("side", [48, 20])
def test_shrunken_crops_are_means_over_areas(pixels: NDArray[np.uint8], box, side: int) -> None:
    """Whole pixels are averaged, so crops lie near the means over parts of pixels; the reference repeats pixels."""
    picture = pixels[100:280, 150:300]
    left, top, width, height = box
    padded = np.pad(picture, ((100, 100), (100, 100), (0, 0)), "edge")
    crop = Image.fromarray(padded).crop((left + 100, top + 100, left + width + 100, top + height + 100))
    rows = np.asarray(crop).repeat(side, 0).reshape(side, height, width, 3).mean(1)
    expected = rows.repeat(side, 1).reshape(side, side, width, 3).mean(2)
    assert np.abs(crop_square(picture, box, side) - expected).mean() < 6


def test_enlarged_crops_are_bicubic(pixels: NDArray[np.uint8]) -> None:
    small = pixels[100:140, 200:240]
    planes = torch.from_numpy(small[5:25, 10:30].copy()).permute(2, 0, 1)[None].float()
    enlarged = F.interpolate(planes, (48, 48), mode="bicubic", align_corners=False, antialias=True)
    expected = enlarged[0].permute(1, 2, 0).clamp(0, 255)
    assert np.abs(crop_square(small, (10, 5, 20, 20), 48) - expected.numpy()).max() <= 2


def test_each_box_gives_its_own_face(pixels: NDArray[np.uint8]) -> None:
    boxes = [(300, 10, 48, 48), (-10, 500, 48, 48), (20, -5, 48, 48)]
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    faces = crop_faces(pixels, boxes, 48)
    for face, (left, top, _, _) in zip(faces, boxes, strict=True):
        rows, columns = np.clip(np.arange(top, top + 48), 0, 599), np.clip(np.arange(left, left + 48), 0, 511)
        assert np.array_equal(face, grey[np.ix_(rows, columns)])


def test_faces_for_colour_networks_are_rgb(pixels: NDArray[np.uint8]) -> None:
    boxes, tilts = [(155, 112, 218, 218), (-10, 500, 48, 48)], [30.0, 0.0]
    faces = crop_faces(pixels, boxes, 40, tilts, channels=3)
    assert (faces.shape, faces.dtype) == ((2, 40, 40, 3), np.uint8)
    for face, box, tilt in zip(faces, boxes, tilts, strict=True):
        assert np.array_equal(face, crop_square(pixels, box, 40, tilt))
    assert crop_faces(pixels, [], 48, channels=3).shape == (0, 48, 48, 3)


@pytest.mark.parametrize(
    "box", [(20, 3, 5, 5), (9, 3, 5, 5), (-5, 3, 5, 5), (3, -5, 5, 5), (3, 9, 5, 5), (-50, -50, 5, 5)]
)
def test_a_box_outside_the_image_is_black(box) -> None:
    face = crop_square(np.full((9, 9, 3), 200, np.uint8), box, 8)
    assert face.shape == (8, 8, 3)
    assert not face.any()


def test_colours_are_turned_grey_and_no_boxes_give_no_faces() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = 200, 100, 50
    faces = crop_faces(picture, [(0, 0, 4, 4)], 4)
    assert faces.dtype == np.uint8
    assert np.abs(faces.astype(float) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 0.5
    assert crop_faces(picture, [], 48).shape == (0, 48, 48)


@pytest.mark.parametrize(("shape", "box"), [((4, 10), (3, 0, 4, 4)), ((10, 4), (0, 3, 4, 4)), ((5, 5), (0, 0, 5, 5))])
def test_center_square(shape, box) -> None:
    assert center_square(np.zeros((*shape, 3), np.uint8)) == box


@pytest.mark.parametrize("tilt", [-170, -90, -45, 12, 30, 90, 135, 180])
def test_tilted_faces_are_turned_upright(pixels: NDArray[np.uint8], tilt: float) -> None:
    """The photograph is turned about the centre of its face by PIL, which turns against the clock."""
    box, centre = (155, 112, 218, 218), (155 + 109, 112 + 109)
    turned = np.asarray(Image.fromarray(pixels).rotate(-tilt, Image.Resampling.BICUBIC, center=centre))
    upright, levelled = (crop_square(image, box, 48, lean) for image, lean in ((pixels, 0), (turned, tilt)))
    assert np.abs(levelled.astype(int) - upright)[4:-4, 4:-4].mean() < 4
    crooked = crop_square(turned, box, 48)
    assert np.abs(crooked.astype(int) - upright)[4:-4, 4:-4].mean() > 12
    grey = crop_faces(turned, [box], 48, [tilt])[0]
    assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(levelled).convert("L"))).mean() < 2


def test_slightly_tilted_faces_stay_as_they_are(pixels: NDArray[np.uint8]) -> None:
    box = (155, 112, 218, 218)
    plain = crop_square(pixels, box, 48)
    for tilt in (LEVELLED_FROM - 0.1, 0.1 - LEVELLED_FROM):
        assert np.array_equal(crop_square(pixels, box, 48, tilt), plain)
    assert not np.array_equal(crop_square(pixels, box, 48, LEVELLED_FROM), plain)


@pytest.mark.parametrize("box", [(-40, -40, 90, 90), (480, 560, 90, 90), (600, 700, 20, 20)])
def test_tilted_squares_may_reach_over_the_edge(pixels: NDArray[np.uint8], box) -> None:
    assert crop_square(pixels, box, 48, 30).shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("corners", "order"),
    [
        ([(50, 400), (10, 0), (20, 300), (0, 100), (40, 200)], [1, 3, 4, 2, 0]),  # a column
        ([(300, 0), (0, 10), (150, 20)], [1, 2, 0]),  # a row
        ([(300, 0), (200, 30), (100, 60), (0, 90)], [3, 2, 1, 0]),  # a row that slopes
        ([(100, 120), (200, 5), (0, 110), (80, 0)], [3, 1, 2, 0]),  # two rows
        ([], []),
    ],
)
def test_boxes_are_read_row_by_row(corners: list[tuple[int, int]], order: list[int]) -> None:
    assert reading_order([(left, top, 80, 80) for left, top in corners]) == order
