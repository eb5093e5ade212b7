"""Facial emotion recognition: detects faces, classifies their expressions, trains the networks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion.inference.recognizer import load
    from emotion.models.classifier import load_pretrained

__version__ = "0.1.0"
__all__ = ["load", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import emotion` loads neither OpenCV nor PyTorch, which take seconds.
    if name == "load":
        from emotion.inference.recognizer import load

        return load
    if name == "load_pretrained":
        from emotion.extras import require_extra

        require_extra("train", "emotion.load_pretrained")
        from emotion.models.classifier import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
