"""Every recommended run is one that the trainer takes and that `estimate` says fits."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.core.recommendation import FrontierPoint, Recommendation, Recommended
from vramplan.core.report import Verdict
from vramplan.errors import UsageError
from vramplan.planner.answer import answer, prepare
from vramplan.planner.preference import PREFERENCES
from vramplan.planner.recommend import recommend
from vramplan.planner.trainer_rules import refusal
from vramplan.runfiles.flat import FlatRun, parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
CASES: dict[str, dict[str, Any]] = {
    "rlt": {
        "teacher": "Qwen/Qwen2.5-1.5B",
        "student": "Qwen/Qwen2.5-0.5B",
        "method": "rlt",
        "gpu_mem": 24,
        "attn_implementation": "sdpa",
        "gradient_checkpointing": True,
    },
    "grpo": {"model": "Qwen/Qwen2.5-0.5B", "method": "grpo", "gpu": "t4", "attn_implementation": "sdpa"},
    "grpo of trl 0.14": {
        "model": "Qwen/Qwen2.5-0.5B",
        "method": "grpo",
        "gpu_mem": 24,
        "tuning": "lora",
        "stack": {"trl": "0.14.0"},
    },
    "vllm": {"model": "Qwen/Qwen2.5-0.5B", "method": "grpo", "gpu_mem": 24, "rollout": "vllm-colocate"},
    "dpo": {"model": "Qwen/Qwen2.5-0.5B", "method": "dpo", "gpu_mem": 24, "quantization": "nf4"},
    "sft": {"model": "meta-llama/Llama-3.2-1B", "method": "sft", "gpu": "t4"},
    "inference": {"model": "google/gemma-2-2b", "gpu": "t4"},
    "experts on disk": {"model": "openai/gpt-oss-20b", "method": "sft", "gpu_mem": 80, "max_seq_length": 2048},
}


@cache
def found_for(name: str, prefer: str | None = None) -> Recommendation:
    flat = parse_flat(CASES[name], name)
    return recommend(flat, flat, profile_dirs=DIRS, prefer=prefer, explain=prefer is None)


def flat_of(run: Recommended | FrontierPoint) -> FlatRun:
    return parse_flat(run.run, "")


def runs_of(name: str) -> tuple[Recommended, ...]:
    return found_for(name).recommended


@pytest.mark.parametrize("name", CASES)
def test_estimate_accepts_every_run_and_says_the_same(name: str) -> None:
    found = found_for(name)
    assert [run.name for run in found.recommended] == ["conservative", "balanced", "aggressive"]
    for run in found.recommended:
        again = answer(flat_of(run), profile_dirs=DIRS)
        assert again.peak == run.report.peak
        assert again.budget is not None
        assert again.budget.verdict is Verdict.FITS
        assert again.budget.bytes == found.budget_bytes
        assert run.margin_bytes == found.budget_bytes - again.peak.device_used_bytes


@pytest.mark.parametrize("name", CASES)
def test_each_run_keeps_its_share_and_sizes_never_shrink(name: str) -> None:
    found = found_for(name)
    conservative, balanced, aggressive = found.recommended
    assert conservative.report.peak.device_used_bytes <= 0.6 * found.budget_bytes
    assert balanced.report.peak.device_used_bytes <= 0.8 * found.budget_bytes
    assert aggressive.report.peak.high_bytes <= found.budget_bytes
    settings = [answer_sizes(run) for run in found.recommended]
    for less, more in itertools.pairwise(settings):
        assert all(one <= other for one, other in zip(less, more, strict=True))


def answer_sizes(run: Recommended) -> tuple[int, int]:
    """Rows of a forward, and tokens of a row."""
    sizes = prepare(flat_of(run), DIRS)[0].run.sizes
    return sizes.per_device_batch_size, sizes.sequence_length


@pytest.mark.parametrize("name", CASES)
def test_what_was_given_holds(name: str) -> None:
    given = parse_flat(CASES[name], name).given()
    for run in runs_of(name):
        settings = flat_of(run).given()
        assert {key: settings.get(key) for key in given} == given


@pytest.mark.parametrize("name", ["rlt", "grpo", "grpo of trl 0.14", "vllm"])
def test_the_trainer_takes_every_run_and_point(name: str) -> None:
    found = found_for(name)
    for flat in (*(flat_of(run) for run in found.recommended), *(flat_of(point) for point in found.frontier)):
        setting = prepare(flat, DIRS)[0]
        run = setting.run
        assert run.training is not None
        refused = refusal(
            run.method,
            setting.stack,
            per_device=flat.per_device_batch_size or 0,
            generations=run.sizes.num_generations,
            accumulation=run.training.gradient_accumulation_steps,
            num_gpus=1,
        )
        assert refused is None
        assert run.sizes.num_generations >= 2
        if run.method.value == "rlt":  # RLT trainers/grpo.py 309-311 and 375-382
            aggregation = run.sizes.rollout_rows // run.sizes.per_device_batch_size
            assert run.training.gradient_accumulation_steps % aggregation == 0
            assert run.sizes.rollout_rows % run.sizes.num_generations == 0
        elif not setting.stack.rows_are_prompts:
            assert run.sizes.batch_size is not None
            assert run.sizes.batch_size % run.sizes.num_generations == 0


def test_an_engine_holds_its_weights_and_every_row_of_the_rollout() -> None:
    for run in runs_of("vllm"):
        setting = prepare(flat_of(run), DIRS)[0]
        sizes, rollout = setting.run.sizes, setting.run.rollout
        assert rollout is not None
        assert flat_of(run).vllm_max_model_length == sizes.sequence_length
        model = setting.models["model"]
        heads = model.layers[0].attention
        token = len(model.layers) * 2 * heads.num_key_value_heads * heads.head_dim * 2
        needed = 2 * model.num_parameters + sizes.rollout_rows * sizes.sequence_length * token
        assert rollout.engine_bytes(setting.gpu.total_bytes) >= needed
        assert not {finding.rule for finding in run.report.warnings} & {"VP006", "VP007", "VP029", "VP030"}


@pytest.mark.parametrize("name", CASES)
def test_no_point_of_the_frontier_beats_another_of_its_precision(name: str) -> None:
    found = found_for(name)
    assert found.frontier
    for point in found.frontier:
        assert point.high_bytes <= found.budget_bytes
        place = (point.prompt + point.completion, point.rows, point.rollout_rows)
        for other in found.frontier:
            theirs = (other.prompt + other.completion, other.rows, other.rollout_rows)
            if other.precision == point.precision and theirs != place:
                assert any(one < another for one, another in zip(theirs, place, strict=True))


@pytest.mark.parametrize("name", ["rlt", "sft", "inference"])
def test_a_wall_is_where_the_run_stops_fitting(name: str) -> None:
    found = found_for(name)
    (run,) = (one for one in found.recommended if one.name == found.walls_of)
    assert found.walls
    for wall in found.walls:
        assert wall.reach >= wall.now
        keys = {key: value for key, value in flat_of(run).given().items() if key != "batch_size"}
        if wall.axis in ("context", "max_seq_length"):
            keys = {key: value for key, value in keys.items() if key not in ("max_prompt_length", "context")}
        there = answer(FlatRun(**{**keys, wall.axis: wall.reach}), profile_dirs=DIRS)
        assert there.peak.high_bytes <= found.budget_bytes
        if wall.next_value is not None:
            beyond = answer(FlatRun(**{**keys, wall.axis: wall.next_value}), profile_dirs=DIRS)
            assert beyond.peak.high_bytes - found.budget_bytes == wall.over_bytes
            assert beyond.peak.phase == wall.phase


def test_what_a_card_has_no_kernels_for_is_not_chosen() -> None:
    flat = parse_flat({"model": "Qwen/Qwen2.5-0.5B", "gpu": "t4", "quantization": "none"}, "")
    found = recommend(flat, flat, profile_dirs=DIRS)
    assert {run.run["attn_implementation"] for run in found.recommended} == {"sdpa"}


def test_more_of_what_is_preferred() -> None:
    plain = {run.name: run for run in found_for("sft").recommended}
    for prefer in PREFERENCES:
        chosen = {run.name: run for run in found_for("sft", prefer).recommended}["aggressive"]
        if prefer == "context":
            assert answer_sizes(chosen)[1] >= answer_sizes(plain["aggressive"])[1]
        if prefer == "batch":
            assert answer_sizes(chosen)[0] >= answer_sizes(plain["aggressive"])[0]
        if prefer == "quality":
            assert chosen.report.models[0].precision == "bf16"


def test_an_obstacle_says_what_would_help_and_by_how_much() -> None:
    found = found_for("rlt")
    assert found.obstacles
    for one in found.obstacles:
        assert one.over_bytes > 0
        assert [change.fits for change in one.changes] == sorted((change.fits for change in one.changes), reverse=True)
        assert all(change.freed_bytes > 0 for change in one.changes)


def test_where_nothing_fits_the_closest_is_named_and_what_would_change_it() -> None:
    flat = parse_flat({"model": "Qwen/Qwen2.5-7B", "method": "sft", "tuning": "full", "gpu_mem": 24}, "")
    found = recommend(flat, flat, profile_dirs=DIRS)
    assert found.recommended == ()
    assert found.closest is not None
    assert found.missing_bytes == found.closest.report.peak.high_bytes - found.budget_bytes > 0
    (one,) = found.obstacles
    assert any(change.fits and "LoRA" in change.what for change in one.changes)


def test_axes_are_freed_and_fixed_by_name() -> None:
    base = {"model": "Qwen/Qwen2.5-0.5B", "method": "sft", "gpu": "t4"}
    given = parse_flat(base | {"quantization": "nf4", "max_seq_length": 512}, "")
    held = recommend(given, given, profile_dirs=DIRS)
    assert {run.report.models[0].precision.partition(" ")[0] for run in held.recommended} == {"nf4"}
    freed = recommend(given, given, profile_dirs=DIRS, free=["quantization"], prefer="quality")
    assert {run.report.models[0].precision for run in freed.recommended} == {"bf16"}
    fixed = recommend(parse_flat(base, ""), parse_flat(base, ""), profile_dirs=DIRS, fix=["per_device_batch_size"])
    assert {flat_of(run).per_device_batch_size for run in fixed.recommended} == {8}  # transformers' default


@pytest.mark.parametrize(
    ("settings", "free", "fix", "message"),
    [
        ({"gpu_mem": 24}, ["contxt"], [], "'contxt' is no setting"),
        ({"gpu_mem": 24}, ["context"], ["context"], "context is both freed and fixed"),
        ({}, [], [], "needs a budget"),
        ({"gpu_mem": 24, "tuning": "full", "quantization": "int8"}, [], [], "VP001"),
        ({"gpu_mem": 24, "batch_size": 7, "per_device_batch_size": 2}, [], [], "no batch of these sizes"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, Any], free: list[str], fix: list[str], message: str) -> None:
    flat = parse_flat({"model": "Qwen/Qwen2.5-0.5B", "method": "sft"} | settings, "")
    with pytest.raises(UsageError, match=message):
        recommend(flat, flat, profile_dirs=DIRS, free=free, fix=fix)
