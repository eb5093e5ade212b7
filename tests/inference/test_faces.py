from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from emotion.errors import UserError
from emotion.inference.faces import FaceDetector, center_square, crop_faces, crop_square

FACE = (155, 112, 218, 218)
"""Box of the face in the photograph, set by eye: from the brim of the hat to the chin."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def overlap(box, other) -> float:
    """Returns intersection over union."""
    left, top = max(box[0], other[0]), max(box[1], other[1])
    right, bottom = min(box[0] + box[2], other[0] + other[2]), min(box[1] + box[3], other[1] + other[3])
    shared = max(0, right - left) * max(0, bottom - top)
    return shared / (box[2] * box[3] + other[2] * other[3] - shared)


def test_a_line_of_pixels_is_not_even_resized(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "resize")  # resizing takes more memory than the image
    assert detector(np.zeros((9, 1000, 3), np.uint8)) == []


@pytest.mark.parametrize("scale", [1 / 6, 0.2, 0.5, 1, 2.5, 3.4])
def test_a_face_is_detected_at_every_size(detector: FaceDetector, pixels: NDArray[np.uint8], scale: float) -> None:
    seen = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (face,) = detector(seen)
    assert overlap(face.box, [scale * value for value in FACE]) > 0.75
    assert face.box[2] == face.box[3]
    assert face.confidence is not None
    assert face.confidence > 0.9


def test_a_mirror_image_gives_the_mirrored_box(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    (face,) = detector(np.ascontiguousarray(pixels[:, ::-1]))
    assert overlap(face.box, (512 - FACE[0] - FACE[2], *FACE[1:])) > 0.75


@pytest.mark.parametrize(("left", "top"), [(0, 0), (300, 40), (37, 388), (388, 200)])
def test_the_box_moves_with_the_face(detector: FaceDetector, pixels: NDArray[np.uint8], left: int, top: int) -> None:
    canvas = np.full((1000, 900, 3), 90, np.uint8)
    canvas[top : top + 600, left : left + 512] = pixels
    (face,) = detector(canvas)
    assert overlap(face.box, (FACE[0] + left, FACE[1] + top, *FACE[2:])) > 0.75


def test_threads_do_not_disturb_each_other(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    images = [cv2.resize(pixels, None, fx=scale, fy=scale) for scale in (0.3, 0.5, 0.8, 1.1)] * 3
    expected = [detector(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(detector, images)) == expected


class Spy:
    """A fake MTCNN: returns the given boxes, one list for each pass, and records the images that it gets."""

    def __init__(self, *looks: list[tuple[list[float], float]]) -> None:
        self.looks, self.shown, self.min_face_size = list(looks), [], 0

    def detect_faces(self, picture):
        self.shown.append((picture.shape, self.min_face_size))
        return [{"box": box, "confidence": confidence} for box, confidence in self.looks.pop(0)]


def spied(*looks: list[tuple[list[float], float]], min_face: float | None = None) -> tuple[FaceDetector, Spy]:
    detector, spy = FaceDetector(min_face), Spy(*looks)
    detector._own.mtcnn = spy
    return detector, spy


def test_the_frame_around_the_detectors_box() -> None:
    """The detector's box is 0.925 of the frame, whose centre lies 1 % left of it and 2.4 % above."""
    detector, _ = spied([([300, 400, 160, 250], 0.75)])
    (face,) = detector(np.zeros((1000, 1000, 3), np.uint8)[:320, :320])
    side = (160 * 250) ** 0.5 / 0.925
    centre = 300 + 80 - 0.01 * side, 400 + 125 - 0.024 * side
    expected = [centre[0] - side / 2, centre[1] - side / 2, side, side]
    assert np.abs(np.subtract(face.box, expected)).max() <= 0.5
    assert all(type(value) is int for value in face.box)
    assert face.confidence == 0.75


def test_boxes_are_in_pixels_of_the_original_not_of_the_resized_image() -> None:
    detector, spy = spied([([100, 40, 60, 60], 1.0)])
    (face,) = detector(np.zeros((640, 1280, 3), np.uint8))
    side = 240 / 0.925
    assert spy.shown == [((160, 320, 3), 40)]
    assert np.abs(np.subtract(face.box[:2], [520 - 0.51 * side, 280 - 0.524 * side])).max() <= 0.5
    assert face.box[2:] == (259, 259)


@pytest.mark.parametrize(
    ("first", "looks"),
    [
        ([], 2),
        ([([10, 10, 55, 55], 1)], 2),  # 55 / 0.925 is less than 1.5 eighths of 320, so there may be smaller ones
        ([([10, 10, 56, 56], 1)], 1),
        ([([10, 10, 150, 150], 1), ([200, 10, 50, 50], 1)], 2),
    ],
)
def test_a_second_pass_follows_no_face_or_a_small_one(first, looks: int) -> None:
    second = [([700, 100, 30, 30], 0.9), ([20, 300, 90, 90], 0.8)]
    detector, spy = spied(first, second)
    found = detector(np.zeros((960, 1200, 3), np.uint8))
    assert spy.shown == [((256, 320, 3), 40), ((768, 960, 3), 24)][:looks]
    if looks == 2:
        assert [face.confidence for face in found] == [0.8, 0.9]  # from left to right


@pytest.mark.parametrize(
    ("min_face", "shown", "face"),
    [(1, (213, 320), 320), (0.5, (213, 320), 160), (0.05, (320, 480), 24), (0.012, (1333, 2000), 24), (0.01, 0, 20)],
)
def test_min_face_sets_a_single_pass(min_face: float, shown, face: int) -> None:
    detector, spy = spied([], min_face=min_face)
    assert detector(np.zeros((2000, 3000, 3), np.uint8)) == []
    assert spy.shown == [((*(shown or (1333, 2000)), 3), face)]


def test_small_images_are_not_enlarged_and_tiny_ones_are_not_searched() -> None:
    detector, spy = spied([], [])
    detector(np.zeros((48, 40, 3), np.uint8))
    assert spy.shown == [((48, 40, 3), 12)] * 2
    for shape in ((11, 50, 3), (50, 11, 3), (30, 4000, 3), (1, 1, 3)):
        assert detector(np.zeros(shape, np.uint8)) == []
    assert len(spy.shown) == 2


def test_faces_are_detected_in_grey_photographs(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert len(detector(grey)) == 1


def test_all_faces_of_a_group_are_detected_from_left_to_right(
    detector: FaceDetector, pixels: NDArray[np.uint8]
) -> None:
    group = np.tile(pixels, (2, 3, 1))
    boxes = [face.box for face in detector(group)]
    expected = [(FACE[0] + 512 * x, FACE[1] + 600 * y, 218, 218) for x in range(3) for y in range(2)]
    assert len(boxes) == 6
    assert all(max(overlap(box, face) for box in boxes) > 0.7 for face in expected)
    assert boxes == sorted(boxes)


def test_the_second_pass_detects_small_faces(pixels: NDArray[np.uint8]) -> None:
    scene = np.full((1000, 1600, 3), 120, np.uint8)
    scene[700:820, 1300:1402] = cv2.resize(pixels, (102, 120), interpolation=cv2.INTER_AREA)
    box = (1300 + 155 / 5, 700 + 112 / 5, 218 / 5, 218 / 5)
    (face,) = FaceDetector()(scene)
    assert overlap(face.box, box) > 0.6
    assert FaceDetector(min_face=1 / 8)(scene) == []
    assert len(FaceDetector(min_face=1 / 50)(scene)) == 1


def test_no_faces_in_noise_and_flat_colour(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for image in (noise, np.zeros((300, 400, 3), np.uint8), np.full((1, 1, 3), 9, np.uint8), noise[:3], noise[:, :3]):
        assert detector(np.ascontiguousarray(image)) == []


@pytest.mark.parametrize("min_face", [0.01, 1])
def test_both_ends_of_the_range_are_legal(min_face: float) -> None:
    assert FaceDetector(min_face).looks[0][1] == min_face


@pytest.mark.parametrize("min_face", [0, 0.001, 1.5, -1, float("nan")])
def test_shares_out_of_range_are_refused(min_face: float) -> None:
    with pytest.raises(UserError, match="min_face="):
        FaceDetector(min_face)


@pytest.mark.parametrize(
    "box", [(2, 3, 6, 6), (-3, -2, 8, 8), (6, 5, 9, 9), (-5, -5, 30, 30), (0, 0, 12, 10), (11, 9, 1, 1)]
)
@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3)])
def test_boxes_over_the_edge_repeat_it(box, shape) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    left, top, width, height = box
    rows = np.clip(np.arange(top, top + height), 0, 9)
    columns = np.clip(np.arange(left, left + width), 0, 11)
    side = max(width, height)
    if width == height:  # then nothing is resized
        assert np.array_equal(crop_square(picture, box, side), picture[np.ix_(rows, columns)])
    assert crop_square(picture, box, 7).shape == (7, 7, *shape[2:])


def test_shrinking_averages() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    expected = picture.reshape(12, 4, 12, 4).mean((1, 3))
    assert np.abs(crop_square(picture, (0, 0, 48, 48), 12) - expected).max() <= 0.5


@pytest.mark.parametrize("box", [(10, 20, 100, 100), (-30, -15, 130, 130), (90, 60, 77, 77), (-20, -10, 200, 200)])
@pytest.mark.parametrize("side", [48, 20])
def test_shrunken_crops_are_means_over_areas(pixels: NDArray[np.uint8], box, side: int) -> None:
    """The reference is padded by numpy and cropped by PIL; repeating pixels turns means over parts of pixels into means
    over whole ones."""
    picture = pixels[100:280, 150:300]
    left, top, width, height = box
    padded = np.pad(picture, ((100, 100), (100, 100), (0, 0)), "edge")
    crop = Image.fromarray(padded).crop((left + 100, top + 100, left + width + 100, top + height + 100))
    rows = np.asarray(crop).repeat(side, 0).reshape(side, height, width, 3).mean(1)
    expected = rows.repeat(side, 1).reshape(side, side, width, 3).mean(2)
    assert np.abs(crop_square(picture, box, side) - expected).max() <= 0.51


def test_enlarged_crops_are_bicubic(pixels: NDArray[np.uint8]) -> None:
    small = pixels[100:140, 200:240]
    planes = torch.from_numpy(small[5:25, 10:30].copy()).permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, (48, 48), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).clamp(0, 255)
    assert np.abs(crop_square(small, (10, 5, 20, 20), 48) - expected.numpy()).max() <= 1


def test_each_box_gives_its_own_face(pixels: NDArray[np.uint8]) -> None:
    boxes = [(300, 10, 48, 48), (-10, 500, 48, 48), (20, -5, 48, 48)]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    faces = crop_faces(pixels, boxes, 48)
    for face, (left, top, _, _) in zip(faces, boxes, strict=True):
        rows, columns = np.clip(np.arange(top, top + 48), 0, 599), np.clip(np.arange(left, left + 48), 0, 511)
        assert np.array_equal(face, grey[np.ix_(rows, columns)])


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


@pytest.mark.real
def test_faces_are_framed_as_in_fer2013(real_packed, detector: FaceDetector) -> None:
    """The medians over training images other than those that `FACE_SHARE` and `SHIFT` were measured on."""
    rows = np.flatnonzero(real_packed.parts == "train")[7::301]
    boxes = []
    for image in real_packed.images[rows, 0]:
        shown = cv2.copyMakeBorder(cv2.resize(image, (192, 192)), 96, 96, 96, 96, cv2.BORDER_CONSTANT, value=127)
        boxes += [face.box for face in detector(cv2.cvtColor(shown, cv2.COLOR_GRAY2RGB))[:1]]
    assert len(boxes) > 0.75 * len(rows)
    left, top, side, _ = np.median(boxes, axis=0)
    assert side == pytest.approx(192, rel=0.05)
    assert left == pytest.approx(96, abs=8)
    assert top == pytest.approx(96, abs=8)
