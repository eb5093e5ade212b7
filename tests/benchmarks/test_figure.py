import io
from typing import Any

import pytest
from figure import speed_figure
from PIL import Image
from rich.console import Console
from summary import summarise
from table import speed_table

from .conftest import Measure


@pytest.fixture
def result(measure: Measure) -> dict[str, Any]:
    runs = {
        "limit": [measure((1.0, 0.0)), measure((1.1, 0.0))],
        "ours": [measure((1.25, 0.0)), measure((1.25, 0.0))],
        "keras": [measure((5.0, 0.0)), measure((2.5, 0.0))],
        "timm": [{"error": "[no] network"}, {"error": "[no] network"}],
    }
    workload = {
        "images": {"train": 100, "val": 25, "test": 7},
        "batch_size": 64,
        "feature_views": 2,
        "workers": 0,
        "runs": runs,
        "counted": [0, 1],
        "summary": summarise(runs),
    }
    return {
        "hardware": "a $CPU$",
        "settings": {"precision": "32-true", "rounds": 2},
        "workloads": {"cnn": workload, "vgg16_ft": workload | {"summary": {}, "feature_views": 0}},
    }


def test_figure_shows_the_measurements(result: dict[str, Any]) -> None:
    figure = speed_figure(result)
    panel, empty = figure.axes
    assert panel.get_title(loc="left") == "cnn, batch 64, 2 rounds: ours reaches 84% of the limit"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["limit", "ours", "timm's script", "Keras"]
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([(100 + 100 / 1.1) / 2, 80.0, 0.0, 30.0])
    assert [text.get_text() for text in panel.texts] == [
        "95   the head on features",
        "80   on features, after one pass of 0.5 s",
        "not measured",
        "30   ours is 2.67 times as fast",
    ]
    assert empty.get_title(loc="left") == "vgg16_ft, batch 64, 2 rounds"
    assert [text.get_text() for text in empty.texts] == ["not measured"] * 4
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert Image.open(file).size[0] > 800


def test_table_shows_errors_and_ranges(result: dict[str, Any]) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(speed_table("cnn", result["workloads"]["cnn"]))
    text = console.export_text()
    assert "timm: [no] network" in text
    assert "20..40" in text
    assert "GPU MiB" not in text
