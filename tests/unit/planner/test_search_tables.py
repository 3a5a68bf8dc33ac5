"""Vectorised and single answers are the same to the byte: one set of formulas, evaluated twice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.core.report import Component
from vramplan.core.run import Lora, Sizes
from vramplan.formula.estimate import estimate
from vramplan.formula.phases import plan_own_phases, rollout_plans
from vramplan.formula.setting import Setting
from vramplan.planner.answer import prepare
from vramplan.planner.preference import Preference
from vramplan.planner.search.batches import batches_of
from vramplan.planner.search.best import Cell, Search
from vramplan.planner.search.families import Ground
from vramplan.planner.search.tables import Points, own_peaks, rollout_peaks
from vramplan.planner.space import space_of
from vramplan.runfiles.flat import FlatRun, parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())

RUNS: dict[str, dict[str, Any]] = {
    "rlt 8-bit": {"run": "rlt-85gb-conservative", "gpu": "h100-80gb"},
    "rlt 16-bit eager": {"quantization": "none", "attn_implementation": "eager"},
    "grpo sliding window": {"model": "google/gemma-2-2b", "method": "grpo", "tuning": "lora"},
    "grpo fp32 on a T4": {"model": "google/gemma-2-2b", "method": "grpo", "dtype": "fp32", "gpu": "t4"},
    "grpo of trl 0.14": {"model": "Qwen/Qwen3-30B-A3B", "method": "grpo", "stack": {"trl": "0.14.0"}, "tuning": "lora"},
    "grpo of trl 1.14": {"model": "Qwen/Qwen2.5-0.5B", "method": "grpo", "stack": {"trl": "1.14.0"}, "tuning": "full"},
    "dpo of latents": {"model": "deepseek-ai/DeepSeek-V2-Lite", "method": "dpo", "tuning": "lora"},
    "inference in a window": {"model": "mistralai/Mistral-7B-v0.1"},
    "sft": {"model": "gpt2", "method": "sft"},
    "sft of experts on disk": {"model": "openai/gpt-oss-20b", "method": "sft", "tuning": "lora"},
    "qlora": {"model": "meta-llama/Llama-3.1-8B", "method": "sft", "quantization": "nf4", "stack": {"trl": "1.16.0"}},
    "score of falcon": {"model": "tiiuae/falcon-7b", "method": "score"},
    "grouped heads on a T4": {"model": "bigcode/gpt_bigcode-santacoder", "method": "sft", "gpu": "t4"},
    "phi": {"model": "microsoft/Phi-3-mini-4k-instruct", "method": "dpo", "attn_implementation": "flash_attention_2"},
}


@cache
def setting_of(name: str) -> Setting:
    asked = RUNS[name]
    if "model" not in asked:
        profile = {"teacher": "Qwen/Qwen2.5-7B", "student": "Qwen/Qwen2.5-0.5B", "method": "rlt", "tuning": "lora"}
        asked = profile | {key: value for key, value in asked.items() if key != "run"}
    return prepare(parse_flat(asked, name), DIRS)[0]


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_phase_is_the_same_alone_and_in_a_grid(name: str, data: st.DataObject) -> None:
    setting = setting_of(name)
    lengths = st.one_of(st.integers(1, 6000), st.sampled_from([2, 16, 1024, 4096, 4097, 8192]))
    sizes = st.tuples(st.integers(1, 9), lengths, lengths, st.sampled_from([1, 8, 33]))
    drawn = data.draw(st.lists(sizes, min_size=1, max_size=6))
    one_length = not setting.run.sizes.max_completion_length
    columns = np.array(drawn, dtype=np.int64).T
    points = Points(
        rows=columns[0],
        prompt=columns[1] + 2,
        completion=columns[2] * (not one_length),
        ranks=columns[3],
    )
    own, rollout = own_peaks(setting, points), rollout_peaks(setting, points)
    for index, (rows, prompt, completion, rank) in enumerate(drawn):
        single = _at(setting, rows, prompt + 2, 0 if one_length else completion, rank)
        for plan in plan_own_phases(single):
            assert own[plan.name][index] == max(one.level({}).peak_bytes for one in plan.passes), plan.name
        for plan in rollout_plans(single):
            assert rollout[index] == max((one.level({}).peak_bytes for one in plan.passes), default=0)


def _at(setting: Setting, rows: int, prompt: int, completion: int, rank: int) -> Setting:
    sizes = Sizes(
        per_device_batch_size=rows,
        batch_size=None,
        num_generations=1,
        rollout_rows=rows,
        max_prompt_length=prompt,
        max_completion_length=completion,
    )
    run = replace(setting.run, sizes=sizes)
    training = run.training
    if training is not None and training.lora is not None:
        lora = Lora(r=rank, target_modules=training.lora.target_modules, dtype=training.lora.dtype)
        run = replace(run, training=replace(training, lora=lora))
    return Setting(run=run, models=setting.models, stack=setting.stack, gpu=setting.gpu)


SEARCHES: dict[str, dict[str, Any]] = {
    "rlt": {
        "teacher": "Qwen/Qwen2.5-1.5B",
        "student": "Qwen/Qwen2.5-0.5B",
        "reference": "Qwen/Qwen2.5-1.5B",
        "method": "rlt",
        "gpu_mem": 24,
        "attn_implementation": "sdpa",
    },
    "grpo": {"model": "Qwen/Qwen2.5-0.5B", "method": "grpo", "gpu": "t4", "beta": 0.04},
    "vllm": {"model": "Qwen/Qwen2.5-0.5B", "method": "grpo", "gpu_mem": 24, "rollout": "vllm-colocate"},
    "dpo": {"model": "Qwen/Qwen2.5-0.5B", "method": "dpo", "gpu_mem": 24},
    "sft": {"model": "Qwen/Qwen2.5-0.5B", "method": "sft", "gpu_mem": 24},
    "zero": {"model": "Qwen/Qwen2.5-7B", "method": "sft", "gpu_mem": 80, "num_gpus": 4, "sharding": "zero3"},
    "inference": {"model": "google/gemma-2-2b", "gpu": "t4"},
}


@cache
def search_of(name: str) -> Search:
    flat = parse_flat(SEARCHES[name], name)
    bare = FlatRun(**{key: value for key, value in flat.given().items() if key != "rollout"})
    setting = prepare(bare, DIRS)[0]
    ground = Ground(models=setting.models, stack=setting.stack, gpu=setting.gpu)
    roles = dict.fromkeys((role.name for role in setting.run.roles), False)
    space = space_of(flat, flat, roles, free=(), fix=(), limit=8192, flash_runs=True, engine_sleeps=True)
    preference = Preference()
    gpus = setting.run.sharding.num_gpus
    return Search(space, ground, batches_of(space, ground.stack, gpus, preference), preference)


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_candidate_of_the_arrays_is_the_estimate_of_its_run(name: str, data: st.DataObject) -> None:
    search = search_of(name)
    family = data.draw(st.integers(0, len(search.families) - 1))
    possible = np.argwhere(search.lower(family) < 2**60)
    row, rollout_row, length, rank = map(int, possible[data.draw(st.integers(0, len(possible) - 1))])
    cell = Cell(family=family, row=row, rollout_row=rollout_row, length=length, rank=rank)
    setting = search.ground.setting(search.flat(cell))
    wanted = max(
        phase.allocated_bytes + phase.component_bytes(Component.ROLLOUT_ENGINE) for phase in estimate(setting).phases
    )
    found = int(search.lower(family)[row, rollout_row, length, rank]) - setting.gpu.context_bytes
    assert found == wanted


def test_what_the_arrays_leave_out_only_adds() -> None:
    search = search_of("grpo")
    for family in range(0, len(search.families), 5):
        lower = search.lower(family)
        cell = search._cell(family, int(lower.argmin()), lower.shape)
        assert search.answer(cell).device_used_bytes >= int(lower.min())
