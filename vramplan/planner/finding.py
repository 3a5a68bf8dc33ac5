"""What a rule is, and bytes in its sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vramplan.core.report import Finding
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.runfiles.flat import FlatRun
from vramplan.units import GB

Rule = Callable[[FlatRun, Setting, Estimate], Iterator[Finding]]


def gigabytes(num_bytes: int) -> str:
    """Bytes for a sentence."""
    return f"{num_bytes / GB:.2f} GB"
