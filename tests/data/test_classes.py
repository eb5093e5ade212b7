import pytest

from emotion.data.classes import CLASSES, CSV_CLASSES, SPELLINGS, class_id
from emotion.errors import UserError


def test_ids_are_alphabetical_except_in_the_csv_where_neutral_is_last():
    assert list(CLASSES) == sorted(CLASSES) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert CSV_CLASSES == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("angry", ["angry", "anger"]),
        ("disgust", ["disgust", "disgusted"]),
        ("fear", ["fear", "fearful"]),
        ("happy", ["happy", "happiness"]),
        ("neutral", ["neutral", "neutrality"]),
        ("sad", ["sad", "sadness"]),
        ("surprise", ["surprise", "surprised"]),
    ],
)
def test_folders_are_known_in_every_spelling_and_case(name, folders):
    for folder in folders:
        for written in (folder, folder.upper(), folder.capitalize(), folder.swapcase(), f" {folder} "):
            assert CLASSES[class_id(written)] == name


@pytest.mark.parametrize("folder", ["", "contempt", "happ", "happyy", "0", "angry sad"])
def test_other_folders_are_refused_in_one_line_with_all_legal_names(folder):
    with pytest.raises(UserError) as caught:
        class_id(folder)
    message = str(caught.value)
    assert repr(folder) in message
    assert "\n" not in message
    for spellings in SPELLINGS.values():
        assert all(spelling in message for spelling in spellings)
