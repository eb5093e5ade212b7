"""Classification metrics, all computed from one confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Returns the counts int64 [K, K] of class ids int64 [N]: rows are true classes, columns predicted classes."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)  # [K * K]
    return counts.reshape(num_classes, num_classes)  # [K, K]


def matrix_metrics(matrix: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Computes accuracy, precision, recall and F1.

    A ratio with denominator 0 counts as 0, as in scikit-learn's `classification_report(zero_division=0)`. Macro
    averages and balanced accuracy are means over the classes that have images, even if others are predicted: a class
    without images has no recall, and its F1 would measure the data, not the network.

    Args:
        matrix: int64 [K, K], rows are true classes.
        class_names: K names.

    Returns:
        `acc`, `precision_macro`, `recall_macro`, `f1_macro`, the same three with `_weighted`, `balanced_acc` (another
        name of `recall_macro`), all 0..1; `num_images`; and `per_class`, which maps each name to its `precision`,
        `recall`, `f1` (0..1) and `support` (number of images).
    """
    correct, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)  # int64 [K] each
    scores = {
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, support),
        "f1": _ratio(2 * correct, support + predicted),
    }
    present = support > 0
    weights = _ratio(support, support.sum())
    macro = {name: float(values[present].mean()) if present.any() else 0.0 for name, values in scores.items()}
    return {
        "acc": float(_ratio(correct.sum(), support.sum())),
        "balanced_acc": macro["recall"],
        **{f"{name}_macro": value for name, value in macro.items()},
        **{f"{name}_weighted": float((values * weights).sum()) for name, values in scores.items()},
        "num_images": int(support.sum()),
        "per_class": {
            name: {**{score: float(values[row]) for score, values in scores.items()}, "support": int(support[row])}
            for row, name in enumerate(class_names)
        },
    }


def _ratio(numerator: NDArray[np.int64] | np.int64, denominator: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=np.asarray(denominator) > 0)
