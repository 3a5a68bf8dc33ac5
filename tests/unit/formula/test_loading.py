"""Weights as the allocator holds them once they are loaded."""

from __future__ import annotations

import pytest

from vramplan.allocator.sizes import MIN_BLOCK_BYTES
from vramplan.catalog.dirs import profile_dirs
from vramplan.formula.loading import load_models, with_adapters
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static
from vramplan.planner.answer import prepare
from vramplan.runfiles.flat import parse_flat
from vramplan.units import MiB

LORA = {
    "method": "sft",
    "tuning": "lora",
    "lora_r": 32,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}


def setting_of(**settings: object) -> Setting:
    return prepare(parse_flat(settings, "test"), profile_dirs())[0]


# memory_allocated after loading, base and fp32 adapters, as fitcheck-llm 0.3.1 measured it on a T4
# (data/measurements/t4-sweep-2026-09-15.json, after_load_allocated_mib); the small pool's padding is what may differ.
MEASURED = {
    "HuggingFaceTB/SmolLM2-135M": 270.65,
    "HuggingFaceTB/SmolLM2-360M": 729.07,
    "HuggingFaceTB/SmolLM2-1.7B": 3312.19,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 2134.55,
    "Qwen/Qwen2.5-1.5B-Instruct": 2978.53,
}


@pytest.mark.parametrize("model", MEASURED)
def test_what_a_t4_held_after_loading(model: str) -> None:
    setting = setting_of(model=model, dtype="fp16", adapter_dtype="fp32", gpu="t4", **LORA)
    static = Static(setting)
    held = static.weights_bytes(setting.run.trained) + static.adapters_bytes
    assert held / MiB == pytest.approx(MEASURED[model], abs=0.1 + 0.001 * MEASURED[model])


def test_blocks_keep_a_rest_where_weights_do_not_fill_their_segments() -> None:
    (rest,) = load_models(setting_of(model="HuggingFaceTB/SmolLM2-360M", dtype="fp16", **LORA)).rest_bytes
    assert 13 * MiB < rest < 15 * MiB
    (none,) = load_models(setting_of(model="HuggingFaceTB/SmolLM2-1.7B", dtype="fp16", **LORA)).rest_bytes
    assert none == 0  # 8 and 32 MiB matrices: what is left of a segment is more than a block keeps


def test_whoever_loads_has_an_allocator_of_his_own() -> None:
    setting = setting_of(model="HuggingFaceTB/SmolLM2-360M", dtype="fp16", **LORA)
    first = with_adapters(load_models(setting), ())
    first.run([([(64 * MiB // MIN_BLOCK_BYTES, 0)], [None], ())])
    assert with_adapters(load_models(setting), ()).allocated_bytes == first.allocated_bytes - 64 * MiB
