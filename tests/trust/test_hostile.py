"""Files that are made to do harm, through every door; and what files that are passed on say of their author."""

import html
import io
import json
import pickle
import re
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml
from peak import Peak
from PIL import Image
from small_runs import ROOT, TINY, call, train
from starlette.testclient import TestClient
from torchvision.models import get_model_weights
from traps import Trap
from typer.testing import CliRunner

from emotion.analysis.predictions import load_predictions
from emotion.cli import app
from emotion.data.classes import CLASSES
from emotion.data.sources import Fer2013Csv
from emotion.errors import UserError
from emotion.inference.recognizer import load
from emotion.inference.service import make_service
from emotion.inference.video import Video
from emotion.models.classifier import load_pretrained
from emotion.training.evaluate import evaluate
from emotion.training.folder import RunFolder

Record = Callable[[str, int, int], None]
HEADER = b"\x89PNG\r\n\x1a\n"


def markup(name: str) -> str:
    """Text that runs code where it gets on a page as it is; a name tells where it came from."""
    return f"<img src=x {name} onerror=alert(1)>"


UNSAFE: dict[str, Callable[[io.BytesIO], object]] = {
    "pickle": pickle.load,
    "zip archive": partial(torch.load, weights_only=False),
    "legacy archive": partial(torch.load, weights_only=False),
    "arrays": lambda file: dict(np.load(file, allow_pickle=True)),
}
"""Readers that run what each kind of trap holds."""
NETWORKS = (".ckpt", ".safetensors", ".onnx")
WITH_PYTORCH = (".ckpt", ".safetensors")
WEIGHTS = (".ckpt", ".pt", ".safetensors", ".onnx", ".npz")
"""What the files of a command can be called; others are refused by that alone, and show nothing about its readers."""


def traps(canary: Path) -> dict[str, bytes]:
    """The ways in which a file can hold a pickle, each with the trap."""
    content = {"state_dict": {}, "hyper_parameters": Trap(canary), "a": torch.zeros(2)}
    files = {"pickle": pickle.dumps(content)}
    for name, modern in (("zip archive", True), ("legacy archive", False)):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=modern)
        files[name] = file.getvalue()
    arrays = io.BytesIO()
    np.savez(arrays, classes=np.array(CLASSES), test_ids=np.array([Trap(canary)], object))
    return files | {"arrays": arrays.getvalue()}


def copy(finished: RunFolder, path: Path) -> RunFolder:
    """Returns a folder with the settings and figures of a finished run."""
    folder = RunFolder(path)
    folder.checkpoints.mkdir(parents=True)
    for name in ("config", "metrics", "predictions", "environment"):
        getattr(folder, name).write_bytes(getattr(finished, name).read_bytes())
    return folder


@pytest.fixture
def was_read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every file, by its path or content, that one of the readers of stored networks, weights or predictions gets."""
    given: list[object] = []

    def watch(owner: object, name: str) -> None:
        reader = getattr(owner, name)

        def read(file: object, *args: object, **options: object) -> object:
            given.append(file if isinstance(file, bytes) else str(file))
            return reader(file, *args, **options)

        monkeypatch.setattr(owner, name, read)

    readers = [(torch, "load"), (np, "load"), (safetensors, "safe_open"), (safetensors.torch, "load_file")]
    for owner, name in [*readers, (onnxruntime, "InferenceSession")]:
        watch(owner, name)
    return given


def harm(what: Callable[[], object], canary: Path, reason: str = "") -> str:
    """Says what is wrong with how a door treats a hostile file: it ran, or was not refused in one line for a reason."""
    canary.unlink(missing_ok=True)
    problem = ""
    try:
        what()
        problem = "not refused"
    except UserError as error:
        problem = "" if "\n" not in str(error) and re.search(reason, str(error)) else f"refused with {error}"
    except Exception as error:
        problem = f"{type(error).__name__} {error}"
    return "it ran" if canary.exists() else problem


def command(*words: str) -> None:
    """Gives a command as it is typed; a refusal is raised again."""
    done = CliRunner().invoke(app, list(words))
    if done.exit_code == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.output:
        raise UserError(done.stderr.strip())
    assert done.exit_code == 0, done.output


def test_pickles_do_not_run(
    tmp_path: Path,
    finished: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    was_read: list[object],
    record: Record,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emotion.inference.service.run", lambda *_, **__: pytest.fail("it serves"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    canary = tmp_path / "canary"
    Image.new("L", (48, 48)).save("face.png")
    lost, tried = [], 0

    def attempt(kind: str, name: str, path: Path, door: Callable[[], object]) -> None:
        nonlocal tried
        tried += 1
        was_read.clear()
        problem = harm(door, canary)
        if str(path) not in was_read and path.read_bytes() not in was_read:
            problem = problem or "no reader has seen it"
        lost.extend([(kind, name, path.name, problem)] if problem else [])

    def train_with(*words: str) -> None:
        # In a folder of its own, since one that another attempt has claimed is refused before the file is read.
        train(tmp_path / "new" / str(tried), "image_size=32", *words)

    commands: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
        "train": (WEIGHTS, lambda path: train_with("model=vgg16_fe", f"weights={path}")),
        "evaluate": ((".ckpt",), lambda path: evaluate([path], {})),
        "predict": (NETWORKS, lambda path: command("predict", "face.png", "--ckpt", str(path))),
        "explain": (WITH_PYTORCH, lambda path: command("explain", "face.png", "--ckpt", str(path))),
        "export": (WITH_PYTORCH, lambda path: command("export", "--ckpt", str(path), "data=synthetic")),
        "publish": ((".ckpt",), lambda path: command("publish", str(path))),
        "serve": (NETWORKS, lambda path: command("serve", "--ckpt", str(path))),
        "app": (NETWORKS, lambda path: command("app", "--ckpt", str(path))),
        "load": (NETWORKS, load),
        "load_pretrained": ((".safetensors",), load_pretrained),
        "load_predictions": ((".npz",), load_predictions),
    }
    for kind, content in traps(canary).items():
        canary.unlink(missing_ok=True)
        UNSAFE[kind](io.BytesIO(content))
        assert canary.exists(), f"the trap in the {kind} does not work, so the test shows nothing"
        for suffix in sorted({suffix for suffixes, _ in commands.values() for suffix in suffixes}):
            (tmp_path / f"{kind}{suffix}").write_bytes(content)
        for name, (suffixes, door) in commands.items():
            for path in (tmp_path / f"{kind}{suffix}" for suffix in suffixes):
                attempt(kind, name, path, partial(door, path))
        going = copy(finished, tmp_path / f"{kind} going")
        going.metrics.unlink()
        going.last.write_bytes(content)
        attempt(kind, "resume", going.last, lambda going=going: train(going.path, *TINY))
        if kind == "arrays":
            continue  # PyTorch's cache holds what torch.save wrote
        for name in ("vgg16", "resnet50"):
            path = tmp_path / "torch/hub/checkpoints" / Path(next(iter(get_model_weights(name))).url).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            attempt(kind, "cache", path, partial(train_with, f"model={name}_fe", "weights=imagenet"))
    for kind, content in traps(canary).items():
        # A page says what cannot be read, and goes on.
        for name, said in (("best", "No heatmaps are shown: "), ("predictions", "cannot be read: ")):
            folder = copy(finished, tmp_path / "reported" / f"{kind} {name}")
            getattr(folder, name).write_bytes(content)
            words = ["report", str(folder.path), "--out", "page"]
            attempt(kind, "report", getattr(folder, name), partial(on_page, words, said))
    record("pickles that would run code, through every command that reads files", tried, len(lost))
    assert not lost


def on_page(words: list[str], expected: str) -> None:
    """Writes a page, and raises what it says of the file that was left out."""
    command(*words)
    page = Path("page/report.md").read_text()
    if expected in page:
        raise UserError(next(line for line in page.splitlines() if expected in line))


def png(side: int, bits: int, rows: int) -> bytes:
    """A black square of `bits` a pixel, of which so many rows are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    packer, row = zlib.compressobj(1), bytes(side * bits // 8 + 2)
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([bits, 0, 0, 0, 0])
    return HEADER + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def picture(kind: str) -> bytes:
    """A small picture of noise, of WebP an animation, that claims to have 50,000 x 50,000 pixels."""
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(256, size=(2, 90, 90), dtype=np.uint8)
    first, second = map(Image.fromarray, noise)
    first.save(file, kind, **({"save_all": True, "append_images": [second]} if kind == "WEBP" else {}))
    content = bytearray(file.getvalue())
    if kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = (50_000).to_bytes(2, "big") * 2
    elif kind == "BMP":
        content[18:26] = (50_000).to_bytes(4, "little") * 2
    elif kind == "WEBP":
        content[24:30] = (50_000 - 1).to_bytes(3, "little") * 2
    elif kind == "TIFF":
        for tag in (256, 257):
            place = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
            content[place : place + 4] = (50_000).to_bytes(4, "little")
    elif kind == "JPEG2000":
        for mark in (b"ihdr", b"\xff\x51\x00\x29\x00\x00"):
            place = content.index(mark) + len(mark)
            content[place : place + 8] = (50_000).to_bytes(4, "big") * 2
    return bytes(content)


def bombs() -> dict[str, bytes]:
    """Small files: pictures that claim 2.5 gigabytes of pixels or more, an archive of 1.1 gigabytes."""
    claims = png(50_000, 8, 100)
    gif = b"GIF89a" + (50_000).to_bytes(2, "little") * 2 + b"\xf0\0\0" + bytes(6) + b","
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file, file.open("classes.npy", "w") as array:
        header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
        text = repr({"descr": "|u1", "fortran_order": False, "shape": (11 * 10**8,)}).ljust(117) + "\n"
        array.write(header + text.encode())
        for _ in range(110):
            array.write(bytes(10**7))
    return {
        **dict.fromkeys(("bomb.png", "bomb.mp4"), claims),
        "bomb.gif": gif + bytes(10),
        **{f"bomb.{kind.lower()}": picture(kind) for kind in ("JPEG", "TIFF", "BMP", "WEBP", "JPEG2000")},
        "bomb.ppm": b"P5 50000 50000 255\n" + bytes(99),
        "bomb.npz": archive.getvalue(),
    }


def test_bombs_are_refused_by_their_headers(tmp_path: Path, peak: Peak, record: Record) -> None:
    made = bombs()
    files = {name: tmp_path / name for name in made}
    for name, content in made.items():
        files[name].write_bytes(content)
    (tmp_path / "bomb.ckpt").write_bytes(made["bomb.npz"])
    data = tmp_path / "data"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        (data / name / "1.png").write_bytes(made["bomb.png"])
    with (tmp_path / "bomb.csv").open("wb") as table:
        table.write(b"emotion,pixels,Usage\n")
        table.truncate(2**33)  # takes no space on the disk
    recognizer = load()
    recognizer.predict(np.zeros((48, 48), np.uint8))
    peak.start()
    pixels, unpacked = r"pixels are more than|more than [\d,]+ pixels|exceeds limit of \d+ pixels", "would unpack to"
    pictures = [name for name in made if name not in ("bomb.mp4", "bomb.npz")]
    doors: list[tuple[str, Callable[[], object]]] = [
        *((pixels, partial(recognizer.predict, files[name])) for name in pictures),
        ("not a video", lambda: Video(files["bomb.mp4"])),
        ("line 2: not FER2013, longer than", lambda: Fer2013Csv(tmp_path / "bomb.csv")),
        (pixels, lambda: train(tmp_path / "new", "data=folder", f"data_dir={data}")),
        (unpacked, lambda: load_predictions(files["bomb.npz"])),
        (unpacked, lambda: load(tmp_path / "bomb.ckpt")),
    ]
    problems = [problem for reason, door in doors if (problem := harm(door, tmp_path / "none", reason))]
    with TestClient(make_service({"small": recognizer})) as client:
        answers = [client.post("/predict", files={"image": made[name]}) for name in pictures]
    problems += [answer.text for answer in answers if answer.status_code != 422 or not re.search(pixels, answer.text)]
    grown = peak.growth()
    record("files of kilobytes that claim gigabytes of pixels or numbers", len(doors) + len(answers), len(problems))
    assert not problems
    assert grown < 100
    peak.start()
    for bits in (1, 8, 16):
        assert recognizer.predict(png(7100, bits, 7100)) == []
    assert peak.growth() < 500  # for the largest pictures that are read


def test_names_that_are_markup_stay_text(tmp_path: Path, finished: RunFolder, record: Record) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(CLASSES):
        (data / name).mkdir(parents=True)
        for copied in range(2):
            Image.new("L", (48, 48), 9 * number).save(data / name / f"{markup('photo')}{copied}.png")
    folder = copy(finished, tmp_path / markup("folder"))
    strange = {name: markup(name) for name in ("backbone", "weights", "balance", "data_dir", "model", "name", "lr")}
    settings = yaml.safe_load(folder.config.read_text()) | strange | {"data": "folder", "family": "timm"}
    folder.config.write_text(yaml.safe_dump(settings))
    metrics = json.loads(folder.metrics.read_text())
    metrics["run"] |= {name: markup(name) for name in ("command", "hardware")}
    folder.metrics.write_text(json.dumps(metrics))
    unfinished = copy(finished, tmp_path / "failed")
    unfinished.metrics.unlink()
    unfinished.write_failure(markup("error"))
    command("report", str(tmp_path), "--out", str(tmp_path / "page"))
    command("audit", "data=folder", f"data_dir={data}", "--out", str(tmp_path / "audit"))
    shown = {
        "page": ["folder", "error", "hardware", *(set(strange) - {"model", "name"})],
        "audit": ["photo"],
    }
    pages = {name: next((tmp_path / name).glob("*.html")).read_text() for name in shown}
    lost = [page for page, text in pages.items() if "<img src=x" in text]
    record("names of folders, files, models and errors that are markup, on pages", len(pages), len(lost))
    assert not lost
    for page, names in shown.items():
        assert [name for name in names if html.escape(markup(name)) not in pages[page]] == []
    (data / markup("class")).mkdir()
    with pytest.raises(UserError, match="img src=x"):
        train(tmp_path / "new", "data=folder", f"data_dir={data}", *TINY)


def spellings(path: Path, word: str) -> Iterator[str]:
    """Yields where a file holds a word: as it is, packed in an archive, as NumPy stores text, or beside a picture."""
    contents = {"": path.read_bytes()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents |= {name: archive.read(name) for name in archive.namelist()}
    if path.suffix == ".png":
        with Image.open(path) as image:
            contents["text"] = repr(image.info).encode()
    for name, content in contents.items():
        if any(word.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-32-le")):
            yield f"{path} {name}"


def test_files_that_are_passed_on_do_not_name_their_author(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    home, secret = tmp_path / "home" / "alice", "hunter2-is-secret"
    work = home / "work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EMOTION_CACHE", str(home / "cache"))
    monkeypatch.setenv("SECRET_TOKEN", secret)
    monkeypatch.chdir(work)
    data = home / "data"
    for number in range(70):
        path = data / CLASSES[number % 7] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 48), 3 * number, np.uint8)).save(path)
    (data / "happy" / "broken.png").write_bytes(b"no image")
    (home / "cache").mkdir()
    source = ["data=folder", f"data_dir={data}", "on_bad_image=skip"]
    words = [*TINY, *source, "trainer.accelerator=cpu", "hydra.run.dir=runs/own"]
    shutil.copy(ROOT / "train.py", work)
    done = call(str(work / "train.py"), *words, folder=work)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", [f"{home}/bin/evaluate.py", f"out={home}/work/runs/again"])
    best = Path.home() / "work/runs/own/checkpoints/best.ckpt"
    evaluate([best], {}, out=f"{home}/work/runs/again", device="cpu")
    shutil.copytree("runs/own", "runs/failed")
    Path("runs/failed/predictions.npz").write_bytes(b"damaged")
    command("report", f"{home}/work/runs", "--out", f"{home}/work/page")
    command("audit", *source, "--out", f"{home}/work/audit")
    command("publish", str(best), "--out", "network.safetensors")
    command("export", "--ckpt", str(best), "--out", "network.onnx")
    files = [path for path in work.rglob("*") if path.is_file()]
    lost = [place for path in files for word in (str(home), secret) for place in spellings(path, word)]
    assert {".npz", ".ckpt", ".png", ".html", ".json", ".onnx", ".safetensors"} <= {path.suffix for path in files}
    known = [place for path in files if path.name == "predictions.npz" for place in spellings(path, "happy/")]
    assert known, "nothing would be found"
    record("files of runs, reports and exports searched for the home folder and a secret", len(files), len(lost))
    assert len(files) > 30
    assert not lost
