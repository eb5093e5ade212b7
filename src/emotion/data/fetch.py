"""Downloads the public data sets: FER2013, and the votes of FER+ on its images."""

import shutil
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from emotion.data.votes import open_votes
from emotion.errors import UserError, first_line
from emotion.extras import MissingExtraError, require_extra
from emotion.files import atomic_write

DATASET = "msambare/fer2013"
FERPLUS_PAGE = "https://github.com/microsoft/FERPlus"
FERPLUS_URL = "https://raw.githubusercontent.com/microsoft/FERPlus/master/fer2013new.csv"
FERPLUS_ROWS = 35_887
"""Rows of the file of FER+, one for each image of `fer2013.csv`."""
_TIMEOUT = 60.0  # seconds without a byte
_MAX_BYTES = 2**24  # the file has 1.6 MB


def fetch(target: Path) -> Path:
    """Downloads FER2013 as image folders (about 60 MB) from Kaggle with its client kagglehub.

    Args:
        target: folder that receives `train` and `test`; it must not exist yet.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, kagglehub is missing, or the download failed; the message names another way.
    """
    by_hand = (
        f"without a network: download the archive from https://www.kaggle.com/datasets/{DATASET} on another machine, "
        f"copy it here and unpack it with `python -m zipfile -e archive.zip {target}`"
    )
    if target.exists():
        raise UserError(f"{target}: exists already; remove it, or name another folder with --to")
    try:
        require_extra("fetch", "emotion data fetch")
    except MissingExtraError as error:
        raise MissingExtraError(f"{error}; {by_hand}") from None
    import kagglehub

    try:
        downloaded = Path(kagglehub.dataset_download(DATASET))
        return _copy_to(downloaded, target)
    except Exception as error:
        # kagglehub passes on every exception of its HTTP library.
        raise UserError(f"{target}: FER2013 could not be downloaded ({first_line(error)}); {by_hand}") from None


def fetch_votes(target: Path) -> Path:
    """Downloads the file of FER+ with the votes of ten people for each image of FER2013 (1.6 MB, MIT licence).

    Args:
        target: the file to write; it must not exist yet.

    Returns:
        The file.

    Raises:
        UserError: the file exists, the download failed, or is not the file of FER+; the message names another way.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; remove it, or name another file with --to")
    try:
        content = _download(FERPLUS_URL)
        with atomic_write(target) as temporary:
            temporary.write_bytes(content)
            _require_ferplus(temporary)
    except (UserError, OSError, HTTPException) as error:  # most errors of the network are an OSError
        by_hand = f"download fer2013new.csv from {FERPLUS_PAGE} on another machine and copy it to {target}"
        raise UserError(
            f"{target}: FER+ could not be downloaded ({first_line(error)}); without a network: {by_hand}"
        ) from None
    return target


def _download(url: str) -> bytes:
    with urlopen(url, timeout=_TIMEOUT) as answer:
        content: bytes = answer.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise UserError(f"the download has more than {_MAX_BYTES // 2**20} MiB")
    return content


def _require_ferplus(file: Path) -> None:
    try:
        rows = len(open_votes(file).parts)
    except UserError as error:
        raise UserError(str(error).replace(str(file), "the download")) from None
    if rows != FERPLUS_ROWS:
        raise UserError(f"the download has {rows:,} rows of FER+, must have {FERPLUS_ROWS:,}")


def _copy_to(downloaded: Path, target: Path) -> Path:
    missing = [name for name in ("train", "test") if not (downloaded / name).is_dir()]
    if missing:
        raise UserError(f"the download has no folder {' and no folder '.join(missing)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        temporary = Path(folder) / target.name
        shutil.copytree(downloaded, temporary)
        return temporary.rename(target)
