"""What the HTTP service answers, as /openapi.json describes it."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, JsonValue

import emotion
from emotion.data.classes import CLASSES
from emotion.inference.crops import LEVELLED_FROM
from emotion.inference.recognizer import Face
from emotion.palette import INK

HEATMAP_SIDE = 24
"""Height and width of the heatmaps in answers."""
PREVIEW_SIDE = 1600
"""Longest side of the previews in answers, pixels."""
ERRORS = {
    400: "the request is malformed or has too many images, or the host name is refused",
    403: "the request comes from a page of another site",
    500: "the service failed",
}
"""Statuses of all paths, with their descriptions."""
PREDICT_ERRORS = {
    404: "the network does not exist",
    408: "the upload took too long",
    413: "the upload is too large",
    415: "the content type is neither an image nor a form nor JSON",
    422: "there is no image, the only image cannot be read, or a parameter is wrong",
    503: "too many requests or connections, or no answer in time",
}
FACE_EXAMPLE: dict[str, JsonValue] = {
    "box": [154, 113, 220, 220],
    "label": "neutral",
    "score": 0.8243,
    "probabilities": {
        "angry": 0.0709,
        "disgust": 0.0031,
        "fear": 0.0186,
        "happy": 0.0057,
        "neutral": 0.8243,
        "sad": 0.0741,
        "surprise": 0.0033,
    },
    "confidence": 0.934,
    "tilt": 0.1436,
    "heatmap": None,
}


def face_example(classes: Sequence[str]) -> dict[str, JsonValue]:
    """Returns an example of a face for /openapi.json: that of FER2013's classes, or one of other K classes."""
    shares = np.exp2(-np.arange(len(classes)))  # [K]
    probabilities: dict[str, JsonValue] = dict(zip(classes, np.round(shares / shares.sum(), 4).tolist(), strict=True))
    if not classes or {*probabilities} == {*CLASSES}:
        return FACE_EXAMPLE
    return FACE_EXAMPLE | {"label": classes[0], "score": probabilities[classes[0]], "probabilities": probabilities}


class FaceAnswer(BaseModel):
    """One classified face; numbers are rounded to four digits."""

    model_config = ConfigDict(json_schema_extra={"examples": [FACE_EXAMPLE]})

    box: tuple[int, int, int, int] = Field(description="left, top, width and height in pixels of the upright image")
    label: str = Field(description="the most probable class")
    score: float = Field(description="probability of the label")
    probabilities: dict[str, float] = Field(description="by class, in the order of /health")
    confidence: float | None = Field(description="the detector's confidence, 0 to 1; null with detect=false")
    tilt: float = Field(description="angle by which the head leans to the right of the image, degrees")
    heatmap: list[list[float]] | None = Field(
        description="rows of values, 0 to 1: regions of the box that raise the score of the label; null unless asked "
        "for, and for networks without heatmaps"
    )

    @classmethod
    def of(cls, face: Face, heatmap: NDArray[np.float32] | None) -> "FaceAnswer":
        """Builds the answer for a face and its heatmap, float32 [S, S]."""
        told = face.as_dict()
        own = {name: told[name] for name in cls.model_fields if name in told}  # without the attributes for films
        return cls(**own, heatmap=None if heatmap is None else _rows(heatmap, face.tilt))


class Answer(BaseModel):
    """The faces of an image, row by row from left to right."""

    width: int
    height: int
    found: int = Field(description="detected faces; if `faces` holds fewer, these are the largest")
    faces: list[FaceAnswer]
    milliseconds: float
    preview: str | None = Field(None, description="the upright image as a JPEG, a data: address; null unless asked for")

    def count_faces(self) -> int:
        """Returns the number of classified faces."""
        return len(self.faces)


class Problem(BaseModel):
    """An error: its reason, and what is legal."""

    detail: str


class Answers(BaseModel):
    """The answers for several images, in their order; an image that cannot be read has a `detail` instead."""

    images: list[Answer | Problem]
    milliseconds: float

    def count_faces(self) -> int:
        """Returns the number of classified faces of all images."""
        return sum(image.count_faces() for image in self.images if isinstance(image, Answer))


class Health(BaseModel):
    """The version, and the networks that can be asked for."""

    status: str = "ok"
    version: str = emotion.__version__
    networks: list[str]
    classes: dict[str, list[str]] = Field(description="names of the classes, by network, in the order of probabilities")
    megabytes: float = Field(description="most megabytes of a request")
    film_megabytes: float = Field(description="most megabytes of a film")
    colours: dict[str, str] = Field(description="colours of boxes and curves, by class")
    ink: str = Field(default=INK, description="colour of text and outlines on these colours")


def to_preview(image: NDArray[np.uint8]) -> str:
    """Returns an image, RGB uint8 [H, W, 3], of at most `PREVIEW_SIDE` pixels as the `data:` address of a JPEG file."""
    small = Image.fromarray(image)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def error_responses(statuses: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Describes statuses of errors for /openapi.json."""
    return {status: {"model": Problem, "description": text} for status, text in statuses.items()}


def _rows(heatmap: NDArray[np.float32], tilt: float) -> list[list[float]]:
    """Shrinks a heatmap [S, S] of a face, turned back to its tilt, to `HEATMAP_SIDE` rows of values from 0 to 1."""
    turned = Image.fromarray(heatmap).rotate(-tilt if abs(tilt) >= LEVELLED_FROM else 0, Image.Resampling.BILINEAR)
    small = turned.resize((HEATMAP_SIDE, HEATMAP_SIDE), Image.Resampling.BOX)
    rows: list[list[float]] = np.round(np.asarray(small, np.float64), 3).tolist()
    return rows
