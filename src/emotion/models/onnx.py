"""Networks in ONNX files, run by onnxruntime without PyTorch."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emotion.data.classes import require_classes
from emotion.errors import UserError, first_line
from emotion.privacy import import_onnxruntime

ViewsName = Literal["none", "flip", "shifts", "ten_crop"]
"""Names of the test-time augmentations, see `emotion.models.views.Views`."""
METADATA = "emotion"
"""The key of the card, as JSON, in the metadata of a file."""
MAX_SIDE = 1024
"""Largest height and width of the input of a network, pixels."""


class OnnxNetwork:
    """A network written by `emotion export`.

    Args:
        path: path of the ONNX file.
        device: `cpu`, `cuda`, or `cuda:1` for the second GPU ...

    Attributes:
        name: name of the file without its suffix.
        side: height and width of the faces, pixels.
        channels: 1 for grey faces, 3 for RGB.
        views: name of the test-time augmentation inside the file.
        classes: names of the K classes, in the order of the outputs.

    Raises:
        UserError: the file is of another kind, or the device does not exist.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        onnxruntime = import_onnxruntime()
        onnxruntime.set_default_logger_severity(4)  # failures are raised as exceptions, so its log repeats them only
        provider = _provider(device)
        if provider[0] not in onnxruntime.get_available_providers():
            raise UserError(
                f"device={device}: this onnxruntime runs {path.name} on CPUs only; install onnxruntime-gpu in its "
                "place, or name a .safetensors or .ckpt file, which PyTorch runs"
            )
        try:
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads take no CPU time
            # A hostile file could name other files of this machine as its weights, so none can be opened.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
            content = path.read_bytes()
            if device != "cpu":
                onnxruntime.preload_dlls()  # CUDA's libraries, where the packages of PyTorch or NVIDIA have them
            self._session = onnxruntime.InferenceSession(content, options, providers=[provider], enable_fallback=0)
            card: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA])
            self.classes = require_classes(card["classes"])
            self.name, self.side, self.views = path.stem, int(card["side"]), str(card["views"])
            if not 1 <= self.side <= MAX_SIDE:
                raise ValueError(f"side={self.side}: a whole number from 1 to {MAX_SIDE} is needed")
            self.channels = require_channels(int(card.get("channels", 1)))
            shape = face_shape(self.side, self.channels)
            if tuple(self._session.get_inputs()[0].shape[1:]) != shape:
                raise ValueError(f"its faces are not {' x '.join(map(str, shape))}")
            self(np.zeros((1, *shape), np.uint8))
        except Exception as error:
            # A damaged or foreign file can make onnxruntime and json raise any exception.
            raise UserError(f"{path}: not a network that `emotion export` wrote ({first_line(error)})") from None
        if self._session.get_providers()[0] != provider[0]:  # onnxruntime then only logs that it takes the CPU
            raise UserError(f"device={device}: onnxruntime-gpu cannot be used here: no CUDA libraries that it fits")
        self._arguments = path.absolute(), device
        self._has_evidence = len(self._session.get_outputs()) > 1

    def __reduce__(self) -> tuple[type["OnnxNetwork"], tuple[Path, str]]:
        """Makes pickles load the network from its file again, since sessions of onnxruntime cannot be pickled."""
        return OnnxNetwork, self._arguments

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps faces, uint8 [N, side, side] or RGB [N, side, side, 3], to probabilities float32 [N, K].

        Raises:
            UserError: the outputs of the network are not a probability for each class.
        """
        outputs = np.asarray(self._session.run(["probabilities"], {"images": faces})[0])
        if outputs.shape != (len(faces), len(self.classes)):
            raise UserError(f"{self.name}: its outputs are not probabilities of its {len(self.classes)} classes")
        if not (outputs >= 0).all() or not np.allclose(outputs.sum(1), 1, atol=1e-3):  # NaN is refused, too
            raise UserError(f"{self.name}: its outputs are not probabilities; export the network again")
        return outputs

    def heatmaps(self, faces: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns class activation maps (Zhou et al., arXiv:1512.04150), float32 [N, side, side], maximum 1 or all 0.

        Only files of networks that end in global average pooling and one linear layer contain these maps, and only
        with views other than `ten_crop`. For these networks HiResCAM and Grad-CAM are equal to them.

        Args:
            faces: as in `__call__`.
            classes: class id of each map, int64 [N].

        Raises:
            UserError: the file has no class activation maps.
        """
        if not self._has_evidence:
            raise UserError(f"{self.name}: no class activation maps in this file; name its checkpoint instead")
        # The output [N, K, h, w] is reduced to the chosen classes, [N, h, w].
        evidence = self._session.run(["evidence"], {"images": faces})[0][np.arange(len(faces)), classes].clip(min=0)
        size = (self.side, self.side)
        maps = np.stack(
            [np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)) for coarse in evidence]
        )
        maps -= maps.min(axis=(1, 2), keepdims=True)
        strongest = maps.max(axis=(1, 2), keepdims=True)  # [N, 1, 1]
        return np.asarray(maps / np.where(strongest > 0, strongest, 1))


def require_channels(channels: object) -> int:
    """Returns a number of colour channels.

    Raises:
        UserError: it is neither 1 nor 3.
    """
    if type(channels) is not int or channels not in (1, 3):
        raise UserError(f"channels={str(channels)[:100]}: 1 (grey) or 3 (RGB) is needed")
    return channels


def face_shape(side: int, channels: int) -> tuple[int, ...]:
    """Returns the shape of a face for networks: (side, side) with 1 channel, (side, side, 3) with 3."""
    return (side, side) if channels == 1 else (side, side, channels)


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """Returns onnxruntime's name of a device, and its options."""
    kind, colon, number = device.partition(":")
    if kind == "cuda" and (number.isdecimal() or not colon):
        return "CUDAExecutionProvider", {"device_id": number} if colon else {}
    if device != "cpu":
        raise UserError(f"device={device}: cpu, cuda or cuda:<number of the GPU> is needed")
    return "CPUExecutionProvider", {}
