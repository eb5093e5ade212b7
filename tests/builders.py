"""Data, networks and augmentations from flat settings, as the tests write them."""

from typing import Any

from emotion.data.augment import Augmentation, RandomAffine
from emotion.data.datamodule import EmotionDataModule
from emotion.data.mix import Mix
from emotion.models.network import Network
from emotion.models.registry import build_network
from emotion.settings import AugmentationSettings, NetworkSettings


def data_module(**settings: Any) -> EmotionDataModule:
    return EmotionDataModule.of(settings)


def make_network(num_classes: int = 7, **settings: Any) -> Network:
    return build_network(NetworkSettings.of(settings), num_classes)


def make_augmentation(affine: RandomAffine | None = None, **changes: Any) -> Augmentation:
    moves = {} if affine is None else vars(affine)
    return Augmentation(AugmentationSettings(augment=affine is not None, **moves, **changes))


def make_mix(mixup: float = 0, cutmix: float = 0) -> Mix:
    return Mix(AugmentationSettings(mixup=mixup, cutmix=cutmix))
