import json
import sys
from pathlib import Path

import breakdown
import pytest
import roofline


def test_a_step_of_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SIDE", 64)
    monkeypatch.setattr(roofline, "COPY_BYTES", 4096)
    monkeypatch.setattr(breakdown, "STEPS", 2)
    out = tmp_path / "breakdown.json"
    arguments = ["breakdown.py", "--workloads", "vgg16_fe", "--precision", "32-true", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    breakdown.main()
    result = json.loads(out.read_text())
    measured, ceilings = result["workloads"]["vgg16_fe"], result["ceilings"]
    # 64 images through layers of 512 x 256 and 256 x 7: forward, gradients of weights, and of the second layer's input.
    assert measured["flops"] == 2 * 64 * (2 * 512 * 256 + 3 * 256 * 7)
    assert measured["flops_seconds"] == pytest.approx(measured["flops"] / ceilings["flops_per_second"])
    assert measured["bytes_seconds"] == pytest.approx(measured["bytes_moved"] / ceilings["bytes_per_second"])
    assert measured["step_seconds"] > 0
    shares = list(measured["shares"].values())
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1
    assert {"aten::addmm", "aten::mm"} <= set(measured["shares"])
