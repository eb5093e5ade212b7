"""Tables of images, drawn in the layouts of RAF-DB and AffectNet, and every way in which a table can be wrong."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion.data.classes import CLASSES, ClassRule
from emotion.data.decode import BadImageError
from emotion.data.labelled import fingerprint
from emotion.data.packed import pack
from emotion.data.sources import open_source
from emotion.data.table import TableSource
from emotion.errors import UserError
from emotion.settings import DataSettings

RAFDB = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]
AFFECTNET = ["neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"]
AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)


def save(path: Path, tone: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), tone).save(path)
    return path


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding=encoding)
    return path


def photos(folder: Path, *names: str) -> Path:
    """Writes images whose tones count up from 1."""
    for tone, name in enumerate(names, 1):
        save(folder / name, tone)
    return folder


def items_of(source) -> list[tuple[str, str, str]]:
    """Returns name, class and part of each image."""
    return [(item.name, source.classes[item.label], item.part) for item in source]


def tones(source) -> list[int]:
    return [int(item.pixels[0, 0, 0]) for item in source]


def opened(path: Path, **settings):
    return open_source(DataSettings(data="table", data_dir=str(path), **settings))


def refusal(path: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts of known data sets


@pytest.fixture
def rafdb(tmp_path) -> Path:
    """A stand-in of RAF-DB's basic part: seven training and seven test images, one of each class."""
    root = tmp_path / "basic"
    lines = [f"{part}_{number:05}.jpg {number}" for part in ("train", "test") for number in range(1, 8)]
    for tone, line in enumerate(lines, 1):
        save(root / "Image" / "aligned" / f"{line.split('.')[0]}_aligned.jpg", tone)
    write(root / "EmoLabel" / "list_patition_label.txt", *lines)
    return root


def test_rafdb(rafdb):
    source = opened(
        rafdb / "EmoLabel" / "list_patition_label.txt",
        classes=RAFDB,
        columns=["path", "label"],
        images="../Image/aligned/{stem}_aligned.jpg",
    )
    assert source.classes == tuple(RAFDB)
    assert items_of(source) == [
        (f"{part}_{number:05}_aligned.jpg", RAFDB[number - 1], part)
        for part in ("train", "test")
        for number in range(1, 8)
    ]
    assert tones(source) == list(range(1, 15))
    assert len(source) == 14


@pytest.fixture
def affectnet(tmp_path) -> Path:
    """A stand-in of AffectNet: eleven training images, one of each label, and eight validation images."""
    root = tmp_path / "AffectNet"
    for name, count, folder in (("training", 11, "1"), ("validation", 8, "2")):
        lines = []
        for label in range(count):
            save(root / "Manually_Annotated_Images" / folder / f"{label}.png", 10 * int(folder) + label)
            landmarks = ";".join(f"{number}.5" for number in range(136))
            lines.append(f"{folder}/{label}.png,1,2,100,100,{landmarks},{label},-0.5,0.25")
        write(root / "Manually_Annotated_file_lists" / f"{name}.csv", AFFECTNET_HEADER, *lines)
    return root


def test_affectnet(affectnet):
    columns = {
        "path_column": "subDirectory_filePath",
        "label_column": "expression",
        "images": "../Manually_Annotated_Images",
    }
    lists = affectnet / "Manually_Annotated_file_lists"
    source = opened(lists, classes=AFFECTNET, exclude=[8, 9, 10], **columns)
    assert source.classes == tuple(AFFECTNET)
    assert items_of(source) == [
        *((f"1/{label}.png", AFFECTNET[label], "train") for label in range(8)),
        *((f"2/{label}.png", AFFECTNET[label], "val") for label in range(8)),
    ]
    assert tones(source) == [*range(10, 18), *range(20, 28)]
    message = refusal(lists, classes=AFFECTNET, **columns)
    assert message.startswith(f"{lists / 'training.csv'} line 10: class 8 is beyond the names neutral, happy, ")
    assert message.endswith("; name every number up to it, or exclude=[8] leaves it out")


def test_affectnet_without_contempt(affectnet):
    source = opened(
        affectnet / "Manually_Annotated_file_lists",
        classes=AFFECTNET[:7],
        exclude=[7, 8, 9, 10],
        path_column="subDirectory_filePath",
        label_column="expression",
        images="../Manually_Annotated_Images",
    )
    assert Counter(item.label for item in source) == dict.fromkeys(range(7), 2)


# Headers, separators, encodings


@pytest.mark.parametrize("delimiter", [",", "\t", ";", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(tmp_path, delimiter, encoding):
    photos(tmp_path, "a/\u00e4.png", "b/two words.png")
    rows = [
        ("Path", "age", "LABEL", "split"),
        ("a/\u00e4.png", "7", "happy", "Val"),
        ("b/two words.png", "", "sad", "test"),
    ]
    path = write(tmp_path / "list.csv", *(delimiter.join(row) for row in rows), encoding=encoding)
    assert items_of(opened(path)) == [("a/\u00e4.png", "happy", "val"), ("b/two words.png", "sad", "test")]


@pytest.mark.parametrize("line", ["{},{}", '"{}","{}"', "{}\t{}", "{};{}", "{} {}", "{}   {} "])
def test_tables_without_header(tmp_path, line):
    photos(tmp_path, "a.png", "b.png")
    path = write(tmp_path / "list.txt", line.format("a.png", "happy"), "", line.format("b.png", "sad"))
    assert items_of(opened(path, columns=["path", "label"])) == [("a.png", "happy", "train"), ("b.png", "sad", "train")]


def test_quoted_fields_may_hold_separators_and_blank_lines_are_skipped(tmp_path):
    photos(tmp_path, "a,b.png", "c.png")
    path = write(tmp_path / "list.csv", "", "label,path", "", 'happy,"a,b.png"', "sad,c.png", "", "")
    assert items_of(opened(path)) == [("a,b.png", "happy", "train"), ("c.png", "sad", "train")]


def test_empty_fields_at_the_end_are_allowed(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    path = write(tmp_path / "list.csv", "path,label,note", "a.png,happy,,,", "b.png,sad")
    assert len(opened(path)) == 2


# Parts


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("VAL", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("test", "test"),
        ("Testing", "test"),
        ("PublicTest", "public"),
        ("PrivateTest", "private"),
    ],
)
def test_parts_of_the_split_column(tmp_path, written, part):
    photos(tmp_path, "train_a.png")
    path = write(tmp_path / "list.csv", "path,label,usage", f"train_a.png,happy,{written}")
    assert items_of(opened(path, split_column="Usage")) == [("train_a.png", "happy", part)]


def test_a_split_column_has_no_effect_where_the_tables_name_the_parts(tmp_path):
    photos(tmp_path, "a.png")
    write(tmp_path / "train.csv", "path,label,fold", "a.png,happy,test")
    with pytest.raises(UserError, match=r"^split_column=fold: has no effect; the tables in .* name the parts$"):
        opened(tmp_path, split_column="fold")


def test_without_a_split_column_all_images_train(tmp_path):
    photos(tmp_path, "a.png", "test_b.png")
    path = write(tmp_path / "test.csv", "path,label", "a.png,happy", "test_b.png,sad")
    assert [part for _, _, part in items_of(opened(path))] == ["train", "train"]


def test_names_of_files_that_all_begin_with_a_part_give_it(tmp_path):
    photos(tmp_path, "x/train_a.png", "x/val_b.png", "Test_c.png")
    path = write(tmp_path / "list.csv", "path,label", "x/train_a.png,happy", "x/val_b.png,sad", "Test_c.png,fear")
    assert [part for _, _, part in items_of(opened(path))] == ["train", "val", "test"]


@pytest.mark.parametrize(
    "names", [("train.csv", "val.tsv", "test.txt"), ("Training.CSV", "validation.csv", "testing.csv")]
)
def test_the_tables_of_a_folder_are_named_after_their_parts(tmp_path, names):
    photos(tmp_path, "a.png", "b.png", "c.png")
    for name, image in zip(names, "abc", strict=True):
        write(tmp_path / name, "path,label", f"{image}.png,happy")
    write(tmp_path / "other.csv", "no table")
    assert {name: part for name, _, part in items_of(opened(tmp_path))} == {
        "a.png": "train",
        "b.png": "val",
        "c.png": "test",
    }


def test_a_folder_without_tables_or_with_two_of_a_part_is_refused(tmp_path):
    assert refusal(tmp_path) == (
        f"{tmp_path}: no table train, val or test (.csv, .tsv, .txt); name the file with data_dir=<path>"
    )
    for name in ("train.csv", "training.tsv"):
        write(tmp_path / name, "path,label")
    assert refusal(tmp_path) == (
        f"{tmp_path}: train.csv, training.tsv are tables of the same part; keep one, or join them"
    )


# Images


@pytest.mark.parametrize(
    ("images", "file"),
    [
        (None, "tables/a/x.png"),
        ("photos", "tables/photos/a/x.png"),
        ("../photos/", "photos/a/x.png"),
        ("{path}", "tables/a/x.png"),
        ("photos/{name}", "tables/photos/x.png"),
        ("{stem}/{stem}.jpg", "tables/x/x.jpg"),
        ("{path}.jpg", "tables/a/x.png.jpg"),
    ],
)
def test_where_images_are(tmp_path, images, file):
    (tmp_path / "tables").mkdir()
    save(tmp_path / file, 99)
    path = write(tmp_path / "tables" / "list.csv", "path,label", "a/x.png,happy")
    assert tones(opened(path, images=images)) == pytest.approx([99], abs=1)


def test_images_may_be_named_by_an_absolute_folder(tmp_path):
    photos(tmp_path / "photos", "a.png")
    path = write(tmp_path / "tables" / "list.csv", "path,label", "a.png,happy")
    assert items_of(opened(path, images=str(tmp_path / "photos"))) == [("a.png", "happy", "train")]


def test_images_are_resized_and_keep_their_colour(tmp_path):
    Image.new("RGB", (60, 90), (200, 100, 0)).save(tmp_path / "a.png")
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy")
    (item,) = opened(path, pack_size=24, channels=3)
    assert item.pixels.shape == (3, 24, 24)
    assert item.pixels[:, 5, 5].tolist() == [200, 100, 0]


@pytest.mark.parametrize("images", ["{file}.png", "{path", "{path!r}", "{}"])
def test_illegal_templates_are_refused(tmp_path, images):
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy")
    assert refusal(path, images=images) == f"images={images}: only {{path}}, {{name}} and {{stem}} are filled in"


def test_a_missing_folder_of_images_is_named(tmp_path):
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy")
    assert refusal(path, images="photos") == f"images=photos: no folder {tmp_path / 'photos'}"


def test_a_missing_image_is_named_with_its_line_and_can_be_skipped(tmp_path, cache):
    photos(tmp_path, "a.png")
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy", "b.png,sad")
    source = opened(path)
    good, bad = source
    assert good.name == "a.png"
    assert str(bad) == f"{path} line 3: {tmp_path / 'b.png'}: no such file"
    with pytest.raises(UserError, match=r"line 3: .*no such file; on_bad_image=skip"):
        pack(source)
    assert pack(source, "skip").names.tolist() == ["a.png"]


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "a\0.png"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    path = write(tmp_path / "list.csv", "path,label", f"{name},happy")
    message = refusal(path)
    assert message.startswith(f"{path} line 2: the path {name!r} leads out of {tmp_path}")


def test_links_that_lead_out_are_no_images(tmp_path):
    secret, inside = tmp_path / "secret", tmp_path / "photos"
    photos(secret, "x.png")
    photos(inside, "a.png")
    (inside / "file.png").symlink_to(secret / "x.png")
    (inside / "folder").symlink_to(secret)
    (inside / "own.png").symlink_to("a.png")
    rows = [f"{name},happy" for name in ("file.png", "folder/x.png", "own.png")]
    file, folder, own = opened(write(inside / "list.csv", "path,label", *rows))
    for number, item in ((2, file), (3, folder)):
        assert isinstance(item, BadImageError)
        assert f"list.csv line {number}: " in str(item)
        assert str(item).endswith(f"a link that leads out of {inside}")
    assert own.name == "own.png"


# Classes


def test_labels_are_the_seven_or_their_own_classes(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    path = write(tmp_path / "list.csv", "path,label", "a.png,Happiness", "b.png,anger")
    assert opened(path).classes == CLASSES
    path = write(tmp_path / "list.csv", "path,label", "a.png,tired", "b.png,anger")
    assert opened(path).classes == ("anger", "tired")


def test_numbers_with_a_decimal_point_are_those_without(tmp_path):
    """pandas writes a column of integers with an empty cell as 0.0, 1.0."""
    photos(tmp_path, "a.png", "b.png")
    path = write(tmp_path / "list.csv", "path,label", "a.png,1.0", "b.png,0.0")
    assert [file.label for file in opened(path, classes=["calm", "tired"]).files] == [1, 0]
    assert opened(path).classes == ("0.0", "1.0"), "without names they are names themselves"


@pytest.mark.parametrize(("encoding", "labels"), [("gbk", ("高兴", "悲伤")), ("latin-1", ("fatigué", "gai"))])
def test_labels_that_are_not_utf_8_are_refused(tmp_path, encoding, labels):
    """Otherwise different labels would become one class."""
    photos(tmp_path, "a.png", "b.png")
    rows = (f"{name},{label}" for name, label in zip(("a.png", "b.png"), labels, strict=True))
    path = write(tmp_path / "list.csv", "path,label", *rows, encoding=encoding)
    with pytest.raises(UserError, match=rf"^{path} line 2: .* is not UTF-8; save the table as UTF-8$"):
        opened(path)


def test_a_label_outside_the_classes_is_named_with_its_first_line(tmp_path):
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy", "b.png,hapy", "c.png,hapy")
    assert refusal(path, classes=["happy", "sad"]) == (
        f"{path} line 3: class 'hapy' is not one of happy, sad (is it happy?); exclude=[hapy] leaves it out"
    )


def test_labels_that_are_skipped_are_counted_in_one_warning(tmp_path, caplog):
    photos(tmp_path, "a.png")
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy", "b.png,tired", "c.png,tired", "d.png,calm")
    source = TableSource(path, rule=ClassRule(["happy", "sad"], others="skip"))
    assert items_of(source) == [("a.png", "happy", "train")]
    assert caplog.messages == [
        f"{path}: left out, since they are none of the classes happy, sad: tired (2 images), calm (1 image)"
    ]
    assert caplog.messages == [f"{path}: {source.left_out}"]
    with pytest.raises(UserError, match="no images of the classes cold, warm"):
        TableSource(path, rule=ClassRule(["cold", "warm"], others="skip"))


# Tables that are wrong


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ": the table is empty"),
        (["", " "], ": the table is empty"),
        (["path,label"], ": the table is empty"),
        (["file,label", "a,b"], ": no column 'path'; path_column= one of file, label"),
        (["path;class", "a;b"], ": no column 'label'; label_column= one of path, class"),
        (["path,label", "a.png,happy", "a.png,sad"], " line 3: a.png is listed already, in {path} line 2"),
        (["path,label", "a.png,happy", "./x/../a.png,sad"], " line 3: a.png is listed already, in {path} line 2"),
        (["path,label", "a.png,"], " line 2: no label in column 'label'"),
        (["path,label", ",happy"], " line 2: no path in column 'path'"),
        (["path,label", "a,b.png,happy"], " line 2: 3 columns, not 2"),
        (["path,label,split", "a.png,happy,dev"], " line 2: the split 'dev' is not one of train, training, val, "),
        (["path,label,split", "a.png,happy"], " line 2: the split '' is not one of "),
        (["path,label", '"a.png,happy', "b.png,sad"], " line 3: not CSV ("),
    ],
)
def test_wrong_tables_are_named(tmp_path, lines, message):
    path = write(tmp_path / "list.csv", *lines)
    assert refusal(path).startswith(f"{path}{message.format(path=path)}")


def test_the_same_image_in_two_tables_is_refused(tmp_path):
    for name in ("train", "val"):
        write(tmp_path / f"{name}.csv", "path,label", "a.png,happy")
    assert (
        refusal(tmp_path)
        == f"{tmp_path / 'val.csv'} line 2: a.png is listed already, in {tmp_path / 'train.csv'} line 2"
    )


def test_a_split_column_that_is_asked_for_must_exist(tmp_path):
    path = write(tmp_path / "list.csv", "path,label", "a.png,happy")
    assert refusal(path, split_column="part") == f"{path}: no column 'part'; split_column= one of path, label"


def test_a_table_without_header_is_told_how_to_name_its_columns(tmp_path):
    path = write(tmp_path / "list.csv", "faces/a.JPG,happy", "faces/b.jpg,sad")
    assert refusal(path) == (
        f"{path}: the first line names an image, so it is no header; name the columns, as columns=[path,label] or "
        "columns=[path,label,split]"
    )


def test_columns_must_fit_the_first_line(tmp_path):
    path = write(tmp_path / "list.txt", "a.png happy 3")
    assert refusal(path, columns=["path", "label"]) == (
        f"{path}: the first line does not have the 2 columns path, label"
    )
    assert refusal(path, columns=["file", "label", "age"]) == (
        f"{path}: no column 'path'; path_column= one of file, label, age"
    )


def test_lines_without_end_are_not_read(tmp_path):
    path = tmp_path / "list.csv"
    with path.open("wb") as file:
        file.write(b"path,label\n")
        file.truncate(2**33)  # takes no space on the disk
    assert refusal(path) == f"{path} line 2: not a table, longer than 131,072 characters"


# Groups


def test_groups_are_values_of_a_column_or_found_in_the_names(tmp_path):
    photos(tmp_path, "S1_a.png", "S2_b.png", "S1_c.png")
    rows = ["S1_a.png,happy,anna", "S2_b.png,sad,berta", "S1_c.png,sad,anna"]
    source = opened(write(tmp_path / "list.csv", "path,label,Person", *rows))
    names = ["S1_c.png", "S1_a.png", "S2_b.png"]
    assert source.groups(names, "person") == ["anna", "anna", "berta"]
    assert source.groups(names, "S[0-9]") == ["S1", "S1", "S2"]
    with pytest.raises(UserError, match=r"group_by=people: finds nothing in 3 names of images, as S1_c\.png"):
        source.groups(names, "people")


def test_images_without_a_group_are_named(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    source = opened(write(tmp_path / "list.csv", "path,label,person", "a.png,happy,anna", "b.png,sad,"))
    assert source.groups(["a.png"], "person") == ["anna"]
    with pytest.raises(UserError) as error:
        source.groups(["a.png", "b.png"], "person")
    assert str(error.value) == "group_by=person: no value for 1 images, as b.png"


# Packing


def test_fingerprint_depends_on_tables_images_and_columns(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    rows = ["path,label,other", "a.png,happy,sad", "b.png,sad,happy"]
    path = write(tmp_path / "list.csv", *rows)
    others = [{"label_column": "other"}, {"pack_size": 24}, {"exclude": ["sad"]}, {"images": "../" + tmp_path.name}]
    assert len({fingerprint(opened(path, **settings))[0] for settings in ({}, *others)}) == 5
    identity, content = fingerprint(opened(path))
    assert fingerprint(opened(path)) == (identity, content)
    write(tmp_path / "list.csv", *rows[:2], "b.png,happy,happy")
    assert fingerprint(opened(path))[0] == identity
    assert fingerprint(opened(path))[1] != content
    content = fingerprint(opened(path))[1]
    (tmp_path / "b.png").unlink()
    assert fingerprint(opened(path))[0] == identity
    assert fingerprint(opened(path))[1] != content


def test_labels_of_two_columns_are_packed_side_by_side(tmp_path, cache):
    photos(tmp_path, "a.png", "b.png")
    path = write(tmp_path / "list.csv", "path,label,other", "a.png,happy,sad", "b.png,sad,happy")
    for _ in range(2):
        for column, labels in (("label", [3, 5]), ("other", [5, 3])):
            packed = pack(opened(path, label_column=column))
            assert packed.labels.tolist() == labels
            assert packed.classes == CLASSES
            np.testing.assert_array_equal(packed.images[:, 0, 0, 0], [1, 2])
    assert len([entry for entry in (cache / "packed").iterdir() if entry.is_dir()]) == 2
