"""Each rule of `vramplan check`: a file in which it speaks, and the same file put right, in which it is silent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.planner.check.finding import CheckFinding
from vramplan.planner.check.registry import RULES, choose
from vramplan.planner.check.run import check_files
from vramplan.runfiles.flat import parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
SMALL, LARGE = "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"


@dataclass
class Case:
    """Files by name, the first one checked with the others beside it, and what the command line says."""

    files: dict[str, str]
    over: dict[str, Any] = field(default_factory=dict)


def yaml(**settings: Any) -> str:
    return "".join(f"{key}: {value}\n" for key, value in settings.items())


def trl(**settings: Any) -> str:
    base = {"model_name_or_path": SMALL, "num_generations": 8, "per_device_train_batch_size": 8, "bf16": "true"}
    return yaml(**(base | {"max_completion_length": 64} | settings))


def sft(**settings: Any) -> str:
    return yaml(**({"model_name_or_path": SMALL, "max_length": 128, "packing": "false", "bf16": "true"} | settings))


def dpo(**settings: Any) -> str:
    return yaml(**({"model_name_or_path": SMALL, "precompute_ref_log_probs": "false"} | settings))


def rlt(**settings: Any) -> str:
    base = {
        "model_name_or_path": SMALL,
        "train_batch_size": 64,
        "per_device_train_batch_size": 2,
        "generation_aggregation_steps": 8,
        "num_generations": 8,
        "max_prompt_length": 64,
        "max_completion_length": 64,
        "use_vllm": "true",
        "use_vllm_server": "false",
    }
    return yaml(**(base | settings))


def toml(**settings: Any) -> str:
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def one(text: str, **over: Any) -> Case:
    return Case({"run.yaml": text}, over)


def own(text: str, **over: Any) -> Case:
    return Case({"run.toml": text}, over)


def script(command: str) -> Case:
    return Case({"launch.sh": f"#!/bin/bash\n{command}\n"})


def composed(run: str, trainer: str) -> Case:
    """A Hydra tree as RLT's, the run's file first."""
    defaults = "defaults:\n  - override /trainer_cfg@_global_: mine\n  - _self_\n"
    return Case(
        {
            "cfgs/run_cfg/mine.yaml": defaults + run,
            "cfgs/run_cfg/default.yaml": "bf16: true\n",
            "cfgs/trainer_cfg/mine.yaml": trainer,
            "cfgs/trainer_cfg/default.yaml": "bf16: true\n",
            "cfgs/train.yaml": "defaults:\n  - _self_\n  - trainer_cfg@_global_: default\n"
            "  - run_cfg@_global_: default\n",
        }
    )


def launched(run: str, launcher: str, name: str = "accelerate.yaml") -> Case:
    return Case({"run.yaml": run, name: launcher})


ZERO3 = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\nmixed_precision: bf16\nnum_processes: 4\n"
DEEPSPEED = '{{"zero_optimization": {{"stage": 2}}, "train_micro_batch_size_per_gpu": {rows}}}\n'
RLT_TOML = {"method": '"rlt"', "teacher": f'"{SMALL}"', "dtype": '"bf16"', "tuning": '"lora"', "context": 32}
SYNCED = rlt(model_name_or_path=LARGE, sync_ref_model="true", use_vllm="false", use_vllm_server="true")
COLOCATED = {"use_vllm": "true", "vllm_mode": "colocate"}
KEPT = {"model_name_or_path": LARGE, "use_vllm": "false", "use_vllm_server": "true"}

CASES: dict[str, tuple[Case, Case]] = {
    "VP001": (one(trl(load_in_8bit="true")), one(trl(load_in_8bit="true", use_peft="true"))),
    "VP002": (one(rlt(train_batch_size=65)), one(rlt(train_batch_size=64))),
    "VP004": (one(trl(num_generations=1)), one(trl(num_generations=2))),
    "VP005": (one(trl(per_device_train_batch_size=6)), one(trl(per_device_train_batch_size=16))),
    "VP006": (one(rlt(vllm_max_model_len=127)), one(rlt(vllm_max_model_len=128))),
    "VP007": (
        one(trl(load_in_8bit="true", use_peft="true", **COLOCATED)),
        one(trl(load_in_4bit="true", use_peft="true", **COLOCATED)),
    ),
    "VP008": (one(sft(torch_dtype="float16")), one(sft(torch_dtype="bfloat16"))),
    "VP009": (one(sft(), gpu="t4"), one(sft(), gpu="l4")),
    "VP010": (one(rlt()), one(rlt() + "model_init_kwargs:\n  torch_dtype: bfloat16\n")),
    "VP011": (one(rlt(beta=0.0)), one(rlt(beta=0.04))),
    "VP012": (one(sft(torch_dtype="float32"), gpu_mem=8.5), one(sft(torch_dtype="float32"), gpu_mem=24)),
    "VP013": (
        one(sft(model_name_or_path="Qwen/Qwen3-30B-A3B", load_in_4bit="true", use_peft="true")),
        one(
            sft(model_name_or_path="Qwen/Qwen3-30B-A3B", load_in_4bit="true", use_peft="true"),
            stack={"transformers": "4.57.6"},
        ),
    ),
    "VP014": (
        one(sft(model_name_or_path="tiiuae/falcon-7b", load_in_4bit="true", use_peft="true")),
        one(
            sft(model_name_or_path="tiiuae/falcon-7b", load_in_4bit="true", use_peft="true"),
            stack={"transformers": "4.57.6"},
        ),
    ),
    "VP015": (
        one(sft(load_in_8bit="true", use_peft="true", gradient_checkpointing="true")),
        one(sft(load_in_4bit="true", use_peft="true", gradient_checkpointing="true")),
    ),
    "VP016": (
        own(toml(model=f'"{SMALL}"', method='"sft"', quantization='"nf4"', kbit_fp32_upcast="true")),
        own(toml(model=f'"{SMALL}"', method='"sft"', quantization='"nf4"')),
    ),
    "VP018": (
        one(trl(gradient_accumulation_steps=4)),
        one(trl(gradient_accumulation_steps=4, steps_per_generation=1)),
    ),
    "VP019": (one(trl(), stack={"trl": "1.14.0"}), one(trl(), stack={"trl": "1.15.0"})),
    "VP020": (one(sft(max_length=32_769)), one(sft(max_length=32_768))),
    "VP021": (
        one(sft(attn_implementation="flash_attention_2"), gpu="t4"),
        one(sft(attn_implementation="flash_attention_2"), gpu="l4"),
    ),
    "VP022": (
        one(sft(model_name_or_path="google/gemma-2-2b", attn_implementation="sdpa")),
        one(sft(model_name_or_path="google/gemma-2-2b", attn_implementation="eager")),
    ),
    "VP023": (own(toml(**RLT_TOML, reference=f'"{SMALL}"')), own(toml(**RLT_TOML))),
    "VP027": (
        own(toml(model=f'"{SMALL}"', method='"sft"', vllm_sleep="true")),
        own(toml(model=f'"{SMALL}"', method='"sft"')),
    ),
    "VP028": (one(trl(**COLOCATED), stack={"trl": "0.17.0"}), one(trl(**COLOCATED), stack={"trl": "0.18.0"})),
    "VP029": (
        one(trl(**COLOCATED, vllm_gpu_memory_utilization=0.005), gpu="h100-80gb"),
        one(trl(**COLOCATED, vllm_gpu_memory_utilization=0.3), gpu="h100-80gb"),
    ),
    "VP030": (
        one(trl(**COLOCATED, model_name_or_path=LARGE, vllm_gpu_memory_utilization=0.9), gpu="h100-80gb"),
        one(trl(**COLOCATED, model_name_or_path=LARGE, vllm_gpu_memory_utilization=0.3), gpu="h100-80gb"),
    ),
    "VP031": (
        one(sft(torch_dtype="float16", bf16="false", fp16="true")),
        one(sft(torch_dtype="float32", bf16="false", fp16="true")),
    ),
    "VP032": (
        one(sft(torch_dtype="float32", bf16="false", attn_implementation="flash_attention_2")),
        one(sft(torch_dtype="float32", attn_implementation="flash_attention_2")),
    ),
    "VP033": (own(toml(**RLT_TOML, reference='"none"')), own(toml(**RLT_TOML))),
    "VP040": (one(rlt(generation_aggregation_steps=12)), one(rlt(generation_aggregation_steps=16))),
    "VP041": (
        one(rlt(backprop_accumulation_steps=2, backprop_accumulation_micro_batch_size=2)),
        one(rlt(backprop_accumulation_steps=8, backprop_accumulation_micro_batch_size=2)),
    ),
    "VP042": (one(trl(generation_batch_size=20)), one(trl(generation_batch_size=24))),
    "VP043": (one(rlt(gradient_accumulation_steps=16)), one(rlt(gradient_accumulation_steps=32))),
    "VP044": (one(rlt(vllm_max_model_len=64)), one(rlt(vllm_max_model_len=65))),
    "VP045": (
        one(dpo(max_length=127, max_prompt_length=64, max_completion_length=64)),
        one(dpo(max_length=128, max_prompt_length=64, max_completion_length=64)),
    ),
    "VP046": (
        one(sft(max_length=4096, gradient_checkpointing="false")),
        one(sft(max_length=4095, gradient_checkpointing="false")),
    ),
    "VP047": (
        one(rlt() + "model_args:\n  load_in_8bit: true\n"),
        one(rlt() + "model_args:\n  load_in_8bit: false\n  use_peft: true\n"),
    ),
    "VP048": (one(trl(num_generation=8)), one(trl())),
    "VP049": (one(trl(lora_r=16)), one(trl(lora_r=16, use_peft="true"))),
    "VP050": (one(trl(beta=0.0, sync_ref_model="true")), one(trl(beta=0.04, sync_ref_model="true"))),
    "VP051": (
        Case({"run.yaml": SYNCED, "zero3.yaml": ZERO3}, {"gpu": "a100-40gb"}),
        Case({"run.yaml": SYNCED, "zero3.yaml": ZERO3}, {"gpu": "h200"}),
    ),
    "VP052": (one(trl(fp16="true")), one(trl(fp16="false"))),
    "VP053": (one(sft(bf16="false", fp16="true")), one(sft())),
    "VP054": (one(trl(load_in_8bit="true", load_in_4bit="true")), one(trl(load_in_4bit="true", use_peft="true"))),
    "VP055": (
        composed(rlt(), "beta: 0.04\ngeneration_aggregation_steps: 4\n"),
        composed(rlt(), "beta: 0.04\ngeneration_aggregation_steps: null\n"),
    ),
    "VP056": (one(trl(vllm_enable_sleep_mode="true")), one(trl(vllm_enable_sleep_mode="true", **COLOCATED))),
    "VP057": (
        one(rlt(**KEPT, offload_untrained_models="false"), gpu="h100-80gb"),
        one(rlt(**KEPT, offload_untrained_models="true"), gpu="h100-80gb"),
    ),
    "VP058": (
        script("python train.py --config-path=cfgs/run_cfg --config-name=mine"),
        script("python train.py run_cfg@_global_=mine"),
    ),
    "VP059": (script("python train.py +run_cfg=mine"), script("python train.py +trainer_args.optim=adamw_8bit")),
    "VP060": (
        launched(trl(), DEEPSPEED.format(rows=4), "ds.json"),
        launched(trl(), DEEPSPEED.format(rows='"auto"'), "ds.json"),
    ),
    "VP061": (
        launched(trl(), ZERO3.replace("bf16", "fp16")),
        launched(trl(), ZERO3),
    ),
    "VP062": (
        Case({"run.toml": toml(model=f'"{SMALL}"', method='"sft"', num_gpus=8), "zero3.yaml": ZERO3}),
        Case({"run.toml": toml(model=f'"{SMALL}"', method='"sft"', num_gpus=4), "zero3.yaml": ZERO3}),
    ),
    "VP063": (
        one(trl(**COLOCATED, ds3_gather_for_generation="false")),
        one(trl(ds3_gather_for_generation="false")),
    ),
    "VP064": (one(trl(auto_find_batch_size="true")), one(sft(auto_find_batch_size="true"))),
    "VP065": (one(trl(max_prompt_length=64)), one(trl(max_prompt_length=64), stack={"trl": "0.26.2"})),
    "VP066": (
        own(toml(model=f'"{SMALL}"', gpu_mem='"85GiB"')),
        own(toml(model=f'"{SMALL}"', gpu_mem='"85GB"')),
    ),
    "VP067": (one(sft(model_name_or_path=LARGE), gpu="rtx-4090"), one(sft(), gpu="h100-80gb")),
    "VP068": (
        own(toml(model=f'"{SMALL}"', method='"sft"', student=f'"{SMALL}"')),
        own(toml(model=f'"{SMALL}"', method='"sft"')),
    ),
}


def found(case: Case, folder: Path) -> list[CheckFinding]:
    for name, text in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    names = list(case.files)
    beside = [name for name in names[1:] if "/" not in name]
    checked = check_files(
        [folder / name for name in (names[0], *beside)],
        over=parse_flat(case.over, ""),
        chosen=choose([], []),
        dirs=DIRS,
    )
    assert [file.error for file in checked.files] == [None] * (1 + len(beside))
    return [finding for file in checked.files for finding in file.findings]


def test_every_rule_has_a_case() -> None:
    assert sorted(CASES) == [rule.id for rule in RULES]
    assert len(RULES) == len({rule.id for rule in RULES}) > 20


@pytest.mark.parametrize("rule", CASES)
def test_it_speaks_where_it_should(rule: str, tmp_path: Path) -> None:
    about = [finding for finding in found(CASES[rule][0], tmp_path) if finding.rule == rule]
    assert about, f"{rule} says nothing"
    for finding in about:
        assert finding.key
        assert finding.message
        assert not finding.message.endswith(".")
        assert finding.hint
        assert finding.source
        assert finding.file.is_relative_to(tmp_path)
        if finding.line is not None:  # the line is the one on which the key stands
            line = finding.file.read_text().splitlines()[finding.line - 1]
            assert finding.key.removeprefix("--").rpartition(".")[2].rpartition("/")[2] in line


@pytest.mark.parametrize("rule", CASES)
def test_it_is_silent_where_all_is_well(rule: str, tmp_path: Path) -> None:
    assert rule not in {finding.rule for finding in found(CASES[rule][1], tmp_path)}
