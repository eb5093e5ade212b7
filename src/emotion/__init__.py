"""Facial emotion recognition that people can train, trust and use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion.inference.recognizer import load
    from emotion.models.classifier import load_pretrained

__version__ = "0.1.0"
__all__ = ["load", "load_pretrained"]


def __getattr__(name: str) -> Any:
    # Not at the top, so that `import emotion` waits for neither OpenCV nor PyTorch.
    if name == "load":
        from emotion.inference.recognizer import load

        return load
    if name == "load_pretrained":
        from emotion.extras import require_extra

        require_extra("train", "emotion.load_pretrained")
        from emotion.models.classifier import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
