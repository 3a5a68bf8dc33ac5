"""TRL's YAML and TrainingArguments' JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.errors import UsageError
from vramplan.runfiles.reader import read_run_file
from vramplan.runfiles.runfile import Tool
from vramplan.runfiles.unsaid import unsaid

File = Callable[[str, str], Path]
GRPO = """\
# a GRPO run
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
dtype: bfloat16
attn_implementation: flash_attention_2
use_peft: true
lora_r: 32
lora_target_modules: [q_proj, v_proj]
load_in_4bit: true
use_bnb_nested_quant: true
per_device_train_batch_size: 4
gradient_accumulation_steps: 8
gradient_checkpointing: true
bf16: true
optim: paged_adamw_8bit
num_generations: 8
max_completion_length: 1024
beta: 0.0
use_vllm: true
vllm_mode: colocate
vllm_gpu_memory_utilization: 3.0e-1
vllm_enable_sleep_mode: true
vllm_max_model_length: 2048
learning_rate: 1e-6
dataset_name: trl-lib/tldr
"""


def test_a_grpo_file_says_all_of_this(file: File) -> None:
    run = read_run_file(file("grpo.yaml", GRPO))
    assert (run.tool, run.unread) == (Tool.TRL, ())
    assert run.flat.to_dict() == {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "dtype": "bf16",
        "quantization": "nf4",
        "double_quant": True,
        "method": "grpo",
        "tuning": "lora",
        "lora_r": 32,
        "lora_target_modules": ["q_proj", "v_proj"],
        "mixed_precision": "bf16",
        "gradient_accumulation_steps": 8,
        "optim": "paged_adamw_8bit",
        "gradient_checkpointing": True,
        "attn_implementation": "flash_attention_2",
        "per_device_batch_size": 4,
        "generations": 8,
        "max_completion_length": 1024,
        "rollout": "vllm-colocate",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_sleep": True,
        "vllm_max_model_length": 2048,
        "beta": 0.0,
    }
    assert (run.written["num_generations"].value, run.written["num_generations"].place.line) == (8, 15)
    assert run.written["learning_rate"].value == 1e-6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_name_or_path: x\n", {"method": "sft", "model": "x"}),
        ("max_length: 512\npacking: true\n", {"method": "sft", "max_seq_length": 512}),
        ("max_seq_length: 512\n", {"method": "sft", "max_seq_length": 512}),
        ("loss_type: sigmoid\nmax_length: 9\nbeta: 0.1\n", {"method": "dpo", "max_seq_length": 9, "beta": 0.1}),
        ("loss_type: [sigmoid, bco_pair]\n", {"method": "dpo"}),
        ("loss_type: nll\nmax_length: 9\n", {"method": "sft", "max_seq_length": 9}),
        ("beta: 0.1\nmax_length: 9\n", {"method": "dpo", "max_seq_length": 9, "beta": 0.1}),
        ("beta: 0.04\n", {"method": "grpo", "beta": 0.04}),
        ("num_generations: 4\nloss_type: dapo\n", {"method": "grpo", "generations": 4}),
        ("use_vllm: false\n", {"method": "grpo", "rollout": "hf"}),
        ("use_vllm: true\n", {"method": "grpo", "rollout": "vllm-colocate"}),
        ("use_vllm: true\nvllm_server_host: h\n", {"method": "grpo", "rollout": "vllm-server"}),
        ("use_vllm: true\nvllm_mode: server\n", {"method": "grpo", "rollout": "vllm-server"}),
        ("max_prompt_length: 3\nnum_generations: 2\n", {"method": "grpo", "max_prompt_length": 3, "generations": 2}),
        ("bf16: false\npacking: false\n", {"method": "sft", "mixed_precision": "no"}),
        ("fp16: true\npacking: false\n", {"method": "sft", "mixed_precision": "fp16"}),
        ("fp16: false\npacking: false\n", {"method": "sft"}),
        ("load_in_8bit: true\nuse_peft: true\n", {"method": "sft", "quantization": "int8", "tuning": "lora"}),
        ("load_in_8bit: false\n", {"method": "sft", "quantization": "none"}),
        ("load_in_4bit: true\nbnb_4bit_quant_type: fp4\n", {"method": "sft", "quantization": "fp4", "tuning": "full"}),
        ("lora_r: 8\n", {"method": "sft", "tuning": "full"}),
        ("model_init_kwargs:\n  torch_dtype: float16\ndtype: bfloat16\n", {"method": "sft", "dtype": "fp16"}),
        ("torch_dtype: auto\n", {"method": "sft", "dtype": "bf16"}),
        (
            "attn_implementation: kernels-community/flash-attn2\n",
            {"method": "sft", "attn_implementation": "flash_attention_2"},
        ),
        ("fsdp: full_shard auto_wrap\nlora_r: null\n", {"method": "sft", "sharding": "fsdp_full_shard"}),
        ('per_device_train_batch_size: "4"\n', {"method": "sft", "per_device_batch_size": 4}),
    ],
)
def test_what_each_setting_means(file: File, text: str, expected: dict[str, Any]) -> None:
    assert read_run_file(file("x.yaml", text)).flat.to_dict() == expected


def test_names_that_trl_does_not_have_are_unread(file: File) -> None:
    run = read_run_file(file("x.yaml", "model_name_or_path: x\nnum_generatoins: 8\nsystem_prompt: hi\n"))
    assert [(one.key, one.place.line) for one in run.unread] == [("num_generatoins", 2), ("system_prompt", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_generations: many\n", "1: num_generations must be a whole number of at least 1, not 'many'"),
        ("a: 1\nnum_generations: true\n", "2: num_generations must be a whole number of at least 1, not True"),
        ("num_generations: 2\n\nuse_vllm: perhaps\n", "3: use_vllm must be true or false, not 'perhaps'"),
        ("packing: true\nmax_length: [1]\n", "2: max_length must be a whole number of at least 1, not [1]"),
        (
            "packing: true\nattn_implementation: flex_attention\n",
            "2: attn_implementation 'flex_attention' is not modelled",
        ),
        ("optim: adamw_hf\n", "1: optim 'adamw_hf' is not modelled"),
        ("model_name_or_path: 3\n", "1: model_name_or_path must be a text, not 3"),
        ("model_name_or_path: x\nload_in_4bit: true\nload_in_8bit: true\n", "2: load_in_8bit and load_in_4bit"),
        ("load_in_4bit: true\nbnb_4bit_quant_type: int4\n", "2: bnb_4bit_quant_type must be one of nf4, fp4"),
    ],
)
def test_a_wrong_kind_names_the_line(file: File, text: str, message: str) -> None:
    path = file("x.yaml", text)
    with pytest.raises(UsageError) as error:
        read_run_file(path)
    assert error.value.message.startswith(f"{path}:{message}")


def test_training_arguments_are_read_from_their_own_json(file: File) -> None:
    values = {
        "output_dir": "out",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "bf16": True,
        "fp16": False,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "deepspeed": None,
        "fsdp": [],
        "learning_rate": 5e-05,
    }
    run = read_run_file(file("training_args.json", json.dumps(values, indent=2)))
    assert (run.tool, run.unread) == (Tool.TRAINING_ARGUMENTS, ())
    assert run.flat.to_dict() == {
        "method": "sft",
        "mixed_precision": "bf16",
        "gradient_accumulation_steps": 4,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "per_device_batch_size": 2,
    }
    assert run.written["optim"].place.line == 7


def test_json_with_tabs_has_no_lines(file: File) -> None:
    run = read_run_file(file("x.json", '{\n\t"num_generations": 8,\n\t"beta": 0.04\n}'))
    assert (run.tool, run.flat.generations, run.written["beta"].place.line) == (Tool.TRL, 8, None)


def test_a_deepspeed_file_beside_is_read(file: File) -> None:
    zero = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}, "train_micro_batch_size_per_gpu": "auto"}
    file("ds.json", json.dumps(zero))
    run = read_run_file(file("x.yaml", "model_name_or_path: m\nper_device_train_batch_size: 3\ndeepspeed: ds.json\n"))
    assert (run.flat.sharding, run.flat.per_device_batch_size) == ("zero2", 3)
    assert run.written["zero_optimization.stage"].place.file.name == "ds.json"
    absent = read_run_file(file("y.yaml", "model_name_or_path: m\ndeepspeed: nowhere.json\n"))
    assert absent.flat.sharding is None


def test_a_deepspeed_mapping_inside_is_read(file: File) -> None:
    text = json.dumps({"per_device_train_batch_size": 1, "deepspeed": {"zero_optimization": {"stage": 3}}})
    assert read_run_file(file("x.json", text)).flat.sharding == "zero3"


def test_settings_that_move_memory_and_have_no_flat_word_are_named(file: File) -> None:
    text = "steps_per_generation: 2\nuse_liger_kernel: false\nnum_iterations: 1\npadding_free: true\n"
    run = read_run_file(file("x.yaml", text))
    assert sorted(one.key for one in unsaid(run)) == ["padding_free", "steps_per_generation"]
    zero = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "none"}}
    }
    assert [one.key for one in unsaid(read_run_file(file("ds.json", json.dumps(zero))))] == [
        "zero_optimization.offload_param.device"
    ]


def test_a_model_s_config_is_no_run(file: File) -> None:
    text = json.dumps({"model_type": "llama", "architectures": ["x"], "torch_dtype": "bfloat16"})
    with pytest.raises(UsageError, match="is a model's config, not a run's"):
        read_run_file(file("config.json", text))
