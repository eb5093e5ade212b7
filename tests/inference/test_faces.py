import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from emotion.errors import UserError
from emotion.inference.faces import FaceDetector, cut, cut_out, whole

FACE = (155, 112, 218, 218)
"""Where the face of the photograph is, by eye: from the brim of the hat to the chin."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def overlap(box, other) -> float:
    """Returns intersection over union."""
    left, top = max(box[0], other[0]), max(box[1], other[1])
    right, bottom = min(box[0] + box[2], other[0] + other[2]), min(box[1] + box[3], other[1] + other[3])
    shared = max(0, right - left) * max(0, bottom - top)
    return shared / (box[2] * box[3] + other[2] * other[3] - shared)


@pytest.mark.parametrize("scale", [0.2, 0.5, 1, 2.5])
def test_a_face_is_found_at_every_size(detector: FaceDetector, pixels: NDArray[np.uint8], scale: float) -> None:
    seen = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (face,) = detector(seen)
    assert overlap(face.box, [scale * value for value in FACE]) > 0.75
    assert face.box[2] == face.box[3]
    assert face.confidence is not None
    assert face.confidence > 0.9


def test_a_mirror_image_gives_the_mirrored_box(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    (face,) = detector(np.ascontiguousarray(pixels[:, ::-1]))
    assert overlap(face.box, (512 - FACE[0] - FACE[2], *FACE[1:])) > 0.75


def test_grey_photographs_do_too(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert len(detector(grey)) == 1


def test_all_faces_of_a_group_are_found_from_left_to_right(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    group = np.tile(pixels, (2, 3, 1))
    boxes = [face.box for face in detector(group)]
    expected = [(FACE[0] + 512 * x, FACE[1] + 600 * y, 218, 218) for x in range(3) for y in range(2)]
    assert len(boxes) == 6
    assert all(max(overlap(box, own) for box in boxes) > 0.7 for own in expected)
    assert boxes == sorted(boxes)


def test_small_faces_are_found_by_the_second_look(pixels: NDArray[np.uint8]) -> None:
    scene = np.full((1000, 1600, 3), 120, np.uint8)
    scene[700:820, 1300:1402] = cv2.resize(pixels, (102, 120), interpolation=cv2.INTER_AREA)
    box = (1300 + 155 / 5, 700 + 112 / 5, 218 / 5, 218 / 5)
    (face,) = FaceDetector()(scene)
    assert overlap(face.box, box) > 0.6
    assert FaceDetector(smallest=1 / 8)(scene) == []
    assert len(FaceDetector(smallest=1 / 50)(scene)) == 1


def test_there_are_no_faces_in_noise_and_flat_colour(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for picture in (noise, np.zeros((300, 400, 3), np.uint8), np.full((1, 1, 3), 9, np.uint8), noise[:3], noise[:, :3]):
        assert detector(np.ascontiguousarray(picture)) == []


@pytest.mark.parametrize("smallest", [0, 0.001, 1.5, -1, float("nan")])
def test_shares_out_of_range_are_refused(smallest: float) -> None:
    with pytest.raises(UserError, match="smallest="):
        FaceDetector(smallest)


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
    if width == height:  # so that nothing is resized
        assert np.array_equal(cut(picture, box, side), picture[np.ix_(rows, columns)])
    assert cut(picture, box, 7).shape == (7, 7, *shape[2:])


def test_shrinking_takes_means() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    expected = picture.reshape(12, 4, 12, 4).mean((1, 3))
    assert np.abs(cut(picture, (0, 0, 48, 48), 12) - expected).max() <= 0.5


def test_a_box_beyond_the_picture_is_black() -> None:
    assert not cut(np.full((9, 9, 3), 200, np.uint8), (20, 3, 5, 5), 8).any()


def test_colours_are_turned_grey_and_no_boxes_give_no_faces() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = 200, 100, 50
    faces = cut_out(picture, [(0, 0, 4, 4)], 4)
    assert faces.dtype == np.uint8
    assert np.abs(faces.astype(float) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 0.5
    assert cut_out(picture, [], 48).shape == (0, 48, 48)


@pytest.mark.parametrize(("shape", "box"), [((4, 10), (3, 0, 4, 4)), ((10, 4), (0, 3, 4, 4)), ((5, 5), (0, 0, 5, 5))])
def test_the_whole_is_the_central_square(shape, box) -> None:
    assert whole(np.zeros((*shape, 3), np.uint8)) == box


@pytest.mark.real
@pytest.mark.slow
def test_faces_are_framed_as_in_fer2013(real_packed, detector: FaceDetector) -> None:
    """The medians over training images, of which the frame was made, but others than those."""
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
