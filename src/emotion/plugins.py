"""Classes of one's own (network, loss, augmentation), imported from a Python file or module that the user names.

Nothing here reads a name out of a checkpoint: only callers that got it from the command line or a config load it.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from emotion.errors import UserError, first_line
from emotion.files import expand
from emotion.settings import Settings

Make = Callable[..., Any]


@dataclass(frozen=True)
class Plugins:
    """The classes of one's own that a run uses; None where it uses those of the project.

    Attributes:
        network: makes a network from `num_classes`: a module that maps images float [B, C, S, S] in 0..1 to logits
            [B, K]. Its attribute `channels` is 1 (grey, the default) or 3.
        loss: makes a loss without arguments: a module that maps logits [B, K] and labels, int64 [B] or float [B, K], to
            losses [B] or their mean. Its own parameters are not trained.
        augmentation: makes, without arguments, a function of images float [B, C, S, S] in 0..1 and a CPU generator,
            which returns images of that shape.
    """

    network: Make | None = None
    loss: Make | None = None
    augmentation: Make | None = None

    @classmethod
    def load(cls, settings: Settings) -> "Plugins":
        """Imports the classes that the settings name.

        Raises:
            UserError: a file or module cannot be imported, or has no such class.
        """
        names = {
            "network": settings.network.network,
            "loss": settings.loss.loss,
            "augmentation": settings.augmentation.augmentation,
        }
        return cls(**{key: load_plugin(key, name) for key, name in names.items() if name is not None})


@contextmanager
def own_code(name: str, problem: str) -> Iterator[None]:
    """Turns an exception of a user's code, which can be any, into a line; one for want of memory stays as it is.

    Args:
        name: name of the class, or its setting and name.
        problem: what the exception means, as `cannot be made`.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{name}: {problem} ({type(error).__name__}: {first_line(error)})") from error


def load_plugin(key: str, name: str) -> Make:
    """Imports a class or function.

    Args:
        key: name of the setting, for messages.
        name: `<file>.py:<class>` or `<module>:<class>`.

    Raises:
        UserError: the file or module cannot be imported, or has no such class.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise UserError(f"{key}={name}: <file>.py:<class> or <module>:<class> is needed")
    path = expand(place)
    if path.suffix == ".py" and not path.is_file():
        raise UserError(f"{key}={name}: no file {path}")
    try:
        module = _import_file(path) if path.suffix == ".py" else importlib.import_module(place)
    except Exception as error:
        # The code of another person can raise any exception.
        raise UserError(f"{key}={name}: cannot be imported ({type(error).__name__}: {first_line(error)})") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        own = [item for item, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise UserError(f"{key}={name}: no class {attribute} in {place}; it has {', '.join(own) or 'none'}")
    made: Make = found
    return made


def _import_file(path: Path) -> ModuleType:
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"emotion_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look a class's module up here
    spec.loader.exec_module(module)
    return module
