"""The commands that use a trained network."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_films import draw_film
from matplotlib.cbook import get_sample_data
from PIL import Image
from typer.testing import CliRunner

import emotion
from emotion import cli
from emotion.cli import app
from emotion.data.classes import CLASSES
from emotion.inference import faces, film
from emotion.inference.images import ANNOTATED_LIST, read_image
from emotion.inference.video import Video
from emotion.shipped import SHIPPED

PORTRAIT = str(get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture
def black(tmp_path: Path) -> str:
    Image.new("L", (48, 48)).save(tmp_path / "black.png")
    return str(tmp_path / "black.png")


def invoke(*arguments: str, columns: int = 140):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)})


def refused(*arguments: str) -> str:
    """Runs a command that must fail, and returns its one line on stderr."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def predict(*arguments: str):
    """Returns the parsed output of `emotion predict --json`."""
    result = invoke("predict", "--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def probabilities(*arguments: str) -> dict[str, float]:
    return predict(PORTRAIT, *arguments)[0]["faces"][0]["probabilities"]


def test_table(black: str) -> None:
    result = invoke("predict", PORTRAIT, black)
    assert result.exit_code == 0
    assert "neutral" in result.stdout
    assert "no face" in result.stdout
    assert result.stderr == ""


def test_table_in_a_narrow_terminal(tmp_path: Path) -> None:
    path = tmp_path / "[bold]a :smile: very long name of an image.png"
    Image.open(PORTRAIT).save(path)
    result = invoke("predict", str(path), columns=60)
    rows = result.stdout.splitlines()
    assert max(map(len, rows)) <= 60
    assert rows[1].startswith(f"{str(path)[:6]}…e.png")
    assert "neutral" in rows[1]
    assert "82%" in rows[1]


def test_json_and_csv_agree_with_the_python_api(black: str) -> None:
    (expected,) = emotion.load().predict(PORTRAIT)
    entries = predict(PORTRAIT, black)
    assert [entry["file"] for entry in entries] == [PORTRAIT, black]
    assert [len(entry["faces"]) for entry in entries] == [1, 0]
    (face,) = entries[0]["faces"]
    assert tuple(face["box"]) == expected.box
    assert face["label"] == expected.label == "neutral"
    assert face["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    rows = list(csv.DictReader(io.StringIO(invoke("predict", "--csv", PORTRAIT, black).stdout)))
    assert [row["file"] for row in rows] == [PORTRAIT, black]
    assert {name: float(rows[0][name]) for name in CLASSES} == face["probabilities"]
    assert rows[1]["label"] == ""


def test_images_of_one_face(black: str) -> None:
    (row,) = csv.DictReader(io.StringIO(invoke("predict", "--csv", "--no-detect", black).stdout))
    (expected,) = emotion.load().predict(np.zeros((48, 48), np.uint8), detect=False)
    assert row["confidence"] == ""
    assert row["label"] == expected.label
    assert [row[name] for name in ("left", "top", "width", "height")] == ["0", "0", "48", "48"]


def test_folders_patterns_and_repeated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "deep/er/b.jpg", "deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for arguments, files in (
        (["."], ["a.png", "deep/c.png", "deep/er/b.jpg"]),
        (["deep", "deep/c.png", "a.png"], ["deep/c.png", "deep/er/b.jpg", "a.png"]),
        (["**/*.png", "a.png"], ["a.png", "deep/c.png"]),
    ):
        assert [entry["file"] for entry in predict("--no-detect", *arguments)] == files


def test_a_bad_file_among_good_ones(black: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = invoke("predict", "--json", "--no-detect", str(tmp_path))
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == f"error: {tmp_path / 'bad.png'}: not an image that can be read\n"
    result = invoke("predict", str(tmp_path / "bad.png"))
    assert (result.exit_code, result.stdout) == (2, "")


def test_videos(tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    draw_film(tmp_path / "film.mp4", [pixels] * 11, rate=12.5)
    entries = predict(str(tmp_path / "film.mp4"))
    assert [entry["second"] for entry in entries] == [0, 0.4, 0.8]  # every fifth frame by default
    entries = predict(str(tmp_path / "film.mp4"), "--frame-stride", "4", "--out", str(tmp_path / "out"))
    assert [entry["second"] for entry in entries] == [0, 0.32, 0.64]
    assert [entry["faces"][0]["label"] for entry in entries] == ["neutral"] * 3
    annotated = Video(tmp_path / "out/film.mp4")
    assert (annotated.rate, annotated.frames) == (12.5, 11)
    frame = next(iter(annotated)).pixels
    assert frame.shape == pixels.shape
    left, top, width, _ = entries[0]["faces"][0]["box"]
    assert np.abs(frame.astype(int) - pixels)[top, left : left + width].mean() > 40
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"film.mp4", ANNOTATED_LIST}


def test_films_are_summarised_by_person(tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    draw_film(tmp_path / "film.mp4", [pixels] * 30, rate=10)
    result = invoke("predict", str(tmp_path / "film.mp4"))
    assert (result.exit_code, result.stderr) == (0, "")
    title, header, row = result.stdout.splitlines()
    assert title.strip() == "film.mp4"
    assert header.split() == ["person", "from", "to", "seen", "expressions", "changes", "longest"]
    assert row.split()[:7] == ["1", "0.0", "s", "3.0", "s", "3.0", "s"]
    assert "neutral 100%" in row
    rows = list(csv.DictReader(io.StringIO(invoke("predict", "--csv", str(tmp_path / "film.mp4")).stdout)))
    assert [(row["frame"], row["second"], row["person"]) for row in rows] == [
        (str(5 * n), str(n / 2), "1") for n in range(6)
    ]
    seconds = invoke("predict", "--jsonl", "--per-second", str(tmp_path / "film.mp4")).stdout.splitlines()
    assert [json.loads(line)["second"] for line in seconds] == [0, 1, 2]


def test_timelines(tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    for name in ("a", "b"):
        draw_film(tmp_path / f"{name}.mp4", [pixels] * 15, rate=10)
    assert invoke("predict", str(tmp_path / "a.mp4"), "--timeline", str(tmp_path / "line.html")).exit_code == 0
    page = (tmp_path / "line.html").read_text()
    assert "data:image/jpeg" in page
    assert "a.mp4" in page
    result = invoke("predict", str(tmp_path / "*.mp4"), "--timeline", str(tmp_path / "line.png"))
    assert result.exit_code == 0
    assert result.stderr == "".join(f"note: timeline: {tmp_path}/line-{name}.png\n" for name in "ab")
    assert {path.name for path in tmp_path.glob("*.png")} == {"line-a.png", "line-b.png"}
    assert Image.open(tmp_path / "line-a.png").width >= 1600


@pytest.mark.process
def test_an_image_from_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emotion", "predict", "-", "--json"]
    reason = "not an image that can be read"
    film = draw_film(tmp_path / "film.mp4", 1).read_bytes()
    for content, problem in (
        (Path(PORTRAIT).read_bytes(), ""),
        (b"no image", reason),
        (b"", "an empty file"),
        (film, "a video, not an image"),
    ):
        result = subprocess.run(command, input=content, capture_output=True)
        assert result.returncode == (2 if problem else 0)
        if not problem:
            (entry,) = json.loads(result.stdout)
            assert entry["file"] == "-"
            assert [face["label"] for face in entry["faces"]] == ["neutral"]
        else:
            assert result.stderr.decode() == f"error: image: {problem}\n"


def test_a_camera_prints_a_line_for_each_frame(tmp_path: Path) -> None:
    """A film stands for the camera."""
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    black = np.zeros((480, 480, 3), np.uint8)
    path = draw_film(tmp_path / "camera.mp4", [black] * 2 + [pixels[:480, :480]] * 4, rate=5)
    result = invoke("webcam", str(path), "--json")
    assert result.exit_code == 0
    assert result.stderr == f"note: {path}: the video has ended\n"
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["frame"] for entry in entries] == list(range(6))
    assert [[(face["person"], face["label"]) for face in entry["faces"]] for entry in entries] == [
        *[[]] * 2,
        *[[(1, "neutral")]] * 4,
    ]
    table = invoke("webcam", str(path)).stdout
    assert "person 1" in table
    assert "neutral" in table


def test_passwords_of_cameras_are_not_printed() -> None:
    for scheme in ("rtsp", "RTSP"):
        text = refused("webcam", f"{scheme}://user:p@ss@127.0.0.1:9/live")
        assert "p@ss" not in text
        assert f"{scheme}://127.0.0.1:9/live" in text
    for rest in ("user=admin&password=p@ss&channel=1", "live?user=admin&password=p@ss", "?token=p@ss"):
        text = refused("webcam", f"rtsp://127.0.0.1:9/{rest}")
        assert "p@ss" not in text
        assert "rtsp://127.0.0.1:9/" in text


@pytest.mark.parametrize("camera", ["77", "nothing.mp4"])
def test_a_missing_camera_gets_one_line(camera: str) -> None:
    assert camera in refused("webcam", camera)


def test_defaults_of_the_command_are_those_of_python() -> None:
    assert (cli.CONFIDENCE, cli.FRAME_STRIDE) == (faces.CONFIDENCE, film.FRAME_STRIDE)
    assert (cli.SMOOTH, cli.MOST_SMOOTH) == (film.SMOOTH, film.MOST_SMOOTH)


def test_help_lists_commands_in_groups() -> None:
    text = invoke("--help").stdout
    groups = [text.index(group) for group in ("Use a network", "Train a network", "Inspect data")]
    assert groups == sorted(groups)
    assert groups[0] < text.index(" predict ", groups[0]) < groups[1] < text.index(" train ", groups[1]) < groups[2]


def test_annotated_images(tmp_path: Path, black: str) -> None:
    result = invoke("predict", black, "--no-detect", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert np.asarray(Image.open(tmp_path / "out/black.png")).any()
    assert "would replace" in refused("predict", black, "--out", str(tmp_path))


def test_tta() -> None:
    plain = probabilities()
    for tta in ("none", "flip", "shifts", "ten_crop"):
        (expected,) = emotion.load(tta=tta).predict(PORTRAIT)
        assert probabilities("--tta", tta) == pytest.approx(expected.probabilities, abs=1e-4)
        assert (probabilities("--tta", tta) == plain) == (tta == "flip")


def test_several_networks_are_averaged() -> None:
    weights = str(SHIPPED / "small.safetensors")
    assert probabilities("--ckpt", "small", "--ckpt", weights) == pytest.approx(probabilities(), abs=2e-4)
    (expected,) = emotion.load(["small", weights], tta="none").predict(PORTRAIT)
    both = probabilities("--ckpt", "small", "--ckpt", weights, "--tta", "none")
    assert both == pytest.approx(expected.probabilities, abs=1e-4)


def test_min_face(tmp_path: Path) -> None:
    scene = Image.new("RGB", (1000, 800), (120, 120, 120))
    scene.paste(Image.open(PORTRAIT).resize((128, 150)), (500, 300))
    scene.save(tmp_path / "scene.png")
    faces = [
        len(predict(str(tmp_path / "scene.png"), *arguments)[0]["faces"])
        for arguments in ([], ["--min-face", "0.03"], ["--smallest", "0.2"])
    ]
    assert faces == [1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nothing.jpg", PORTRAIT], "nothing.jpg: no such file or folder"),
        (["*.nothing"], "*.nothing: no file matches this pattern"),
        (["--json", "--csv", PORTRAIT], "--json, --jsonl and --csv: use one of them"),
        (["--jsonl", "--csv", PORTRAIT], "--json, --jsonl and --csv: use one of them"),
        (["--timeline", "x.gif", PORTRAIT], "--timeline x.gif: wrong suffix; use .html or .png"),
        (["--confidence", "2", PORTRAIT], "--confidence 2.0: a number from 0.1 to 1 is needed"),
        (["--ckpt", "none", PORTRAIT], "none: no such file"),
        (["--ckpt", "small", "--ckpt", "none", PORTRAIT], "none: no such file"),
        (["--ckpt", PORTRAIT, PORTRAIT], "grace_hopper.jpg"),
        (["--tta", "five", PORTRAIT], "tta=five: not one of"),
        (["--min-face", "3", PORTRAIT], "--min-face 3.0: a share of the image's longer side"),
        (["--min-face", "nan", PORTRAIT], "--min-face nan"),
        (["--device", "cuda:77", PORTRAIT], "device=cuda:77"),
        (["--device", "cuda:77", "--ckpt", str(SHIPPED / "small.safetensors"), PORTRAIT], "device=cuda:77"),
        (["--ckpt", "hf://x", PORTRAIT], "hf://<owner>/<repository>"),
        (["", PORTRAIT], "an empty path"),
        (["https://a.example/a.jpg"], "https://a.example/a.jpg: addresses are not fetched; download the file first"),
        ([PORTRAIT, "--out", PORTRAIT], f"--out {PORTRAIT}: a file; a folder is needed"),
    ],
)
def test_mistakes_get_one_line(arguments: list[str], part: str) -> None:
    assert part in refused("predict", *arguments)


def test_the_folder_of_annotated_copies_is_named(black: str, tmp_path: Path) -> None:
    result = invoke("predict", black, "--out", str(tmp_path / "out"))
    assert result.stdout.splitlines()[-1] == f"annotated: {tmp_path / 'out'}"


def test_a_live_table_in_a_pipe_ends_its_last_line(tmp_path: Path) -> None:
    draw_film(tmp_path / "film.mp4", 2)
    assert invoke("webcam", str(tmp_path / "film.mp4")).stdout.endswith("no face\n")


def test_per_second_without_videos_is_noted(black: str) -> None:
    for arguments in (["--csv"], []):
        result = invoke("predict", black, "--per-second", *arguments)
        assert (result.exit_code, result.stderr) == (0, "note: --per-second: there are no videos\n")


def test_annotated_files_that_cannot_be_written_get_one_line(tmp_path: Path, black: str) -> None:
    draw_film(tmp_path / "film.mp4", 1)
    (tmp_path / "file").touch()
    for path in (black, str(tmp_path / "film.mp4")):
        assert "file" in refused("predict", "--no-detect", path, "--out", str(tmp_path / "file"))
        assert "Not a directory" in refused("predict", "--no-detect", path, "--out", str(tmp_path / "file/deep"))


@pytest.mark.parametrize(
    "arguments",
    [["--frame-stride", "0"], ["--every", "-3"], ["--every=x"], ["--min-face", "x"], ["--nonsense"], []],
    ids=" ".join,
)
def test_wrong_usage_shows_the_usage(arguments: list[str]) -> None:
    result = invoke("predict", *arguments, *([PORTRAIT] if arguments else []))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr


def test_explain_writes_a_figure(tmp_path: Path) -> None:
    kinds = {"why.png": b"\x89PNG", "why.svg": b"<?xml", "why.PDF": b"%PDF"}
    for name, start in kinds.items():
        result = invoke("explain", PORTRAIT, "--class", "sad", "--out", str(tmp_path / "deep" / name))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"face 1: neutral 82%\nheatmaps: {tmp_path / 'deep' / name}\n"
        assert (tmp_path / "deep" / name).read_bytes().startswith(start)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == set(kinds)
    width, height = Image.open(tmp_path / "deep/why.png").size
    assert width > 1000
    assert height > 500  # two rows


def test_explain_without_detection(tmp_path: Path, black: str) -> None:
    out = str(tmp_path / "why.png")
    result = invoke("explain", black, "--no-detect", "--out", out, "--ckpt", str(SHIPPED / "small.safetensors"))
    assert (result.exit_code, result.stderr) == (0, "")
    (expected,) = emotion.load().predict(black, detect=False)
    assert result.stdout.startswith(f"face 1: {expected.label} {expected.probabilities[expected.label]:.0%}\n")


def test_refused_explanations_leave_no_figure(tmp_path: Path, black: str) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes((SHIPPED / "small.onnx").read_bytes())
    out = tmp_path / "why.png"
    for arguments, part in (
        ([black], "black.png: no face detected"),
        ([PORTRAIT, "--class", "joy"], "--class=joy: not one of angry"),
        ([PORTRAIT, "--ckpt", str(own)], "PyTorch cannot run it"),
        ([PORTRAIT, "--ckpt", "none"], "none: no such file"),
        ([PORTRAIT, "--device", "cuda:77"], "device=cuda:77"),
        ([str(tmp_path / "nothing.png")], "nothing.png: no such file"),
        ([str(tmp_path)], "not an image"),
    ):
        assert part in refused("explain", *arguments, "--out", str(out))
        assert not out.exists()
    for name in ("why.bmp", "why", "why.png.zip"):
        assert f"{name}: wrong suffix; use .png, .svg or .pdf" in refused("explain", PORTRAIT, "--out", name)
    assert f"--out {black}: would replace the image" in refused("explain", black, "--out", black)
    assert "black.png: File exists" in refused("explain", black, "--no-detect", "--out", f"{black}/why.png")


@pytest.mark.export
def test_export_and_predict(tmp_path: Path) -> None:
    out = str(tmp_path / "deep/own.onnx")
    result = invoke("export", "data=synthetic", "synthetic_images=300", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{out}: 6.0 MiB; on ")
    assert "100.00% of the classes agree" in result.stdout
    assert predict(PORTRAIT, "--ckpt", out) == predict(PORTRAIT)
    assert predict(PORTRAIT, "--ckpt", out, "--tta", "flip") == predict(PORTRAIT)
    assert "tta=shifts: own.onnx was exported with flip" in refused(
        "predict", PORTRAIT, "--ckpt", out, "--tta", "shifts"
    )


def test_refused_exports_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a folder without FER2013
    for arguments, part in (
        (["--int8"], "data_dir: nothing at data/fer2013"),
        (["data_dir=/nowhere"], "/nowhere"),
        (["daat=synthetic"], "daat"),
        (["data=nonsense"], "nonsense"),
        (["data=synthetic", "synthetic_images=many"], "synthetic_images=many"),
        (["data=synthetic", "--ckpt", "none"], "none: no such file"),
        (["data=synthetic", "--tta", "five"], "tta=five: not one of"),
        (["--out", "network.bin"], "--out network.bin: wrong suffix; use .onnx"),
        (["--ckpt", str(SHIPPED / "small.md")], "small.md"),
    ):
        assert part in refused("export", *arguments)
    assert list(tmp_path.iterdir()) == []


class Hub:
    """A fake hub that records the uploaded files."""

    def __init__(self) -> None:
        self.created: list[tuple] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repository, *, private, exist_ok):
        self.created.append((repository, private, exist_ok))
        return f"https://hub.invalid/{repository}"

    def repo_info(self, repository):
        return SimpleNamespace(private=self.created[-1][1])

    def file_exists(self, repository, name):
        return f"{repository}/{name}" in self.files

    def create_commit(self, repository, operations, *, commit_message):
        for operation in operations:
            content = operation.path_or_fileobj
            content = content if isinstance(content, bytes) else Path(content).read_bytes()
            self.files[f"{repository}/{operation.path_in_repo}"] = content


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    return hub


def test_push(tmp_path: Path, hub: Hub) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Ä card", encoding="utf-8")
    network, weights = SHIPPED / "small.onnx", SHIPPED / "small.safetensors"
    result = invoke("push", "me/faces", str(weights), str(network), "--card", str(card))
    assert (result.exit_code, result.stdout) == (0, "https://hub.invalid/me/faces\n")
    assert hub.created == [("me/faces", False, True)]
    assert hub.files == {
        "me/faces/network.onnx": network.read_bytes(),
        "me/faces/network.safetensors": weights.read_bytes(),
        "me/faces/README.md": "# Ä card".encode(),
    }
    assert invoke("push", "me/own", str(network), "--card", str(card), "--private").exit_code == 0
    assert hub.created[1:] == [("me/own", True, True)]


def test_refused_pushes_upload_nothing(tmp_path: Path, hub: Hub) -> None:
    card, damaged, network = tmp_path / "card.md", tmp_path / "damaged.md", str(SHIPPED / "small.onnx")
    card.touch()
    damaged.write_bytes(b"\xff")
    for arguments, part in (
        ([network, "--card", "none.md"], "none.md: no such file"),
        (["none.onnx", "--card", str(card)], "none.onnx: no such file"),
        ([network, "--card", str(damaged)], "damaged.md: not UTF-8"),
        ([network, network, "--card", str(card)], "one .onnx or one .safetensors"),
        ([str(card), "--card", str(card)], "card.md: one .onnx or one .safetensors"),
    ):
        assert part in refused("push", "me/faces", *arguments)
    assert hub.created == []
    assert invoke("push", "me/faces", network).exit_code == 2  # --card is required


COMMANDS = ["predict", "explain", "export", "push", "serve", "app", "report", "publish", "audit"]


@pytest.mark.parametrize("command", ["", *COMMANDS, "data", "data fetch", "data info"])
def test_help_has_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"emotion {command}" in result.stdout.split("Options")[0].split("Usage:")[1].split("\n", 1)[1]


@pytest.mark.parametrize("command", ["serve", "app"])
def test_refused_services(command: str) -> None:
    assert "none: no such file" in refused(command, "--ckpt", "none", "--port", "0")
    assert "cannot listen on this address" in refused(command, "--host", "no.such.host.invalid", "--port", "0")
    for arguments in (["--port", "99999"], ["--port", "-1"], ["--port", "x"], ["--nonsense"]):
        result = invoke(command, *arguments)
        assert result.exit_code == 2
        assert "Usage" in result.stderr


def test_the_second_network_of_the_page_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion.inference.service.run", lambda *given, **options: None)  # run() would not return
    assert "none: no such file" in refused("app", "--compare", "none", "--port", "0")


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], {"numpy", "av", "onnxruntime", "PIL"}),
        (["predict", "--help"], {"numpy", "av", "onnxruntime", "PIL"}),
        (["predict", PORTRAIT], set()),
    ],
)
@pytest.mark.process
def test_no_slow_package_is_imported(arguments: list[str], more: set[str]) -> None:
    slow = {"torch", "lightning", "hydra", "matplotlib", "sklearn", "scipy"} | more
    program = (
        "import sys, emotion.cli\n"
        f"sys.argv = ['emotion', *{arguments!r}]\n"
        "try: emotion.cli.main()\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        f"print(set(sys.modules) & {slow!r}, file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "set()\n")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8", "utf-16"])
@pytest.mark.process
def test_json_is_valid_in_every_encoding(encoding: str, tmp_path: Path, black: str) -> None:
    name = tmp_path / "\U0001f600 \u00e9.png"
    Path(black).rename(name)
    command = [sys.executable, "-m", "emotion", "predict", str(name), "--json"]
    result = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout.decode(encoding)) == [{"file": str(name), "faces": []}]


def test_tilde_after_an_equals_sign(tmp_path: Path, black: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert invoke("predict", black, "--no-detect", "--out=~/a").exit_code == 0
    assert invoke("predict", black, "--no-detect", "--out", "~/b").exit_code == 0
    assert (home / "a/black.png").is_file()
    assert (home / "b/black.png").is_file()
    for arguments, part in (
        (["explain", black, "--out=~/why.bmp"], f"{home}/why.bmp"),
        (["export", "--out=~/x.bin"], f"{home}/x.bin"),
        (["report", "~/none", "--out=~"], f"{home}/none"),
        (["push", "me/x", black, "--card=~/none.md"], f"{home}/none.md"),
        (["audit", "data=synthetic", "synthetic_images=140", "--out=~/a/black.png"], f"{home}/a/black.png"),
    ):
        assert part in refused(*arguments)
    assert not Path("~").exists()
    assert "~x/why.bmp" in refused("explain", black, "--out=~x/why.bmp")


def test_a_note_does_not_change_the_exit_status(tmp_path: Path, black: str) -> None:
    (tmp_path / "notes.txt").touch()
    result = invoke("predict", "--no-detect", "--json", str(tmp_path))
    assert (result.exit_code, len(json.loads(result.stdout))) == (0, 1)
    assert result.stderr == f"note: {tmp_path}: skipped 1 file of unreadable formats: notes.txt\n"


@pytest.mark.parametrize("form", ["--json", "--csv", "--detect"])
def test_an_interruption_prints_the_results_so_far(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        Image.new("L", (48, 48)).save(tmp_path / f"{number:02}.png")

    def interrupt(path: Path):
        if path.name == "10.png":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr("emotion.inference.predict.read_image", interrupt)
    result = invoke("predict", "--no-detect", form, str(tmp_path))
    assert result.exit_code == 130
    assert result.stderr.startswith("note: interrupted: these are the results so far")
    assert [f"{number:02}.png" in result.stdout for number in (0, 7, 10)] == [True, True, False]
    if form == "--json":
        assert len(json.loads(result.stdout)) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("form", ["--json", "--csv", "--detect"])
@pytest.mark.process
def test_stdout_holds_only_results_and_names_need_not_be_text(form: str, tmp_path: Path, black: str) -> None:
    name = tmp_path / os.fsdecode(b"not\xfftext.png")
    Path(black).rename(name)
    command = [sys.executable, "-m", "emotion", "predict", str(name), form]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "COLUMNS": "300"}  # room for the whole name
    result = subprocess.run(command, capture_output=True, env=environment)
    assert (result.returncode, result.stderr) == (0, b"")
    text = result.stdout.decode()
    if form == "--json":
        assert json.loads(text) == [{"file": str(name), "faces": []}]
    elif form == "--csv":
        assert len(list(csv.DictReader(io.StringIO(text)))) == 1
    assert "not\\udcfftext" in text.replace("\n", "")
