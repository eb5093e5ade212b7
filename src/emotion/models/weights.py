"""Pretrained weights: downloads of torchvision and timm, or a local file that is checked key by key."""

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from emotion.errors import UserError, first_line
from emotion.files import check_unpacked_size, expand
from emotion.models.keras_file import KERAS_SUFFIXES, read_keras
from emotion.models.transfer import create_timm
from emotion.settings import Family

State = Mapping[str, Tensor]
CLASSIFIERS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "last_bn.", "logits.", "embedding.")
"""Prefixes of the classifiers in weight files; these weights are not used."""
OPTIONAL_SUFFIX = "num_batches_tracked"
"""Suffix of the tensors that old weight files lack."""


def file_stem(library: str, name: str) -> str:
    """Returns the beginning of the file names of a backbone's weights.

    The prefix `face_` separates face networks from ImageNet networks of the same name, shapes and keys (ResNet50).
    """
    return f"face_{name}" if library == "face" else name


def resolve_weights(weights: str, name: str) -> str:
    """Returns `weights`, or for a folder (one value for a sweep over backbones) its file `<name>*.safetensors`.

    Raises:
        UserError: the folder does not have exactly one file of this name.
    """
    folder = expand(weights)
    if weights in ("imagenet", "none") or not folder.is_dir():
        return weights
    files = sorted(folder.glob(f"{name}*.safetensors"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"weights={weights}: one file {name}*.safetensors is needed in this folder; found {found}")
    return str(files[0])


def load_backbone(
    backbone: nn.Module, weights: str, library: Family, name: str, image_size: int, scale: float = 1.0
) -> None:
    """Loads pretrained weights into a backbone.

    Args:
        backbone: network without classifier and with the keys of its library.
        weights: `imagenet` (downloaded and cached by the library), `none`, or the path of a `.safetensors` file, of
            a state dict saved by torch, in full or half precision, or of Keras's `.h5` file of a VGG.
        library: library of the backbone.
        name: name of the backbone in its library.
        image_size: height and width of the input, pixels; timm resizes the position embeddings of transformers to it.
        scale: factor on all biases, see `emotion.models.transfer.build_transfer`.

    Raises:
        UserError: the file is missing or not a state dict, the download failed, or the weights do not fit the backbone
            or are not finite.
    """
    if weights == "none":
        return
    state = _imagenet_state(library, name, image_size) if weights == "imagenet" else _file_state(Path(weights), name)
    own = backbone.state_dict()
    expected = {key: value for key, value in own.items() if key in state or not key.endswith(OPTIONAL_SUFFIX)}
    found = {key: value for key, value in state.items() if key in expected or not key.startswith(CLASSIFIERS)}
    try:
        validate_state(expected, found)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"weights={weights}: does not fit the backbone ({first_line(error)})") from None
    scaled = {key: value * scale if scale != 1 and key.endswith(".bias") else value for key, value in found.items()}
    backbone.load_state_dict(scaled, strict=False)


def state_shapes(build: Callable[[], nn.Module]) -> State:
    """Returns the state dict of a module on the meta device, which has names and shapes but takes no memory."""
    with torch.device("meta"):
        state: State = build().state_dict()
    return state


def validate_state(expected: State, found: State) -> None:
    """Checks names, shapes, kinds and values of the tensors of an untrusted file.

    Raises:
        ValueError: tensors are missing, unknown, of another shape or kind, not finite, or larger than their storage;
            the message lists the first of them.
    """
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    # Whole numbers in place of floats are those of a quantised network, without their scale.
    other_kind = [
        key
        for key, value in expected.items()
        if key in found and found[key].is_floating_point() != value.is_floating_point()
    ]
    problems = {"lacks": missing, "has unknown": unknown, "has": misshapen, "has other kinds of numbers in": other_kind}
    for problem, keys in problems.items():
        _reject(problem, keys)
    # A stride of 0 can make a small file claim large tensors.
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found.values()}
    if sum(stored.values()) < sum(value.nbytes for value in found.values()):
        raise ValueError("its tensors claim more numbers than it holds")
    _reject("has numbers that are not finite in", [key for key, value in found.items() if not value.isfinite().all()])


def _reject(problem: str, keys: Sequence[str]) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise ValueError(f"it {problem} {', '.join(keys[:3])}{more}")


def describe_load_error(error: BaseException) -> str:
    """Returns the reason why a file could not be read in one line."""
    # PyTorch's messages recommend loading that runs code in the file, or are a number.
    cut_off = isinstance(error, OSError) and error.errno == errno.EINVAL
    if cut_off or isinstance(error, UnpicklingError | KeyError):
        return "it is damaged, or holds more than tensors and plain values"
    return first_line(error)


def _file_state(path: Path, name: str) -> State:
    return read_keras(expand(path), name) if path.suffix in KERAS_SUFFIXES else read_state(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict without running code in the file.

    Raises:
        UserError: the file is missing or does not hold a state dict.
    """
    from safetensors.torch import load_file

    path = expand(path)
    if not path.is_file():
        raise UserError(f"weights={path}: no such file (imagenet, none, or a .safetensors or state dict file)")
    try:
        check_unpacked_size(path)
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make safetensors and PyTorch raise any exception.
        raise UserError(
            f"weights={path}: not a file of tensors that can be read safely ({describe_load_error(error)})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"weights={path}: not a state dict (names to tensors)")
    return state


def _imagenet_state(library: Family, name: str, image_size: int) -> State:
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            # The hash is checked on download only; a file that is in the cache already could hold code.
            options = {"progress": True, "check_hash": True, "weights_only": True}
            state: State = next(iter(get_model_weights(name))).get_state_dict(**options)
            return state
        if library == "face":
            raise LookupError("its published weights were trained on faces")
        return create_timm(name, image_size, pretrained=True).state_dict()
    except Exception as error:
        # Both libraries pass on every exception of their download clients.
        raise UserError(
            f"weights=imagenet: the weights of {name} are not available ({describe_load_error(error)}); name a local "
            "file with weights=<file>, or train from random weights with weights=none"
        ) from None
