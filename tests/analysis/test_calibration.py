import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from emotion.analysis.calibration import calibration, fit_temperature, reliability_figure, with_temperature
from emotion.analysis.figures import save
from emotion.analysis.predictions import Predictions
from emotion.data.classes import CLASSES
from emotion.errors import UserError

TINY = 2.0**-24  # the smallest float16 above 0


def draw(seed=0, size=2000, sharpness=1.0):
    """Returns predictions whose logits are `sharpness` times those that labels are drawn from: the true temperature."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((size, 7))
    # The largest of logits and Gumbel noise is a draw from the softmax.
    labels = (logits + random.gumbel(size=(size, 7))).argmax(1)
    return predictions_of(softmax(sharpness * logits, axis=1).astype(np.float32), labels)


def predictions_of(probabilities, labels):
    size = len(labels)
    ids = np.array([f"image_{number}" for number in range(size)], np.str_)
    parts, copied = np.full(size, "val"), np.zeros(size, np.bool_)
    return Predictions(ids, labels, probabilities, parts, copied, CLASSES[: probabilities.shape[1]])


def brute_force_error(probabilities, labels, bins):
    error = 0.0
    for lower in range(bins):
        held = [
            (float(row.max()), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if lower / bins <= row.max() < (lower + 1) / bins or (lower == bins - 1 and row.max() == 1)
        ]
        if held:
            confidence, right = np.mean(held, axis=0)
            error += len(held) / len(labels) * abs(confidence - right)
    return error


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_calibration_equals_that_of_sklearn_and_torchmetrics(sharpness):
    predictions = draw(sharpness=sharpness)
    probabilities, labels = predictions.probabilities, predictions.labels
    found = calibration(probabilities, labels)
    torch_error = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 7, n_bins=15)
    assert found.ece == pytest.approx(float(torch_error), abs=1e-5)
    assert found.brier == pytest.approx(
        brier_score_loss(labels, probabilities, labels=range(7), scale_by_half=False), rel=1e-5
    )
    clipped = np.maximum(probabilities.astype(np.float64), TINY)
    clipped /= clipped.sum(1, keepdims=True)
    assert found.nll == pytest.approx(log_loss(labels, clipped, labels=range(7)), rel=1e-5)


def test_nll_equals_the_loss_of_the_metrics():
    predictions = draw()
    found = calibration(predictions.probabilities, predictions.labels)
    assert found.nll == pytest.approx(predictions.metrics()["loss"], rel=1e-5)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_error_equals_that_of_brute_force_also_at_confidence_1(bins):
    predictions = draw(size=500, sharpness=20.0)
    probabilities = predictions.stored.astype(np.float32)
    assert (probabilities.max(1) == 1).any()
    expected = brute_force_error(probabilities, predictions.labels, bins)
    assert calibration(probabilities, predictions.labels, bins).ece == pytest.approx(expected, abs=1e-6)


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], np.float32)
    found = calibration(probabilities, np.array([0, 1, 1]), bins=10)
    assert found.nll == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean())
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.16) / 3)
    assert found.ece == pytest.approx((abs(1.8 - 1) + abs(0.6 - 1)) / 3)


def test_errors_at_confidence_1_are_0_or_finite():
    certain = np.eye(7, dtype=np.float32)[[0, 1]]
    correct, wrong = calibration(certain, np.array([0, 1])), calibration(certain, np.array([1, 0]))
    assert (correct.nll, correct.brier, correct.ece) == (0, 0, 0)
    assert (wrong.nll, wrong.brier, wrong.ece) == pytest.approx((-np.log(TINY), 2, 1))


def test_calibration_of_no_images_is_refused():
    with pytest.raises(ValueError, match="no images"):
        calibration(np.zeros((0, 7), np.float32), np.zeros(0, np.int64))


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 2.0])
def test_fit_finds_the_temperature_of_the_logits(sharpness):
    assert fit_temperature(draw(size=10_000, sharpness=sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_temperature_has_the_lowest_loss_of_a_grid():
    predictions = draw(sharpness=1.7)
    logits, labels = torch.tensor(predictions.stored).double().log(), torch.tensor(predictions.labels)
    grid = np.geomspace(0.05, 20, 3001)
    losses = [float(F.cross_entropy(logits / temperature, labels)) for temperature in grid]
    assert fit_temperature(predictions) == pytest.approx(grid[np.argmin(losses)], rel=0.003)


def test_temperature_stays_in_its_range():
    """If all are right, a lower one than 1 would always be better, though others will be wrong."""
    labels = np.arange(70) % 7
    right = 0.3 * np.eye(7, dtype=np.float32)[labels] + np.float32(0.1)
    assert fit_temperature(predictions_of(right, labels)) == 1
    one_wrong = np.append(labels[:-1], (labels[-1] + 1) % 7)
    assert 0.05 < fit_temperature(predictions_of(right, one_wrong)) < 1
    assert fit_temperature(predictions_of(right, (labels + 1) % 7)) == pytest.approx(20, rel=0.01)


def test_a_zero_in_half_precision_hardly_changes_the_temperature():
    predictions = draw(sharpness=1.7)
    without = fit_temperature(predictions)
    probabilities = predictions.probabilities.copy()
    probabilities[0] = np.eye(7)[(predictions.labels[0] + 1) % 7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zeros = replace(predictions, probabilities=probabilities)
        assert fit_temperature(zeros) == pytest.approx(without, rel=0.05)
        assert np.isfinite(with_temperature(zeros, 0.05).probabilities).all()


def test_temperature_is_the_same_from_memory_and_from_the_file():
    predictions = draw(sharpness=3.0)
    read = replace(predictions, probabilities=predictions.stored.astype(np.float32))
    assert not np.array_equal(read.probabilities, predictions.probabilities)
    assert fit_temperature(read) == fit_temperature(predictions)
    np.testing.assert_array_equal(
        with_temperature(read, 2.0).probabilities, with_temperature(predictions, 2.0).probabilities
    )


def test_temperature_of_no_images_is_refused():
    with pytest.raises(UserError, match="no validation images"):
        fit_temperature(draw(size=0))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 1.3, 20.0])
def test_rescaled_probabilities_are_the_softmax_of_divided_logits(temperature):
    predictions = draw()
    rescaled = with_temperature(predictions, temperature)
    powers = np.maximum(predictions.stored.astype(np.float64), TINY) ** (1 / temperature)
    np.testing.assert_allclose(rescaled.probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(rescaled.probabilities.sum(1), 1, atol=1e-6)
    assert rescaled.probabilities.dtype == np.float32
    assert rescaled.ids is predictions.ids
    assert rescaled.labels is predictions.labels


def test_temperature_of_1_changes_probabilities_by_rounding_only():
    predictions = draw()
    rescaled = with_temperature(predictions, 1.0).probabilities
    np.testing.assert_allclose(rescaled, predictions.probabilities, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 1.3, 20.0])
def test_most_probable_class_stays(temperature):
    predictions = draw(size=20_000)
    # Of equally probable classes the first is the predicted class, before and after.
    predictions.probabilities[:7] = 1 / 7
    predictions.probabilities[7] = (0.1, 0.3, 0.3, 0.1, 0.1, 0.05, 0.05)
    rescaled = with_temperature(predictions, temperature)
    assert rescaled.probabilities.argmax(1)[:8].tolist() == [0] * 7 + [1]
    np.testing.assert_array_equal(rescaled.probabilities.argmax(1), predictions.predicted)


def test_fitted_temperature_calibrates_other_images():
    temperature = fit_temperature(draw(0, 5000, sharpness=3.0))
    test = draw(1, 5000, sharpness=3.0)
    before = calibration(test.probabilities, test.labels)
    after = calibration(with_temperature(test, temperature).probabilities, test.labels)
    assert before.ece > 0.1
    assert after.ece < 0.03
    assert after.nll < before.nll
    assert after.brier < before.brier


def drawn(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    return figure.axes


def heights(axes):
    return {container.get_label(): [bar.get_height() for bar in container] for container in axes.containers}


def test_figure_shows_the_error_before_and_after():
    predictions = draw(sharpness=3.0)
    after = with_temperature(predictions, 3.0)
    errors = [calibration(version.probabilities, version.labels).ece for version in (predictions, after)]
    left, right, *_ = drawn(reliability_figure(predictions, 3.0))
    assert left.get_title(loc="left") == f"before: ECE {errors[0]:.1%}"
    assert right.get_title(loc="left") == f"after, T = 3.00: ECE {errors[1]:.1%}"


def test_bars_are_accuracy_gap_and_share_of_images():
    probabilities = np.array([[0.3, 0.7], [0.4, 0.6], [0.9, 0.1], [0.9, 0.1]], np.float32)
    predictions = predictions_of(probabilities, np.array([1, 1, 1, 0]))
    upper, _, lower, _ = drawn(reliability_figure(predictions, 1.0, bins=2))
    bars = heights(upper)
    assert bars["accuracy"] == pytest.approx([0.75])
    assert bars["overconfident"] == pytest.approx([0.025], abs=1e-3)
    assert bars["underconfident"] == pytest.approx([0.0])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([0.0, 1.0])


def test_gap_has_the_colour_of_its_sign():
    probabilities = np.array([[0.4, 0.6], [0.1, 0.9]], np.float32)
    upper = drawn(reliability_figure(predictions_of(probabilities, np.array([1, 0])), 1.0, bins=5))[0]
    bars = heights(upper)
    assert bars["accuracy"] == pytest.approx([1, 0])
    assert bars["underconfident"] == pytest.approx([0.4, 0], abs=1e-3)
    assert bars["overconfident"] == pytest.approx([0, 0.9], abs=1e-3)
    bottoms = {container.get_label(): [bar.get_y() for bar in container] for container in upper.containers}
    assert bottoms["underconfident"] == pytest.approx([0.6, 0], abs=1e-3)
    assert bottoms["overconfident"] == pytest.approx([1, 0], abs=1e-3)


def test_figure_is_written_as_a_file(tmp_path):
    save(reliability_figure(draw(size=30), 0.7), tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 10_000


def test_figure_of_no_images_is_refused():
    with pytest.raises(ValueError, match="no images"):
        reliability_figure(draw(size=0), 1.0)
