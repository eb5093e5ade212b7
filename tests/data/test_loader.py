from collections.abc import Sequence

import numpy as np
import pytest
import torch
from builders import make_augmentation, make_mix

from emotion.data.augment import RandomAffine, warp
from emotion.data.balance import class_weights
from emotion.data.loader import Batch, BatchLoader
from emotion.data.storage import Resident, Streamed
from emotion.data.synthetic import draw_image
from emotion.data.teaching import Teaching
from emotion.errors import UserError

CPU = torch.device("cpu")
AFFINE = make_augmentation(RandomAffine())
EVERYTHING = make_augmentation(RandomAffine(), flip=0.5, brightness=0.2, contrast=0.2, erase=0.5)
MIX = make_mix(mixup=0.2, cutmix=1.0)


def numbered(count: int, batch_size: int = 4, rows: Sequence[int] | None = None, **options) -> BatchLoader:
    """Loads the inputs 0..count - 1 with labels a hundred higher."""
    chosen = torch.arange(count) if rows is None else torch.tensor(rows)
    return BatchLoader(Resident(np.arange(count), CPU), 100 + torch.arange(count), chosen, batch_size, **options)


def faces(count: int, batch_size: int = 4, **options) -> BatchLoader:
    """Loads the same face `count` times, so that images differ only by augmentation."""
    images = np.tile(draw_image(3, seed=0, index=0), (count, 1, 1, 1))
    labels, rows = torch.zeros(count).long(), torch.arange(count)
    return BatchLoader(Resident(images, CPU), labels, rows, batch_size, num_classes=7, **options)


def epoch(loader: BatchLoader, number: int = 0) -> list[torch.Tensor]:
    loader.set_epoch(number)
    return [batch.inputs for batch in loader]


def order(loader: BatchLoader, number: int = 0) -> list[int]:
    return torch.cat(epoch(loader, number)).tolist()


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_image_comes_once_an_epoch_with_its_own_label(shuffle):
    loader = numbered(30, shuffle=shuffle, seed=3)
    batches = list(loader)
    inputs = torch.cat([batch.inputs for batch in batches])
    assert sorted(inputs.tolist()) == list(range(30))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), inputs + 100)


def test_only_the_given_rows_are_used_and_unshuffled_they_keep_their_order():
    rows = [7, 2, 9, 4, 4]
    assert order(numbered(10, rows=rows)) == rows
    assert sorted(order(numbered(10, rows=rows, shuffle=True))) == sorted(rows)


def test_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    loader = numbered(30, shuffle=True, seed=3)
    first, second, first_again = order(loader, 0), order(loader, 1), order(loader, 0)
    torch.manual_seed(2)
    assert first == first_again == order(numbered(30, shuffle=True, seed=3), 0)
    assert second == order(numbered(30, shuffle=True, seed=3), 1)
    assert first != second
    assert first != order(numbered(30, shuffle=True, seed=4), 0)
    assert first != list(range(30))


def test_consecutive_seeds_do_not_share_orders_with_consecutive_epochs():
    orders = {tuple(order(numbered(30, shuffle=True, seed=seed), number)) for seed in range(5) for number in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "sizes"),
    [
        (8, 4, 1, [4, 4]),
        (10, 4, 1, [4, 4, 2]),
        (9, 4, 1, [4, 5]),
        (5, 4, 1, [5]),
        (1, 4, 1, [1]),
        (3, 4, 1, [3]),
        (16, 4, 2, [4, 4]),
        (19, 4, 2, [4, 6]),
        (20, 4, 2, [4, 4, 2]),
    ],
)
def test_last_batch_too_small_for_batch_normalisation_joins_the_batch_before(count, batch_size, world_size, sizes):
    loader = numbered(count, batch_size, world_size=world_size)
    assert [len(batch.labels) for batch in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("count", [0, 5])
def test_no_rows_give_no_batches(count):
    loader = numbered(count, rows=[])
    assert len(loader) == 0
    assert list(loader) == []


@pytest.mark.parametrize("count", range(5, 30))
@pytest.mark.parametrize("world_size", [1, 2])
def test_no_process_gets_a_batch_of_one_image_and_all_get_equally_many_batches(count, world_size):
    ranks = [numbered(count, rank=rank, world_size=world_size, shuffle=True) for rank in range(world_size)]
    sizes = [[len(batch.labels) for batch in loader] for loader in ranks]
    assert all(size >= 2 for rank_sizes in sizes for size in rank_sizes)
    assert {len(rank_sizes) for rank_sizes in sizes} == {len(ranks[0])}


def test_ranks_share_the_global_batches_of_one_process():
    whole = epoch(numbered(52, 8, shuffle=True, seed=3), 2)
    first, second = (epoch(numbered(52, 4, shuffle=True, seed=3, rank=rank, world_size=2), 2) for rank in (0, 1))
    for batch, *shares in zip(whole, first, second, strict=True):
        assert sorted(torch.cat(shares).tolist()) == sorted(batch.tolist())


def test_augmented_images_are_floats_from_0_to_1_and_plain_ones_bytes():
    (plain,) = epoch(faces(4))
    assert plain.dtype == torch.uint8
    (unmoved,) = epoch(faces(4, augmentation=make_augmentation(RandomAffine(rotation=0, zoom=0, shift=0, shear=0))))
    assert unmoved.dtype == torch.float32
    torch.testing.assert_close(unmoved, plain / 255, atol=1e-5, rtol=0)
    (moved,) = epoch(faces(4, augmentation=EVERYTHING, mix=MIX))
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_augmentation_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    loader = faces(12, augmentation=EVERYTHING, seed=3)
    first, second = epoch(loader, 0), epoch(loader, 1)
    next(iter(loader))
    torch.manual_seed(2)
    for batch, again in zip(first, epoch(loader, 0), strict=True):
        assert torch.equal(batch, again)
    # A resumed run starts with the second epoch.
    for batch, resumed in zip(second, epoch(faces(12, augmentation=EVERYTHING, seed=3), 1), strict=True):
        assert torch.equal(batch, resumed)
    # All images are alike, so only their transforms can differ.
    everything = torch.cat([*first, *second, *epoch(faces(12, augmentation=EVERYTHING, seed=4), 0)])
    assert len(everything.flatten(1).unique(dim=0)) == 36


def test_ranks_share_the_augmented_images_of_one_process():
    whole = torch.cat(epoch(faces(16, 8, augmentation=EVERYTHING)))
    shares = torch.cat(
        [batch for rank in (0, 1) for batch in epoch(faces(16, rank=rank, world_size=2, augmentation=EVERYTHING))]
    )
    assert len(whole.flatten(1).unique(dim=0)) == 16
    assert torch.equal(shares.flatten(1).unique(dim=0), whole.flatten(1).unique(dim=0))


def test_ranks_draw_numbers_of_their_own_for_an_augmentation_of_ones_own():
    def noise(images, generator):
        return images + torch.rand(images.shape, generator=generator)

    first, second = (torch.cat(epoch(faces(16, rank=rank, world_size=2, own_augmentation=noise))) for rank in (0, 1))
    assert len(torch.cat([first, second]).flatten(1).unique(dim=0)) == 16


@pytest.mark.parametrize("change", [lambda images: images.double(), lambda images: images[:, :, 1:]])
def test_images_of_an_augmentation_of_ones_own_stay_as_they_were(change):
    with pytest.raises(UserError, match=r"^augmentation: maps images \[4, 1, 48, 48\] torch.float32 cpu to "):
        epoch(faces(4, own_augmentation=lambda images, generator: change(images)))


@pytest.fixture
def pixels(tmp_path) -> np.memmap:
    """50 different faces, mapped from disk."""
    images = np.stack([draw_image(number % 7, seed=0, index=number)[None] for number in range(50)])
    images.tofile(tmp_path / "images.u8")
    return np.memmap(tmp_path / "images.u8", np.uint8, "c", shape=images.shape)


@pytest.mark.parametrize("storage", [Resident, Streamed])
@pytest.mark.parametrize("chunk", [1, 40_000, 10**9])
def test_batches_do_not_depend_on_storage_and_chunk_size(pixels, storage, chunk, monkeypatch):
    def batches() -> list[torch.Tensor]:
        options = {"shuffle": True, "augmentation": EVERYTHING, "mix": MIX, "num_classes": 7, "seed": 3}
        loader = BatchLoader(storage(pixels, CPU), torch.arange(50) % 7, torch.arange(48), 4, **options)
        loader.set_epoch(2)
        return [value for batch in loader for value in batch]

    expected = batches()
    monkeypatch.setattr("emotion.data.loader.CPU_CHUNK", chunk)
    for batch, same in zip(batches(), expected, strict=True):
        torch.testing.assert_close(batch, same, rtol=0, atol=1e-6)


def different_faces(pixels: np.ndarray, number: int = 0, **options) -> list[Batch]:
    """One epoch of the 50 faces, shuffled, of seven classes."""
    options = {"shuffle": True, "seed": 3, "num_classes": 7, **options}
    loader = BatchLoader(Resident(pixels, CPU), torch.arange(50) % 7, torch.arange(50), 8, **options)
    loader.set_epoch(number)
    return list(loader)


def test_affine_alone_draws_order_then_views_then_transforms(pixels):
    seed = np.random.SeedSequence([3, 2]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    generator = torch.Generator().manual_seed(int(seed))
    rows = torch.randperm(50, generator=generator)
    torch.randint(1, (50,), generator=generator)  # the views
    matrices = RandomAffine().draw(50, 48, 48, generator)
    expected = warp(torch.from_numpy(pixels[rows.numpy()]).float() / 255, matrices)
    batches = different_faces(pixels, 2, augmentation=AFFINE)
    torch.testing.assert_close(torch.cat([batch.inputs for batch in batches]), expected, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), rows % 7)


def test_no_images_give_no_batches_with_all_augmentations(pixels):
    loader = BatchLoader(Resident(pixels, CPU), torch.arange(50), torch.arange(0), 8, augmentation=EVERYTHING, mix=MIX)
    assert list(loader) == []


@pytest.mark.parametrize("augmentation", [None, EVERYTHING], ids=["plain", "augmented"])
def test_batches_are_mixed_after_their_images_are_augmented(pixels, augmentation):
    unmixed = different_faces(pixels, augmentation=augmentation)
    shares = []
    for before, after in zip(
        unmixed, different_faces(pixels, augmentation=augmentation, mix=make_mix(1.0)), strict=True
    ):
        images, labels = before.inputs if augmentation else before.inputs.float() / 255, torch.eye(7)[before.labels]
        others = images.roll(1, 0)
        shares.append(float(((after.inputs - others) * (images - others)).sum() / (images - others).square().sum()))
        for mixed, unmixed_values in ((after.inputs, images), (after.labels, labels)):
            expected = shares[-1] * unmixed_values + (1 - shares[-1]) * unmixed_values.roll(1, 0)
            torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-5)
    assert len(set(shares)) == len(unmixed)


def test_mixing_is_a_function_of_seed_and_epoch(pixels):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = different_faces(pixels, 1, mix=MIX)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    for batch, again in zip(first, different_faces(pixels, 1, mix=MIX), strict=True):
        assert all(map(torch.equal, batch[:2], again[:2]))
    for other in (different_faces(pixels, 2, mix=MIX), different_faces(pixels, 1, mix=MIX, seed=4)):
        assert not torch.equal(first[0].inputs, other[0].inputs)


@pytest.mark.parametrize(
    ("augmentation", "mix"),
    [(None, None), (EVERYTHING, None), (None, MIX), (EVERYTHING, MIX)],
    ids=["plain", "augmented", "mixed", "both"],
)
def test_plain_epochs_give_unchanged_images_with_the_dtypes_of_other_epochs(pixels, augmentation, mix):
    options = {"augmentation": augmentation, "mix": mix}
    for number in range(4):
        usual, plain, unchanged = (
            different_faces(pixels, number, **settings) for settings in (options, {**options, "plain_from": 2}, {})
        )
        for before, after, bare in zip(usual, plain, unchanged, strict=True):
            assert [(value.dtype, value.shape) for value in after[:2]] == [
                (value.dtype, value.shape) for value in before[:2]
            ]
            if number < 2:
                assert all(map(torch.equal, after[:2], before[:2]))
                continue
            assert torch.equal(after.inputs, bare.inputs.float() / 255 if augmentation or mix else bare.inputs)
            assert torch.equal(after.labels, torch.eye(7)[bare.labels] if mix else bare.labels)


@pytest.mark.parametrize(
    ("options", "value_bytes"),
    [({}, 1), ({"augmentation": AFFINE}, 4), ({"mix": MIX}, 4)],
    ids=["plain", "affine", "mix"],
)
def test_batch_bytes_is_the_size_of_a_batch(options, value_bytes):
    loader = faces(8, 4, **options)
    assert loader.batch_bytes == 4 * 48 * 48 * value_bytes
    assert {batch.inputs.nbytes for batch in loader} == {loader.batch_bytes}


def views_loader(**options) -> BatchLoader:
    """Loads the inputs 0..59 as 20 images in 3 views, one view after the other."""
    return BatchLoader(Resident(np.arange(60), CPU), torch.arange(20), torch.arange(20), 4, shuffle=True, **options)


def test_each_image_comes_in_one_of_its_views():
    for number in range(3):
        for batch in iter(views_loader(seed=number)):
            assert torch.equal(batch.inputs % 20, batch.labels)
        assert sorted(value % 20 for value in order(views_loader(), number)) == list(range(20))


def test_views_are_drawn_about_equally_often_anew_each_epoch():
    drawn = torch.tensor([sorted(order(views_loader(), number), key=lambda value: value % 20) for number in range(60)])
    counts = torch.bincount(drawn.flatten() // 20, minlength=3)
    # 1200 draws: 400 of each view, with a standard deviation of 16.
    assert (counts - 400).abs().max() < 65
    assert all(len(values.unique()) == 3 for values in drawn.T)


def test_views_are_a_function_of_seed_and_epoch():
    assert order(views_loader(seed=3), 1) == order(views_loader(seed=3), 1)
    assert order(views_loader(seed=3), 1) != order(views_loader(seed=3), 2)


def sampled(seed: int = 0, **options) -> BatchLoader:
    """Loads 2,000 images with FER2013's class imbalance, with equal sampling weight for each class."""
    labels = torch.repeat_interleave(torch.arange(7), torch.tensor([280, 30, 285, 505, 345, 335, 220]))
    weights = class_weights(labels, 7)[labels]
    inputs, rows = Resident(np.arange(2000), CPU), torch.arange(2000)
    return BatchLoader(inputs, labels, rows, 64, sampling_weights=weights, seed=seed, shuffle=True, **options)


def test_weighted_sampling_draws_classes_about_equally_often():
    labels = torch.cat([batch.labels for batch in sampled()])
    counts = torch.bincount(labels)
    assert len(labels) == 2000
    # 2,000 draws: 286 of each class, with a standard deviation of 16.
    assert (counts - 2000 / 7).abs().max() < 65


def test_weighted_sampling_draws_images_of_a_class_equally_often():
    drawn = torch.tensor([value for number in range(10) for value in order(sampled(), number)])
    times = torch.bincount(drawn, minlength=2000)[280:310]
    # 20,000 draws: 95 of each of the 30 images of the smallest class, with a standard deviation of 10.
    assert (times - 95).abs().max() < 45


def test_weighted_sampling_is_a_function_of_seed_and_epoch():
    first = order(sampled(seed=1), 1)
    torch.manual_seed(5)
    assert first == order(sampled(seed=1), 1)
    assert first != order(sampled(seed=1), 2)
    assert first != order(sampled(seed=2), 1)


def test_weighted_sampling_is_shared_among_ranks():
    shares = [order(sampled(rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(order(sampled()))


VIEWS = 3


ROWS = torch.tensor([7, 2, 11, 4, 0, 9, 5, 12, 3, 8])
"""The stored images that train, of 13."""


def taught(count: int = 10, views: int = VIEWS, teachers: int = 1, stored: int | None = None) -> Teaching:
    """Teachers whose softmax differs for each view and image."""
    drawn = np.random.default_rng(0).normal(0, 3, (teachers, views if stored is None else stored, count, 7))
    return Teaching(list(drawn.astype(np.float16)), views, 2.0, seed=5)


def by_image(loader: BatchLoader, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and soft targets of an epoch in the order of `ROWS`; the labels number the stored images."""
    loader.set_epoch(number)
    batches = list(loader)
    order = (torch.cat([batch.labels for batch in batches]) == ROWS[:, None]).int().argmax(1)
    return torch.cat([batch.inputs for batch in batches])[order], torch.cat([b.soft_targets for b in batches])[order]


def lessons(augmentation=EVERYTHING, seed: int = 0, **options) -> BatchLoader:
    images = np.stack([draw_image(3, seed=0, index=index) for index in range(13)])[:, None]
    return BatchLoader(
        Resident(images, CPU),
        torch.arange(13),
        ROWS,
        4,
        shuffle=True,
        augmentation=augmentation,
        seed=seed,
        num_classes=7,
        **options,
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
def test_a_network_sees_the_very_view_that_its_teachers_judged(number):
    teaching = taught(teachers=2)
    images, targets = by_image(lessons(teaching=teaching), number)
    stored = np.stack([draw_image(3, seed=0, index=index) for index in ROWS.tolist()])[:, None]
    view = number % VIEWS
    draws = EVERYTHING.draw_view(10, 48, 48, 5, view)
    torch.testing.assert_close(images, EVERYTHING.apply(torch.from_numpy(stored).float() / 255, draws))
    each = torch.stack([torch.from_numpy(logits[view]).double().softmax(1) for logits in teaching.logits])
    expected = (each.mean(0).log() / 2).softmax(1)
    torch.testing.assert_close(targets.double(), expected, atol=1e-6, rtol=1e-5)


def test_all_seeds_see_the_same_views_in_another_order():
    first, second = lessons(teaching=taught(), seed=1), lessons(teaching=taught(), seed=2)
    assert [a.equal(b) for a, b in zip(by_image(first, 1), by_image(second, 1), strict=True)] == [True, True]
    assert not torch.cat([b.labels for b in first]).equal(torch.cat([b.labels for b in second]))


def test_the_views_of_an_image_differ():
    loader = lessons(teaching=taught())
    images = [by_image(loader, number)[0] for number in range(VIEWS)]
    assert not images[0].equal(images[1])
    assert not images[1].equal(images[2])


def test_last_epochs_without_augmentation_have_the_judgement_on_the_unchanged_images():
    teaching = taught(stored=VIEWS + 1)
    images, targets = by_image(lessons(teaching=teaching, plain_from=1), 2)
    stored = np.stack([draw_image(3, seed=0, index=index) for index in ROWS.tolist()])[:, None]
    assert images.equal(torch.from_numpy(stored).float() / 255)
    torch.testing.assert_close(targets, teaching.targets(VIEWS, torch.arange(10)))


def test_without_augmentation_every_epoch_has_the_same_judgement():
    teaching = taught(views=0, stored=1)
    loader = lessons(augmentation=None, teaching=teaching)
    for number in (0, 4):
        torch.testing.assert_close(by_image(loader, number)[1], teaching.targets(0, torch.arange(10)))


def test_mixup_mixes_labels_and_soft_targets_with_the_same_share():
    """Each image is one tone, so that the share of the mixture can be read from it."""
    images, numbers = np.arange(0, 70, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8), 7
    logits = np.full((1, 1, numbers, numbers), -20, np.float16)
    logits[0, 0, range(numbers), range(numbers)] = 20  # soft targets that are the labels
    rows = torch.arange(numbers)
    loader = BatchLoader(
        Resident(images, CPU), rows, rows, 7, mix=make_mix(mixup=1.0), num_classes=7, teaching=Teaching(logits, 0, 1, 0)
    )
    (batch,) = loader
    assert batch.labels.max() < 0.999
    torch.testing.assert_close(batch.soft_targets, batch.labels)
    torch.testing.assert_close(batch.inputs[:, 0, 0, 0] * 255, batch.labels @ torch.arange(0, 70.0, 10))
