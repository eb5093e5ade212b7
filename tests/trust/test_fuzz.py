"""Thousands of damaged and invented inputs: each gets an answer or one sentence, soon and in little memory."""

import base64
import io
import json
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import Any

import numpy as np
import pytest
import torch
from builders import data_module
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.cbook import get_sample_data
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from peak import Peak
from PIL import Image
from starlette.testclient import TestClient

from emotion.analysis.predictions import load_predictions
from emotion.config import compose, read
from emotion.config import settings as plain
from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.data.packed import pack
from emotion.data.sources import Fer2013Csv, Fer2013Folders, FolderSource
from emotion.errors import UserError
from emotion.inference.recognizer import Recognizer, load
from emotion.inference.service import make_service
from emotion.models.classifier import load_pretrained
from emotion.models.onnx import OnnxNetwork
from emotion.models.weights import read_state
from emotion.overrides import check_overrides, quote_argument
from emotion.report import measures
from emotion.report.configurations import group
from emotion.report.runs import Run, SkippedRun, find_runs
from emotion.report.tables import detailed_scores, folds_table, published_tables
from emotion.settings import Settings
from emotion.shipped import SHIPPED
from emotion.training.checkpoint import load_checkpoint
from emotion.training.folder import RunFolder, read_json, read_yaml

pytestmark = pytest.mark.forms("examples", test=[15], check=[50], nightly=[1000])
SECONDS, MEBIBYTES = 5, 500
"""What one input may take of a processor, and all inputs of a kind together of memory."""
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
Fuzz = Callable[[str, Any, st.SearchStrategy[Any], Callable[[Any], object]], None]


@pytest.fixture
def fuzz(examples: int, peak: Peak, record: Callable[[str, int, int], None]) -> Fuzz:
    """Gives inputs to a door of the program, which may answer them or refuse them with a `UserError`.

    The first input is as it should be, and has to be answered: a door that refused all would prove nothing.
    """

    def run(what: str, good: Any, inputs: st.SearchStrategy[Any], door: Callable[[Any], object]) -> None:
        door(good)
        tried, lost = 0, []
        peak.start()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def attempt(value: Any) -> None:
            nonlocal tried
            tried += 1
            if problem := trouble(door, value):
                lost.append((value, problem))

        attempt()
        if (growth := peak.growth()) >= MEBIBYTES:
            lost.append(("all", f"{growth:.0f} MiB"))
        record(f"damaged and invented: {what}", tried, len(lost))
        assert not lost[:3]

    return run


def trouble(door: Callable[[Any], object], value: Any) -> str:
    """Says what is wrong with how a door treats an input: it raised something else than a `UserError`, or took long."""
    began = time.process_time()
    try:
        door(value)
    except UserError:
        pass
    except Exception as error:
        return "".join(format_exception(error))
    took = time.process_time() - began
    return "" if took < SECONDS else f"it took {took:.1f} s"


@dataclass(frozen=True)
class Made:
    """A file that is made when it is wanted, so that memory holds and failures show what was changed, not megabytes."""

    make: Callable[[Any], bytes] = field(repr=False)
    facts: Any

    def __bytes__(self) -> bytes:
        return self.make(self.facts)


def damaged(content: bytes, first: int | None = None, backwards: bool = False) -> st.SearchStrategy[Made]:
    """Changes, removes, inserts and doubles bytes of a file, or of its first (or last) so many; or cuts it off."""
    reach = len(content) if first is None else first
    edit = st.tuples(st.sampled_from(["change", "remove", "insert", "double", "end"]), st.integers(0, reach), words())

    def apply(edits: Iterable[tuple[str, int, bytes]]) -> bytes:
        changed = bytearray(content[::-1] if backwards else content)
        for how, place, new in edits:
            end = place + len(new)
            if how == "end":
                del changed[place:]
            elif how == "change":
                changed[place:end] = new
            elif how == "remove":
                del changed[place:end]
            else:
                changed[place:place] = new if how == "insert" else changed[place : place + 50 * len(new)]
        return bytes(changed[::-1] if backwards else changed)

    return st.lists(edit, min_size=1, max_size=6).map(partial(Made, apply))


def words() -> st.SearchStrategy[bytes]:
    return st.binary(min_size=1, max_size=6) | st.sampled_from(
        [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"-1", b"/"]
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def picture(kind: str) -> bytes:
    """A portrait, as a camera that is held upright stores it where the format can say so."""
    file = io.BytesIO()
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        turned = kind not in ("GIF", "BMP", "PPM", "JPEG2000")
        small = image.resize((96, 120))
        (small.transpose(Image.Transpose.ROTATE_90) if turned else small).save(file, kind, exif=exif)
    return file.getvalue()


pictures = st.sampled_from(KINDS).flatmap(lambda kind: damaged(picture(kind), 400) | damaged(picture(kind))).map(bytes)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load()


def test_pictures(fuzz: Fuzz, recognizer: Recognizer) -> None:
    for kind in KINDS:
        assert recognizer.predict(picture(kind)), kind
    fuzz("pictures of the nine formats that are read", picture("PNG"), pictures, recognizer.predict)


def test_pictures_to_train_on(fuzz: Fuzz, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "whole.png").write_bytes(picture("PNG"))

    def door(contents: list[bytes]) -> None:
        for number, (name, content) in enumerate(zip(CLASSES, contents, strict=False)):
            (tmp_path / name / f"{number}.png").write_bytes(content)
        packed = pack(FolderSource(tmp_path), "skip")
        if packed.skipped:
            raise UserError(packed.skipped[0])

    fuzz("folders of image files", list(map(picture, KINDS[:4])), st.lists(pictures, min_size=1, max_size=4), door)


def test_rows_of_csv(fuzz: Fuzz, tmp_path: Path) -> None:
    pixels = " ".join(["7"] * 2304)
    rows = [f"{label},{pixels},{usage}" for label, usage in enumerate(["Training", "PublicTest", "PrivateTest"])]
    content = "\n".join(["emotion,pixels,Usage", *rows]).encode()

    def door(changed: bytes | Made) -> None:
        path = tmp_path / "fer2013.csv"
        path.write_bytes(bytes(changed))
        pack(Fer2013Csv(path), "skip")

    fuzz("CSV files", content, damaged(content, 40) | damaged(content) | st.binary(max_size=200), door)


def test_names_of_class_folders(fuzz: Fuzz, tmp_path: Path) -> None:
    root = tmp_path / "data"
    folders = {"train": "Training_1.png", "test": "PublicTest_1.png"}
    places = st.sampled_from([(part, name) for part in folders for name in (*CLASSES, "another")])
    name = st.sampled_from([*CLASSES, "train", "test", "..", "<img src=x onerror=alert(1)>"]) | st.text(max_size=300)

    def door(names: dict[tuple[str, str], str]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        for part in folders:
            for own in CLASSES:
                names = {(part, own): own} | names
        for (part, _), own in names.items():
            folder = root / part / own.replace("/", "").replace("\0", "")
            with suppress(OSError, UnicodeEncodeError):  # what no file system holds
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("L", (48, 48)).save(folder / folders[part])
        refusals = []
        for source in (FolderSource, Fer2013Folders):
            try:
                pack(source(root), "skip")
            except UserError as error:
                refusals.append(error)
        for refusal in refusals:
            raise refusal

    fuzz("names of class folders", {}, st.dictionaries(places, name, min_size=1, max_size=4), door)


def test_settings_on_the_command_line(fuzz: Fuzz) -> None:
    keys = st.sampled_from([*plain(compose()), "trainer.max_epochs", "trainer.devices", "hydra.run.dir"])
    value = st.text(max_size=12) | values.map(lambda value: json.dumps(value, default=str))
    words = st.tuples(keys, value).map("=".join) | st.text(max_size=20)

    def door(word: str) -> None:
        try:
            check_overrides([word])
            config = compose(quote_argument(word))
        except (HydraException, OmegaConfBaseException, SystemExit) as error:
            raise UserError(str(error)) from None  # Hydra and argparse say these without a traceback
        read(config)

    fuzz("settings on the command line", "lr=0.01", words, door)


def test_settings_that_a_checkpoint_holds(fuzz: Fuzz) -> None:
    known = plain(compose())
    names = [*EmotionDataModule().hparams]
    changes = st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=2)

    def door(changed: dict[str, Any]) -> None:
        Settings.of(known | changed)
        data_module(**changed)

    fuzz("values in YAML files", {"seed": 1, "flip": 0.5}, changes, door)


def require_used(found: tuple[list[Run], list[SkippedRun]]) -> None:
    """A run that is left out of the page counts as refused."""
    for unused in found[1]:
        raise UserError(unused.reason)


def test_runs_that_are_reported(fuzz: Fuzz, finished: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kept = {path.name: path.read_bytes() for path in (finished.config, finished.metrics, finished.predictions)}
    changed = st.sampled_from(list(kept)).flatmap(lambda name: st.tuples(st.just(name), damaged(kept[name])))

    def door(change: tuple[str, Made]) -> None:
        folder.mkdir(exist_ok=True)
        for name, content in (kept | dict([change])).items():
            (folder / name).write_bytes(bytes(content))
        require_used(find_runs([folder]))

    whole = (finished.metrics.name, kept[finished.metrics.name])
    fuzz("config.yaml, metrics.json and predictions.npz of a run", whole, changed, door)


def test_runs_whose_values_are_others(fuzz: Fuzz, finished: RunFolder, tmp_path: Path) -> None:
    """Files that are well-formed, but hold what no run writes; those that are not refused are put on a page."""
    folder, good = RunFolder(tmp_path / "runs" / "changed"), tmp_path / "runs" / "good"
    shutil.copytree(finished.path, good, ignore=shutil.ignore_patterns("checkpoints", "*.png"))
    shutil.copytree(good, folder.path)
    known, figures = read_yaml(finished.config) | {"data_dir": "gone"}, read_json(finished.metrics)
    stored = dict(np.load(finished.predictions))
    kinds = st.sampled_from(["f2", "i8", "u1", "U3", "?"])
    array = st.tuples(kinds, st.lists(st.sampled_from([0, 1, 7, 42]), max_size=2), st.sampled_from([0, 1, -1, np.nan]))
    changes = st.one_of(
        st.tuples(st.just("config"), st.dictionaries(st.sampled_from(list(known)), values, min_size=1, max_size=2)),
        st.tuples(st.just("run"), st.dictionaries(st.sampled_from(list(figures["run"])), values, min_size=1) | values),
        st.tuples(st.just("arrays"), st.dictionaries(st.sampled_from(list(stored)), array, min_size=1, max_size=2)),
    )

    def door(change: tuple[str, Any]) -> None:
        what, new = change
        folder.config.write_text(OmegaConf.to_yaml(known | new if what == "config" else known))
        run = (figures["run"] | new if isinstance(new, dict) else new) if what == "run" else figures["run"]
        folder.metrics.write_text(json.dumps(figures | {"run": run}))
        arrays = new if what == "arrays" else {}
        with np.errstate(invalid="ignore"):  # what an array of that type cannot hold
            made = {name: np.full(shape, value).astype(kind) for name, (kind, shape, value) in arrays.items()}
        np.savez(folder.predictions, **stored | made)
        runs, unused = find_runs([tmp_path / "runs"])
        assert len(runs) + len(unused) == 2
        configurations, _ = group(runs)
        measures.pairs_table(measures.compare_pairs(configurations))
        for table in ("protocol", "metrics", "calibration", "cost"):
            getattr(measures, f"{table}_table")(configurations)
        for blocks in (published_tables, detailed_scores, folds_table):
            blocks(configurations)
        require_used((runs, unused))

    fuzz("values in the files of a run that is reported", ("config", {}), changes, door)


def test_settings_of_a_run_that_goes_on(fuzz: Fuzz, finished: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    def door(content: bytes | Made) -> None:
        folder.path.mkdir(exist_ok=True)
        folder.config.write_bytes(bytes(content))
        kept = read(folder.read_config())
        folder.require_same_run(kept)
        folder.claim(kept, {}, 0)

    content = finished.config.read_bytes()
    fuzz("config.yaml of a run that goes on", content, damaged(content) | st.binary(max_size=60), door)


def file_door(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def door(content: bytes | Made) -> None:
        path.write_bytes(bytes(content))
        read(path)

    return door


def test_checkpoints(fuzz: Fuzz, finished: RunFolder, tmp_path: Path) -> None:
    content = finished.best.read_bytes()
    inputs = damaged(content, 4000) | damaged(content) | st.binary(max_size=100)
    fuzz("checkpoints", content, inputs, file_door(tmp_path / "a.ckpt", load_checkpoint))


def test_predictions(fuzz: Fuzz, finished: RunFolder, tmp_path: Path) -> None:
    content = finished.predictions.read_bytes()
    fuzz("files of predictions", content, damaged(content), file_door(tmp_path / "a.npz", load_predictions))
    header = st.tuples(st.sampled_from(["<i8", "|O", "<U900000", "<f2"]), st.lists(st.integers(0, 2**62), max_size=3))
    stored = dict(np.load(finished.predictions))

    def door(facts: tuple[str, list[int]]) -> None:
        text = repr({"descr": facts[0], "fortran_order": False, "shape": tuple(facts[1])}).encode() + b"\n"
        path = tmp_path / "b.npz"
        np.savez(path, **{name: array for name, array in stored.items() if name != "test_ids"})
        with zipfile.ZipFile(path, "a") as archive:
            start = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text
            archive.writestr("test_ids.npy", start + bytes(4 * len(stored["test_ids"])))
        load_predictions(path)

    fuzz("headers of arrays", ("<U1", [len(stored["test_ids"])]), header, door)


def judge(path: Path) -> None:
    """Loads a network and asks it about a face."""
    classifier = load_pretrained(path)
    side = classifier.card.side
    assert classifier(torch.zeros(1, 1, side, side, dtype=torch.uint8)).isfinite().all()


def test_shipped_networks(fuzz: Fuzz, tmp_path: Path) -> None:
    content = (SHIPPED / "small.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    own = json.loads(content[8 : 8 + size])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F16", "F32", "I64", "X"]),
            "shape": st.lists(st.integers(-1, 2**60), max_size=4),
            "data_offsets": st.lists(st.integers(-1, 2**62), min_size=2, max_size=2),
        }
    )
    changes = st.dictionaries(st.sampled_from(list(own)), entry | values, min_size=1, max_size=2)

    def rebuilt(changed: dict[str, Any]) -> bytes:
        text = json.dumps(own | changed).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    card = json.loads(own["__metadata__"]["emotion"])
    number = st.integers(-1, 2**40) | st.floats()
    claim = values | number | st.lists(number, max_size=9) | st.sampled_from(["cnn", "timm", "flip"])
    claims = st.fixed_dictionaries(
        {
            "card": st.dictionaries(st.sampled_from([*card]), claim, max_size=2),
            "network": st.dictionaries(st.sampled_from([*card["network"], "backbone", "dropout"]), claim, max_size=3),
        }
    )

    def claiming(changed: dict[str, Any]) -> bytes:
        claimed = card | {"network": card["network"] | changed["network"]} | changed["card"]
        return rebuilt({"__metadata__": {"emotion": json.dumps(claimed)}})

    inputs = damaged(content, 60) | damaged(content, size) | changes.map(partial(Made, rebuilt))
    own_claims = Made(claiming, {"card": {}, "network": {}})
    fuzz(
        "cards of networks",
        own_claims,
        claims.map(partial(Made, claiming)),
        file_door(tmp_path / "c.safetensors", judge),
    )
    fuzz("safetensors files", content, inputs, file_door(tmp_path / "a.safetensors", load_pretrained))
    fuzz("pretrained weights", content, inputs, file_door(tmp_path / "b.safetensors", read_state))


def test_exported_networks(fuzz: Fuzz, tmp_path: Path) -> None:
    content = (SHIPPED / "small.onnx").read_bytes()

    def door(changed: bytes | Made) -> None:
        path = tmp_path / "a.onnx"
        path.write_bytes(bytes(changed))
        network = OnnxNetwork(path)
        network(np.zeros((2, network.side, network.side), np.uint8))

    changed = damaged(content, 4000) | damaged(content, 40_000, backwards=True)  # the graph is there
    fuzz("ONNX files", content, changed, door)


def test_bodies_of_requests(fuzz: Fuzz, recognizer: Recognizer) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%b\r\n--x--\r\n'
    a_form, a_picture = st.just("multipart/form-data; boundary=x"), st.just("image/png")
    a_json, raw = st.just("application/json"), st.just("application/octet-stream")
    listed = st.builds(lambda text: b'{"images": ["%b"]}' % base64.b64encode(bytes(text)), pictures)
    kinds = st.sampled_from(["application/json", "", "multipart/x;;"]) | a_form | a_picture
    bodies = (
        st.tuples(pictures, a_picture)
        | st.tuples(pictures.map(lambda own: form % own), a_form)
        | st.tuples(damaged(form % picture("PNG"), 120), a_form)
        | st.tuples(pictures, raw)
        | st.tuples(listed, a_json)
        | st.tuples(damaged(b'{"images": ["%b"]}' % base64.b64encode(picture("PNG")), 120), a_json)
        | st.tuples(st.binary(max_size=100), kinds)
    )
    value = st.text(max_size=9) | st.sampled_from(["small", "true", "false"]) | st.floats().map(str)
    parameters = ("network", "detect", "heatmap", "min_face", "confidence", "max_faces", "x")
    query = st.dictionaries(st.sampled_from(parameters), value, max_size=3)

    with TestClient(make_service({"small": recognizer}), raise_server_exceptions=False) as client:

        def door(request: tuple[tuple[bytes | Made, str], dict[str, str]]) -> None:
            (content, kind), parameters = request
            answer = client.post("/predict", content=bytes(content), params=parameters, headers={"content-type": kind})
            assert answer.status_code < 500
            assert "Traceback" not in answer.text
            if answer.status_code != 200:
                raise UserError(answer.text)

        whole = (form % picture("PNG"), "multipart/form-data; boundary=x"), {"network": "small", "heatmap": "true"}
        fuzz("requests to the service", whole, st.tuples(bodies, query), door)


def test_links_stay_inside(tmp_path: Path, record: Callable[[str, int, int], None]) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    Image.new("L", (4, 4), 99).save(outside / "secret.png")
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(data / name / "1.png")
        (data / name / "2.png").symlink_to("1.png")
        (data / name / "3.png").symlink_to(outside / "secret.png")
        (data / name / "4.png").symlink_to(f"../../{outside.name}/secret.png")
        (data / name / "5.png").symlink_to(data / "nowhere.png")
        (data / name / "round").symlink_to(data)
    packed = pack(FolderSource(data), "skip")
    wrong = int(packed.images.any((1, 2, 3)).sum()) + abs(len(packed) - 2 * len(CLASSES))
    record("links that lead out of a data folder, nowhere, or round in it", 4 * len(CLASSES), wrong)
    assert len(packed) == 2 * len(CLASSES)
    assert not packed.images.any()
    assert sum("leads out of" in line for line in packed.skipped) == 2 * len(CLASSES)
    shutil.rmtree(data / "sad")
    (data / "sad").symlink_to(outside)
    with pytest.raises(UserError, match="leads out of"):
        FolderSource(data)
