"""Counts what the tests of this folder tried and lost, for the table of `make trust`."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from peak import Peak

from emotion.training.environment import describe_environment, describe_hardware

Record = Callable[[str, int, int], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="try everything far more often")
    parser.addoption("--table", type=Path, help="where to keep the table, as JSON")


@pytest.fixture(scope="session", autouse=True)
def _quick_runs(quick_runs: None) -> None:
    """No test of this folder looks at the figures of a run."""


@pytest.fixture(scope="session")
def nightly(request: pytest.FixtureRequest) -> bool:
    """Whether the long form runs; without it a test takes seconds, with it as long as its figure needs."""
    return bool(request.config.getoption("--nightly", default=False))


@pytest.fixture
def peak() -> Peak:
    """How much memory a test takes."""
    return Peak()


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Notes a line of the table: what was tried, how often, and in how many of these something was lost."""

    def note(what: str, tried: int, lost: int) -> None:
        record_property("trust", {"what": what, "tried": tried, "lost": lost})

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the table, with a line more for each test that failed, broke down or was skipped."""
    rows = _rows(terminalreporter)
    lines = [f"| {row['what']} | {row['tried']:,} | {row['lost']} |" for row in rows]
    terminalreporter.write_line("\n".join(["", "| what was tried | times | lost |", "| --- | --- | --- |", *lines]))
    if path := config.getoption("--table"):
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": describe_hardware(describe_environment()),
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
    return sorted(rows, key=lambda row: str(row["what"]))
