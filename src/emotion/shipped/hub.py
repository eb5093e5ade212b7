"""Networks on the Hugging Face hub, which is the one thing here that needs the internet."""

import re
from pathlib import Path
from typing import Any

from emotion.errors import UserError, first_line
from emotion.extras import require_extra

CARD, SUFFIXES = "README.md", (".onnx", ".safetensors")
"""What `push` writes into a repository: this and `network.onnx`, `network.safetensors` or both."""
ADDRESS = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")


def download(address: str, suffix: str) -> Path:
    """Fetches a network, or finds it among those that were fetched before.

    Args:
        address: `hf://<owner>/<repository>` or `hf://<owner>/<repository>/<file>`.
        suffix: of the file to take if there are several and none is named.

    Raises:
        UserError: another form, no such repository or file, or no connection.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UserError(f"{address}: hf://<owner>/<repository> or hf://<owner>/<repository>/<file> is needed")
    repository, file = match.groups()
    hub = _hub()
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    names = [f"network{own}" for own in sorted(SUFFIXES, key=lambda own: own != suffix)]
    for name in [file] if file else names:
        try:
            return Path(hub.hf_hub_download(repository, name))
        except LocalEntryNotFoundError:
            return _fetched(hub, address, repository, [file] if file else names)
        except EntryNotFoundError:
            continue
        except Exception as error:
            # Connections, rights and names fail in many ways.
            raise UserError(f"{address}: {first_line(error)}") from None
    raise UserError(f"{address}: this repository holds no {file or ' or '.join(names)}")


def _fetched(hub: Any, address: str, repository: str, names: list[str]) -> Path:
    for name in names:
        path = hub.try_to_load_from_cache(repository, name)
        if isinstance(path, str):  # not None, nor what stands for a file that the hub does not have
            return Path(path)
    raise UserError(f"{address}: no connection to the hub, and it was not fetched before")


def push(repository: str, files: list[Path], card: str, private: bool = False) -> str:
    """Uploads a network and its card, and returns the address of the page.

    Args:
        repository: `<owner>/<repository>`; made if it does not exist.
        files: `.onnx` or `.safetensors` files, at most one of each.
        card: Markdown.
        private: whether a repository that is made can be seen by its owner alone.

    Raises:
        UserError: another kind of file, no right to write there, or no connection.
    """
    suffixes = [path.suffix for path in files]
    if not files or len(set(suffixes)) < len(files) or not set(suffixes) <= set(SUFFIXES):
        raise UserError(f"{', '.join(map(str, files))}: one .onnx or one .safetensors file is needed, or one of each")
    api = _hub().HfApi()
    try:
        page = api.create_repo(repository, private=private, exist_ok=True)
        for path in files:
            api.upload_file(path_or_fileobj=path, path_in_repo=f"network{path.suffix}", repo_id=repository)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo=CARD, repo_id=repository)
    except Exception as error:
        # Connections, rights and names fail in many ways.
        raise UserError(f"{repository}: {first_line(error)}") from None
    return str(page)


def _hub() -> Any:
    require_extra("hub", "the Hugging Face hub")
    import huggingface_hub

    return huggingface_hub
