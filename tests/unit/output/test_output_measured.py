"""What was measured, in the width of the terminal: matrices and single runs."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.output.measured_text import render_matrix, render_measured
from vramplan.records.record import (
    PredictedPhase,
    Prediction,
    Record,
    RecordAllocator,
    RecordGpu,
    RecordOutOfMemory,
    RecordPhase,
)

RUN = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "quantization": "nf4",
    "double_quant": True,
    "method": "sft",
    "tuning": "lora",
    "per_device_batch_size": 16,
    "max_seq_length": 4096,
    "gradient_checkpointing": True,
}


def _prediction(scale: float) -> Prediction:
    phases = tuple(
        PredictedPhase(
            name=name,
            allocated_bytes=int(70e9 * scale),
            reserved_bytes=int(75e9 * scale),
            device_used_bytes=int(76e9 * scale),
        )
        for name in ("load", "teacher_score")
    )
    return Prediction(phases=phases, low_bytes=1, high_bytes=2)


def _record(**changes: Any) -> Record:
    phases = tuple(
        RecordPhase(name=name, allocated_bytes=70 * 10**9, reserved_bytes=75 * 10**9, device_used_bytes=76 * 10**9)
        for name in ("load", "teacher_score")
    )
    values: dict[str, Any] = {
        "run": RUN,
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": 2,
        "versions": {},
        "gpu": RecordGpu(name="NVIDIA H100 80GB HBM3", baseline_used_bytes=0),
        "allocator": RecordAllocator(conf="garbage_collection_threshold:0.8", backend="native"),
        "phases": phases,
        "outcome": "done",
        "estimate": _prediction(1.0123),
        "simulate": _prediction(0.5),
        "when": "2026-11-21T23:42:39Z",
    }
    return Record(**values | changes)


OUT = _record(
    outcome="out_of_memory",
    out_of_memory=RecordOutOfMemory(phase="train", requested_bytes=7, allocated_bytes=1, reserved_bytes=2),
)


@pytest.mark.parametrize("units", ["GB", "GiB", "bytes"])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_matrix_obeys_the_width(units: str, width: int) -> None:
    text = render_matrix([_record(), OUT, _record(run={"model": "m/" + "x" * 300})], units=units, width=width)
    assert max(map(len, text.splitlines())) <= width


def test_one_line_a_run_where_they_fit_else_one_a_quantity() -> None:
    wide = render_matrix([_record(), OUT], units="GB", width=200).splitlines()
    assert len(wide) == 2 + 2
    assert wide[2].split()[-9:] == ["70.00", "+1.2%", "-50.0%", "75.00", "+1.2%", "-50.0%", "76.00", "+1.2%", "-50.0%"]
    narrow = render_matrix([_record(), OUT], units="GB", width=80).splitlines()
    assert [line.split() for line in narrow if line.startswith("  ") and line[2] != " "][-3:] == [
        ["allocated", "70.00", "+1.2%", "-50.0%"],
        ["reserved", "75.00", "+1.2%", "-50.0%"],
        ["device", "76.00", "+1.2%", "-50.0%"],
    ]
    assert sum("allocated" in line for line in narrow) == 1  # the run that ran out has no peaks to show
    assert "out of memory" in " ".join(narrow)


@pytest.mark.parametrize("units", ["GB", "GiB", "bytes"])
def test_a_run_obeys_the_width(units: str) -> None:
    text = render_measured(_record(), None, units=units, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "teacher_score" in text
    assert "+1.2%" in text
