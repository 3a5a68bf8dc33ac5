"""A measured run in the shape of every report: phases × components, as far as a measurement can tell them apart."""

from __future__ import annotations

from dataclasses import replace

from vramplan.catalog.dirs import ProfileDirs
from vramplan.core.report import Basis, Budget, Component, Entry, MemoryReport, OutOfRoom, Phase, Verdict
from vramplan.planner.report_of import Prepared, report_of
from vramplan.records.record import Record, RecordPhase
from vramplan.runfiles.flat import FlatRun

_TORCH = "torch.cuda's counters on the device"
_NVML = "NVML, the card's used memory less what was used before"


def measured_report(
    flat: FlatRun, prepared: Prepared, record: Record, *, profile_dirs: ProfileDirs, run_id: str | None = None
) -> MemoryReport | None:
    """The report of a record; None where it has no phase at all."""
    phases = _phases(record, prepared)
    if not phases:
        return None
    report = report_of(flat, prepared, phases, how="measure", profile_dirs=profile_dirs, run_id=run_id)
    device_used = report.peak.device_used_bytes
    budget = report.budget
    failure = record.out_of_memory
    if budget is not None:
        fits = failure is None and device_used <= budget.bytes
        budget = Budget(
            bytes=budget.bytes,
            verdict=Verdict.FITS if fits else Verdict.DOES_NOT_FIT,
            margin_bytes=budget.bytes - device_used,
        )
    notes = list(record.notes)
    if record.outcome != "done":
        notes.append(f"{record.outcome.replace('_', ' ')} in {record.stopped_in or 'no phase'}: {record.message}")
    return replace(
        report,
        peak=replace(report.peak, low_bytes=device_used, high_bytes=device_used),
        budget=budget,
        assumptions=(*report.assumptions, *notes),
        versions={name: version for name, version in record.versions.items() if version is not None},
        out_of_room=None
        if failure is None
        else OutOfRoom(
            capacity_bytes=record.gpu.torch_total_bytes or record.gpu.total_bytes or 0,
            phase=failure.phase,
            requested_bytes=failure.requested_bytes or 0,
            allocated_bytes=failure.allocated_bytes or 0,
            reserved_bytes=failure.reserved_bytes or 0,
            live_tensors=(),
        ),
    )


def _phases(record: Record, prepared: Prepared) -> tuple[Phase, ...]:
    load = record.phase("load")
    resting_bytes = 0 if load is None else load.end_allocated_bytes or 0
    phases = [_phase(phase, record, prepared, resting_bytes) for phase in record.phases]
    failure = record.out_of_memory
    if failure is not None and failure.allocated_bytes is not None and record.phase(failure.phase) is None:
        unfinished = RecordPhase(
            name=failure.phase,
            allocated_bytes=failure.allocated_bytes,
            reserved_bytes=failure.reserved_bytes,
            device_used_bytes=None,
        )
        phases.append(_phase(unfinished, record, prepared, resting_bytes))
    return tuple(phases)


def _phase(phase: RecordPhase, record: Record, prepared: Prepared, resting_bytes: int) -> Phase:
    allocated_bytes, reserved_bytes = phase.allocated_bytes or 0, phase.reserved_bytes or 0
    resting_bytes = min(resting_bytes, allocated_bytes)
    rest = Component.DEQUANTIZED if phase.name == "load" else Component.ACTIVATIONS
    label = "temporaries of loading" if phase.name == "load" else "all else: not told apart by a measurement"
    engine_bytes = _engine_bytes(phase, record, reserved_bytes)
    entries = [
        _entry(Component.WEIGHTS, "what loading left: weights and adapters", resting_bytes, _TORCH),
        _entry(rest, label, allocated_bytes - resting_bytes, _TORCH),
        _entry(Component.FRAGMENTATION, "segments that no tensor uses", reserved_bytes - allocated_bytes, _TORCH),
        _context(phase, record, prepared, reserved_bytes + engine_bytes),
    ]
    if engine_bytes:
        label = "vLLM: weights, KV cache, graphs; its libraries are in the context's line"
        entries.append(_entry(Component.ROLLOUT_ENGINE, label, engine_bytes, _TORCH))
    return Phase(name=phase.name, entries=tuple(entries))


def _engine_bytes(phase: RecordPhase, record: Record, reserved_bytes: int) -> int:
    """What torch counted of an engine that is awake, as far as the card shows it."""
    engine = record.engine
    if engine is None or not engine.is_awake_in(phase.name):
        return 0
    own_bytes = record.own_device_bytes(phase)
    return (
        engine.reserved_bytes if own_bytes is None else max(min(engine.reserved_bytes, own_bytes - reserved_bytes), 0)
    )


def _context(phase: RecordPhase, record: Record, prepared: Prepared, torch_bytes: int) -> Entry:
    own_bytes = record.own_device_bytes(phase)
    if own_bytes is not None:
        return _entry(Component.CONTEXT, "context and libraries", max(own_bytes - torch_bytes, 0), _NVML)
    gpu = prepared[0].gpu
    return Entry(
        component=Component.CONTEXT,
        label="CUDA context and libraries, not measured here",
        num_bytes=gpu.context_bytes,
        basis=Basis.MODELLED,
        formula=f"{gpu.context_bytes:,} B on {gpu.label}",
        source=gpu.context_source,
    )


def _entry(component: Component, label: str, num_bytes: int, source: str) -> Entry:
    return Entry(
        component=component,
        label=label,
        num_bytes=num_bytes,
        basis=Basis.MEASURED,
        formula=f"{num_bytes:,} B",
        source=source,
    )
