"""JSON: the contract's keys, and numbers that add up."""

from __future__ import annotations

import json
from dataclasses import replace

from vramplan.core.report import ALLOCATED, Component, MemoryReport
from vramplan.output.json_report import render_json, report_to_dict


def _keys(value: object) -> object:
    """The shape of a JSON value: keys of objects, and the shape of a list's first item."""
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in value.items() if key not in ("inputs", "versions")}
    return [_keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


FROZEN = {
    "schema": None,
    "how": None,
    "id": None,
    "gpu": None,
    "models": [
        {
            "role": None,
            "id": None,
            "parameters": None,
            "weights_bytes": None,
            "precision": None,
            "by_precision": {"bf16": None, "int8": None, "nf4": None},
        }
    ],
    "phases": [
        {
            "name": None,
            "allocated_bytes": None,
            "reserved_bytes": None,
            "device_used_bytes": None,
            "components": {component.value: None for component in Component},
        }
    ],
    "peak": dict.fromkeys(
        (
            "phase",
            "component",
            "allocated_bytes",
            "reserved_bytes",
            "device_used_bytes",
            "low_bytes",
            "high_bytes",
        )
    ),
    "budget": dict.fromkeys(("bytes", "verdict", "margin_bytes", "fits_band")),
    "assumptions": None,
    "warnings": [dict.fromkeys(("rule", "message", "hint", "source"))],
    "comparisons": [dict.fromkeys(("what", "claimed_bytes", "estimated_bytes", "remark"))],
    "live_tensors": None,  # of a simulation: see tests/cli/test_cli_simulate.py
    "out_of_room": None,
}


def test_keys_are_frozen(report: MemoryReport) -> None:
    # Scripts depend on them: keys may be added here, never renamed or dropped.
    found = report_to_dict(report)
    assert _keys(found) == FROZEN
    assert set(found) == {*FROZEN, "inputs", "versions"}
    assert found["schema"] == "vramplan.report/1"


def test_keys_do_not_depend_on_the_input(report: MemoryReport, unbudgeted: MemoryReport) -> None:
    assert list(report_to_dict(report)) == list(report_to_dict(unbudgeted))
    assert report_to_dict(unbudgeted)["budget"] is None
    assert report_to_dict(replace(report, warnings=()))["warnings"] == []


def test_components_add_up_to_the_totals(report: MemoryReport) -> None:
    for phase in report_to_dict(report)["phases"]:
        parts = phase["components"]
        allocated = sum(parts[component.value] for component in ALLOCATED)
        assert phase["allocated_bytes"] == allocated
        assert phase["reserved_bytes"] == allocated + parts["fragmentation"]
        assert phase["device_used_bytes"] == sum(parts.values())


def test_the_text_is_the_dict(report: MemoryReport) -> None:
    text = render_json(report)
    assert json.loads(text) == report_to_dict(report)
    assert text.endswith("}\n")
    assert json.loads(text)["inputs"]["offload"] == ["reference"]
