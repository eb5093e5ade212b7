"""Runs networks from `.ckpt` and `.safetensors` files in PyTorch."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emotion.analysis.gradcam import Method, heatmaps
from emotion.models.classifier import Classifier, load_pretrained, to_planes
from emotion.models.device import find_device


class TorchNetwork:
    """A network from a `.safetensors` file that `emotion publish` wrote, or from a checkpoint of a run.

    Args:
        path: path of the file.
        views: test-time augmentation: none, flip, shifts or ten_crop; None takes that of the file's card, and none for
            a checkpoint.
        device: PyTorch device, as `cpu` or `cuda:0`.

    Raises:
        UserError: the file is of another format, or the device or the test-time augmentation does not exist.
    """

    def __init__(self, path: Path, views: str | None = None, device: str = "cpu") -> None:
        classifier = load_classifier(path, device)
        classifier.set_views(views)
        self._classifier, self.name, self.classes = classifier, path.stem, classifier.classes
        self.side, self.channels = classifier.card.side, classifier.card.channels
        self._loaded, self._process = (path.absolute(), views, device), os.getpid()

    def __reduce__(self) -> tuple[type["TorchNetwork"], tuple[Path, str | None, str]]:
        """Pickles the path and the arguments; the process that unpickles it loads the file again."""
        return TorchNetwork, self._loaded

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork`."""
        self._limit_threads_after_fork()
        device = next(self._classifier.parameters()).device
        return np.asarray(self._classifier(to_planes(torch.from_numpy(faces)).to(device)).cpu())

    def heatmaps(
        self, faces: NDArray[np.uint8], classes: NDArray[np.int64], method: Method = "hirescam"
    ) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork` and, for the method, `emotion.analysis.gradcam.heatmaps`."""
        self._limit_threads_after_fork()
        return heatmaps(self._classifier.network, to_planes(torch.from_numpy(faces)).numpy(), classes, method)

    def _limit_threads_after_fork(self) -> None:
        """Uses one thread in a forked process; PyTorch would wait forever for threads that only its parent has."""
        if os.getpid() != self._process:
            torch.set_num_threads(1)
            self._process = os.getpid()


def load_classifier(path: Path, device: str = "cpu") -> Classifier:
    """Loads the network of a `.safetensors` file, or of a checkpoint, whose probabilities are not calibrated.

    Raises:
        UserError: the file is of another format, or the device does not exist.
    """
    if path.suffix == ".safetensors":
        return load_pretrained(path, device)
    from emotion.training.checkpoint import load_checkpoint  # imported here, since Lightning takes seconds to load
    from emotion.training.publish import uncalibrated

    torch_device = find_device(device)
    return uncalibrated(load_checkpoint(path)).to(torch_device)
