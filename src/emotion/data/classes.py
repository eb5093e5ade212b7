"""The seven classes, their order, and the accepted spellings of class folders."""

from emotion.errors import UserError

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Class names in alphabetical order, as image folders sort; the position of a name is its class id."""

CSV_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The order of the ids in the CSV files of the challenge, which differs: neutral is 6."""

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
    """Returns the class id (0..6) of a folder; any of the `SPELLINGS` in upper or lower case is accepted.

    Raises:
        UserError: the name belongs to none of the seven classes.
    """
    try:
        return _IDS[folder_name.strip().lower()]
    except KeyError:
        legal = ", ".join("/".join(spellings) for spellings in SPELLINGS.values())
        raise UserError(f"class folder {folder_name!r} is not one of the seven expressions ({legal})") from None
