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
