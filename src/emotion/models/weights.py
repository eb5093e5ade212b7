"""Pretrained weights: torchvision's and timm's own, or a local file that is checked key by key."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from emotion.errors import UserError, first_line
from emotion.files import refuse_bomb
from emotion.models.transfer import Library, create_timm

State = Mapping[str, Tensor]
CLASSIFIERS = ("classifier.", "fc.", "head.", "head_dist.", "last_linear.", "embedding.")
"""What the backbones' own classifiers are called; their weights are not used."""


def resolve_weights(weights: str, name: str) -> str:
    """Returns `weights`, or where it is a folder, its file for this backbone, so that one value serves a whole sweep.

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
        UserError: no such file, no network, a file that is no state dict, or weights that do not fit.
    """
    if weights == "none":
        return
    state = _imagenet_state(library, name, image_size) if weights == "imagenet" else read_state(Path(weights))
    _check(backbone.state_dict(), state, f"weights={weights}")
    backbone.load_state_dict(state, strict=False)


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
        refuse_bomb(path)
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # A damaged or hostile file can make the readers raise anything.
        raise UserError(
            f"weights={path}: not a file of tensors that can be read safely ({first_line(error)})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"weights={path}: not a state dict (names to tensors)")
    return state


def _imagenet_state(library: Library, name: str, image_size: int) -> State:
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            state: State = next(iter(get_model_weights(name))).get_state_dict(progress=True, check_hash=True)
            return state
        if library == "face":
            raise LookupError("it was trained on faces")
        return create_timm(name, image_size, pretrained=True).state_dict()
    except Exception as error:
        # Both libraries let through whatever their download clients raise.
        raise UserError(
            f"weights=imagenet: the weights of {name} could not be had ({first_line(error)}); give a local file with "
            "weights=<file>, or start from random weights with weights=none"
        ) from None


def _check(expected: State, found: State, origin: str) -> None:
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    unknown = [key for key in found if key not in expected and not key.startswith(CLASSIFIERS)]
    misshapen = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    for problem, keys in (("lacks", missing), ("has unknown", unknown), ("has", misshapen)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(f"{origin} does not fit the backbone: it {problem} {', '.join(keys[:3])}{more}")
