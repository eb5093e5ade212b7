"""Networks in checkpoints and weight files, run by PyTorch."""

from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from emotion.analysis.gradcam import Method, heatmaps
from emotion.errors import UserError, require_choice
from emotion.models.pretrained import Classifier, load_pretrained
from emotion.models.views import ViewsName


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
        if views is not None:
            require_choice("tta", views, get_args(ViewsName))
            classifier.viewed.views = cast("ViewsName", views)
        self._classifier = classifier
        self.name = path.resolve().parents[1].name if path.suffix == ".ckpt" else path.stem
        self.side, self.views = classifier.card.side, str(classifier.viewed.views)

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork`."""
        return np.asarray(self._classifier(self._tensor(faces)).cpu())

    def heatmaps(
        self, faces: NDArray[np.uint8], classes: NDArray[np.int64], method: Method = "hirescam"
    ) -> NDArray[np.float32]:
        """See `emotion.inference.networks.FaceNetwork` and, for the method, `emotion.analysis.gradcam.heatmaps`."""
        return heatmaps(self._classifier.network, faces[:, np.newaxis], classes, method)

    def _tensor(self, faces: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(faces)[:, None].to(next(self._classifier.parameters()).device)


def load_classifier(path: Path, device: str = "cpu") -> Classifier:
    """Loads the network in a `.safetensors` file or a checkpoint.

    Raises:
        UserError: another kind of file, or no such device.
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={device}: not a device that PyTorch has here") from None
    if path.suffix == ".safetensors":
        return load_pretrained(path).to(place)
    from emotion.training.publish import from_checkpoint  # here, since Lightning takes seconds to import

    return from_checkpoint(path).to(place)
