"""That no command asks for a name, or leaves a file outside its own cache; a CI would hide it, so CI is unset."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image
from small_runs import SMALL, TINY

import emotion
from emotion.data.synthetic import draw_image

pytestmark = pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("ip")), reason="needs unshare and ip (Linux)"
)
Record = Callable[[str, int, int], None]
EMOTION = f"{sys.executable} -m emotion"
# A network of one process and its children, in which one server answers every question for a name with "none such".
NAMESPACE = """
ip link set lo up
mount --bind "$1" /etc/resolv.conf || exit 99
"$2" "$3" "$4" &
while [ ! -e "$4" ]; do sleep 0.05; done
sh -e "$5"
status=$?
kill $!
exit $status
"""
NAME_SERVER = """
import socket, sys
from pathlib import Path

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
log = Path(sys.argv[1]).open("wb", buffering=0)
while True:
    question, address = server.recvfrom(512)
    log.write(question[12:question.index(0, 12)] + b"\\n")
    server.sendto(question[:2] + b"\\x81\\x83" + question[4:6] + bytes(6) + question[12:], address)
"""
SHORT = (
    f"{EMOTION} predict face.png --csv --out copies",
    f"{EMOTION} train {' '.join(SMALL)} {' '.join(TINY)} hydra.run.dir=run",
    f"{sys.executable} -c 'import emotion; emotion.load().predict(\"face.png\")'",
)
USE = (
    *SHORT,
    f"{EMOTION} explain face.png --no-detect --out why.png",
    f"{EMOTION} evaluate ckpt=run/checkpoints/best.ckpt out=evaluation",
    f"{EMOTION} report run --out page",
    f"{EMOTION} audit data=synthetic synthetic_images=210 --out audit",
    f"{EMOTION} data info data=synthetic synthetic_images=210",
    f"{EMOTION} publish run/checkpoints/best.ckpt --out network.safetensors",
    f"{EMOTION} export data=synthetic synthetic_images=210 --int8 --out network.onnx",
)
# A package that reports does it in the background, and after some time.
STAY = (
    f"timeout --preserve-status -s INT 18 {EMOTION} serve --port 8125",
    f"timeout --preserve-status -s INT 18 {EMOTION} app --port 8126 --no-open",
    f'{sys.executable} -c \'import time, emotion; network = emotion.load(); network.predict("face.png"); '
    "time.sleep(14)'",
)


def names_asked_for(folder: Path, commands: str) -> list[str]:
    """Runs shell commands in `folder` with a new home; returns the names of hosts that anything asked for."""
    files = {
        "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        "server.py": NAME_SERVER,
        "commands.sh": commands,
    }
    own = folder / "namespace"
    for path, text in ((own / name, text) for name, text in files.items()):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    home, temporary = folder / "home", folder / "tmp"
    for path in (home, temporary):
        path.mkdir()
    hidden = ("CI", "EMOTION_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    # fmt: off
    words = ["unshare", *root, "--net", "--mount", "sh", "-c", NAMESPACE, "sh", own / "resolv.conf",
             sys.executable, own / "server.py", own / "log", own / "commands.sh"]
    # fmt: on
    done = subprocess.run(
        words,
        env=kept | {"HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted({b".".join(_labels(line)).decode() for line in (own / "log").read_bytes().splitlines()})


def _labels(question: bytes) -> list[bytes]:
    labels = []
    while question:
        labels.append(question[1 : 1 + question[0]])
        question = question[1 + question[0] :]
    return labels


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where the system gives no network of one's own; shows that a name which is asked for is seen."""
    may = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if not may:
        pytest.skip("this user may not make network namespaces")
    asks = f"{sys.executable} -c 'import socket; socket.gethostbyname(\"seen.example\")' 2> /dev/null || true"
    assert names_asked_for(tmp_path_factory.mktemp("control"), asks) == ["seen.example"]


@pytest.mark.usefixtures("namespaces")
@pytest.mark.forms("commands", test=[SHORT], check=[USE, (*(f"{command} &" for command in STAY), "wait")])
def test_nothing_is_sent_and_nothing_left(commands: Sequence[str], tmp_path: Path, record: Record) -> None:
    Image.fromarray(draw_image(3, seed=0, index=0)).resize((200, 200)).save(tmp_path / "face.png")
    names = names_asked_for(tmp_path, "\n".join(commands))
    cache = tmp_path / "home" / ".cache" / "emotion"
    written = [path for place in ("home", "tmp") for path in (tmp_path / place).rglob("*") if path.is_file()]
    strange = [path for path in written if not path.is_relative_to(cache)]
    what = "commands in a network of their own: a name asked for, a file outside the cache"
    record(what, len([command for command in commands if command != "wait"]), len(names) + len(strange))
    assert not names
    assert not strange


def test_a_program_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion.privacy import NO_TELEMETRY

    for name in NO_TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    emotion.load()
    assert {name: os.environ[name] for name in NO_TELEMETRY if name in os.environ} == {"RAY_USAGE_STATS_ENABLED": "1"}
