"""`vramplan recommend`: what it prints, the files that it writes, and its exit codes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODEL = ("recommend", "Qwen/Qwen2.5-0.5B", "--attn-implementation", "sdpa", "--gradient-checkpointing")
RUN = (*MODEL, "--method", "grpo", "--gpu", "t4")
SFT = (*MODEL, "--method", "sft", "--gpu", "t4", "--stack", "trl=1.16.0")
RLT = (
    "recommend",
    "--teacher=Qwen/Qwen2.5-1.5B",
    "--student=Qwen/Qwen2.5-0.5B",
    "--gpu-mem=24",
    "--gradient-checkpointing",
    "--attn-implementation=sdpa",
    "--tuning=lora",
    "--quantization=none",
)


def test_its_json_is_what_scripts_rely_on(vramplan: Callable[..., Any], tmp_path: Path) -> None:
    said = vramplan(*RUN, "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert found["schema"] == "vramplan.recommend/1"
    assert [one["name"] for one in found["recommended"]] == ["conservative", "balanced", "aggressive"]
    for one in found["recommended"]:
        line = tmp_path / "run.jsonl"
        line.write_text(json.dumps({"id": "x", "run": one["run"]}), encoding="utf-8")
        report = json.loads(vramplan("estimate", "--jsonl", str(line)).out)
        assert report["peak"] == one["peak"]
        assert report["budget"]["margin_bytes"] == one["margin_bytes"]
        assert one["limited_by"]
        again = json.loads(vramplan(*shlex.split(one["command"])[1:], "--json").out)
        assert again["peak"] == one["peak"]
    assert found["frontier"]
    assert found["closest"] is None


def test_its_keys_do_not_depend_on_whether_anything_fits(vramplan: Callable[..., Any]) -> None:
    fits = json.loads(vramplan(*RUN, "--json").out)
    said = vramplan(*MODEL, "--method", "grpo", "--gpu-mem", "0.5", "--json")
    assert said.code == 3
    nothing = json.loads(said.out)
    assert nothing.keys() == fits.keys()
    assert nothing["recommended"] == []
    assert nothing["missing_bytes"] > 0
    assert nothing["closest"].keys() == fits["recommended"][0].keys()
    assert nothing["obstacles"]


def test_the_page_for_people_is_no_wider_than_the_terminal_but_for_commands(vramplan: Callable[..., Any]) -> None:
    said = vramplan(*RUN, "--explain")
    assert said.code == 0
    lines = [line for line in said.out.splitlines() if not line.startswith(("vramplan estimate", "  #"))]
    assert max(map(len, lines)) <= 80
    for words in ("conservative", "Recommended runs", "How far each precision goes", "could go alone"):
        assert words in said.out
    for name in ("conservative", "balanced", "aggressive"):  # each with its command and its file
        assert f"The {name} run\nvramplan estimate " in said.out
    assert said.out.count("\n  num_generations: ") == 3
    assert "\x1b" not in said.out


def test_nothing_fits_is_said_with_what_would_have_to_change(vramplan: Callable[..., Any]) -> None:
    said = vramplan("recommend", "Qwen/Qwen2.5-7B", "--method", "sft", "--tuning", "full", "--gpu-mem", "24")
    assert said.code == 3
    assert "Nothing fits: the least that any setting needs is" in said.out
    assert "LoRA in place of full training: frees" in said.out


@pytest.mark.parametrize(("tool", "name"), [("trl", "run.yaml"), ("toml", "run.toml"), ("accelerate", "launch.yaml")])
def test_a_written_run_can_be_read_again(vramplan: Callable[..., Any], tmp_path: Path, tool: str, name: str) -> None:
    file = tmp_path / name
    said = vramplan(*SFT, "--write", tool, "-o", str(file), "--pick", "aggressive", "--json")
    assert said.code == 0
    assert f"written: {file}" in said.err
    (run,) = (one for one in json.loads(said.out)["recommended"] if one["name"] == "aggressive")
    assert file.stat().st_size > 0
    if tool == "accelerate":  # says how it is launched, not what
        return
    gpu = () if tool == "toml" else ("--gpu", "t4", "--stack", "trl=1.16.0")
    again = json.loads(vramplan("estimate", "--run", str(file), *gpu, "--json").out)
    assert again["peak"]["allocated_bytes"] == run["peak"]["allocated_bytes"]


def test_an_rlt_run_is_written_as_its_own_yaml(vramplan: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    said = vramplan(*RLT, "--write", "rlt", "-o", str(file), "--json")
    assert said.code == 0
    (run,) = (one for one in json.loads(said.out)["recommended"] if one["name"] == "balanced")
    text = file.read_text(encoding="utf-8")
    assert f"num_generations: {run['run']['generations']}" in text
    assert text == run["yaml"]
    checked = vramplan("check", str(file))
    assert (checked.code, checked.out) == (0, "Nothing found in 1 file.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*RUN, "--prefer", "speed"), "--prefer must be one of context, batch, generations, quality, not 'speed'"),
        ((*RUN, "--write", "trl"), "--write and --output go together"),
        ((*RUN, "--write", "yaml", "-o", "x"), "--write must be one of rlt, trl, accelerate, toml, not 'yaml'"),
        ((*RUN, "--pick", "balanced"), "--pick chooses what --write writes"),
        ((*RUN, "--free", "contxt"), "'contxt' is no setting that recommend chooses"),
        (("recommend", "Qwen/Qwen2.5-0.5B"), "recommend needs a budget"),
        ((*RUN, "--write", "trl", "-o", "/no/such/folder/run.yaml"), "there is no folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    vramplan: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    said = vramplan(*arguments)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.out == ""


def test_an_unknown_model_is_exit_4(vramplan: Callable[..., Any]) -> None:
    assert vramplan("recommend", "no/such-model", "--gpu", "t4").code == 4
