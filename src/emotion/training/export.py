"""Writes networks as ONNX files: grey pixels in, calibrated probabilities out, and nothing else needed to run them."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emotion.data.classes import CLASSES
from emotion.data.datamodule import EmotionDataModule
from emotion.errors import UserError
from emotion.extras import require_extra
from emotion.files import atomic_write
from emotion.models.classifier import Classifier, load_pretrained
from emotion.models.network import Network
from emotion.models.onnx import METADATA, OnnxNetwork
from emotion.models.preprocess import LUMA
from emotion.privacy import import_onnxruntime
from emotion.shipped import find_weights
from emotion.training.checkpoint import load_checkpoint
from emotion.training.publish import uncalibrated

OPSET = 18
BATCH = 64
CALIBRATION = 1000
"""How many training images, at least, the ranges of eight bits are taken from."""


@dataclass(frozen=True)
class Exported:
    """How far the probabilities of a file that was written are from PyTorch's.

    Attributes:
        difference: the largest of any probability, over the images it was checked on.
        agreement: the share of these images with the same most probable class.
    """

    difference: float
    agreement: float


class _Graph(nn.Module):
    """The whole function of a classifier, and where each class was seen if its head allows that."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.averaged, self.temperature = classifier.averaged, classifier.card.temperature
        self.network, self.linear = classifier.network, None
        if self.averaged.views != "ten_crop":  # whose first view is a corner of the image, not the image
            self.linear = _averaging_head(classifier.network)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps images uint8 [B, S, S] to probabilities [B, K] and, from the image itself, evidence [B, K, h, w]."""
        # All views in one pass, so that the file holds the weights and the steps once.
        views = torch.stack(list(self.averaged.make(images[:, None])))
        maps = self.network.backbone(self.network.preprocess(views.flatten(0, 1)))
        each = self.network.head(maps).softmax(1).unflatten(0, views.shape[:2])
        probabilities = (each.mean(0).log() / self.temperature).softmax(1)
        if self.linear is None:
            return (probabilities,)
        shown = maps.unflatten(0, views.shape[:2])[0]
        return probabilities, torch.einsum("bchw,kc->bkhw", shown, self.linear.weight)


def export_network(
    name: str, out: Path, changes: Mapping[str, Any], views: str | None = None, int8: bool = False
) -> Iterator[str]:
    """Writes a network as ONNX, in eight bits too if asked, and yields a line on each file and what it costs.

    Compared is on validation images. Where there is no FER2013 and no other data is named, drawn faces do for the
    comparison, but the ranges of eight bits are not taken from them.

    Args:
        name: of a network, see `emotion.shipped.find_network`; not an `.onnx` file.
        out: the `.onnx` file; the one in eight bits gets `-int8` added to its name.
        changes: settings of the data that replace those of the checkpoint.
        views: whose mean counts; None leaves it to the file.
        int8: whether to write that one.

    Raises:
        UserError: no such network or data, or one that cannot be written.
    """
    classifier, data = _open(name, changes, int8)
    classifier.set_views(views)
    side = classifier.card.side
    images, labels = _faces(data, data.rows.val, side)
    exported = export_onnx(classifier, images, out)
    yield (
        f"{out}: {_mebibytes(out)}; on {len(images):,} validation images of {data.hparams['data']} no probability "
        f"differs from PyTorch's by more than {exported.difference:.1e}, {exported.agreement:.2%} of the classes agree"
    )
    if int8:
        small = out.with_name(f"{out.stem}-int8.onnx")
        rows = data.rows.train[:: max(1, len(data.rows.train) // CALIBRATION)]
        quantize_onnx(out, _faces(data, rows, side)[0], small)
        before, after = (accuracy(OnnxNetwork(path), images, labels) for path in (out, small))
        yield f"{small}: {_mebibytes(small)}; validation accuracy {after:.4f}, {before:.4f} in float32"


def export_onnx(classifier: Classifier, images: NDArray[np.uint8], out: Path) -> Exported:
    """Writes a classifier to an ONNX file with a free batch size and compares the two.

    Inputs of the file: `images` uint8 [B, S, S]. Outputs: `probabilities` float32 [B, K], with the views and the
    temperature of the card inside, and where the network ends in the mean over a feature map and one linear layer
    `evidence` float32 [B, K, h, w], its class activation maps (arXiv:1512.04150), but not with the views `ten_crop`.
    The file does not say where on this machine it was made.

    Args:
        classifier: to write.
        images: grey uint8 [N, S, S] to compare on.
        out: the `.onnx` file.

    Raises:
        UserError: the extra `export` is not installed, or the network cannot be written.
    """
    require_extra("export", "emotion export")
    graph = _Graph(classifier).eval()
    example = torch.zeros(2, classifier.card.side, classifier.card.side, dtype=torch.uint8)
    names = ["probabilities", "evidence"][: 1 if graph.linear is None else 2]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=names,
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=2**16)}},
                verbose=False,
            )
        except Exception as error:
            # What cannot be exported makes the exporter raise anything.
            raise UserError(f"{out}: this network cannot be written as ONNX ({type(error).__name__})") from None
    _save_onnx(program, json.dumps(_card(classifier)), out)
    return _compare(classifier, OnnxNetwork(out), images)


def _save_onnx(program: Any, card: str, out: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)  # each node says in which file and line it was made
    program.model.metadata_props[METADATA] = card
    with atomic_write(out) as temporary:
        program.save(temporary, external_data=False)


def quantize_onnx(path: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """Writes an exported file with the weights and inputs of its convolutions in eight bits.

    The first convolution, which sees the pixels, and the head stay as they are: little work, much to lose.

    Args:
        path: the file.
        calibration: training images, grey uint8 [N, S, S], from which the ranges of the activations are taken.
        out: the file to write.
    """
    require_extra("export", "emotion export")
    import_onnxruntime()
    from onnxruntime.quantization import (  # noqa: TID251
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: TID251

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        batches: Iterator[NDArray[np.uint8]] = iter(np.array_split(calibration, max(1, len(calibration) // BATCH)))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with TemporaryDirectory() as folder, atomic_write(out) as temporary:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            temporary,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[_first_convolution(prepared)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _first_convolution(path: Path) -> str:
    import onnx

    return next(str(node.name) for node in onnx.load(path).graph.node if node.op_type == "Conv")


def accuracy(network: OnnxNetwork, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Returns the share of images, grey uint8 [N, S, S], whose most probable class is their label."""
    return float((_run(network, images).argmax(1) == labels).mean())


def _open(name: str, changes: Mapping[str, Any], int8: bool) -> tuple[Classifier, EmotionDataModule]:
    path = find_weights(name)
    if path.suffix == ".safetensors":
        classifier, data = load_pretrained(path), EmotionDataModule(**{"split": "official", **changes})
    else:
        trained = load_checkpoint(path)
        classifier, data = uncalibrated(trained), trained.data_module(**changes)
    try:
        data.prepare_data()
    except UserError:
        if changes or int8:
            raise
        data = EmotionDataModule(data="synthetic")
    return classifier, data


def _faces(data: EmotionDataModule, rows: NDArray[np.int64], side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns grey images [N, side, side], as `emotion.inference.faces` makes them, and labels [N]."""
    images = data.packed.images[rows]
    grey = images[:, 0] if images.shape[1] == 1 else np.tensordot(images, LUMA, (1, 0)).round().astype(np.uint8)
    resized = [cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) for face in grey]
    return np.asarray(np.stack(resized), np.uint8), data.packed.labels[rows]


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def _compare(classifier: Classifier, network: OnnxNetwork, images: NDArray[np.uint8]) -> Exported:
    theirs = _run(network, images)
    ours = np.concatenate([classifier(torch.from_numpy(part)[:, None]).numpy() for part in _batches(images)])
    return Exported(float(np.abs(ours - theirs).max()), float((ours.argmax(1) == theirs.argmax(1)).mean()))


def _run(network: OnnxNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([network(part) for part in _batches(images)])


def _batches(images: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
    return np.array_split(images, -(-len(images) // BATCH))


def _card(classifier: Classifier) -> dict[str, Any]:
    card = classifier.card
    views = str(classifier.averaged.views)
    return {"classes": CLASSES, "side": card.side, "views": views, "temperature": card.temperature, "facts": card.facts}


def _averaging_head(network: Network) -> nn.Linear | None:
    """Returns the linear layer of a head that is the mean over the map and then linear."""
    head = list(network.head.children())
    averages = bool(head) and isinstance(head[0], nn.AdaptiveAvgPool2d) and head[0].output_size in (1, (1, 1))
    linear = head[-1] if head else None
    between = all(isinstance(module, nn.Flatten | nn.Dropout) for module in head[1:-1])
    return linear if averages and between and isinstance(linear, nn.Linear) else None
