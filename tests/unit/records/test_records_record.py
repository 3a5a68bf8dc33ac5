"""A record survives the disk as it is, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.records.record import (
    PredictedPhase,
    Prediction,
    Record,
    RecordAllocator,
    RecordGpu,
    RecordMoment,
    RecordOutOfMemory,
    RecordPhase,
    content_hash,
)
from vramplan.records.record_json import parse_record
from vramplan.records.store import append_record, folder_name, read_records

BASE = Record(
    run={"model": "Qwen/Qwen2.5-0.5B", "lora_target_modules": ["q_proj"], "beta": 0.04, "offload": []},
    how="measure",
    device="cuda",
    weights="random",
    steps=2,
    versions={"torch": "2.13.0", "vllm": None},
    gpu=RecordGpu(name="NVIDIA H100 80GB HBM3", baseline_used_bytes=100, total_bytes=85_520_809_984),
    allocator=RecordAllocator(conf="", backend="native"),
    phases=(
        RecordPhase(name="load", allocated_bytes=10, reserved_bytes=20, device_used_bytes=600, seconds=0.25),
        RecordPhase(name="train", allocated_bytes=30, reserved_bytes=None, device_used_bytes=None),
    ),
    after_empty_cache=RecordMoment(allocated_bytes=1, reserved_bytes=2, device_used_bytes=None),
    outcome="done",
    estimate=Prediction(
        phases=(PredictedPhase(name="load", allocated_bytes=9, reserved_bytes=21, device_used_bytes=500),),
        low_bytes=400,
        high_bytes=600,
    ),
    notes=("größer",),
    when="2026-11-21T23:42:39Z",
)
OUT = replace(
    BASE,
    outcome="out_of_memory",
    stopped_in="train",
    out_of_memory=RecordOutOfMemory(phase="train", requested_bytes=5, allocated_bytes=6, reserved_bytes=7),
)


def _edited(change: Callable[[dict[str, Any]], object], *, sealed: bool) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(BASE.to_json()))
    change(value)
    if sealed:
        value["hash"] = content_hash({key: item for key, item in value.items() if key != "hash"})
    return value


@pytest.mark.parametrize("record", [BASE, OUT, replace(BASE, phases=(), estimate=None, after_empty_cache=None)])
def test_what_is_written_is_read(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    append_record(path, record)
    append_record(path, OUT)
    assert read_records(path) == (record, OUT)
    assert read_records(tmp_path) == (record, OUT)
    single = tmp_path / "one" / "record.json"
    single.parent.mkdir()
    single.write_text(json.dumps(record.to_json(), indent=1), encoding="utf-8")
    assert read_records(single) == (record,)


@given(seconds=st.floats(min_value=0, allow_nan=False, allow_infinity=False), size=st.integers(0, 1 << 60))
def test_any_number_keeps_its_hash_through_json(seconds: float, size: int) -> None:
    phase = RecordPhase(name="x", allocated_bytes=size, reserved_bytes=None, device_used_bytes=size, seconds=seconds)
    record = replace(BASE, phases=(phase,))
    assert parse_record(json.loads(json.dumps(record.to_json())), "here") == record


def test_an_edited_record_is_refused_with_one_sentence() -> None:
    value = _edited(lambda one: one["phases"][0].update(allocated_bytes=11), sealed=False)
    with pytest.raises(UsageError, match="here: the record was changed after it was written") as caught:
        parse_record(value, "here")
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda one: one.update(colour=1), "'colour' is not a key"),
        (lambda one: one.pop("gpu"), "gpu is missing"),
        (lambda one: one["gpu"].update(total_bytes="1"), "total_bytes must be a whole number"),
        (lambda one: one["gpu"].update(total_bytes=-1), "total_bytes cannot be -1"),
        (lambda one: one["gpu"].update(total_bytes=True), "total_bytes must be a whole number"),
        (lambda one: one.update(phases={}), "phases must be a list"),
        (lambda one: one["phases"].append(one["phases"][0]), "twice"),
        (lambda one: one.update(outcome="fine"), "outcome must be one of"),
        (lambda one: one.update(outcome="out_of_memory"), "comes with that outcome"),
        (lambda one: one.update(when="yesterday"), "when must be a time"),
        (lambda one: one.update(schema="vramplan.record/9"), "vramplan.record/1"),
        (lambda one: one.update(versions=[]), "versions must be an object"),
    ],
)
def test_a_sealed_value_that_is_no_record_is_refused(change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_record(_edited(change, sealed=True), "here")


def test_a_line_that_a_killed_writer_left_is_no_record_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    append_record(path, BASE)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + whole[: len(whole) // 2], encoding="utf-8")
    assert read_records(path) == (BASE,)
    append_record(path, OUT)
    assert read_records(path) == (BASE, OUT)


def test_a_broken_line_in_the_middle_is_said(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text("{\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_records(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")


def test_the_key_is_of_what_was_asked_for_alone() -> None:
    assert OUT.run_key == BASE.run_key == replace(BASE, when="2027-01-01T00:00:00Z", versions={}).run_key
    changes: list[dict[str, Any]] = [
        {"run": {"model": "x"}},
        {"weights": "checkpoint"},
        {"steps": 3},
        {"device": "cpu"},
    ]
    changes.append({"allocator": replace(BASE.allocator, conf="expandable_segments:True")})
    changes.append({"allocator": replace(BASE.allocator, cublas_workspace_config=":4096:2:16:8")})
    changes.append({"allocator": replace(BASE.allocator, cublas_workspace_config=":16:8")})
    assert len({BASE.run_key, *(replace(BASE, **change).run_key for change in changes)}) == len(changes) + 1
    assert OUT.id != BASE.id
    assert BASE.hash.startswith(BASE.id)


def test_the_runs_own_share_of_the_card_leaves_out_the_baseline() -> None:
    assert BASE.own_device_bytes(BASE.phases[0]) == 500
    assert BASE.own_device_bytes(BASE.phases[1]) is None
    assert BASE.phase("load") is BASE.phases[0]
    assert BASE.phase("decode") is None


def test_a_cards_folder_has_a_plain_name() -> None:
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert folder_name("///") == "unknown"
