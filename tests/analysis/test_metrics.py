import warnings

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, classification_report
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from emotion.analysis.metrics import confusion_matrix, matrix_metrics
from emotion.data.classes import CLASSES

NAMES = ("a", "b", "c", "d")


def draw(seed, num_classes=7, size=300, missing=(), never_predicted=()):
    """Returns labels of classes of unequal size, and predictions that are correct more often than by chance."""
    random = np.random.default_rng(seed)
    weights = random.random(num_classes) + 0.05
    weights[list(missing)] = 0
    labels = random.choice(num_classes, size, p=weights / weights.sum())
    legal = np.setdiff1d(np.arange(num_classes), never_predicted)
    predicted = np.where(random.random(size) < 0.5, labels, random.choice(legal, size))
    predicted[np.isin(predicted, never_predicted)] = legal[0]
    return labels, predicted


def assert_equals_sklearn(labels, predicted, names):
    metrics = matrix_metrics(confusion_matrix(labels, predicted, len(names)), names)
    report = classification_report(labels, predicted, labels=np.unique(labels), output_dict=True, zero_division=0)
    for average in ("macro", "weighted"):
        for name, sklearn_name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert metrics[f"{name}_{average}"] == pytest.approx(report[f"{average} avg"][sklearn_name])
    every = classification_report(
        labels, predicted, labels=range(len(names)), target_names=names, output_dict=True, zero_division=0
    )
    for name in names:
        computed, expected = metrics["per_class"][name], every[name]
        assert computed["support"] == expected["support"]
        assert [computed["precision"], computed["recall"], computed["f1"]] == pytest.approx(
            [expected["precision"], expected["recall"], expected["f1-score"]]
        )
    assert metrics["acc"] == pytest.approx(np.mean(labels == predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics["balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics["num_images"] == len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_matrix_is_that_of_sklearn(seed):
    labels, predicted = draw(seed)
    matrix = confusion_matrix(labels, predicted, 7)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, sklearn_confusion_matrix(labels, predicted, labels=range(7)))


def test_rows_are_true_classes():
    matrix = confusion_matrix(np.array([0, 0, 2]), np.array([1, 1, 0]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_sklearn(seed):
    assert_equals_sklearn(*draw(seed), CLASSES)


@pytest.mark.parametrize(
    "options",
    [
        {"missing": [1]},
        {"missing": [0, 6]},
        {"never_predicted": [1]},
        {"never_predicted": [0, 6]},
        {"missing": [2], "never_predicted": [2]},
        {"missing": [2], "never_predicted": [3]},
        {"size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_sklearn_where_classes_are_missing(seed, options):
    assert_equals_sklearn(*draw(seed, **options), CLASSES)


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [1, 2, 3, 0]),
        ([0, 1, 2, 3], [2, 2, 2, 2]),
        ([3, 3, 3], [3, 3, 3]),
        ([3, 3, 3], [0, 0, 0]),
    ],
)
def test_metrics_of_extreme_cases_are_those_of_sklearn(labels, predicted):
    assert_equals_sklearn(np.array(labels), np.array(predicted), NAMES)


def test_macro_averages_are_over_the_classes_that_have_images():
    empty = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    predicted = np.array([[3, 0, 1], [2, 4, 0], [0, 0, 0]])
    assert matrix_metrics(empty, ("a", "b", "c"))["f1_macro"] == matrix_metrics(empty[:2, :2], ("a", "b"))["f1_macro"]
    metrics = matrix_metrics(predicted, ("a", "b", "c"))
    assert metrics["f1_macro"] == pytest.approx((6 / 9 + 8 / 10) / 2)
    assert metrics["precision_macro"] == pytest.approx((3 / 5 + 1) / 2)
    assert metrics["recall_macro"] == metrics["balanced_acc"] == pytest.approx((3 / 4 + 4 / 6) / 2)


def test_values_by_hand():
    metrics = matrix_metrics(np.array([[3, 1], [2, 4]]), ("no", "yes"))
    assert metrics["acc"] == pytest.approx(0.7)
    assert metrics["balanced_acc"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert metrics["per_class"]["no"] == pytest.approx({"precision": 0.6, "recall": 0.75, "f1": 2 / 3, "support": 4})
    assert metrics["precision_weighted"] == pytest.approx((4 * 3 / 5 + 6 * 4 / 5) / 10)


def test_no_images_give_zeros_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = np.array([], np.int64)
        metrics = matrix_metrics(confusion_matrix(nothing, nothing, 4), NAMES)
    assert list(metrics["per_class"]) == list(NAMES)
    for value in [metrics.pop("per_class"), metrics]:
        flat = [entry for group in value.values() for entry in (group.values() if isinstance(group, dict) else [group])]
        assert flat
        assert not any(flat)


def test_values_are_plain_numbers():
    metrics = matrix_metrics(confusion_matrix(*draw(0), 7), CLASSES)
    assert type(metrics["num_images"]) is int
    per_class = metrics.pop("per_class")
    assert {type(value) for name, value in metrics.items() if name != "num_images"} == {float}
    for values in per_class.values():
        assert [type(value) for value in values.values()] == [float, float, float, int]
