"""Batch normalisation in short epochs."""

import torch
from torch import nn

from emotion.training.statistics import estimate_statistics, folded_layers, restore_statistics, slow_statistics


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


def folded_network() -> nn.Sequential:
    """Two convolutions with normalisation, as a file has them in which the statistics are part of the weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    for norm in (network[1], network[4]):
        norm.bias.data = torch.randn_like(norm.bias)
        norm.running_var.fill_(1 - norm.eps)
    return network.eval()


def test_restored_statistics_leave_the_output_and_make_it_that_of_training_mode() -> None:
    network, images = folded_network(), 60 * torch.randn(32, 3, 12, 12)
    folded = network(images)
    scaled = folded_network().train()(images)
    assert not torch.allclose(scaled, folded, rtol=0.5)  # the reason: training mode would scale every channel

    assert folded_layers(network) == [network[1], network[4]]
    restore_statistics(folded_layers(network), network, images.split(32))
    assert folded_layers(network) == []
    torch.testing.assert_close(network(images), folded, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(network.train()(images), folded, rtol=1e-2, atol=0.1)


def test_layers_with_statistics_or_without_weights_are_not_folded() -> None:
    trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    trained(torch.rand(4, 3, 8, 8))
    assert folded_layers(trained) == []
    assert folded_layers(nn.BatchNorm1d(3, affine=False)) == []
    assert folded_layers(nn.BatchNorm1d(3, track_running_stats=False)) == []
