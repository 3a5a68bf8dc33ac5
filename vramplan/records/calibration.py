"""What a record teaches about its card, and beside it what an estimate says of the same run."""

from __future__ import annotations

from dataclasses import dataclass

from vramplan.core.device import Gpu
from vramplan.core.report import Component, MemoryReport
from vramplan.records.measured_rows import predicted_phases, why_unusable
from vramplan.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """An estimate of the run at its peaks.

    Args:
        allocated_bytes: the highest.
        reserved_bytes: the highest.
        num_workspaces: cuBLAS handles whose workspace is in the allocator at the allocated peak.
    """

    allocated_bytes: int
    reserved_bytes: int
    num_workspaces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One record.

    Args:
        id: the record's.
        gpu: the card's name as the driver has it.
        driver: its version.
        when: of the measurement.
        is_training: whether weights or adapters changed: the two kinds have a band each.
        above_reserved_bytes: what the run took of the card beside torch's segments, in the phase that took most.
        bare_context_bytes: of it, what appeared when the context was made, or None.
        allocated_bytes: the highest.
        device_bytes: the highest, without what other processes held.
        predicted: what an estimate says, or None where it cannot tell, or the allocator was not set as it takes it.
    """

    id: str
    gpu: str
    driver: str
    when: str
    is_training: bool
    above_reserved_bytes: int
    bare_context_bytes: int | None
    allocated_bytes: int
    device_bytes: int
    predicted: Predicted | None


def why_not_observed(record: Record) -> str | None:
    """Why a record says nothing of its card's constants, or None where it does."""
    unusable = why_unusable(record)
    if unusable is not None:
        return unusable
    if record.gpu.baseline_used_bytes is None:
        return "what the card held before it is not known"
    if record.gpu.driver is None:
        return "its driver is not known"
    if record.allocator.backend != "native":
        return f"its allocator is {record.allocator.backend}"
    if record.run.get("rollout") == "vllm-colocate":
        return "vLLM's share of the card is in it"
    if _above_reserved(record) is None:
        return "no phase of it has both reserved and device bytes"
    return None


def observe(record: Record, report: MemoryReport | None, gpu: Gpu | None) -> Observation:
    """The record as an observation.

    Args:
        record: one for which `why_not_observed` has no reason.
        report: an estimate of its run, or None.
        gpu: the card that the estimate was made for, or None.

    Raises:
        ValueError: the record cannot be one.
    """
    above, driver = _above_reserved(record), record.gpu.driver
    if above is None or driver is None or why_not_observed(record) is not None:
        raise ValueError(f"{record.id}: {why_not_observed(record)}")
    phases = predicted_phases(record)
    return Observation(
        id=record.id,
        gpu=record.gpu.name,
        driver=driver,
        when=record.when,
        is_training=record.steps is not None,
        above_reserved_bytes=above,
        bare_context_bytes=record.gpu.context_bytes,
        allocated_bytes=max(phase.allocated_bytes or 0 for phase in phases),
        device_bytes=max(record.own_device_bytes(phase) or 0 for phase in phases),
        predicted=None if report is None or gpu is None or record.allocator.conf else _predicted(report, gpu),
    )


def _above_reserved(record: Record) -> int | None:
    """Of the phase that took most: there the lazily loaded libraries are all in."""
    pairs = [
        (own, own - phase.reserved_bytes)
        for phase in predicted_phases(record)
        if (own := record.own_device_bytes(phase)) is not None and phase.reserved_bytes is not None
    ]
    return max(pairs)[1] if pairs and max(pairs)[1] > 0 else None


def _predicted(report: MemoryReport, gpu: Gpu) -> Predicted:
    highest = max(report.phases, key=lambda phase: phase.allocated_bytes)
    return Predicted(
        allocated_bytes=report.peak.allocated_bytes,
        reserved_bytes=report.peak.reserved_bytes,
        num_workspaces=round(highest.component_bytes(Component.WORKSPACE) / gpu.cublas_workspace_bytes),
    )
