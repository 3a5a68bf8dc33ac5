"""A report as JSON: `vramplan.report/1`, the same keys whatever was asked (DESIGN.md, "The command line")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vramplan.core.report import Budget, Component, LiveTensors, MemoryReport, ModelReport, OutOfRoom, Peak, Phase

SCHEMA = "vramplan.report/1"
PRECISIONS = ("bf16", "int8", "nf4")


def report_to_dict(report: MemoryReport) -> dict[str, Any]:
    """The report as plain values; every component is in every phase, most of them 0."""
    return {
        "schema": SCHEMA,
        "how": report.how,
        "id": report.id,
        "inputs": {key: _plain(value) for key, value in report.inputs.items()},
        "gpu": report.gpu,
        "models": [_model(model) for model in report.models],
        "phases": [_phase(phase) for phase in report.phases],
        "peak": peak_to_dict(report.peak),
        "budget": None if report.budget is None else _budget(report.budget, report.peak),
        "assumptions": list(report.assumptions),
        "warnings": [
            {"rule": item.rule, "message": item.message, "hint": item.hint, "source": item.source}
            for item in report.warnings
        ],
        "versions": dict(report.versions),
        "comparisons": [
            {
                "what": item.what,
                "claimed_bytes": item.claimed_bytes,
                "estimated_bytes": item.estimated_bytes,
                "remark": item.remark,
            }
            for item in report.comparisons
        ],
        "live_tensors": None if report.live_tensors is None else [_live(item) for item in report.live_tensors],
        "out_of_room": None if report.out_of_room is None else _out_of_room(report.out_of_room),
    }


def render_json(report: MemoryReport) -> str:
    """The report as indented JSON, one line break at its end."""
    import json

    return json.dumps(report_to_dict(report), indent=2) + "\n"


def peak_to_dict(peak: Peak) -> dict[str, Any]:
    """The highest phase, its totals and the band."""
    return {
        "phase": peak.phase,
        "component": peak.component.value,
        "allocated_bytes": peak.allocated_bytes,
        "reserved_bytes": peak.reserved_bytes,
        "device_used_bytes": peak.device_used_bytes,
        "low_bytes": peak.low_bytes,
        "high_bytes": peak.high_bytes,
    }


def _model(model: ModelReport) -> dict[str, Any]:
    return {
        "role": model.role,
        "id": model.id,
        "parameters": model.parameters,
        "weights_bytes": model.weights_bytes,
        "precision": model.precision,
        "by_precision": {name: model.by_precision[name] for name in PRECISIONS},
    }


def phase_totals(phase: Phase) -> dict[str, Any]:
    """A phase's name and its three totals."""
    return {
        "name": phase.name,
        "allocated_bytes": phase.allocated_bytes,
        "reserved_bytes": phase.reserved_bytes,
        "device_used_bytes": phase.device_used_bytes,
    }


def _phase(phase: Phase) -> dict[str, Any]:
    components = {component.value: phase.component_bytes(component) for component in Component}
    return phase_totals(phase) | {"components": components}


def _budget(budget: Budget, peak: Peak) -> dict[str, Any]:
    return {
        "bytes": budget.bytes,
        "verdict": budget.verdict.value,
        "margin_bytes": budget.margin_bytes,
        "fits_band": peak.high_bytes <= budget.bytes,
    }


def _live(item: LiveTensors) -> dict[str, Any]:
    return {
        "bytes": item.num_bytes,
        "count": item.count,
        "module": item.module,
        "operation": item.operation,
        "source": item.source,
        "shape": list(item.shape),
        "dtype": item.dtype,
    }


def _out_of_room(item: OutOfRoom) -> dict[str, Any]:
    return {
        "capacity_bytes": item.capacity_bytes,
        "phase": item.phase,
        "requested_bytes": item.requested_bytes,
        "allocated_bytes": item.allocated_bytes,
        "reserved_bytes": item.reserved_bytes,
        "live_tensors": [_live(one) for one in item.live_tensors],
    }


def _plain(value: object) -> object:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
