import json
import sys
from pathlib import Path

import pytest
from breakdown import main


def test_shares_of_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "breakdown.json"
    words = ["breakdown.py", "--workloads", "vgg16_fe", "--precision", "32-true", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    main()
    result = json.loads(out.read_text())
    values = list(result["workloads"]["vgg16_fe"].values())
    assert values == sorted(values, reverse=True)
    assert 0.5 < sum(values) <= 1
    assert "aten::addmm" in result["workloads"]["vgg16_fe"]
