"""Downloads the public FER2013 data set."""

import shutil
from pathlib import Path

from emotion.errors import UserError

DATASET = "msambare/fer2013"
BY_HAND = (
    f"without a network: download the archive from https://www.kaggle.com/datasets/{DATASET} elsewhere, bring it here "
    "and unpack it with `python -m zipfile -e archive.zip data/fer2013`"
)


def fetch(target: Path) -> Path:
    """Downloads FER2013 as image folders (about 60 MB) with the client of the site that publishes it.

    Args:
        target: the folder to put `train` and `test` into; must not exist yet.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, the client is not installed, or the download failed; says what to do instead.
    """
    if target.exists():
        raise UserError(f"{target} exists already; remove it first, or name another folder with --to")
    try:
        import kagglehub
    except ImportError:
        raise UserError(f"fetching needs an extra: pip install 'emotion[fetch]'; {BY_HAND}") from None
    try:
        downloaded = Path(kagglehub.dataset_download(DATASET))
    except Exception as error:
        # The client lets through whatever its HTTP library raises.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"FER2013 could not be downloaded ({reason}); {BY_HAND}") from None
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(downloaded, temporary)
    return temporary.rename(target)
