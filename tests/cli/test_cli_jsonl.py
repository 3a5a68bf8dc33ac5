"""`--jsonl`: one line in, one line out, whatever a line holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.core.report import Verdict
from vramplan.errors import CannotTellError


@pytest.fixture
def answer(vramplan: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    def call(*lines: str, flags: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
        path = tmp_path / "runs.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        said = vramplan("estimate", "--jsonl", str(path), *flags)
        return said.code, [json.loads(line) for line in said.out.splitlines()]

    return call


def test_answers_keep_order_and_ids(answer: Any, planner: Any) -> None:
    code, found = answer(
        '{"id": "a", "run": {"model": "x"}}', "", '{"id": 7, "run": {"model": "y"}}', '{"run": {"model": "z"}}'
    )
    assert code == 0
    assert [item["id"] for item in found] == ["a", 7, None]
    assert {item["schema"] for item in found} == {"vramplan.report/1"}
    assert [item["models"][0]["id"] for item in found] == ["x", "y", "z"]


def test_measured_rows_can_be_fed_as_they_are(answer: Any, planner: Any) -> None:
    code, found = answer('{"id": "a", "run": {"model": "x"}, "measured": {"bytes": 1}, "source": {}}')
    assert (code, found[0]["id"]) == (0, "a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nope", "line 1 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ('{"id": "a"}', 'line 1 has no object "run"'),
        ('{"id": "a", "run": {"modle": "x"}}', "line 1: 'modle' is not a setting of a run"),
        ('{"id": "a", "run": {"model": "x", "batch_size": "2"}}', "line 1: batch_size must be a whole number"),
        ('{"id": "a", "run": {"model": "x", "beta": NaN}}', "line 1 is not JSON: NaN is not a JSON number"),
        ('{"id": "a", "run": {}}', "no run is described"),
        ('{"id": ["a"], "run": {"model": "x"}}', "line 1: id must be a text or a number"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_bad_line_is_an_error_line_and_the_rest_go_on(answer: Any, planner: Any, line: str, message: str) -> None:
    code, (error, report) = answer(line, '{"id": "b", "run": {"model": "x"}}')
    assert code == 2
    assert set(error) == {"id", "error"}
    assert set(error["error"]) == {"message", "hint", "exit_code"}
    assert error["error"]["message"].startswith(message)
    assert error["error"]["exit_code"] == 2
    assert report["id"] == "b"


def test_what_cannot_be_told_is_4_and_bad_usage_comes_first(answer: Any, planner: Any) -> None:
    planner.error = CannotTellError("unknown model_type 'zzz'", hint="--as llama")
    code, (error,) = answer('{"id": "a", "run": {"model": "x"}}')
    assert code == 4
    assert error == {
        "id": "a",
        "error": {"message": "unknown model_type 'zzz'", "hint": "--as llama", "exit_code": 4},
    }
    assert answer('{"id": "a", "run": {"model": "x"}}', "nope")[0] == 2


def test_a_defect_costs_its_own_line(answer: Any, planner: Any) -> None:
    planner.error = ZeroDivisionError("oh")
    code, (error,) = answer('{"id": "a", "run": {"model": "x"}}')
    assert (code, error["error"]["exit_code"]) == (1, 1)
    assert error["error"]["message"] == "internal error: ZeroDivisionError: oh"


def test_verdicts_do_not_change_the_exit_code(answer: Any, planner: Any) -> None:
    planner.with_verdict(Verdict.DOES_NOT_FIT)
    code, (report,) = answer('{"id": "a", "run": {"model": "x"}}')
    assert (code, report["budget"]["verdict"]) == (0, "does_not_fit")


def test_flags_hold_where_a_line_says_nothing(answer: Any, planner: Any) -> None:
    answer('{"run": {"model": "x"}}', '{"run": {"model": "x", "gpu_mem": 24}}', flags=("--gpu-mem", "85", "--8bit"))
    assert [run.gpu_mem for run in planner.asked] == [85 * 10**9, 24 * 10**9]
    assert [run.quantization for run in planner.asked] == ["int8", "int8"]


def test_bytes_that_are_not_text_cost_one_line(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "run": {"model": "x"}}\n\xff\xfe\n{"id": "b", "run": {"model": "x"}}\n')
    found = [json.loads(line) for line in vramplan("estimate", "--jsonl", str(path)).out.splitlines()]
    assert ["error" in item for item in found] == [False, True, False]


def test_an_empty_file_has_no_answers(answer: Any, planner: Any) -> None:
    assert answer("") == (0, [])
