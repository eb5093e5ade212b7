"""The commands that use a trained network, as they are typed."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image
from typer.testing import CliRunner

import emotion
from emotion.cli import app
from emotion.pretrained import SHIPPED

PORTRAIT = get_sample_data("grace_hopper.jpg", asfileobj=False)


@pytest.fixture
def black(tmp_path: Path) -> str:
    Image.new("L", (48, 48)).save(tmp_path / "black.png")
    return str(tmp_path / "black.png")


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "140"})


def test_a_table(black: str) -> None:
    done = invoke("predict", str(PORTRAIT), black)
    assert done.exit_code == 0
    assert "neutral" in done.stdout
    assert "no face" in done.stdout
    assert done.stderr == ""


def test_json_and_csv_are_nothing_else(black: str) -> None:
    (expected,) = emotion.load().predict(PORTRAIT)
    told = json.loads(invoke("predict", "--json", str(PORTRAIT), black).stdout)
    assert [len(entry["faces"]) for entry in told] == [1, 0]
    assert tuple(told[0]["faces"][0]["box"]) == expected.box
    assert told[0]["faces"][0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    rows = list(csv.DictReader(io.StringIO(invoke("predict", "--csv", "--no-detect", black).stdout)))
    assert len(rows) == 1
    assert rows[0]["confidence"] == ""


def test_a_bad_file_among_good_ones(black: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = invoke("predict", "--json", "--no-detect", str(tmp_path))
    assert done.exit_code == 2
    assert len(json.loads(done.stdout)) == 1
    assert done.stderr == f"error: {tmp_path / 'bad.png'}: not an image that can be read\n"


def test_networks_and_views(tmp_path: Path) -> None:
    def happy(*words: str) -> float:
        return json.loads(invoke("predict", "--json", str(PORTRAIT), *words).stdout)[0]["faces"][0]["probabilities"][
            "neutral"
        ]

    one, other = happy(), happy("--tta", "none")
    both = happy("--ckpt", "small", "--ckpt", str(SHIPPED / "small.safetensors"))
    assert both == pytest.approx(one, abs=2e-4)
    assert abs(other - one) > 1e-3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nothing.jpg"], "nothing.jpg: no such file or folder"),
        (["--json", "--csv", str(PORTRAIT)], "--json and --csv"),
        (["--ckpt", "none", str(PORTRAIT)], "none: no such network"),
        (["--tta", "five", str(PORTRAIT)], "tta=five: not one of"),
        (["--smallest", "3", str(PORTRAIT)], "smallest=3"),
        (["--device", "cuda", str(PORTRAIT)], "device=cuda"),
        (["--ckpt", "hf://x", str(PORTRAIT)], "hf://<owner>/<repository>"),
    ],
)
def test_mistakes_get_a_sentence(words: list[str], part: str) -> None:
    done = invoke("predict", *words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert part in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--every", "0"], []])
def test_usage_is_explained(words: list[str]) -> None:
    done = invoke("predict", *words)
    assert done.exit_code == 2
    assert "Usage" in done.stderr


@pytest.mark.slow
def test_explain_writes_a_picture(tmp_path: Path, black: str) -> None:
    done = invoke("explain", str(PORTRAIT), "--class", "sad", "--out", str(tmp_path / "deep/why.png"))
    assert done.exit_code == 0
    assert done.stdout.startswith("neutral 80%")
    assert Image.open(tmp_path / "deep/why.png").size[1] > 400
    for words, part in (
        ([black], "no face found"),
        ([str(PORTRAIT), "--out", "why.bmp"], ".png, .svg or .pdf"),
        ([str(PORTRAIT), "--class", "joy"], "--class=joy"),
    ):
        done = invoke("explain", *words)
        assert (done.exit_code, part in done.stderr) == (2, True)


@pytest.mark.slow
def test_export_and_predict(tmp_path: Path) -> None:
    out = str(tmp_path / "own.onnx")
    done = invoke("export", "data=synthetic", "synthetic_images=300", "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "100.00% of the classes agree" in done.stdout
    own, shipped = (
        json.loads(invoke("predict", "--json", str(PORTRAIT), *more).stdout) for more in ([], ["--ckpt", out])
    )
    assert own == shipped
    done = invoke("export", "daat=synthetic")
    assert (done.exit_code, "did you mean" in done.stderr or "data" in done.stderr) == (2, True)


def test_push_needs_its_files(tmp_path: Path) -> None:
    done = invoke("push", "me/faces", str(SHIPPED / "small.onnx"), "--card", str(tmp_path / "none.md"))
    assert (done.exit_code, "none.md: no such file" in done.stderr) == (2, True)


@pytest.mark.parametrize("command", ["predict", "explain", "export", "push", "serve", "app"])
def test_help_has_an_example(command: str) -> None:
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert f"emotion {command}" in done.stdout


@pytest.mark.parametrize("command", ["serve", "app"])
def test_what_cannot_be_served(command: str) -> None:
    done = invoke(command, "--ckpt", "none", "--port", "0")
    assert (done.exit_code, "none: no such network" in done.stderr) == (2, True)
    done = invoke(command, "--host", "no.such.host.invalid", "--port", "0")
    assert (done.exit_code, "cannot listen there" in done.stderr) == (2, True)


def test_help_and_predict_import_nothing_slow() -> None:
    slow = "{'torch', 'lightning', 'hydra', 'matplotlib', 'sklearn', 'scipy'}"
    for words, more in ((["--help"], " | {'cv2', 'onnxruntime', 'numpy'}"), (["predict", str(PORTRAIT)], "")):
        program = (
            f"import sys; sys.argv = ['emotion', *{words!r}]\n"
            "from emotion.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            f"found = set(sys.modules) & ({slow}{more})\n"
            "sys.exit(str(found) if found else 0)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
