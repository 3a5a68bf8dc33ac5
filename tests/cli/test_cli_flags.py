"""The flags are a contract: frozen, in every spelling, each reaching the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from vramplan.cli._argv import normalise, take_flag
from vramplan.cli.app import app
from vramplan.cli.options import FLAGS
from vramplan.runfiles.flat_keys import KINDS

# Scripts depend on these (DESIGN.md, "The command line"). Flags may be added here, never renamed or dropped.
_FROZEN = """
--run --model --teacher --student --reference --as
--dtype --8bit --4bit --quantization --teacher-quantization --student-quantization --reference-quantization
--double-quant --no-double-quant --kbit-fp32-upcast --no-kbit-fp32-upcast
--method --tuning --lora-r --lora-target-modules --adapter-dtype --mixed-precision --gradient-accumulation-steps
--optim --gradient-checkpointing --no-gradient-checkpointing --attn-implementation --beta
--batch-size --per-device-batch-size --generations --context --max-prompt-length --max-completion-length
--max-seq-length
--rollout --vllm-gpu-memory-utilization --vllm-sleep --no-vllm-sleep --vllm-max-model-length
--gpu-mem --gpu --num-gpus --sharding --offload
--stack
--json --csv --markdown --units --explain --jsonl --html --profile-dir
--help
"""
ESTIMATE_FLAGS = _FROZEN.split()


def _flags(name: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    command = group.get_command(context, name)
    params = command.get_params(typer.Context(command, info_name=name))
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts) if flag.startswith("--")}


def test_the_flags_of_estimate_are_frozen() -> None:
    assert _flags("estimate") == set(ESTIMATE_FLAGS)


def test_every_key_of_a_run_has_a_flag() -> None:
    assert {flag.key for flag in FLAGS} == set(KINDS)


def test_every_flag_is_in_the_help_and_none_is_cut_short(vramplan: Callable[..., Any]) -> None:
    said = vramplan("estimate", "--help")
    assert said.code == 0
    assert all(flag in said.out for flag in ESTIMATE_FLAGS)
    assert max(map(len, said.out.splitlines())) <= 80


def test_a_model_is_named_with_and_without_its_flag(vramplan: Callable[..., Any]) -> None:
    by_flag = vramplan("estimate", "--model", "gpt2", "--8bit", "--gpu", "t4", "--json")
    assert by_flag.code == 0
    assert by_flag.out == vramplan("estimate", "gpt2", "--load_in_8bit", "--gpu", "t4", "--json").out
    twice = vramplan("estimate", "gpt2", "--model", "gpt2")
    assert twice.code == 2
    assert "MODEL and --model are the same setting" in twice.err


def test_help_lists_every_command_with_its_first_line(vramplan: Callable[..., Any]) -> None:
    said = vramplan()
    assert said.code == 0
    words = " ".join(said.out.split())
    assert "estimate Say how much GPU memory a run needs, from closed formulas on each model's config.json." in words
    assert "accuracy Score predictions against measured runs" in words
    assert "..." not in said.out.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("argv", "settings"),
    [
        ("x", {"model": "x"}),
        ("x --8bit", {"model": "x", "quantization": "int8"}),
        ("x --load_in_8bit", {"model": "x", "quantization": "int8"}),
        ("x --load_in_8bit True", {"model": "x", "quantization": "int8"}),
        ("--load_in_8bit=false x", {"model": "x"}),
        ("x --load-in-4bit", {"model": "x", "quantization": "nf4"}),
        ("--num_generations=16 x", {"model": "x", "generations": 16}),
        ("x --per_device_train_batch_size 2", {"model": "x", "per_device_batch_size": 2}),
        ("x --bf16 True", {"model": "x", "mixed_precision": "bf16"}),
        ("x --fp16", {"model": "x", "mixed_precision": "fp16"}),
        ("x --gradient_checkpointing false", {"model": "x", "gradient_checkpointing": False}),
        ("x --gradient_checkpointing", {"model": "x", "gradient_checkpointing": True}),
        ("x --no-vllm_sleep", {"model": "x", "vllm_sleep": False}),
        ("x --torch_dtype bfloat16", {"model": "x", "dtype": "bf16"}),
        ("x --as llama --beta 0", {"model": "x", "architecture": "llama", "beta": 0.0}),
        ("x --offload reference,student", {"model": "x", "offload": ["reference", "student"]}),
        (
            "x --stack transformers=4.51.1,bnb=0.43.3",
            {"model": "x", "stack": {"transformers": "4.51.1", "bitsandbytes": "0.43.3"}},
        ),
        ("x --gpu-mem 80GiB", {"model": "x", "gpu_mem": "81920MiB"}),
        ("--teacher a --student b --reference none", {"teacher": "a", "student": "b", "reference": "none"}),
        (
            "x --method sft --tuning lora --lora-r 8 --lora-target-modules q_proj,v_proj",
            {
                "model": "x",
                "method": "sft",
                "tuning": "lora",
                "lora_r": 8,
                "lora_target_modules": ["q_proj", "v_proj"],
            },
        ),
    ],
)
def test_flags_reach_the_run(argv: str, settings: dict[str, Any], vramplan: Callable[..., Any], planner: Any) -> None:
    assert vramplan("estimate", *argv.split(), "--json").code == 0
    (asked,) = planner.asked
    assert asked.to_dict() == settings


def test_nothing_after_the_dashes_is_touched() -> None:
    argv = ["log", "--out_file", "a_b", "--", "python", "--load_in_8bit", "--bf16", "--debug"]
    assert normalise(argv) == ["log", "--out-file", "a_b", *argv[3:]]
    assert take_flag(["--debug", *argv], "--debug") == (True, argv)
    assert take_flag(argv, "--debug") == (False, argv)


def test_values_are_not_flags() -> None:
    assert normalise(["--query_gpu=memory.used,a_b", "-i", "5", "a_b"]) == [
        "--query-gpu=memory.used,a_b",
        "-i",
        "5",
        "a_b",
    ]
    assert normalise(["--bf16", "model"]) == ["--mixed-precision", "bf16", "model"]
