"""Pretrained weights: torchvision's and timm's own, or a local file that is checked key by key."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from emotion.errors import UserError, first_line
from emotion.files import check_unpacked_size
from emotion.models.transfer import Library, create_timm

State = Mapping[str, Tensor]
CLASSIFIERS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "last_bn.", "logits.", "embedding.")
"""What the backbones' own classifiers are called; their weights are not used."""
COUNTS = "num_batches_tracked"
"""What old files lack."""


def file_stem(library: str, name: str) -> str:
    """Returns what files of a backbone's weights are called, up to an ending of one's own.

    A ResNet50 of faces has the names and shapes of ImageNet's, and is another network.
    """
    return f"face_{name}" if library == "face" else name


def resolve_weights(weights: str, name: str) -> str:
    """Returns `weights`, or where it is a folder, its file of this name, so that one value serves a whole sweep.

    Raises:
        UserError: the folder does not hold one `<name>*.safetensors`.
    """
    folder = Path(weights).expanduser()
    if not folder.is_dir():
        return weights
    files = sorted(folder.glob(f"{name}*.safetensors"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"weights={weights}: one file {name}*.safetensors is needed in this folder, it has {found}")
    return str(files[0])


def load_backbone(backbone: nn.Module, weights: str, library: Library, name: str, image_size: int) -> None:
    """Loads pretrained weights into a backbone.

    Args:
        backbone: a network without its classifier, whose keys are those of its library.
        weights: `imagenet` (downloaded and cached by the library), `none`, or the path of a `.safetensors` file or of
            a state dict saved by torch, in full or half precision.
        library: where the backbone comes from.
        name: its name there.
        image_size: height and width of its input, to which timm fits the position embeddings of transformers.

    Raises:
        UserError: no such file, no network, a file that is no state dict, or weights that do not fit or are not finite.
    """
    if weights == "none":
        return
    state = _imagenet_state(library, name, image_size) if weights == "imagenet" else read_state(Path(weights))
    own = {key: value for key, value in backbone.state_dict().items() if key in state or not key.endswith(COUNTS)}
    found = {key: value for key, value in state.items() if key in own or not key.startswith(CLASSIFIERS)}
    try:
        validate_state(own, found)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"weights={weights} does not fit the backbone: {first_line(error)}") from None
    backbone.load_state_dict(found, strict=False)


def state_shapes(build: Callable[[], nn.Module]) -> State:
    """Returns the names and shapes of a module's tensors, on a device where they take no memory."""
    with torch.device("meta"):
        state: State = build().state_dict()
    return state


def validate_state(expected: State, found: State) -> None:
    """Checks names, shapes and values of tensors that may come from a stranger.

    Raises:
        ValueError: names the first that are missing, unknown, of another shape or not finite, or they claim more
            numbers than there are.
    """
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    for problem, keys in (("lacks", missing), ("has unknown", unknown), ("has", misshapen)):
        _refuse(problem, keys)
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found.values()}
    if sum(stored.values()) < sum(value.nbytes for value in found.values()):
        raise ValueError("its tensors claim more numbers than it holds")
    _refuse("has numbers that are not finite in", [key for key, value in found.items() if not value.isfinite().all()])


def _refuse(problem: str, keys: Sequence[str]) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise ValueError(f"it {problem} {', '.join(keys[:3])}{more}")


def describe_load_error(error: BaseException) -> str:
    """Returns in a line why torch did not read a file; its own text on pickles says how to run what they hold."""
    if isinstance(error, UnpicklingError):
        return "it is damaged, or holds more than tensors and plain values"
    return first_line(error)


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict without running any code in the file.

    Raises:
        UserError: no such file, or it holds something else.
    """
    from safetensors.torch import load_file

    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"weights={path}: no such file (imagenet, none or a .safetensors or state dict file)")
    try:
        check_unpacked_size(path)
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make the readers raise anything.
        raise UserError(
            f"weights={path}: not a file of tensors that can be read safely ({describe_load_error(error)})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"weights={path}: not a state dict (names to tensors)")
    return state


def _imagenet_state(library: Library, name: str, image_size: int) -> State:
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            # The hash is that of a download; a file that lies there already could hold anything.
            options = {"progress": True, "check_hash": True, "weights_only": True}
            state: State = next(iter(get_model_weights(name))).get_state_dict(**options)
            return state
        if library == "face":
            raise LookupError("it was trained on faces")
        return create_timm(name, image_size, pretrained=True).state_dict()
    except Exception as error:
        # Both libraries let through whatever their download clients raise.
        raise UserError(
            f"weights=imagenet: the weights of {name} are not available ({describe_load_error(error)}); name a local "
            "file with weights=<file>, or train from random weights with weights=none"
        ) from None
