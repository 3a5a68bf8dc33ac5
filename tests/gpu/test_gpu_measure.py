"""On a real card: counters, the phases of a run, an out-of-memory, and how near the predictions come.

Skips, with what is missing, where nothing can be measured. Weights are random: nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vramplan.allocator.snapshot_reader import read_snapshot
from vramplan.catalog.dirs import profile_dirs
from vramplan.errors import NoHardwareError, UsageError
from vramplan.planner.bench import Bench, open_bench
from vramplan.planner.measure_plan import Manner, plan_run
from vramplan.planner.measured import Measured, measure_run
from vramplan.runfiles.flat import FlatRun

MODEL = "Qwen/Qwen2.5-0.5B"


@pytest.fixture(scope="session")
def bench() -> Bench:
    try:
        found = open_bench(0, profile_dirs())
    except (NoHardwareError, UsageError) as error:
        pytest.skip(error.message)
    if found.device != "cuda":
        pytest.skip(f"the device is {found.device}")
    return found


def _measured(bench: Bench, manner: Manner, **settings: Any) -> Measured:
    planned = plan_run(FlatRun(model=MODEL, **settings), manner, bench, profile_dirs())
    return measure_run(planned, manner, bench, profile_dirs=profile_dirs())


def test_a_lora_step_is_what_the_simulation_says(bench: Bench) -> None:
    measured = _measured(
        bench, Manner(weights="random"), method="sft", tuning="lora", max_seq_length=512, per_device_batch_size=2
    )
    record = measured.record
    assert record.outcome == "done", record.message
    assert [phase.name for phase in record.phases] == ["load", "train", "optimizer"]
    assert record.simulate is not None, record.notes
    for phase, simulated in zip(record.phases, record.simulate.phases, strict=True):
        assert simulated.allocated_bytes == pytest.approx(phase.allocated_bytes, rel=0.03), phase.name
    assert record.gpu.torch_total_bytes is not None
    assert record.gpu.compute_capability is not None
    assert record.allocator.backend == "native"


def test_the_card_shows_more_than_the_allocator_holds(bench: Bench) -> None:
    if bench.sight is None:
        pytest.skip(str(bench.note))
    record = _measured(bench, Manner(weights="random", simulates=False), method="score", max_seq_length=256).record
    assert record.outcome == "done", record.message
    assert record.gpu.context_bytes is not None
    assert record.gpu.context_bytes > 50_000_000
    for phase in record.phases:
        own_bytes = record.own_device_bytes(phase)
        assert own_bytes is not None
        assert phase.reserved_bytes is not None
        assert own_bytes >= phase.reserved_bytes
    assert record.after_empty_cache is not None
    assert record.phases[-1].end_reserved_bytes is not None
    assert (record.after_empty_cache.reserved_bytes or 0) <= record.phases[-1].end_reserved_bytes


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_random_weights_take_what_a_checkpoint_takes(bench: Bench, quantization: str) -> None:
    if quantization != "none" and bench.bitsandbytes is not None:
        pytest.skip(f"bitsandbytes {bench.bitsandbytes}")
    left = []
    for weights in ("random", "random-checkpoint"):
        manner = Manner(weights=weights, simulates=False)
        record = _measured(bench, manner, method="score", max_seq_length=16, quantization=quantization).record
        assert record.outcome == "done", record.message
        left.append(record.phases[0].end_allocated_bytes)
    assert left[0] == pytest.approx(left[1], rel=0.001)


def test_an_out_of_memory_says_what_was_asked_for_and_held(bench: Bench, tmp_path: Path) -> None:
    manner = Manner(weights="random", simulates=False, snapshots=tmp_path)
    record = _measured(bench, manner, method="score", max_seq_length=16_384, per_device_batch_size=64).record
    failure = record.out_of_memory
    assert failure is not None, record.message
    assert failure.phase == "score"
    assert failure.requested_bytes is not None
    assert failure.reserved_bytes is not None
    total_bytes = record.gpu.torch_total_bytes
    assert total_bytes is not None
    assert failure.reserved_bytes + failure.requested_bytes > total_bytes * 0.9
    assert [phase.name for phase in record.phases] == ["load"]
    snapshot = read_snapshot(tmp_path / str(failure.snapshot))
    assert sum(segment.size_bytes for segment in snapshot.segments) == failure.reserved_bytes


def test_expandable_segments_waste_less(bench: Bench) -> None:
    settings: dict[str, Any] = {"method": "sft", "tuning": "lora", "max_seq_length": 700, "per_device_batch_size": 3}
    reserved = []
    for conf in ("", "expandable_segments:True"):
        record = _measured(bench, Manner(weights="random", simulates=False, conf=conf), **settings).record
        assert record.outcome == "done", record.message
        assert record.allocator.conf == conf
        reserved.append(max(phase.reserved_bytes or 0 for phase in record.phases))
    assert reserved[1] <= reserved[0] * 1.02
