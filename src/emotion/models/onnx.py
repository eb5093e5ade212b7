"""Networks in ONNX files, which run without PyTorch."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion.data.classes import CLASSES
from emotion.errors import UserError, first_line
from emotion.privacy import import_onnxruntime

METADATA = "emotion"
"""The key of an ONNX file's metadata under which its card lies, as JSON."""
MAX_SIDE = 1024
"""Height and width of the largest faces that networks take, pixels."""


class OnnxNetwork:
    """A file that `emotion export` wrote, run by onnxruntime.

    Args:
        path: of the file.
        device: `cpu`, `cuda`, or `cuda:1` for the second GPU ...

    Raises:
        UserError: another kind of file, or no such device.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        onnxruntime = import_onnxruntime()
        onnxruntime.set_default_logger_severity(4)  # what fails is raised, and told in our words
        provider = _provider(device)
        if provider[0] not in onnxruntime.get_available_providers():
            raise UserError(
                f"device={device}: this onnxruntime runs {path.name} on CPUs only; install onnxruntime-gpu in its "
                "place, or give a .safetensors or .ckpt file, which PyTorch runs"
            )
        try:
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads take no time
            # A network is one file: where it says that its weights lie in others, there are none.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=[provider], enable_fallback=0)
            card: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA])
            if tuple(card["classes"]) != CLASSES:
                raise ValueError(f"its classes are {', '.join(card['classes'])}")
            self.name, self.side, self.views = path.stem, int(card["side"]), str(card["views"])
            if not 1 <= self.side <= MAX_SIDE:
                raise ValueError(f"side={self.side}: a whole number from 1 to {MAX_SIDE} is needed")
            if self._session.get_inputs()[0].shape[1:] != [self.side, self.side]:
                raise ValueError(f"its faces are not {self.side} x {self.side}")
            self(np.zeros((1, self.side, self.side), np.uint8))
        except Exception as error:
            # A damaged or foreign file can make the reader raise anything.
            raise UserError(f"{path}: not a network that `emotion export` wrote ({first_line(error)})") from None
        self._loaded = path.absolute(), device
        self._explains = len(self._session.get_outputs()) > 1

    def __reduce__(self) -> tuple[type["OnnxNetwork"], tuple[Path, str]]:
        """Lets other processes load it from its file."""
        return OnnxNetwork, self._loaded

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps grey faces uint8 [N, side, side] to probabilities [N, K] in the order of `CLASSES`.

        Raises:
            UserError: the network's answers are no probabilities.
        """
        answers = np.asarray(self._session.run(["probabilities"], {"images": faces})[0])
        right = answers.shape == (len(faces), len(CLASSES)) and bool((answers >= 0).all())  # not so for NaN
        if not right or not np.allclose(answers.sum(1), 1, atol=1e-3):
            raise UserError(f"{self.name}: it gives no probabilities")
        return answers

    def heatmaps(self, faces: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns class activation maps (arXiv:1512.04150), float32 [N, side, side], 0 to 1 at the strongest place.

        Files hold them where the network ends in the mean over its last feature map and one linear layer, unless their
        views are `ten_crop`. HiResCAM and Grad-CAM come to the same there.

        Raises:
            UserError: this file does not.
        """
        import cv2

        if not self._explains:
            raise UserError(f"{self.name}: this file holds no class activation maps; take its checkpoint")
        evidence = self._session.run(["evidence"], {"images": faces})[0][np.arange(len(faces)), classes].clip(min=0)
        size = (self.side, self.side)
        maps = np.stack([cv2.resize(own, size, interpolation=cv2.INTER_LINEAR) for own in evidence])
        maps -= maps.min(axis=(1, 2), keepdims=True)
        strongest = maps.max(axis=(1, 2), keepdims=True)
        return np.asarray(maps / np.where(strongest > 0, strongest, 1))


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """Returns what onnxruntime calls a device, and its options."""
    kind, colon, number = device.partition(":")
    if kind == "cuda" and (number.isdecimal() or not colon):
        return "CUDAExecutionProvider", {"device_id": number} if colon else {}
    if device != "cpu":
        raise UserError(f"device={device}: cpu, cuda or cuda:<number of the GPU> is needed")
    return "CPUExecutionProvider", {}
