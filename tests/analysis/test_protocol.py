import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from emotion.analysis.calibration import fit_temperature
from emotion.analysis.predictions import Predictions
from emotion.analysis.protocol import protocol_metrics, protocol_parts, protocol_rows


def make(prefix: str, parts: list[str], seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    count = len(parts)
    probabilities = generator.dirichlet(np.ones(7), count).astype(np.float32)
    ids = np.array([f"{prefix}/{number}" for number in range(count)])
    copied = np.arange(count) % 4 == 0
    return Predictions(ids, generator.integers(7, size=count), probabilities, np.array(parts), copied)


def names(parts: dict[str, Predictions]) -> dict[str, list[str]]:
    return {part: own.ids.tolist() for part, own in parts.items()}


def test_official_split() -> None:
    val, test = make("val", ["public"] * 5), make("test", ["private"] * 6)
    assert names(protocol_parts({"val": val, "test": test})) == {
        "PublicTest": val.ids.tolist(),
        "PrivateTest": test.ids.tolist(),
        "PrivateTest without copies": ["test/1", "test/2", "test/3", "test/5"],
        "All": [*val.ids, *test.ids],
    }


def test_validation_images_of_the_training_part_do_not_count() -> None:
    stages = {"val": make("val", ["train"] * 5), "test": make("test", ["public", "private", "public", "private"])}
    assert names(protocol_parts(stages)) == {
        "PublicTest": ["test/0", "test/2"],
        "PrivateTest": ["test/1", "test/3"],
        "PrivateTest without copies": ["test/1", "test/3"],
        "All": stages["test"].ids.tolist(),
    }


def test_a_source_with_other_parts_has_all_its_test_images() -> None:
    assert names(protocol_parts({"test": make("test", ["test"] * 3)})) == {"All": ["test/0", "test/1", "test/2"]}


def test_figures_and_their_temperature() -> None:
    own = make("test", ["private"] * 300)
    figures = protocol_metrics(own, temperature=2.0)
    scaled = own.probabilities.astype(float) ** 0.5
    scaled /= scaled.sum(1, keepdims=True)
    assert figures["acc"] == pytest.approx(accuracy_score(own.labels, own.predicted))
    assert figures["f1_macro"] == pytest.approx(f1_score(own.labels, own.predicted, average="macro"))
    assert figures["nll"] == pytest.approx(log_loss(own.labels, scaled, labels=range(7)), rel=1e-3)
    confidence, right = scaled.max(1), own.predicted == own.labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == one].sum() - confidence[bins == one].sum()) for one in range(15)]
    assert figures["ece"] == pytest.approx(sum(gaps) / 300, rel=1e-2)


def test_rows_have_the_temperature_of_the_validation_images_with_the_same_views() -> None:
    stages = {"val": make("val", ["public"] * 90), "test": make("test", ["private"] * 60)}
    stages |= {"val_tta": make("val", ["public"] * 90, seed=1), "test_tta": make("test", ["private"] * 60, seed=1)}
    rows = list(protocol_rows(stages))
    parts = ["PublicTest", "PrivateTest", "PrivateTest without copies", "All"]
    numbers = [90, 60, 45, 150]
    expected = [(views, *own) for views in ("one", "several") for own in zip(parts, numbers, strict=True)]
    assert [row[:3] for row in rows] == expected
    assert rows[5][3] == protocol_metrics(stages["test_tta"], fit_temperature(stages["val_tta"]))


def test_without_validation_images_there_are_no_rows() -> None:
    assert not list(protocol_rows({"val": make("val", []), "test": make("test", ["private"] * 6)}))
    assert not list(protocol_rows({"test": make("test", ["private"] * 6)}))
