import csv
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from other_classes import FERPLUS, STRANGE, THREE
from rich.console import Console, RenderableType

from emotion.data.classes import CLASSES
from emotion.errors import UserError, printable
from emotion.files import no_formula
from emotion.inference.film import FilmFrame
from emotion.inference.persons import Film
from emotion.inference.recognizer import Face, Recognizer
from emotion.inference.records import (
    CsvWriter,
    JsonWriter,
    Record,
    TableWriter,
    columns_of,
    to_frame,
    to_live,
    to_summary,
    to_table,
)

HAPPY = Face((10, -2, 30, 30), "happy", dict(zip(CLASSES, (0.05, 0, 0, 0.8, 0.1, 0.04999, 0), strict=True)), 0.98765)
SAD = Face((0, 0, 5, 5), "sad", dict(zip(CLASSES, (0, 0, 0, 0, 0, 1, 0), strict=True)))
ODD = 'a, "b"\n[bold]c[/bold] é.jpg'
RECORDS = [Record("x.jpg", [HAPPY, SAD]), Record(ODD, []), Record("film.mp4", [replace(SAD, person=3)], 30, 1.25)]
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


def to_csv(records: Sequence[Record], films: bool = False, classes: tuple[str, ...] = CLASSES) -> str:
    file = io.StringIO()
    writer = CsvWriter(file, films, classes)
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()


def to_json(records: Sequence[Record], lines: bool = False) -> str:
    file = io.StringIO()
    writer = JsonWriter(file, lines)
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()


def lines(table: RenderableType, width: int) -> list[str]:
    file = io.StringIO()
    Console(width=width, file=file).print(table)
    return file.getvalue().splitlines()


def test_json() -> None:
    first, second, third = json.loads(to_json(RECORDS))
    assert first == {
        "file": "x.jpg",
        "faces": [
            {
                "box": [10, -2, 30, 30],
                "label": "happy",
                "score": 0.8,
                "probabilities": dict(zip(CLASSES, (0.05, 0, 0, 0.8, 0.1, 0.05, 0), strict=True)),
                "confidence": 0.9877,
                "tilt": 0.0,
            },
            {
                "box": [0, 0, 5, 5],
                "label": "sad",
                "score": 1,
                "probabilities": SAD.probabilities,
                "confidence": None,
                "tilt": 0.0,
            },
        ],
    }
    assert second == {"file": ODD, "faces": []}
    assert (third["file"], third["frame"], third["second"]) == ("film.mp4", 30, 1.25)
    assert list(third) == ["file", "frame", "second", "faces"]
    assert third["faces"][0]["person"] == 3
    assert json.loads(to_json([])) == []
    assert "é" in to_json(RECORDS)
    assert json.loads(to_json([Record("x", [], 1, 1 / 3)]))[0]["second"] == 0.333
    assert json.loads(to_json([Record("x", [], 0, 0.0)]))[0]["second"] == 0


def test_json_lines_are_an_object_each() -> None:
    rows = to_json(RECORDS, lines=True).splitlines()
    assert [json.loads(row) for row in rows] == json.loads(to_json(RECORDS))
    assert to_json([], lines=True) == ""


@pytest.mark.parametrize(
    "kind", [lambda file: CsvWriter(file, True, CLASSES), JsonWriter, lambda file: JsonWriter(file, True)]
)
def test_each_record_is_in_the_file_before_the_next_one(kind, tmp_path: Path) -> None:
    """What was written survives when the process is killed."""
    path = tmp_path / "rows"
    with path.open("w") as file:
        writer = kind(file)
        for number in range(3):
            writer.write(Record(f"{number}.jpg", [HAPPY], number, 0.5))
            text = path.read_text()
            assert all(f"{before}.jpg" in text for before in range(number + 1))


def test_characters_that_the_file_cannot_hold_are_escaped(tmp_path: Path) -> None:
    with (tmp_path / "rows.json").open("w", encoding="cp1252") as file:
        writer = JsonWriter(file)
        writer.write(Record("😀.jpg", []))
        writer.close()
    assert json.loads((tmp_path / "rows.json").read_text(encoding="cp1252"))[0]["file"] == "😀.jpg"


def test_csv_of_images() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RECORDS[:2]))))
    assert [row["file"] for row in rows] == ["x.jpg", "x.jpg", ODD]
    assert [row["label"] for row in rows] == ["happy", "sad", ""]
    assert [rows[0][name] for name in ("left", "top", "width", "height", "confidence")] == [
        "10",
        "-2",
        "30",
        "30",
        "0.9877",
    ]
    assert [float(rows[0][name]) for name in CLASSES] == [0.05, 0, 0, 0.8, 0.1, 0.05, 0]
    assert rows[1]["confidence"] == ""
    assert tuple(rows[0]) == columns_of(CLASSES, films=False)
    assert all(None not in row and None not in row.values() for row in rows)  # each row has the cells of the header
    assert list(csv.reader(io.StringIO(to_csv([])))) == [list(columns_of(CLASSES, films=False))]


def test_csv_of_films() -> None:
    averaged = replace(HAPPY, person=2, raw=SAD.probabilities)
    records = [Record("film.mp4", [averaged], 0, 0.0), Record("film.mp4", [], 5, 0.2), Record("x.jpg", [SAD])]
    first, none, image = csv.DictReader(io.StringIO(to_csv(records, films=True)))
    assert tuple(first) == columns_of(CLASSES, films=True)
    assert (first["frame"], first["second"], first["person"], first["label"]) == ("0", "0.0", "2", "happy")
    assert (first["raw_label"], float(first["raw_sad"]), float(first["sad"])) == ("sad", 1, 0.05)
    assert (none["frame"], none["second"], none["person"], none["label"]) == ("5", "0.2", "", "")
    assert (image["file"], image["frame"], image["raw_label"], image["label"]) == ("x.jpg", "", "", "sad")


def film(*frames: tuple[float, list[Face]]) -> Film:
    made = Film("film.mp4")
    for number, (second, faces) in enumerate(frames):
        made.add(FilmFrame(number, second, faces))
    return made


def test_a_summary_has_a_row_for_each_person() -> None:
    happy, sad = replace(HAPPY, person=1), replace(SAD, person=2)
    frames = [(0.0, [happy, sad]), (1.0, [happy]), (2.0, [replace(SAD, person=1)]), (3.0, [replace(SAD, person=4)])]
    frames += [(3.5, [replace(SAD, person=5)]), (4.0, [])]
    title, header, first, second, rest = (line.strip() for line in lines(to_summary(film(*frames)), 120))
    assert title == "film.mp4"
    assert header.split() == ["person", "from", "to", "seen", "expressions", "changes", "longest"]
    assert re.split(r"\s{2,}", first) == [
        *("1", "0.0 s", "3.0 s", "3.0 s", "happy 67%, sad 33%", "1", "happy 2.0 s from 0.0 s")
    ]
    assert second.startswith("2  0.0 s  1.0 s  1.0 s  sad 100%")
    assert rest == "2 more, seen for less than 1 s"


def test_summaries_of_films_without_persons() -> None:
    assert [line.strip() for line in lines(to_summary(film((0.0, []))), 100)] == ["film.mp4", "no face"]
    assert "1 face for a moment" in lines(to_summary(film((0.0, [replace(HAPPY, person=1)]))), 100)[-1]


def test_the_live_table_shows_the_largest_face_first() -> None:
    small, large = replace(SAD, person=1), replace(HAPPY, person=2)
    shown = lines(to_live(FilmFrame(7, 12.3, [small, large])), 100)
    assert shown[0].strip() == "12.3 s"
    assert shown[1].split() == ["person", "2", "person", "1"]
    assert [line.split()[0] for line in shown[2:]] == list(CLASSES)
    assert "no face" in "".join(lines(to_live(FilmFrame(0, 0.0, [])), 100))


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    one = to_frame([HAPPY, SAD])
    assert isinstance(one, pandas.DataFrame)
    assert tuple(one.columns) == columns_of(CLASSES, films=False)
    assert one["label"].tolist() == ["happy", "sad"]
    assert one["happy"].tolist() == [0.8, 0]
    several = to_frame([[HAPPY], [], [SAD, SAD]])
    assert several["file"].tolist() == [0, 1, 2, 2]
    assert several["label"].isna().tolist() == [False, True, False, False]
    made = to_frame(film((0.0, [replace(HAPPY, person=1)]), (0.2, [])))
    assert tuple(made.columns) == columns_of(CLASSES, films=True)
    assert made["second"].tolist() == [0.0, 0.2]
    assert made["file"].tolist() == ["film.mp4"] * 2
    assert len(to_frame([])) == 0


def test_pandas_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        to_frame([HAPPY])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_are_kept(name: str) -> None:
    records = [Record(name, [HAPPY]), Record(name, [])]
    assert [row["file"] for row in json.loads(to_json(records))] == [name] * 2
    cells = [row["file"] for row in csv.DictReader(io.StringIO(to_csv(records), newline=""))]
    assert cells == [no_formula(name)] * 2
    assert lines(to_table(records), 120)[1].startswith(printable(name).split("\n")[0])


def test_names_do_not_control_the_terminal() -> None:
    table = "\n".join(lines(to_table([Record("a\x1b]0;mine\x07\x9b31m\u202egpj.exe", [])]), 120))
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
    unsure = replace(
        HAPPY, label="fear", probabilities=dict(zip(CLASSES, [0.1, 0.1, 0.4, 0.3, 0.1, 0, 0], strict=True))
    )
    header, *rows = lines(to_table([Record("x.jpg", [HAPPY, SAD, unsure])]), 120)
    assert header.split() == ["file", "face", "expression", "next", "detected"]
    assert [re.split(r"\s{2,}", row.strip()) for row in rows] == [
        ["x.jpg", "10 -2 30x30", "happy", "80%", "━" * 4 + "╸", "neutral 10%", "99%"],
        ["x.jpg", "0 0 5x5", "sad", "100%", "━" * 6, "angry 0%"],
        ["x.jpg", "10 -2 30x30", "fear?", "40%", "━" * 2, "happy 30%", "99%"],
    ]
    assert lines(to_table([Record("x.jpg", [])]), 120)[1].split() == ["x.jpg", "no", "face"]


def test_the_table_of_images_is_printed_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=80)
    writer = TableWriter(console)
    for record in (Record("x.jpg", [HAPPY]), Record("film.mp4", [SAD], 0, 0.0), Record("long name.jpg", [])):
        writer.write(record)
    assert console.file.getvalue() == ""
    writer.close()
    header, *rows = console.file.getvalue().splitlines()
    assert [row.rstrip()[:13].rstrip() for row in rows] == ["x.jpg", "long name.jpg"]
    assert header.split()[0] == "file"


def test_the_folder_that_files_share_is_the_title() -> None:
    shown = lines(to_table([Record("/a/b/x.jpg", []), Record("/a/b/c/y.jpg", [])]), 80)
    assert [line.split() for line in shown] == [
        ["in", "/a/b"],
        ["file", "face", "expression", "next", "detected"],
        ["x.jpg", "no", "face"],
        ["c/y.jpg", "no", "face"],
    ]
    assert "in" not in lines(to_table([Record("a/x.jpg", []), Record("/b/y.jpg", [])]), 80)[0].split()
    assert lines(to_table([Record("a/x.jpg", []), Record("a/x.jpg", [])]), 80)[1].split() == ["a/x.jpg", "no", "face"]


def test_a_narrow_table_can_still_be_read() -> None:
    name = "holiday/2023 summer/with a very long name of a folder/IMG_20230101_120000.jpg"
    surprised = Face(
        (1555, 1112, 1218, 1218), "surprise", {**dict.fromkeys(CLASSES, 0.0), "surprise": 0.9, "happy": 0.1}
    )
    assert [line.rstrip() for line in lines(to_table([Record(name, [surprised]), Record(name, [])]), 70)] == [
        "file          face       expression                next       detected",
        "holida…0.jpg  1555 1112  surprise     90%  ━━━━━   happy 10%",
        "              1218x1218",
        "holida…0.jpg  no face",
    ]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (79, "x.jpg  1024 2020 | very pleasantly surprised |  55% | ━━━ |  98%"),
        (64, "x.jpg  1024 2020 | very pleasantly surprised |  55% |  98%"),
        (50, "x.jpg  1024 2020 | very pleasantly… |  55% |  98%"),
        (88, "x.jpg  1024 2020 | very pleasantly surprised |  55% | ━━━ | somewh…t 44% |  98%"),
    ],
)
def test_each_row_of_a_narrow_table_has_its_file_and_its_face(width: int, expected: str) -> None:
    probabilities = {"very pleasantly surprised": 0.55, "somewhat disappointed at it": 0.44, "contempt": 0.01}
    face = Face((1024, 2020, 130, 130), "very pleasantly surprised", probabilities, 0.98)
    shown = lines(to_table([Record("x.jpg", [face])]), width)
    assert all(len(line) <= width for line in shown)
    assert shown[0].split()[:3] == ["file", "face", "expression"]
    assert re.sub(r"\s+", " ", shown[1].strip()) == re.sub(r"\s+", " ", expected.replace("|", ""))


def test_wide_characters_of_long_names_fit() -> None:
    shown = lines(to_table([Record("日本語" * 20 + ".jpg", [])]), 60)
    assert shown[1].split() == ["日本語…語.jpg", "no", "face"]


def other(classes: tuple[str, ...], label: str) -> Face:
    """A face that shows one class of others than the seven; the further ones share a tenth."""
    rest = 0.1 / (len(classes) - 1)
    probabilities = {name: 0.9 if name == label else rest for name in classes}
    return Face((1, 2, 3, 3), label, probabilities, 0.8)


@pytest.mark.parametrize("classes", [THREE, FERPLUS, STRANGE])
def test_columns_are_the_classes_in_their_order(classes: tuple[str, ...]) -> None:
    own = tuple("class_label" if name == "label" else name for name in classes)
    face = other(classes, classes[1])
    film = replace(face, person=1, raw=other(classes, classes[0]).probabilities)
    records = [Record("x.jpg", [face]), Record("y.mp4", [film], 0, 0.0)]
    frame = ("file", "frame", "second", "person", "left", "top", "width", "height", "confidence", "label")
    assert columns_of(classes, films=True) == (*frame, *own, "raw_label", *(f"raw_{name}" for name in own))
    assert columns_of(classes, films=False) == ("file", *frame[4:], *own)
    header, image, video = csv.reader(io.StringIO(to_csv(records, films=True, classes=classes)))
    assert [float(value) for value in image[10 : 10 + len(classes)]] == pytest.approx(
        [*face.probabilities.values()], abs=1e-4
    )
    assert [float(value) for value in video[-len(classes) :]] == pytest.approx([*(film.raw or {}).values()], abs=1e-4)
    assert (image[9].removeprefix("'"), video[9].removeprefix("'")) == (classes[1], classes[1])
    assert video[10 + len(classes)] == classes[0]
    assert len(header) == len(image) == len(video)
    entries = [json.loads(line)["faces"][0] for line in to_json(records, lines=True).splitlines()]
    assert [tuple(entry["probabilities"]) for entry in entries] == [classes, classes]
    assert tuple(entries[1]["raw"]) == classes


def test_no_class_is_a_formula_of_a_spreadsheet() -> None:
    classes = ("=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "-1", "+0.5", "2", "a=b")
    (_, *_, label), row = csv.reader(io.StringIO(to_csv([Record("x.jpg", [other(classes, "=1+1")])], classes=classes)))
    header = next(csv.reader(io.StringIO(to_csv([], classes=classes))))
    assert header[7:] == ["'=1+1", "'@SUM(A1)", "'+cmd|' /C calc'!A0", "'-2+3", "-1", "+0.5", "2", "a=b"]
    assert label == "a=b"
    assert row[6] == "'=1+1"


def test_classes_with_the_names_of_columns_have_columns_of_their_own() -> None:
    classes = ("left", "class_left", "frame", "x", "raw_x", "raw_label", "person")
    columns = columns_of(classes, films=True)
    assert len(set(columns)) == len(columns)
    assert columns[10:17] == (
        *("class_class_left", "class_left", "class_frame", "x", "class_raw_x", "class_raw_label", "class_person"),
    )
    (row,) = Record("x.mp4", [replace(other(classes, "left"), person=7)], 3, 0.5).rows()
    assert (row["left"], row["person"], row["frame"], row["class_class_left"]) == (1, 7, 3, 0.9)
    assert row["class_raw_x"] == pytest.approx(0.1 / 6, abs=1e-4)


@pytest.mark.parametrize("classes", [THREE, STRANGE, tuple(f"class {number}" for number in range(40))])
def test_tables_show_names_as_they_are(classes: tuple[str, ...]) -> None:
    film = Film("x.mp4", classes)
    for second in range(3):
        film.add(FilmFrame(second, float(second), [replace(other(classes, classes[second]), person=1)]))
    records = [Record("x.jpg", [other(classes, name)]) for name in classes]
    shown = "\n".join(lines(to_table(records), 200))
    assert all(f"{name[:25]}" in shown for name in classes)
    (person,) = film.persons
    assert person.shares == {name: (1 / 3 if name in classes[:3] else 0) for name in classes}
    summary = " ".join("\n".join(lines(to_summary(film), 250)).split())
    assert ", ".join(f"{name} 33%" for name in classes[:3]) in summary
    live = lines(to_live(FilmFrame(0, 0.0, [replace(other(classes, classes[-1]), person=1)])), 120)
    assert len(live) == 2 + min(len(classes), 12)
    assert live[-1].split("━")[0].strip() == classes[-1]


@pytest.mark.parametrize("classes", [THREE, STRANGE])
def test_data_frames_of_other_classes(classes: tuple[str, ...]) -> None:
    face, film = other(classes, classes[2]), Film("x.mp4", classes)
    film.add(FilmFrame(0, 0.0, [replace(face, person=1)]))
    one, made = to_frame([[], [face]]), to_frame(film)
    assert tuple(one.columns) == columns_of(classes, films=False)
    assert tuple(made.columns) == columns_of(classes, films=True)
    assert one.iloc[-1, -len(classes) :].tolist() == pytest.approx(list(face.probabilities.values()), abs=1e-4)
    assert tuple(to_frame(Film("empty.mp4", classes)).columns) == columns_of(classes, films=True)
