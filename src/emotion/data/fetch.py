"""Downloads the public FER2013 data set."""

import shutil
from pathlib import Path

from emotion.errors import UserError, first_line
from emotion.extras import MissingExtraError, require_extra

DATASET = "msambare/fer2013"


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


def _copy_to(downloaded: Path, target: Path) -> Path:
    missing = [name for name in ("train", "test") if not (downloaded / name).is_dir()]
    if missing:
        raise UserError(f"the download has no folder {' and no folder '.join(missing)}")
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(downloaded, temporary)
    return temporary.rename(target)
