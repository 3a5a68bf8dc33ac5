"""`vramplan estimate`: profiles, formats, streams and exit codes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.core.report import Verdict
from vramplan.errors import CannotTellError, NoHardwareError, UnsupportedArchitectureError, UsageError

PROFILE = """\
description = "mine"
source = "me"
notes = ["mind the gap"]
teacher = "t"
teacher_quantization = "int8"
context = 512
"""


def test_a_budget_alone_runs_the_shipped_profile(vramplan: Callable[..., Any], planner: Any) -> None:
    said = vramplan("estimate", "--gpu-mem", "85")
    assert said.code == 0
    (asked,) = planner.asked
    assert asked.run == "rlt-85gb-conservative"
    assert (asked.method, asked.gpu_mem, asked.batch_size, asked.context) == ("rlt", 85 * 10**9, 64, 6144)
    assert asked.teacher == "Qwen/Qwen2.5-7B-Instruct"
    assert said.out.startswith("rlt-85gb-conservative: ")


def test_flags_go_over_the_profile(vramplan: Callable[..., Any], planner: Any, profiles: Path) -> None:
    (profiles / "runs" / "mine.toml").write_text(PROFILE)
    said = vramplan("estimate", "--run", "mine", "--4bit", "--max-prompt-length", "64")
    assert planner.asked[0].to_dict() == {
        "run": "mine",
        "teacher": "t",
        "quantization": "nf4",
        "context": 512,
        "max_prompt_length": 64,
    }
    assert "mine with another quantization, max_prompt_length\n" in said.out
    assert "- mind the gap\n" in said.out


def test_a_run_file_is_read_by_its_path(vramplan: Callable[..., Any], planner: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(PROFILE)
    assert vramplan("estimate", "--run", str(path)).code == 0
    path.write_text(PROFILE + "modle = 1\n")
    said = vramplan("estimate", "--run", str(path))
    assert said.code == 2
    assert said.err == f"error: {path}: 'modle' is not a setting of a run\nhint: the nearest is model\n"


def test_a_profile_that_hides_a_shipped_one_is_named(
    vramplan: Callable[..., Any], planner: Any, profiles: Path
) -> None:
    (profiles / "runs" / "rlt-85gb-conservative.toml").write_text(PROFILE)
    said = vramplan("estimate", "--gpu-mem", "85")
    assert said.err.startswith("note: ")
    assert str(profiles) in said.err


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.FITS, 0), (Verdict.UNCERTAIN, 0), (Verdict.DOES_NOT_FIT, 3)])
@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",), ("--markdown",)])
def test_the_verdict_is_the_exit_code(
    vramplan: Callable[..., Any], planner: Any, verdict: Verdict, code: int, form: tuple[str, ...]
) -> None:
    planner.with_verdict(verdict)
    said = vramplan("estimate", "x", *form)
    assert said.code == code
    assert ("warning: Uncertain" in said.err) == (verdict is Verdict.UNCERTAIN)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no", hint="so"), 2),
        (CannotTellError("no", hint="so"), 4),
        (UnsupportedArchitectureError("no", hint="so"), 4),
        (NoHardwareError("no", hint="so"), 5),
    ],
)
def test_errors_are_sentences_with_their_codes(
    vramplan: Callable[..., Any], planner: Any, error: Exception, code: int
) -> None:
    planner.error = error
    said = vramplan("estimate", "x", "--json")
    assert (said.code, said.out, said.err) == (code, "", "error: no\nhint: so\n")


def test_a_defect_is_a_sentence_unless_debug_is_asked_for(vramplan: Callable[..., Any], planner: Any) -> None:
    planner.error = ZeroDivisionError("oh")
    said = vramplan("estimate", "x")
    assert said.code == 1
    assert said.err.startswith("error: internal error: ZeroDivisionError: oh\nhint: ")
    with pytest.raises(ZeroDivisionError):
        vramplan("estimate", "x", "--debug")


def test_ctrl_c_is_130(vramplan: Callable[..., Any], planner: Any) -> None:
    planner.error = KeyboardInterrupt()  # type: ignore[assignment]
    assert vramplan("estimate", "x").code == 130


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("estimate", "error: no run is described"),
        ("estimate --method sft --gpu-mem 24", "error: method sft needs a model"),
        ("estimate x --json --csv", "error: --json and --csv cannot go together"),
        ("estimate x --csv --markdown", "error: --csv and --markdown cannot go together"),
        ("estimate x --json --explain", "error: --explain and --json cannot go together"),
        ("estimate x --units GBit", "error: --units must be one of GB, GiB, bytes, not 'GBit'"),
        ("estimate x --8bit --4bit", "error: --8bit and --4bit ask for different things (int8 and nf4)"),
        ("estimate x --8bit=maybe", "error: option '--8bit' does not take a value"),
        ("estimate x --nope", "error: no such option: --nope"),
        ("estimate x y", "error: got unexpected extra argument(s) (y)"),
        ("estimate x --batch-size", "error: option '--batch-size' requires an argument"),
        ("estimate x --batch-size 1.5", "error: --batch-size must be a whole number of at least 1, not '1.5'"),
        ("estimate x --gpu-mem much", "error: --gpu-mem must be a size like"),
        ("estimate x --run nope", "error: there is no runs profile called 'nope'"),
        ("estimate x --profile-dir /nope", "error: the profile folder /nope is not there"),
        ("estimate --jsonl /nope", "error: /nope cannot be read"),
        ("estimate --jsonl /nope --csv", "error: --jsonl answers in JSON lines only"),
        ("estimat x", "error: there is no command 'estimat'"),
        ("accuracy", "error: RUNS.jsonl is missing"),
        ("--nope", "error: no such option: --nope"),
    ],
)
def test_wrong_usage_is_2_and_one_sentence(argv: str, message: str, vramplan: Callable[..., Any], planner: Any) -> None:
    said = vramplan(*argv.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(message)
    assert len(said.err.splitlines()) <= 2
    assert planner.asked == []


def test_version(vramplan: Callable[..., Any]) -> None:
    from vramplan import __version__

    said = vramplan("--version")
    assert (said.code, said.out) == (0, f"vramplan {__version__}\n")


def test_formats_hold_the_same_numbers(vramplan: Callable[..., Any], planner: Any) -> None:
    report = json.loads(vramplan("estimate", "x", "--json").out)
    assert report["schema"] == "vramplan.report/1"
    rows = list(csv.DictReader(io.StringIO(vramplan("estimate", "x", "--csv").out)))
    assert {row["component"]: int(row["component_bytes"]) for row in rows} == report["phases"][0]["components"]
    assert "| prefill" in vramplan("estimate", "x", "--markdown").out.replace("**", "")
    assert "10.24" in vramplan("estimate", "x", "--units", "gib").out


def test_explanations_follow_the_tables(vramplan: Callable[..., Any], planner: Any) -> None:
    said = vramplan("estimate", "x", "--explain")
    assert said.out.index("Models, in GB") < said.out.index("How each number comes about (GB)")
    assert "= 1 × 10\n" in said.out


def test_warnings_go_to_stderr_and_into_json(vramplan: Callable[..., Any], planner: Any) -> None:
    planner.with_warning()
    said = vramplan("estimate", "x", "--json")
    assert said.err == "warning VP012: it is so\nhint: do this\n"
    assert json.loads(said.out)["warnings"][0]["rule"] == "VP012"


def test_columns_are_respected(vramplan: Callable[..., Any], planner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {}
    for columns in ("60", "100"):
        monkeypatch.setenv("COLUMNS", columns)
        widths[columns] = max(map(len, vramplan("estimate", "x").out.splitlines()))
    assert widths["60"] <= 60 < widths["100"] <= 100


def test_a_page_of_the_plan_stands_alone(vramplan: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    page = tmp_path / "plan.html"
    said = vramplan("estimate", "--gpu-mem", "85", "--html", str(page))
    assert said.code == 0
    assert f"written: {page}" in said.err
    text = page.read_text(encoding="utf-8")
    assert "rlt-85gb-conservative" in text
    assert "<script src" not in text
