import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError
from other_classes import THREE, make_classifier, write_onnx

import emotion
from emotion.errors import UserError
from emotion.models.classifier import save_pretrained
from emotion.shipped import SHIPPED, find_network, find_weights
from emotion.shipped.hub import push
from emotion.training import evaluate


class Hub:
    """A hub that is a folder; beside it lies what was fetched, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.private = folder, [], True

    def hf_hub_download(self, repository: str, name: str) -> str:
        place = self.folder / repository
        if not place.is_dir():
            raise not_found(RepositoryNotFoundError, "404: no such repository\nsecond line")
        if not (place / name).is_file():
            raise not_found(RemoteEntryNotFoundError, "404")
        fetched = self.folder.with_name("fetched") / repository / name
        fetched.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(place / name, fetched))

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.made.append((repository, private))
        (self.folder / repository).mkdir(parents=True, exist_ok=True)
        return f"https://hub.invalid/{repository}"

    def repo_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def file_exists(self, repository: str, name: str) -> bool:
        return (self.folder / repository / name).exists()

    def create_commit(self, repository: str, operations: list, *, commit_message: str) -> None:
        for operation in operations:
            path = self.folder / repository / operation.path_in_repo
            if isinstance(operation, huggingface_hub.CommitOperationDelete):
                path.unlink()
            else:
                content = operation.path_or_fileobj
                path.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())


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
    assert emotion.load_pretrained("hf://me/faces").card.side == 48
    fetched = hub.folder.with_name("fetched") / "me/faces"
    assert [path.name for path in fetched.iterdir()] == ["network.safetensors"]
    assert find_network("hf://me/faces") == fetched / "network.onnx"
    assert find_weights("hf://me/faces") == fetched / "network.safetensors"
    assert find_network("hf://me/faces/network.safetensors") == fetched / "network.safetensors"
    for path in fetched.iterdir():
        assert path.read_bytes() == (SHIPPED / f"small{path.suffix}").read_bytes()
    assert type(emotion.load("hf://me/faces").networks[0]).__name__ == "OnnxNetwork"


def test_evaluation_takes_a_network_of_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push("me/faces", [SHIPPED / "small.safetensors"], "")
    monkeypatch.chdir(tmp_path)
    words = ["data=synthetic", "synthetic_images=140", "split=test_only", "out=out", "device=cpu"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "ckpt=hf://me/faces", *words])
    evaluate.main()
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["checkpoints"] == ["hf://me/faces"]


def test_a_download_sends_no_telemetry(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push("me/faces", [SHIPPED / "small.onnx"], "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    find_network("hf://me/faces")
    assert "torch/" not in huggingface_hub.utils.build_hf_headers()["user-agent"]


def test_the_other_kind_does_where_there_is_one(hub: Hub) -> None:
    push("me/faces", [SHIPPED / "small.safetensors"], "")
    assert find_network("hf://me/faces").name == "network.safetensors"


@pytest.mark.parametrize("name", ["photo.jpg", "notes", "net.pt", "net.onnx.txt"])
def test_other_files_are_no_networks(hub: Hub, name: str, tmp_path: Path) -> None:
    (hub.folder / "me/faces").mkdir(parents=True)
    for path in (tmp_path / name, hub.folder / "me/faces" / name):
        path.write_bytes(b"no network")
    for address in (str(tmp_path / name), f"hf://me/faces/{name}"):
        with pytest.raises(UserError, match=rf"{name}: not a network \(\.onnx, \.safetensors, \.ckpt, or small\)$"):
            find_network(address)


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://me", "hf://me/", "hf:///x/y", "hf://me/fa ces", "hf://../x/y z", "hf://me/..", "hf://-/x"],
)
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


def test_without_a_connection_what_was_fetched_before_does(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments):
        raise LocalEntryNotFoundError("offline")

    fetched = {
        ("me/faces", "network.safetensors"): "/cache/network.safetensors",
        ("me/faces", "network.onnx"): object(),
    }
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: fetched.get(names))
    assert find_network("hf://me/faces") == Path("/cache/network.safetensors")
    for address in ("hf://me/faces/network.onnx", "hf://me/faces/own.onnx", "hf://me/others"):
        with pytest.raises(UserError, match=f"^{address}: no connection to the hub, and it was not fetched before"):
            find_network(address)


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


def test_a_pushed_network_takes_the_place_of_the_one_before(hub: Hub) -> None:
    push("me/faces", [SHIPPED / "small.onnx", SHIPPED / "small.safetensors"], "# A card")
    push("me/faces", [SHIPPED / "small.onnx"], "# Another")
    assert {path.name for path in (hub.folder / "me/faces").iterdir()} == {"README.md", "network.onnx"}
    hub.private = False
    with pytest.raises(UserError, match=r"^me/faces: exists and is public;"):
        push("me/faces", [SHIPPED / "small.safetensors"], "# A secret", private=True)
    assert (hub.folder / "me/faces/README.md").read_text() == "# Another"


@pytest.mark.process
def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"emotion\[hub\]"):
        find_network("hf://me/faces")


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does; it has one repository, of one file."""

    content = (SHIPPED / "small.safetensors").read_bytes()

    def do_HEAD(self) -> None:
        here = self.path == "/me/faces/resolve/main/network.safetensors"
        missing = "EntryNotFound" if self.path.startswith("/me/faces/") else "RepoNotFound"
        self.send_response(200 if here else 404)
        self.send_header("X-Repo-Commit", "a" * 40)
        if here:
            self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", missing)
        self.send_header("Content-Length", str(len(self.content) if here else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def told(address: str, **environment: str) -> str:
    """Returns what a fresh process, for the client reads its environment once, says of an address."""
    program = (
        "import sys\nfrom emotion.errors import UserError\nfrom emotion.shipped import find_network\n"
        "try: print(find_network(sys.argv[1]))\nexcept UserError as error: print('refused', error)"
    )
    words = [sys.executable, "-c", program, address]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout.strip()


def test_the_real_client_with_and_without_a_connection(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    path = Path(told("hf://me/faces", **online))
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes() == Handler.content
    assert told("hf://me/faces/own.onnx", **online).endswith("this repository holds no own.onnx")
    assert told("hf://me/none", **online).startswith("refused hf://me/none: ")
    offline = {**online, "HF_HUB_OFFLINE": "1"}
    assert told("hf://me/faces", **offline) == str(path)
    assert "no connection to the hub" in told("hf://me/others", **offline)


@pytest.mark.parametrize("suffixes", [(".onnx",), (".safetensors",), (".onnx", ".safetensors")])
def test_the_card_lists_other_classes(suffixes: tuple[str, ...], hub: Hub, tmp_path: Path) -> None:
    made, path = make_classifier(("`a`", "<b>", "[c](d)")), tmp_path / "own"
    save_pretrained(path.with_suffix(".safetensors"), made.network, made.card)
    write_onnx(path.with_suffix(".onnx"), made.classes)
    push("me/faces", [path.with_suffix(suffix) for suffix in suffixes], "# A card\n")
    assert (hub.folder / "me/faces/README.md").read_text() == (
        "# A card\n\n## Classes\n\nIn the order of the probabilities:\n\n1. `` `a` ``\n2. ` <b> `\n3. ` [c](d) `\n"
    )


def test_networks_that_do_not_belong_together_or_are_damaged_are_not_pushed(hub: Hub, tmp_path: Path) -> None:
    path, damaged = write_onnx(tmp_path / "own.onnx", THREE), tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"own.onnx and .*small.safetensors have different classes: engaged, bored"):
        push("me/faces", [path, SHIPPED / "small.safetensors"], "")
    with pytest.raises(UserError, match=r"damaged.safetensors: not a network of this project \("):
        push("me/faces", [damaged], "")
    assert hub.made == []
