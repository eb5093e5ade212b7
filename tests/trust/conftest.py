"""Counts what the tests of this folder tried and lost, for the table of `make trust`."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from peak import Peak
from small_runs import TINY, train

from emotion.training.environment import describe_environment, describe_hardware
from emotion.training.folder import RunFolder

Record = Callable[[str, int, int], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="try everything far more often")
    parser.addoption("--table", type=Path, help="where to keep the table, as JSON")


@pytest.fixture(scope="session", autouse=True)
def _quick_runs(quick_runs: None) -> None:
    """No test of this folder looks at the figures of a run."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test the forms of its marker: those of `make test`, of `make check`, and of `make trust`."""
    for mark in metafunc.definition.iter_markers("forms"):
        name, forms = mark.args[0], mark.kwargs
        if name not in metafunc.fixturenames:
            continue
        values = [*forms["test"], *(pytest.param(own, marks=pytest.mark.check) for own in forms["check"])]
        if metafunc.config.getoption("--nightly"):
            values += forms.get("nightly", [])
        metafunc.parametrize(name, values)


@pytest.fixture(scope="session")
def nightly(request: pytest.FixtureRequest) -> bool:
    """Whether the long forms run, each as long as its line of the table needs."""
    return bool(request.config.getoption("--nightly", default=False))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of a network of few kilobytes, which tests share and leave as it is."""
    return train(tmp_path_factory.mktemp("runs") / "run", *TINY)


@pytest.fixture
def peak() -> Peak:
    """How much memory a test takes."""
    return Peak()


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Notes what was tried, how often, and in how many of these something was lost; equal lines are added up."""

    def note(what: str, tried: int, lost: int) -> None:
        record_property("trust", {"what": what, "tried": tried, "lost": int(lost)})

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table, with a line more for each test that failed, broke down or was skipped."""
    rows = _rows(terminalreporter)
    lines = [f"| {row['what']} | {row['tried']:,} | {row['lost']} |" for row in rows]
    terminalreporter.write_line("\n".join(["", "| what was tried | times | lost |", "| --- | --- | --- |", *lines]))
    if path := config.getoption("--table"):
        environment = describe_environment()
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": environment["commit"],
            "hardware": describe_hardware(environment, torch.device("cpu")),
            "nightly": config.getoption("--nightly"),
        }
        path.write_text(json.dumps(facts | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


def _rows(terminalreporter: pytest.TerminalReporter) -> list[dict[str, object]]:
    rows = []
    for outcome, lost in (("passed", None), ("failed", 1), ("error", 1), ("skipped", 0)):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call":
                rows += [value for name, value in report.user_properties if name == "trust"]
            if lost is not None:
                what = f"{report.nodeid} ({outcome if lost else 'skipped, so not tried'})"
                rows.append({"what": what, "tried": lost, "lost": lost})
    sums: dict[object, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sums[row["what"]].update({name: row[name] for name in ("tried", "lost")})
    return [{"what": what, **sums[what]} for what in sorted(sums, key=str)]
