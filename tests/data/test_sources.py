import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion.data.classes import CLASSES, FERPLUS, ClassRule
from emotion.data.decode import BadImageError
from emotion.data.fer_csv import Fer2013Csv
from emotion.data.folders import Fer2013Folders, FolderSource
from emotion.data.labelled import fingerprint
from emotion.data.packed import pack
from emotion.data.sources import SyntheticFaces, open_source
from emotion.data.synthetic import draw_image
from emotion.errors import UserError
from emotion.settings import DataSettings

SPELLINGS = [
    CLASSES,
    ("anger", "disgusted", "fearful", "happiness", "neutrality", "sadness", "surprised"),
    ("ANGRY", "Disgusted", "Fear", "Happy", "Neutral", "SAD", "Surprised"),
]
HEADER = "emotion,pixels,Usage"
PIXELS = " ".join(["7"] * 2304)
FACE = draw_image(3, seed=0, index=0)


def save(path: Path, image=FACE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def make_tree(root: Path, parts=("",), classes=("happy", "sad")) -> Path:
    """Writes one lossless image of every class in every part."""
    for part in parts:
        for name in classes:
            save(root / part / name / "face.png")
    return root


def only(source) -> object:
    (item,) = source
    return item


def read(path: Path, **options) -> np.ndarray:
    """Returns the pixels of the only image of a folder."""
    item = only(FolderSource(path.parents[1], **options))
    assert not isinstance(item, BadImageError), item
    assert item.pixels.dtype == np.uint8
    return item.pixels


def parts_of(source) -> dict[str, int]:
    return dict(Counter(item.part for item in source))


def message(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def write_csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def source_of(path: Path, name: str = "folder"):
    return open_source(DataSettings(data=name, data_dir=str(path), pack_size=48, channels=1, synthetic_images=140))


# FER2013 as folders


@pytest.mark.parametrize("names", SPELLINGS, ids=["plain", "other spelling", "other case"])
def test_fer2013_folders_under_all_spellings(tmp_path, make_fer_tree, names):
    items = list(Fer2013Folders(make_fer_tree(tmp_path, names)))
    assert Counter((item.part, item.label) for item in items) == {
        **{("train", label): count for label, count in enumerate((5, 2, 4, 8, 6, 4, 3))},
        **{(part, label): 2 for part in ("public", "private") for label in range(7)},
    }


def test_fer2013_images_are_not_changed(fer_tree):
    source = Fer2013Folders(fer_tree)
    items = list(source)
    assert len(source) == len(items) == len({item.name for item in items}) == 60
    for item in items:
        with Image.open(fer_tree / item.name) as image:
            np.testing.assert_array_equal(item.pixels[0], np.asarray(image))
        assert CLASSES[item.label] == Path(item.name).parent.name
        assert {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}[item.part] in item.name


def test_test_images_of_other_names_are_one_part(tmp_path):
    root = make_tree(tmp_path, ("train", "test"), CLASSES)
    assert parts_of(Fer2013Folders(root)) == {"train": 7, "test": 7}


@pytest.mark.parametrize("missing", ["train", "test"])
def test_fer2013_without_a_part_names_its_folder(own_fer_tree, missing):
    shutil.rmtree(own_fer_tree / missing)
    with pytest.raises(UserError) as error:
        Fer2013Folders(own_fer_tree)
    assert message(error).startswith(f"{own_fer_tree / missing}: no images of class angry")


def test_fer2013_without_a_class_names_it(own_fer_tree):
    shutil.rmtree(own_fer_tree / "test" / "sad")
    with pytest.raises(UserError) as error:
        Fer2013Folders(own_fer_tree)
    assert message(error) == f"{own_fer_tree / 'test'}: no images of class sad"


def test_fer2013_part_folders_in_any_case(own_fer_tree):
    for part in ("train", "test"):
        (own_fer_tree / part).rename(own_fer_tree / part.capitalize())
    assert parts_of(Fer2013Folders(own_fer_tree)) == {"train": 32, "public": 14, "private": 14}


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (Image.new("L", (50, 48)), "50x48 L"),
        (Image.new("L", (96, 96)), "96x96 L"),
        (Image.new("RGB", (48, 48)), "48x48 RGB"),
    ],
)
def test_wrong_size_or_colour_in_fer2013_is_named(own_fer_tree, image, found):
    path = save(own_fer_tree / "train" / "happy" / "Training_9.jpg", image)
    (bad,) = (item for item in Fer2013Folders(own_fer_tree) if isinstance(item, BadImageError))
    assert str(bad) == f"{path}: {found}: images of FER2013 are 48x48 L (grey); data=folder accepts any image"


# Any tree of class folders


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        ([""], {"train": 2}),
        (["train", "test"], {"train": 2, "test": 2}),
        (["train", "val", "test"], {"train": 2, "val": 2, "test": 2}),
        (["Train", "valid", "TEST"], {"train": 2, "val": 2, "test": 2}),
        (["validation"], {"val": 2}),
        (["test"], {"test": 2}),
    ],
)
def test_parts_of_a_folder(tmp_path, folders, parts):
    assert parts_of(FolderSource(make_tree(tmp_path, folders))) == parts


@pytest.mark.parametrize("names", SPELLINGS, ids=["plain", "other spelling", "other case"])
def test_class_folders_under_all_spellings(tmp_path, names):
    items = list(FolderSource(make_tree(tmp_path, [""], names)))
    assert {item.name.split("/")[0]: item.label for item in items} == dict(zip(names, range(7), strict=True))


def test_two_spellings_of_one_class_are_one_class(tmp_path):
    items = list(FolderSource(make_tree(tmp_path, [""], ("happy", "Happiness"))))
    assert [item.label for item in items] == [3, 3]
    assert {item.name for item in items} == {"happy/face.png", "Happiness/face.png"}


def test_names_and_order_do_not_depend_on_how_the_system_lists_files(tmp_path, monkeypatch):
    root = make_tree(tmp_path, ("train", "test"), CLASSES)
    save(root / "train" / "sad" / "another.png")
    names = [item.name for item in FolderSource(root)]
    assert len(set(names)) == 15
    listed, walked = os.listdir, os.walk
    monkeypatch.setattr(os, "listdir", lambda path: listed(path)[::-1])
    monkeypatch.setattr(
        os, "walk", lambda path, onerror: ((folder, folders, names[::-1]) for folder, folders, names in walked(path))
    )
    assert [item.name for item in FolderSource(root)] == names


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", ".thumbnails", "__MACOSX", "$RECYCLE.BIN"])
def test_hidden_folders_are_ignored(tmp_path, name):
    root = make_tree(tmp_path, ["train"])
    for folder in (root, root / "train", root / "train" / "happy", root / "train" / "happy" / "deep"):
        save(folder / name / "face-checkpoint.png")
    assert [item.name for item in FolderSource(root)] == ["train/happy/face.png", "train/sad/face.png"]


def test_other_classes_are_left_out_with_one_warning_if_requested(tmp_path, caplog):
    root = make_tree(tmp_path, ("train", "test"), ("happy", "sad", "contempt", "Suprise"))
    save(root / "train" / "contempt" / "second.png")
    save(root / "train" / "contempt" / "@eaDir" / "third.png")
    shutil.rmtree(root / "test" / "Suprise")
    source = FolderSource(root, rule=ClassRule(CLASSES, others="skip"))
    assert source.classes == CLASSES
    assert [item.name for item in source] == [
        f"{part}/{name}/face.png" for part in ("test", "train") for name in ("happy", "sad")
    ]
    assert caplog.messages == [
        f"{root}: left out, since they are none of the classes angry, disgust, fear, happy, neutral, sad, surprise: "
        "contempt (3 images), Suprise (1 image; is it surprise?)"
    ]
    with pytest.raises(UserError, match="no class folders"):
        FolderSource(make_tree(tmp_path / "other", classes=("contempt",)), rule=ClassRule(CLASSES, others="skip"))


def test_hidden_files_and_files_of_file_managers_are_ignored(tmp_path):
    root = make_tree(tmp_path, ["train"])
    for name in ("Thumbs.db", "thumbs.db", "desktop.ini", ".DS_Store", "._face.png"):
        (root / "train" / "happy" / name).write_text("no image")
    (root / ".git").mkdir()
    (root / "train" / ".cache").mkdir()
    (root / "train" / "README.txt").write_text("no class")
    assert [item.name for item in FolderSource(root)] == ["train/happy/face.png", "train/sad/face.png"]


def as_palette(image: Image.Image) -> Image.Image:
    """Returns the image with a shuffled palette of grey values."""
    order = np.random.default_rng(0).permutation(256).astype(np.uint8)
    palette = np.empty_like(order)
    palette[order] = np.arange(256)
    paletted = Image.fromarray(order[np.asarray(image)])
    paletted.putpalette(np.repeat(palette, 3).tobytes())
    return paletted


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda image: image, id="grey"),
        pytest.param(lambda image: image.convert("RGB"), id="RGB"),
        pytest.param(lambda image: image.convert("RGBA"), id="RGBA"),
        pytest.param(as_palette, id="palette"),
    ],
)
def test_grey_faces_are_unchanged_in_any_lossless_format_and_mode(tmp_path, convert, extension, channels):
    options = {"lossless": True} if extension == "webp" else {}
    path = save(tmp_path / "happy" / f"face.{extension}", convert(Image.fromarray(FACE)), **options)
    np.testing.assert_array_equal(read(path, channels=channels), np.stack([FACE] * channels))


def test_colours_are_converted_to_grey_or_kept_as_rgb(tmp_path):
    red = Image.new("RGB", (48, 48), (200, 100, 0))
    path = save(tmp_path / "happy" / "face.png", red)
    assert read(path, channels=3)[:, 0, 0].tolist() == [200, 100, 0]
    assert np.unique(read(path, channels=1)).tolist() == [round(0.299 * 200 + 0.587 * 100)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_images_keep_their_tones(tmp_path, extension, channels):
    path = save(tmp_path / "happy" / f"face.{extension}", FACE.astype(np.uint16) * 257)
    difference = read(path, channels=channels).astype(int) - FACE
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    # The pixels that a camera stores for an upright image with this EXIF orientation.
    stored = {
        1: lambda face: face,
        2: np.fliplr,
        3: lambda face: np.rot90(face, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda face: np.rot90(face, 1),
        7: lambda face: np.rot90(face, 2).T,
        8: lambda face: np.rot90(face, -1),
    }[orientation](FACE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "happy" / "face.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read(path)[0], FACE)


@pytest.mark.parametrize("turned", [False, True])
def test_images_are_cropped_to_the_central_square(tmp_path, turned):
    wide = np.concatenate([np.zeros((48, 20), np.uint8), FACE, np.full((48, 20), 255, np.uint8)], axis=1)
    path = save(tmp_path / "happy" / "face.png", wide.T.copy() if turned else wide)
    np.testing.assert_array_equal(read(path)[0], FACE.T if turned else FACE)


@pytest.mark.parametrize("size", [48, 224, 8])
@pytest.mark.parametrize(("height", "width"), [(480, 480), (200, 320), (11, 7), (48, 48), (1, 99)])
def test_images_of_any_size_are_resized(tmp_path, height, width, size):
    face = np.asarray(Image.fromarray(FACE).resize((width, height)))
    pixels = read(save(tmp_path / "happy" / "face.png", face), size=size)
    assert pixels.shape == (1, size, size)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    assert abs(pixels.mean() - face[top : top + side, left : left + side].mean()) < 10


def test_resizing_keeps_the_face(tmp_path):
    large = Image.fromarray(FACE).resize((192, 192), Image.Resampling.NEAREST)
    difference = read(save(tmp_path / "happy" / "face.png", large))[0].astype(int) - FACE
    assert np.abs(difference).mean() < 4


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path / "faces")
    assert message(error) == f"{tmp_path / 'faces'}: no such folder"


@pytest.mark.parametrize("name", ["folder", "fer2013"])
def test_message_for_a_zip_explains_unpacking(tmp_path, name):
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", make_tree(tmp_path / "faces")))
    with pytest.raises(UserError) as error:
        source_of(archive, name)
    assert message(error).startswith(f"{archive}: a file, not a folder; unpack an archive with `python -m")


def test_message_for_a_zip_has_its_full_path(tmp_path):
    (tmp_path / "archive.zip").touch()
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path / "archive.zip")
    assert f"-e {tmp_path / 'archive.zip'} " in message(error)


def test_a_folder_of_which_all_classes_are_excluded(tmp_path):
    root = make_tree(tmp_path / "two", classes=("happy", "sad"))
    with pytest.raises(UserError) as error:
        FolderSource(root, rule=ClassRule(CLASSES, exclude=("happy", "sad"), others="skip"))
    assert message(error) == f"{root}: exclude= leaves no class folder, of happy, sad"


def test_folder_without_class_folders(tmp_path):
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path)
    assert message(error) == f"{tmp_path}: no class folders (<class>/ or train|val|test/<class>/; any names)"
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path, rule=ClassRule(("calm", "tense")))
    assert message(error) == f"{tmp_path}: no class folders (<class>/ or train|val|test/<class>/; calm, tense)"


@pytest.mark.parametrize("part", ["", "train"])
@pytest.mark.parametrize("ignored", [None, "Thumbs.db"])
def test_empty_class_folder_is_named(tmp_path, part, ignored):
    empty = make_tree(tmp_path, [part]) / part / "fear"
    empty.mkdir()
    if ignored:
        (empty / ignored).touch()
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path)
    assert message(error) == f"{empty}: the class folder has no images; add some or remove it"


@pytest.mark.parametrize("beside", ["training_set", "happy"])
def test_folders_beside_the_parts_are_refused(tmp_path, beside):
    root = make_tree(tmp_path, ("val", "test", beside))
    with pytest.raises(UserError, match=beside):
        FolderSource(root)


def test_images_in_subfolders_belong_to_the_class(tmp_path):
    root = make_tree(tmp_path)
    before = len(FolderSource(root))
    save(root / "happy" / "more" / "face.png")
    items = list(FolderSource(root))
    assert len(items) == before + 1
    assert next(item for item in items if "more" in item.name).label == CLASSES.index("happy")


@pytest.mark.parametrize("part", ["", "test"])
def test_unknown_class_folder_is_named_with_the_legal_ones(tmp_path, part):
    save(make_tree(tmp_path, [part]) / part / "suprise" / "face.png")
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path, rule=ClassRule(CLASSES))
    assert message(error) == (
        f"{tmp_path / part / 'suprise'}: class 'suprise' is not one of angry, disgust, fear, happy, neutral, sad, "
        "surprise (is it surprise?); exclude=[suprise] leaves it out"
    )


def test_folders_of_other_names_are_classes_of_their_own(tmp_path):
    source = FolderSource(make_tree(tmp_path, ("train", "test"), ("tired", "awake")))
    assert source.classes == ("awake", "tired")
    assert [(item.name, item.label) for item in source] == [
        ("test/awake/face.png", 0),
        ("test/tired/face.png", 1),
        ("train/awake/face.png", 0),
        ("train/tired/face.png", 1),
    ]


def test_numbered_folders_are_named_by_a_list(tmp_path):
    root = make_tree(tmp_path, classes=[str(number) for number in range(1, 12)])
    names = [f"class {letter}" for letter in "abcdefghijk"]
    source = FolderSource(root, rule=ClassRule(names))
    assert source.classes == tuple(names)
    assert {item.name: item.label for item in source} == {f"{number}/face.png": number - 1 for number in range(1, 12)}
    with pytest.raises(UserError) as error:
        FolderSource(root)
    assert message(error).startswith(f"{root / '1'}: the classes are numbers (1, 2, 3, ")


def test_excluded_folders_are_left_out_without_a_warning(tmp_path, caplog):
    root = make_tree(tmp_path, classes=("happy", "sad", "contempt"))
    (root / "empty").mkdir()
    source = FolderSource(root, rule=ClassRule(exclude=["contempt", "empty"]))
    assert source.classes == CLASSES
    assert [(item.name, item.label) for item in source] == [("happy/face.png", 3), ("sad/face.png", 5)]
    assert caplog.messages == []


# Classes of the other sources


def csv_of_seven(folder: Path) -> Path:
    return write_csv(folder / "fer2013.csv", *(f"{number},{PIXELS},Training" for number in (0, 1, 2, 3, 3, 4, 5, 6)))


def open_seven(name: str, folder: Path, fer_tree: Path, **rule):
    """Opens a source of the seven classes."""
    if name == "synthetic":
        return SyntheticFaces(140, rule=ClassRule(**rule))
    if name == "fer2013":
        return Fer2013Folders(fer_tree, ClassRule(**rule))
    return Fer2013Csv(csv_of_seven(folder), ClassRule(**rule))


SEVEN = pytest.mark.parametrize("name", ["fer2013", "fer2013_csv", "synthetic"])


@SEVEN
def test_excluded_classes_leave_the_seven(tmp_path, fer_tree, name):
    every = [item for item in open_seven(name, tmp_path, fer_tree) if CLASSES[item.label] != "sad"]
    source = open_seven(name, tmp_path, fer_tree, exclude=["Sadness"])
    assert source.classes == ("angry", "disgust", "fear", "happy", "neutral", "surprise")
    items = list(source)
    assert len(source) == len(items) == len(every)
    assert [(item.name, item.part, source.classes[item.label]) for item in items] == [
        (item.name, item.part, CLASSES[item.label]) for item in every
    ]
    for item, same in zip(items, every, strict=True):
        np.testing.assert_array_equal(item.pixels, same.pixels)


@SEVEN
def test_fewer_classes_than_the_seven_need_exclude(tmp_path, fer_tree, name):
    with pytest.raises(UserError) as error:
        open_seven(name, tmp_path, fer_tree, classes=["happy", "sad"])
    assert "class 'angry' is not one of happy, sad; exclude=[angry] leaves it out" in message(error)
    rest = ["angry", "disgust", "fear", "neutral", "surprise"]
    source = open_seven(name, tmp_path, fer_tree, classes=["sad", "happy"], exclude=rest)
    every = Counter(CLASSES[item.label] for item in open_seven(name, tmp_path, fer_tree))
    assert Counter(item.label for item in source) == {0: every["sad"], 1: every["happy"]}


@SEVEN
def test_other_classes_of_the_seven_are_skipped_with_one_warning(tmp_path, fer_tree, name, caplog):
    every = Counter(CLASSES[item.label] for item in open_seven(name, tmp_path, fer_tree))
    source = open_seven(name, tmp_path, fer_tree, classes=["sad", "happy"], others="skip")
    items = list(source)
    assert len(source) == len(items)
    assert Counter(source.classes[item.label] for item in items) == {name: every[name] for name in ("happy", "sad")}
    (warning,) = caplog.messages
    for name in {*CLASSES} - {"happy", "sad"}:
        assert f"{name} ({every[name]} image" in warning


@SEVEN
def test_the_seven_under_other_names_and_orders(tmp_path, fer_tree, name):
    names = ["Surprised", "SAD", "neutrality", "happiness", "fearful", "disgusted", "anger"]
    source = open_seven(name, tmp_path, fer_tree, classes=names)
    assert source.classes == tuple(names)
    assert [6 - item.label for item in source] == [item.label for item in open_seven(name, tmp_path, fer_tree)]


@SEVEN
def test_the_seven_among_the_eight_of_ferplus(tmp_path, fer_tree, name):
    source = open_seven(name, tmp_path, fer_tree, classes="ferplus")
    assert [FERPLUS[item.label] for item in source] == [
        CLASSES[item.label] for item in open_seven(name, tmp_path, fer_tree)
    ]


@pytest.mark.parametrize("name", ["folder", "fer2013", "fer2013_csv", "synthetic"])
def test_open_source_hands_classes_and_exclusions_on(tmp_path, fer_tree, name):
    path = csv_of_seven(tmp_path) if name == "fer2013_csv" else fer_tree
    names = ["surprise", "sad", "happy", "angry"]
    settings = DataSettings(
        data=name, data_dir=str(path), classes=names, exclude=["neutral", "fear", "disgust"], synthetic_images=140
    )
    source = open_source(settings)
    assert source.classes == tuple(names)
    assert {item.label for item in source} == {0, 1, 2, 3}


def test_broken_rows_of_a_csv_are_found_beside_excluded_classes(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", f"0,{PIXELS},Training", "9,,", f"3,{PIXELS},Training", "3,7,Training")
    source = Fer2013Csv(path, ClassRule(exclude=["angry"]))
    items = list(source)
    assert len(source) == len(items) == 3
    assert [isinstance(item, BadImageError) for item in items] == [True, False, True]


def test_fer2013_has_no_eighth_class(own_fer_tree):
    save(own_fer_tree / "train" / "contempt" / "Training_1.png")
    with pytest.raises(UserError) as error:
        Fer2013Folders(own_fer_tree)
    assert message(error).startswith(f"{own_fer_tree / 'train' / 'contempt'}: class 'contempt' is not one of angry, ")
    assert Fer2013Folders(own_fer_tree, ClassRule(exclude=["contempt"])).classes == CLASSES


def test_classes_of_fer2013_that_are_not_excluded_are_needed(own_fer_tree):
    shutil.rmtree(own_fer_tree / "test" / "sad")
    with pytest.raises(UserError, match=r"test: no images of class sad$"):
        Fer2013Folders(own_fer_tree, ClassRule(exclude=["happy"]))
    assert len(Fer2013Folders(own_fer_tree, ClassRule(exclude=["sad"]))) == 60 - 4 - 4


# Groups of images


def test_groups_are_found_in_the_names_of_images(tmp_path):
    source = FolderSource(make_tree(tmp_path))
    names = ["happy/S005_001.png", "sad/S010_S005.png"]
    assert source.groups(names, r"S\d+") == ["S005", "S010"]
    assert source.groups(names, r"/(S\d)(\d+)") == ["S0", "S0"]
    assert source.groups(names, "^[a-z]+") == ["happy", "sad"]


@pytest.mark.parametrize("pattern", ["S[0-9]+", "(S[0-9]+)?", "S*"])
def test_names_without_a_group_are_named(tmp_path, pattern):
    source = FolderSource(make_tree(tmp_path))
    with pytest.raises(UserError) as error:
        source.groups(["S1.png", "a.png", "b.png"], pattern)
    assert message(error) == f"group_by={pattern}: finds nothing in 2 names of images, as a.png"


def test_a_broken_pattern_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        FolderSource(make_tree(tmp_path)).groups(["a.png"], "(S")
    assert message(error).startswith("group_by=(S: not a regular expression (")


def truncated(kind: str) -> bytes:
    whole = io.BytesIO()
    Image.fromarray(FACE).save(whole, kind)
    return whole.getvalue()[:700]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"no image"),
        ("empty.jpg", b""),
        ("page.jpg", b"<html>404</html>"),
        ("truncated.jpg", truncated("JPEG")),
        ("truncated.png", truncated("PNG")),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"),
    ],
)
@pytest.mark.parametrize("kind", [FolderSource, Fer2013Folders])
def test_damaged_file_is_named_and_the_others_read(tmp_path, kind, name, content):
    root = make_tree(tmp_path, ("train", "test"), CLASSES)
    path = root / "train" / "happy" / name
    path.write_bytes(content)
    source = kind(root)
    items = list(source)
    assert len(source) == len(items) == 15
    (bad,) = (item for item in items if isinstance(item, BadImageError))
    assert str(bad).startswith(f"{path}: not an image that can be read (")
    assert "\n" not in str(bad)


def test_pipes_are_bad_images_and_do_not_block(tmp_path):
    make_tree(tmp_path)
    os.mkfifo(tmp_path / "happy" / "pipe.png")
    bad = [item for item in FolderSource(tmp_path) if isinstance(item, BadImageError)]
    assert [str(item) for item in bad] == [
        f"{tmp_path / 'happy' / 'pipe.png'}: not an image but a folder, pipe or device"
    ]


def test_file_that_disappears_is_a_bad_image(tmp_path):
    source = FolderSource(make_tree(tmp_path))
    (tmp_path / "sad" / "face.png").unlink()
    good, bad = source
    assert good.name == "happy/face.png"
    assert str(bad).startswith(f"{tmp_path / 'sad' / 'face.png'}: ")


# CSV


@pytest.mark.parametrize(
    ("header", "row", "name"),
    [
        ("emotion,pixels,Usage", "{0},{1},{2}", "fer2013.csv"),
        ("emotion,pixels,Usage", '{0},"{1}",{2}', "fer2013.csv"),
        ("emotion, Usage, pixels", "{0}, {2}, {1}", "icml_face_data.csv"),
        ("Usage,EMOTION,extra,Pixels", "{2},{0},x,{1}", "mine.csv"),
    ],
    ids=["fer2013", "quoted", "icml_face_data", "other order"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_of_all_shapes_with_its_own_order_of_classes(tmp_path, header, row, name, end):
    usages = ["Training", "PublicTest", "PrivateTest"]
    faces = [draw_image(label, seed=1, index=label) for label in range(7)]
    rows = [
        row.format(number, " ".join(map(str, face.ravel())), usages[number % 3]) for number, face in enumerate(faces)
    ]
    path = tmp_path / name
    path.write_bytes(end.join([header, *rows, ""]).encode())
    source = Fer2013Csv(path)
    items = list(source)
    assert len(source) == 7
    in_csv = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert [CLASSES[item.label] for item in items] == in_csv
    assert [item.part for item in items] == ["train", "public", "private"] * 2 + ["train"]
    assert [item.name for item in items] == [f"{name}:{line}" for line in range(2, 9)]
    np.testing.assert_array_equal([item.pixels for item in items], np.stack(faces)[:, None])


def test_csv_and_folders_of_the_same_images_are_equal(tmp_path, fer_tree):
    in_csv = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    rows = []
    for path in sorted(fer_tree.rglob("*.jpg")):
        with Image.open(path) as image:
            pixels = " ".join(map(str, np.asarray(image).ravel()))
        rows.append(f"{in_csv.index(path.parent.name)},{pixels},{path.name.split('_')[0]}")

    def contents(source):
        return sorted((item.part, item.label, item.pixels.shape, item.pixels.tobytes()) for item in source)

    folders = contents(Fer2013Folders(fer_tree))
    assert contents(Fer2013Csv(write_csv(tmp_path / "fer2013.csv", *rows))) == folders
    assert len(folders) == 60


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_csv_is_found_in_its_folder(tmp_path, name):
    path = write_csv(tmp_path / name, f"0,{PIXELS},Training")
    assert Fer2013Csv(tmp_path).path == path


@pytest.mark.parametrize(
    "row",
    [
        f"0,{PIXELS[2:]},Training",
        f"0,{PIXELS} 7,Training",
        f"0,{PIXELS[:-1]}256,Training",
        f"0,{PIXELS[:-1]}-1,Training",
        f"0,{PIXELS[:-1]}x,Training",
        f"0,{PIXELS[:-1]}1.5,Training",
        "0,,Training",
        f"7,{PIXELS},Training",
        f"-1,{PIXELS},Training",
        f"happy,{PIXELS},Training",
        f",{PIXELS},Training",
        f"0,{PIXELS},Testing",
        f"0,{PIXELS},",
        f"0,{PIXELS}",
        "0",
    ],
    ids=[
        "too few pixels",
        "too many pixels",
        "pixel 256",
        "pixel -1",
        "pixel x",
        "pixel 1.5",
        "no pixels",
        "label 7",
        "label -1",
        "label as a name",
        "no label",
        "bad usage",
        "empty usage",
        "no usage",
        "one column",
    ],
)
def test_broken_row_is_named_by_its_line_and_the_others_read(tmp_path, row):
    path = write_csv(tmp_path / "fer2013.csv", f"0,{PIXELS},Training", row, f"6,{PIXELS},PublicTest")
    first, bad, last = Fer2013Csv(path)
    assert (first.label, last.label) == (0, 4)
    expected = "emotion 0..6, 2,304 pixels 0..255, Usage Training/PublicTest/PrivateTest"
    assert str(bad) == f"{path} line 3: broken row (expected {expected})"


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("emotion,pixels", "usage"),
        ("pixels", "emotion, usage"),
        ("", "emotion, pixels, usage"),
        ("label;pixels;Usage", "emotion, pixels, usage"),
    ],
)
def test_missing_columns_are_named(tmp_path, header, missing):
    path = write_csv(tmp_path / "fer2013.csv", header=header)
    with pytest.raises(UserError) as error:
        Fer2013Csv(path)
    assert message(error) == f"{path}: no column {missing} in the header (emotion, pixels, Usage)"


def test_empty_csv_is_named(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.touch()
    with pytest.raises(UserError) as error:
        Fer2013Csv(path)
    assert message(error).startswith(f"{path}: no column emotion")


def test_folder_without_csv_names_the_expected_files(tmp_path):
    with pytest.raises(UserError) as error:
        Fer2013Csv(tmp_path)
    assert (
        message(error)
        == f"data_dir: no fer2013.csv or icml_face_data.csv in {tmp_path}; name the file with data_dir=<path>"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("quote", ['"{}"', ' "{}"', "{}"])
def test_csv_of_every_encoding_and_with_quotes(tmp_path, encoding, quote):
    path = tmp_path / "fer2013.csv"
    rows = [("Emotion", "pixels", "Usage", "Gr\u00f6\u00dfe"), ("3", PIXELS, "PrivateTest", "\u00e4")]
    text = "\r\n".join(",".join(map(quote.format, row)) for row in rows)
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path.write_bytes((mark + text).encode(encoding))
    item = only(Fer2013Csv(path))
    assert (item.label, item.part, item.pixels.max()) == (CLASSES.index("happy"), "private", 7)


def test_csv_saved_by_a_spreadsheet(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_text(f"{HEADER}\n0,{PIXELS},Training\n", encoding="utf-8-sig")
    assert only(Fer2013Csv(path)).label == 0


@pytest.mark.parametrize("start", [b"PK\x03\x04", f"{HEADER}\n".encode()], ids=["zip", "one row"])
def test_file_that_is_not_text_is_named(tmp_path, start):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(start + b"\xff\xfe\xfd\n" * 100)
    with pytest.raises(UserError) as error:
        pack(Fer2013Csv(path))
    assert str(path) in message(error)


def test_quote_that_is_never_closed_is_named(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", f'0,"{PIXELS},Training', *[f"0,{PIXELS},Training"] * 30)
    with pytest.raises(UserError, match="not CSV") as error:
        list(Fer2013Csv(path))
    assert str(path) in message(error)


@pytest.mark.parametrize("start", [b"", f"{HEADER}\n".encode(), f"{HEADER}\n0,{PIXELS},Training\n".encode()])
def test_lines_without_end_are_not_read(tmp_path, start):
    path = tmp_path / "fer2013.csv"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2**33)  # takes no space on the disk
    with pytest.raises(UserError) as error:
        Fer2013Csv(path)
    line = start.count(b"\n") + 1
    assert message(error) == f"{path} line {line}: not FER2013, longer than 131,072 characters"


def test_length_of_a_csv_with_blank_lines(tmp_path):
    source = Fer2013Csv(write_csv(tmp_path / "fer2013.csv", f"0,{PIXELS},Training", "", f"1,{PIXELS},Training", ""))
    items = list(source)
    assert [item.label for item in items] == [0, 1]
    assert len(source) == len(items)


# Opening by name


@pytest.mark.parametrize("name", ["fer2013", "fer2013_csv", "folder"])
def test_missing_default_path_names_the_alternatives(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        open_source(DataSettings(data=name, pack_size=48, channels=1, synthetic_images=140))
    assert message(error).startswith("data_dir: nothing at data/fer2013; ")
    for advice in ("`emotion data fetch`", "data_dir=", "EMOTION_DATA", "data=synthetic"):
        assert advice in message(error)


def test_default_path_is_emotion_data_or_else_a_local_folder(tmp_path, monkeypatch):
    def location(data_dir=None):
        return Path(open_source(DataSettings(data="folder", data_dir=data_dir)).location)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    trees = {name: make_tree(tmp_path / name) for name in ("data/fer2013", "env", "given", "home/faces")}
    assert location() == trees["data/fer2013"]
    monkeypatch.setenv("EMOTION_DATA", "")
    assert location() == trees["data/fer2013"]
    monkeypatch.setenv("EMOTION_DATA", str(trees["env"]))
    assert location() == trees["env"]
    assert location("given") == trees["given"]
    assert location("~/faces") == trees["home/faces"]


def test_open_source_opens_every_kind(tmp_path, fer_tree):
    path = write_csv(tmp_path / "fer2013.csv", f"0,{PIXELS},Training")
    assert type(source_of(fer_tree, "fer2013")) is Fer2013Folders
    assert type(source_of(path, "fer2013_csv")) is Fer2013Csv
    folder = open_source(DataSettings(data="folder", data_dir=str(fer_tree), pack_size=64, channels=3))
    assert (type(folder), folder.size, folder.channels) == (FolderSource, 64, 3)
    drawn = open_source(
        DataSettings(data="synthetic", data_dir="/nowhere", pack_size=64, channels=3, synthetic_images=150)
    )
    assert (type(drawn), len(drawn), drawn.size, drawn.channels) == (SyntheticFaces, 150, 48, 1)


def test_drawn_faces_follow_their_labels():
    source = SyntheticFaces(140)
    items = list(source)
    assert parts_of(items) == dict(Counter(source.parts.tolist()))
    assert len({item.name for item in items}) == len(items) == 140
    np.testing.assert_array_equal(items[5].pixels[0], draw_image(items[5].label, seed=0, index=5))


def test_too_few_drawn_faces_name_the_key(tmp_path):
    with pytest.raises(UserError) as error:
        open_source(DataSettings(data="synthetic", synthetic_images=10))
    assert message(error) == "synthetic_images=10: at least 140 images are needed"


# Fingerprints


def test_fingerprint_depends_on_path_kind_and_settings(tmp_path):
    first, second = make_tree(tmp_path / "first", ("train", "test"), CLASSES), tmp_path / "second"
    shutil.copytree(first, second)
    sources = [
        FolderSource(first),
        FolderSource(second),
        FolderSource(first, size=64),
        FolderSource(first, channels=3),
        Fer2013Folders(first),
        SyntheticFaces(140),
        SyntheticFaces(141),
        SyntheticFaces(140, seed=1),
    ]
    assert len({fingerprint(source)[0] for source in sources}) == len(sources)


def test_fingerprint_depends_on_classes_and_exclusions(tmp_path):
    root = make_tree(tmp_path, ("train", "test"), CLASSES)
    rules = [
        ClassRule(),
        ClassRule("ferplus"),
        ClassRule(CLASSES[::-1]),
        ClassRule(exclude=["sad"]),
        ClassRule(exclude=["happy"]),
    ]
    assert len({fingerprint(FolderSource(root, rule=rule))[0] for rule in rules}) == len(rules)
    assert fingerprint(FolderSource(root, rule=ClassRule(CLASSES))) == fingerprint(FolderSource(root))
    make_tree(tmp_path, ["train"], ["contempt"])
    without = [FolderSource(root, rule=ClassRule(CLASSES, exclude=["contempt"])), FolderSource(root)]
    assert fingerprint(without[0])[0] != fingerprint(without[1])[0]


def test_fingerprint_of_the_seven_is_that_of_earlier_versions():
    # Otherwise every user would pack the images anew.
    assert fingerprint(SyntheticFaces(140))[0] == "fbfd9840ba4190aa"


def test_fingerprint_does_not_depend_on_the_form_of_the_path(tmp_path, monkeypatch):
    root = make_tree(tmp_path / "faces")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    paths = [root, Path("faces"), Path("./x/../faces"), tmp_path / "link"]
    Path("x").mkdir()
    assert len({fingerprint(FolderSource(path)) for path in paths}) == 1


# Real data


@pytest.mark.real
def test_real_fer2013_has_the_counts_of_the_paper(fer2013):
    files = Fer2013Folders(fer2013).files
    counts = Counter((file.part if file.part == "train" else "test", CLASSES[file.label]) for file in files)
    assert counts == {
        **dict(zip([("train", name) for name in CLASSES], (3995, 436, 4097, 7215, 4965, 4830, 3171), strict=True)),
        **dict(zip([("test", name) for name in CLASSES], (958, 111, 1024, 1774, 1233, 1247, 831), strict=True)),
    }
    assert Counter(file.part for file in files) == {"train": 28709, "public": 3589, "private": 3589}


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    make_tree(tmp_path)
    locked = tmp_path / "happy" / "more"
    locked.mkdir()
    scan = os.scandir

    def denied(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path)
    assert message(error) == f"{locked}: the folder cannot be read (Permission denied)"
