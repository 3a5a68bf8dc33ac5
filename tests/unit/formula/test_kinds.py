"""Phases made of recorded arithmetic are those of a trace, to the byte."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.catalog.dirs import profile_dirs
from vramplan.formula import kinds
from vramplan.formula.kinds import kind_of
from vramplan.formula.phases import PhasePlan, plan_phases
from vramplan.formula.setting import Setting
from vramplan.formula.static import Static
from vramplan.formula.variable import Recording
from vramplan.planner.answer import prepare
from vramplan.runfiles.flat import parse_flat

RUNS: dict[str, dict[str, Any]] = {
    "inference": {"model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "inference"},
    "windows": {"model": "google/gemma-2-2b", "method": "score", "attn_implementation": "eager"},
    "latents": {"model": "deepseek-ai/DeepSeek-V3", "method": "inference"},
    "qlora": {"model": "meta-llama/Llama-3.2-1B", "method": "sft", "tuning": "lora", "quantization": "nf4"},
    "int8-checkpoints": {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "method": "sft",
        "tuning": "lora",
        "quantization": "int8",
        "gradient_checkpointing": True,
    },
    "full": {"model": "openai-community/gpt2", "method": "sft", "tuning": "full", "mixed_precision": "bf16"},
    "experts": {"model": "Qwen/Qwen3-30B-A3B", "method": "sft", "tuning": "lora", "quantization": "nf4"},
    "dpo": {"model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "dpo", "tuning": "full"},
    "grpo-rows": {
        "model": "Qwen/Qwen3-0.6B",
        "method": "grpo",
        "tuning": "lora",
        "beta": 0.1,
        "stack": {"trl": "1.14.0"},
    },
    "grpo-fused": {"model": "Qwen/Qwen3-0.6B", "method": "grpo", "tuning": "full", "stack": {"trl": "1.16.0"}},
    "rlt": {"model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "rlt", "tuning": "lora"},
}


def setting_of(name: str, *, rows: int, prompt: int, completion: int, rank: int) -> Setting:
    settings = dict(RUNS[name])
    if settings["method"] in ("sft", "score"):
        settings["max_seq_length"] = prompt
    else:
        settings |= {"max_prompt_length": prompt, "max_completion_length": completion}
    if settings.get("tuning") == "lora":
        settings["lora_r"] = rank
    if settings["method"] in ("grpo", "rlt"):
        settings |= {"generations": 2, "batch_size": 2 * rows}
    flat = parse_flat(settings | {"per_device_batch_size": rows}, "test")
    return prepare(flat, profile_dirs())[0]


def phases_of(setting: Setting) -> tuple[PhasePlan, ...]:
    return kind_of(setting).phases(setting)


def told(plans: tuple[PhasePlan, ...]) -> list[object]:
    return [
        (replace(plan, passes=()), [(one.events, one.layout.owners, one.layout.pieces) for one in plan.passes])
        for plan in plans
    ]


# On both sides of what the code asks of a size: a row or many, a token, sorted embedding rows, windows, tiles.
SIZES = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([1, 2, 3, 8]),
        "prompt": st.sampled_from([1, 2, 5, 6, 511, 2048, 3072, 3073, 4095, 4096, 4097, 5000]),
        "completion": st.sampled_from([1, 2, 64, 1000, 4096]),
        "rank": st.sampled_from([1, 8, 64]),
    }
)


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(SIZES, min_size=3, max_size=6))
def test_phases_made_again_are_those_of_a_trace(name: str, sizes: list[dict[str, int]]) -> None:
    for one in sizes:
        setting = setting_of(name, **one)
        again = phases_of(setting)
        assert told(again) == told(plan_phases(setting))
        assert all(plan.role in setting.run.roles for plan in again)


def test_the_third_of_a_kind_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"rows": 1, "prompt": 700, "completion": 90, "rank": 4}
    monkeypatch.setattr(kinds, "_kinds", type(kinds._kinds)())
    for length in (700, 710):
        phases_of(setting_of("qlora", **sizes | {"prompt": length}))

    def trace(_setting: Setting) -> tuple[PhasePlan, ...]:
        raise AssertionError("traced")

    monkeypatch.setattr(kinds, "plan_phases", trace)
    (plan,) = phases_of(setting_of("qlora", **sizes | {"prompt": 720, "rows": 2}))
    assert plan.rows == 2
    with pytest.raises(AssertionError, match="traced"):  # another kind
        phases_of(setting_of("full", **sizes))


def test_kinds_are_forgotten_in_the_order_they_were_last_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_kinds", type(kinds._kinds)())
    monkeypatch.setattr(kinds, "MOST_KEPT", 2)
    sizes = {"rows": 1, "prompt": 64, "completion": 8, "rank": 4}
    for name in ("qlora", "full", "qlora", "inference"):
        phases_of(setting_of(name, **sizes))
    kept = list(kinds._kinds.values())
    assert kept == [kind_of(setting_of(name, **sizes)) for name in ("qlora", "inference")]


def test_what_outlives_phases_is_one_for_a_kind() -> None:
    sizes = {"prompt": 700, "completion": 90, "rank": 4}
    one, other = (setting_of("qlora", rows=rows, **sizes) for rows in (1, 3))
    assert kind_of(one).static is kind_of(other).static
    assert kind_of(one).static is not kind_of(setting_of("qlora", rows=1, **sizes | {"rank": 8})).static
    fresh = Static(other)
    for name in ("adapters_bytes", "gradients_bytes", "states_bytes", "step_bytes", "workspace_sizes"):
        assert getattr(kind_of(other).static, name) == getattr(fresh, name)
    assert kind_of(other).static.weight_entries(other.run.trained) == fresh.weight_entries(other.run.trained)


def test_what_is_forgotten_is_gone_without_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_kinds", type(kinds._kinds)())
    monkeypatch.setattr(kinds, "MOST_RECORDINGS", 1)
    sizes = {"rows": 1, "prompt": 64, "completion": 8, "rank": 4}
    windows = [setting_of("windows", **sizes | {"prompt": prompt}) for prompt in (64, 5000, 64, 5000, 64, 5000)]
    for setting in windows:
        phases_of(setting)
    gc.collect()
    gc.disable()
    try:
        for setting in windows:
            phases_of(setting)
        assert gc.collect() == 0
    finally:
        gc.enable()


@given(
    first=st.tuples(st.integers(1, 50), st.integers(1, 50)), second=st.tuples(st.integers(1, 50), st.integers(1, 50))
)
def test_arithmetic_done_again_is_the_arithmetic(first: tuple[int, int], second: tuple[int, int]) -> None:
    def formula(rows: Any, tokens: Any) -> Any:
        total = rows * tokens + 7 - rows // 3 + (100 - tokens) % 9 + -rows
        if total > 60:
            total = total * 2 - min(rows, tokens)
        if tokens == 5 or rows != 1:
            total += 1000 // tokens
        return total + len((None,) * rows) if rows < 3 else total

    recording = Recording(first)
    answer = formula(*recording.inputs)
    assert answer.value == formula(*first)
    assert recording.again(first)[answer.index] == formula(*first)
    again = recording.again(second)
    if again is not None:
        assert again[answer.index] == formula(*second)
    if first == second:
        assert again is not None


def test_a_comparison_that_comes_to_something_else_is_noticed() -> None:
    recording = Recording((10,))
    (size,) = recording.inputs
    assert not size > 512
    double = size * 2
    assert recording.again((500,))[double.index] == 1000
    assert recording.again((513,)) is None


def test_a_size_is_no_key() -> None:
    (size,) = Recording((10,)).inputs
    with pytest.raises(TypeError):
        hash(size)
