import pytest
import torch
from builders import make_network
from torch import nn

from emotion.errors import UserError
from emotion.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from emotion.models.transfer import build_transfer
from emotion.settings import NetworkSettings

TIMM = ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"]


def build(library, backbone, image_size=48, normalize="imagenet", **options):
    settings = NetworkSettings(
        family=library, backbone=backbone, image_size=image_size, normalize=normalize, unfreeze="all", **options
    )
    return build_transfer(settings, 7)


def trained(network):
    return [name for name, parameter in network.backbone.named_parameters() if parameter.requires_grad]


def one_line(error):
    return "\n" not in str(error.value)


def test_head_is_that_of_the_paper():
    head = build("torchvision", "vgg11").head
    assert [type(layer).__name__ for layer in head] == ["Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)] == [
        (512, 256), (256, 7),
    ]  # fmt: skip
    assert head[3].p == 0.5
    assert build("torchvision", "vgg11", dropout=0.2).head[3].p == 0.2
    for layer in (head[1], head[4]):
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.95 * limit < layer.weight.detach().abs().max() <= limit
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("backbone", "image_size", "features"),
    [("vgg11", 48, 512), ("vgg11", 96, 512 * 9), ("resnet18", 48, 512 * 4), ("resnet18", 96, 512 * 9)],
)
def test_torchvision_backbone_ends_at_its_last_feature_map(backbone, image_size, features):
    network = build("torchvision", backbone, image_size).eval()
    assert network.head[1].in_features == features
    with torch.no_grad():
        logits = network(torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_resnet_equals_torchvision():
    from torchvision.models import resnet18

    backbone, reference = build("torchvision", "resnet18", 64).backbone.eval(), resnet18(num_classes=1).eval()
    reference.load_state_dict(backbone.state_dict(), strict=False)
    features = {}
    reference.layer4.register_forward_hook(lambda *arguments: features.update(map=arguments[-1]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        reference(images)
        torch.testing.assert_close(backbone(images), features["map"].flatten(1))


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_every_weight_is_initialised_from_the_seed(backbone):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        network = build("torchvision", backbone)
        states.append({name: value.clone() for name, value in network.state_dict().items()})
        with torch.no_grad():
            # Reused memory must not show in the weights of the next network.
            for value in network.state_dict().values():
                value.fill_(77)
        del network
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    layers = [layer for layer in build("torchvision", backbone).modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        assert (layer.running_mean == 0).all()
        assert (layer.running_var == 1).all()
        assert (layer.weight == 1).all()
        assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("backbone", TIMM)
def test_timm_backbone_works_from_random_weights(backbone):
    for image_size in (48, 96):
        network = build("timm", backbone, image_size).eval()
        with torch.no_grad():
            logits = network(torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "count", "parts"),
    [
        ("resnet18", 4, {"layer4.1.", "layer4.0.conv2", "layer4.0.bn2", "layer4.0.downsample"}),
        ("tf_efficientnet_lite0", 4, {"blocks.6.0.", "conv_head.", "bn2."}),
        # cls_token and pos_embed belong to the first layer and stay frozen.
        ("vit_tiny_patch16_224", 4, {"blocks.11.attn.", "blocks.11.mlp.", "blocks.11.norm2.", "norm."}),
        ("convnext_atto", 3, {"stages.3.blocks.1.", "head.norm."}),
    ],
)
def test_timm_backbone_trains_its_last_layers(backbone, count, parts):
    network = build("timm", backbone)
    network.unfreeze(count)
    names = trained(network)
    assert {part for part in parts if any(name.startswith(part) for name in names)} == parts
    assert [name for name in names if not name.startswith(tuple(parts))] == []
    network.train().freeze_statistics()
    network(torch.rand(2, 3, 48, 48)).sum().backward()
    assert [name for name, parameter in network.backbone.named_parameters() if parameter.grad is not None] == names


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_all_layers_of_a_timm_backbone_can_be_counted_and_trained(backbone):
    network = build("timm", backbone)
    layers = [module for module in network.backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    network.unfreeze(len(layers))
    assert trained(network) == [name for name, _ in network.backbone.named_parameters()]
    with pytest.raises(UserError, match=f"{len(layers)} layers"):
        network.unfreeze(len(layers) + 1)


@pytest.mark.parametrize(
    ("library", "backbone", "mean", "std"),
    [
        ("torchvision", "vgg11", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("timm", "tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_imagenet_normalisation_is_that_of_the_weights(library, backbone, mean, std):
    preprocess = build(library, backbone).preprocess
    torch.testing.assert_close(preprocess.shift.flatten(), torch.tensor(mean))
    torch.testing.assert_close(preprocess.scale.flatten(), torch.tensor(std))


@pytest.mark.parametrize(("library", "backbone", "image_size"), [("torchvision", "vgg11", 16), ("timm", "test_vit", 8)])
def test_image_size_that_is_too_small_is_refused_in_one_line(library, backbone, image_size):
    with pytest.raises(UserError, match=f"image_size={image_size}: does not fit {backbone}") as error:
        build(library, backbone, image_size)
    assert one_line(error)


def test_image_that_timm_does_not_take_is_explained(monkeypatch):
    import timm

    class WithoutMessage(nn.Module):
        def forward(self, images):
            raise AssertionError

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: WithoutMessage())
    with pytest.raises(UserError, match="image_size=48: does not fit resnet18") as error:
        build("timm", "resnet18")
    assert "()" not in str(error.value)


@pytest.mark.parametrize("backbone", ["alexnet", "vgg17", "inception_v3", ""])
def test_unknown_torchvision_backbone_lists_the_legal_names(backbone):
    with pytest.raises(UserError, match=f"backbone={backbone}: not one of .*resnet50.*vgg16.*model=timm") as error:
        build("torchvision", backbone)
    assert one_line(error)


@pytest.mark.parametrize(
    ("backbone", "hint"),
    [
        ("resnet19", r"no such model \(similar: .*resnet18"),
        ("convnext_gigantic", r"no such model \(similar: .*convnext"),
        ("nonsense", r"no such model .*list_models"),
        ("resnet18.no_such_tag", "no_such_tag"),
    ],
)
def test_unknown_timm_backbone_hints_at_similar_ones(backbone, hint):
    with pytest.raises(UserError, match=f"backbone={backbone}: .*{hint}") as error:
        build("timm", backbone)
    assert one_line(error)
    assert len(str(error.value)) < 400


def test_a_face_network_that_turns_its_channels_does_not_get_them_turned():
    with pytest.raises(UserError, match=r"^normalize=caffe: resnet50_vggface2 turns its channels itself; use"):
        make_network(family="face", backbone="resnet50_vggface2", image_size=64, normalize="caffe", unfreeze=0)
