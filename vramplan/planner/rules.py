"""What a run's author should know: rules with an id, a sentence, a hint and a source."""

from __future__ import annotations

from vramplan.core.report import Finding
from vramplan.formula.estimate import Estimate
from vramplan.formula.setting import Setting
from vramplan.runfiles.flat import FlatRun


def find_findings(flat: FlatRun, setting: Setting, result: Estimate) -> tuple[Finding, ...]:
    """Every rule that has something to say about this run."""
    return ()
