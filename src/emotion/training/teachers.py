"""Teachers: trained networks whose judgement of the training images another network learns (distillation)."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emotion.config import compose, read
from emotion.data.augment import Augmentation
from emotion.data.classes import listed
from emotion.data.datamodule import EmotionDataModule
from emotion.data.teaching import Teaching, mean_logits
from emotion.errors import UserError, first_line
from emotion.files import atomic_write
from emotion.models.classifier import TEACHING
from emotion.models.device import exact_float32, find_device
from emotion.overrides import check_overrides, quote_arguments, require_effect
from emotion.settings import FER_SIZE, AugmentationSettings, DistillationSettings, TrainerSettings
from emotion.training.features import FeatureCache, images_digest
from emotion.training.member import Member, matches, read_member, require_different
from emotion.training.memory import explain_out_of_memory
from emotion.training.origin import UNKNOWN, Origin, require_unseen
from emotion.training.start import with_implied_model
from emotion.training.trainer import best_precision

log = logging.getLogger(__name__)
SEED = 0
"""Seed of the views. It is the same for all runs, so that teachers judge once for all seeds of a recipe."""


class Mirrored(nn.Module):
    """Averages the logits [B, K] of a network for images [B, C, H, W] and their mirror images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns the mean logits [B, K]."""
        logits: Tensor = (self.network(images) + self.network(images.flip(-1))) / 2
        return logits


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run, if it has any: networks, or the file in which their judgement is recorded.

    Attributes:
        names: model, seed and hash of the weights of each network.
        known: whether the training images of all are known, so that they could be compared.
        networks: the networks, which map images [B, C, H, W] to logits [B, K].
        recorded: the file.
    """

    names: tuple[str, ...] = ()
    known: bool = True
    networks: tuple[nn.Module, ...] = ()
    recorded: Path | None = None

    def teaching(
        self, asked: DistillationSettings, data: EmotionDataModule, device: torch.device, precision: str
    ) -> Teaching:
        """Returns the judgement on the training images; what the networks have judged before comes from the cache.

        Args:
            asked: number of views and temperature.
            data: the data of the run that learns.
            device: device that computes.
            precision: as `trainer.precision`; if it has a half precision, it is used.

        Raises:
            UserError: the file was written for other images or views, or a logit is too large for half precision.
        """
        views = asked.distill_views if data.augmentation else 0
        if self.recorded is not None:
            logits = [_read_logits(self.recorded, _description(data, views), len(data.train_set[2]))]
        else:
            logits = [_judge(network, data, views, device, precision) for network in self.networks]
        return Teaching(logits, views, asked.distill_temperature, SEED)

    def require_same(self, before: Sequence[str]) -> None:
        """Checks that a resumed run has the teachers that it began with, in whatever files they lie now."""
        if tuple(before) != self.names:
            names = ["; ".join(each) or "no teacher" for each in (before, self.names)]
            raise UserError(f"teacher: the run began with {names[0]}; now it has {names[1]}")


def read_teachers(asked: DistillationSettings, data: EmotionDataModule, network: str | None = None) -> Teachers:
    """Reads the teachers that the settings name, and checks them.

    Args:
        asked: names of the teachers.
        data: the images that they judge.
        network: name of the user's network that learns; its code is trusted in teachers, too.

    Raises:
        UserError: there is no such network, it is named twice, has other classes or image sizes, or was trained on
            images that validate or test here.
    """
    patterns = [asked.teacher] if isinstance(asked.teacher, str) else asked.teacher or ()
    given = [name for pattern in patterns for name in matches(pattern)]
    for name in given:
        if (described := _read_description(Path(name))) is not None:
            return _recorded(given, name, described, data)
    members = [_read_teacher(name, network) for name in given]
    require_different("teacher", given, members)
    known = [_require_fit(name, member.origin, data) for name, member in zip(given, members, strict=True)]
    mirrors = data.augmentation is not None and data.augmentation.settings.flip > 0
    networks = [Mirrored(member.network) if mirrors else member.network for member in members]
    return Teachers(tuple(map(_name, members)), all(known), tuple(network.eval() for network in networks))


def _read_teacher(name: str | Path, network: str | None) -> Member:
    try:
        return read_member(name, network)
    except UserError as error:
        raise UserError(f"teacher={str(error).removeprefix('ckpt=')}") from None


def _recorded(
    given: Sequence[str | Path], name: str | Path, described: Mapping[str, Any], data: EmotionDataModule
) -> Teachers:
    from safetensors import safe_open

    if len(given) > 1:
        raise UserError(f"teacher={name}: holds the judgement of all teachers; name it alone")
    if not described["known"]:
        log.warning(UNKNOWN, f"teacher={name}", "nor those of all the teachers that it records")
    with safe_open(name, "np") as file:
        further = file.get_tensor("further") if "further" in file.keys() else np.empty(0, np.int64)  # noqa: SIM118
    if further.dtype != np.int64 or further.ndim != 1:
        raise UserError(f"teacher={name}: further {further.dtype} {list(further.shape)}, must be int64 [n]")
    data.add_training_images(further.view(np.uint64), described["known"])
    return Teachers(tuple(map(str, described["teachers"])), described["known"], recorded=Path(name))


def record(arguments: Sequence[str], out: Path) -> NDArray[np.float16]:
    """Writes the mean judgement of teachers to a file that stands for them in `teacher=`.

    Args:
        arguments: settings of the training that learns, `<setting>=<value>`, with `teacher`.
        out: the file, `.safetensors`: `logits` float16 [V, n, K] and a description.

    Returns:
        The logits.

    Raises:
        UserError: a setting is not legal, the teachers do not fit, or the file has another suffix.
    """
    from safetensors.numpy import save_file

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: a name that ends with .safetensors is needed")
    arguments = with_implied_model([*arguments])
    check_overrides(arguments, "give one; the file serves all of them")
    settings = read(compose(*quote_arguments(arguments)))
    require_effect(arguments, settings.flat())
    data, trainer = EmotionDataModule.of(settings.flat()), settings.trainer
    teachers = read_teachers(settings.distillation, data, settings.network.network)
    if not teachers.names:
        raise UserError("teacher: missing; name the networks that teach, as teacher=[a.ckpt,b.ckpt]")
    device, precision = _device(trainer), str(trainer.precision)
    if precision == "auto":
        precision = best_precision(device.type, [device.index or 0])
    exact_float32()
    with explain_out_of_memory(settings):
        teaching = teachers.teaching(settings.distillation, data, device, precision)
    views = [mean_logits([each[view] for each in teaching.logits]) for view in range(len(teaching.logits[0]))]
    logits: NDArray[np.float16] = torch.stack(views).half().numpy()  # [V, n, K]
    described = {**_description(data, teaching.views), "teachers": list(teachers.names), "known": teachers.known}
    with atomic_write(out) as temporary:
        tensors: dict[str, NDArray[Any]] = {"logits": logits, "further": data.further.view(np.int64)}
        save_file(tensors, temporary, {TEACHING: json.dumps(described)})
    return logits


def _device(trainer: TrainerSettings) -> torch.device:
    """Returns the one device that the Trainer of these settings would take, or the first of several."""
    names: dict[str | None, str | None] = {"auto": None, "gpu": "cuda"}
    device = find_device(names.get(trainer.accelerator, trainer.accelerator))
    first = trainer.devices[0] if isinstance(trainer.devices, list) and trainer.devices else None
    return device if first is None or device.type == "cpu" else find_device(f"{device.type}:{first}")


def _judge(
    network: nn.Module, data: EmotionDataModule, views: int, device: torch.device, precision: str
) -> NDArray[np.float16]:
    """Returns the logits of a network for all views, float16 [V, n, K]; the last view can be the unchanged images."""
    cache, (images, _, rows) = FeatureCache(network, device, SEED, precision), data.train_set
    parts = [cache(images, rows.numpy(), data.augmentation, views)] if views else []
    if not views or data.plain_epochs:
        parts.append(cache(images, rows.numpy()))
    return np.concatenate([part.reshape(-1, len(rows), part.shape[-1]) for part in parts])


def _require_fit(name: str | Path, teacher: Origin, data: EmotionDataModule) -> bool:
    """Checks that a teacher fits the data; returns whether its training images are known to validate nothing here."""
    if teacher.classes != data.classes:
        raise UserError(
            f"teacher={name}: has the classes {listed(teacher.classes)}; the data has {listed(data.classes)}, and a "
            "teacher needs the same in the same order"
        )
    size, side = data.packed.images.shape[1:], teacher.data["pack_size"] or FER_SIZE
    if (trained := teacher.size or (teacher.data["channels"] or 1, side, side)) != size:
        kinds = ["x".join(map(str, shape)) for shape in (trained, size)]
        raise UserError(f"teacher={name}: was trained on images of {kinds[0]} pixels; these have {kinds[1]}")
    known = require_unseen(f"teacher={name}", teacher, data)
    if not known:
        log.warning(UNKNOWN, f"teacher={name}", teacher.told)
    return known


def _name(teacher: Member) -> str:
    return f"{teacher.model}, seed {teacher.origin.data.get('seed', 'unknown')}, {teacher.digest}"


def _description(data: EmotionDataModule, views: int) -> dict[str, Any]:
    """Returns what must be the same when judgement is recorded and learned."""
    images, _, rows = data.train_set
    drawn = Augmentation(AugmentationSettings.of(data.hparams)).of_images.flat()
    return {
        **drawn,
        "classes": list(data.classes),
        "distill_views": views,
        "plain_epochs": not views or bool(data.plain_epochs),
        "images": images_digest(images, rows.numpy()),
        "held-out images": images_digest(data.packed.images, np.concatenate([data.rows.val, data.rows.test])),
    }


def _read_description(path: Path) -> dict[str, Any] | None:
    """Returns the description in a file of recorded judgement; None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(TEACHING)
    except SafetensorError:
        return None  # the reader of networks says what is wrong
    try:
        described = None if text is None else json.loads(text)
        if described is not None and not (isinstance(described["teachers"], list) and type(described["known"]) is bool):
            raise TypeError("teachers, known")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"teacher={path}: its description is broken ({first_line(error)})") from None
    return described


def _read_logits(path: Path, needed: dict[str, Any], images: int) -> NDArray[np.float16]:
    from safetensors.numpy import load_file

    described = _read_description(path) or {}
    differing = [key for key, value in needed.items() if described.get(key) != value]
    if differing:
        raise UserError(f"teacher={path}: was recorded with other {listed(differing)}; record it again: emotion teach")
    logits = load_file(path).get("logits")
    shape = (needed["distill_views"] + needed["plain_epochs"], images, len(needed["classes"]))
    if logits is None or logits.dtype != np.float16 or logits.shape != shape:
        raise UserError(f"teacher={path}: no logits float16 {list(shape)} in the file")
    if not np.isfinite(logits).all():
        raise UserError(f"teacher={path}: has logits that are not finite; record it again: emotion teach")
    return logits
