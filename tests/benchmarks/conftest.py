from collections.abc import Callable
from typing import Any

import pytest

Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Makes a measurement; its epochs after the warm-up are (train seconds, validation seconds)."""

    def make(*epochs: tuple[float, float], images: int = 100, startup: float = 4.0) -> dict[str, Any]:
        pairs = [(1000.0, 1000.0), *epochs]
        return {
            "epochs": [{"train_seconds": train, "val_seconds": val, "images": images} for train, val in pairs],
            "startup_seconds": startup,
            "preparation_seconds": 0.5,
            "peak_rss_mib": 700.0,
            "peak_device_mib": None,
            "parameters": 1_029_223,
            "versions": {"python": "3"},
            "note": "made up",
        }

    return make
