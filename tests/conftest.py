"""Fixtures every test may use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Answers must not depend on who runs the tests: their cache, their Hub, their terminal.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="vramplan-tests-")  # no profiles of the user's
os.environ["COLUMNS"] = "80"
os.environ["NO_COLOR"] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real configs, measurements and snapshots beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not beside this checkout")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables that tests gathered by record_property, whether they passed or not, from every worker."""
    tables: dict[str, list[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for title, line in getattr(report, "user_properties", ()):
                tables.setdefault(title, []).append(str(line))
    for title, lines in sorted(tables.items()):
        terminalreporter.section(title)
        for line in sorted(lines):
            terminalreporter.write_line(line)
