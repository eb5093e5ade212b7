"""Figures of merit, all counted from one confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts int64 [K, K]: rows are true classes, columns predicted ones, for class ids int64 [N]."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def matrix_metrics(matrix: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Computes accuracy, precision, recall and F1.

    A ratio without cases counts as 0, as in scikit-learn's `classification_report(zero_division=0)`. Macro averages and
    balanced accuracy are means over the classes that have images, whatever is predicted: one without images has no
    recall, and its F1 would say which data it is, not how good the network is.

    Args:
        matrix: int64 [K, K], rows are true classes.
        class_names: K names.

    Returns:
        `acc`, `precision_macro`, `recall_macro`, `f1_macro`, the same three with `_weighted`, `balanced_acc` (another
        name of `recall_macro`), `num_images`, and `per_class`, which maps each name to its `precision`, `recall`, `f1`
        (0..1) and `support`.
    """
    hits, support, claimed = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    scores = {
        "precision": _ratio(hits, claimed),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + claimed),
    }
    occurs = support > 0
    weights = _ratio(support, support.sum())
    macro = {name: float(values[occurs].mean()) if occurs.any() else 0.0 for name, values in scores.items()}
    return {
        "acc": float(_ratio(hits.sum(), support.sum())),
        "balanced_acc": macro["recall"],
        **{f"{name}_macro": value for name, value in macro.items()},
        **{f"{name}_weighted": float((values * weights).sum()) for name, values in scores.items()},
        "num_images": int(support.sum()),
        "per_class": {
            name: {**{score: float(values[row]) for score, values in scores.items()}, "support": int(support[row])}
            for row, name in enumerate(class_names)
        },
    }


def _ratio(part: NDArray[np.int64] | np.int64, whole: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)
