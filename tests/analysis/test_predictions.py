import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score

from emotion.analysis.predictions import (
    Predictions,
    confident_mistakes,
    examples_per_class,
    load_predictions,
    mean_predictions,
    save_predictions,
)
from emotion.data.classes import CLASSES
from emotion.errors import UserError


def draw_logits(seed=0, size=200, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, 7, generator=generator), torch.randint(7, (size,), generator=generator)


def predictions(ids, labels, probabilities, classes=CLASSES):
    return Predictions(ids, labels, probabilities, np.full(len(ids), "test"), np.arange(len(ids)) % 3 == 0, classes)


def predictions_of(logits, labels, prefix="image"):
    ids = np.array([f"{prefix}_{number}" for number in range(len(labels))], str)
    return predictions(ids, labels.numpy(), logits.softmax(1).numpy())


@pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
def test_loss_is_the_cross_entropy_of_the_logits(scale):
    logits, labels = draw_logits(scale=scale)
    loss = predictions_of(logits, labels).metrics()["loss"]
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)


def test_loss_of_a_certain_mistake_is_finite():
    probabilities = np.eye(7, dtype=np.float32)[[0, 1]]
    loss = predictions(np.array(["a", "b"]), np.array([0, 2]), probabilities).metrics()["loss"]
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).tiny) / 2)


def test_predicted_class_is_that_of_the_stored_half_precision():
    # In half precision both are 0.5, and of equal probabilities the first counts.
    probabilities = np.array([[0.49999, 0.50001, 0], [0.2, 0.3, 0.5], [0.9, 0.1, 0]], np.float32)
    made = predictions(np.array(["a", "b", "c"]), np.array([1, 2, 1]), probabilities, ("x", "y", "z"))
    assert made.predicted.tolist() == [0, 2, 0]
    assert made.predicted.dtype == np.int64
    assert made.stored.dtype == np.float16
    assert made.matrix().tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 1]]
    assert made.metrics()["acc"] == pytest.approx(1 / 3)


def test_metrics_are_those_of_sklearn():
    logits, labels = draw_logits(1)
    made = predictions_of(logits, labels)
    metrics = made.metrics()
    chosen = made.stored.argmax(1)
    assert metrics["acc"] == pytest.approx(accuracy_score(labels, chosen))
    assert metrics["f1_macro"] == pytest.approx(f1_score(labels, chosen, average="macro"))
    assert metrics["num_images"] == 200
    assert set(metrics["per_class"]) == set(CLASSES)


def test_loss_of_no_images_is_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = predictions_of(*draw_logits(size=0)).metrics()
    assert metrics["num_images"] == 0
    assert metrics["loss"] is None


def test_mean_averages_probabilities():
    labels = draw_logits()[1]
    members = [predictions_of(draw_logits(seed)[0], labels) for seed in range(3)]
    mean = mean_predictions(members)
    expected = sum(member.probabilities.astype(np.float64) for member in members) / 3
    np.testing.assert_allclose(mean.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(mean.probabilities.sum(1), 1, atol=1e-5)
    assert mean.probabilities.dtype == np.float32
    assert np.array_equal(mean.ids, members[0].ids)
    assert np.array_equal(mean.labels, labels)


def test_mean_of_one_network_is_unchanged():
    member = predictions_of(*draw_logits())
    assert np.array_equal(mean_predictions([member]).probabilities, member.probabilities)


@pytest.mark.parametrize("other", ["names", "order", "number", "labels"])
def test_mean_of_different_images_is_refused(other):
    logits, labels = draw_logits()
    first = predictions_of(logits, labels)
    if other == "names":
        second = predictions_of(logits, labels, "photo")
    elif other == "labels":
        second = predictions_of(logits, (labels + 1) % 7)
    else:
        rows = slice(None, None, -1) if other == "order" else slice(100)
        second = first.subset(np.arange(len(first))[rows])
    with pytest.raises(UserError, match="different data"):
        mean_predictions([first, second])


def test_file_holds_every_stage_without_pickles(tmp_path):
    stages = {
        "val": predictions_of(*draw_logits(0, 30), prefix="val"),
        "test": predictions_of(*draw_logits(1), prefix="é"),
    }
    save_predictions(tmp_path / "predictions.npz", stages)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        kinds = ("ids", "labels", "probabilities", "parts", "copied")
        assert set(file.files) == {"classes", *(f"{stage}_{kind}" for stage in stages for kind in kinds)}
        assert file["classes"].tolist() == list(CLASSES)
        for stage, predictions in stages.items():
            assert np.array_equal(file[f"{stage}_ids"], predictions.ids)
            assert file[f"{stage}_labels"].dtype == np.uint8
            assert np.array_equal(file[f"{stage}_labels"], predictions.labels)
            assert file[f"{stage}_probabilities"].dtype == np.float16
            assert np.array_equal(file[f"{stage}_probabilities"], predictions.stored)
            assert np.array_equal(file[f"{stage}_probabilities"].argmax(1), predictions.predicted)
            assert np.array_equal(file[f"{stage}_copied"], predictions.copied)
            assert file[f"{stage}_copied"].dtype == np.bool_


def test_file_is_read_back(tmp_path):
    stages = {"val": predictions_of(*draw_logits(0, 30), prefix="é"), "test": predictions_of(*draw_logits(size=0))}
    save_predictions(tmp_path / "predictions.npz", stages)
    read = load_predictions(tmp_path / "predictions.npz")
    assert list(read) == ["val", "test"]
    for stage, expected in stages.items():
        assert read[stage].metrics()["acc"] == expected.metrics()["acc"]
        assert read[stage].labels.dtype == np.int64
        assert read[stage].probabilities.dtype == np.float32
        np.testing.assert_array_equal(read[stage].probabilities, expected.stored)
        for field in ("ids", "labels", "parts", "copied"):
            np.testing.assert_array_equal(getattr(read[stage], field), getattr(expected, field))


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "fields", "classes", "shape", "pickle"])
def test_unusable_file_is_an_error_of_one_line(tmp_path, damage):
    path = tmp_path / "predictions.npz"
    if damage != "missing":
        save_predictions(path, {"test": predictions_of(*draw_logits(0))})
        arrays = dict(np.load(path))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "text":
        path.write_text("predictions")
    elif damage == "fields":
        del arrays["test_parts"]
    elif damage == "classes":
        arrays["classes"] = arrays["classes"][:-1]
    elif damage == "shape":
        arrays["test_probabilities"] = arrays["test_probabilities"][:-1]
    elif damage == "pickle":
        arrays["test_ids"] = arrays["test_ids"].astype(object)
    if damage in ("fields", "classes", "shape", "pickle"):
        np.savez(path, **arrays)
    with pytest.raises(UserError, match="predictions") as caught:
        load_predictions(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ids", lambda ids: ids[:3]),
        ("ids", lambda ids: np.arange(len(ids))),
        ("parts", lambda parts: parts[:, None]),
        ("copied", lambda copied: np.where(copied, "yes", "no")),
        ("copied", lambda copied: copied[:-1]),
        ("labels", lambda labels: labels.astype(np.int64) - 1),
        ("labels", lambda labels: labels + 1),
        ("labels", lambda labels: labels / 2),
        ("labels", lambda labels: np.full(len(labels), 2**64 - 1, np.uint64)),
        ("labels", lambda labels: labels[0]),
        ("probabilities", lambda values: values * np.float16("nan")),
        ("probabilities", lambda values: values + np.float16(0.1)),
        ("probabilities", lambda values: values * np.float16("inf")),
        ("probabilities", lambda values: values + np.array([1, -1, 0, 0, 0, 0, 0], np.float16)),
        ("probabilities", lambda values: values.astype(complex)),
        ("probabilities", lambda values: values[:, :6]),
    ],
)
def test_impossible_values_are_refused(tmp_path, name, change):
    path = tmp_path / "predictions.npz"
    save_predictions(path, {"test": predictions_of(*draw_logits(0))})
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {f"test_{name}": change(arrays[f"test_{name}"])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="not a file of predictions") as caught:
            load_predictions(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "kind"), [(2, np.uint8), (3, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_any_number_of_classes_is_kept(tmp_path, count, kind):
    classes = tuple(f"class é {number}" for number in range(count))
    labels = np.array([0, count - 1, 1])
    probabilities = np.full((3, count), 0.1 / count, np.float32)
    probabilities[[0, 1, 2], [0, count - 1, 0]] += np.float32(0.9)
    made = predictions(np.array(["a", "b", "c"]), labels, probabilities, classes)
    save_predictions(tmp_path / "predictions.npz", {"test": made})
    with np.load(tmp_path / "predictions.npz") as file:
        assert file["test_labels"].dtype == kind
    read = load_predictions(tmp_path / "predictions.npz")["test"]
    assert read.classes == classes
    assert read.labels.tolist() == labels.tolist()
    assert read.predicted.tolist() == [0, count - 1, 0]
    assert read.matrix().shape == (count, count)
    metrics = read.metrics()
    assert metrics["acc"] == pytest.approx(2 / 3)
    assert list(metrics["per_class"]) == list(classes)
    assert metrics["per_class"][classes[1]]["recall"] == (0.5 if count == 2 else 0.0)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b", "c", "d", "e", "f", " "],
        ["a", "b", "c", "d", "e", "f", "g\nh"],
        ["a", "b", "c", "d", "e", "f", "g" * 65],
        ["a", "b", "c", "d", "e", "f", "a"],
        [1, 2, 3, 4, 5, 6, 7],
        [["a", "b", "c", "d", "e", "f", "g"]],
    ],
)
def test_impossible_names_of_classes_are_refused(tmp_path, names):
    path = tmp_path / "predictions.npz"
    save_predictions(path, {"test": predictions_of(*draw_logits(0))})
    np.savez(path, **dict(np.load(path)) | {"classes": np.array(names)})
    with pytest.raises(UserError, match=r"not a file of predictions \(classes: ") as caught:
        load_predictions(path)
    assert "\n" not in str(caught.value)


def test_predictions_for_other_classes_are_other_predictions(tmp_path):
    first = predictions_of(*draw_logits(0))
    second = replace(first, classes=(*CLASSES[:-1], "contempt"))
    assert first.same_images(first)
    assert not first.same_images(second)
    with pytest.raises(ValueError, match="cannot be joined"):
        first.joined(second)
    with pytest.raises(ValueError, match="too many values"):
        save_predictions(tmp_path / "predictions.npz", {"val": first, "test": second})
    with pytest.raises(UserError, match="classes"):
        mean_predictions([first, second])
    with pytest.raises(ValueError, match="for 6 classes"):
        replace(first, classes=CLASSES[:-1])


def test_joined_predictions_keep_order_and_classes():
    whole = predictions_of(*draw_logits(0))
    both = whole.subset(np.arange(50)).joined(whole.subset(np.arange(50, 200)))
    assert both.classes == CLASSES
    for field in ("ids", "labels", "probabilities", "parts", "copied"):
        np.testing.assert_array_equal(getattr(both, field), getattr(whole, field))


def test_subset_keeps_all_fields_of_some_images():
    whole = predictions_of(*draw_logits(0))
    part = whole.subset(whole.copied)
    assert len(part) == whole.copied.sum()
    assert part.copied.all()
    np.testing.assert_array_equal(part.ids, whole.ids[whole.copied])


def test_older_file_is_replaced_only_by_a_complete_one(tmp_path, monkeypatch):
    path = tmp_path / "predictions.npz"
    save_predictions(path, {"test": predictions_of(*draw_logits(0))})
    before = path.read_bytes()

    def disk_full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", disk_full)
        with pytest.raises(OSError, match="disk full"):
            save_predictions(path, {"test": predictions_of(*draw_logits(1))})
    assert path.read_bytes() == before
    save_predictions(path, {"test": predictions_of(*draw_logits(1))})
    assert path.read_bytes() != before


def predictions_with_confidence(labels, predicted, confidence):
    probabilities = np.full((len(labels), 7), 0.01, np.float32)
    probabilities[np.arange(len(labels)), predicted] = confidence
    return predictions(np.arange(len(labels)).astype(str), np.array(labels), probabilities)


def test_examples_and_mistakes_are_the_most_confident_predictions():
    made = predictions_with_confidence([0, 0, 3, 3, 5, 5], [0, 0, 3, 4, 4, 4], [0.5, 0.9, 0.7, 0.6, 0.8, 0.95])
    assert examples_per_class(made).tolist() == [1, 2]
    assert confident_mistakes(made, 2).tolist() == [5, 4]
    assert confident_mistakes(made, 9).tolist() == [5, 4, 3]


def test_images_of_augmented_predictions_are_stored_once(tmp_path):
    plain = predictions_of(*draw_logits(size=50))
    views = replace(plain, probabilities=np.roll(plain.probabilities, 1, axis=1))
    other = predictions_of(*draw_logits(seed=1, size=20), prefix="other")
    save_predictions(tmp_path / "a.npz", {"test": plain, "test_tta": views, "val": plain, "val_tta": other})
    with np.load(tmp_path / "a.npz") as file:
        assert {key for key in file if key.startswith("test_tta")} == {"test_tta_probabilities"}
        assert "val_tta_ids" in file
    found = load_predictions(tmp_path / "a.npz")
    assert list(found) == ["test", "test_tta", "val", "val_tta"]
    for stage, expected in (("test", plain), ("test_tta", views), ("val_tta", other)):
        assert found[stage].same_images(expected)
        assert np.array_equal(found[stage].copied, expected.copied)
        np.testing.assert_allclose(found[stage].probabilities, expected.probabilities, atol=1e-3)
