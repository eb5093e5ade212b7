"""Pretrained backbones of torchvision, timm and face recognition, with the paper's head."""

import difflib
from collections.abc import Sequence

import torch
from torch import nn

from emotion.errors import UserError
from emotion.models.cnn import init_keras
from emotion.models.face import face_backbone
from emotion.models.network import Network, feature_count
from emotion.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from emotion.models.resnet import init_torchvision
from emotion.settings import NetworkSettings

HIDDEN_UNITS = 256


def build_transfer(settings: NetworkSettings, num_classes: int) -> Network:
    """Builds a backbone with the head of section 3.2 of the paper: flatten, 256 units, dropout 0.5, the logits.

    The backbone is initialised at random; `emotion.models.weights` loads pretrained weights into it. A torchvision
    backbone ends at its last feature map, as in the paper; a timm backbone ends with its own pooling. Features of a
    face backbone are standardised first: they lie far from 0, where the head does not learn at the paper's rate.

    `activation_scale` multiplies the input, and the biases where pretrained weights are loaded. ReLU and pooling keep
    the factor, so that every feature map is that of the published network times the factor.

    Args:
        settings: `family` is the library of the backbone, `backbone` its name there.
        num_classes: number of logits.

    Raises:
        UserError: the backbone is unknown, or the image size does not fit it.
    """
    library, backbone, image_size = settings.family, settings.backbone, settings.image_size
    assert backbone is not None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    if library == "torchvision":
        body, stages = _torchvision_backbone(backbone)
    elif library == "timm":
        body, stages = _timm_backbone(backbone, image_size)
        config = getattr(body, "pretrained_cfg", {})
        mean, std = config.get("mean", mean), config.get("std", std)
    else:
        published = face_backbone(backbone)
        if settings.normalize == "caffe":
            raise UserError(f"normalize=caffe: {backbone} turns its channels itself; use normalize=imagenet")
        body, stages = published.build()
        body.apply(init_torchvision)
        mean, std = published.mean, published.std
    if settings.activation_scale is not None:
        _require_rescalable(settings.activation_scale, backbone)
    preprocess = Preprocess(3, image_size, settings.normalize, mean, std, settings.activation_scale or 1)
    features = feature_count(body, torch.zeros(1, 3, image_size, image_size), backbone)
    head = nn.Sequential(
        nn.Flatten(),
        *([nn.BatchNorm1d(features, affine=False)] if library == "face" else []),
        nn.Linear(features, HIDDEN_UNITS),
        nn.ReLU(),
        nn.Dropout(0.5 if settings.dropout is None else settings.dropout),
        nn.Linear(HIDDEN_UNITS, num_classes),
    )
    return Network(preprocess, body, head.apply(init_keras), stages)


def _require_rescalable(scale: float, backbone: str) -> None:
    if not (backbone.startswith("vgg") and backbone.isalnum()):
        raise UserError(
            f"activation_scale={scale}: {backbone} would not compute the same; only VGG without normalisation does, as "
            "model=vgg16_ft"
        )


def _torchvision_backbone(name: str) -> tuple[nn.Module, Sequence[nn.Module]]:
    from torchvision.models import VGG, ResNet, get_model, list_models

    legal = list_models(include=["vgg*", "resnet*", "resnext*", "wide_resnet*"])
    if name not in legal:
        raise UserError(f"backbone={name}: not one of {', '.join(legal)} (any other: model=timm backbone=<timm name>)")
    # On the meta device, the classifier (most of VGG's parameters) takes no memory before it is removed.
    with torch.device("meta"):
        model = get_model(name)
    assert isinstance(model, VGG | ResNet)
    model.avgpool = nn.Identity()
    if isinstance(model, VGG):
        model.classifier = nn.Identity()
        stages = list(model.features)
    else:
        model.fc = nn.Identity()
        layers = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
        stages = [model.conv1, model.bn1, model.relu, model.maxpool, *layers]
    return model.to_empty(device=torch.get_default_device()).apply(init_torchvision), stages


def _timm_backbone(name: str, image_size: int) -> tuple[nn.Module, Sequence[nn.Module]]:
    import timm

    if not timm.is_model(name.split(".")[0]):
        similar = difflib.get_close_matches(name, timm.list_models(), 5)
        hint = f"similar: {', '.join(similar)}" if similar else "timm.list_models() lists them"
        raise UserError(f"backbone={name}: timm has no such model ({hint})")
    try:
        model = create_timm(name, image_size, pretrained=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"backbone={name}: timm cannot build it with image_size={image_size} ({reason})") from None
    return model, [model]


def create_timm(name: str, image_size: int, pretrained: bool) -> nn.Module:
    """Builds a timm backbone without classifier; only transformers need the image size, pixels, at construction."""
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size)
    except TypeError:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
