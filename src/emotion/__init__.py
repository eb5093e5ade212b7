"""Facial emotion recognition that people can train, trust and use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from emotion.models.pretrained import Classifier

__version__ = "0.1.0"


def load(name: "str | Path" = "small", device: str = "cpu") -> "Classifier":
    """Loads a trained network: see `emotion.models.pretrained.load_pretrained`.

    >>> import emotion, torch
    >>> classifier = emotion.load()
    >>> classifier(torch.zeros(1, 1, 48, 48, dtype=torch.uint8)).shape
    torch.Size([1, 7])
    """
    from emotion.models.pretrained import load_pretrained  # here, so that `import emotion` does not wait for PyTorch

    return load_pretrained(name, device)
