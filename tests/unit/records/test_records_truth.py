"""Measured rows: read strictly, each fault named by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.records.truth import MeasuredKind, parse_truth, read_truth

ROW: dict[str, Any] = {
    "id": "a",
    "run": {"model": "x"},
    "measured": {"kind": "allocated", "bytes": 10},
    "source": {"what": "someone", "where": "a page"},
}


def test_a_row_is_typed() -> None:
    (row,) = parse_truth([json.dumps(ROW), "", "  "], "f")
    assert (row.id, row.kind, row.measured_bytes) == ("a", MeasuredKind.ALLOCATED, 10)
    assert (row.source, row.where, row.run) == ("someone", "a page", {"model": "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, "f, line 1: id must be a text, not 1"),
        ({"run": None}, "f, line 1: run must be an object, not None"),
        ({"measured": {"kind": "peak", "bytes": 1}}, "f, line 1: measured.kind must be one of allocated, reserved"),
        ({"measured": {"kind": "allocated", "bytes": 1.5}}, "f, line 1: bytes must be a whole number, not 1.5"),
        ({"measured": {"kind": "allocated", "bytes": 0}}, "f, line 1: measured.bytes must be a whole number of at"),
        ({"measured": {"kind": "allocated", "bytes": True}}, "f, line 1: measured.bytes must be a whole number of at"),
        ({"source": {}}, "f, line 1: what must be a text, not None"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(parse_truth([json.dumps(ROW | change)], "f"))
    assert caught.value.message.startswith(message)


def test_ids_are_unique() -> None:
    with pytest.raises(UsageError, match="f, line 3: the id 'a' was there before"):
        list(parse_truth([json.dumps(ROW), "", json.dumps(ROW)], "f"))


@pytest.mark.parametrize("line", ["nope", "[]", "1"])
def test_a_line_is_an_object(line: str) -> None:
    with pytest.raises(UsageError, match="f, line 1: not"):
        list(parse_truth([line], "f"))


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(UsageError, match="cannot be read"):
        read_truth(path)
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no rows"):
        read_truth(path)


def test_the_published_rows_are_read(shared: Path) -> None:
    rows = read_truth(shared / "truth" / "runs.jsonl")
    assert {row.kind for row in rows} == set(MeasuredKind)
    assert all(row.measured_bytes > 10**8 for row in rows)
