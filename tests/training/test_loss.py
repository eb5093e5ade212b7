from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emotion.settings import DistillationSettings, LossSettings
from emotion.training.loss import EmotionLoss

WEIGHTS = torch.tensor([0.5, 4.0, 0.1, 1.0, 2.0, 0.7, 3.0])
SHARES = torch.tensor([0.14, 0.01, 0.15, 0.25, 0.17, 0.11, 0.17])
VALUES = {"label_smoothing": (0.0, 0.1), "focal_gamma": (0.0, 0.5, 2.0), "logit_adjustment": (0.0, 1.0, 0.7)}


def draw(count=12):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, 7, generator=generator)
    hard = torch.randint(7, (count,), generator=generator)
    shares = torch.rand(count, 1, generator=generator)
    soft = shares * F.one_hot(hard, 7) + (1 - shares) * F.one_hot(hard.roll(1), 7)
    return logits, hard, soft


def by_hand(logits, labels, weights, label_smoothing, focal_gamma, logit_adjustment):
    """The loss of labels [B, K] in double precision, from the definitions."""
    logits, labels = logits.double().numpy(), labels.double().numpy()
    logits = logits + logit_adjustment * np.log(SHARES.double().numpy())
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weighted = weights * labels
    targets = (1 - label_smoothing) * weighted + label_smoothing / 7 * weighted.sum(1, keepdims=True)
    losses = -(targets * np.log(probabilities)).sum(1)
    return (losses * (1 - (labels * probabilities).sum(1)) ** focal_gamma).mean()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_every_combination_follows_the_definitions(kind, weights):
    logits, hard, soft = draw()
    labels, shares = (hard, F.one_hot(hard, 7)) if kind == "hard" else (soft, soft)
    by_class = np.ones(7) if weights is None else weights.double().numpy()
    seen = set()
    for values in product(*VALUES.values()):
        changes = dict(zip(VALUES, values, strict=True))
        found = float(EmotionLoss(LossSettings(**changes), weights, SHARES)(logits, labels))
        assert found == pytest.approx(by_hand(logits, shares, by_class, **changes), rel=1e-5), changes
        seen.add(round(found, 4))
    assert len(seen) == 2 * 3 * 3, "two of the combinations give the same loss"


def test_by_itself_it_is_the_cross_entropy():
    logits, hard, soft = draw()
    for labels in (hard, soft):
        for shares in (None, SHARES):
            found = EmotionLoss(LossSettings(), None, shares)(logits, labels)
            torch.testing.assert_close(found, F.cross_entropy(logits, labels))


def test_smoothing_is_that_of_pytorch():
    logits, hard, soft = draw()
    for labels in (hard, soft):
        found = EmotionLoss(LossSettings(label_smoothing=0.2))(logits, labels)
        torch.testing.assert_close(found, F.cross_entropy(logits, labels, label_smoothing=0.2))


def test_smoothing_spreads_a_label_evenly_whatever_the_weights():
    """The best output for an image is its smoothed label; weights change the share of the image, not its target."""
    loss = EmotionLoss(LossSettings(label_smoothing=0.1), WEIGHTS)
    for label in range(7):
        best = (0.9 * F.one_hot(torch.tensor([label]), 7) + 0.1 / 7).log().requires_grad_()
        loss(best, torch.tensor([label])).backward()
        assert best.grad.abs().max() < 1e-6


def test_weights_are_exact_in_half_precision():
    loss = EmotionLoss(LossSettings(label_smoothing=0.1), torch.tensor([0.571, 9.41, 1.0]))
    logits, labels = torch.zeros(3, 3), torch.arange(3)
    with torch.autocast("cpu", torch.bfloat16):
        hard, soft = (loss(logits, each) for each in (labels, F.one_hot(labels).float()))
    torch.testing.assert_close(soft, hard, rtol=1e-6, atol=0)


def test_weighted_mean_is_that_of_keras():
    """PyTorch divides by the sum of the weights, Keras by the number of images."""
    logits, hard, _ = draw()
    found = EmotionLoss(LossSettings(), WEIGHTS)(logits, hard)
    weights = WEIGHTS[hard]
    torch.testing.assert_close(found, (weights * F.cross_entropy(logits, hard, reduction="none")).mean())
    torch.testing.assert_close(found * len(weights) / weights.sum(), F.cross_entropy(logits, hard, WEIGHTS))


def test_focal_loss_reduces_the_weight_of_certain_images():
    logits = torch.tensor([[4.0, 0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0, 0]])
    shares = []
    for gamma in (0.0, 2.0):
        certain, doubtful = (
            EmotionLoss(LossSettings(focal_gamma=gamma))(row[None], torch.tensor([0])) for row in logits
        )
        shares.append(float(certain / doubtful))
    assert shares[1] < shares[0] / 50


class TestLogitAdjustment:
    def test_gives_the_class_shares_for_equal_logits(self):
        labels = torch.arange(7)
        found = EmotionLoss(LossSettings(logit_adjustment=1.0), None, SHARES)(torch.zeros(7, 7), labels)
        torch.testing.assert_close(found, -(SHARES / SHARES.sum()).log().mean())

    def test_makes_the_network_learn_the_classifier_of_balanced_data(self):
        """The loss is smallest at log p(class | image) / p(class), the posterior of equally frequent classes."""
        posterior = torch.rand(4, 7, generator=torch.Generator().manual_seed(3)).softmax(1)
        loss = EmotionLoss(LossSettings(logit_adjustment=1.0), None, SHARES)
        logits = (posterior / SHARES).log().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, posterior), logits)
        assert gradient.abs().max() < 1e-6
        (gradient,) = torch.autograd.grad(EmotionLoss(LossSettings())(logits, posterior), logits)
        assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradient_is_that_of_the_loss(kind):
    logits, hard, soft = draw(4)
    labels = hard if kind == "hard" else soft.double()
    settings = LossSettings(label_smoothing=0.1, focal_gamma=1.5, logit_adjustment=1.0)
    loss = EmotionLoss(settings, WEIGHTS.double(), SHARES.double())
    assert torch.autograd.gradcheck(lambda logits: loss(logits, labels), logits.double().requires_grad_())


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("share", [1.0, 1 + 2**-23], ids=["one", "rounded above one"])
def test_certainty_gives_finite_losses_and_gradients(gamma, share):
    logits = torch.tensor([[200.0, 0, 0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0, 0, 0]], requires_grad=True)
    for labels in (torch.tensor([0, 1]), share * F.one_hot(torch.tensor([0, 1]), 7).float()):
        loss = EmotionLoss(LossSettings(focal_gamma=gamma))(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() > 0


def test_it_has_no_state_but_moves_with_the_task():
    loss = EmotionLoss(LossSettings(logit_adjustment=1.0), WEIGHTS, SHARES)
    assert not loss.state_dict()
    moved = loss.to("meta")
    assert moved.weights.device.type == moved.offsets.device.type == "meta"


@pytest.mark.parametrize("temperature", [1, 3.0])
@pytest.mark.parametrize("share", [0.1, 0.9, 1])
def test_teachers_have_their_share_of_the_loss(share, temperature):
    """(1 - share) * cross-entropy + share * T^2 * KL(teachers || network), at the temperature T."""
    logits, hard, _ = draw()
    taught = torch.randn(12, 7, generator=torch.Generator().manual_seed(1)).softmax(1)
    asked = DistillationSettings(teacher="small", distill=share, distill_temperature=temperature)
    found = EmotionLoss(LossSettings(), distillation=asked)(logits, hard, taught)
    p, z = taught.double().numpy(), logits.double().numpy() / temperature
    own = z - np.log(np.exp(z).sum(1, keepdims=True))
    divergence = (p * (np.log(p) - own)).sum(1).mean()
    expected = (1 - share) * float(F.cross_entropy(logits, hard)) + share * temperature**2 * divergence
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_network_that_says_what_its_teachers_say_learns_nothing():
    logits = draw()[0].requires_grad_()
    asked = DistillationSettings(teacher="small", distill=1, distill_temperature=2)
    EmotionLoss(LossSettings(), distillation=asked)(logits, draw()[1], (logits.detach() / 2).softmax(1)).backward()
    assert logits.grad.abs().max() < 1e-6
