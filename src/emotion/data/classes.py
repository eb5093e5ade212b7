"""The seven classes, their order everywhere, and the spellings under which folders name them."""

from emotion.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Class names; the position is the class id (alphabetical, as the image folders sort)."""

CSV_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The order of the ids in the challenge's CSV files, which differs: there neutral is 6."""

SPELLINGS = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful"),
    "happy": ("happy", "happiness"),
    "neutral": ("neutral", "neutrality"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
}
_IDS = {spelling: CLASSES.index(name) for name, spellings in SPELLINGS.items() for spelling in spellings}


def class_id(folder_name: str) -> int:
    """Returns the class id (0..6) of a folder named in any common spelling, upper or lower case.

    Raises:
        UserError: the name belongs to none of the seven classes.
    """
    try:
        return _IDS[folder_name.strip().lower()]
    except KeyError:
        legal = ", ".join("/".join(spellings) for spellings in SPELLINGS.values())
        raise UserError(f"class folder {folder_name!r} is not one of the seven expressions ({legal})") from None
