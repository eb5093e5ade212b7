import csv
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from emotion.data.classes import CLASSES
from emotion.errors import printable
from emotion.inference.recognizer import Face, Recognizer
from emotion.inference.records import Record, to_csv, to_json, to_table

HAPPY = Face((10, -2, 30, 30), "happy", dict(zip(CLASSES, (0.05, 0, 0, 0.8, 0.1, 0.04999, 0), strict=True)), 0.98765)
SAD = Face((0, 0, 5, 5), "sad", dict(zip(CLASSES, (0, 0, 0, 0, 0, 1, 0), strict=True)))
ODD = 'a, "b"\n[bold]c[/bold] é.jpg'
RECORDS = [Record("x.jpg", [HAPPY, SAD]), Record(ODD, []), Record("film.mp4", [SAD], 1.25)]
NAMES = [
    ODD,
    "a\r\nb;c\td.jpg",
    "'a'.jpg",
    "=1+1.jpg",
    "back\\",
    "[/]",
    ":smile: [red]日本.jpg",
    " blank ",
    "",
    "not\udcffutf8",
]


def lines(records: list[Record], width: int) -> list[str]:
    file = io.StringIO()
    Console(width=width, file=file).print(to_table(records))
    return file.getvalue().splitlines()


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
    assert list(third) == ["file", "second", "faces"]
    assert json.loads(to_json([])) == []
    assert "é" in to_json(RECORDS)
    assert json.loads(to_json([Record("x", [], 1 / 3), Record("x", [], 0.0)]))[0]["second"] == 0.333
    assert json.loads(to_json([Record("x", [], 0.0)]))[0]["second"] == 0


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
    assert [float(rows[0][name]) for name in CLASSES] == [0.05, 0, 0, 0.8, 0.1, 0.05, 0]
    assert rows[1]["confidence"] == rows[0]["second"] == ""
    assert rows[3]["second"] == "1.250"
    assert list(rows[0])[-7:] == list(CLASSES)
    assert all(None not in row and None not in row.values() for row in rows)  # each row has the cells of the header
    assert list(csv.reader(io.StringIO(to_csv([])))) == [list(rows[0])]


def test_second_0_of_a_video_is_written() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([Record("film.mp4", [SAD], 0.0)])))
    assert row["second"] == "0.000"
    assert lines([Record("film.mp4", [], 0.0)], 80)[1].split() == ["film.mp4", "0.00", "no", "face"]


def test_seconds_are_not_broken_in_a_narrow_table() -> None:
    _, *rows = lines([Record("holiday.mp4", [HAPPY], 1234.5), Record("x.jpg", [HAPPY])], 80)
    assert [row.split()[:2] for row in rows] == [["holiday.mp4", "1234.50"], ["x.jpg", "10"]]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_kept(name: str) -> None:
    records = [Record(name, [HAPPY]), Record(name, [])]
    assert [row["file"] for row in json.loads(to_json(records))] == [name] * 2
    assert [row["file"] for row in csv.DictReader(io.StringIO(to_csv(records), newline=""))] == [name] * 2
    assert lines(records, 120)[1].startswith(printable(name).split("\n")[0])


def test_names_do_not_control_the_terminal() -> None:
    table = "\n".join(lines([Record("a\x1b]0;mine\x07\x9b31m\u202egpj.exe", [])], 120))
    assert r"a\x1b]0;mine\x07\x9b31m\u202egpj.exe" in table


def test_json_and_csv_agree_with_the_faces(recognizer: Recognizer) -> None:
    rng = np.random.default_rng(0)
    faces = [recognizer.predict(rng.integers(0, 256, (60, 50, 3), np.uint8), detect=False)[0] for _ in range(3)]
    records = [Record("x", faces)]
    (record,) = json.loads(to_json(records))
    for face, entry, row in zip(faces, record["faces"], csv.DictReader(io.StringIO(to_csv(records))), strict=True):
        assert tuple(entry["box"]) == face.box
        assert tuple(int(row[name]) for name in ("left", "top", "width", "height")) == face.box
        assert entry["label"] == row["label"] == face.label
        assert entry["probabilities"] == pytest.approx(face.probabilities, abs=5.1e-5)
        assert {name: float(row[name]) for name in CLASSES} == entry["probabilities"]


def test_table() -> None:
    header, *rows = lines(RECORDS[:1], 120)
    assert header.split() == ["file", "face", "expression", "next"]
    *rest, last = lines(RECORDS[:1] + RECORDS[2:], 120)
    assert rest[0].split() == ["file", "second", "face", "expression", "next"]
    assert [re.split(r"\s{2,}", row.strip()) for row in (*rows, last)] == [
        ["x.jpg", "10 -2 30x30", "happy", "80%", "━" * 8, "neutral 10%"],
        ["x.jpg", "0 0 5x5", "sad", "100%", "━" * 10, "angry 0%"],
        ["film.mp4", "1.25", "0 0 5x5", "sad", "100%", "━" * 10, "angry 0%"],
    ]
    assert lines([Record("x.jpg", [])], 120)[1].split() == ["x.jpg", "no", "face"]


def test_a_narrow_table_can_still_be_read() -> None:
    name = "holiday/2023 summer/with a very long name of a folder/IMG_20230101_120000.jpg"
    surprised = Face(
        (1555, 1112, 1218, 1218), "surprise", {**dict.fromkeys(CLASSES, 0.0), "surprise": 0.9, "happy": 0.1}
    )
    header, *rows = lines([Record(name, [surprised]), Record(name, [])], 60)
    assert all(len(row) <= 60 for row in (header, *rows))
    assert not any("…" in row for row in rows)
    assert re.search(r"surprise +90%  ━+╸? +happy 10%", rows[0])
    column = header.index("face")
    half = len(rows) // 2
    assert "".join(row[:column].strip() for row in rows[:half]).replace(" ", "") == name.replace(" ", "")
    assert "".join(row[column : header.index("expression")].strip() for row in rows[:half]) == "155511121218x1218"
    assert "no face" in rows[half]
