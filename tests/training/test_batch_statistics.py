"""Batch normalisation in short epochs."""

import torch
from torch import nn

from emotion.training.statistics import estimate_statistics, slow_statistics


def layers() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(3, momentum=0.01), nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.01))


def test_slow_layers_are_those_in_training_whose_memory_is_longer_than_an_epoch() -> None:
    network = layers()
    network[2].eval()  # frozen
    assert slow_statistics(network, 359) == []  # an epoch of the paper: 22,967 images in batches of 64
    assert slow_statistics(network, 100) == []
    assert slow_statistics(network, 99) == ["0"]
    assert slow_statistics(network, 10) == ["0"]
    assert slow_statistics(network, 9) == ["0", "1"]
    assert slow_statistics(nn.Linear(3, 3), 1) == []


def test_layers_without_running_statistics_are_left_alone() -> None:
    assert slow_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), 1) == []


def test_estimated_statistics_are_the_means_over_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, 3, generator=generator) * 5 + 2 for size in (20, 20, 2)]
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3, momentum=0.01)).eval()
    norm = network[1]
    norm.running_mean.fill_(9)
    state = torch.get_rng_state()
    estimate_statistics([norm], network, batches)
    torch.testing.assert_close(norm.running_mean, torch.cat(batches).mean(0))
    weighted = sum(len(batch) * batch.var(0) for batch in batches) / 42
    torch.testing.assert_close(norm.running_var, weighted)
    assert torch.equal(state, torch.get_rng_state())  # dropout, which would draw numbers, is off
    assert (norm.momentum, norm.training) == (0.01, False)
