"""`vramplan simulate`: the report of the real code, and what only a simulation can say."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.output import parquet
from vramplan.planner import simulated

TINY = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
TRAIN = ("--method", "sft", "--tuning", "lora", "--context", "1024", "--per-device-batch-size", "4", "--gpu", "t4")


@pytest.fixture
def model(tmp_path: Path) -> str:
    pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return str(tmp_path)


def test_its_json_has_the_keys_of_an_estimate(vramplan: Callable[..., Any], model: str) -> None:
    simulation = json.loads(vramplan("simulate", model, *TRAIN, "--json").out)
    estimate = json.loads(vramplan("estimate", model, *TRAIN, "--json").out)
    assert simulation.keys() == estimate.keys()
    assert simulation["how"] == "simulate"
    assert [phase["name"] for phase in simulation["phases"]] == [phase["name"] for phase in estimate["phases"]]
    assert simulation["inputs"] == estimate["inputs"]
    assert simulation["peak"]["allocated_bytes"] == pytest.approx(estimate["peak"]["allocated_bytes"], rel=0.02)
    assert estimate["live_tensors"] is None
    largest = simulation["live_tensors"][0]
    assert largest["bytes"] * largest["count"] > 0
    assert largest["shape"]


def test_the_table_ends_with_the_largest_tensors(vramplan: Callable[..., Any], model: str) -> None:
    said = vramplan("simulate", model, *TRAIN)
    assert said.code == 0
    assert "Largest tensors at the peak" in said.out
    assert "[4, 4, 1024, 1024] float32" in said.out  # a T4 has no fused attention for bf16: all scores are kept
    assert max(map(len, said.out.splitlines())) <= 80
    assert "replaying" in said.err


def test_a_capacity_says_where_the_allocator_throws(vramplan: Callable[..., Any], model: str) -> None:
    whole = json.loads(vramplan("simulate", model, *TRAIN, "--json").out)
    short = whole["peak"]["device_used_bytes"] - 60_000_000
    said = vramplan("simulate", model, *TRAIN, "--json", "--capacity", f"{short}B")
    assert said.code == 3
    assert "CUDA out of memory in train" in said.err
    failure = json.loads(said.out)["out_of_room"]
    assert failure["phase"] == "train"
    assert failure["reserved_bytes"] <= failure["capacity_bytes"] < whole["peak"]["reserved_bytes"]
    assert failure["reserved_bytes"] + failure["requested_bytes"] > failure["capacity_bytes"] - 2 * 1024**2
    assert failure["live_tensors"]
    enough = vramplan("simulate", model, *TRAIN, "--json", "--capacity", "15GB")
    assert enough.code == 0
    assert json.loads(enough.out)["out_of_room"] is None


def test_the_timeline_and_the_snapshot_tell_the_reports_peaks(
    vramplan: Callable[..., Any], model: str, tmp_path: Path
) -> None:
    events, snapshot = tmp_path / "events.csv", tmp_path / "snapshot.pickle"
    said = vramplan("simulate", model, *TRAIN, "--json", "--timeline", str(events), "--snapshot", str(snapshot))
    peak = json.loads(said.out)["peak"]
    with events.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert max(int(row["allocated_bytes"]) for row in rows) == peak["allocated_bytes"]
    assert max(int(row["reserved_bytes"]) for row in rows) == peak["reserved_bytes"]
    assert {row["phase"].split(".")[0] for row in rows} == {"load", "forward", "backward", "optimizer"}
    replay = json.loads(vramplan("replay", str(snapshot), "--json").out)["replays"][0]
    assert replay["exact"] is True
    assert replay["peak_allocated_bytes"] == peak["allocated_bytes"]
    assert replay["peak_reserved_bytes"] == peak["reserved_bytes"]


def test_a_parquet_timeline_is_the_csv_one(vramplan: Callable[..., Any], model: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas

    names = tmp_path / "events.csv", tmp_path / "events.PARQUET"
    for name in names:
        said = vramplan("simulate", model, *TRAIN, "--json", "--timeline", str(name))
        assert f"written: {name}" in said.err
    table, text = pandas.read_parquet(names[1]), pandas.read_csv(names[0], keep_default_na=False)
    pandas.testing.assert_frame_equal(table, text)
    assert str(table["allocated_bytes"].dtype) == "int64"


def test_without_pyarrow_a_parquet_timeline_is_refused_before_the_work(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    said = vramplan("simulate", model, *TRAIN, "--timeline", str(tmp_path / "events.parquet"))
    assert said.code == 2
    assert said.out == ""
    assert "pyarrow" in said.err
    assert "replaying" not in said.err
    assert vramplan("simulate", model, "--method", "score", "--timeline", str(tmp_path / "events.csv")).code == 0


def test_lines_are_answered_in_order_and_a_bad_one_costs_no_other(
    vramplan: Callable[..., Any], model: str, tmp_path: Path
) -> None:
    lines = tmp_path / "runs.jsonl"
    runs = [{"model": model, "method": "score", "context": 64}, {"model": model, "colour": 1}, {"model": model}]
    lines.write_text("\n".join(json.dumps({"id": str(i), "run": run}) for i, run in enumerate(runs)), encoding="utf-8")
    said = vramplan("simulate", "--jsonl", str(lines))
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 2
    assert [answer["id"] for answer in answers] == ["0", "1", "2"]
    assert [answer.get("how") for answer in answers] == ["simulate", None, "simulate"]
    assert "colour" in answers[1]["error"]["message"]


def test_without_torch_it_names_the_extra(
    vramplan: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    monkeypatch.setattr(simulated, "find_spec", lambda name: None if name == "torch" else sys)
    said = vramplan("simulate", str(tmp_path))
    assert said.code == 5
    assert said.out == ""
    assert "vramplan[torch]" in said.err


@pytest.mark.parametrize("flag", ["--timeline", "--snapshot", "--html"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    vramplan: Callable[..., Any], model: str, flag: str
) -> None:
    said = vramplan("simulate", model, flag, "/nowhere/at/all")
    assert said.code == 2
    assert "replaying" not in said.err


RLT = {
    "method": "rlt",
    "tuning": "lora",
    "rollout": "hf",
    "beta": 0.04,
    "per_device_batch_size": 2,
    "generations": 2,
    "batch_size": 2,
    "context": 512,
    "gpu": "t4",
    "stack": {"transformers": "4.51.1", "trl": "0.14.0"},
}
GRPO = RLT | {"method": "grpo", "stack": {"trl": "1.14.0"}}


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("settings", [RLT, GRPO, GRPO | {"method": "dpo", "rollout": None}], ids=["rlt", "grpo", "dpo"])
def test_a_run_of_several_models_costs_what_the_formulas_say(
    vramplan: Callable[..., Any],
    model: str,
    tmp_path: Path,
    settings: dict[str, Any],
    gradient_checkpointing: bool,
    quantization: str,
) -> None:
    roles = dict.fromkeys(("teacher", "student", "reference"), model) if settings["method"] == "rlt" else {}
    run = settings | roles | {"quantization": quantization, "gradient_checkpointing": gradient_checkpointing}
    run = {key: value for key, value in run.items() if value is not None} | ({} if roles else {"model": model})
    lines = tmp_path / "runs.jsonl"
    lines.write_text(json.dumps({"id": "1", "run": run}), encoding="utf-8")
    simulation = json.loads(vramplan("simulate", "--jsonl", str(lines)).out)
    estimate = json.loads(vramplan("estimate", "--jsonl", str(lines)).out)
    assert "error" not in estimate, estimate
    found = {phase["name"]: phase["allocated_bytes"] for phase in estimate["phases"]}
    for phase in simulation["phases"]:
        if phase["name"] not in ("load", "optimizer"):  # of a toy, a few temporaries of one matrix
            assert found[phase["name"]] == pytest.approx(phase["allocated_bytes"], rel=0.05), (phase["name"], found)
    assert estimate["peak"]["allocated_bytes"] == pytest.approx(simulation["peak"]["allocated_bytes"], rel=0.025)


@pytest.mark.parametrize(("flag", "name"), [("--timeline", "a"), ("--snapshot", "a"), ("--timeline", "a.parquet")])
def test_a_full_disk_is_one_sentence_and_the_answer_is_there(
    vramplan: Callable[..., Any], model: str, tmp_path: Path, flag: str, name: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    full = tmp_path / name
    full.symlink_to("/dev/full")
    said = vramplan("simulate", model, *TRAIN, "--json", flag, str(full))
    assert said.code == 2
    assert f"error: {full} cannot be written: No space left on device" in said.err
    assert json.loads(said.out)["how"] == "simulate"
