"""A hand-made report: the teacher trains, the student scores, the reference shares nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vramplan.core.report import (
    Basis,
    Budget,
    Comparison,
    Component,
    Entry,
    Finding,
    MemoryReport,
    ModelReport,
    Peak,
    Phase,
    Verdict,
)

GB = 10**9
PRECISIONS = {"bf16": 15_231_233_024, "int8": 8_709_800_000, "nf4": 5_450_100_000}


def entry(component: Component, num_bytes: int, label: str = "teacher") -> Entry:
    return Entry(
        component=component,
        label=label,
        num_bytes=num_bytes,
        basis=Basis.EXACT,
        formula=f"1 × {num_bytes}",
        source="counted from shapes",
    )


def model(role: str, model_id: str, precision: str, weights_bytes: int) -> ModelReport:
    return ModelReport(
        role=role,
        id=model_id,
        parameters=7_615_616_512,
        weights_bytes=weights_bytes,
        by_precision=PRECISIONS,
        precision=precision,
    )


@pytest.fixture
def report() -> MemoryReport:
    train = Phase(
        name="train",
        entries=(
            entry(Component.WEIGHTS, 24_141_033_024),
            entry(Component.ADAPTERS, 80_740_352),
            entry(Component.GRADIENTS, 80_740_352),
            entry(Component.OPTIMIZER, 161_480_704),
            entry(Component.CHECKPOINTS, 2_466_250_752),
            entry(Component.ACTIVATIONS, 3_120_000_000),
            entry(Component.LOGITS, 22_403_543_040),
            entry(Component.KV_CACHE, 0),
            entry(Component.FRAGMENTATION, 1_300_000_000),
            entry(Component.CONTEXT, 560_000_000, "CUDA context"),
        ),
    )
    load = Phase(
        name="load",
        entries=(entry(Component.WEIGHTS, 24_141_033_024), entry(Component.CONTEXT, 560_000_000)),
    )
    rollout = Phase(
        name="rollout",
        entries=(
            entry(Component.WEIGHTS, 24_141_033_024),
            entry(Component.ROLLOUT_ENGINE, 17_100_000_000, "vLLM"),
            entry(Component.CONTEXT, 560_000_000),
        ),
    )
    return MemoryReport(
        how="estimate",
        id="one",
        inputs={
            "method": "rlt",
            "batch_size": 64,
            "per_device_batch_size": 2,
            "generations": 16,
            "max_prompt_length": 6144,
            "max_completion_length": 6144,
            "attn_implementation": "flash_attention_2",
            "rollout": "vllm-colocate",
            "vllm_gpu_memory_utilization": 0.2,
            "offload": ("reference",),
            "stack": {"trl": "0.14.0"},
        },
        models=(
            model("teacher", "Qwen/Qwen2.5-7B-Instruct", "int8", 8_709_800_000),
            model("student", "bespokelabs/Bespoke-Stratos-7B", "bf16", 15_231_233_024),
            model("reference", "Qwen/Qwen2.5-7B-Instruct", "bf16", 0),
        ),
        phases=(load, rollout, train),
        peak=Peak(
            phase="train",
            component=Component.WEIGHTS,
            allocated_bytes=train.allocated_bytes,
            reserved_bytes=train.reserved_bytes,
            device_used_bytes=train.device_used_bytes,
            low_bytes=52_000_000_000,
            high_bytes=57_000_000_000,
        ),
        budget=Budget(bytes=85 * GB, verdict=Verdict.FITS, margin_bytes=85 * GB - train.device_used_bytes),
        assumptions=("the driver's own share of the card is 0.7 GB",),
        warnings=(
            Finding(rule="VP012", message="vLLM does not load 8-bit in flight", hint="use --rollout hf", source="vLLM"),
        ),
        versions={"trl": "0.14.0"},
        gpu="h100-80gb",
        comparisons=(
            Comparison(
                what="three models in 8-bit",
                claimed_bytes=21 * GB,
                estimated_bytes=26_129_400_000,
                remark="3 × 7: embeddings and head stay in 16 bits",
            ),
        ),
    )


@pytest.fixture
def unbudgeted(report: MemoryReport) -> MemoryReport:
    return replace(report, budget=None, id=None, gpu=None)
