"""Tests of `OnnxNetwork` with hand-made graphs of a few nodes; test_export.py has files of real networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from emotion.data.classes import CLASSES
from emotion.errors import UserError
from emotion.models.onnx import OnnxNetwork
from emotion.shipped import SHIPPED

SIDE = 6
LEGAL = "is no class name; one has 1 to 64 printable characters"
WRONG_CLASSES: list[tuple[object, str]] = [
    (None, "classes: NoneType; a list of names is needed"),
    ("abcdefg", "classes: str; a list of names is needed"),
    ({"a": 0, "b": 1}, "classes: dict; a list of names is needed"),
    ([], "classes: 0 (none); 2 to 1,000 are legal"),
    (["alone"], "classes: 1 (alone); 2 to 1,000 are legal"),
    ([str(number) for number in range(1001)], " and 981 more); 2 to 1,000 are legal"),
    ([*CLASSES[:6], 6], f"classes: 6 {LEGAL}"),
    ([*CLASSES[:6], None], f"classes: None {LEGAL}"),
    ([*CLASSES[:6], ["sad"]], f"classes: ['sad'] {LEGAL}"),
    ([*CLASSES[:6], ""], f"classes: '' {LEGAL}"),
    ([*CLASSES[:6], "  "], f"classes: '  ' {LEGAL}"),
    ([*CLASSES[:6], 65 * "a"], f"classes: '{65 * 'a'} {LEGAL}"),
    ([*CLASSES[:6], [*range(10**4)]], f"classes: {str([*range(10**4)])[:66]} {LEGAL}"),
    ([*CLASSES[:6], "two\nlines"], rf"classes: 'two\nlines' {LEGAL}"),
    ([*CLASSES[:6], "two\u2028lines"], rf"classes: 'two\u2028lines' {LEGAL}"),
    ([*CLASSES[:6], "\x1b[31mred"], rf"classes: '\x1b[31mred' {LEGAL}"),
    ([*CLASSES[:6], "half \ud800"], rf"classes: 'half \ud800' {LEGAL}"),
    ([*CLASSES[:6], "angry"], "classes: angry, angry are the same class; name each once"),
    ([*CLASSES[:6], "Anger"], "classes: angry, Anger are the same class; name each once"),
]
"""What the seven outputs of a network cannot be called, and the reason."""
CARD = {"classes": CLASSES, "side": SIDE, "views": "shifts", "temperature": 1.0, "facts": {}}


def write(
    path: Path,
    card: object = CARD,
    evidence: NDArray[np.float32] | None = None,
    last: int = 7,
    end: str = "Softmax",
    side: int = SIDE,
) -> Path:
    """Writes a network whose probabilities depend on the first pixels of a face.

    Args:
        path: path of the file.
        card: card of the file.
        evidence: class activation maps, the second output; None for none.
        last: number of pixels in use.
        end: operator that turns the pixels into probabilities.
        side: height and width of the faces.
    """
    values = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", last]),
        helper.make_tensor_value_info("evidence", TensorProto.FLOAT, None),
    ]
    constants = {"shape": np.array([0, side * side]), "first": np.array([0]), "last": np.array([last]), "axis": [1]}
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "first", "last", "axis"], ["used"]),
        helper.make_node("Cast", ["used"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node(end, ["numbers"], ["probabilities"]),
    ]
    if evidence is not None:
        nodes.append(helper.make_node("Identity", ["maps"], ["evidence"]))
        constants["maps"] = evidence
    given = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "hand-made", values[:1], values[1 : 2 if evidence is None else 3], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        helper.set_model_props(model, {"emotion": card if isinstance(card, str) else json.dumps(card)})
    path.write_bytes(model.SerializeToString())
    return path


def drawn(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (number, SIDE, SIDE), np.uint8)


@pytest.mark.parametrize("number", [1, 2, 65])
def test_faces_are_mapped_to_probabilities(number: int, tmp_path: Path) -> None:
    network = OnnxNetwork(write(tmp_path / "hand.made.onnx"))
    answer = network(drawn(number))
    assert answer.dtype == np.float32
    pixels = torch.from_numpy(drawn(number).reshape(number, -1)[:, :7])
    assert np.allclose(answer, pixels.double().softmax(1), atol=1e-6)


def test_name_side_and_views_are_read(tmp_path: Path) -> None:
    network = OnnxNetwork(write(tmp_path / "hand.made.onnx"))
    assert (network.name, network.side, network.views) == ("hand.made", SIDE, "shifts")
    assert network.channels == 1, "older files do not say it"


@pytest.mark.parametrize(
    "classes",
    [
        ("yes", "no"),
        ("engaged", "bored", "confused"),
        (*CLASSES[:3], "contempt", *CLASSES[3:]),
        ("64 " * 21 + "!", "日本語 😀", "<b>&amp;</b>", "$\\alpha_1$", '=1+1,"'),
        tuple(map(str, range(1000))),
    ],
)
def test_classes_are_those_of_the_card_in_any_number(classes: tuple[str, ...], tmp_path: Path) -> None:
    card = CARD | {"classes": classes, "side": 32}
    network = OnnxNetwork(write(tmp_path / "net.onnx", card, last=len(classes), side=32))
    assert network.classes == classes
    faces = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    pixels = torch.from_numpy(faces.reshape(3, -1)[:, : len(classes)])
    assert np.allclose(network(faces), pixels.double().softmax(1), atol=1e-6)


def test_heatmaps_are_the_positive_evidence_for_the_class_enlarged(tmp_path: Path) -> None:
    evidence = np.random.default_rng(0).normal(size=(3, 7, 2, 3)).astype(np.float32)
    classes = np.array([4, 0, 6])
    network = OnnxNetwork(write(tmp_path / "net.onnx", evidence=evidence))
    maps = network.heatmaps(drawn(3), classes)
    assert maps.shape == (3, SIDE, SIDE)
    assert maps.dtype == np.float32
    for class_evidence, label, found in zip(evidence, classes, maps, strict=True):
        coarse = torch.from_numpy(class_evidence[label]).clamp(min=0)[None, None]
        fine = F.interpolate(coarse, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
        fine = (fine - fine.min()) / (fine.max() - fine.min())
        assert np.abs(found - fine.numpy()).max() < 1e-6


@pytest.mark.parametrize("tone", [-3, 0, 5])
def test_constant_evidence_gives_empty_heatmaps(tone: int, tmp_path: Path) -> None:
    network = OnnxNetwork(write(tmp_path / "net.onnx", evidence=np.full((2, 7, 3, 3), tone, np.float32)))
    assert not network.heatmaps(drawn(2), np.array([0, 6])).any()


def test_files_without_evidence_have_no_heatmaps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^plain: .*no class activation maps"):
        OnnxNetwork(write(tmp_path / "plain.onnx")).heatmaps(drawn(1), np.array([0]))


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (None, "emotion"),
        ("no JSON", "Expecting value"),
        ([1, 2], "indices must be integers"),
        ({key: value for key, value in CARD.items() if key != "side"}, "side"),
        ({key: value for key, value in CARD.items() if key != "views"}, "views"),
        (CARD | {"side": "large"}, "large"),
        (CARD | {"side": 0}, "side=0: a whole number from 1 to 1024"),
        (CARD | {"side": 40_000}, "side=40000: a whole number from 1 to 1024"),
        (CARD | {"side": SIDE + 1}, f"its faces are not {SIDE + 1} x {SIDE + 1}"),
        (CARD | {"channels": 2}, "channels=2: 1 (grey) or 3 (RGB) is needed"),
        (CARD | {"channels": [3]}, "int() argument must be"),
        (CARD | {"channels": 3}, f"its faces are not {SIDE} x {SIDE} x 3"),
        (CARD | {"classes": CLASSES[:6]}, "its outputs are not probabilities of its 6 classes"),
        (CARD | {"classes": [*CLASSES, "contempt"]}, "its outputs are not probabilities of its 8 classes"),
        *((CARD | {"classes": classes}, reason) for classes, reason in WRONG_CLASSES),
    ],
)
def test_other_cards_are_refused_in_one_line(card, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", card)
    with pytest.raises(UserError) as error:
        OnnxNetwork(path)
    assert str(error.value).startswith(f"{path}: not a network that `emotion export` wrote (")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("last", [6, 8])
def test_graphs_with_other_outputs_are_refused_when_they_are_read(last: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its outputs are not probabilities"):
        OnnxNetwork(write(tmp_path / "net.onnx", last=last))


@pytest.mark.parametrize("end", ["Identity", "Neg", "Log", "Reciprocal"])
def test_outputs_that_are_not_probabilities_are_refused_when_the_file_is_read(end: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its outputs are not probabilities"):
        OnnxNetwork(write(tmp_path / "net.onnx", end=end))


@pytest.mark.parametrize("output", [[np.nan] * 7, [2, -1, 0, 0, 0, 0, 0]], ids=["nan", "negative"])
def test_outputs_that_are_not_probabilities_are_refused_for_each_batch(output: list[float], tmp_path: Path) -> None:
    """The outputs become invalid after the check with a black face at loading."""
    network = OnnxNetwork(write(tmp_path / "net.onnx"))
    network._session = OnnxSession(np.array([output] * 2, np.float32))
    with pytest.raises(UserError, match="net: its outputs are not probabilities"):
        network(drawn(2))


class OnnxSession:
    """Replaces a session of onnxruntime."""

    def __init__(self, answer: NDArray[np.float32]) -> None:
        self.answer = answer

    def run(self, names: list[str], inputs: object) -> list[NDArray[np.float32]]:
        return [self.answer]


def test_weights_in_other_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "net.onnx", evidence=np.ones((1, 7, 9, 9), np.float32))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="near.bin", size_threshold=1000)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # onnxruntime reads them by default
    with pytest.raises(UserError, match=r"net.onnx: not a network that `emotion export` wrote \("):
        OnnxNetwork(path)


@pytest.mark.parametrize("damage", ["nothing", "garbage", "half", "flipped", "folder"])
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "nothing":
        flipped = bytes(255 - value for value in content)
        path.write_bytes({"garbage": b"no network", "half": content[: len(content) // 2], "flipped": flipped}[damage])
    with pytest.raises(UserError) as error:
        OnnxNetwork(path)
    assert str(error.value).startswith(f"{path}: not a network that `emotion export` wrote (")
    assert "\n" not in str(error.value)


def test_truncated_shipped_file_is_refused(tmp_path: Path) -> None:
    content = (SHIPPED / "small.onnx").read_bytes()
    for size in (0, 1, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "net.onnx").write_bytes(content[:size])
        with pytest.raises(UserError, match="not a network that `emotion export` wrote"):
            OnnxNetwork(tmp_path / "net.onnx")


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cuda:-1", "", "CPU", "cpu:0"])
def test_unknown_devices_are_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^device={device}: cpu, cuda or cuda:<number of the GPU> is needed$"):
        OnnxNetwork(write(tmp_path / "net.onnx"), device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_needs_another_package(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=rf"^device={device}: this onnxruntime .* install onnxruntime-gpu in its place"):
        OnnxNetwork(path, device)
    requested, used = [], ["CPUExecutionProvider"]

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments: Any, providers: list[Any], **options: Any) -> None:
            requested.append(providers)
            super().__init__(*arguments, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return used

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(UserError, match=rf"^device={device}: onnxruntime-gpu cannot be used here"):
        OnnxNetwork(path, device)
    used, requested[:] = ["CUDAExecutionProvider", "CPUExecutionProvider"], []
    OnnxNetwork(path, device)
    assert requested == [[("CUDAExecutionProvider", {"device_id": "1"} if device == "cuda:1" else {})]]
