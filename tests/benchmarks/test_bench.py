import json
import os
from pathlib import Path

import pytest
from bench import PROGRAMS, make_contestant, measure, parse_options, slug
from summary import WARM_UP
from workloads import WORKLOADS


@pytest.mark.process
@pytest.mark.parametrize(
    ("workloads", "contestants"),
    [("vgg16_fe", "ours"), pytest.param("cnn vgg16_fe", "limit plain ours", marks=pytest.mark.check)],
)
def test_a_round_of_workloads_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workloads: str, contestants: str
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    monkeypatch.setattr("rounds.MAX_STOLEN_SHARE", 1.0)
    out = tmp_path / "result.json"
    arguments = f"--workloads {workloads} --contestants {contestants} timm --rounds 1 --epochs 2 --images 64"
    arguments += f" --workers 0 --data synthetic --precision 32-true --timm-script {tmp_path}/none.py --out {out}"
    measure(parse_options(arguments.split()))
    result = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert result["settings"] == {"precision": "32-true", "rounds": 1, "epochs": 2, "data": "synthetic"}
    assert result["environment"]["packages"]["torch"]
    for name, workload in result["workloads"].items():
        assert workload["images"] == {"train": 64, "val": 16, "test": 7}
        assert list(workload["summary"]) == contestants.split()
        assert workload["runs"]["timm"] == [{"error": f"--timm-script={tmp_path}/none.py: no such file"}]
        for contestant, metrics in workload["summary"].items():
            (run,) = workload["runs"][contestant]
            assert run["parameters"] == WORKLOADS[name].parameters
            assert len(run["epochs"]) == WARM_UP + 1
            assert all(epoch["images"] == 64 and epoch["train_seconds"] > 0 for epoch in run["epochs"])
            assert run["startup_seconds"] > 0
            assert run["peak_rss_mib"] > 100
            assert metrics["images_per_second"]["median"] > 0
    ours = result["workloads"]["vgg16_fe"]["runs"]["ours"][0]
    assert ours["preparation_seconds"] > 0
    assert "3 augmented views" in ours["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 1", "must be an integer of at least 2"),
        ("--workloads resnet", "invalid choice: 'resnet'"),
        ("--precision 16-mixed", "invalid choice"),
        ("--rounds many", "--rounds"),
    ],
)
def test_bad_options(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(arguments.split())
    assert message in capsys.readouterr().err


def test_defaults_are_all_contestants_and_workloads() -> None:
    options = parse_options([])
    assert options.contestants == list(PROGRAMS)
    assert options.workloads == list(WORKLOADS)


def test_missing_peer_has_a_reason(tmp_path: Path) -> None:
    missing = make_contestant("timm", gpu=False, script=tmp_path / "none").missing
    assert missing == f"--timm-script={tmp_path / 'none'}: no such file"
    assert make_contestant("timm", gpu=False, script=Path(__file__)).script == str(Path(__file__).resolve())
    assert make_contestant("plain", gpu=False, script=None).missing is None


def test_files_are_named_by_hardware_and_precision() -> None:
    result = {"hardware": "Intel(R) Xeon(R) @ 2.0GHz, 2 cores", "settings": {"precision": "bf16-mixed"}}
    assert slug(result) == "intel-r-xeon-r-2-0ghz-2-cores-bf16-mixed"
