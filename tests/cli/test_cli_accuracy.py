"""`vramplan accuracy`: the table, the JSON, and exit 3 beyond tolerance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UnknownModelError
from vramplan.records.record import Record, RecordAllocator, RecordGpu, RecordPhase
from vramplan.records.store import append_record

GB = 10**9


def _write(path: Path, *measured: int, kind: str = "allocated") -> str:
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"row {number}",
                    "run": {"model": "x", "method": "sft", "tuning": "lora", "quantization": "nf4"},
                    "measured": {"kind": kind, "bytes": num_bytes},
                    "source": {
                        "what": "a source with a name that is long enough to need two lines on a terminal of 80"
                    },
                }
            )
            + "\n"
            for number, num_bytes in enumerate(measured)
        )
    )
    return str(path)


def test_good_predictions_exit_0(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", 10 * GB, 10 * GB + 1))
    assert said.code == 0
    assert said.out.endswith("Within tolerance.\n")
    assert max(map(len, said.out.splitlines())) <= 80
    assert [run.model for run in planner.asked] == ["x"]  # two rows that one run measured are predicted once


def test_bad_predictions_exit_3_and_say_which(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", 5 * GB, kind="reserved"), "--rows")
    assert said.code == 3
    assert "reserved: median error 100.00% is above 4.00%" in said.out
    assert "+100.00% * row 0" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_device_rows_have_the_context_in_them(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    for kind in ("device_used", "device_used_above_baseline"):
        path = _write(tmp_path / f"{kind}.jsonl", 11 * GB, kind=kind)
        (row,) = json.loads(vramplan("accuracy", path, "--json").out)["rows"]
        assert (row["predicted_bytes"], row["error_ratio"], row["inside"]) == (11 * GB, 0.0, True)


def test_json_keys_are_frozen(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", 10 * GB), "--json")
    found = json.loads(said.out)
    assert set(found) == {"schema", "how", "within_tolerance", "beyond", "kinds", "groups", "rows", "unanswered"}
    assert found["schema"] == "vramplan.accuracy/1"
    assert set(found["groups"][0]) == {
        "source",
        "method",
        "quantization",
        "kind",
        "num_rows",
        "median_abs_error_ratio",
        "p95_abs_error_ratio",
        "worst_under_ratio",
        "worst_over_ratio",
        "inside_ratio",
        "median_half_width_ratio",
    }
    assert (found["groups"][0]["method"], found["groups"][0]["quantization"]) == ("sft lora", "nf4")


def test_a_row_without_an_answer_is_outside_tolerance(
    vramplan: Callable[..., Any], planner: Any, tmp_path: Path
) -> None:
    planner.error = UnknownModelError("nobody knows x")
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", 10 * GB))
    assert said.code == 3
    assert "row 0: nobody knows x" in said.out


def test_tolerances_of_ones_own(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[1] / "truth" / "tolerances.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(shipped.read_text().replace("0.015", "0.5").replace("0.05", "0.5").replace("0.95", "0.0"))
    path = _write(tmp_path / "rows.jsonl", 8 * GB)
    assert vramplan("accuracy", path).code == 3
    assert vramplan("accuracy", path, "--tolerances", str(mine)).code == 0


def test_markdown_is_a_table(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", 10 * GB), "--markdown")
    assert {line.count("|") for line in said.out.splitlines()} == {12}


def _record(*sizes: int, **change: Any) -> Record:
    values: dict[str, Any] = {
        "run": {"model": "x", "method": "sft"},
        "how": "measure",
        "device": "cuda",
        "weights": "random",
        "steps": 2,
        "versions": {"torch": "2.9.0+cu128", "trl": "0.14.0"},
        "gpu": RecordGpu(name="NVIDIA H100 80GB HBM3", profile="h100-80gb", baseline_used_bytes=GB),
        "allocator": RecordAllocator(conf="", backend="native"),
        "phases": (
            RecordPhase(name="load", allocated_bytes=1, reserved_bytes=1, device_used_bytes=2 * GB),
            RecordPhase(
                name="train", allocated_bytes=sizes[0], reserved_bytes=sizes[1], device_used_bytes=sizes[2] + GB
            ),
            RecordPhase(name="evaluate", allocated_bytes=90 * GB, reserved_bytes=None, device_used_bytes=None),
        ),
        "outcome": "done",
        "when": "2026-11-21T10:00:00Z",
    }
    return Record(**(values | change))


def test_records_are_rows(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    folder = tmp_path / "measurements" / "h100"
    for file in ("a.jsonl", "b.jsonl"):  # one record copied to two files is one
        append_record(folder / file, _record(10 * GB, 10 * GB, 11 * GB))
    append_record(folder / "a.jsonl", _record(1, 1, 1, device="cpu"))
    append_record(folder / "a.jsonl", _record(1, 1, 1, outcome="timed_out"))
    for path in (folder, folder / "a.jsonl"):
        planner.asked.clear()
        said = vramplan("accuracy", str(path), "--json")
        rows = json.loads(said.out)["rows"]
        assert [(row["kind"], row["measured_bytes"], row["error_ratio"]) for row in rows] == [
            ("allocated", 10 * GB, 0.0),
            ("reserved", 10 * GB, 0.0),
            ("device_used_above_baseline", 11 * GB, 0.0),
        ]
        assert {row["source"] for row in rows} == {"vramplan measure, NVIDIA H100 80GB HBM3"}
        (asked,) = planner.asked  # on its card, with its versions; trl's trainer did not run
        assert (asked.gpu, asked.stack) == ("h100-80gb", {"torch": "2.9.0+cu128"})
        assert said.code == 0
        assert said.err.count("note: left out: ") == 2


def test_an_allocator_of_its_own_leaves_allocated_alone(
    vramplan: Callable[..., Any], planner: Any, tmp_path: Path
) -> None:
    conf = RecordAllocator(conf="expandable_segments:True", backend="native")
    append_record(tmp_path / "r.jsonl", _record(10 * GB, 10 * GB, 11 * GB, allocator=conf))
    rows = json.loads(vramplan("accuracy", str(tmp_path / "r.jsonl"), "--json").out)["rows"]
    assert [row["kind"] for row in rows] == ["allocated"]


def test_records_of_no_gpu_are_2(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    append_record(tmp_path / "r.jsonl", _record(1, 1, 1, device="cpu"))
    said = vramplan("accuracy", str(tmp_path / "r.jsonl"))
    assert said.code == 2
    assert "has no measured rows" in said.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--how", "guess"), "error: --how must be one of estimate"),
        (("--json", "--markdown"), "error: --json and --markdown cannot go together"),
        (("--tolerances", "/nope"), "error: /nope cannot be read"),
    ],
)
def test_wrong_usage_is_2(
    vramplan: Callable[..., Any], planner: Any, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    said = vramplan("accuracy", _write(tmp_path / "rows.jsonl", GB), *flags)
    assert said.code == 2
    assert said.err.startswith(message)
