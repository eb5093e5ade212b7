from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

import emotion
from emotion.errors import UserError
from emotion.pretrained import SHIPPED, find_network, find_weights
from emotion.pretrained.hub import push


class Hub:
    """A hub that is a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def hf_hub_download(self, repository: str, name: str) -> str:
        place = self.folder / repository
        if not place.is_dir():
            raise not_found(RepositoryNotFoundError, "404: no such repository\nsecond line")
        if not (place / name).is_file():
            raise not_found(RemoteEntryNotFoundError, "404")
        return str(place / name)

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.made.append((repository, private))
        (self.folder / repository).mkdir(parents=True, exist_ok=True)
        return f"https://hub.invalid/{repository}"

    def upload_file(self, *, path_or_fileobj: Path | bytes, path_in_repo: str, repo_id: str) -> None:
        content = path_or_fileobj if isinstance(path_or_fileobj, bytes) else path_or_fileobj.read_bytes()
        (self.folder / repo_id / path_in_repo).write_bytes(content)


def not_found(kind, text: str) -> Exception:
    return kind(text, response=SimpleNamespace(headers={}, request=None, status_code=404))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


def test_what_is_pushed_can_be_loaded(hub: Hub) -> None:
    page = push("me/faces", [SHIPPED / "small.onnx", SHIPPED / "small.safetensors"], "# A card", private=True)
    assert page == "https://hub.invalid/me/faces"
    assert hub.made == [("me/faces", True)]
    place = hub.folder / "me/faces"
    assert (place / "README.md").read_text() == "# A card"
    assert find_network("hf://me/faces") == place / "network.onnx"
    assert find_weights("hf://me/faces") == place / "network.safetensors"
    assert find_network("hf://me/faces/network.safetensors") == place / "network.safetensors"
    assert emotion.load("hf://me/faces").networks[0].side == 48


def test_the_other_kind_does_where_there_is_one(hub: Hub) -> None:
    push("me/faces", [SHIPPED / "small.safetensors"], "")
    assert find_network("hf://me/faces").name == "network.safetensors"


@pytest.mark.parametrize("address", ["hf://", "hf://me", "hf:///x/y", "hf://me/fa ces", "hf://../x/y z"])
def test_addresses_of_another_form(hub: Hub, address: str) -> None:
    with pytest.raises(UserError, match="hf://<owner>/<repository>"):
        find_network(address)


def test_what_is_not_there(hub: Hub) -> None:
    with pytest.raises(UserError, match=r"^hf://me/none: 404: no such repository$"):
        find_network("hf://me/none")
    (hub.folder / "me/empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no network.onnx or network.safetensors"):
        find_network("hf://me/empty")
    with pytest.raises(UserError, match=r"holds no own.onnx"):
        find_network("hf://me/empty/own.onnx")


def test_without_a_connection(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match="no connection to the hub"):
        find_network("hf://me/faces")


@pytest.mark.parametrize("names", [[], ["a.ckpt"], ["a.onnx", "b.onnx"], ["a.onnx", "b.txt"]])
def test_only_networks_are_pushed(hub: Hub, names: list[str]) -> None:
    with pytest.raises(UserError, match="is needed"):
        push("me/faces", [Path(name) for name in names], "")
    assert hub.made == []


def test_no_right_to_push(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise PermissionError("401: log in\nmore")

    monkeypatch.setattr(hub, "create_repo", fail)
    with pytest.raises(UserError, match=r"^me/faces: 401: log in$"):
        push("me/faces", [SHIPPED / "small.onnx"], "")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"emotion\[hub\]"):
        find_network("hf://me/faces")
