"""What documents say a run takes, beside what it does take."""

from __future__ import annotations

from collections.abc import Callable

from vramplan.catalog.dirs import ProfileDirs
from vramplan.catalog.runs import load_run
from vramplan.core.report import Comparison, Component, MemoryReport

ACTIVATIONS = (
    Component.CHECKPOINTS,
    Component.ACTIVATIONS,
    Component.ATTENTION,
    Component.AUTOCAST,
    Component.LOGITS,
)


def _activations(report: MemoryReport) -> int:
    phase = report.phase(report.peak.phase)
    return sum(phase.component_bytes(component) for component in ACTIVATIONS)


TRUTHS: dict[str, Callable[[MemoryReport], int]] = {
    "weights_bf16": lambda report: sum(model.by_precision["bf16"] for model in report.models),
    "weights_int8": lambda report: sum(model.by_precision["int8"] for model in report.models),
    "activations": _activations,
    "peak": lambda report: report.peak.device_used_bytes,
}


def compare_claims(run: str | None, report: MemoryReport, profile_dirs: ProfileDirs) -> tuple[Comparison, ...]:
    """The claims of a run profile against its report; none where the run is no profile."""
    if run is None:
        return ()
    return tuple(
        Comparison(
            what=claim.what,
            claimed_bytes=claim.claimed_bytes,
            estimated_bytes=TRUTHS[claim.truth](report),
            remark=claim.remark,
        )
        for claim in load_run(run, profile_dirs).claims
    )
