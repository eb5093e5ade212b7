"""The Docker image of the service."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_it_installs_the_base_on_a_slim_image() -> None:
    assert arguments("FROM") == ["python:3.12-slim"]
    (run,) = arguments("RUN")
    pinned = "--constraint /tmp/emotion/constraints.txt"
    assert re.search(rf"pip install --no-cache-dir {pinned} /tmp/emotion(?!\[)", run)


def test_the_service_has_no_rights_of_root() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    assert arguments("USER") == ["emotion"]
    assert names.index("RUN") < names.index("USER") < names.index("CMD")
    assert "useradd --create-home emotion" in arguments("RUN")[0]


def test_it_serves_other_machines() -> None:
    assert arguments("EXPOSE") == ["8000"]
    assert json.loads(arguments("CMD")[0]) == ["emotion", "serve", "--host", "0.0.0.0"]


def await_health(port: int) -> None:
    """Waits until a service answers, at most a minute."""
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert json.load(answer)["status"] == "ok"
            return
        time.sleep(0.2)
    pytest.fail("the service does not answer")


@pytest.mark.process
def test_the_health_check_passes_with_a_service_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("EMOTION_PORT", str(port))
    monkeypatch.setenv("EMOTION_HOSTS", "faces.example")  # names of this machine are answered nevertheless
    command = arguments("HEALTHCHECK")[0].partition("CMD ")[2]
    check = [sys.executable, *json.loads(command)[1:]]
    proxy = os.environ | {"http_proxy": "http://127.0.0.1:9"}  # Docker passes that of the user on
    assert subprocess.run(check, capture_output=True, check=False, env=proxy).returncode == 1
    with subprocess.Popen([sys.executable, "-m", *json.loads(arguments("CMD")[0])]) as process:
        try:
            await_health(port)
            assert subprocess.run(check, capture_output=True, check=False, env=proxy).returncode == 0
        finally:
            process.terminate()


def test_the_build_gets_only_what_the_package_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert kept == {"src", "conf", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in kept)


def docker_runs() -> bool:
    return bool(shutil.which("docker")) and not subprocess.run(["docker", "info"], capture_output=True).returncode


@pytest.mark.check
@pytest.mark.skipif(not docker_runs(), reason="needs a running Docker")
def test_the_image_answers() -> None:
    name = f"emotion-test-{uuid.uuid4().hex}"
    subprocess.run(["docker", "build", "--quiet", "--tag", name, ROOT], check=True)
    try:
        subprocess.run(["docker", "run", "--detach", "--publish", "127.0.0.1::8000", "--name", name, name], check=True)
        published = subprocess.run(["docker", "port", name, "8000"], capture_output=True, text=True, check=True).stdout
        await_health(int(published.split(":")[-1]))
        user = subprocess.run(["docker", "exec", name, "id", "-un"], capture_output=True, text=True, check=True).stdout
        assert user == "emotion\n"
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=False)
        subprocess.run(["docker", "rmi", "--force", name], check=False)
