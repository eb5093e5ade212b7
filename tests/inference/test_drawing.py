import numpy as np
import pytest
from matplotlib.colors import to_rgb
from other_classes import FERPLUS, STRANGE, THREE
from PIL import ImageDraw

import emotion
from emotion.data.classes import CLASSES
from emotion.inference.drawing import draw_faces
from emotion.inference.recognizer import Face
from emotion.palette import EXPRESSIONS, class_colours


def face(box, label: str = "surprise") -> Face:
    return Face(box, label, {name: float(name == label) for name in CLASSES})


def luminance(colour: str) -> float:
    """Returns the relative luminance of WCAG 2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def changes(image, drawn):
    return (np.asarray(drawn) != image).any(2)  # [H, W]


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Collects for each label its background box (last pixels included), its text box, its text and its ink colour."""
    drawn: list[tuple] = []
    backgrounds: list[tuple] = []
    rectangle, text = ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text

    def fill(pen, corners, **options):
        if options.get("fill"):
            backgrounds.append(corners)
        rectangle(pen, corners, **options)

    def write(pen, position, label, ink, font):
        drawn.append((backgrounds[-1], pen.textbbox(position, label, font), label, ink))
        text(pen, position, label, ink, font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", fill)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    return drawn


def test_colours_of_classes_differ_and_text_on_them_is_legible(labels) -> None:
    assert set(EXPRESSIONS) == set(CLASSES)
    levels = np.array([to_rgb(colour) for colour in EXPRESSIONS.values()])
    distances = np.linalg.norm(levels[:, None] - levels, axis=2)[~np.eye(7, dtype=bool)]
    assert distances.min() > 0.25
    for label, colour in EXPRESSIONS.items():
        drawn = draw_faces(np.zeros((200, 200, 3), np.uint8), [face((50, 50, 80, 80), label)])
        (left, top, right, bottom), *_, ink = labels[-1]
        for corner in ((left, top), (right, bottom)):
            assert drawn.getpixel(corner) == tuple(round(255 * value) for value in to_rgb(colour))
        assert (luminance(colour) + 0.05) / (luminance(ink) + 0.05) >= 4.5


def test_the_box_is_drawn_and_the_rest_stays() -> None:
    image = np.full((300, 400, 3), 90, np.uint8)
    drawn = np.asarray(draw_faces(image, [face((100, 120, 80, 80))]))
    changed = changes(image, drawn)
    assert tuple(drawn[160, 100]) == tuple(round(255 * value) for value in to_rgb(EXPRESSIONS["surprise"]))
    assert changed[120, 100:180].all()
    assert changed[120:200, 100].all()
    assert changed[199, 100:180].all()
    assert changed[120:200, 179].all()
    assert not changed[200:].any()
    assert not changed[120:, 180:].any()
    assert not changed[130:190, 110:170].any()
    assert not changed[:90].any()
    assert (image == 90).all()


@pytest.mark.parametrize("faces", [[[face((0, 0, 9, 9))]], face((0, 0, 9, 9))])
def test_the_faces_of_several_images_or_a_single_face_are_refused(faces) -> None:
    with pytest.raises(emotion.UserError, match=r"^faces: a list of faces of one image is needed"):
        emotion.draw(np.zeros((9, 9, 3), np.uint8), faces)


def test_the_label_holds_the_class_and_its_probability(labels) -> None:
    probabilities = dict(zip(CLASSES, (0.104, 0.02, 0.02, 0.796, 0.02, 0.02, 0.02), strict=True))
    draw_faces(np.zeros((300, 400, 3), np.uint8), [Face((100, 120, 80, 80), "happy", probabilities)])
    assert [text for _, _, text, _ in labels] == ["happy 80%"]


def test_letters_of_other_languages_are_drawn() -> None:
    """A font without a letter draws the same box for each of them."""
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = [
        np.asarray(draw_faces(image, [Face((50, 50, 40, 40), 2 * letter, {2 * letter: 1.0})])) for letter in "éñłαж"
    ]
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)


def test_the_label_is_above_the_box_unless_there_is_no_room(labels) -> None:
    draw_faces(np.zeros((300, 400, 3), np.uint8), [face((100, 120, 80, 80))])
    ((background, *_),) = labels
    assert background[0] == 100
    assert background[3] == 119
    draw_faces(np.zeros((300, 400, 3), np.uint8), [face((100, 5, 80, 80))])
    assert labels[1][0][1] == 5


@pytest.mark.parametrize("left", [-500, -50, 0, 350, 395, 600])
@pytest.mark.parametrize("top", [-500, -50, 0, 12, 250, 295, 600])
@pytest.mark.parametrize("side", [1, 4, 100, 900])
def test_labels_stay_inside_the_image(left: int, top: int, side: int, labels) -> None:
    draw_faces(np.zeros((300, 400, 3), np.uint8), [face((left, top, side, side))])
    ((background, letters, text, _),) = labels
    assert text == "surprise 100%"
    assert background[0] >= 0
    assert background[1] >= 0
    assert background[2] < 400
    assert background[3] < 300
    assert background[0] < letters[0]
    assert background[1] < letters[1]
    assert letters[2] <= background[2]
    assert letters[3] <= background[3]


@pytest.mark.parametrize("label", CLASSES)
def test_48_pixels_have_room_for_the_class(label: str, labels) -> None:
    draw_faces(np.zeros((48, 48, 3), np.uint8), [face((0, 0, 48, 48), label)])
    ((_, letters, text, _),) = labels
    assert text.split()[0] == label
    assert letters[2] <= 48
    assert letters[3] <= 48


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    tiny = np.zeros((*shape, 3), np.uint8)
    assert draw_faces(tiny, [face((0, 0, min(shape), min(shape)))]).size == shape[::-1]
    assert np.array_equal(np.asarray(draw_faces(tiny, [])), tiny)


def test_lines_and_letters_grow_with_the_image_and_the_face(labels) -> None:
    def thickness(side: int) -> int:
        drawn = draw_faces(np.zeros((side, side, 3), np.uint8), [face((side // 4, side // 4, side // 2, side // 2))])
        return int(np.asarray(drawn)[side // 2, : side // 2].any(1).sum())

    assert [thickness(side) for side in (100, 800, 4000)] == [2, 2, 10]
    heights = [background[3] - background[1] for background, *_ in labels]
    assert heights == sorted(heights)
    assert heights[2] > 4 * heights[0]
    draw_faces(np.zeros((4000, 4000, 3), np.uint8), [face((2000, 2000, 60, 60))])  # a face far away
    assert labels[-1][0][3] - labels[-1][0][1] == heights[0]


def test_each_face_has_its_own_box() -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    drawn = np.asarray(draw_faces(image, [face((50, 50, 60, 60), "sad"), face((250, 80, 60, 60), "angry")]))
    assert tuple(drawn[80, 50]) == tuple(round(255 * value) for value in to_rgb(EXPRESSIONS["sad"]))
    assert tuple(drawn[110, 250]) == tuple(round(255 * value) for value in to_rgb(EXPRESSIONS["angry"]))


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE])
def test_other_classes_have_boxes_in_their_colours(classes: tuple[str, ...], labels) -> None:
    for name in classes:
        shown = Face((50, 50, 60, 60), name, {other: float(other == name) for other in classes})
        drawn = np.asarray(draw_faces(np.zeros((200, 600, 3), np.uint8), [shown]))
        assert tuple(drawn[80, 50]) == tuple(round(255 * value) for value in to_rgb(class_colours(classes)[name]))
        assert labels[-1][2] == f"{name} 100%"


def test_a_label_that_is_wider_than_the_image_is_shortened(labels) -> None:
    name = "a name of sixty-four characters that has no room in a small one!"
    draw_faces(np.zeros((300, 300, 3), np.uint8), [Face((20, 50, 200, 200), name, {name: 0.9, "b": 0.1})])
    ((background, letters, text, _),) = labels
    assert text.endswith("...")
    assert name.startswith(text.removesuffix("..."))
    assert len(text) > 15
    assert letters[2] <= background[2] < 300
