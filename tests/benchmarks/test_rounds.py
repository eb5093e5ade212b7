import sys
from pathlib import Path
from typing import Any

import pytest
import rounds
from rounds import Contestant, choose_workers, run_process, run_rounds
from workloads import Job

from .conftest import Measure

JOB = Job("cnn", "faces", batch_size=64, epochs=2, precision="32-true", workers=0, feature_views=0)


def make_program(path: Path, body: str) -> Contestant:
    """Returns a contestant whose interpreter is a Python script with this body."""
    path.write_text(f"#!{sys.executable}\nimport json, sys, time\njob = json.loads(sys.argv[-1])\n{body}\n")
    path.chmod(0o755)
    return Contestant(path.name, "contestants.any", python=path)


def test_each_round_has_all_contestants_and_starts_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(contestant: Contestant, job: Job) -> dict[str, Any]:
        order.append(contestant.name)
        return {"error": "not run"}

    monkeypatch.setattr(rounds, "run_process", run)
    results = list(run_rounds([Contestant(name, "") for name in "abc"], JOB, 4))
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert all(sorted(result) == ["a", "b", "c"] for result in results)


def test_failures_are_recorded_and_the_others_go_on(tmp_path: Path, measure: Measure) -> None:
    good = measure((1.0, 1.0))
    contestants = [
        Contestant("missing", "contestants.any", missing="no network"),
        Contestant("unknown", "contestants.unknown"),
        make_program(tmp_path / "raising", "raise ValueError('out of luck')"),
        make_program(tmp_path / "killed", "import os; os.kill(os.getpid(), 9)"),
        make_program(tmp_path / "silent", "print('no JSON')"),
        make_program(tmp_path / "other", f"print(json.dumps({good | {'parameters': 7}!r}))"),
        make_program(tmp_path / "good", f"print('noise'); print(json.dumps({good!r}))"),
    ]
    (result,) = run_rounds(contestants, JOB, 1)
    errors = {name: run.get("error", "") for name, run in result.items()}
    assert errors["missing"] == "no network"
    assert "contestants.unknown" in errors["unknown"]
    assert errors["raising"] == "ValueError: out of luck"
    assert errors["killed"] == "exit status -9"
    assert errors["silent"] == "no measurement in the output"
    assert errors["other"] == "network: 7 parameters, must be 1,029,223"
    assert result["good"] == good


def test_a_process_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "TIMEOUT", 0.5)
    hanging = make_program(tmp_path / "hanging", "time.sleep(60)")
    assert run_process(hanging, JOB) == {"error": "not finished after 0.5 s"}


def test_a_job_has_the_start_time_and_the_script(tmp_path: Path, measure: Measure) -> None:
    body = f"print(json.dumps({measure((1.0, 1.0))!r} | {{'note': [time.time() - job['started'], job['script']]}}))"
    program = make_program(tmp_path / "echo", body)
    delay, script = run_process(Contestant("echo", "any", program.python, script="their.py"), JOB)["note"]
    assert 0 < delay < 30
    assert script == "their.py"


def test_failing_numbers_of_workers_are_left_out(tmp_path: Path, measure: Measure) -> None:
    body = (
        "assert job['workers'] < 3\n"
        f"measured = {measure((0.0, 0.0))!r}\n"
        "measured['epochs'][1]['train_seconds'] = 5.0 - job['workers']\n"
        "print(json.dumps(measured))"
    )
    assert choose_workers(make_program(tmp_path / "plain", body), JOB, [0, 2, 8]) == {0: 5.0, 2: 3.0}


@pytest.mark.parametrize(("stolen", "count"), [([0.0] * 6, 3), ([0.5, 0.0, 0.5, 0.0, 0.0, 0.0], 5), ([0.5] * 6, 6)])
def test_disturbed_rounds_are_repeated(
    stolen: list[float], count: int, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter(stolen)
    monkeypatch.setattr(rounds, "run_process", lambda *_: measure((1.0, 0.0), stolen=next(shares)))
    assert len(list(run_rounds([Contestant("ours", "")], JOB, 3))) == count
