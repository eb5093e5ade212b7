"""Networks of other classes than the seven of FER2013, in files as users have them."""

import json
from pathlib import Path

import numpy as np
import torch
from builders import make_network
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from emotion.models.classifier import Card, Classifier

THREE = ("engaged", "bored", "confused")
"""Not in alphabetical order."""
FERPLUS = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
STRANGE = (
    "<img src=x onerror=alert(1)>",
    "=1+1",
    "日本語 😀",
    '$\\alpha_1$, "x"',
    "[bold]&amp;[/bold]",
    "constructor",
    "label",
)
"""Names that pages, spreadsheets, figures and tables could take for something else."""
SETTINGS = {"family": "resnet", "image_size": 48, "normalize": "unit", "blocks": [1, 1], "width": 8, "stem_stride": 2}


def make_classifier(classes: tuple[str, ...], temperature: float = 1.3, views: str = "flip") -> Classifier:
    """A small ResNet with random weights, which tells faces apart; equal classes give equal weights."""
    card = Card(SETTINGS, temperature, views, classes=list(classes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_network(len(classes), **SETTINGS)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        network.train()
        for _ in range(3):
            network(torch.rand(16, 1, 48, 48))
    return Classifier(network.eval(), card)


def write_onnx(path: Path, classes: tuple[str, ...], side: int = 32) -> Path:
    """Writes a network whose K logits are the first K pixels of a face, divided by 32."""
    values = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(classes)]),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "shape": np.array([0, side * side]),
        "first": np.array([0]),
        "last": np.array([len(classes)]),
        "axis": np.array([1]),
        "scale": np.array([32], np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "first", "last", "axis"], ["used"]),
        helper.make_node("Cast", ["used"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "hand-made", values[:1], values[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    card = {"classes": classes, "side": side, "views": "none", "temperature": 1.0, "facts": {}}
    helper.set_model_props(model, {"emotion": json.dumps(card)})
    path.write_bytes(model.SerializeToString())
    return path


def expected_shares(face: NDArray[np.uint8], number: int) -> NDArray[np.float64]:
    """Returns what the network of `write_onnx` says of a face, uint8 [side, side]: float64 [K]."""
    logits = face.ravel()[:number] / 32
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum())
