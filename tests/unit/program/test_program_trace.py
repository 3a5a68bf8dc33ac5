from __future__ import annotations

import pytest

from vramplan.program.trace import FakeTrace, Label, rounded


def test_requests_are_rounded_up_to_512_bytes() -> None:
    assert [rounded(size) for size in (1, 512, 513)] == [512, 512, 1024]


def test_a_phase_peak_counts_what_was_alive_before_it() -> None:
    trace = FakeTrace(events=[1024, 512, -2, 2048, -1, -3], marks=[("load", 0), ("forward", 2), ("forward.2", 5)])
    assert trace.peaks() == [("load", 1536), ("forward", 3072), ("forward.2", 2048)]
    assert trace.peak_allocated_bytes() == 3072
    assert trace.peak_allocated_bytes("load") == 1536
    assert trace.peak_allocated_bytes("forward") == 3072  # with its repetition
    assert trace.peak_allocated_bytes("forward.2") == 2048


def test_an_unknown_phase_is_an_error() -> None:
    with pytest.raises(KeyError):
        FakeTrace(events=[1], marks=[("load", 0)]).peak_allocated_bytes("train")


def test_live_tensors_are_grouped_by_origin_and_size() -> None:
    label = Label(operation="mm", module="layer", source="", shape=(1,), dtype="float32")
    other = Label(operation="add", module="layer", source="", shape=(1,), dtype="float32")
    trace = FakeTrace(events=[600, 600, 512, -2, 600], marks=[("forward", 0)], labels=[label, label, other, label])
    index = trace.peak_index("forward")
    assert [(live.label.operation, live.count, live.total_bytes) for live in trace.live_at(index)] == [
        ("mm", 2, 2048),
        ("add", 1, 512),
    ]
