from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from emotion.errors import UserError
from emotion.inference.faces import DetectionLimits, FaceDetector, _framed
from emotion.inference.yunet import Candidates, YuNet

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


def scaled(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def test_a_line_of_pixels_is_not_even_resized(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image.Image, "resize")  # resizing takes more memory than the image
    assert detector(np.zeros((7, 1000, 3), np.uint8)) == []


@pytest.mark.parametrize("scale", [1 / 12, 1 / 6, 0.2, 0.5, 1, 2.5, 3.4])
def test_a_face_is_detected_at_every_size(detector: FaceDetector, pixels: NDArray[np.uint8], scale: float) -> None:
    (face,) = detector(scaled(pixels, scale))
    assert overlap(face.box, [scale * value for value in FACE]) > 0.7
    assert face.box[2] == face.box[3]
    assert all(type(value) is int for value in face.box)
    assert face.confidence is not None
    assert face.confidence > 0.75
    assert abs(face.tilt) < 4


def test_a_mirror_image_gives_the_mirrored_box(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    (face,) = detector(np.ascontiguousarray(pixels[:, ::-1]))
    assert overlap(face.box, (512 - FACE[0] - FACE[2], *FACE[1:])) > 0.75


@pytest.mark.parametrize(("left", "top"), [(0, 0), (300, 40), (37, 388), (388, 200)])
def test_the_box_moves_with_the_face(detector: FaceDetector, pixels: NDArray[np.uint8], left: int, top: int) -> None:
    canvas = np.full((1000, 900, 3), 90, np.uint8)
    canvas[top : top + 600, left : left + 512] = pixels
    (face,) = detector(canvas)
    assert overlap(face.box, (FACE[0] + left, FACE[1] + top, *FACE[2:])) > 0.75


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.15, 1, 2])
def test_photographs_that_lie_on_their_side_are_turned(
    detector: FaceDetector, pixels: NDArray[np.uint8], turn: int, scale: float
) -> None:
    image = scaled(pixels, scale)
    (upright,), (face,) = detector(image), detector(np.ascontiguousarray(np.rot90(image, -turn)))
    left, top, side, _ = upright.box
    height, width = image.shape[:2]
    places = {
        1: (height - top - side, left),
        2: (width - left - side, height - top - side),
        3: (top, width - left - side),
    }
    assert overlap(face.box, (*places[turn], side, side)) > 0.85
    assert abs((face.tilt - upright.tilt - 90 * turn + 180) % 360 - 180) < 4  # leans to the right


def test_a_known_turn_is_searched_first(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    lying = np.ascontiguousarray(np.rot90(pixels, -1))
    assert detector.search(lying) == []
    (face,) = detector.search(lying, turn=1)
    assert face == detector(lying, turn=1)[0]
    assert face.tilt == pytest.approx(90, abs=3)


def test_threads_do_not_disturb_each_other(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    images = [scaled(pixels, scale) for scale in (0.3, 0.5, 0.8, 1.1)] * 3
    expected = [detector(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(detector, images)) == expected


class Spy:
    """A fake YuNet: returns the given boxes, a list for each call, and records the images that it gets."""

    def __init__(self, *calls: list[tuple[list[float], float]]) -> None:
        self.calls, self.shown = list(calls), []

    def __call__(self, image, confidence) -> Candidates:
        self.shown.append(image.shape[:2])
        faces = self.calls.pop(0)
        eyes = [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]  # level
        boxes = np.array([box for box, _ in faces], np.float32).reshape(-1, 4)
        landmarks = np.array([eyes] * len(faces), np.float32).reshape(-1, 5, 2)
        return Candidates(boxes, landmarks, np.array([value for _, value in faces], np.float32))


def spied(*calls: list[tuple[list[float], float]]) -> tuple[FaceDetector, Spy]:
    detector, spy = FaceDetector(), Spy(*calls)
    detector._network = spy
    return detector, spy


def test_the_frame_around_the_detectors_box() -> None:
    """The detector's box is 0.876 of the frame, whose centre lies 0.3 % right of it and 2.1 % below."""
    detector, _ = spied([([300, 400, 160, 250], 0.95)])
    (face,) = detector(np.zeros((320, 320, 3), np.uint8))
    side = (160 * 250) ** 0.5 / 0.876
    centre = 300 + 80 + 0.003 * side, 400 + 125 + 0.021 * side
    assert np.abs(np.subtract(face.box, [centre[0] - side / 2, centre[1] - side / 2, side, side])).max() <= 0.5
    assert face.confidence == pytest.approx(0.95)


def test_boxes_are_in_pixels_of_the_original_not_of_the_copy() -> None:
    detector, spy = spied([([100, 40, 60, 60], 1.0)])
    (face,) = detector(np.zeros((640, 1280, 3), np.uint8))
    side = 240 / 0.876
    assert spy.shown == [(160, 320)]
    assert np.abs(np.subtract(face.box[:2], [520 - 0.497 * side, 280 - 0.479 * side])).max() <= 0.5
    assert face.box[2:] == (274, 274)


@pytest.mark.parametrize(
    ("calls", "passes"),
    [
        ([[([10, 10, 34, 34], 0.9)]], 1),  # 34 / 0.876 is more than 12 % of 320
        ([[([10, 10, 33, 33], 0.9)], [([20, 20, 66, 66], 0.9)]], 2),
        ([[], [([20, 20, 34, 34], 0.9)]], 2),  # 34 / 0.876 is more than 6 % of 640
        ([[], [([20, 20, 33, 33], 0.9)], [([40, 40, 66, 66], 0.9)]], 3),
        ([[], [], [([40, 40, 9, 9], 0.9)]], 3),
        ([[([10, 10, 150, 150], 0.9), ([200, 10, 20, 20], 0.9)], [([20, 20, 300, 300], 0.9)]], 2),
        ([[([10, 10, 34, 34], 0.87)], [([20, 20, 68, 68], 0.89)]], 2),  # large, but not sure
        ([[([10, 10, 34, 34], 0.87)], [], [], [], [], []], 6),  # three passes and three turns
        ([[], [], [], [], [], []], 6),
    ],
)
def test_larger_copies_follow_small_faces_and_turns_unsure_ones(calls, passes: int) -> None:
    detector, spy = spied(*calls)
    detector(np.zeros((1600, 2000, 3), np.uint8))
    assert len(spy.shown) == passes
    sides = [max(shape) for shape in spy.shown]
    assert sides == ([320, 640, 1280] + 3 * [640])[:passes]


def test_faces_of_all_passes_are_kept_once() -> None:
    """A very large face is missed in the large copies, and a middle one is seen twice."""
    first = [([10, 10, 200, 200], 0.9), ([250, 10, 30, 30], 0.91)]
    detector, spy = spied(first, [([500, 20, 60, 60], 0.92), ([600, 100, 15, 15], 0.89)], [([900, 700, 15, 15], 0.95)])
    faces = detector(np.zeros((960, 1280, 3), np.uint8))
    assert len(spy.shown) == 3
    assert [round(face.confidence or 0, 2) for face in faces] == [0.92, 0.89, 0.9, 0.95]  # row by row


def test_the_turn_with_the_surest_faces_counts() -> None:
    weak, strong, pair = (
        [([10, 10, 90, 90], 0.75)],
        [([10, 10, 90, 90], 0.8)],
        [([10, 10, 90, 90], 0.7), ([200, 10, 90, 90], 0.7)],
    )
    for calls, chosen in (((weak, [], strong, []), 180), ((weak, [], strong, pair), -90), ((strong, [], weak, []), 0)):
        detector, _ = spied(*calls)
        faces = detector(np.zeros((320, 320, 3), np.uint8))
        assert {abs(face.tilt) if chosen == 180 else face.tilt for face in faces} == {chosen}


@pytest.mark.parametrize(
    ("min_face", "sides"), [(1, [320]), (0.0625, [320]), (0.04, [320, 640]), (0.02, [320, 640, 1280])]
)
def test_min_face_saves_passes(min_face: float, sides: list[int]) -> None:
    detector, spy = spied(*[[]] * 6)
    assert detector(np.zeros((2000, 3000, 3), np.uint8), DetectionLimits(min_face=min_face)) == []
    assert [max(shape) for shape in spy.shown[:-3]] == sides


def test_min_face_leaves_smaller_faces_out() -> None:
    calls = [([10, 10, 100, 100], 0.9), ([200, 10, 30, 30], 0.9)]
    for min_face, number in ((0.1, 2), (0.2, 1), (0.9, 0)):
        detector, _ = spied(calls, *[[]] * 5)
        assert len(detector(np.zeros((320, 320, 3), np.uint8), DetectionLimits(min_face=min_face))) == number


def test_a_lower_confidence_accepts_more(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    (face,) = detector(pixels)
    assert face.confidence is not None
    assert len(detector(pixels, DetectionLimits(confidence=face.confidence - 0.001))) == 1
    assert detector(pixels, DetectionLimits(confidence=0.97)) == []


def test_images_are_never_enlarged_and_tiny_ones_are_not_searched() -> None:
    detector, spy = spied(*[[]] * 4)
    detector(np.zeros((48, 40, 3), np.uint8))
    assert spy.shown == [(48, 40), (40, 48), (48, 40), (40, 48)]
    for shape in ((7, 50, 3), (50, 7, 3), (20, 4000, 3), (1, 1, 3)):
        assert FaceDetector()(np.zeros(shape, np.uint8)) == []


def test_faces_are_detected_in_grey_photographs(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    grey = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis], 3, axis=2)
    assert len(detector(grey)) == 1


def test_all_faces_of_a_group_are_detected_row_by_row(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    group = np.tile(pixels, (2, 3, 1))
    boxes = [face.box for face in detector(group)]
    expected = [(FACE[0] + 512 * x, FACE[1] + 600 * y, 218, 218) for x in range(3) for y in range(2)]
    assert len(boxes) == 6
    assert all(max(overlap(box, face) for box in boxes) > 0.7 for face in expected)
    places = [(left // 512, top // 600) for left, top, _, _ in boxes]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


def test_small_faces_are_detected_in_large_photographs(detector: FaceDetector, pixels: NDArray[np.uint8]) -> None:
    scene = np.full((3000, 4000, 3), 120, np.uint8)
    scene[1700:1940, 3300:3505] = scaled(pixels, 0.4)[:240, :205]
    (face,) = detector(scene)
    assert overlap(face.box, (3300 + 155 * 0.4, 1700 + 112 * 0.4, 218 * 0.4, 218 * 0.4)) > 0.6
    assert detector(scene, DetectionLimits(min_face=1 / 8)) == []


def test_no_faces_in_noise_and_flat_colour(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for image in (noise, np.zeros((300, 400, 3), np.uint8), np.full((1, 1, 3), 9, np.uint8), noise[:3], noise[:, :3]):
        assert detector(np.ascontiguousarray(image)) == []


@pytest.mark.parametrize("min_face", [0.001, 1.5, -1, float("nan")])
def test_sizes_out_of_range_are_refused(min_face: float) -> None:
    with pytest.raises(UserError, match="min_face="):
        DetectionLimits(min_face=min_face)


@pytest.mark.parametrize("confidence", [0, 0.09, 1.1, float("nan")])
def test_confidences_out_of_range_are_refused(confidence: float) -> None:
    with pytest.raises(UserError, match="confidence="):
        DetectionLimits(confidence=confidence)


def test_both_ends_of_the_ranges_are_legal() -> None:
    for min_face, confidence in ((0, 0.1), (0.01, 0.5), (1, 1)):
        assert DetectionLimits(min_face, confidence).min_face == min_face


@pytest.mark.parametrize("size", [(512, 600), (320, 375), (300, 300), (97, 111)])
def test_yunet_gives_the_same_as_in_opencv(pixels: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Boxes, landmarks and confidence of OpenCV 5.0 with the original file, measured once."""
    expected = {
        (512, 600): ([182.8665, 120.4779, 170.2573, 212.4853], 0.9432),
        (320, 375): ([106.8425, 67.0078, 117.6648, 140.3333], 0.9335),
        (300, 300): ([101.4039, 46.0851, 103.5650, 123.6721], 0.9275),
        (97, 111): ([32.2353, 20.3490, 34.8073, 41.5458], 0.9229),
    }
    found = YuNet()(np.asarray(Image.fromarray(pixels).resize(size)), 0.6)
    box, confidence = expected[size]
    assert found.boxes[0].tolist() == pytest.approx(box, abs=0.05)
    assert found.confidences.tolist() == pytest.approx([confidence], abs=1e-3)
    right_eye, left_eye, nose, right_mouth, left_mouth = found.landmarks[0]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < right_mouth[1]
    assert right_mouth[0] < left_mouth[0]


@pytest.mark.real
def test_faces_are_framed_as_in_fer2013(real_packed, detector: FaceDetector) -> None:
    """The medians over training images other than those that `FACE_SHARE` and `SHIFT` were measured on."""
    rows = np.flatnonzero(real_packed.parts == "train")[7::301]
    boxes = []
    for image in real_packed.images[rows, 0]:
        shown = np.pad(np.asarray(Image.fromarray(image).resize((192, 192))), 96, "edge")
        boxes += [face.box for face in detector(np.repeat(shown[..., np.newaxis], 3, axis=2))[:1]]
    assert len(boxes) > 0.75 * len(rows)
    left, top, side, _ = np.median(boxes, axis=0)
    assert side == pytest.approx(192, rel=0.05)
    assert left == pytest.approx(96, abs=8)
    assert top == pytest.approx(96, abs=8)


@pytest.mark.parametrize(
    ("tilt", "left", "top"), [(0, 4503, 4521), (90, 4479, 4503), (-90, 4521, 4497), (30, 4492, 4520)]
)
def test_the_frame_of_a_leaning_face_is_moved_along_the_face(tilt: float, left: int, top: int) -> None:
    """FER2013's images reach 21 of 1000 pixels further to the chin than to the forehead, and 3 to the right."""
    assert _framed(5000, 5000, 876, tilt) == (left, top, 1000, 1000)
