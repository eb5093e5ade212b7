"""Download and upload of networks on the Hugging Face hub, over the internet."""

import json
import re
import struct
from pathlib import Path
from typing import Any

from emotion.data.classes import CLASSES, require_classes, require_same_classes
from emotion.errors import UserError, first_line
from emotion.extras import require_extra
from emotion.models.onnx import METADATA, OnnxNetwork

CARD, SUFFIXES = "README.md", (".onnx", ".safetensors")
"""File names in a repository: the card, and `network.onnx`, `network.safetensors` or both."""
MAX_HEADER = 10**8
"""Most bytes of the header of a `.safetensors` file, as the format prescribes."""
ADDRESS = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")


def download(address: str, suffix: str) -> Path:
    """Downloads a network and returns its path; without a connection, an earlier download is used.

    Args:
        address: `hf://<owner>/<repository>` or `hf://<owner>/<repository>/<file>`.
        suffix: preferred suffix if the address has no file name, `.onnx` or `.safetensors`.

    Raises:
        UserError: the address, repository or file does not exist, or there is no connection and no earlier download.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UserError(f"{address}: hf://<owner>/<repository> or hf://<owner>/<repository>/<file> is needed")
    repository, file = match.groups()
    hub = _hub()
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    suffixes = sorted(SUFFIXES, key=lambda candidate: candidate != suffix)  # the preferred suffix comes first
    names = [file] if file else [f"network{candidate}" for candidate in suffixes]
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name))
        except LocalEntryNotFoundError:
            return _find_cached(hub, address, repository, names)
        except EntryNotFoundError:
            continue
        except Exception as error:
            # The client raises many kinds of exceptions for connections, permissions and names.
            raise UserError(f"{address}: {first_line(error)}") from None
    raise UserError(f"{address}: this repository holds no {' or '.join(names)}")


def _find_cached(hub: Any, address: str, repository: str, names: list[str]) -> Path:
    for name in names:
        path = hub.try_to_load_from_cache(repository, name)
        if isinstance(path, str):  # None: not cached; a sentinel object: known to be missing on the hub
            return Path(path)
    raise UserError(f"{address}: no connection to the hub, and it was not fetched before")


def push(repository: str, files: list[Path], card: str, private: bool = False) -> str:
    """Uploads a network and its card in place of those in the repository; returns the URL of the repository's page.

    Args:
        repository: `<owner>/<repository>`, created if it does not exist.
        files: an `.onnx` file, a `.safetensors` file, or one of each.
        card: text of the card in Markdown; a list of the classes is added if they are not the seven of FER2013.
        private: whether the repository is visible to its owner only.

    Raises:
        UserError: the files are of another kind or have different classes, the repository exists and is public though
            `private` is asked for, the permission to write is missing, or there is no connection.
    """
    suffixes = [path.suffix for path in files]
    if not files or len(set(suffixes)) < len(files) or not set(suffixes) <= set(SUFFIXES):
        raise UserError(f"{', '.join(map(str, files))}: one .onnx or one .safetensors file is needed, or one of each")
    classes = [_classes(path) for path in files]
    require_same_classes(files, classes)
    text = card if classes[0] == CLASSES else f"{card.rstrip()}\n\n## Classes\n\n{_numbered(classes[0])}"
    hub = _hub()
    api, names = hub.HfApi(), {f"network{path.suffix}": path for path in files}
    try:
        page = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise UserError("exists and is public; make it private on its page, or leave out --private")
        # A network of the other format would be an older one, which some commands would take.
        others = [name for name in (f"network{suffix}" for suffix in SUFFIXES) if name not in names]
        gone = [hub.CommitOperationDelete(name) for name in others if api.file_exists(repository, name)]
        added = [hub.CommitOperationAdd(name, content) for name, content in {**names, CARD: text.encode()}.items()]
        api.create_commit(repository, [*added, *gone], commit_message="Network and card")
    except Exception as error:
        # The client raises many kinds of exceptions for connections, permissions and names.
        raise UserError(f"{repository}: {first_line(error)}") from None
    return str(page)


def _classes(path: Path) -> tuple[str, ...]:
    """Returns the classes of a network without PyTorch."""
    if path.suffix == ".onnx":
        return OnnxNetwork(path).classes
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, MAX_HEADER)))
        return require_classes(json.loads(header["__metadata__"][METADATA]).get("classes", CLASSES))
    except Exception as error:
        # A damaged file can make struct and json raise nearly any exception.
        raise UserError(f"{path}: not a network of this project ({first_line(error)})") from None


def _numbered(classes: tuple[str, ...]) -> str:
    """Returns a list in Markdown, with the names as code, in which no character has a meaning."""
    lines = []
    for number, name in enumerate(classes, 1):
        fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
        lines.append(f"{number}. {fence} {name} {fence}")
    return "In the order of the probabilities:\n\n" + "\n".join(lines) + "\n"


def _hub() -> Any:
    require_extra("hub", "the Hugging Face hub")
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # the package reads the variable of this name once, when it is imported
    return huggingface_hub
