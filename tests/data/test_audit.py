import io
from itertools import combinations, product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.ndimage import gaussian_filter

from emotion.data import audit as module
from emotion.data.audit import Audit, audit_images, contrast
from emotion.data.labelled import FER_PARTS
from emotion.data.packed import PackedImages
from emotion.errors import UserError

NEAR = 0.95
SIZE = 24


def textures(count, seed=0, channels=1):
    """Returns smooth random images that correlate as little as photographs do, uint8 [count, C, SIZE, SIZE]."""
    noise = np.random.default_rng(seed).normal(size=(count, channels, SIZE, SIZE))
    smooth = gaussian_filter(noise, (0, 0, 2, 2))
    return (128 + 40 * smooth / smooth.std()).clip(30, 225).astype(np.uint8)


def pack_up(images, labels, parts):
    """Packs images with random hashes, equal for equal pixels."""
    _, numbers = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
    hashes = np.random.default_rng(1).permutation(2**16)[numbers].astype(np.uint64) << np.uint64(48)
    names = np.array([f"{part}/{row}.png" for row, part in enumerate(parts)])
    return PackedImages(images, np.asarray(labels), np.array(parts), names, hashes, ())


def compressed(image):
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))[np.newaxis]


def noisy(image):
    return (image + np.random.default_rng(2).normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8)


CHANGES = {
    "brighter": lambda image: image + np.uint8(30),
    "less contrast": lambda image: (128 + 0.4 * (image - 128.0)).astype(np.uint8),
    "compressed": compressed,
    "noisy": noisy,
}


@pytest.fixture
def planted():
    """Forty textures, some with duplicates, in random parts."""
    base = textures(40)
    flat = np.full((4, 1, SIZE, SIZE), 90, np.uint8)
    flat[3, 0, 0, 0] = 91
    changed = np.stack([change(base[row]) for row, change in enumerate(CHANGES.values())])
    images = np.concatenate([base, base[5:12], base[5:7], changed, changed[:1], flat])
    rng = np.random.default_rng(3)
    labels, parts = rng.integers(0, 7, len(images)), rng.choice(["private", "public", "train"], len(images))
    labels[40:47] = labels[5:12]
    labels[40] = (labels[5] + 1) % 7
    return pack_up(images, labels, parts)


def true_correlations(images):
    """Returns correlations [N, N] in float64 by numpy; 0 on the diagonal and for images without contrast."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    constant = flat.std(1) < 1
    with np.errstate(invalid="ignore"):
        matrix = np.corrcoef(flat)
    matrix[constant] = matrix[:, constant] = 0
    np.fill_diagonal(matrix, 0)
    return matrix


def linked(matrix):
    """Returns the connected components of more than one row of links, bool [N, N], by a graph search."""
    groups, seen = set(), set()
    for start in range(len(matrix)):
        reached, border = {start}, [start]
        while border:
            new = set(np.flatnonzero(matrix[border.pop()]).tolist()) - reached
            reached |= new
            border += new
        if len(reached) > 1 and start not in seen:
            groups.add(frozenset(reached))
        seen |= reached
    return groups


def rows_of(groups):
    return {frozenset(group.rows.tolist()) for group in groups}


@pytest.mark.parametrize("block_values", [2**22, 2500])
def test_groups_are_those_of_brute_force(planted, block_values, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCK_VALUES", block_values)
    found = audit_images(planted, NEAR)
    pixels = planted.images.reshape(len(planted), -1)
    same = (pixels[:, None] == pixels[None]).all(2)
    near = same | (true_correlations(planted.images) >= NEAR)
    assert rows_of(found.exact) == linked(same)
    assert len(found.exact) == 9
    assert rows_of(found.near) == {group for group in linked(near) if not same[np.ix_([*group], [*group])].all()}
    assert len(found.near) == len(CHANGES)
    for group in [*found.exact, *found.near]:
        assert_array_equal(group.rows, np.sort(group.rows))
        assert group.crosses == (len(set(planted.parts[group.rows])) > 1)
        assert group.conflicts == (len(set(planted.labels[group.rows])) > 1)
    assert any(group.conflicts for group in found.exact)
    assert not all(group.conflicts for group in found.exact)
    assert [group.rows[0] for group in found.exact] == sorted(group.rows[0] for group in found.exact)


@pytest.mark.parametrize("block_values", [2**22, 2500])
def test_nearest_image_is_that_of_brute_force(planted, block_values, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCK_VALUES", block_values)
    found = audit_images(planted, NEAR)
    matrix = true_correlations(planted.images)
    assert_allclose(found.correlation, matrix.max(1), atol=1e-5)
    constant = planted.images.std((1, 2, 3)) < 1
    assert_array_equal(found.nearest[constant], -1)
    assert found.correlation[constant].tolist() == [0] * 4
    rows = np.flatnonzero(~constant)
    assert_allclose(matrix[rows, found.nearest[rows]], matrix.max(1)[rows], atol=1e-5)


def test_duplicates_of_every_part_in_every_part(planted):
    found = audit_images(planted, NEAR)
    matrix = true_correlations(planted.images)
    parts = ["train", "public", "private"]
    assert [(pair.part, pair.within) for pair in found.duplicates] == list(product(parts, parts))
    for pair in found.duplicates:
        others = {
            row: [other for other in np.flatnonzero(planted.parts == pair.within) if other != row]
            for row in np.flatnonzero(planted.parts == pair.part)
        }
        same = {
            row: [other for other in candidates if (planted.images[row] == planted.images[other]).all()]
            for row, candidates in others.items()
        }
        assert pair.exact == sum(map(bool, same.values()))
        assert pair.same_label == sum(
            any(planted.labels[row] == planted.labels[other] for other in rows) for row, rows in same.items()
        )
        assert pair.near == sum(any(matrix[row, other] >= NEAR for other in rows) for row, rows in others.items())
    assert sum(pair.exact for pair in found.duplicates) > sum(pair.same_label for pair in found.duplicates) > 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_duplicate_is_found(change):
    base = textures(6)
    found = audit_images(pack_up(np.concatenate([base, change(base[2])[None]]), [0] * 7, ["train"] * 7), NEAR)
    assert rows_of(found.near) == {frozenset({2, 6})}
    assert not found.exact


def test_inverted_image_is_no_duplicate():
    base = textures(1)
    assert not audit_images(pack_up(np.concatenate([base, 255 - base]), [0, 0], ["train"] * 2), 0.5).near


def test_near_pairs_make_chains():
    first, last = textures(2).astype(np.float64)
    steps = [((1 - share) * first + share * last).astype(np.uint8) for share in (0, 0.25, 0.5, 0.75, 1)]
    images = np.stack([*steps, *textures(3, seed=9)])
    matrix = true_correlations(images)
    threshold = min(matrix[step, step + 1] for step in range(4)) - 0.01
    assert matrix[0, 4] < 0.5 < threshold
    assert rows_of(audit_images(pack_up(images, [0] * 8, ["train"] * 8), threshold).near) == {frozenset(range(5))}


def test_constant_images_are_exact_duplicates_only():
    images = np.concatenate([textures(3), np.zeros((2, 1, SIZE, SIZE), np.uint8), np.full((2, 1, SIZE, SIZE), 7)])
    images[5, 0, 3, 3] = 8
    found = audit_images(pack_up(images.astype(np.uint8), [0] * 7, ["train"] * 5 + ["test"] * 2), NEAR)
    assert found.constant.tolist() == [3, 4, 5, 6]
    assert rows_of(found.exact) == {frozenset({3, 4})}
    assert not found.near
    assert sum(pair.near for pair in found.duplicates) == 0


@pytest.mark.parametrize("images", [np.zeros((3, 1, 8, 8), np.uint8), textures(1)], ids=["all constant", "one image"])
def test_data_without_comparable_images(images):
    found = audit_images(pack_up(images, [0] * len(images), ["train"] * len(images)), NEAR)
    assert len(found.exact) == len(found.constant) // 3
    assert not found.near
    assert_array_equal(found.nearest, -1)


def test_colour_counts():
    base = textures(3, channels=3)
    swapped = base[:1, ::-1]
    found = audit_images(pack_up(np.concatenate([base, swapped, noisy(base[1:2])]), [0] * 5, ["train"] * 5), NEAR)
    assert rows_of(found.near) == {frozenset({1, 4})}


def test_class_counts_and_redundant_images():
    base = textures(4)
    images = base[[0, 0, 0, 1, 2, 1, 3, 3]]
    parts = ["train"] * 5 + ["test"] * 3
    found = audit_images(pack_up(images, [3, 3, 0, 6, 6, 6, 1, 1], parts), NEAR)
    assert found.class_counts == {"train": [1, 0, 0, 2, 0, 0, 2], "test": [0, 2, 0, 0, 0, 0, 1]}
    assert found.redundant == {"train": 2, "test": 1}


def test_contrast_is_the_standard_deviation(planted, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCK_VALUES", 2500)
    assert_allclose(contrast(planted.images), [image.astype(float).std() for image in planted.images])


def test_blocks_are_small_and_of_one_part(planted, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCK_VALUES", 2500)
    steps = []

    def track(pairs):
        steps.extend(pairs)
        return pairs

    audit_images(planted, NEAR, track)
    comparable = np.flatnonzero(planted.images.std((1, 2, 3)) >= 1).tolist()
    compared = [tuple(sorted((a, b))) for first, second in steps for a in first for b in second if a != b]
    assert set(compared) == set(combinations(comparable, 2))
    for block in [block for pair in steps for block in pair]:
        assert len(block) * SIZE * SIZE <= 2500
        assert len(set(planted.parts[block])) == 1


def test_small_images_do_not_make_large_blocks():
    images = np.zeros((5000, 1, 2, 2), np.uint8)
    pairs = []
    everything, none = np.ones(5000, bool), np.zeros(5000, bool)
    module.find_neighbours(images, [everything], none, 0.95, lambda all_pairs: pairs.extend(all_pairs) or [])
    assert sum(len(one) for one, other in pairs if one is other) == 5000
    assert max(len(one) for one, _ in pairs) <= 2048


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 95.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(planted, threshold):
    with pytest.raises(UserError, match=f"threshold={threshold}: a number between 0 and 1"):
        audit_images(planted, threshold)


@pytest.fixture(scope="module")
def fer2013_exact(real_packed):
    """The audit of FER2013 without the comparison of every image with every other."""
    return audit_images(real_packed, NEAR, lambda pairs: [])


@pytest.fixture(scope="module")
def fer2013_audit(real_packed):
    """The audit of FER2013 (under a minute on one core) and its correlations, float32 [P, N]."""
    correlations = []
    with pytest.MonkeyPatch.context() as patch:
        find = module.find_neighbours

        def recorded(*arguments):
            correlations.append(find(*arguments))
            return correlations[-1]

        patch.setattr(module, "find_neighbours", recorded)
        return audit_images(real_packed, NEAR), correlations[0].correlation


@pytest.mark.real
def test_fer2013_has_its_known_duplicates(fer2013_exact):
    found: Audit = fer2013_exact
    assert len(found.exact) == 1516
    assert sum(group.crosses for group in found.exact) == 557
    conflicts = [group for group in found.exact if group.conflicts]
    assert len(conflicts) == 57
    assert sum(len(group.rows) for group in conflicts) == 160
    assert sum(len(group.rows) for group in found.exact) == 3369
    assert found.redundant["train"] == 1236
    counts = {(one.part, one.within): (one.exact, one.same_label) for one in found.duplicates}
    assert counts["public", "train"] == (280, 273)
    assert counts["private", "train"] == (288, 279)
    assert counts["private", "public"][0] == 44


@pytest.mark.real
@pytest.mark.check
def test_fer2013_has_its_known_near_duplicates(fer2013_audit, fer2013_exact):
    found: Audit = fer2013_audit[0]
    near = {(one.part, one.within): one.near for one in found.duplicates}
    assert (near["public", "train"], near["private", "train"]) == (372, 392)
    assert (found.redundant, len(found.exact)) == (fer2013_exact.redundant, len(fer2013_exact.exact))


@pytest.mark.real
@pytest.mark.check
def test_fer2013_near_duplicates_at_a_higher_threshold(fer2013_audit, real_packed):
    _, correlation = fer2013_audit
    in_training = correlation[0] >= 0.98
    assert [int(in_training[real_packed.parts == part].sum()) for part in ("public", "private")] == [300, 325]


@pytest.mark.real
def test_fer2013_has_13_constant_images_and_its_class_counts(fer2013_exact, real_packed):
    found: Audit = fer2013_exact
    assert sorted(real_packed.parts[found.constant]) == ["public"] + ["train"] * 12
    assert list(found.class_counts) == list(FER_PARTS.values())
    assert found.class_counts["train"] == [3995, 436, 4097, 7215, 4965, 4830, 3171]
