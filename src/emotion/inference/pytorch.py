"""Networks in checkpoints and weight files, run by PyTorch."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emotion.analysis.gradcam import Method, heatmaps
from emotion.models.classifier import Classifier, load_pretrained
from emotion.models.device import find_device


class TorchNetwork:
    """A `.safetensors` file that `emotion publish` wrote, or a checkpoint of a run.

    Args:
        path: of the file.
        views: whose mean counts; None takes those of the file's card, for a checkpoint the image itself.
        device: of PyTorch.

    Raises:
        UserError: another kind of file, or no such device or views.
    """

    def __init__(self, path: Path, views: str | None = None, device: str = "cpu") -> None:
        classifier = load_classifier(path, device)
        classifier.set_views(views)
        self._classifier, self.side = classifier, classifier.card.side
        self._loaded, self._process = (path.absolute(), views, device), os.getpid()

    def __reduce__(self) -> tuple[type["TorchNetwork"], tuple[Path, str | None, str]]:
        """Lets other processes load it from its file."""
        return TorchNetwork, self._loaded

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork`."""
        self._leave_threads()
        return np.asarray(self._classifier(self._tensor(faces)).cpu())

    def heatmaps(
        self, faces: NDArray[np.uint8], classes: NDArray[np.int64], method: Method = "hirescam"
    ) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork` and, for the method, `emotion.analysis.gradcam.heatmaps`."""
        self._leave_threads()
        return heatmaps(self._classifier.network, faces[:, np.newaxis], classes, method)

    def _leave_threads(self) -> None:
        """Uses one thread in a forked process, in which PyTorch would wait for the threads of the first forever."""
        if os.getpid() != self._process:
            torch.set_num_threads(1)
            self._process = os.getpid()

    def _tensor(self, faces: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(faces)[:, None].to(next(self._classifier.parameters()).device)


def load_classifier(path: Path, device: str = "cpu") -> Classifier:
    """Loads the network in a `.safetensors` file or a checkpoint.

    Raises:
        UserError: another kind of file, or no such device.
    """
    if path.suffix == ".safetensors":
        return load_pretrained(path, device)
    from emotion.training.checkpoint import load_checkpoint  # here, since Lightning takes seconds to import
    from emotion.training.publish import uncalibrated

    found = find_device(device)
    return uncalibrated(load_checkpoint(path)).to(found)
