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
    return {part: predictions.ids.tolist() for part, predictions in parts.items()}


def test_official_split() -> None:
    val, test = make("val", ["public"] * 5), make("test", ["private"] * 6)
    assert names(protocol_parts({"val": val, "test": test})) == {
        "PublicTest": val.ids.tolist(),
        "PrivateTest": test.ids.tolist(),
        "PrivateTest without copies": ["test/1", "test/2", "test/3", "test/5"],
        "All": [*val.ids, *test.ids],
    }


@pytest.mark.parametrize("part", ["train", "val"])
def test_validation_images_that_only_choose_are_not_held_out(part: str) -> None:
    stages = {"val": make("val", [part] * 5), "test": make("test", ["public", "private", "public", "private"])}
    assert names(protocol_parts(stages)) == {
        "PublicTest": ["test/0", "test/2"],
        "PrivateTest": ["test/1", "test/3"],
        "PrivateTest without copies": ["test/1", "test/3"],
        "All": stages["test"].ids.tolist(),
    }


def test_test_images_of_other_sources_are_in_the_part_all() -> None:
    assert names(protocol_parts({"test": make("test", ["test"] * 3)})) == {"All": ["test/0", "test/1", "test/2"]}


def test_metrics_at_a_temperature() -> None:
    test = make("test", ["private"] * 300)
    metrics = protocol_metrics(test, temperature=2.0)
    scaled = test.probabilities.astype(float) ** 0.5
    scaled /= scaled.sum(1, keepdims=True)
    assert metrics["acc"] == pytest.approx(accuracy_score(test.labels, test.predicted))
    assert metrics["f1_macro"] == pytest.approx(f1_score(test.labels, test.predicted, average="macro"))
    assert metrics["nll"] == pytest.approx(log_loss(test.labels, scaled, labels=range(7)), rel=1e-3)
    confidence, correct = scaled.max(1), test.predicted == test.labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(correct[bins == index].sum() - confidence[bins == index].sum()) for index in range(15)]
    assert metrics["ece"] == pytest.approx(sum(gaps) / 300, rel=1e-2)


def test_rows_use_the_temperature_of_validation_images_with_the_same_augmentation() -> None:
    stages = {"val": make("val", ["public"] * 90), "test": make("test", ["private"] * 60)}
    stages |= {"val_tta": make("val", ["public"] * 90, seed=1), "test_tta": make("test", ["private"] * 60, seed=1)}
    rows = list(protocol_rows(stages))
    counts = [("PublicTest", 90), ("PrivateTest", 60), ("PrivateTest without duplicates", 45), ("All", 150)]
    expected = [(views, *count) for views in ("none", "several views") for count in counts]
    assert [row[:3] for row in rows] == expected
    assert rows[5][3] == protocol_metrics(stages["test_tta"], fit_temperature(stages["val_tta"]))


def test_without_validation_images_there_are_no_rows() -> None:
    assert not list(protocol_rows({"val": make("val", []), "test": make("test", ["private"] * 6)}))
    assert not list(protocol_rows({"test": make("test", ["private"] * 6)}))
