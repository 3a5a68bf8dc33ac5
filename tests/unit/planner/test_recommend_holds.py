"""What is given or fixed holds in every run, and what the stack's trainer or engine cannot do is never printed."""

from __future__ import annotations

from typing import Any

import pytest

from vramplan.catalog.dirs import ProfileDirs, shipped_profiles
from vramplan.core.recommendation import Recommendation
from vramplan.errors import DoesNotFitError, UsageError
from vramplan.planner.answer import answer, prepare
from vramplan.planner.preference import Preference
from vramplan.planner.recommend import recommend
from vramplan.runfiles.flat import FlatRun, parse_flat

DIRS = ProfileDirs(shipped=shipped_profiles())
SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen2.5-0.5B",
    "attn_implementation": "sdpa",
    "gradient_checkpointing": True,
    "tuning": "lora",
    "lora_r": 16,
}
GRPO: dict[str, Any] = {**SMALL, "method": "grpo", "gpu": "l4", "stack": {"trl": "1.16.0"}}
ENGINE: dict[str, Any] = {**GRPO, "quantization": "none", "rollout": "vllm-colocate"}
SFT: dict[str, Any] = {**SMALL, "method": "sft", "gpu": "t4"}
UNTUNED: dict[str, Any] = {key: value for key, value in SFT.items() if key not in ("tuning", "lora_r")}


def found_for(settings: dict[str, Any], profile: dict[str, Any] | None = None, **how: Any) -> Recommendation:
    given, under = parse_flat(settings, ""), parse_flat(profile or {}, "")
    return recommend(given, under.merged(given), profile_dirs=DIRS, **how)


def runs_of(found: Recommendation) -> list[FlatRun]:
    assert found.recommended
    return [parse_flat(run.run, run.name) for run in found.recommended]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**ENGINE, "stack": {"trl": "0.15.0"}}, "VP028: trl 0.15.0 has no colocated vLLM"),
        ({**ENGINE, "stack": {"trl": "0.18.0"}, "vllm_sleep": True}, "VP028: trl 0.18.0 cannot put vLLM to sleep"),
        ({**ENGINE, "method": "rlt", "vllm_sleep": True}, "RLT's own vLLM never sleeps"),
        ({**ENGINE, "vllm_max_model_length": 4096, "context": 4096}, "VP006: .* less than prompt and completion, 8192"),
    ],
)
def test_what_the_engine_of_these_versions_cannot_do_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        found_for(settings)


def test_a_freed_rollout_leaves_out_an_engine_that_the_versions_do_not_have() -> None:
    old = {**GRPO, "quantization": "none", "stack": {"trl": "0.15.0"}, "context": 512}
    assert {run.rollout for run in runs_of(found_for(old, free=["rollout"]))} == {"hf"}


def test_rows_are_no_longer_than_the_engine_length_that_is_given() -> None:
    for rollout in ("vllm-colocate", "vllm-server"):
        for run in runs_of(found_for({**ENGINE, "rollout": rollout, "vllm_max_model_length": 4096})):
            assert run.vllm_max_model_length == 4096
            assert prepare(run, DIRS)[0].run.sizes.sequence_length <= 4096


def test_the_engine_length_of_a_file_underneath_follows_the_lengths_that_are_searched() -> None:
    under = {**GRPO, "rollout": "vllm-server", "vllm_max_model_length": 512}
    given = {"model": SMALL["model"], "gpu": "l4", "quantization": "none", "tuning": "lora"}
    assert {run.vllm_max_model_length for run in runs_of(found_for(given, under))} == {None}


def test_a_given_share_holds_the_weights_and_the_rollout() -> None:
    for run in runs_of(found_for({**ENGINE, "model": "Qwen/Qwen2.5-1.5B", "vllm_gpu_memory_utilization": 0.2})):
        setting = prepare(run, DIRS)[0]
        sizes, model = setting.run.sizes, setting.models["model"]
        heads = model.layers[0].attention
        token = len(model.layers) * 2 * heads.num_key_value_heads * heads.head_dim * 2
        needed = 2 * model.num_parameters + sizes.rollout_rows * sizes.sequence_length * token
        assert needed <= 0.2 * setting.gpu.total_bytes


def test_an_engine_that_no_share_holds_is_said_and_no_empty_table_printed() -> None:
    with pytest.raises(DoesNotFitError, match="does not hold its weights"):
        found_for({**ENGINE, "model": "Qwen/Qwen2.5-72B", "gpu": "t4"})


def test_a_wall_counts_what_the_engine_has_to_hold() -> None:
    found = found_for({**ENGINE, "vllm_gpu_memory_utilization": 0.2, "generations": 16})
    (run,) = (parse_flat(one.run, "") for one in found.recommended if one.name == found.walls_of)
    setting = prepare(run, DIRS)[0]
    (wall,) = (wall for wall in found.walls if wall.axis == "context")
    model = setting.models["model"]
    heads = model.layers[0].attention
    token = len(model.layers) * 2 * heads.num_key_value_heads * heads.head_dim * 2
    room = 0.2 * setting.gpu.total_bytes - 2 * model.num_parameters
    assert setting.run.sizes.rollout_rows * 2 * wall.reach * token <= room
    free = found_for({**ENGINE, "generations": 16})
    (far,) = (wall for wall in free.walls if wall.axis == "context")
    (base,) = (parse_flat(one.run, "") for one in free.recommended if one.name == free.walls_of)
    # The engine's length and share at the wall are what the longer rows need, not what the run had.
    longer = FlatRun(context=far.reach, vllm_max_model_length=2 * far.reach)
    assert answer(base.merged(longer), profile_dirs=DIRS).peak.high_bytes <= free.budget_bytes


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({**GRPO, "generations": 7}, "generations"),
        ({**GRPO, "generations": 5, "per_device_batch_size": 3}, "generations"),
        ({**GRPO, "batch_size": 63}, "batch_size"),
        ({**GRPO, "generations": 7, "stack": {"trl": "0.15.0"}}, "generations"),
    ],
)
def test_uneven_groups_that_are_given_find_the_batches_that_hold_them(settings: dict[str, Any], sizes: str) -> None:
    for run in runs_of(found_for({**settings, "quantization": "none", "context": 512})):
        assert getattr(run, sizes) == settings[sizes]
        assert run.batch_size is not None
        assert run.generations is not None
        assert run.batch_size % run.generations == 0


@pytest.mark.parametrize(
    ("settings", "profile", "fix", "key", "value"),
    [
        (UNTUNED, {}, "tuning", "tuning", "full"),
        ({**UNTUNED, "quantization": "nf4"}, {}, "tuning", "tuning", "lora"),
        (SFT, {}, "max_seq_length", "max_seq_length", 1024),  # TRL SFTConfig.max_length
        (SFT, {"context": 640}, "max_seq_length", "max_seq_length", 640),
        ({**SFT, "max_prompt_length": 300}, {}, None, "max_seq_length", 300),  # as estimate counts it
        (ENGINE, {}, "vllm_gpu_memory_utilization", "vllm_gpu_memory_utilization", 0.3),  # TRL's default
        (GRPO, {"context": 768}, "max_prompt_length", "max_prompt_length", 768),
        (GRPO, {"quantization": "nf4"}, "quantization", "quantization", "nf4"),
    ],
)
def test_what_is_fixed_holds_at_what_is_underneath_or_the_default(
    settings: dict[str, Any], profile: dict[str, Any], fix: str | None, key: str, value: object
) -> None:
    found = found_for(settings, profile, fix=[] if fix is None else [fix])
    for run in runs_of(found):
        held = run.given()
        alike = {"max_prompt_length": held.get("context")}  # one word for both where they are the same
        assert held.get(key, alike.get(key)) == value


def test_precisions_of_roles_are_fixed_and_freed_apart() -> None:
    rlt = {"teacher": "Qwen/Qwen2.5-0.5B", "gpu": "l4", "context": 512, "gradient_checkpointing": True}
    apart = found_for(rlt, {"teacher_quantization": "nf4"}, fix=["quantization"])
    assert {(run.teacher_quantization, run.reference_quantization) for run in runs_of(apart)} == {("nf4", "none")}
    one = found_for(rlt, {"quantization": "nf4"}, fix=["teacher_quantization"])
    assert {run.teacher_quantization for run in runs_of(one)} == {"nf4"}
    freed = found_for({**rlt, "quantization": "nf4"}, free=["teacher_quantization"], prefer="quality")
    assert {(run.teacher_quantization, run.reference_quantization) for run in runs_of(freed)} == {("none", "nf4")}
    assert freed.held["quantization"] == "nf4"


def test_a_change_is_one_that_the_trainer_takes() -> None:
    rlt = {"teacher": "Qwen/Qwen2.5-1.5B", "rollout": "vllm-colocate", "gpu_mem": 24, "tuning": "lora"}
    changes = [one for obstacle in found_for(rlt, explain=True).obstacles for one in obstacle.changes]
    assert changes
    assert not any("sleep" in change.what for change in changes)  # RLT's engine never does
    assert not any(change.settings.get("teacher_quantization") == "int8" for change in changes)


def test_a_run_that_is_missing_is_said_to_be() -> None:
    found = found_for({**SFT, "model": "Qwen/Qwen2.5-7B", "quantization": "none", "gpu_mem": 20})
    names = [one.name for one in found.recommended]
    assert names
    for name in {"conservative", "balanced"} - set(names):
        assert any(f"no {name} run" in note for note in found.notes)
    assert len(names) < 3


def test_a_short_completion_is_not_made_up_for_by_a_long_prompt() -> None:
    preference = Preference()
    assert preference.lengths(6144, 256) < preference.lengths(2048, 2048)
    assert preference.lengths(2048, 2048) == preference.lengths(4096, 0)


def test_no_recommended_run_has_longer_rows_or_more_of_them_than_the_whole_frontier() -> None:
    # With adapters on fused experts the arrays say much less than the estimate, and most places are refused.
    found = found_for({**GRPO, "model": "deepseek-ai/DeepSeek-V2-Lite", "gpu": "h100-80gb", "quantization": "none"})
    for flat in runs_of(found):
        sizes = prepare(flat, DIRS)[0].run.sizes
        assert sizes.sequence_length <= max(point.prompt + point.completion for point in found.frontier)
        assert sizes.per_device_batch_size <= max(point.rows for point in found.frontier)
        assert sizes.rollout_rows <= max(point.rollout_rows for point in found.frontier)
