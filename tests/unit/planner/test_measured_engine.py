"""An engine in the measured process: whose bytes are whose, in records and reports."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.catalog.dirs import profile_dirs
from vramplan.core.report import Component
from vramplan.errors import UsageError
from vramplan.planner.answer import prepare
from vramplan.planner.measured_engine import engine_note, engine_of, without_engine
from vramplan.planner.measured_report import measured_report
from vramplan.program.supervise import Finished
from vramplan.records.record import Record, RecordAllocator, RecordEngine, RecordGpu, RecordPhase
from vramplan.records.record_json import parse_record
from vramplan.runfiles.flat import FlatRun

FLAT = FlatRun(model="Qwen/Qwen2.5-0.5B", method="grpo", rollout="vllm-colocate", vllm_sleep=True, gpu="l4")
ENGINE = RecordEngine(name="vllm", version="0.31.0", sleeps=True, allocated_bytes=600, reserved_bytes=700)


def _phase(name: str, allocated: int, reserved: int) -> dict[str, Any]:
    counts = {"allocated_bytes": allocated, "reserved_bytes": reserved}
    ends = {f"end_{key}": value for key, value in counts.items()}
    return {"event": "phase", "phase": name, **counts, **ends}


def _finished(*events: dict[str, Any]) -> Finished:
    return Finished(events=events, exit_code=0, timed_out=False, interrupted=False, complaint="")


def test_only_what_came_after_its_start_is_less() -> None:
    started = {"event": "engine", "allocated_bytes": 600, "reserved_bytes": 700}
    end = {"event": "end", "outcome": "out_of_memory", "allocated_bytes": 900, "reserved_bytes": 1200}
    emptied = {"event": "emptied", "allocated_bytes": 650, "reserved_bytes": 720}
    before, after = _phase("load", 250, 300), _phase("load.engine", 850, 1000)
    found = without_engine(_finished(before, started, after, emptied, end))
    assert found.events[0] == before
    assert found.events[1] == started
    assert found.events[2] == {**after, **_phase("load.engine", 250, 300)}
    # Segments that it gave back since: never less than the tensors in them.
    assert (found.events[3]["allocated_bytes"], found.events[3]["reserved_bytes"]) == (50, 50)
    assert (found.events[4]["allocated_bytes"], found.events[4]["reserved_bytes"]) == (300, 500)
    plain = _finished(before, end)
    assert without_engine(plain) == plain


def test_an_engine_is_recorded_where_it_was_started() -> None:
    run = prepare(FLAT, profile_dirs())[0].run
    started = {"event": "engine", "allocated_bytes": 600, "reserved_bytes": 700}
    assert engine_of(_finished(started), run, {"vllm": "0.31.0"}) == ENGINE
    assert engine_of(_finished(), run, {"vllm": "0.31.0"}) is None
    assert "while it sleeps" in engine_note(ENGINE)


def _record(**changes: Any) -> Record:
    names = ("load", "rollout", "train")
    values: dict[str, Any] = {
        "run": FLAT.to_dict(),
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": 2,
        "versions": {"torch": "2.13.0"},
        "gpu": RecordGpu(name="NVIDIA L4", baseline_used_bytes=50),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": tuple(
            RecordPhase(name=name, allocated_bytes=100, reserved_bytes=200, device_used_bytes=used)
            for name, used in zip(names, (1050, 1150, 450), strict=True)
        ),
        "outcome": "done",
        "engine": ENGINE,
        "when": "2026-11-21T23:42:39Z",
    }
    return Record(**values | changes)


def test_a_report_has_the_engine_where_it_is_awake_and_the_cards_own_totals() -> None:
    report = measured_report(FLAT, prepare(FLAT, profile_dirs()), _record(), profile_dirs=profile_dirs())
    assert report is not None
    assert [phase.component_bytes(Component.ROLLOUT_ENGINE) for phase in report.phases] == [700, 700, 0]
    assert [phase.component_bytes(Component.CONTEXT) for phase in report.phases] == [100, 200, 200]
    assert [phase.device_used_bytes for phase in report.phases] == [1000, 1100, 400]
    assert {phase.allocated_bytes for phase in report.phases} == {100}
    assert {phase.reserved_bytes for phase in report.phases} == {200}


def test_records_without_an_engine_are_sealed_as_they_were() -> None:
    without, with_one = _record(engine=None), _record()
    assert "engine" not in without.to_json()
    assert parse_record(without.to_json(), "here") == without
    assert parse_record(with_one.to_json(), "here") == with_one
    assert without.id != with_one.id
    changed = with_one.to_json()
    changed["engine"]["allocated_bytes"] += 1
    with pytest.raises(UsageError, match="changed after it was written"):
        parse_record(changed, "here")
