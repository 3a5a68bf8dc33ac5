"""`--jsonl`: one line in, one line out, whatever a line holds."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vramplan.cli.jsonl import NUM_LINES_ALONE
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


def test_an_answer_leaves_no_cycles() -> None:
    """Workers run without the collector: what only it could free would stay until the last line."""
    from vramplan.catalog.dirs import profile_dirs
    from vramplan.cli.jsonl import answer_line
    from vramplan.runfiles.flat import FlatRun

    dirs = profile_dirs()
    model = {"model": "Qwen/Qwen2.5-0.5B-Instruct"}
    lines = [
        json.dumps({"id": "good", "run": {**model, "method": "grpo", "tuning": "lora", "context": 512}}),
        json.dumps({"id": "full", "run": {**model, "method": "sft", "tuning": "full", "max_seq_length": 512}}),
        json.dumps({"id": "bad", "run": {**model, "method": "knitting"}}),
        json.dumps({"id": "unknown", "run": {"model": "no/such-model"}}),
        "not JSON",
    ]
    answers = [answer_line(line, 1, FlatRun(), dirs) for line in lines]  # and what is loaded once is loaded
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            assert [answer_line(line, 1, FlatRun(), dirs) for line in lines] == answers
        assert gc.collect() < len(lines) * 10  # not an object each, let alone a cycle
    finally:
        gc.enable()


def _run(number: int) -> str:
    run = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "score", "context": 256 + number}
    return json.dumps({"id": number, "run": run}) + "\n"


def test_a_slow_writer_gets_each_answer_before_it_writes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vramplan", "estimate", "--jsonl", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in range(NUM_LINES_ALONE + 12):  # past those that are answered without workers
            program.stdin.write(_run(number))
            program.stdin.flush()
            assert json.loads(program.stdout.readline())["id"] == number
        program.stdin.close()
        assert program.stdout.read() == ""
        assert program.wait() == 0


def test_many_lines_keep_their_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vramplan", "estimate", "--jsonl", "-"]
    text = "".join(_run(number) if number % 7 else "not JSON\n" for number in range(1, 150))
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=tmp_path)
    answers = [json.loads(line) for line in said.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [number if number % 7 else None for number in range(1, 150)]
    assert said.returncode == 2


def test_an_error_of_the_source_comes_after_the_answers_that_were_there() -> None:
    from vramplan.catalog.dirs import profile_dirs
    from vramplan.cli import jsonl
    from vramplan.runfiles.flat import FlatRun

    def source() -> Iterator[str]:
        yield from (_run(number) for number in range(NUM_LINES_ALONE + 30))
        raise OSError("the disk is gone")

    answers: list[Any] = []
    found = jsonl._answers(source(), FlatRun(), profile_dirs(), simulated=False)
    with pytest.raises(OSError, match="the disk is gone"):
        answers.extend(json.loads(text)["id"] for text, _ in found)
    assert answers == list(range(NUM_LINES_ALONE + 30))
