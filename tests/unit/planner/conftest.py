"""Answers for flat settings, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.core.report import MemoryReport
from vramplan.planner.answer import answer
from vramplan.runfiles.flat import parse_flat

Ask = Callable[..., MemoryReport]


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Estimate a run from keyword settings."""
    dirs = ProfileDirs(shipped=shipped_profiles())

    def one(**settings: object) -> MemoryReport:
        return answer(parse_flat(settings, ""), profile_dirs=dirs)

    return one
