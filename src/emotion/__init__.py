"""Facial emotion recognition: detects faces, classifies their expressions, trains the networks.

Examples:
    >>> import emotion
    >>> recognizer = emotion.load()
    >>> [(face.label, face.score, face.box) for face in recognizer.predict("photo.jpg")]  # doctest: +SKIP
    [('happy', 0.94, (154, 113, 220, 220))]
    >>> film = emotion.analyze_video("film.mp4")  # doctest: +SKIP
    >>> [(person.number, person.seconds, person.shares) for person in film.persons]  # doctest: +SKIP
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion.errors import UserError
    from emotion.inference.drawing import draw
    from emotion.inference.persons import analyze_video
    from emotion.inference.recognizer import load
    from emotion.inference.records import to_frame
    from emotion.models.classifier import load_pretrained

__version__ = "0.1.0"
__all__ = ["UserError", "analyze_video", "draw", "load", "load_pretrained", "to_frame"]

_MODULES = {
    "UserError": "emotion.errors",
    "analyze_video": "emotion.inference.persons",
    "draw": "emotion.inference.drawing",
    "load": "emotion.inference.recognizer",
    "load_pretrained": "emotion.models.classifier",
    "to_frame": "emotion.inference.records",
}
"""Imported on first use, so that `import emotion` loads neither onnxruntime nor PyTorch, which take seconds."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "load_pretrained":
        from emotion.extras import require_extra

        require_extra("train", "emotion.load_pretrained")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Lists the names for `help(emotion)`; without PyTorch, those that work without it."""
    return [*globals(), *(name for name in __all__ if name != "load_pretrained" or find_spec("torch"))]
