import pytest
import torch
from builders import make_mix
from scipy import stats
from torch.nn.functional import one_hot


def make_batch(count=8, size=12):
    """Returns noise without equal pixels, [count, 1, size, size], and one-hot labels [count, 7]."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 1, size, size, generator=generator)
    return images, one_hot(torch.randint(7, (count,), generator=generator), 7).float()


def mix(kind, batch, seed=0):
    return kind(*batch, torch.Generator().manual_seed(seed))


def blended_share(images, mixed):
    """Returns the share of each image in its blend with the image before, by least squares; None without a blend."""
    others = images.roll(1, 0)
    share = float(((mixed - others) * (images - others)).sum() / (images - others).square().sum())
    return share if torch.allclose(mixed, share * images + (1 - share) * others, atol=1e-5) else None


def pasted(images, mixed):
    """Returns the mask [H, W] of the pixels pasted from the image before; checks that all images share it."""
    changed = (mixed != images)[:, 0]
    assert (changed == changed[0]).all()
    assert torch.equal(mixed, images.roll(1, 0).where(changed[0], images))
    return changed[0]


def test_mixup_blends_each_image_and_its_label_with_those_before():
    images, labels = make_batch()
    shares = []
    for seed in range(20):
        mixed, mixed_labels = mix(make_mix(mixup=1.0), (images, labels), seed)
        share = blended_share(images, mixed)
        assert share is not None
        torch.testing.assert_close(mixed_labels, share * labels + (1 - share) * labels.roll(1, 0), atol=1e-5, rtol=0)
        shares.append(share)
    assert len(set(shares)) == 20


def test_cutmix_pastes_a_rectangle_and_labels_by_its_area():
    images, labels = make_batch()
    areas = set()
    for seed in range(20):
        mixed, mixed_labels = mix(make_mix(cutmix=1.0), (images, labels), seed)
        box = pasted(images, mixed)
        assert torch.equal(box, box.any(1)[:, None] & box.any(0))
        area = float(box.float().mean())
        torch.testing.assert_close(mixed_labels, (1 - area) * labels + area * labels.roll(1, 0), atol=1e-6, rtol=0)
        areas.add(area)
    assert len(areas) > 10


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    images, labels = make_batch(2, 4)
    generator = torch.Generator().manual_seed(0)
    shares = [blended_share(images, make_mix(mixup=alpha)(images, labels, generator)[0]) for _ in range(300)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_with_both_on_each_batch_gets_one_of_them_at_equal_odds():
    images, labels = make_batch(4, 8)
    generator = torch.Generator().manual_seed(0)
    blends = 0
    for _ in range(200):
        mixed, _ = make_mix(mixup=1.0, cutmix=1.0)(images, labels, generator)
        if blended_share(images, mixed) is None:
            pasted(images, mixed)
        else:
            blends += 1
    # 200 batches: 100 blends, with a standard deviation of 7; a few of the others have an empty rectangle.
    assert abs(blends - 100) < 35


@pytest.mark.parametrize("kind", [make_mix(mixup=0.2), make_mix(cutmix=1), make_mix(mixup=1, cutmix=1)])
def test_labels_stay_distributions_and_the_input_is_unchanged(kind):
    images, labels = batch = make_batch()
    kept = images.clone(), labels.clone()
    for seed in range(10):
        mixed, mixed_labels = mix(kind, batch, seed)
        assert (mixed.shape, mixed.dtype) == (images.shape, torch.float32)
        assert (mixed_labels.shape, mixed_labels.dtype) == (labels.shape, torch.float32)
        torch.testing.assert_close(mixed_labels.sum(1), torch.ones(len(labels)))
        assert mixed_labels.min() >= 0
    assert all(map(torch.equal, batch, kept))


@pytest.mark.parametrize("kind", [make_mix(mixup=1.0), make_mix(cutmix=1.0), make_mix(mixup=1.0, cutmix=1.0)])
def test_mixing_depends_on_its_generator_and_not_on_pytorchs(kind):
    batch = make_batch()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first, second = (kind(*batch, generator) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(map(torch.equal, first, mix(kind, batch, 5)))
    assert not torch.equal(first[0], second[0])


def test_mixing_is_off_by_default():
    assert not make_mix().changes
    assert make_mix(mixup=0.2).changes
    assert make_mix(cutmix=0.2).changes
