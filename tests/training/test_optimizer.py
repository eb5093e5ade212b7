import copy
import math

import numpy as np
import pytest
import torch
from builders import make_network
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from emotion.settings import OptimizerSettings
from emotion.training.optimizer import SharpnessAware, build_optimizer, cosine_factor

CNN = {"family": "cnn", "blocks": [2, 1]}
RESNET = {"family": "resnet", "blocks": [1, 1], "width": 4, "stem_stride": 1}
VGG = {"family": "torchvision", "backbone": "vgg11", "unfreeze": 3}


def make(settings=RESNET):
    return make_network(image_size=32, normalize="unit", **settings)


def build(network, lr=0.1, fused=False, **settings):
    return build_optimizer(network.layers(), lr, OptimizerSettings(**settings), fused)


def names_of(network, parameters):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def of_each(network, optimizer, key):
    """Returns a value of the optimiser's groups for each parameter, by name."""
    return {name: group[key] for group in optimizer.param_groups for name in names_of(network, group["params"])}


class TestBuild:
    @pytest.mark.parametrize("settings", [CNN, RESNET, VGG], ids=["cnn", "resnet", "vgg11"])
    def test_default_is_the_adam_of_keras_over_the_parameters_in_order(self, settings):
        network = make(settings)
        optimizer = build(network, 3e-4)
        assert type(optimizer) is Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], group["eps"], group["betas"], group["weight_decay"]) == (3e-4, 1e-7, (0.9, 0.999), 0)
        assert names_of(network, group["params"]) == [
            name for name, parameter in network.named_parameters() if parameter.requires_grad
        ]

    @pytest.mark.parametrize(
        ("settings", "kind", "expected"),
        [
            ({"optimizer": "adam"}, Adam, {"eps": 1e-7, "betas": (0.9, 0.999)}),
            ({"optimizer": "adamw"}, AdamW, {"eps": 1e-8, "betas": (0.9, 0.999)}),
            ({"optimizer": "sgd"}, SGD, {"momentum": 0.9, "nesterov": True, "dampening": 0}),
            ({"optimizer": "sgd", "momentum": 0.5}, SGD, {"momentum": 0.5, "nesterov": True}),
            ({"optimizer": "sgd", "momentum": 0.0}, SGD, {"momentum": 0.0, "nesterov": False}),
        ],
    )
    @pytest.mark.parametrize("fused", [False, True])
    def test_kinds(self, settings, kind, expected, fused):
        optimizer = build(make(), fused=fused, weight_decay=0.01, **settings)
        assert type(optimizer) is kind
        for group in optimizer.param_groups:
            assert {key: group[key] for key in expected} == expected
            assert group["fused"] is (fused or None)  # None lets PyTorch choose; False takes one weight after the other
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    @pytest.mark.parametrize("settings", [CNN, RESNET], ids=["cnn", "resnet"])
    def test_biases_and_normalisation_do_not_decay(self, settings, optimizer):
        network = make(settings)
        decays = of_each(network, build(network, optimizer=optimizer, weight_decay=5e-4), "weight_decay")
        modules = dict(network.named_modules())
        for name in dict(network.named_parameters()):
            owner, kind = modules[name.rpartition(".")[0]], name.rpartition(".")[2]
            weighs = isinstance(owner, nn.Conv2d | nn.Linear) and kind == "weight"
            assert decays[name] == (5e-4 if weighs else 0.0), name

    def test_every_layer_learns_slower_than_the_next(self):
        network = make()
        rates = of_each(network, build(network, 0.2, layer_decay=0.5), "lr")
        expected = {"backbone.0": 0.025, "backbone.1": 0.05, "backbone.2": 0.1, "head": 0.2}
        for name, rate in rates.items():
            (exact,) = (value for start, value in expected.items() if name.startswith(start))
            assert rate == pytest.approx(exact), name
        assert len(rates) == len(list(network.parameters()))

    def test_weight_decay_and_layer_decay_combine_and_the_highest_rate_is_first(self):
        network = make()
        optimizer = build(network, 0.2, layer_decay=0.5, weight_decay=0.1)
        groups = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        assert groups == [(rate, decay) for rate in (0.2, 0.1, 0.05, 0.025) for decay in (0.1, 0.0)]
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert len(held) == len(set(held)) == len(list(network.parameters()))

    def test_frozen_parameters_are_left_out_but_their_layers_count(self):
        network = make(VGG)
        rates = of_each(network, build(network, 1.0, layer_decay=0.5, weight_decay=0.1), "lr")
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert set(rates) == trained
        assert {name: rate for name, rate in rates.items() if name.endswith("weight")} == {
            "backbone.features.13.weight": 0.125,
            "backbone.features.16.weight": 0.25,
            "backbone.features.18.weight": 0.5,
            "head.1.weight": 1.0,
            "head.4.weight": 1.0,
        }

    def test_every_group_has_its_own_rate_on_the_device(self):
        optimizer = build(make(), torch.tensor(0.5), optimizer="sgd", fused=True, layer_decay=0.5, weight_decay=0.1)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert all(isinstance(rate, torch.Tensor) for rate in rates)
        assert len({rate.data_ptr() for rate in rates}) == 8
        rates[0].fill_(7.0)
        assert [float(rate) for rate in rates[1:]] == [0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]

    @pytest.mark.parametrize("fused", [False, True])
    def test_sgd_steps_by_hand(self, fused):
        layer = nn.Linear(3, 2)
        first = nn.Linear(2, 2)
        settings = OptimizerSettings(optimizer="sgd", momentum=0.8, weight_decay=0.1, layer_decay=0.5)
        optimizer = build_optimizer([list(first.parameters()), list(layer.parameters())], 0.2, settings, fused)
        gradients = torch.rand(3, 2, 3), torch.rand(3, 2)
        expected = [parameter.detach().clone() for parameter in layer.parameters()]
        velocity = [torch.zeros_like(value) for value in expected]
        for step in range(3):
            for index, decay in enumerate((0.1, 0.0)):
                parameter = list(layer.parameters())[index]
                parameter.grad = gradients[index][step].clone()
                slope = gradients[index][step] + decay * expected[index]
                velocity[index] = 0.8 * velocity[index] + slope
                expected[index] = expected[index] - 0.2 * (slope + 0.8 * velocity[index])
            first.weight.grad = torch.ones(2, 2)
            optimizer.step()
        for parameter, value in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value)


class TestCosine:
    def test_edges(self):
        assert cosine_factor(0, 10) == 1
        assert cosine_factor(5, 10) == pytest.approx(0.5)
        assert cosine_factor(10, 10) == pytest.approx(0, abs=1e-15)

    def test_rises_in_a_line_and_falls_as_half_a_cosine(self):
        factors = [cosine_factor(step, 24, 4) for step in range(25)]
        assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
        np.testing.assert_allclose(factors[4:], (1 + np.cos(np.linspace(0, np.pi, 21))) / 2, atol=1e-12)

    @pytest.mark.parametrize(("steps", "warm_up"), [(5, 5), (5, 9), (1, 1), (0, 0)])
    def test_warm_up_may_take_all_steps(self, steps, warm_up):
        factors = [cosine_factor(step, steps, warm_up) for step in range(steps + 1)]
        assert factors[:warm_up] == [(step + 1) / warm_up for step in range(min(warm_up, steps + 1))]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)

    def test_without_warm_up_is_the_schedule_of_pytorch(self):
        def rates(schedule):
            optimizer = SGD([nn.Parameter(torch.zeros(1))], 0.3)
            scheduler, seen = schedule(optimizer), []
            for _ in range(17):
                seen.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            return [*seen, optimizer.param_groups[0]["lr"]]

        found = rates(lambda optimizer: LambdaLR(optimizer, lambda step: cosine_factor(step, 17)))
        np.testing.assert_allclose(found, rates(lambda optimizer: CosineAnnealingLR(optimizer, 17)), atol=1e-12)


class TestSharpnessAware:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        network[0].bias.requires_grad_(False)
        return network

    def backward(self, network):
        network(torch.rand(6, 4)).square().sum().backward()

    def test_moves_along_the_gradient_by_rho(self, network):
        self.backward(network)
        start = copy.deepcopy(network)
        SharpnessAware(network, 0.05).perturb()
        trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        moves, gradients = [], []
        for name in trained:
            parameter = network.get_parameter(name)
            moves.append((parameter - start.get_parameter(name)).detach().flatten())
            gradients.append(parameter.grad.flatten())
        move, gradient = torch.cat(moves), torch.cat(gradients)
        assert float(move.norm()) == pytest.approx(0.05, rel=1e-4)
        torch.testing.assert_close(move, 0.05 * gradient / gradient.norm(), atol=1e-6, rtol=1e-3)
        assert torch.equal(network[0].bias, start[0].bias)

    def test_restores_weights_and_statistics_bit_by_bit(self, network):
        self.backward(network)
        start = {name: value.clone() for name, value in network.state_dict().items()}
        sharpness = SharpnessAware(network, 0.5)
        before = sharpness.perturb()
        self.backward(network)
        assert not torch.equal(network[1].running_mean, start["1.running_mean"])
        gradients = [parameter.grad.clone() for parameter in sharpness.parameters]
        sharpness.restore(before)
        assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())
        for parameter, gradient in zip(sharpness.parameters, gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)

    def test_infinite_gradients_move_nothing(self, network):
        self.backward(network)
        start = {name: value.clone() for name, value in network.state_dict().items()}
        network[2].weight.grad[0, 0] = float("inf")
        SharpnessAware(network, 0.05).perturb()
        assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())

    def test_without_a_gradient_nothing_moves(self, network):
        self.backward(network)
        network[2].weight.grad = None
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        start = {name: value.clone() for name, value in network.state_dict().items()}
        SharpnessAware(network, 0.5).perturb()
        assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())

    def test_a_gradient_that_overflowed_leaves_no_trace(self, network):
        """With float16 the Trainer skips such a step: nothing moves, or the loss would be no number and end the run."""
        self.backward(network)
        start = {name: value.clone() for name, value in network.state_dict().items()}
        network[2].weight.grad[0, 0] = math.inf
        sharpness = SharpnessAware(network, 0.5)
        before = sharpness.perturb()
        assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())
        self.backward(network)
        sharpness.restore(before)
        assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())
