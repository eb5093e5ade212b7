import json
import sys
from pathlib import Path

import pytest
from curves import curves_figure, main


def test_the_figure_has_a_line_for_each_number_of_views() -> None:
    (axes,) = curves_figure({"0": [[0.2, 0.4], [0.4, 0.6]], "3": [[0.1, 0.2], [0.1, 0.2]]}).axes
    assert [line.get_label() for line in axes.lines] == ["images, augmented anew", "3 views"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.5])


@pytest.mark.training
@pytest.mark.usefixtures("cache")
def test_curves_of_images_and_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "curves.json"
    arguments = f"weights=none --data synthetic --images 56 --views 0 2 --seeds 1 --epochs 2 --out {out}"
    monkeypatch.setattr(sys, "argv", ["curves.py", *arguments.split()])
    main()
    result = json.loads(out.read_text())
    assert result["images"] == {"train": 56, "val": 14, "test": 7}
    assert {views: [len(seed) for seed in seeds] for views, seeds in result["curves"].items()} == {"0": [2], "2": [2]}
    assert all(0 <= value <= 1 for seeds in result["curves"].values() for seed in seeds for value in seed)
    assert out.with_suffix(".png").stat().st_size > 5_000
