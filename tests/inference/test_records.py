import csv
import io
import json

import pytest
from rich.console import Console

from emotion.data.classes import CLASSES
from emotion.inference.recognizer import Face
from emotion.inference.records import Record, to_csv, to_json, to_table

HAPPY = Face((10, -2, 30, 30), "happy", dict(zip(CLASSES, (0.05, 0, 0, 0.8, 0.1, 0.04999, 0), strict=True)), 0.98765)
SAD = Face((0, 0, 5, 5), "sad", dict(zip(CLASSES, (0, 0, 0, 0, 0, 1, 0), strict=True)))
ODD = 'a, "b"\n[bold]c[/bold] é.jpg'
RECORDS = [Record("x.jpg", [HAPPY, SAD]), Record(ODD, []), Record("film.mp4", [SAD], 1.25)]


def test_json() -> None:
    first, second, third = json.loads(to_json(RECORDS))
    assert first == {
        "file": "x.jpg",
        "faces": [
            {
                "box": [10, -2, 30, 30],
                "label": "happy",
                "probabilities": dict(zip(CLASSES, (0.05, 0, 0, 0.8, 0.1, 0.05, 0), strict=True)),
                "confidence": 0.9877,
            },
            {"box": [0, 0, 5, 5], "label": "sad", "probabilities": SAD.probabilities, "confidence": None},
        ],
    }
    assert second == {"file": ODD, "faces": []}
    assert (third["file"], third["second"]) == ("film.mp4", 1.25)
    assert json.loads(to_json([])) == []


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RECORDS))))
    assert [row["file"] for row in rows] == ["x.jpg", "x.jpg", ODD, "film.mp4"]
    assert [row["label"] for row in rows] == ["happy", "sad", "", "sad"]
    assert [rows[0][name] for name in ("left", "top", "width", "height", "confidence")] == [
        "10",
        "-2",
        "30",
        "30",
        "0.9877",
    ]
    assert float(rows[0]["happy"]) == 0.8
    assert rows[1]["confidence"] == rows[0]["second"] == ""
    assert rows[3]["second"] == "1.250"
    assert list(rows[0])[-7:] == list(CLASSES)


@pytest.mark.parametrize("width", [60, 120])
def test_table(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_table(RECORDS))
    text = console.export_text()
    assert "happy" in text
    assert "80%" in text
    assert "no face" in text
    if width > 100:
        assert "neutral 10%" in text
        assert "[bold]c[/bold]" in text
        assert "1.25 s" in text
