"""Heatmaps must show what a network looks at: on drawn faces it is known where the expression is."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import wilcoxon

from emotion.analysis.gradcam import heatmaps
from emotion.data.classes import CLASSES
from emotion.data.synthetic import draw_face
from emotion.models.registry import build_network

TRAINING, EPOCHS, HELD_OUT = 1750, 12, 350


def draw(number, seed):
    """Draws faces, all classes equally often: images uint8 [N, 1, 48, 48], masks bool [N, 48, 48], labels int64 [N]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % len(CLASSES)
    faces = [draw_face(CLASSES[label], rng) for label in labels]
    return np.stack([face.image for face in faces])[:, None], np.stack([face.mask for face in faces]), labels


def train(network, images, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(targets), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    network.eval()


def shares(network, images, masks, labels, method):
    """Returns the share of each heatmap's mass on the pixels of the expression; of a flat one, their share."""
    maps = heatmaps(network, images, labels, method)
    mass, area = maps.sum((1, 2)), masks.mean((1, 2))
    return np.where(mass > 0, (maps * masks).sum((1, 2)) / np.maximum(mass, 1e-12), area)


@pytest.mark.slow
def test_trained_network_is_seen_to_look_at_the_expression():
    torch.manual_seed(0)
    network = build_network(
        family="cnn", backbone=None, blocks=[1, 1, 1], unfreeze=None, image_size=48, normalize="unit"
    )
    untrained = deepcopy(network).eval()
    images, _, labels = draw(TRAINING, 0)
    train(network, images, labels, 0)
    # Of faces that the network has not seen, those that it reads rightly: why it errs on others is another question.
    images, masks, labels = draw(HELD_OUT, 1000)
    with torch.no_grad():
        right = network(torch.from_numpy(images)).argmax(1).numpy() == labels
    assert right.mean() > 0.6
    seen = images[right], masks[right], labels[right]
    trained = shares(network, *seen, "hirescam")
    levels = {
        "the area of the expression": seen[1].mean((1, 2)),
        "the untrained network": shares(untrained, *seen, "hirescam"),
        "maps weighted by mean gradients": shares(network, *seen, "gradcam"),
    }
    for name, level in levels.items():
        p_value = wilcoxon(trained, level, alternative="greater").pvalue
        figures = f"{trained.mean():.3f} against {level.mean():.3f}, {name}; p = {p_value:.1g}, n = {len(level)}"
        assert trained.mean() > 1.5 * level.mean(), figures
        assert p_value < 1e-9, figures
