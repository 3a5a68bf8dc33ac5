"""Each warning: when it speaks, and when it is silent."""

from __future__ import annotations

import pytest

SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
GRPO = {
    "model": SMALL,
    "method": "grpo",
    "dtype": "bf16",
    "tuning": "lora",
    "max_prompt_length": 32,
    "max_completion_length": 32,
    "generations": 8,
    "stack": {"trl": "1.16.0"},
}
SFT = {"model": SMALL, "method": "sft", "dtype": "bf16", "per_device_batch_size": 1, "max_seq_length": 64}

CASES = {
    "VP004": ({**GRPO, "generations": 1}, GRPO),
    "VP005": ({**GRPO, "batch_size": 24, "generations": 16}, {**GRPO, "batch_size": 32, "generations": 16}),
    "VP006": ({**GRPO, "vllm_max_model_length": 63}, {**GRPO, "vllm_max_model_length": 64}),
    "VP007": (
        {**GRPO, "quantization": "int8", "rollout": "vllm-colocate"},
        {**GRPO, "quantization": "nf4", "rollout": "vllm-colocate"},
    ),
    "VP008": ({**SFT, "dtype": "fp16", "mixed_precision": "bf16"}, {**SFT, "dtype": "fp16", "mixed_precision": "fp16"}),
    "VP009": (
        {**SFT, "gpu": "t4", "mixed_precision": "bf16"},
        {**SFT, "gpu": "l4", "mixed_precision": "bf16"},
    ),
    "VP010": ({**SFT, "dtype": "fp32", "mixed_precision": "bf16"}, SFT),
    "VP011": ({**GRPO, "tuning": "full", "beta": 0, "stack": {"trl": "0.15.2"}}, {**GRPO, "beta": 0}),
    "VP012": (SFT, {**SFT, "tuning": "lora"}),
    "VP014": (
        {"model": "tiiuae/falcon-7b", "quantization": "int8", "stack": {"transformers": "5.23.0"}},
        {"model": "tiiuae/falcon-7b", "quantization": "int8", "stack": {"transformers": "4.57.6"}},
    ),
    "VP015": (
        {**SFT, "quantization": "int8", "gradient_checkpointing": True},
        {**SFT, "quantization": "nf4", "gradient_checkpointing": True},
    ),
    "VP016": ({**SFT, "quantization": "nf4", "kbit_fp32_upcast": True}, {**SFT, "quantization": "nf4"}),
    "VP017": ({**SFT, "optim": "paged_adamw_8bit"}, {**SFT, "optim": "adamw_8bit"}),
    "VP018": ({**GRPO, "gradient_accumulation_steps": 4}, {**GRPO, "gradient_accumulation_steps": 1}),
    "VP019": ({**GRPO, "stack": {"trl": "1.14.0"}}, {**GRPO, "stack": {"trl": "1.15.0"}}),
    "VP020": ({**SFT, "max_seq_length": 32_769}, {**SFT, "max_seq_length": 128}),
    "VP021": (
        {**SFT, "gpu": "t4", "attn_implementation": "flash_attention_2"},
        {**SFT, "gpu": "l4", "attn_implementation": "flash_attention_2"},
    ),
    "VP022": (
        {**SFT, "model": "google/gemma-2-2b", "attn_implementation": "sdpa"},
        {**SFT, "model": "google/gemma-2-2b", "attn_implementation": "eager"},
    ),
    "VP023": (
        {"teacher": SMALL, "reference": SMALL, "method": "rlt", "tuning": "lora", "dtype": "bf16", "context": 32},
        {"teacher": SMALL, "reference": SMALL, "method": "rlt", "tuning": "full", "dtype": "bf16", "context": 32},
    ),
    "VP033": (
        {"teacher": SMALL, "reference": "none", "method": "rlt", "dtype": "bf16", "context": 32},
        {"teacher": SMALL, "method": "rlt", "dtype": "bf16", "context": 32},
    ),
    "VP024": ({**SFT, "num_gpus": 2, "sharding": "zero3"}, SFT),
    "VP028": (
        {**GRPO, "rollout": "vllm-colocate", "vllm_sleep": True, "stack": {"trl": "0.22.0"}},
        {**GRPO, "rollout": "vllm-colocate", "vllm_sleep": True, "stack": {"trl": "0.23.0"}},
    ),
    "VP029": (
        {**GRPO, "rollout": "vllm-colocate", "vllm_gpu_memory_utilization": 0.01, "gpu": "l4"},
        {**GRPO, "rollout": "vllm-colocate", "vllm_gpu_memory_utilization": 0.3, "gpu": "l4"},
    ),
    "VP030": (
        {**GRPO, "rollout": "vllm-colocate", "vllm_gpu_memory_utilization": 0.98, "gpu": "l4"},
        {**GRPO, "rollout": "vllm-colocate", "vllm_gpu_memory_utilization": 0.3, "gpu": "l4"},
    ),
    "VP031": ({**SFT, "dtype": "fp16", "mixed_precision": "fp16"}, {**SFT, "dtype": "fp32", "mixed_precision": "fp16"}),
    "VP032": (
        {**SFT, "dtype": "fp32", "attn_implementation": "flash_attention_2"},
        {**SFT, "attn_implementation": "flash_attention_2"},
    ),
    "VP026": ({**SFT, "stack": {"transformers": "99.0"}}, {**SFT, "stack": {"transformers": "5.23.0"}}),
    "VP027": ({**SFT, "generations": 4}, SFT),
}


@pytest.mark.parametrize("rule", sorted(CASES))
def test_a_rule_speaks_and_is_silent(ask, rule):
    speaks, silent = CASES[rule]
    found = {finding.rule: finding for finding in ask(**speaks).warnings}
    assert rule in found
    finding = found[rule]
    assert finding.message
    assert finding.hint
    assert finding.source
    assert rule not in {finding.rule for finding in ask(**silent).warnings}


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp_full_shard"])
def test_more_gpus_never_cost_one_of_them_more(ask, strategy):
    two = ask(**SFT, num_gpus=2, sharding=strategy, optim="adamw_torch_fused")
    eight = ask(**SFT, num_gpus=8, sharding=strategy, optim="adamw_torch_fused")
    assert eight.peak.allocated_bytes <= two.peak.allocated_bytes
