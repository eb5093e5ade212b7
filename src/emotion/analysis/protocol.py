"""The evaluation protocol: the held-out images that are measured, and the metrics that are computed on them.

PublicTest chooses (epoch, temperature, members of an ensemble). PrivateTest is read once, with and without the images
that are pixel-identical to one of the training part.
"""

from collections.abc import Iterator, Mapping
from functools import reduce

from emotion.analysis.calibration import calibration, fit_temperature, with_temperature
from emotion.analysis.predictions import Predictions

METRICS = {"acc": "Accuracy", "f1_macro": "Macro F1", "nll": "NLL", "ece": "ECE"}
"""The metrics of each part, and their headings in tables."""


def protocol_parts(stages: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Returns the predictions for each part of the held-out images, by the part's name, without empty parts.

    Args:
        stages: predictions of `val`, `test` or both. Of the validation images, those of PublicTest count, as in other
            work; all others only choose.
    """
    shown = [stages[stage] for stage in ("val", "test") if stage in stages]
    if "val" in stages:
        shown[0] = shown[0].subset(shown[0].parts == "public")
    held_out = reduce(Predictions.joined, shown)
    private = held_out.subset(held_out.parts == "private")
    parts = {
        "PublicTest": held_out.subset(held_out.parts == "public"),
        "PrivateTest": private,
        "PrivateTest without copies": private.subset(~private.copied),  # the name is a key in published networks
        "All": held_out,
    }
    return {name: predictions for name, predictions in parts.items() if len(predictions)}


def protocol_metrics(predictions: Predictions, temperature: float = 1.0) -> dict[str, float]:
    """Returns the `METRICS` of some predictions; a temperature divides the logits for NLL and ECE only."""
    metrics = predictions.metrics()
    scaled = calibration(with_temperature(predictions, temperature).probabilities, predictions.labels)
    return {"acc": metrics["acc"], "f1_macro": metrics["f1_macro"], "nll": scaled.nll, "ece": scaled.ece}


def protocol_rows(stages: Mapping[str, Predictions]) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Yields the metrics of each part of the held-out images, at the temperature fitted on the validation images.

    Args:
        stages: predictions of `val` and `test`, and as `val_tta` and `test_tta` those with test-time augmentation.
            Without validation or test images there are no rows.

    Yields:
        Test-time augmentation ("none" or "several views"), name of the part, number of images and metrics.
    """
    for views, suffix in (("none", ""), ("several views", "_tta")):
        chosen = {stage: stages[f"{stage}{suffix}"] for stage in ("val", "test") if f"{stage}{suffix}" in stages}
        if "test" in chosen and len(chosen.get("val", ())):
            temperature = fit_temperature(chosen["val"])
            for part, predictions in protocol_parts(chosen).items():
                metrics = protocol_metrics(predictions, temperature)
                yield views, part.replace("copies", "duplicates"), len(predictions), metrics
