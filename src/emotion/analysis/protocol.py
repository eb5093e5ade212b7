"""The protocol of every final figure: which images count, and which figures are given for them.

PublicTest chooses (epoch, temperature, members of an ensemble); PrivateTest is read once, with and without the images
of which a training image is an exact copy.
"""

from collections.abc import Iterator, Mapping

from emotion.analysis.calibration import calibration, fit_temperature, with_temperature
from emotion.analysis.predictions import Predictions
from emotion.data.classes import CLASSES

METRICS = {"acc": "Accuracy", "f1_macro": "Macro F1", "nll": "NLL", "ece": "ECE"}
"""The figures of each part, and their headings."""


def protocol_parts(stages: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Returns the held-out images by name of the part; parts without images are left out.

    Args:
        stages: of `val` and `test`; validation images that were cut from the training images are left out.
    """
    held_out = stages["test"]
    if "val" in stages:
        val = stages["val"]
        held_out = val.subset(val.parts != "train").joined(held_out)
    private = held_out.subset(held_out.parts == "private")
    parts = {
        "PublicTest": held_out.subset(held_out.parts == "public"),
        "PrivateTest": private,
        "PrivateTest without copies": private.subset(~private.copied),
        "All": held_out,
    }
    return {name: own for name, own in parts.items() if len(own)}


def protocol_metrics(predictions: Predictions, temperature: float = 1.0) -> dict[str, float]:
    """Returns the figures of some images; those of calibration after dividing the logits by a temperature."""
    metrics = predictions.metrics(CLASSES)
    scaled = calibration(with_temperature(predictions, temperature).probabilities, predictions.labels)
    return {"acc": metrics["acc"], "f1_macro": metrics["f1_macro"], "nll": scaled.nll, "ece": scaled.ece}


def protocol_rows(stages: Mapping[str, Predictions]) -> Iterator[tuple[str, str, int, dict[str, float]]]:
    """Yields views, part, number of images and figures, after the temperature that the validation images fit.

    Args:
        stages: of `val` and `test`, and as `val_tta` and `test_tta` with several views of each image; without
            validation or test images there are no rows.
    """
    for views, suffix in (("one", ""), ("several", "_tta")):
        own = {stage: stages[f"{stage}{suffix}"] for stage in ("val", "test") if f"{stage}{suffix}" in stages}
        if "test" in own and len(own.get("val", ())):
            temperature = fit_temperature(own["val"])
            for part, images in protocol_parts(own).items():
                yield views, part, len(images), protocol_metrics(images, temperature)
