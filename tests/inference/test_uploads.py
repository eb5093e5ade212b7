"""The forms in which the service takes images."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from emotion.data.decode import BadImageError
from emotion.inference.limits import Limits
from emotion.inference.recognizer import Recognizer
from emotion.inference.service import make_service
from emotion.inference.uploads import ONE_PIXEL, EncodedImage, EncodedImages

BAD = b"no image"
UNREADABLE = {"detail": "image: not an image that can be read"}


@pytest.fixture(scope="module")
def client(recognizer: Recognizer) -> Iterator[TestClient]:
    with TestClient(make_service({"small": recognizer}, limits=Limits(images=3))) as client:
        yield client


@pytest.fixture(scope="module")
def two_faces(pixels: NDArray[np.uint8]) -> bytes:
    """The portrait beside a smaller copy of itself."""
    small = Image.fromarray(pixels).resize((256, 300))
    image = Image.new("RGB", (812, 600))
    image.paste(Image.fromarray(pixels))
    image.paste(small, (534, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def labels(answer: dict) -> list[str]:
    return [face["label"] for face in answer["faces"]]


def test_raw_bytes_of_any_image(client: TestClient, portrait: Path) -> None:
    headers = {"content-type": "application/octet-stream"}
    answer = client.post("/predict", content=portrait.read_bytes(), headers=headers)
    assert answer.status_code == 200
    assert (answer.json()["width"], labels(answer.json())) == (512, ["neutral"])
    refused = client.post("/predict", content=BAD, headers=headers)
    assert (refused.status_code, refused.json()) == (422, UNREADABLE)


@pytest.mark.parametrize("field", ["image", "file", "files"])
def test_names_of_the_field_of_a_form(client: TestClient, portrait: Path, field: str) -> None:
    answer = client.post("/predict", files={field: portrait.read_bytes()}).json()
    assert labels(answer) == ["neutral"]


def test_settings_in_the_body_are_refused(client: TestClient) -> None:
    form = client.post("/predict", files={"image": BAD}, data={"confidence": "0.99"})
    encoded = client.post("/predict", json={"images": [ONE_PIXEL], "detect": False})
    assert [(answer.status_code, answer.json()["detail"]) for answer in (form, encoded)] == [
        (422, "confidence: settings belong into the address: ?confidence=0.99"),
        (422, "detect: settings belong into the address: ?detect=false"),
    ]
    text = client.post("/predict", files={"other": BAD}, data={"image": "photo.jpg"})
    assert text.json()["detail"] == "form: no file in a field `image`, `file` or `files`"


def test_several_files_of_a_form_are_answered_in_their_order(
    client: TestClient, portrait: Path, two_faces: bytes
) -> None:
    files = [("image", two_faces), ("file", BAD), ("files", portrait.read_bytes())]
    answer = client.post("/predict", files=files)
    assert answer.status_code == 200
    both, bad, one = answer.json()["images"]
    assert (len(both["faces"]), bad, len(one["faces"])) == (2, UNREADABLE, 1)
    assert answer.json()["milliseconds"] >= max(both["milliseconds"], one["milliseconds"])


def test_only_bad_files_of_a_form_are_still_a_list(client: TestClient) -> None:
    answer = client.post("/predict", files=[("image", BAD), ("image", BAD)])
    assert answer.status_code == 200
    assert answer.json()["images"] == [UNREADABLE, UNREADABLE]


def test_base64_in_json_as_it_is_with_line_breaks_and_as_data_addresses(client: TestClient, portrait: Path) -> None:
    content = portrait.read_bytes()
    plain = base64.b64encode(content).decode()
    images = [plain, base64.encodebytes(content).decode(), f"data:image/jpeg;base64,{plain}"]
    answers = client.post("/predict", json={"images": images}).json()["images"]
    assert [labels(answer) for answer in answers] == [["neutral"]] * 3
    one = client.post("/predict", json={"images": [ONE_PIXEL]}).json()
    assert [(image["width"], image["faces"]) for image in one["images"]] == [(1, [])]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("x!", "image: not base64"),
        ("é" * 4, "image: not base64"),
        ("", "image: an empty file"),
        ("data:image/png,abc", "image: a data: address without base64; data:image/jpeg;base64,... is needed"),
        ("https://example.org/photo.jpg", "image: not base64"),
    ],
)
def test_a_text_that_is_no_image_gets_a_detail_of_its_own(client: TestClient, text: str, detail: str) -> None:
    first, second = client.post("/predict", json={"images": [text, ONE_PIXEL]}).json()["images"]
    assert first == {"detail": detail}
    assert second["faces"] == []


def test_decoding() -> None:
    assert EncodedImage(" aGk=\n").decode() == b"hi"
    assert EncodedImage("data:;base64,aGk=").decode() == b"hi"
    with pytest.raises(BadImageError, match="not base64"):
        EncodedImage("aGk").decode()


def test_more_images_than_the_limit(client: TestClient) -> None:
    assert client.post("/predict", json={"images": [ONE_PIXEL] * 3}).status_code == 200
    answer = client.post("/predict", json={"images": [ONE_PIXEL] * 4})
    assert (answer.status_code, answer.json()["detail"]) == (400, "images: 4, at most 3 in a request")
    assert client.post("/predict", files=[("image", BAD)] * 3).status_code == 200
    assert client.post("/predict", files=[("image", BAD)] * 4).status_code == 400


@pytest.mark.parametrize("item", ["0", '""', '"0": 0', "[]"])
def test_a_million_items_of_json_are_refused_before_they_are_read(item: str, client: TestClient, monkeypatch) -> None:
    monkeypatch.setattr(EncodedImages, "model_validate_json", None)
    items = ",".join([item] * 1_000_000)
    body = f'{{"images": ["a"], {items}}}' if ":" in item else f'{{"images": [{items}]}}'
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "images: too many, at most 3 in a request")


def test_all_images_together_are_within_the_limit_of_bytes() -> None:
    with TestClient(make_service({"none": Recognizer([])}, limits=Limits(megabytes=0.01))) as client:
        for body in ({"files": [("image", bytes(4000))] * 3}, {"json": {"images": ["A" * 6000] * 2}}):
            answer = client.post("/predict", **body)
            assert (answer.status_code, answer.json()["detail"]) == (413, "upload: more than 0.01 MB")


def test_the_limits_of_the_detection_can_be_asked_for(client: TestClient, two_faces: bytes) -> None:
    def faces(query: str) -> int:
        answer = client.post(f"/predict?{query}", files={"image": two_faces}).json()
        assert answer["found"] >= len(answer["faces"])
        return len(answer["faces"])

    assert faces("") == 2
    assert faces("min_face=0.2") == 1  # the faces have 0.27 and 0.13 of the width
    assert faces("max_faces=1") == 1
    assert faces("confidence=1") == 0


@pytest.mark.parametrize("query", ["min_face=0.001", "min_face=2", "min_face=nan", "confidence=0", "confidence=inf"])
def test_numbers_out_of_range_are_named(client: TestClient, query: str) -> None:
    answer = client.post(f"/predict?{query}", files={"image": BAD})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(query.split("=")[0])
    assert "is needed" in answer.json()["detail"]


@pytest.mark.parametrize("value", ["0", "51", "x"])
def test_the_number_of_faces_is_within_the_limit(client: TestClient, value: str) -> None:
    answer = client.post(f"/predict?max_faces={value}", files={"image": BAD})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("max_faces: Input should be")


def test_the_service_may_have_other_limits_of_the_detection(recognizer: Recognizer, two_faces: bytes) -> None:
    from emotion.inference.faces import DetectionLimits

    strict = Recognizer(recognizer.networks, DetectionLimits(min_face=0.2))
    with TestClient(make_service({"strict": strict})) as client:
        assert client.post("/predict", files={"image": two_faces}).json()["found"] == 1
        assert client.post("/predict?min_face=0", files={"image": two_faces}).json()["found"] == 2


def test_numbers_have_four_digits_and_the_attributes_for_films_are_left_out(client: TestClient, portrait: Path) -> None:
    (face,) = client.post("/predict", files={"image": portrait.read_bytes()}).json()["faces"]
    assert set(face) == {"box", "label", "score", "probabilities", "confidence", "tilt", "heatmap"}
    numbers = [face["score"], face["confidence"], face["tilt"], *face["probabilities"].values()]
    assert numbers == [round(number, 4) for number in numbers]
    assert face["score"] == face["probabilities"][face["label"]] == max(face["probabilities"].values())
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=5e-4)
