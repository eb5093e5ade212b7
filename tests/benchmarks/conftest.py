from collections.abc import Callable
from typing import Any

import pytest

Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Returns a function that makes a measurement with some (train seconds, validation seconds) after the warm-up."""

    def make(*epochs: tuple[float, float], images: int = 100, stolen: float = 0.0) -> dict[str, Any]:
        timed = [(1000.0, 1000.0, 0.9), *((*epoch, stolen) for epoch in epochs)]
        keys = ("train_seconds", "val_seconds", "stolen_share")
        return {
            "epochs": [dict(zip(keys, epoch, strict=True)) | {"images": images} for epoch in timed],
            "startup_seconds": 4.0,
            "preparation_seconds": 0.5,
            "peak_rss_mib": 700.0,
            "peak_device_mib": None,
            "parameters": 1_029_223,
            "versions": {"python": "3"},
            "note": "made up",
        }

    return make
