import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from curves import Validations, curves_figure, main
from torch import nn


def test_the_figure_has_a_line_for_each_value() -> None:
    curves = {"0": [[0.2, 0.4], [0.4, 0.6]], "3": [[0.1, 0.2], [0.1, 0.2]]}
    (axes,) = curves_figure(curves, "feature_views").axes
    assert [line.get_label() for line in axes.lines] == ["feature_views=0", "feature_views=3"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.training
@pytest.mark.usefixtures("cache")
def test_curves_of_images_and_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "curves.json"
    arguments = f"weights=none --data synthetic --images 56 --vary feature_views 0 2 --seeds 1 --epochs 2 --out {out}"
    monkeypatch.setattr(sys, "argv", ["curves.py", *arguments.split()])
    main()
    result = json.loads(out.read_text())
    assert result["images"] == {"train": 56, "val": 14, "test": 7}
    assert {views: [len(seed) for seed in seeds] for views, seeds in result["curves"].items()} == {"0": [2], "2": [2]}
    assert result["dead_channels"] == {"0": [[]], "2": [[]]}, "the convolutions are frozen"
    assert all(0 <= value <= 1 for seeds in result["curves"].values() for seed in seeds for value in seed)
    assert out.with_suffix(".png").stat().st_size > 5_000


def test_a_channel_is_dead_if_no_validation_image_has_a_value_above_0() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0, 1.0, 1.0]).view(4, 1, 1, 1))
        network[0].bias.copy_(torch.tensor([0.0, -5.0, -1.5, -9.0]))
    validations, task = Validations(), cast(Any, network)
    validations.on_fit_start(cast(Any, None), task)
    network.train()
    network(torch.full((2, 1, 3, 3), 10.0))  # a training step counts for nothing
    network.eval()
    for value in (1.0, 2.0):  # the second batch wakes the third channel
        network(torch.full((2, 1, 3, 3), value))
    validations.on_validation_end(cast(Any, SimpleNamespace(callback_metrics={"val/acc": 0.25})), task)
    assert (validations.accuracies, validations.dead_channels) == ([0.25], [0.5])
