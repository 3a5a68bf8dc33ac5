"""Two reports or records beside each other, and how a user points at one of many."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.errors import UsageError
from vramplan.records.choose import Choice, parse_choice, read_side
from vramplan.records.compare import compare
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordPhase
from vramplan.records.side import TOTALS, Side, SidePhase, parse_side, side_of_record

GB = 10**9


def _record(**change: Any) -> Record:
    values: dict[str, Any] = {
        "run": {"model": "x", "method": "sft", "per_device_batch_size": 4},
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": 2,
        "versions": {"torch": "2.9", "trl": None},
        "gpu": RecordGpu(name="NVIDIA H100", profile="h100-80gb", baseline_used_bytes=GB),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": (
            RecordPhase(name="load", allocated_bytes=5 * GB, reserved_bytes=6 * GB, device_used_bytes=8 * GB),
            RecordPhase(name="train", allocated_bytes=9 * GB, reserved_bytes=10 * GB, device_used_bytes=None),
        ),
        "outcome": "done",
        "when": "2026-11-21T10:00:00Z",
    }
    return Record(**(values | change))


def _report(**change: Any) -> dict[str, Any]:
    phase = {
        "name": "load",
        "allocated_bytes": 5 * GB,
        "reserved_bytes": 6 * GB,
        "device_used_bytes": 7 * GB,
        "components": {"weights": 5 * GB, "logits": 0, "fragmentation": GB, "context": GB},
    }
    return {
        "schema": "vramplan.report/1",
        "how": "estimate",
        "id": None,
        "inputs": {"model": "x", "method": "sft", "per_device_batch_size": 8, "optim": None},
        "gpu": "h100-80gb",
        "versions": {"torch": "2.10", "peft": "0.2"},
        "phases": [phase, phase | {"name": "decode"}],
    } | change


def test_a_record_and_a_report_meet_in_phases_and_totals() -> None:
    a, b = side_of_record(_record(), "r"), parse_side(_report(), "e")
    found = compare(a, b, tolerance_ratio=0.0)
    assert [(phase.name, phase.only_in) for phase in found.phases] == [("load", None), ("train", "a"), ("decode", "b")]
    # What the card held before the run is no part of it.
    assert [(one.a_bytes, one.b_bytes) for one in found.phases[0].totals] == [
        (5 * GB,) * 2,
        (6 * GB,) * 2,
        (7 * GB,) * 2,
    ]
    assert found.phases[0].components is None
    assert found.beyond == ()
    assert [(one.key, one.a, one.b) for one in found.inputs] == [("per_device_batch_size", 4, 8)]
    assert [(one.key, one.a, one.b) for one in found.versions] == [("torch", "2.9", "2.10")]
    assert [(one.a_bytes, one.b_bytes) for one in found.peak] == [(9 * GB, 5 * GB), (10 * GB, 6 * GB), (7 * GB, 7 * GB)]


def test_an_unknown_baseline_is_said() -> None:
    side = side_of_record(_record(gpu=RecordGpu(name="NVIDIA H100")), "r")
    assert side.phases[0].totals["device_used"] == 8 * GB
    assert any("what the card held before is not known" in note for note in side.notes)


def test_components_that_are_0_in_both_are_left_out() -> None:
    other = _report()
    other["phases"] = [other["phases"][0] | {"components": {"weights": 4 * GB, "optimizer": GB}}]
    (load, decode) = compare(parse_side(_report(), "a"), parse_side(other, "b")).phases
    assert load.components is not None
    assert {one.name: one.difference_bytes for one in load.components} == {
        "weights": -GB,
        "fragmentation": -GB,
        "context": -GB,
        "optimizer": GB,
    }
    ratios = {one.name: one.difference_ratio for one in load.components}
    assert (ratios["weights"], ratios["optimizer"]) == (-0.2, None)
    assert decode.only_in == "a"


_SIZES = st.integers(0, 10**12)


@given(_SIZES, _SIZES, st.floats(0, 2))
def test_swapping_the_sides_swaps_the_signs(first: int, second: int, ratio: float) -> None:
    def side(size: int) -> Side:
        phase = SidePhase(name="load", totals=dict.fromkeys(TOTALS, size), components={"weights": size})
        return Side(how="estimate", id=None, where="", gpu=None, inputs={}, versions={}, phases=(phase,))

    forth, back = (
        compare(one, other, tolerance_ratio=ratio)
        for one, other in ((side(first), side(second)), (side(second), side(first)))
    )
    there, here = forth.phases[0].totals[0], back.phases[0].totals[0]
    assert there.difference_bytes is not None
    assert here.difference_bytes == -there.difference_bytes
    assert bool(forth.beyond) == (abs(second - first) > 0 if not first else abs(second - first) / first > ratio)


def test_nothing_in_common_is_not_within_tolerance() -> None:
    nothing = replace(side_of_record(_record(), "a"), phases=())
    found = compare(nothing, parse_side(_report(), "b"), tolerance_ratio=1.0)
    assert found.beyond == ("nothing that both have could be compared",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": None}, "e is a broken report: 'NoneType' object is not iterable"),
        ({"phases": [{"name": "load"}]}, "e is a broken report: it has no allocated_bytes"),
        ({"schema": "vramplan.report/9"}, "e is neither a vramplan report nor a record"),
    ],
)
def test_what_is_no_report_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_side(_report(**change), "e")
    assert caught.value.message == message


def test_a_run_without_an_answer_gives_its_reason() -> None:
    with pytest.raises(UsageError, match="is a run that got no answer: nobody knows x"):
        parse_side({"id": "1", "error": {"message": "nobody knows x"}}, "answers.jsonl, line 2")


def test_an_edited_record_is_refused() -> None:
    with pytest.raises(UsageError, match="changed after it was written"):
        parse_side(_record().to_json() | {"steps": 3}, "r")


def _no_stdin() -> str:
    raise AssertionError("stdin was read")


def _lines(path: Path, *values: object) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def test_one_of_many_is_chosen_by_id_or_line(tmp_path: Path) -> None:
    first, second = _record(), _record(steps=5)
    file = _lines(
        tmp_path / "r.jsonl", _report(id="a"), first.to_json(), second.to_json(), _report(id="a", how="simulate")
    )
    assert read_side(parse_choice(f"{file}:2"), _no_stdin).id == first.id
    assert read_side(parse_choice(f"{file}#{second.id[:7]}"), _no_stdin).id == second.id
    assert read_side(parse_choice(f"{file}#a"), _no_stdin).how == "simulate"  # answered twice: the newest
    with pytest.raises(UsageError) as caught:
        read_side(parse_choice(file), _no_stdin)
    assert caught.value.message == f"{file} holds 4 of them"
    assert f"the ids a, {first.id}, {second.id}" in (caught.value.hint or "")
    for wrong in ("#nope", ":9"):
        with pytest.raises(UsageError):
            read_side(parse_choice(file + wrong), _no_stdin)
    with pytest.raises(UsageError, match="counted from 1"):
        parse_choice(f"{file}:0")


def test_a_path_that_exists_is_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "a#b:3"
    odd.write_text(json.dumps(_report()))
    assert parse_choice(str(odd)) == Choice(file=str(odd))
    assert read_side(parse_choice(str(odd)), _no_stdin).where == str(odd)


def test_stdin_is_read_where_it_is_asked_for() -> None:
    assert read_side(parse_choice("-"), lambda: json.dumps(_report())).where == "stdin"
