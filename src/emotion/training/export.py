"""Writes networks as ONNX files, which turn pixels into calibrated probabilities without further code."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from emotion.data.datamodule import EmotionDataModule
from emotion.data.decode import resized_square
from emotion.errors import UserError
from emotion.extras import require_extra
from emotion.files import atomic_write
from emotion.models.classifier import Card, Classifier, load_pretrained, to_planes
from emotion.models.network import MIN_MAP_SIZE, Network
from emotion.models.onnx import METADATA, OnnxNetwork, face_shape
from emotion.privacy import import_onnxruntime
from emotion.settings import DataSettings
from emotion.shipped import find_weights
from emotion.training.checkpoint import data_for, load_checkpoint
from emotion.training.publish import uncalibrated

OPSET = 18
BATCH = 64
CALIBRATION = 1000
"""Smallest number of training images from which the ranges of 8-bit activations are taken, if there are as many."""


@dataclass(frozen=True)
class Exported:
    """The difference between the probabilities of an ONNX file and those of PyTorch, on the same images.

    Attributes:
        difference: largest absolute difference of any probability, 0..1.
        agreement: share of the images with the same most probable class, 0..1.
    """

    difference: float
    agreement: float


class _Graph(nn.Module):
    """The exported graph: a classifier with its views, its temperature, and class activation maps if it has them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.averaged, self.temperature = classifier.averaged, classifier.card.temperature
        self.network, self.linear = classifier.network, None
        if self.averaged.views != "ten_crop":  # whose first view is a corner of the image, not the image
            self.linear = _averaging_head(classifier.network)
        if self.linear is not None and self._map_side(classifier.network) < MIN_MAP_SIZE:
            self.linear = None  # the map is too coarse; heatmaps of PyTorch take an earlier layer

    @staticmethod
    def _map_side(network: Network) -> int:
        with torch.no_grad():
            return int(min(network.eval().backbone(network.example()).shape[-2:]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps faces uint8 [B, S, S] or [B, S, S, 3] to probabilities [B, K] and class activation maps [B, K, h, w]."""
        # All V views in one pass, so that the graph contains weights and operations once.
        views = torch.stack(list(self.averaged.make(to_planes(images))))  # [V, B, C, S, S]
        maps = self.network.backbone(self.network.preprocess(views.flatten(0, 1)))  # [V * B, F, h, w]
        by_view = self.network.head(maps).softmax(1).unflatten(0, views.shape[:2])  # [V, B, K]
        probabilities = (by_view.mean(0).log() / self.temperature).softmax(1)  # [B, K]
        if self.linear is None:
            return (probabilities,)
        first = maps.unflatten(0, views.shape[:2])[0]  # the view that is the image itself: [B, F, h, w]
        return probabilities, torch.einsum("bfhw,kf->bkhw", first, self.linear.weight)


def export_network(
    name: str,
    out: Path,
    changes: Mapping[str, Any],
    views: str | None = None,
    int8: bool = False,
    own: str | None = None,
) -> Iterator[str]:
    """Writes a network as ONNX, with `int8` in 8-bit integers too; yields a line on the size and error of each file.

    The files are compared with PyTorch on validation images. If FER2013 is missing and no other data is named, drawn
    faces serve for the comparison, but not for the ranges of 8-bit activations.

    Args:
        name: name of the network, see `emotion.shipped.find_network`; not an `.onnx` file.
        out: the `.onnx` file; `-int8` is added to the name of the file in 8-bit integers.
        changes: settings of the data that replace those of the checkpoint.
        views: test-time augmentation of the exported network; None keeps that of the file.
        int8: whether to write the file in 8-bit integers too.
        own: name of the user's network in a checkpoint, if its code is trusted (see `emotion.plugins`).

    Raises:
        UserError: there is no such network or data, or the network cannot be written.
    """
    path = find_weights(name)
    classifier, data, missing = _open(path, changes, int8, own)
    classifier.set_views(views)
    if int8 and sum(isinstance(module, nn.Conv2d) for module in classifier.network.modules()) < 2:
        raise UserError("--int8: only convolutions after the first one become integers, and this network has none")
    for part, part_rows in {"validation": data.rows.val, **({"training": data.rows.train} if int8 else {})}.items():
        if not len(part_rows):
            raise UserError(f"split={data.settings.split}: has no {part} images, which are needed; try split=random")
    images, labels = _faces(data, data.rows.val, classifier.card)
    exported = export_onnx(classifier, images, out)
    yield (
        f"{out}: {_mebibytes(out)}; on {len(images):,} validation images of {data.hparams['data']}{missing} the "
        f"probabilities differ from PyTorch's by at most {exported.difference:.1e}, {exported.agreement:.2%} of the "
        "classes agree"
    )
    if path.suffix == ".ckpt":
        yield f"{out}: the probabilities are not calibrated; emotion publish calibrates a checkpoint"
    if int8:
        quantized = out.with_name(f"{out.stem}-int8.onnx")
        rows = data.rows.train[:: max(1, len(data.rows.train) // CALIBRATION)]
        quantize_onnx(out, _faces(data, rows, classifier.card)[0], quantized)
        before, after = (_run(OnnxNetwork(path), images).argmax(1) for path in (out, quantized))  # int64 [N] each
        yield (
            f"{quantized}: {_mebibytes(quantized)}; {(before == after).mean():.2%} of the classes agree with float32; "
            f"validation accuracy {(after == labels).mean():.4f}, {(before == labels).mean():.4f} in float32"
        )


def export_onnx(classifier: Classifier, images: NDArray[np.uint8], out: Path) -> Exported:
    """Writes a classifier to an ONNX file with a free batch size, and compares both on some images.

    The file's input is `images`, uint8 [B, S, S] or, if the card has 3 channels, RGB [B, S, S, 3]. Its outputs are
    `probabilities` float32 [B, K], with the views and the temperature of the card applied, and `evidence` float32
    [B, K, h, w], class activation maps (arXiv:1512.04150), unless the views are `ten_crop`, the network's head is not
    the mean over a feature map and one linear layer, or that map is smaller than `MIN_MAP_SIZE`.
    The file contains no path of this machine.

    Args:
        classifier: the classifier to write.
        images: images for the comparison, uint8 [N, S, S] or [N, S, S, 3].
        out: the `.onnx` file.

    Raises:
        UserError: the extra `export` is not installed, or the network cannot be written.
    """
    require_extra("export", "emotion export")
    graph = _Graph(classifier).eval()
    example = torch.zeros(2, *face_shape(classifier.card.side, classifier.card.channels), dtype=torch.uint8)
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
            # The exporter raises exceptions of many kinds for networks that it does not support.
            raise UserError(f"{out}: this network cannot be written as ONNX ({type(error).__name__})") from None
    _save_onnx(program, json.dumps(_card(classifier)), out)
    return _compare(classifier, OnnxNetwork(out), images)


def _save_onnx(program: Any, card: str, out: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)  # each node names the source file and line that made it
    program.model.metadata_props[METADATA] = card
    with atomic_write(out) as temporary:
        program.save(temporary, external_data=False)


def quantize_onnx(path: Path, calibration: NDArray[np.uint8], out: Path) -> None:
    """Writes an exported file with weights and inputs of its convolutions as 8-bit integers.

    The first convolution, whose inputs are the pixels, and the head stay float32: they take little time, and rounding
    them would cost accuracy.

    Args:
        path: the exported file.
        calibration: training images for the ranges of the activations, uint8 [N, S, S] or [N, S, S, 3].
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


def _open(
    path: Path, changes: Mapping[str, Any], int8: bool, own: str | None
) -> tuple[Classifier, EmotionDataModule, str]:
    """Returns the network, the images for its comparison, and a note if drawn faces stand for missing images."""
    if path.suffix == ".safetensors":
        classifier = load_pretrained(path)
        images = {"split": "official", "pack_size": classifier.card.side, "channels": classifier.card.channels}
        data = data_for(classifier.classes, images, changes)
    else:
        trained = load_checkpoint(path, own)
        classifier, data = uncalibrated(trained), trained.data_module(**changes)
    try:
        data.prepare_data()
    except UserError:
        if changes or int8:
            raise
        missing = f" (drawn faces, since the images of data={data.settings.data} are not here)"
        return classifier, EmotionDataModule(DataSettings(data="synthetic")), missing
    return classifier, data, ""


def _faces(data: EmotionDataModule, rows: NDArray[np.int64], card: Card) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns images for a network, as `emotion.inference.crops` makes them, and labels int64 [N]."""
    images = data.packed.images[rows]  # [N, C, S, S]
    pixels = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)  # [N, S, S] or [N, S, S, 3]
    mode = "L" if card.channels == 1 else "RGB"
    resized = [np.asarray(resized_square(Image.fromarray(face).convert(mode), card.side)) for face in pixels]
    return np.stack(resized), data.packed.labels[rows]


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def _compare(classifier: Classifier, network: OnnxNetwork, images: NDArray[np.uint8]) -> Exported:
    exported = _run(network, images)  # [N, K]
    pytorch = np.concatenate([classifier(to_planes(torch.from_numpy(part))).numpy() for part in _batches(images)])
    return Exported(float(np.abs(pytorch - exported).max()), float((pytorch.argmax(1) == exported.argmax(1)).mean()))


def _run(network: OnnxNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([network(part) for part in _batches(images)])


def _batches(images: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
    return np.array_split(images, -(-len(images) // BATCH))


def _card(classifier: Classifier) -> dict[str, Any]:
    card = classifier.card
    views = str(classifier.averaged.views)
    shared = {"side": card.side, "channels": card.channels, "temperature": card.temperature, "facts": card.facts}
    return {"classes": classifier.classes, "views": views, **shared}


def _averaging_head(network: Network) -> nn.Linear | None:
    """Returns the linear layer of a head that consists of the mean over the feature map and that layer; else None."""
    head = list(network.head.children())
    is_mean = bool(head) and isinstance(head[0], nn.AdaptiveAvgPool2d) and head[0].output_size in (1, (1, 1))
    linear = head[-1] if head else None
    only_linear = all(isinstance(module, nn.Flatten | nn.Dropout) for module in head[1:-1])
    return linear if is_mean and only_linear and isinstance(linear, nn.Linear) else None
