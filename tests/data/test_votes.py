from pathlib import Path

import numpy as np
import pytest
from builders import data_module

from emotion.data.classes import CLASSES, FERPLUS
from emotion.data.fer_csv import Fer2013Csv
from emotion.data.packed import PackedImages, pack
from emotion.data.splits import make_split
from emotion.data.votes import EMOTIONS, VOTED, Votes, open_votes, with_votes
from emotion.errors import UserError

HEADER = "image,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


def ballot(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTED]


def votes(*ballots: list[int]) -> Votes:
    return Votes(np.array(ballots))


def fake(names: list[str], labels=None) -> PackedImages:
    count = len(names)
    return PackedImages(
        images=np.zeros((count, 1, 1, 1), np.uint8),
        labels=np.zeros(count, np.int64) if labels is None else np.asarray(labels),
        parts=np.array(["train", "public", "private"] * count)[:count],
        names=np.array(names),
        hashes=np.arange(count, dtype=np.uint64),
        skipped=(),
    )


def named(labels, classes) -> list[str | None]:
    return [classes[label] if label >= 0 else None for label in labels]


def test_most_votes_win_in_every_class():
    own = votes(*(ballot(**{name: 6, "unknown": 4}) for name in EMOTIONS))
    names = ["neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"]
    labels = own.labels(FERPLUS)
    assert labels.dtype == np.int64
    assert named(labels, FERPLUS) == names
    assert named(own.labels(CLASSES), CLASSES) == [*names[:-1], None]
    assert named(own.labels(("Happiness", "Anger")), ("happy", "angry")) == [
        *(None, "happy", None, None, "angry", None, None, None)
    ]


@pytest.mark.parametrize("counts", [{}, {"unknown": 6, "sadness": 4}, {"NF": 10}])
def test_images_without_an_expression_cannot_be_used(counts):
    own = votes(ballot(**counts))
    assert own.labels(FERPLUS).tolist() == [-1]
    assert own.shares(FERPLUS).tolist() == [[0] * 8]


@pytest.mark.parametrize(
    ("counts", "winner"),
    [
        ({"neutral": 4, "sadness": 4, "fear": 2}, "neutral"),
        ({"anger": 5, "sadness": 5}, "sad"),
        ({"contempt": 5, "fear": 5}, "fear"),
        ({"contempt": 5, "unknown": 5}, "contempt"),
        ({"disgust": 5, "NF": 5}, "disgust"),
    ],
)
def test_of_equal_numbers_the_first_column_wins(counts, winner):
    assert named(votes(ballot(**counts)).labels(FERPLUS), FERPLUS) == [winner]


def test_shares_are_those_of_the_votes_for_the_classes():
    own = votes(
        ballot(happiness=6, neutral=2, unknown=2), ballot(anger=4, contempt=3, NF=3), ballot(contempt=9, fear=1)
    )
    eight = own.shares(FERPLUS)
    assert eight.dtype == np.float32
    assert eight.tolist() == [
        [0, 0, 0, 0, 0.75, 0.25, 0, 0],
        pytest.approx([4 / 7, 3 / 7, 0, 0, 0, 0, 0, 0]),
        pytest.approx([0, 0.9, 0, 0.1, 0, 0, 0, 0]),
    ]
    assert own.shares(CLASSES).tolist() == [[0, 0, 0, 0.75, 0.25, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0] * 7]


def test_votes_are_found_by_the_names_of_files(tmp_path):
    path = write(
        tmp_path / "votes.csv", "a.jpg,0,10,0,0,0,0,0,0,0,0", "b.jpg,1,2,3,4,5,6,7,8,9,10", "c.jpg,9,0,0,0,0,0,0,0,1,0"
    )
    own = open_votes(path).require_on(["train/angry/c.jpg", "x/a.jpg.jpg", "b.jpg", "test/happy/a.jpg"])
    assert own.counts.dtype == np.int64
    assert own.counts.tolist() == [
        ballot(neutral=9, unknown=1),
        [0] * 10,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        ballot(happiness=10),
    ]


def test_columns_may_have_another_order(tmp_path):
    header = ",".join([*HEADER.split(",")[:0:-1], "Usage", "image"])
    own = open_votes(write(tmp_path / "votes.csv", "10,9,8,7,6,5,4,3,2,1,Training,a.jpg", header=header)).require_on(
        ["a.jpg"]
    )
    assert own.counts.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]


def test_labels_and_classes_are_replaced_and_unusable_images_unused():
    packed = fake(["a", "b", "c", "d"], labels=[2, 2, 2, 2])
    own = votes(ballot(sadness=6, fear=2), ballot(contempt=9), ballot(), ballot(anger=5))
    hard = with_votes(packed, own, CLASSES, soft=False)
    assert hard.labels.tolist() == [5, -1, -1, 0]
    assert hard.parts.tolist() == ["train", "unused", "unused", "train"]
    assert hard.classes == CLASSES
    assert hard.shares is None
    assert hard.digest != packed.digest
    soft = with_votes(packed, own, list(FERPLUS), soft=True)
    assert soft.labels.tolist() == [6, 1, -1, 0]
    assert soft.parts.tolist() == ["train", "public", "unused", "train"]
    assert soft.classes == FERPLUS
    assert soft.shares[0].tolist() == [0, 0, 0, 0.25, 0, 0, 0.75, 0]
    assert packed.labels.tolist() == [2, 2, 2, 2]
    assert make_split(soft, "test_only", val_fraction=0.2, seed=0, group_duplicates=False).test.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("header", "rows", "text"),
    [
        (
            "image,neutral,happy",
            ["a.jpg,1,2"],
            ": no column happiness, surprise, sadness, anger, disgust, fear, contempt",
        ),
        ("", [], ": no column image, neutral, "),
        (HEADER, ["a.jpg,1,2,3"], " line 2: broken row (expected an image and ten whole numbers from 0)"),
        (HEADER, ["a.jpg,0,0,0,0,0,0,0,0,0,0", "b.jpg,-1,0,0,0,0,0,0,0,0,0"], " line 3: broken row"),
        (HEADER, ["a.jpg,0.5,0,0,0,0,0,0,0,0,0"], " line 2: broken row"),
        (
            HEADER,
            ["a.jpg,0,0,0,0,0,0,0,0,0,0"] * 2,
            " line 3: a second row for a.jpg; images of one name need their folders, as train/happy/a.jpg",
        ),
        (HEADER, ['"a.jpg'], " line 2: not CSV ("),
        (
            HEADER,
            ["other.jpg,1,0,0,0,0,0,0,0,0,0"],
            ": no votes on any of the 1 images, as train/sad/a.jpg; FER+ is for",
        ),
        (HEADER, [], ": no votes on any of the 1 images"),
    ],
)
def test_wrong_files_are_named(tmp_path, header, rows, text):
    path = write(tmp_path / "votes.csv", *rows, header=header)
    with pytest.raises(UserError) as caught:
        open_votes(path).require_on(["train/sad/a.jpg"])
    assert str(caught.value).startswith(f"{path}{text}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"none\.csv: no such file; the votes of FER\+ are a CSV file with image,neutral,"
    ):
        open_votes(tmp_path / "none.csv").require_on(["a.jpg"])


def test_classes_without_votes_are_named():
    with pytest.raises(UserError) as caught:
        votes(ballot(anger=1)).labels(["angry", "bored", "tired"])
    assert str(caught.value).startswith("votes: FER+ has none for bored, tired; it has neutral, happiness, ")


def test_votes_that_leave_no_image_are_refused():
    with pytest.raises(
        UserError, match="labels=ferplus: no image can be used; on none has one of angry, sad the most votes"
    ):
        with_votes(fake(["a", "b"]), votes(ballot(fear=1), ballot()), ("angry", "sad"), soft=False)


OWN_HEADER = HEADER.replace("image", "Usage,Image name")


def own_file(path: Path, *rows: str) -> Path:
    """Writes a file like that of FER+ itself, whose rows are those of fer2013.csv."""
    return write(path / "fer2013new.csv", *rows, header=OWN_HEADER)


# As in FER+, the name of an image does not tell its row, and it is empty where no face is on the image.
ROWS = (
    "Training,fer0000001.png,4,0,0,6,0,0,0,0,0,0",
    "Training,,0,0,0,0,0,0,0,0,0,10",
    "PublicTest,fer0000000.png,0,9,0,0,0,0,0,0,1,0",
    "PrivateTest,fer0000002.png,0,0,0,0,0,0,7,3,0,0",
)


def test_the_file_of_ferplus_itself_has_the_rows_of_the_csv(tmp_path):
    path = own_file(tmp_path, *ROWS)
    own = open_votes(path).require_on(
        ["fer2013.csv:4", "fer2013.csv:2", "fer2013.csv:3", "fer2013.csv:5", "fer2013.csv:6"]
    )
    expected = [
        ballot(happiness=9, unknown=1),
        ballot(neutral=4, sadness=6),
        ballot(),
        ballot(fear=7, contempt=3),
        ballot(),
    ]
    assert own.counts.tolist() == expected
    assert named(own.labels(CLASSES), CLASSES) == ["happy", "sad", None, "fear", None]
    assert len(open_votes(path).parts) == 4


def test_the_file_of_ferplus_itself_needs_the_part_of_each_row(tmp_path):
    path = write(tmp_path / "votes.csv", header=OWN_HEADER.replace("Usage,", ""))
    with pytest.raises(UserError, match=r"votes\.csv: no column Usage; found: Image name, neutral, "):
        open_votes(path)


def test_rows_in_another_order_are_refused(tmp_path):
    names, path = ["fer2013.csv:2", "fer2013.csv:4"], own_file(tmp_path, *ROWS)
    assert open_votes(path).require_on(names, ["train", "public"]).counts.any()
    with pytest.raises(UserError) as caught:
        open_votes(path).require_on(names, ["train", "private"])
    assert str(caught.value) == (
        f"{path}: row 2 is of part public, but fer2013.csv:4 of private: the rows of both files must have the same "
        "order"
    )


def test_names_in_folders_do_not_tell_the_row(tmp_path):
    path = own_file(tmp_path, *ROWS)
    with pytest.raises(UserError) as caught:
        open_votes(path).require_on(["train/sad/Training_2.jpg"])
    assert str(caught.value) == (
        f"{path}: no votes on any of the 1 images, as train/sad/Training_2.jpg; FER+ is for data=fer2013_csv, whose "
        "rows it has; names in folders do not tell the row"
    )


@pytest.mark.parametrize("row", ["Training,fer0000000.png,1,2", "Test,fer0000000.png,4,0,0,6,0,0,0,0,0,0"])
def test_broken_rows_of_ferplus_itself_are_named(tmp_path, row):
    path = own_file(tmp_path, ROWS[0], row)
    with pytest.raises(UserError) as caught:
        open_votes(path)
    assert str(caught.value) == (
        f"{path} line 3: broken row (expected Training/PublicTest/PrivateTest and ten whole numbers from 0)"
    )


def test_images_of_the_csv_get_the_votes_of_its_rows(tmp_path):
    """The names are those that the source gives, also where the header is followed by images of every part."""
    pixels = " ".join(["7"] * 48**2)
    usages = ("Training", "Training", "PublicTest", "PrivateTest")
    lines = ["emotion,pixels,Usage", *(f"0,{pixels},{usage}" for usage in usages)]
    (tmp_path / "fer2013.csv").write_text("\n\n".join(lines))  # empty lines are no rows
    packed = pack(Fer2013Csv(tmp_path / "fer2013.csv"))
    own = open_votes(own_file(tmp_path, *ROWS)).require_on(packed.names.tolist(), packed.parts.tolist())
    labelled = with_votes(packed, own, CLASSES, soft=False)
    assert named(labelled.labels, CLASSES) == ["sad", None, "happy", "fear"]


def test_labels_of_the_csv_are_replaced_by_the_file_of_ferplus_itself(tmp_path, cache):
    pixels = " ".join(["7"] * 48**2)
    lines = ["emotion,pixels,Usage", *(f"0,{pixels},{row.split(',')[0]}" for row in ROWS)]
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    data = data_module(
        data="fer2013_csv", data_dir=str(tmp_path), labels="ferplus", votes=str(own_file(tmp_path, *ROWS))
    )
    assert named(data.packed.labels, CLASSES) == ["sad", None, "happy", "fear"]


def test_a_row_with_folders_is_for_one_of_two_images_of_a_name(tmp_path):
    rows = ["train/sad/a.jpg,1,0,0,0,0,0,0,0,0,0", "a.jpg,0,1,0,0,0,0,0,0,0,0"]
    votes = open_votes(write(tmp_path / "votes.csv", *rows, header=HEADER)).on(["train/sad/a.jpg", "train/happy/a.jpg"])
    assert votes.counts[:, :2].tolist() == [[1, 0], [0, 1]]


def test_a_row_without_folders_is_for_none_of_two_images_of_its_name(tmp_path):
    votes = open_votes(write(tmp_path / "votes.csv", "0.png,1,0,0,0,0,0,0,0,0,0", "1.png,2,0,0,0,0,0,0,0,0,0"))
    assert votes.on(["sad/0.png", "happy/0.png", "sad/1.png", "sad/1.png"]).counts[:, 0].tolist() == [0, 0, 2, 2]
    with pytest.raises(UserError, match="no votes on any of the 2 images, as sad/0"):
        votes.require_on(["sad/0.png", "happy/0.png"])
