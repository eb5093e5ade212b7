"""Weights of Keras's VGG: names, layout, checks, and the scale of the feature maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_network
from small_runs import train

from emotion.errors import UserError
from emotion.models.keras_file import read_keras
from emotion.models.preprocess import Preprocess
from emotion.models.weights import load_backbone

h5py = pytest.importorskip("h5py")
VGG16 = {1: [64, 64], 2: [128, 128], 3: [256, 256, 256], 4: [512, 512, 512], 5: [512, 512, 512]}


def layers() -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each convolution of VGG16 by Keras's names."""
    found, inputs = {}, 3
    for block, filters in VGG16.items():
        for number, outputs in enumerate(filters, 1):
            found[f"block{block}_conv{number}"] = inputs, outputs
            inputs = outputs
    return found


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = {}
    for name, (inputs, outputs) in layers().items():
        values[f"{name}_W_1:0"] = random.normal(0, (2 / 9 / inputs) ** 0.5, (3, 3, inputs, outputs)).astype(np.float32)
        values[f"{name}_b_1:0"] = random.normal(0, 0.1, outputs).astype(np.float32)
    return values


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Writes a file as Keras's: a group for each layer, also for those without weights."""
    with h5py.File(path, "w") as file:
        for name in ("input_1", "block1_pool", "block5_pool"):
            file.create_group(name)
        for key, values in arrays.items():
            file.require_group(key.rpartition("_")[0].removesuffix("_W").removesuffix("_b"))[key] = values
    return path


@pytest.fixture(scope="module")
def file(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("keras") / "vgg16_notop.h5", arrays)


def vgg16(**settings: object):
    return make_network(family="torchvision", backbone="vgg16", unfreeze=0, image_size=32, **settings)


def test_kernels_and_biases_get_torchvisions_names_and_layout(file, arrays):
    state = read_keras(file, "vgg16")
    assert list(state) == [key for key in vgg16().backbone.state_dict() if key.startswith("features.")]
    first, last = state["features.0.weight"], state["features.28.weight"]
    assert first.shape == (64, 3, 3, 3)
    assert first[5, 2, 0, 1] == arrays["block1_conv1_W_1:0"][0, 1, 2, 5]
    assert last[7, 11, 2, 0] == arrays["block5_conv3_W_1:0"][2, 0, 11, 7]
    assert torch.equal(state["features.24.bias"], torch.from_numpy(arrays["block5_conv1_b_1:0"]))


def test_the_network_computes_what_keras_would(file, arrays):
    """Convolutions as in Keras, channels last, by NumPy on the first block."""
    network = vgg16(normalize="caffe").eval()
    load_backbone(network.backbone, str(file), "torchvision", "vgg16", 32)
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = network.preprocess(image)
    reversed_minus_mean = image[0].permute(1, 2, 0).double().numpy()[:, :, ::-1] - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(seen[0].permute(1, 2, 0).numpy(), reversed_minus_mean, atol=1e-4)
    padded = np.pad(reversed_minus_mean, ((1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[row : row + 32, column : column + 32] @ arrays["block1_conv1_W_1:0"][row, column].astype(float)
        for row in range(3)
        for column in range(3)
    )
    expected = expected + arrays["block1_conv1_b_1:0"]
    found = network.backbone.features[0](seen)[0].permute(1, 2, 0).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_grey_images_have_the_means_in_keras_order():
    seen = Preprocess(3, 8, "caffe")(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8))
    torch.testing.assert_close(seen[0, :, 0, 0], 100 - torch.tensor([103.939, 116.779, 123.68]))


@pytest.mark.parametrize("scale", [0.1, 3])
def test_a_scale_multiplies_every_feature_map_and_changes_nothing_else(file, scale):
    plain, scaled = vgg16().eval(), vgg16(activation_scale=scale).eval()
    load_backbone(plain.backbone, str(file), "torchvision", "vgg16", 32)
    load_backbone(scaled.backbone, str(file), "torchvision", "vgg16", 32, scale)
    first, second = (
        network.preprocess(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)))
        for network in (plain, scaled)
    )
    with torch.no_grad():
        for before, after in zip(plain.backbone.features, scaled.backbone.features, strict=True):
            first, second = before(first), after(second)
            torch.testing.assert_close(second, first * scale, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("backbone", ["resnet50", "vgg16_bn"])
def test_other_backbones_have_no_scale(backbone):
    with pytest.raises(UserError, match=rf"^activation_scale=0.1: {backbone} would not compute the same"):
        make_network(family="torchvision", backbone=backbone, unfreeze=0, image_size=32, activation_scale=0.1)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"block5_conv3_W_1:0": None, "block5_conv3_b_1:0": None}, "differ in block5_conv3"),
            ({"block5_conv4_W_1:0": np.zeros((3, 3, 512, 512), np.float32)}, "differ in block5_conv4"),
            ({"block1_conv1_b_1:0": None}, "block1_conv1 has"),
            ({"block1_conv1_W_1:0": np.zeros((64, 3, 3, 3), np.float32)}, "block1_conv1 has"),
            ({"block2_conv1_b_1:0": np.full(128, np.nan, np.float32)}, "not finite"),
        ],
    )
    def test_other_content(self, arrays, changes, message, tmp_path):
        kept = {key: values for key, values in {**arrays, **changes}.items() if values is not None}
        path = write(tmp_path / "wrong.h5", kept)
        with pytest.raises(UserError, match=rf"^weights={path}: .*{message}") as caught:
            load_backbone(vgg16().backbone, str(path), "torchvision", "vgg16", 32)
        assert "\n" not in str(caught.value)

    def test_links_to_other_places(self, arrays, file, tmp_path):
        kept = {key: values for key, values in arrays.items() if not key.startswith("block1_conv1")}
        path = write(tmp_path / "links.h5", kept)
        with h5py.File(path, "a") as opened:
            opened["block1_conv1"] = h5py.ExternalLink(str(file), "/block1_conv1")
        with pytest.raises(UserError, match="block1_conv1 is a link"):
            read_keras(path, "vgg16")

    def test_arrays_in_other_files(self, arrays, tmp_path):
        kept = {key: values for key, values in arrays.items() if not key.startswith("block1_conv1_b")}
        path = write(tmp_path / "external.h5", kept)
        (tmp_path / "secret").write_bytes(bytes(256))
        with h5py.File(path, "a") as opened:
            opened["block1_conv1"].create_dataset(
                "b", (64,), np.float32, external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            )
        with pytest.raises(UserError, match="b lies in another file"):
            read_keras(path, "vgg16")

    def test_groups_without_end(self, arrays, tmp_path):
        kept = {key: values for key, values in arrays.items() if not key.startswith("block1_conv1")}
        path = write(tmp_path / "endless.h5", kept)
        with h5py.File(path, "a") as opened:
            group = opened.create_group("block1_conv1")
            for _ in range(40):
                child = group.create_group("a")
                group["b"] = child
                group = child
        with pytest.raises(UserError, match="holds more than a kernel and a bias"):
            read_keras(path, "vgg16")

    @pytest.mark.parametrize("content", [b"", b"not a file of Keras", bytes(5000)])
    def test_files_of_another_kind(self, content, tmp_path):
        path = tmp_path / "a.h5"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^weights={path}: not Keras's weights of vgg16 \("):
            read_keras(path, "vgg16")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UserError, match=r"a.h5: no such file$"):
            read_keras(tmp_path / "a.h5", "vgg16")

    def test_another_backbone(self, file):
        with pytest.raises(UserError, match=r"read for vgg16 and vgg19; resnet50 takes other files$"):
            read_keras(file, "resnet50")


@pytest.mark.training
def test_a_start_needs_the_scale_that_it_was_trained_with(tmp_path):
    words = [
        "model=vgg16_ft",
        "image_size=48",
        "weights=none",
        "unfreeze=1",
        "trainer.max_epochs=1",
        "synthetic_images=140",
        "augment=false",
    ]
    first = train(tmp_path / "first", *words, "activation_scale=0.1")
    with pytest.raises(UserError, match=r"needs activation_scale=0.1, as it began$"):
        train(tmp_path / "second", *words, f"init={first.path}")
